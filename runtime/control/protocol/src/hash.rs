//! Content hashes: XXH3-64 of bytes, written as 16 hexadecimal digits.
//!
//! Used by `head`, manifests, state files and sink logs. A hash finds damage; it does not defend against forgery.

use std::fmt;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// The XXH3-64 of some bytes, seed 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash(pub u64);

impl ContentHash {
    /// The number of digits of the text form.
    pub const DIGITS: usize = 16;

    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_64::oneshot(bytes))
    }

    /// Reads the text form: exactly 16 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let plain = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if text.len() != Self::DIGITS || !text.chars().all(plain) {
            return Err(HashError(text.chars().take(40).collect()));
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| HashError(text.to_owned()))
    }
}

/// The hash of bytes that come in pieces: write them, then ask. Equal to [`ContentHash::of`] of all of them.
#[derive(Default)]
pub struct ContentHasher(XxHash3_64);

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentHasher")
    }
}

impl ContentHasher {
    /// The hash of all bytes that were written.
    pub fn finish(&self) -> ContentHash {
        ContentHash(self.0.finish())
    }
}

impl std::io::Write for ContentHasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A text that is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no content hash; it needs 16 lower-case hexadecimal digits")]
pub struct HashError(String);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl From<ContentHash> for String {
    fn from(value: ContentHash) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for ContentHash {
    type Error = HashError;

    fn try_from(value: String) -> Result<Self, HashError> {
        Self::parse(&value)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_that_come_in_pieces_have_the_hash_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
        for size in [1, 240, 241, 1_000, 10_000] {
            let mut hasher = ContentHasher::default();
            for piece in bytes.chunks(size) {
                hasher.write_all(piece).unwrap();
            }
            assert_eq!(hasher.finish(), ContentHash::of(&bytes), "pieces of {size}");
        }
        assert_eq!(ContentHasher::default().finish(), ContentHash::of(b""));
    }

    #[test]
    fn text_form_round_trips_and_refuses_other_text() {
        let hash = ContentHash::of(b"highwater");
        assert_eq!(ContentHash::parse(&hash.to_string()), Ok(hash));
        for bad in [
            "",
            "12",
            "00000000000000zz",
            "0000000000000ABC",
            "+000000000000abc",
        ] {
            assert!(ContentHash::parse(bad).is_err(), "{bad}");
        }
    }
}
