//! Errors of a store: what happened in which directory, and what to do next.
//!
//! RocksDB reports a status as text; its kind is read from there once, here. No caller reads the text.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use highwater_state::BackingError;
use highwater_types::{Classified, ErrorKind};

/// Why a store could not be opened, read, written or frozen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RocksError {
    /// The disk, the quota or the limit of a file is reached.
    #[error(
        "{operation} in `{}` found no room: {reason}; free space there or raise the quota or file size limit, or move \
         `state.local-dir` to a larger disk: state then comes back from the last checkpoint by itself", dir.display()
    )]
    NoRoom {
        /// What was being done.
        operation: &'static str,
        /// The directory of the store.
        dir: PathBuf,
        /// What RocksDB says.
        reason: String,
    },
    /// The disk failed.
    #[error(
        "{operation} in `{}` failed: {reason}; state comes back from the last checkpoint into a new store: check the \
         disk if this repeats", dir.display()
    )]
    Disk {
        /// What was being done.
        operation: &'static str,
        /// The directory of the store.
        dir: PathBuf,
        /// What RocksDB says.
        reason: String,
    },
    /// Bytes on disk are not what was written.
    #[error(
        "{operation} in `{}` found damaged bytes: {reason}; state must come back from a checkpoint that is whole: \
         check the disk if they were written here", dir.display()
    )]
    Damaged {
        /// What was being done.
        operation: &'static str,
        /// The directory of the store.
        dir: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// Files are whole, and in a form that this version does not read.
    #[error(
        "{operation} in `{}` found `{family}`, which is stored in a form that this version does not read; restore it with \
         the version that wrote it and take a savepoint", dir.display()
    )]
    Form {
        /// What was being done.
        operation: &'static str,
        /// The directory of the files.
        dir: PathBuf,
        /// The column family.
        family: String,
    },
    /// The store has failed before.
    #[error(
        "{operation} is refused: the store in `{}` failed before and is not used any more ({first}); restore from the \
         last checkpoint into a new store", dir.display()
    )]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// The directory of the store.
        dir: PathBuf,
        /// The first failure.
        first: String,
        /// Its kind, which is also the kind of this error.
        kind: ErrorKind,
    },
    /// An engine or RocksDB bug.
    #[error("{operation} in `{}` should not fail: {reason}; report this as a bug", dir.display())]
    Unexpected {
        /// What was being done.
        operation: &'static str,
        /// The directory of the store.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Classified for RocksError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRoom { .. } => ErrorKind::Exhausted,
            Self::Disk { .. } => ErrorKind::Transient,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Form { .. } => ErrorKind::Invalid,
            Self::Unexpected { .. } => ErrorKind::Bug,
            Self::Refused { kind, .. } => *kind,
        }
    }
}

impl From<RocksError> for BackingError {
    fn from(error: RocksError) -> Self {
        Box::new(error)
    }
}

/// What the texts of full disks, quotas and file size limits have in common.
const NO_ROOM: [&str; 3] = [
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
];

/// What is being done, and where: makes errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) operation: &'static str,
    pub(crate) dir: &'a Path,
}

impl At<'_> {
    fn parts(self, reason: &dyn fmt::Display) -> (&'static str, PathBuf, String) {
        (self.operation, self.dir.to_owned(), reason.to_string())
    }

    pub(crate) fn no_room(self, reason: impl fmt::Display) -> RocksError {
        let (operation, dir, reason) = self.parts(&reason);
        RocksError::NoRoom {
            operation,
            dir,
            reason,
        }
    }

    pub(crate) fn disk(self, reason: impl fmt::Display) -> RocksError {
        let (operation, dir, reason) = self.parts(&reason);
        RocksError::Disk {
            operation,
            dir,
            reason,
        }
    }

    pub(crate) fn damaged(self, reason: impl fmt::Display) -> RocksError {
        let (operation, dir, reason) = self.parts(&reason);
        RocksError::Damaged {
            operation,
            dir,
            reason,
        }
    }

    /// Files of another version.
    pub(crate) fn form(self, family: &str) -> RocksError {
        RocksError::Form {
            operation: self.operation,
            dir: self.dir.to_owned(),
            family: family.to_owned(),
        }
    }

    pub(crate) fn unexpected(self, reason: impl fmt::Display) -> RocksError {
        let (operation, dir, reason) = self.parts(&reason);
        RocksError::Unexpected {
            operation,
            dir,
            reason,
        }
    }

    /// An error of a file operation of our own.
    pub(crate) fn io(self, error: &io::Error) -> RocksError {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => self.no_room(error),
            _ => self.disk(error),
        }
    }

    /// An error of a store that runs.
    pub(crate) fn status(self, error: &rocksdb::Error) -> RocksError {
        use rocksdb::ErrorKind as Status;
        let text = error.as_ref();
        if NO_ROOM.iter().any(|no_room| text.contains(no_room)) {
            return self.no_room(text);
        }
        match error.kind() {
            Status::IOError => self.disk(text),
            Status::Corruption => self.damaged(text),
            _ => self.unexpected(text),
        }
    }

    /// An error of opening files that were handed in: what is missing or not understood is damaged.
    pub(crate) fn status_of_files(self, error: &rocksdb::Error) -> RocksError {
        use rocksdb::ErrorKind as Status;
        let text = error.as_ref();
        let is_foreign = matches!(
            error.kind(),
            Status::InvalidArgument | Status::NotSupported | Status::NotFound
        );
        if is_foreign || text.contains("No such file or directory") {
            return self.damaged(text);
        }
        self.status(error)
    }

    /// What RocksDB logged of an error in the background; `None` = it said nothing.
    pub(crate) fn logged(self, said: Option<&str>) -> RocksError {
        let text = said.unwrap_or("an error in the background that was not logged");
        if NO_ROOM.iter().any(|no_room| text.contains(no_room)) {
            self.no_room(text)
        } else if text.contains("Corruption") {
            self.damaged(text)
        } else {
            self.disk(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_the_background_is_of_the_kind_that_the_log_says() {
        let at = At {
            operation: "a write",
            dir: Path::new("/state"),
        };
        let kind = |said| at.logged(said).kind();
        let full = "Waiting after background flush error: IO error: No space left on device: While appending";
        assert_eq!(kind(Some(full)), ErrorKind::Exhausted);
        let damaged =
            "Waiting after background compaction error: Corruption: block checksum mismatch";
        assert_eq!(kind(Some(damaged)), ErrorKind::Corrupt);
        assert_eq!(
            kind(Some("IO error: Input/output error")),
            ErrorKind::Transient
        );
        assert_eq!(kind(None), ErrorKind::Transient);
    }

    #[test]
    fn a_message_names_the_directory_and_the_next_step() {
        let at = At {
            operation: "a write",
            dir: Path::new("/state/db-1"),
        };
        let message = at
            .io(&io::Error::from(io::ErrorKind::StorageFull))
            .to_string();
        assert!(message.contains("`/state/db-1`"), "{message}");
        assert!(message.contains("free space there"), "{message}");
    }
}
