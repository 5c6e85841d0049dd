//! The reader against `serde_json` as the reference: any record, written in any way, and any damage to it.

mod payment;

use std::collections::BTreeMap;

use highwater_derive::{FromJson, ToJson};
use highwater_json::{Cents, Fault, FromJson as _, Scratch, ToJson as _};
use payment::{Payment, read};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

/// A record that both readers know. The reference refuses repeated keys, so the writer makes none.
#[derive(Clone, Debug, PartialEq, FromJson, ToJson, serde::Deserialize, serde::Serialize)]
struct Order {
    id: u64,
    #[json(rename = "δ\"x\\")]
    #[serde(rename = "δ\"x\\")]
    delta: i32,
    price: f64,
    weight: f32,
    open: bool,
    name: String,
    note: Option<String>,
    lines: Vec<Line>,
    by_name: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, PartialEq, FromJson, ToJson, serde::Deserialize, serde::Serialize)]
struct Line {
    sku: String,
    count: Option<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, FromJson, ToJson, serde::Deserialize, serde::Serialize)]
enum Kind {
    Plain,
    Gift,
}

fn line() -> impl Strategy<Value = Line> {
    let kind = prop_oneof![Just(Kind::Plain), Just(Kind::Gift)];
    (any::<String>(), any::<Option<u8>>(), kind).prop_map(|(sku, count, kind)| Line {
        sku,
        count,
        kind,
    })
}

fn order() -> impl Strategy<Value = Order> {
    let finite = any::<f64>().prop_filter("JSON has no such number", |x| x.is_finite());
    let decimal = (any::<i32>(), 0u8..4)
        .prop_map(|(digits, places)| f64::from(digits) / 10f64.powi(i32::from(places)));
    let price = prop_oneof![finite, decimal];
    let weight = any::<f32>().prop_filter("JSON has no such number", |x| x.is_finite());
    (
        (any::<u64>(), any::<i32>(), price, weight, any::<bool>()),
        (any::<String>(), any::<Option<String>>()),
        (
            vec(line(), 0..4),
            btree_map(any::<String>(), any::<i64>(), 0..4),
        ),
    )
        .prop_map(
            |((id, delta, price, weight, open), (name, note), (lines, by_name))| Order {
                id,
                delta,
                price,
                weight,
                open,
                name,
                note,
                lines,
                by_name,
            },
        )
}

/// Any JSON value, for fields that nobody knows.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Writes a value with choices about spaces, escapes and the order of keys drawn from `choices`.
struct Writer<'a> {
    choices: &'a [u8],
    at: usize,
    out: String,
}

impl Writer<'_> {
    fn choose(&mut self, ways: usize) -> usize {
        self.at += 1;
        usize::from(self.choices[self.at % self.choices.len()]) % ways
    }

    fn space(&mut self) {
        let space = ["", "", "", "", " ", "\n", "\t ", "\r\n"][self.choose(8)];
        self.out.push_str(space);
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            let must = matches!(character, '"' | '\\' | '\0'..='\u{1f}');
            if must || self.choose(8) == 0 {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    self.out.extend(format!("\\u{unit:04X}").chars());
                }
            } else {
                self.out.push(character);
            }
        }
        self.out.push('"');
    }

    fn value(&mut self, value: &Value) {
        self.space();
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        self.out.push(',');
                    }
                    self.value(item);
                }
                if items.is_empty() {
                    self.space();
                }
                self.out.push(']');
            }
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                for at in 1..entries.len() {
                    let with = self.choose(at + 1);
                    entries.swap(at, with);
                }
                self.entries(&entries);
            }
            other => self.out.push_str(&other.to_string()),
        }
        self.space();
    }

    fn entries(&mut self, entries: &[(&String, &Value)]) {
        self.out.push('{');
        for (at, (key, value)) in entries.iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            self.space();
            self.text(key);
            self.space();
            self.out.push(':');
            self.value(value);
        }
        if entries.is_empty() {
            self.space();
        }
        self.out.push('}');
    }
}

