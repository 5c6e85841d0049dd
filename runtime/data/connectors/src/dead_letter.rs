//! Dead letters: what a source hands over of a record that it could not take.
//!
//! Made by [`Intake`](crate::Intake), read from `.dead_letters()` of a source's stream. A dead letter goes into every
//! sink as other records do, so it has the forms that sinks ask for; the payload is readable wherever it is text.

use std::fmt;

use compact_str::CompactString;
use highwater_json::{ToJson, write_text};
use highwater_types::Record;
use highwater_types::record::DecodeError;
use highwater_types::schema::{DataType, Field};

/// A record that could not be decoded.
///
/// Its fields, all public: `split` (the split it was read from), `position` (its offset there), `reason` (why it could
/// not be decoded) and `payload` (its bytes as they were read).
///
/// As JSON it is an object with these four fields. A payload that is UTF-8 stands under `payload` as text; any other
/// stands under `payload_base64` instead, in the standard alphabet with padding (RFC 4648). Its debug form, which
/// `PrintSink` prints, shows the payload in the same way: text where it is text, else escaped bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The split it was read from, such as `payments.auth/3`.
    pub split: CompactString,
    /// Its offset in the split.
    pub position: u64,
    /// Why it could not be decoded.
    pub reason: String,
    /// The record as it was read.
    pub payload: Vec<u8>,
}

impl Record for DeadLetter {
    fn data_type() -> DataType {
        let field = |name: &str, data_type| Field {
            name: name.to_owned(),
            data_type,
            default: None,
        };
        DataType::Struct {
            name: "DeadLetter".to_owned(),
            fields: vec![
                field("split", DataType::Utf8),
                field("position", DataType::U64),
                field("reason", DataType::Utf8),
                field("payload", Vec::<u8>::data_type()),
            ],
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.split.encode(out);
        self.position.encode(out);
        self.reason.encode(out);
        self.payload.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            split: CompactString::decode(input)?,
            position: u64::decode(input)?,
            reason: String::decode(input)?,
            payload: Vec::decode(input)?,
        })
    }

    fn heap_bytes(&self) -> usize {
        self.split.heap_bytes() + self.reason.heap_bytes() + self.payload.heap_bytes()
    }
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("DeadLetter");
        shown
            .field("split", &self.split)
            .field("position", &self.position)
            .field("reason", &self.reason);
        match std::str::from_utf8(&self.payload) {
            Ok(text) => shown.field("payload", &text),
            Err(_) => shown.field(
                "payload",
                &format_args!("b\"{}\"", self.payload.escape_ascii()),
            ),
        };
        shown.finish()
    }
}

impl ToJson for DeadLetter {
    fn to_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"split\":");
        self.split.to_json(out);
        out.extend_from_slice(b",\"position\":");
        self.position.to_json(out);
        out.extend_from_slice(b",\"reason\":");
        self.reason.to_json(out);
        if let Ok(text) = std::str::from_utf8(&self.payload) {
            out.extend_from_slice(b",\"payload\":");
            write_text(text, out);
        } else {
            out.extend_from_slice(b",\"payload_base64\":\"");
            write_base64(&self.payload, out);
            out.push(b'"');
        }
        out.push(b'}');
    }
}

/// Appends bytes as base64: the standard alphabet, with padding.
fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |at: usize| group.get(at).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4_usize {
            let sextet = (bits >> (18 - 6 * at)) & 63;
            out.push(if at <= group.len() {
                ALPHABET[sextet as usize]
            } else {
                b'='
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: &[u8]) -> DeadLetter {
        DeadLetter {
            split: "orders.jsonl".into(),
            position: 7,
            reason: "an object is \"expected\"".to_owned(),
            payload: payload.to_vec(),
        }
    }

    fn json(payload: &[u8]) -> String {
        let mut out = Vec::new();
        letter(payload).to_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_payload_that_is_text_is_text_in_json() {
        assert_eq!(
            json(b"{\"n\":\xc3\xa9}"),
            "{\"split\":\"orders.jsonl\",\"position\":7,\"reason\":\"an object is \\\"expected\\\"\",\
             \"payload\":\"{\\\"n\\\":\u{e9}}\"}"
        );
    }

    #[test]
    fn a_payload_that_is_no_text_is_base64_under_a_name_of_its_own() {
        let written = json(&[0xff, 0, 1]);
        assert!(
            written.ends_with(",\"payload_base64\":\"/wAB\"}"),
            "{written}"
        );
        assert!(!written.contains("\"payload\":"), "{written}");
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        // The test vectors of RFC 4648.
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            write_base64(bytes.as_bytes(), &mut out);
            assert_eq!(out, expected.as_bytes());
        }
    }

    #[test]
    fn the_debug_form_shows_text_as_text_and_other_bytes_escaped() {
        let shown = format!("{:?}", letter(b"{no order"));
        assert!(shown.ends_with("payload: \"{no order\" }"), "{shown}");
        let shown = format!("{:?}", letter(&[0xff, b'a']));
        assert!(shown.ends_with("payload: b\"\\xffa\" }"), "{shown}");
    }
}
