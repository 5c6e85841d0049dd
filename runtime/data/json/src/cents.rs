//! Money as whole cents: decimals with two places, exactly.
//!
//! Reads a JSON number or a string that holds one. Further places are allowed only when they are zero: an amount that
//! is finer than a cent is refused, never rounded. Written as a number with two places.

use std::fmt;
use std::str::FromStr;

use highwater_derive::{Key, Record};
use highwater_types::{Classified, ErrorKind};

use crate::decode::FromJson;
use crate::encode::{ToJson, write_integer};
use crate::error::{Fault, Found, JsonError};
use crate::number::{self, Number};
use crate::reader::Reader;

/// The power of ten of a cent.
const CENT_EXPONENT: i64 = -2;
/// Every smaller power of ten fits 64 bits.
const POWERS_MAX: u32 = 20;

/// An amount of money in cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Record, Key)]
#[repr(transparent)]
pub struct Cents(pub i64);

impl Cents {
    /// The amount in cents.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The sum; `None` when it is out of range.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let cents = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

/// A text that is no amount of money.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an amount of money: write it as 12.34")]
pub struct CentsError {
    /// The text, cut after 40 bytes.
    pub text: String,
    /// What is wrong with it.
    #[source]
    pub fault: Fault,
}

impl Classified for CentsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl FromStr for Cents {
    type Err = CentsError;

    fn from_str(text: &str) -> Result<Self, CentsError> {
        parse(text).map(Self).map_err(|fault| CentsError {
            text: crate::error::cut(text),
            fault,
        })
    }
}

/// The cents of a text that is one number and nothing else.
fn parse(text: &str) -> Result<i64, Fault> {
    let (number, end) = number::scan(text, 0).map_err(|(_, fault)| fault)?;
    match text.as_bytes().get(end..) {
        None | Some([]) => to_cents(&number),
        Some(rest) => Err(Fault::Trailing {
            found: Found::at_start_of(rest),
        }),
    }
}

#[inline]
fn to_cents(number: &Number<'_>) -> Result<i64, Fault> {
    let places = number.exponent - CENT_EXPONENT;
    if number.exact && places >= 0 {
        return scaled(number, number.digits, places);
    }
    to_cents_slowly(number)
}

/// `digits` with `zeros` zeros behind them.
#[inline]
fn scaled(number: &Number<'_>, digits: u64, zeros: i64) -> Result<i64, Fault> {
    if digits == 0 {
        return Ok(0);
    }
    u32::try_from(zeros)
        .ok()
        .filter(|&zeros| zeros < POWERS_MAX)
        .and_then(|zeros| i128::from(digits).checked_mul(10i128.pow(zeros)))
        .and_then(|cents| i64::try_from(if number.negative { -cents } else { cents }).ok())
        .ok_or_else(|| number.out_of_range("64 bits of cents"))
}

/// Amounts with zeros behind the second place, or with more digits than 64 bits hold.
#[cold]
fn to_cents_slowly(number: &Number<'_>) -> Result<i64, Fault> {
    let mantissa = number.text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_end_matches('0');
    let dropped = (digits.len() - significant.len()) as i64;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    let places = number.exponent - CENT_EXPONENT + dropped;
    if places < 0 {
        return Err(Fault::Precision {
            number: crate::error::cut(number.text),
        });
    }
    let digits: u64 = significant
        .parse()
        .map_err(|_| number.out_of_range("64 bits of cents"))?;
    scaled(number, digits, places)
}

impl FromJson for Cents {
    fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        if reader.peek() == Some(b'"') {
            let at = reader.offset();
            let read = parse(reader.read_text()?);
            return read.map(Self).map_err(|fault| JsonError::new(at, fault));
        }
        let number = reader.read_number("an amount of money")?;
        let begin = reader.offset() - number.text.len();
        match to_cents(&number) {
            Ok(cents) => Ok(Self(cents)),
            Err(fault) => Err(JsonError::new(begin, fault)),
        }
    }
}

impl ToJson for Cents {
    fn to_json(&self, out: &mut Vec<u8>) {
        let cents = self.0.unsigned_abs();
        write_integer(self.0 < 0, cents / 100, out);
        let rest = (cents % 100) as u8;
        out.extend_from_slice(&[b'.', b'0' + rest / 10, b'0' + rest % 10]);
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{Key as _, Record as _};
    use proptest::prelude::*;

    use super::*;
    use crate::scratch::Scratch;

    fn read(text: &str) -> Result<i64, JsonError> {
        Cents::from_json(text.as_bytes(), &mut Scratch::new()).map(Cents::get)
    }

    proptest! {
        #[test]
        fn every_amount_reads_back(cents: i64) {
            let mut out = Vec::new();
            Cents(cents).to_json(&mut out);
            let text = std::str::from_utf8(&out).unwrap();
            prop_assert_eq!(text, Cents(cents).to_string());
            prop_assert_eq!(read(text), Ok(cents));
            prop_assert_eq!(read(&format!("\"{text}\"")), Ok(cents));
            prop_assert_eq!(text.parse::<Cents>(), Ok(Cents(cents)));
        }
    }

    #[test]
    fn amounts_are_exact() {
        for (text, cents) in [
            ("12.34", 1_234),
            ("12.3", 1_230),
            ("12", 1_200),
            ("0.01", 1),
            ("-0.5", -50),
            ("-0", 0),
            ("12.340000", 1_234),
            ("1.5e2", 15_000),
            ("150e-2", 150),
            ("0e999999999999", 0),
            ("0.00000000000000000000000000", 0),
            ("12.3400000000000000000000000", 1_234),
            ("123400000000000000000000000e-24", 12_340),
            ("92233720368547758.07", i64::MAX),
            ("-92233720368547758.08", i64::MIN),
            ("\"0.10\"", 10),
        ] {
            assert_eq!(read(text), Ok(cents), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for (text, part) in [
            ("12.345", "more than two decimal places"),
            ("1e-400", "more than two decimal places"),
            ("1e-3", "more than two decimal places"),
            ("92233720368547758.08", "does not fit"),
            ("1e17", "does not fit"),
            ("1e999999999999", "does not fit"),
            ("99999999999999999999999", "does not fit"),
            ("\"12.34 EUR\"", "has ended"),
            ("\"\"", "a digit is expected"),
            ("\" 1\"", "a digit is expected"),
            ("NaN", "an amount of money is expected"),
            ("null", "an amount of money is expected"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn cents_are_a_record_and_a_key() {
        let mut bytes = Vec::new();
        Cents(-7).encode(&mut bytes);
        assert_eq!(Cents::decode(&mut bytes.as_slice()), Ok(Cents(-7)));
        assert_eq!(Cents(7).key_hash(), 7i64.key_hash());
        assert_eq!(Cents(i64::MAX).checked_add(Cents(1)), None);
    }
}
