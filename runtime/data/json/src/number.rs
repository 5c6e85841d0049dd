//! Numbers: one scan of the text into digits and a power of ten, from which every numeric type is made exactly.
//!
//! Nothing wraps and nothing saturates: a number that its type cannot hold is an error. Floats are correctly rounded;
//! the common short decimals are one multiplication or division of two exact floats, the rest is left to `std`.

use crate::error::{Fault, Found, cut};

/// Powers of ten that a 64-bit float holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
/// Powers of ten of up to eight digits.
const SMALL_POWERS: [u64; 9] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];
/// Every integer up to this one is a 64-bit float.
const EXACT_INTEGER_MAX: u64 = 1 << 53;
/// So many decimal digits always fit 64 bits.
const DIGITS_MAX: usize = 19;
/// No exponent needs to be told apart from a larger one: both are out of every range.
const EXPONENT_MAX: i64 = 1_000_000_000;

/// A number of the input, checked against the grammar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<'a> {
    /// As written.
    pub(crate) text: &'a str,
    pub(crate) negative: bool,
    /// All digits as one integer; valid when `exact`.
    pub(crate) digits: u64,
    /// The power of ten of the last digit.
    pub(crate) exponent: i64,
    /// Whether `digits` holds all digits.
    pub(crate) exact: bool,
    /// Whether there is neither a fraction nor an exponent.
    pub(crate) integer: bool,
}

/// Digits from `at` on, accumulated into `value`; returns the first byte that is none.
///
/// Eight bytes at a time: where numbers differ in length, a loop over bytes pays a wrong guess of the branch predictor
/// for each of them.
#[inline]
fn digits(bytes: &[u8], mut at: usize, value: &mut u64) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let count = leading_digits(word);
        if count == 0 {
            return at;
        }
        let power = SMALL_POWERS[count as usize];
        *value = value
            .wrapping_mul(power)
            .wrapping_add(value_of_digits(word, count));
        at += count as usize;
        if count < 8 {
            return at;
        }
    }
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')) {
        if digit > 9 {
            break;
        }
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at
}

/// How many of the eight bytes, from the lowest, are digits before the first that is none.
#[inline]
const fn leading_digits(word: u64) -> u32 {
    // The high bit shows in the first sum above '9', in the second difference below '0' or outside ASCII. Carries move
    // upwards only, and no digit makes one, so the lowest marked byte is right.
    let above = word.wrapping_add(0x4646_4646_4646_4646);
    let below = word.wrapping_sub(0x3030_3030_3030_3030);
    ((above | below) & 0x8080_8080_8080_8080).trailing_zeros() / 8
}

/// The number that the `count` lowest bytes, 1 to 8 digits with the highest first, stand for.
#[inline]
const fn value_of_digits(word: u64, count: u32) -> u64 {
    // Shifted to the top, the digits have zeros in front. Then neighbours are joined: digits to pairs, pairs to fours,
    // fours to eight.
    let digits = (word << (64 - 8 * count)) & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

/// Scans the number that begins at `start` and returns it with the position behind it.
///
/// # Errors
/// The fault and the byte where it is.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "a number that passes through memory costs more than its digits"
)]
pub(crate) fn scan(text: &str, start: usize) -> Result<(Number<'_>, usize), (usize, Fault)> {
    let bytes = text.as_bytes();
    let negative = bytes.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let mut value = 0;
    let mut at = digits(bytes, first, &mut value);
    if at == first || (at > first + 1 && bytes[first] == b'0') {
        return Err(malformed(bytes, first));
    }
    let mut count = at - first;
    let mut exponent = 0i64;
    let mut integer = true;
    if bytes.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = digits(bytes, fraction, &mut value);
        if at == fraction {
            return Err(digit_missing(bytes, at));
        }
        count += at - fraction;
        exponent = -((at - fraction) as i64);
        integer = false;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let (power, end) = scan_exponent(bytes, at + 1)?;
        exponent += power;
        at = end;
        integer = false;
    }
    let number = Number {
        text: &text[start..at],
        negative,
        digits: value,
        exponent,
        exact: count <= DIGITS_MAX,
        integer,
    };
    Ok((number, at))
}

