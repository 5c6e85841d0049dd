//! Strings: where one ends, and what its escapes mean.
//!
//! A string without escapes is a slice of the input. One with escapes is written out into the buffer of the scratch.
//! Surrogates must come in pairs: a lone one is no character and cannot be kept.

use crate::error::Fault;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The high bit of every zero byte of `word`, and perhaps of bytes above the lowest such byte.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// The position of the first quote, backslash or control byte from `at` on, or the length of `bytes`.
#[inline]
pub(crate) fn end_of_run(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zero_bytes(word ^ (ONES * 0x22));
        let escapes = zero_bytes(word ^ (ONES * 0x5c));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = quotes | escapes | controls;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// Appends the string whose first run goes from `start` to the backslash at `at`, and returns the position of the
/// closing quote or of whatever else ends it.
///
/// # Errors
/// The fault and the byte where it is.
#[cold]
pub(crate) fn unescape(
    text: &str,
    start: usize,
    mut at: usize,
    out: &mut String,
) -> Result<usize, (usize, Fault)> {
    let bytes = text.as_bytes();
    out.push_str(&text[start..at]);
    while bytes.get(at) == Some(&b'\\') {
        at = unescape_one(bytes, at, out)?;
        let end = end_of_run(bytes, at);
        out.push_str(&text[at..end]);
        at = end;
    }
    Ok(at)
}

/// Appends the character of the escape at `at` and returns the position behind it.
fn unescape_one(bytes: &[u8], at: usize, out: &mut String) -> Result<usize, (usize, Fault)> {
    let plain = match bytes.get(at + 1) {
        Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unescape_unicode(bytes, at, out),
        _ => return Err(invalid(at, "no such escape")),
    };
    out.push(plain);
    Ok(at + 2)
}

fn unescape_unicode(bytes: &[u8], at: usize, out: &mut String) -> Result<usize, (usize, Fault)> {
    let unit =
        hex4(bytes, at + 2).ok_or_else(|| invalid(at, "four hexadecimal digits follow \\u"))?;
    let (code, end) = match unit {
        0xd800..=0xdbff => {
            let low = Some(at + 6)
                .filter(|&next| bytes.get(next..next + 2) == Some(b"\\u"))
                .and_then(|next| hex4(bytes, next + 2))
                .filter(|low| (0xdc00..=0xdfff).contains(low))
                .ok_or_else(|| invalid(at, "a high surrogate stands alone"))?;
            (0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00), at + 12)
        }
        _ => (unit, at + 6),
    };
    let character =
        char::from_u32(code).ok_or_else(|| invalid(at, "a low surrogate stands alone"))?;
    out.push(character);
    Ok(end)
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, &digit| {
        Some(value << 4 | char::from(digit).to_digit(16)?)
    })
}

#[cold]
fn invalid(at: usize, reason: &'static str) -> (usize, Fault) {
    (at, Fault::Escape { reason })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn run_ends_at_the_first_special_byte(bytes: Vec<u8>, from in 0usize..40) {
            let special = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
            let from = from.min(bytes.len());
            let expected = bytes[from..].iter().position(special).map_or(bytes.len(), |p| p + from);
            prop_assert_eq!(end_of_run(&bytes, from), expected);
        }
    }
}