fn written(value: &Value, choices: &[u8]) -> String {
    let mut writer = Writer {
        choices,
        at: 0,
        out: String::new(),
    };
    writer.value(value);
    writer.out
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_record_written_in_any_way_reads_as_the_reference_reads_it(
        order in order(),
        extra in btree_map("[a-z]{5}[^a-z]", any_value(), 0..4),
        choices in choices(),
    ) {
        let mut value = serde_json::to_value(&order).unwrap();
        let object = value.as_object_mut().unwrap();
        let known = object.len();
        object.extend(extra);
        let unknown = object.len() - known;
        let text = written(&value, &choices);
        let mut scratch = Scratch::new();
        let read = Order::from_json(text.as_bytes(), &mut scratch);
        let reference: Order = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read.as_ref(), Ok(&reference), "{}", text);
        prop_assert_eq!(scratch.counters().unknown_fields, unknown as u64);
        prop_assert_eq!(scratch.counters().repeated_keys, 0);
    }

    #[test]
    fn what_is_written_reads_back_here_and_in_the_reference(order in order()) {
        let mut out = Vec::new();
        order.to_json(&mut out);
        let text = std::str::from_utf8(&out).unwrap();
        let read = Order::from_json(&out, &mut Scratch::new());
        prop_assert_eq!(read.as_ref(), Ok(&order), "{}", text);
        let value: Value = serde_json::from_str(text).unwrap();
        prop_assert_eq!(&value["name"], &Value::from(order.name.as_str()));
        prop_assert_eq!(value["price"].as_f64(), Some(order.price));
    }

    #[test]
    fn any_float_text_reads_as_the_reference_reads_it(
        text in "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?",
    ) {
        let read = f64::from_json(text.as_bytes(), &mut Scratch::new());
        let reference = text.parse::<f64>().ok().filter(|value| value.is_finite());
        prop_assert_eq!(read.ok().map(f64::to_bits), reference.map(f64::to_bits));
    }

    #[test]
    fn any_integer_text_is_exact_or_refused(text in "-?(0|[1-9][0-9]{0,22})") {
        let read = |wanted: Option<i64>| {
            let read = i64::from_json(text.as_bytes(), &mut Scratch::new());
            (read.ok(), wanted)
        };
        let (found, wanted) = read(text.parse().ok());
        prop_assert_eq!(found, wanted);
        let found = u64::from_json(text.as_bytes(), &mut Scratch::new()).ok();
        prop_assert_eq!(found, text.replace("-0", "0").parse().ok());
    }

    #[test]
    fn any_amount_is_exact_or_refused(units in -9_999i64..9_999, rest in "[0-9]{0,4}", zeros in 0usize..20) {
        let dot = if rest.is_empty() { "" } else { "." };
        let text = format!("{units}{dot}{rest}{}", if rest.is_empty() { String::new() } else { "0".repeat(zeros) });
        let read = Cents::from_json(text.as_bytes(), &mut Scratch::new());
        let finer = rest.get(2..).is_some_and(|rest| rest.contains(|digit| digit != '0'));
        if finer {
            let error = read.unwrap_err();
            prop_assert!(matches!(error.fault(), Fault::Precision { .. }), "{}", text);
        } else {
            let cents: i64 = format!("{rest:0<2}")[..2].parse().unwrap();
            prop_assert_eq!(read, Ok(Cents(units * 100 + if units < 0 { -cents } else { cents })), "{}", text);
        }
    }

    #[test]
    fn damage_is_refused_or_read_as_the_reference_reads_it(
        order in order(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
        choices in choices(),
    ) {
        let mut bytes = written(&serde_json::to_value(&order).unwrap(), &choices).into_bytes();
        for (index, byte, edit) in edits {
            damage(&mut bytes, index, byte, edit);
        }
        let read = Order::from_json(&bytes, &mut Scratch::new());
        let reference = serde_json::from_slice::<Order>(&bytes);
        match (&read, &reference) {
            (Ok(read), Ok(reference)) => prop_assert_eq!(read, reference),
            (Err(error), Err(_)) => prop_assert!(error.offset() <= bytes.len()),
            // This reader checks what it skips: text that is no text in an unknown field is refused too.
            (Err(error), Ok(_)) => prop_assert!(
                matches!(error.fault(), Fault::Utf8 | Fault::Escape { .. }),
                "only this reader refuses: {}", error
            ),
            // The reference refuses what this reader tolerates by rule: repeated keys, and a mark in front.
            (Ok(_), Err(error)) => prop_assert!(
                error.to_string().contains("duplicate field") || bytes.starts_with(b"\xef\xbb\xbf"),
                "only the reference refuses: {}", error
            ),
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
        if let Err(error) = read(&bytes) {
            prop_assert!(error.offset() <= bytes.len());
            prop_assert!(error.to_string().is_ascii());
        }
    }

    #[test]
    fn any_cut_of_a_payment_is_refused(end in 0..payment::PAYMENT.len()) {
        prop_assert!(read(&payment::PAYMENT.as_bytes()[..end]).is_err());
    }
}

fn damage(bytes: &mut Vec<u8>, index: prop::sample::Index, byte: u8, edit: u8) {
    const STRUCTURE: &[u8] = br#"{}[]",:\ n0-.e"#;
    if bytes.is_empty() {
        return;
    }
    let at = index.index(bytes.len());
    match edit {
        0 => bytes[at] = byte,
        1 => bytes[at] = STRUCTURE[usize::from(byte) % STRUCTURE.len()],
        2 => bytes.insert(at, STRUCTURE[usize::from(byte) % STRUCTURE.len()]),
        _ => {
            bytes.remove(at);
        }
    }
}

#[test]
fn reference_and_reader_agree_that_the_payment_is_json() {
    let value: Value = serde_json::from_str(payment::PAYMENT).unwrap();
    let (payment, _): (Payment, _) = read(payment::PAYMENT.as_bytes()).unwrap();
    assert_eq!(Some(payment.amount), value["amount"].as_f64());
}
