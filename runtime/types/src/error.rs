//! Error kinds: what the caller should do about an error, apart from what it says.
//!
//! Every error enum of the workspace implements [`Classified`]. Retry, restart, exit code and HTTP status derive from
//! the kind, never from message text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the receiver of an error should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The same call may succeed later: back off and retry.
    Transient,
    /// Somebody newer owns this job: stop, change nothing.
    Fenced,
    /// The input must be changed by its author before anything can work.
    Invalid,
    /// Stored data is damaged or missing: it must be restored.
    Corrupt,
    /// A limit or a budget is reached.
    Exhausted,
    /// An invariant of the engine does not hold.
    Bug,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transient => "transient",
            Self::Fenced => "fenced",
            Self::Invalid => "invalid",
            Self::Corrupt => "corrupt",
            Self::Exhausted => "exhausted",
            Self::Bug => "bug",
        })
    }
}

/// An error that says what to do about it.
pub trait Classified: std::error::Error {
    /// The kind of this error.
    fn kind(&self) -> ErrorKind;
}
