//! What can go wrong at the border, by what the job must do next.

use std::{fmt, io};

use highwater_types::{Classified, ErrorKind};

/// An error of a source or sink. The message names the object (topic, file, partition), the value and the next step.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The configuration cannot work; its author must change it.
    #[error("{connector}: {reason}")]
    Configuration {
        /// Which connector and object, such as `kafka topic payments.auth`.
        connector: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The outside system knows no such object.
    #[error("{object}: it does not exist; create it, or check its name")]
    Missing {
        /// The object.
        object: String,
    },
    /// The outside system does not answer or refuses for now.
    #[error("{object} is unavailable: {reason}")]
    Unavailable {
        /// The object.
        object: String,
        /// What it answered.
        reason: String,
    },
    /// A record is refused and the policy is to fail.
    #[error(
        "{object}: record at {position} is refused: {reason}; the record starts with `{excerpt}`; mend it, or drop such \
         records or hand them over with `bad_records` of the source"
    )]
    BadRecord {
        /// The topic and partition, or the file.
        object: String,
        /// The offset in it.
        position: u64,
        /// What is wrong with the record.
        reason: String,
        /// The first 200 bytes, escaped.
        excerpt: String,
    },
    /// The data that a saved position points at is gone.
    #[error("{object}: position {position} is gone: {reason}")]
    PositionLost {
        /// The object.
        object: String,
        /// The saved position.
        position: u64,
        /// What was found instead.
        reason: String,
    },
    /// Bytes that the connector itself wrote into a checkpoint cannot be read.
    #[error("{object}: the saved state cannot be read: {reason}")]
    State {
        /// The object.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// A writer of a newer attempt owns the slot.
    #[error("{object}: a newer attempt owns this slot")]
    Fenced {
        /// The object.
        object: String,
    },
    /// The operating system refused.
    #[error("{object}: {operation} failed")]
    Io {
        /// The object.
        object: String,
        /// What was attempted.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl ConnectorError {
    /// Wraps what the operating system answered: for `map_err`.
    pub fn io(
        object: impl fmt::Display,
        operation: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            object: object.to_string(),
            operation,
            source,
        }
    }
}

impl Classified for ConnectorError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Configuration { .. } | Self::Missing { .. } | Self::BadRecord { .. } => {
                ErrorKind::Invalid
            }
            Self::Unavailable { .. } => ErrorKind::Transient,
            Self::Io { source, .. } => io_kind(source),
            Self::PositionLost { .. } | Self::State { .. } => ErrorKind::Corrupt,
            Self::Fenced { .. } => ErrorKind::Fenced,
        }
    }
}

/// What helps against an error of the operating system: to wait, more room, or its author.
fn io_kind(source: &io::Error) -> ErrorKind {
    use io::ErrorKind as Io;
    match source.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Exhausted,
        Io::PermissionDenied | Io::ReadOnlyFilesystem | Io::NotADirectory | Io::IsADirectory => {
            ErrorKind::Invalid
        }
        _ => ErrorKind::Transient,
    }
}

/// The first 200 bytes of a payload, escaped so that any terminal may show them.
pub fn excerpt(payload: &[u8]) -> String {
    let shown = payload[..payload.len().min(200)].escape_ascii();
    shown.to_string().replace("\\\"", "\"").replace("\\'", "'")
}
