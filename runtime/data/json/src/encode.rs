//! `ToJson`: a type that can be written as JSON, without spaces and with no escape that is not needed.
//!
//! Writing cannot fail. The floats that JSON has no number for, infinities and NaN, are written as `null`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use compact_str::CompactString;

use crate::text;

/// A type that can be written as JSON.
///
/// Law: what is written is one valid JSON value, and the same value gives the same bytes in every version.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as JSON",
    label = "derive `ToJson` for it, or name a form with #[json(with = \"...\")]"
)]
pub trait ToJson {
    /// Appends the value.
    fn to_json(&self, out: &mut Vec<u8>);
}

/// Appends a string with its quotes.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut start = 0;
    loop {
        let end = text::end_of_run(bytes, start);
        out.extend_from_slice(&bytes[start..end]);
        let Some(&special) = bytes.get(end) else {
            break;
        };
        write_escape(special, out);
        start = end + 1;
    }
    out.push(b'"');
}

fn write_escape(special: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match special {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        b'"' | b'\\' => special,
        control => {
            let (high, low) = (
                HEX[usize::from(control >> 4)],
                HEX[usize::from(control & 15)],
            );
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends a decimal integer.
pub(crate) fn write_integer(negative: bool, mut magnitude: u64, out: &mut Vec<u8>) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [0; DIGITS_MAX];
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (magnitude % 10) as u8;
        magnitude /= 10;
        if magnitude == 0 {
            break;
        }
    }
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

macro_rules! integer_to_json {
    (signed $($signed:ty),*; unsigned $($unsigned:ty),*) => {
        $(impl ToJson for $signed {
            fn to_json(&self, out: &mut Vec<u8>) {
                write_integer(*self < 0, u64::from(self.unsigned_abs()), out);
            }
        })*
        $(impl ToJson for $unsigned {
            fn to_json(&self, out: &mut Vec<u8>) {
                write_integer(false, u64::from(*self), out);
            }
        })*
    };
}
integer_to_json!(signed i8, i16, i32, i64; unsigned u8, u16, u32, u64);

/// Amounts below this many hundredths are exact as floats and told apart by them.
const HUNDREDTHS_MAX: f64 = 1e15;

/// Appends a float that is a decimal of at most two places, if it is one.
///
/// A decimal of 15 digits or fewer that reads as this float is the only one, so it is the shortest.
fn write_hundredths(value: f64, out: &mut Vec<u8>) -> bool {
    let hundredths = (value * 100.0).round();
    let short = hundredths.abs() < HUNDREDTHS_MAX && hundredths != 0.0;
    if !short || (hundredths / 100.0).to_bits() != value.to_bits() {
        return false;
    }
    let magnitude = hundredths.abs() as u64;
    write_integer(value < 0.0, magnitude / 100, out);
    let (tenths, rest) = ((magnitude / 10 % 10) as u8, (magnitude % 10) as u8);
    out.extend_from_slice(&[b'.', b'0' + tenths]);
    if rest > 0 {
        out.push(b'0' + rest);
    }
    true
}

/// The shortest number that reads back as this float; `null` when it is not finite.
impl ToJson for f64 {
    fn to_json(&self, out: &mut Vec<u8>) {
        if !write_hundredths(*self, out) {
            write_float(self, self.is_finite(), out);
        }
    }
}

/// The shortest number that reads back as this float; `null` when it is not finite.
impl ToJson for f32 {
    fn to_json(&self, out: &mut Vec<u8>) {
        write_float(self, self.is_finite(), out);
    }
}

fn write_float(value: &impl fmt::Debug, finite: bool, out: &mut Vec<u8>) {
    if !finite {
        out.extend_from_slice(b"null");
        return;
    }
    write!(out, "{value:?}").expect("a vector takes every byte");
}

impl ToJson for bool {
    fn to_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

macro_rules! text_to_json {
    ($($ty:ty),*) => {$(
        impl ToJson for $ty {
            fn to_json(&self, out: &mut Vec<u8>) {
                write_text(self, out);
            }
        }
    )*};
}
text_to_json!(str, String, CompactString);

/// `None` is `null`.
impl<T: ToJson> ToJson for Option<T> {
    fn to_json(&self, out: &mut Vec<u8>) {
        match self {
            None => out.extend_from_slice(b"null"),
            Some(value) => value.to_json(out),
        }
    }
}

impl<T: ToJson> ToJson for Box<T> {
    fn to_json(&self, out: &mut Vec<u8>) {
        (**self).to_json(out);
    }
}

impl<T: ToJson + ?Sized> ToJson for &T {
    fn to_json(&self, out: &mut Vec<u8>) {
        (**self).to_json(out);
    }
}

impl<T: ToJson> ToJson for [T] {
    fn to_json(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (at, item) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            item.to_json(out);
        }
        out.push(b']');
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn to_json(&self, out: &mut Vec<u8>) {
        self.as_slice().to_json(out);
    }
}

impl<K: AsRef<str>, V: ToJson> ToJson for BTreeMap<K, V> {
    fn to_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (key, value)) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_text(key.as_ref(), out);
            out.push(b':');
            value.to_json(out);
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: f64) -> String {
        let mut out = Vec::new();
        value.to_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn short_decimals_are_written_as_std_writes_them(digits: i64, places in 0i32..5) {
            let value = (digits >> 8) as f64 / 10f64.powi(places);
            prop_assert_eq!(written(value), format!("{value:?}"));
            let value = f64::from(digits as i16) / 10f64.powi(places);
            prop_assert_eq!(written(value), format!("{value:?}"));
        }

        #[test]
        fn any_float_is_written_as_std_writes_it(bits: u64) {
            let value = f64::from_bits(bits);
            let expected = if value.is_finite() { format!("{value:?}") } else { "null".to_owned() };
            prop_assert_eq!(written(value), expected);
        }
    }

    #[test]
    fn floats_at_the_edge_of_the_short_form_are_written_as_std_writes_them() {
        for value in [
            0.0,
            -0.0,
            0.01,
            -0.005,
            0.07,
            1.1,
            9_999_999_999_999.99,
            1e13,
            1e15,
            1e16,
        ] {
            assert_eq!(written(value), format!("{value:?}"));
        }
    }
}