#[cold]
fn scan_exponent(bytes: &[u8], at: usize) -> Result<(i64, usize), (usize, Fault)> {
    let negative = bytes.get(at) == Some(&b'-');
    let first = at + usize::from(matches!(bytes.get(at), Some(b'-' | b'+')));
    let mut power = 0i64;
    let mut end = first;
    while let Some(digit) = bytes.get(end).filter(|byte| byte.is_ascii_digit()) {
        power = (power * 10 + i64::from(digit - b'0')).min(EXPONENT_MAX);
        end += 1;
    }
    if end == first {
        return Err(digit_missing(bytes, end));
    }
    Ok((if negative { -power } else { power }, end))
}

#[cold]
fn malformed(bytes: &[u8], first: usize) -> (usize, Fault) {
    if bytes.get(first) == Some(&b'0') {
        let fault = Fault::Syntax {
            expected: "a number without leading zeros",
            found: Found::Number,
        };
        return (first, fault);
    }
    digit_missing(bytes, first)
}

#[cold]
fn digit_missing(bytes: &[u8], at: usize) -> (usize, Fault) {
    let fault = Fault::Syntax {
        expected: "a digit",
        found: Found::at_start_of(bytes.get(at..).unwrap_or_default()),
    };
    (at, fault)
}

impl Number<'_> {
    /// The fault of a number that `target` cannot hold.
    #[cold]
    pub(crate) fn out_of_range(&self, target: &'static str) -> Fault {
        Fault::OutOfRange {
            number: cut(self.text),
            target,
        }
    }

    /// The integer of this number. `None` when not even 128 bits hold it.
    ///
    /// # Errors
    /// A number with a fraction or an exponent is no integer, whatever its value.
    #[inline]
    pub(crate) fn to_integer(self) -> Result<Option<i128>, Fault> {
        if !self.integer {
            return Err(Fault::Type {
                expected: "an integer",
                found: Found::Fraction,
            });
        }
        if self.exact {
            let magnitude = i128::from(self.digits);
            return Ok(Some(if self.negative { -magnitude } else { magnitude }));
        }
        Ok(self.text.parse().ok())
    }

    /// The nearest 64-bit float.
    ///
    /// # Errors
    /// A number beyond the largest finite float.
    #[inline]
    pub(crate) fn to_f64(self) -> Result<f64, Fault> {
        if self.exact && self.digits <= EXACT_INTEGER_MAX {
            let magnitude = self.digits as f64;
            let power = self.exponent.unsigned_abs() as usize;
            if let Some(&power) = EXACT_POWERS.get(power) {
                let value = if self.exponent < 0 {
                    magnitude / power
                } else {
                    magnitude * power
                };
                return Ok(if self.negative { -value } else { value });
            }
        }
        self.parse_float("f64")
    }

    /// The nearest 32-bit float.
    ///
    /// # Errors
    /// A number beyond the largest finite float.
    pub(crate) fn to_f32(self) -> Result<f32, Fault> {
        self.parse_float("f32")
    }

    #[cold]
    fn parse_float<F: Finite>(&self, target: &'static str) -> Result<F, Fault> {
        let parsed: Option<F> = self.text.parse().ok();
        parsed
            .filter(F::is_finite)
            .ok_or_else(|| self.out_of_range(target))
    }
}

/// A float that knows whether it is a number.
trait Finite: std::str::FromStr {
    fn is_finite(&self) -> bool;
}

impl Finite for f32 {
    fn is_finite(&self) -> bool {
        Self::is_finite(*self)
    }
}

impl Finite for f64 {
    fn is_finite(&self) -> bool {
        Self::is_finite(*self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn digits_are_counted_and_valued_as_one_by_one(text in "[0-9]{0,19}", rest: Vec<u8>) {
            let bytes = [text.as_bytes(), &rest].concat();
            let end = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
            prop_assume!(end <= DIGITS_MAX);
            let mut value = 0;
            prop_assert_eq!(digits(&bytes, 0, &mut value), end);
            let expected = std::str::from_utf8(&bytes[..end]).unwrap();
            prop_assert_eq!(value, expected.parse().unwrap_or(0));
        }

        #[test]
        fn any_eight_bytes_have_the_right_count_of_digits(bytes: [u8; 8]) {
            let expected = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
            prop_assert_eq!(leading_digits(u64::from_le_bytes(bytes)) as usize, expected);
        }
    }
}
