//! What can go wrong at a store, by what the caller must do next.
//!
//! An error of a conditional write means that it was certainly not applied; doubt is [`crate::PutOutcome::Unknown`].

use highwater_types::{Classified, ErrorKind};

/// An error of an object store. Names the object with its location, and the operation.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The text does not name a store.
    #[error("storage location `{value}` cannot be used: {reason}")]
    Location {
        /// The refused text.
        value: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// The text does not name an object.
    #[error("object path `{value}` is refused: {reason}")]
    Path {
        /// The refused text.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The store refuses for good: permission, credentials, missing bucket, wrong region.
    #[error("{operation} of `{object}` is refused: {reason}")]
    Refused {
        /// What was attempted.
        operation: &'static str,
        /// Location and path.
        object: String,
        /// What the store answered.
        reason: String,
    },
    /// The store does not answer, or asks to come back later.
    #[error("{operation} of `{object}` failed: {reason}")]
    Unavailable {
        /// What was attempted.
        operation: &'static str,
        /// Location and path.
        object: String,
        /// What happened.
        reason: String,
    },
    /// The operating system refused.
    #[error("{operation} of `{object}` failed")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        object: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A named object is gone.
    #[error(
        "object `{object}` is missing; a manifest names it, so restore it or go back to an older checkpoint"
    )]
    Missing {
        /// Location and path.
        object: String,
    },
    /// A range lies outside the object.
    #[error("object `{object}` holds {length} bytes; bytes {start}..{end} were asked for")]
    Range {
        /// Location and path.
        object: String,
        /// The length of the object, as far as known.
        length: u64,
        /// The first byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
    },
    /// The bytes are not those that were written.
    #[error(
        "object `{object}` is damaged: {found_length} bytes with checksum {found:016x} were read, \
         {wanted_length} bytes with checksum {wanted:016x} were written"
    )]
    Damaged {
        /// Location and path.
        object: String,
        /// The length written.
        wanted_length: u64,
        /// The checksum written.
        wanted: u64,
        /// The length read.
        found_length: u64,
        /// The checksum read.
        found: u64,
    },
    /// The store cannot hold checkpoints.
    #[error("storage `{location}` cannot hold checkpoints: {operation}: {reason}")]
    Probe {
        /// The location.
        location: String,
        /// The step of the probe.
        operation: &'static str,
        /// What went wrong and what to do.
        reason: String,
    },
}

impl Classified for StorageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Location { .. }
            | Self::Path { .. }
            | Self::Refused { .. }
            | Self::Probe { .. } => ErrorKind::Invalid,
            Self::Unavailable { .. } => ErrorKind::Transient,
            Self::Io { source, .. } => io_kind(source),
            Self::Missing { .. } | Self::Range { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
        }
    }
}

fn io_kind(source: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match source.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Exhausted,
        Io::PermissionDenied | Io::ReadOnlyFilesystem | Io::NotADirectory => ErrorKind::Invalid,
        _ => ErrorKind::Transient,
    }
}
