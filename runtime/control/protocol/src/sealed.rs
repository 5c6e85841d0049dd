//! Sealed JSON: a JSON object whose last member is the checksum of everything before it.
//!
//! Called by the codecs of `head` and of manifests. The checksum is verified over the raw bytes before anything is
//! parsed, so damage is never interpreted. The bytes stay one plain JSON object that any JSON tool reads. The frame
//! (`"format"` member, trailing `"checksum"`) is the same in every format version.

use serde::{Deserialize, Serialize};

use highwater_types::{Classified, ErrorKind};

use crate::hash::ContentHash;

const TAIL_OPEN: &str = ",\"checksum\":\"";
const TAIL_CLOSE: &str = "\"}\n";
const TAIL_BYTES: usize = TAIL_OPEN.len() + ContentHash::DIGITS + TAIL_CLOSE.len();

/// Why sealed bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// More bytes than the object may ever have.
    #[error("{what} has {bytes} bytes, more than the limit of {limit}; restore it from a copy")]
    TooLarge {
        /// What was read.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// The trailing checksum is not there: the bytes are cut, empty or of another kind.
    #[error("{what} of {bytes} bytes has no checksum at its end; restore it from a copy")]
    Torn {
        /// What was read.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// The bytes are not those that were written.
    #[error("{what} has checksum {found}, its end says {expected}; restore it from a copy")]
    Checksum {
        /// What was read.
        what: &'static str,
        /// The checksum of the bytes.
        found: ContentHash,
        /// The checksum that was written.
        expected: ContentHash,
    },
    /// Written by a newer version.
    #[error(
        "{what} has format {found}, this version reads up to {known}; use version {needed} or newer"
    )]
    TooNew {
        /// What was read.
        what: &'static str,
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        known: u32,
        /// The version that wrote it.
        needed: String,
    },
    /// The checksum is right but the JSON does not have the expected shape.
    #[error(
        "{what} does not parse although its checksum is right; it was not written by this system"
    )]
    Parse {
        /// What was read.
        what: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

impl Classified for SealError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooNew { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// What is sealed: its name in messages, the newest format known here, the largest size in bytes.
#[derive(Clone, Copy, Debug)]
pub struct SealKind {
    /// The name in messages.
    pub what: &'static str,
    /// The newest format.
    pub format: u32,
    /// The largest size in bytes.
    pub bytes_max: usize,
}

#[derive(Deserialize)]
struct Probe {
    format: u32,
    #[serde(default)]
    written_by: Option<String>,
}

/// Writes `value` and seals it. The bytes are the same for equal values.
///
/// # Panics
/// If `value` is no JSON object: only types of this crate are sealed, and all of them are.
pub fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("a persisted type always serialises");
    let hash = ContentHash::of(&bytes);
    assert!(
        bytes.len() > 2 && bytes.ends_with(b"}"),
        "only objects with members are sealed"
    );
    bytes.pop();
    bytes.extend_from_slice(TAIL_OPEN.as_bytes());
    bytes.extend_from_slice(hash.to_string().as_bytes());
    bytes.extend_from_slice(TAIL_CLOSE.as_bytes());
    bytes
}

/// Verifies the seal and parses the value.
///
/// Guarantees: bounded by `kind.bytes_max` in time and memory; nothing is parsed before the checksum holds.
pub fn unseal<T: for<'a> Deserialize<'a>>(kind: SealKind, bytes: &[u8]) -> Result<T, SealError> {
    let SealKind {
        what,
        format,
        bytes_max,
    } = kind;
    if bytes.len() > bytes_max {
        return Err(SealError::TooLarge {
            what,
            bytes: bytes.len(),
            limit: bytes_max,
        });
    }
    let torn = SealError::Torn {
        what,
        bytes: bytes.len(),
    };
    let Some(split) = bytes.len().checked_sub(TAIL_BYTES) else {
        return Err(torn);
    };
    let (head, tail) = bytes.split_at(split);
    let digits = std::str::from_utf8(tail)
        .ok()
        .and_then(|tail| tail.strip_prefix(TAIL_OPEN)?.strip_suffix(TAIL_CLOSE));
    let Some(expected) = digits.and_then(|digits| ContentHash::parse(digits).ok()) else {
        return Err(torn);
    };
    let mut body = head.to_vec();
    body.push(b'}');
    let found = ContentHash::of(&body);
    if found != expected {
        return Err(SealError::Checksum {
            what,
            found,
            expected,
        });
    }
    let parse = |source| SealError::Parse { what, source };
    let probe: Probe = serde_json::from_slice(&body).map_err(parse)?;
    if probe.format > format {
        return Err(SealError::TooNew {
            what,
            found: probe.format,
            known: format,
            needed: probe.written_by.unwrap_or_else(|| "unknown".to_owned()),
        });
    }
    serde_json::from_slice(&body).map_err(parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: SealKind = SealKind {
        what: "test object",
        format: 2,
        bytes_max: 200,
    };

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Thing {
        format: u32,
        written_by: String,
        value: u64,
    }

    fn thing(format: u32) -> Thing {
        Thing {
            format,
            written_by: "9.1.0".to_owned(),
            value: 7,
        }
    }

    #[test]
    fn sealed_bytes_are_plain_json_and_round_trip() {
        let bytes = seal(&thing(2));
        assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
        assert_eq!(unseal::<Thing>(KIND, &bytes).unwrap(), thing(2));
    }

    #[test]
    fn every_single_byte_change_and_every_cut_is_found() {
        let bytes = seal(&thing(1));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(unseal::<Thing>(KIND, &bad).is_err(), "flip at {at}");
            assert!(unseal::<Thing>(KIND, &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn newer_format_names_the_needed_version() {
        let error = unseal::<Thing>(KIND, &seal(&thing(3))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("use version 9.1.0 or newer"));
    }

    #[test]
    fn oversized_bytes_are_refused_unread() {
        let error = unseal::<Thing>(KIND, &vec![b'x'; 201]).unwrap_err();
        assert!(matches!(error, SealError::TooLarge { .. }));
    }
}
