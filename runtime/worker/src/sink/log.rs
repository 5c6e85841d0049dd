//! The seam to where sink logs are kept. Blocking: called from driver threads only.

use highwater_protocol::manifest::LogObject;
use highwater_protocol::paths::RelativePath;
use highwater_types::{Classified, ErrorKind};

/// Why a log could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    /// The store does not answer for now.
    #[error("the store cannot {operation} `{path}` now: {reason}")]
    Unavailable {
        /// What was attempted.
        operation: &'static str,
        /// The object.
        path: String,
        /// The answer.
        reason: String,
    },
    /// The object is missing, cut or changed.
    #[error(
        "the sink log `{path}` is damaged: {reason}; restore the object or go back to an older checkpoint"
    )]
    Damaged {
        /// The object.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl Classified for LogStoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Transient,
            Self::Damaged { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Stores and reads sink logs of one job.
pub trait LogStore: Send {
    /// Stores the bytes under a name that nobody else uses; durable when it returns.
    fn store(&self, path: &RelativePath, bytes: Vec<u8>) -> Result<(), LogStoreError>;

    /// Reads a log and verifies its length and checksum.
    fn fetch(&self, object: &LogObject) -> Result<Vec<u8>, LogStoreError>;
}
