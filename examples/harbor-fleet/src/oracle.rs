//! Judges the output of the payment fraud scorer by its input.
//!
//! The oracle reads the log and the output lines by itself, with plain maps: it shares no decoder, no window and no
//! count with the job. What depends on the order in which partitions were read is not predicted but bounded: a pair of
//! user and window has declines that no watermark can have overtaken, and declines in all.
//!
//! Source: the rules HB-32, HB-33, HB-34 and HB-80 of Harbor Fleet.

mod expected;
mod observed;
mod parse;
mod report;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use highwater_types::{Classified, ErrorKind};

pub use self::expected::{Declines, Expected, PartitionLog};
pub use self::observed::Observed;
pub use self::parse::time_ms;
pub use self::report::{Report, Violation};

/// A user, and the start of a window in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The user.
    pub user_id: String,
    /// The start of the window.
    pub window_start_ms: i64,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} @ {}", self.user_id, self.window_start_ms)
    }
}

/// Why nothing can be judged.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// The log cannot be read.
    #[error("the log {} cannot be read", path.display())]
    ReadLog {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A line of output is not what its topic holds.
    #[error("line {line} of the {topic} is no such record: {text}")]
    OutputLine {
        /// Which output.
        topic: &'static str,
        /// The number of the line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

impl Classified for OracleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ReadLog { .. } => ErrorKind::Transient,
            Self::OutputLine { .. } => ErrorKind::Invalid,
        }
    }
}
