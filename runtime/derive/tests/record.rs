//! `#[derive(Record)]`: schema and codec of every form of struct and enum.

use compact_str::CompactString;
use highwater_derive::Record;
use highwater_types::schema::Variant;
use highwater_types::{DataType, DecodeError, EventTime, Field, Record as _};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq, Record)]
struct Payment {
    event_time: EventTime,
    user_id: CompactString,
    #[record(default = 1.5)]
    amount: f64,
    #[record(rename = "state", default)]
    status: Status,
    #[record(default)]
    card_id: Option<CompactString>,
    tags: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Record)]
#[record(rename = "PaymentStatus")]
enum Status {
    #[default]
    Approved,
    #[record(rename = "Refused")]
    Declined = 40,
    Other,
}

#[derive(Clone, Debug, PartialEq, Record)]
enum Shape {
    Empty,
    Circle(f64),
    Square { side: u32, label: String },
}

#[derive(Clone, Debug, PartialEq, Record)]
struct Pair<A, B = u8>(A, B);

#[derive(Clone, Debug, PartialEq, Record)]
struct Marker;

#[derive(Clone, Debug, PartialEq, Record)]
struct Fixed<const N: usize> {
    r#type: u8,
}

fn encoded<T: highwater_types::Record>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

fn round_trips<T: highwater_types::Record + PartialEq + std::fmt::Debug>(value: &T) {
    let mut bytes = encoded(value);
    bytes.extend_from_slice(b"next");
    let mut input = bytes.as_slice();
    assert_eq!(T::decode(&mut input).as_ref(), Ok(value));
    assert_eq!(input, b"next", "exactly the encoded bytes are consumed");
}

fn payment() -> Payment {
    Payment {
        event_time: EventTime(7),
        user_id: "u1".into(),
        amount: 2.5,
        status: Status::Declined,
        card_id: Some("card".into()),
        tags: vec!["a".to_owned()],
    }
}

fn field(name: &str, data_type: DataType, default: Option<&[u8]>) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
        default: default.map(<[u8]>::to_vec),
    }
}

#[test]
fn struct_encodes_its_fields_in_order_and_nothing_else() {
    let mut expected = 7i64.to_le_bytes().to_vec();
    expected.extend_from_slice(b"\x02u1");
    expected.extend_from_slice(&2.5f64.to_le_bytes());
    expected.push(1);
    expected.extend_from_slice(b"\x01\x04card");
    expected.extend_from_slice(b"\x01\x01a");
    assert_eq!(encoded(&payment()), expected);
    round_trips(&payment());
}

#[test]
fn schema_names_fields_and_holds_encoded_defaults() {
    let status = Status::data_type();
    let text = || DataType::Utf8;
    let expected = DataType::Struct {
        name: "Payment".to_owned(),
        fields: vec![
            field("event_time", DataType::I64, None),
            field("user_id", text(), None),
            field("amount", DataType::F64, Some(&1.5f64.to_le_bytes())),
            field("state", status, Some(&[0])),
            field("card_id", DataType::Optional(Box::new(text())), Some(&[0])),
            field("tags", DataType::List(Box::new(text())), None),
        ],
    };
    assert_eq!(Payment::data_type(), expected);
}

#[test]
fn enum_schema_counts_variants_in_order_of_declaration() {
    let variant = |name: &str, fields| Variant {
        name: name.to_owned(),
        fields,
    };
    let expected = DataType::Enum {
        name: "PaymentStatus".to_owned(),
        variants: vec![
            variant("Approved", vec![]),
            variant("Refused", vec![]),
            variant("Other", vec![]),
        ],
    };
    assert_eq!(Status::data_type(), expected);
    assert_eq!(
        encoded(&Status::Declined),
        [1],
        "the discriminant is not stored"
    );
    let DataType::Enum { variants, .. } = Shape::data_type() else {
        panic!("an enum");
    };
    assert_eq!(variants[1].fields, [field("0", DataType::F64, None)]);
    assert_eq!(
        variants[2].fields,
        [
            field("side", DataType::U32, None),
            field("label", DataType::Utf8, None)
        ]
    );
}

#[test]
fn schema_text_is_pinned() {
    assert_eq!(
        Payment::schema().to_string(),
        "Payment {event_time: i64, user_id: text, amount: f64, state: PaymentStatus \
         <Approved {} | Refused {} | Other {}>, card_id: optional<text>, tags: list<text>}"
    );
}

#[test]
fn every_form_round_trips() {
    for shape in [
        Shape::Empty,
        Shape::Circle(1.0),
        Shape::Square {
            side: 3,
            label: "x".to_owned(),
        },
    ] {
        round_trips(&shape);
    }
    round_trips(&Pair(1u16, "text".to_owned()));
    round_trips(&Pair(Some(Status::Other), 9u8));
    round_trips(&Marker);
    round_trips(&Fixed::<3> { r#type: 4 });
    assert_eq!(encoded(&Marker), b"");
}

#[test]
fn raw_identifier_loses_its_mark() {
    assert_eq!(Fixed::<3>::schema().to_string(), "Fixed {type: u8}");
}

#[test]
fn unknown_variant_is_corrupt_and_named() {
    let error = Status::decode(&mut [3u8].as_slice()).unwrap_err();
    let expected = DecodeError::Value {
        what: "PaymentStatus",
        value: 3,
    };
    assert_eq!(error, expected);
    assert!(matches!(
        Shape::decode(&mut [].as_slice()),
        Err(DecodeError::Truncated { .. })
    ));
}

#[test]
fn heap_bytes_add_up_over_fields() {
    let long = "x".repeat(100);
    let mut payment = payment();
    let tags = payment.tags.heap_bytes();
    assert_eq!(payment.heap_bytes(), tags, "short strings are inline");
    payment.user_id = long.as_str().into();
    assert!(payment.heap_bytes() >= tags + 100);
    assert_eq!(Status::Other.heap_bytes(), 0);
    let square = Shape::Square {
        side: 1,
        label: long,
    };
    assert!(square.heap_bytes() >= 100);
}

proptest! {
    #[test]
    fn any_payment_round_trips(
        (time, user, amount) in (any::<i64>(), ".*", any::<f64>()),
        (status, card, tags) in (0u8..3, any::<Option<String>>(), any::<Vec<String>>()),
    ) {
        let payment = Payment {
            event_time: EventTime(time),
            user_id: user.into(),
            amount,
            status: [Status::Approved, Status::Declined, Status::Other][usize::from(status)],
            card_id: card.map(CompactString::from),
            tags,
        };
        round_trips(&payment);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_a_value_never_a_panic(bytes: Vec<u8>) {
        let mut input = bytes.as_slice();
        if let Ok(shape) = Shape::decode(&mut input) {
            let consumed = bytes.len() - input.len();
            prop_assert_eq!(encoded(&shape), &bytes[..consumed]);
        }
    }
}
