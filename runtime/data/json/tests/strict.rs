//! Bad input, row by row of the reliability table, and the forms of good input that must not matter.

mod payment;

use std::collections::BTreeMap;

use compact_str::CompactString;
use highwater_derive::{FromJson, ToJson};
use highwater_json::{Cents, DEPTH_MAX, Fault, FromJson as _, JsonError, Scratch, ToJson as _};
use highwater_types::{Classified, ErrorKind, EventTime};
use payment::{PAYMENT, Payment, Status, read};

#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
struct Everything {
    tiny: i8,
    unsigned: u64,
    flag: bool,
    ratio: f32,
    #[json(rename = "naïve \"key\"\n")]
    odd: String,
    maybe: Option<i32>,
    list: Vec<Inner>,
    by_name: BTreeMap<String, Vec<u16>>,
    #[json(default = 7)]
    seven: u8,
    #[json(default)]
    text: String,
    #[json(with = "event_time")]
    at_ms: i64,
    #[json(with = "epoch_ms")]
    sent: EventTime,
    #[json(with = "cents")]
    fee: i64,
    price: Cents,
    code: Code,
    #[json(skip)]
    cached: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
#[json(rename_all = "camelCase")]
struct Inner {
    first_name: CompactString,
    next_inner: Option<Box<Self>>,
}

#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
#[json(rename_all = "kebab-case")]
enum Code {
    VeryGood,
    #[json(rename = "b a d")]
    Bad,
    #[json(other)]
    Unknown(CompactString),
}

#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
struct CardId(Option<CompactString>);

#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
struct Empty {}

#[derive(Clone, Debug, PartialEq, FromJson)]
struct Holder {
    card: CardId,
    region: Region,
}

#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
enum Region {
    North,
    South,
}

fn payment() -> Payment {
    Payment {
        event_time: EventTime(1_767_225_600_000),
        user_id: "u123456".into(),
        amount: 12.34,
        status: Status::Approved,
        card_id: None,
    }
}

fn value(text: &str) -> Payment {
    read(text.as_bytes()).expect("a valid payment").0
}

fn error(text: impl AsRef<[u8]>) -> JsonError {
    read(text.as_ref()).expect_err("a bad payment")
}

fn with(member: &str) -> String {
    PAYMENT.replace("\"amount\":12.34", member)
}

#[track_caller]
fn refused(text: impl AsRef<[u8]>, path: &str, part: &str) {
    let error = error(text);
    assert_eq!(error.path(), path, "{error}");
    assert!(error.to_string().contains(part), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_word_that_is_not_ascii_is_told_in_ascii() {
    let error = read(b"A\xc2\x80").unwrap_err().to_string();
    assert!(
        error.contains(r"`A\xc2\x80`") && error.is_ascii(),
        "{error}"
    );
}

#[test]
fn payment_is_read() {
    assert_eq!(value(PAYMENT), payment());
}

#[test]
fn spaces_order_and_escapes_do_not_matter() {
    for text in [
        "{ \"event_time\" : 1767225600000 ,\n\t\"user_id\": \"u123456\", \"amount\": 12.34, \"status\": \"APPROVED\" }\r\n",
        r#"{"event_time": "2026-01-01T00:00:00.000Z", "user_id": "u123456", "amount": 12.34, "status": "APPROVED"}"#,
        r#"{"status":"APPROVED","amount":1.234e1,"user_id":"u12345\u0036","event_time":"2026-01-01T00:00:00Z"}"#,
        r#"{"event_time":"2026-01-01T01:00:00+01:00","user\u005fid":"u123456","amount":12.340,"status":"\u0041PPROVED"}"#,
        r#"{"event_time":1767225600000,"card_id":null,"user_id":"u123456","amount":12.34,"status":"APPROVED"}"#,
    ] {
        assert_eq!(value(text), payment(), "{text}");
    }
}

#[test]
fn row_01_text_that_is_no_json_is_refused() {
    for text in ["", " ", "\n\t \r"] {
        refused(text, "", "the record is empty");
    }
    refused("\u{feff}", "", "the record is empty");
    refused("payment", "", "an object is expected, found `payment`");
    // The first letter of a word does not make it a boolean or null.
    refused(
        "this is no order",
        "",
        "an object is expected, found `this`",
    );
    refused("no order", "", "an object is expected, found `no`");
    refused("falsey", "", "an object is expected, found `falsey`");
    refused("true, then", "", "an object is expected, found a boolean");
    refused("null", "", "an object is expected, found null");
    refused("{", "", "found the end");
    refused("{]", "", "a key in quotes is expected");
    refused(
        "{,\"user_id\":\"u\"}",
        "",
        "a key in quotes is expected, found byte 0x2c",
    );
    refused(
        PAYMENT.replace("{\"event", "{,\"event"),
        "",
        "a key in quotes",
    );
    refused(
        PAYMENT.replace("\"}", "\",}"),
        "",
        "a key in quotes is expected",
    );
    refused(
        PAYMENT.replace(",\"amount\"", " \"amount\""),
        "",
        "a comma or a closing brace",
    );
    refused(
        PAYMENT.replace("\"amount\":", "\"amount\" "),
        "",
        "a colon behind the key",
    );
    refused(&PAYMENT[..PAYMENT.len() - 1], "", "found the end");
    refused(&PAYMENT[..PAYMENT.len() - 2], "status", "found the end");
    refused(format!("{PAYMENT}x"), "", "has ended, but `x` follows");
    refused(
        format!("{PAYMENT}{PAYMENT}"),
        "",
        "has ended, but an object follows",
    );
    refused("{'user_id':1}", "", "a key in quotes");
}

#[test]
fn row_02_valid_json_of_another_shape_is_refused() {
    refused("[1,2]", "", "an object is expected, found an array");
    refused("null", "", "an object is expected, found null");
    refused("\"text\"", "", "an object is expected, found a string");
}

#[test]
fn row_03_of_a_repeated_key_the_last_value_stays_and_is_counted() {
    let text = PAYMENT.replace(
        "\"}",
        "\",\"amount\":1,\"amount\":2.5,\"card_id\":\"c\",\"card_id\":null}",
    );
    let (payment, counters) = read(text.as_bytes()).unwrap();
    assert_eq!((payment.amount, payment.card_id), (2.5, None));
    assert_eq!(counters.repeated_keys, 3);
    let text = r#"{"card":"a","region":"North","card":"b"}"#;
    let holder = Holder::from_json(text.as_bytes(), &mut Scratch::new()).unwrap();
    assert_eq!(holder.card, CardId(Some("b".into())));
}

#[test]
fn row_04_deep_nesting_is_refused_in_bounded_stack() {
    let nested = |depth: usize| with(&format!("\"x\":{}{}", "[".repeat(depth), "]".repeat(depth)));
    refused(nested(10_000), "", "deeper than 128 levels");
    refused(nested(DEPTH_MAX), "", "deeper than 128 levels");
    refused(nested(DEPTH_MAX - 1), "amount", "is missing");
    let objects = |depth: usize| {
        let open = r#"{"firstName":"a","nextInner":"#.repeat(depth);
        format!("{open}null{}", "}".repeat(depth))
    };
    let read = |depth| Inner::from_json(objects(depth).as_bytes(), &mut Scratch::new());
    assert!(read(DEPTH_MAX).is_ok());
    let fault = Fault::Depth { limit: DEPTH_MAX };
    assert_eq!(read(DEPTH_MAX + 1).unwrap_err().fault(), &fault);
    assert_eq!(read(100_000).unwrap_err().fault(), &fault);
}

#[test]
fn row_05_numbers_never_wrap() {
    for text in ["1e400", "-1e400", "1e999999999999999999999"] {
        refused(
            with(&format!("\"amount\":{text}")),
            "amount",
            "does not fit f64",
        );
    }
    for text in ["NaN", "Infinity", "-Infinity", "+1", ".5", "nan"] {
        let error = error(with(&format!("\"amount\":{text}")));
        assert_eq!(error.path(), "amount", "{error}");
    }
    for (text, part) in [
        ("1.", "a digit"),
        ("01", "leading zeros"),
        ("-", "a digit"),
        ("1e", "a digit"),
        ("-01", "leading zeros"),
        ("1e+", "a digit"),
    ] {
        refused(with(&format!("\"amount\":{text}")), "amount", part);
    }
    for text in ["0x10", "1_000", "1f"] {
        refused(
            with(&format!("\"amount\":{text}")),
            "",
            "a comma or a closing brace",
        );
    }
    let amount = |text: &str| value(&with(&format!("\"amount\":{text}"))).amount;
    assert!(amount("-0").is_sign_negative() && amount("-0").abs() < f64::MIN_POSITIVE);
    assert!((amount("1e308") - 1e308).abs() < f64::EPSILON);
    assert!(amount("1e-400").abs() < f64::MIN_POSITIVE);
}

#[test]
fn row_05_integers_keep_to_their_range() {
    fn read<T: highwater_json::FromJson>(text: &str) -> Result<T, JsonError> {
        T::from_json(text.as_bytes(), &mut Scratch::new())
    }
    assert_eq!(read("-128"), Ok(i8::MIN));
    assert_eq!(read("127"), Ok(i8::MAX));
    assert_eq!(read("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(read("-9223372036854775808"), Ok(i64::MIN));
    assert_eq!(read("-0"), Ok(0u8));
    for text in [
        "128",
        "-129",
        "99999999999999999999999999999999999999999999",
    ] {
        let error = read::<i8>(text).unwrap_err();
        assert!(
            matches!(error.fault(), Fault::OutOfRange { target: "i8", .. }),
            "{error}"
        );
    }
    assert!(read::<u64>("18446744073709551616").is_err());
    assert!(read::<u64>("-1").is_err());
    assert!(read::<i64>("9223372036854775808").is_err());
    for text in ["1.0", "1e2", "1E0"] {
        let message = read::<i64>(text).unwrap_err().to_string();
        assert!(message.contains("a fraction or an exponent"), "{message}");
    }
    assert!(read::<f32>("1e39").is_err());
    assert_eq!(read("16777217"), Ok(16_777_216.0f32));
}

#[test]
fn row_07_types_are_not_coerced() {
    refused(
        with("\"amount\":\"12.34\""),
        "amount",
        "a number is expected, found a string",
    );
    refused(
        with("\"amount\":true"),
        "amount",
        "a number is expected, found a boolean",
    );
    refused(
        with("\"amount\":[1]"),
        "amount",
        "a number is expected, found an array",
    );
    let text = PAYMENT.replace("\"u123456\"", "123456");
    refused(text, "user_id", "a string is expected, found a number");
    let text = PAYMENT.replace("\"APPROVED\"", "1");
    refused(text, "status", "a string is expected, found a number");
    let error = bool::from_json(b"\"true\"", &mut Scratch::new()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a boolean is expected, found a string")
    );
    for text in ["tru", "truE", "nul", "falsey"] {
        assert!(bool::from_json(text.as_bytes(), &mut Scratch::new()).is_err());
    }
}

#[test]
fn row_08_missing_fields_are_none_or_refused_and_extra_fields_are_counted() {
    refused(
        with("\"total\":1"),
        "amount",
        "is missing and has no default",
    );
    refused("{}", "event_time", "is missing");
    let text =
        with(r#""a":{"b":[1,-2.5e3,"x\n",{},[],null,true,{"c":{}}]},"amount":12.34,"d":null"#);
    let (read, counters) = read(text.as_bytes()).unwrap();
    assert_eq!(read, payment());
    assert_eq!(counters.unknown_fields, 2);
    let holder = Holder::from_json(br#"{"region":"South"}"#, &mut Scratch::new()).unwrap();
    assert_eq!(
        holder.card,
        CardId(None),
        "a newtype is absent as its field is"
    );
}

#[test]
fn row_08_skipped_values_are_checked_all_the_same() {
    for (value, part) in [
        ("[1,]", "a value is expected"),
        ("[1 2]", "a comma or a closing bracket"),
        ("{\"a\"}", "a colon"),
        ("{\"a\":}", "a value is expected"),
        ("{1:2}", "a key in quotes"),
        ("[1}", "a comma or a closing bracket"),
        ("[nul]", "null is expected"),
        ("\"\\x\"", "no such escape"),
        ("NaN", "a value is expected"),
        ("01", "leading zeros"),
        ("", "a value is expected"),
    ] {
        refused(with(&format!("\"x\":{value}")), "", part);
    }
}

#[test]
fn row_09_null_for_a_required_field_is_refused() {
    refused(
        with("\"amount\":null"),
        "amount",
        "a number is expected, found null",
    );
    refused(
        PAYMENT.replace("\"u123456\"", "null"),
        "user_id",
        "a string is expected, found null",
    );
}

#[test]
fn row_11_bytes_that_are_not_utf8_are_refused_where_they_are() {
    let mut bytes = PAYMENT.as_bytes().to_vec();
    let at = PAYMENT.find("u123").unwrap();
    bytes[at] = 0xff;
    let error = error(&bytes);
    assert_eq!((error.fault(), error.offset()), (&Fault::Utf8, at));
    assert!(error.excerpt().contains(r#""user_id":"\xff123456""#));
}

#[test]
fn row_12_text_round_trips_exactly() {
    let user = |text: &str| {
        read(PAYMENT.replace("u123456", text).as_bytes()).map(|(payment, _)| payment.user_id)
    };
    for (written, text) in [
        ("😀", "😀"),
        (r"\ud83d\ude00", "😀"),
        (r"\u0000", "\0"),
        (r"\uFEFF\u00e9", "\u{feff}é"),
        (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
        ("plain \u{7f}", "plain \u{7f}"),
        (
            r"123456789012345678901234567890\n",
            "123456789012345678901234567890\n",
        ),
    ] {
        assert_eq!(user(written).as_deref(), Ok(text));
    }
    for (written, part) in [
        (r"\ud83d", "a high surrogate stands alone"),
        (r"\ud83d\n", "a high surrogate stands alone"),
        (r"\ud83d\u0041", "a high surrogate stands alone"),
        (r"\ude00", "a low surrogate stands alone"),
        (r"\u12g4", "four hexadecimal digits"),
        (r"\u+123", "four hexadecimal digits"),
        (r"\u12", "four hexadecimal digits"),
        (r"\a", "no such escape"),
        ("\0", "control characters escaped"),
        ("a\n", "control characters escaped"),
    ] {
        let error = user(written).unwrap_err();
        assert_eq!(error.path(), "user_id");
        assert!(error.to_string().contains(part), "{written}: {error}");
    }
    assert_eq!(
        value(&format!("\u{feff}{PAYMENT}")),
        payment(),
        "a byte order mark"
    );
    let utf16: Vec<u8> = PAYMENT.encode_utf16().flat_map(u16::to_le_bytes).collect();
    refused(utf16, "", "a key in quotes");
}

#[test]
fn row_13_huge_record_costs_no_more_than_itself_and_errors_stay_short() {
    let text = with(&format!("\"amount\":\"{}\"", "x".repeat(1 << 20)));
    let error = error(text);
    assert!(error.to_string().len() < 400);
    assert!(error.excerpt().ends_with("..."));
}

#[test]
fn row_18_times_before_1970_are_times() {
    let text = PAYMENT.replace("2026-01-01T00", "1969-12-31T23");
    assert_eq!(value(&text).event_time, EventTime(-3_600_000));
    refused(
        PAYMENT.replace("2026-01-01T", "2026-02-30T"),
        "event_time",
        "no such day",
    );
}

#[test]
fn unknown_text_goes_to_the_catch_all_or_is_refused_with_the_known_ones() {
    assert_eq!(
        value(&PAYMENT.replace("APPROVED", "PENDING")).status,
        Status::Other
    );
    assert_eq!(
        value(&PAYMENT.replace("APPROVED", "approved")).status,
        Status::Other
    );
    let text = br#"{"card":null,"region":"East"}"#;
    let error = Holder::from_json(text, &mut Scratch::new()).unwrap_err();
    let expected = "field region, byte 22: the text \"East\" is none of North, South";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.excerpt(), r#"{"card":null,"region":"East"}"#);
}

#[test]
fn error_names_the_way_to_the_field_and_the_byte() {
    let text = br#"{"firstName":"a","nextInner":{"firstName":"b","nextInner":{"firstName":5}}}"#;
    let error = Inner::from_json(text, &mut Scratch::new()).unwrap_err();
    assert_eq!(error.path(), "nextInner.nextInner.firstName");
    assert_eq!(text[error.offset()], b'5');
    let error = Vec::<Vec<u8>>::from_json(b"[[1],[2,300]]", &mut Scratch::new()).unwrap_err();
    assert_eq!((error.path(), error.offset()), ("[1][1]", 8));
}

fn everything() -> Everything {
    Everything {
        tiny: -5,
        unsigned: u64::MAX,
        flag: true,
        ratio: 0.1,
        odd: "line\nbreak".to_owned(),
        maybe: None,
        list: vec![Inner {
            first_name: "a".into(),
            next_inner: Some(Box::new(Inner {
                first_name: "b".into(),
                next_inner: None,
            })),
        }],
        by_name: BTreeMap::from([("é".to_owned(), vec![1, 2]), (String::new(), vec![])]),
        seven: 8,
        text: "x".to_owned(),
        at_ms: 1,
        sent: EventTime(2),
        fee: -305,
        price: Cents(1_999),
        code: Code::Unknown("odd".into()),
        cached: None,
    }
}

#[test]
fn every_field_type_is_written_as_documented_and_reads_back() {
    let mut out = Vec::new();
    everything().to_json(&mut out);
    let expected = concat!(
        r#"{"tiny":-5,"unsigned":18446744073709551615,"flag":true,"ratio":0.1,"#,
        r#""naïve \"key\"\n":"line\nbreak","maybe":null,"#,
        r#""list":[{"firstName":"a","nextInner":{"firstName":"b","nextInner":null}}],"#,
        r#""by_name":{"":[],"é":[1,2]},"seven":8,"text":"x","#,
        r#""at_ms":"1970-01-01T00:00:00.001Z","sent":2,"fee":-3.05,"price":19.99,"code":"odd"}"#,
    );
    assert_eq!(std::str::from_utf8(&out), Ok(expected));
    let mut scratch = Scratch::new();
    assert_eq!(Everything::from_json(&out, &mut scratch), Ok(everything()));
    assert_eq!(scratch.counters(), highwater_json::Counters::default());
}

#[test]
fn defaults_stand_for_absent_fields_only() {
    let mut out = Vec::new();
    everything().to_json(&mut out);
    let text = String::from_utf8(out).unwrap();
    let without = text.replace(r#","seven":8,"text":"x""#, "");
    let read = |text: &str| Everything::from_json(text.as_bytes(), &mut Scratch::new());
    let found = read(&without).unwrap();
    assert_eq!((found.seven, found.text.as_str()), (7, ""));
    let error = read(&text.replace("\"seven\":8", "\"seven\":null")).unwrap_err();
    assert_eq!(error.path(), "seven");
    let error = read(&text.replace(r#","fee":-3.05"#, "")).unwrap_err();
    assert_eq!((error.path(), error.fault()), ("fee", &Fault::Missing));
}

#[test]
fn enum_text_follows_its_case_and_names() {
    for (code, text) in [
        (Code::VeryGood, "\"very-good\""),
        (Code::Bad, "\"b a d\""),
        (Code::Unknown("\u{1}\"".into()), r#""\u0001\"""#),
    ] {
        let mut out = Vec::new();
        code.to_json(&mut out);
        assert_eq!(std::str::from_utf8(&out), Ok(text));
        assert_eq!(Code::from_json(&out, &mut Scratch::new()), Ok(code));
    }
}

#[test]
fn empty_object_and_non_finite_floats_have_a_form() {
    let mut out = Vec::new();
    Empty {}.to_json(&mut out);
    assert_eq!(out, b"{}");
    let mut scratch = Scratch::new();
    assert_eq!(Empty::from_json(br#"{"a":1}"#, &mut scratch), Ok(Empty {}));
    assert_eq!(scratch.counters().unknown_fields, 1);
    out.clear();
    [f64::NAN, f64::INFINITY, 1e300, -0.0, 1.0].to_json(&mut out);
    assert_eq!(out, b"[null,null,1e300,-0.0,1.0]");
}
