//! Why a task's part of a checkpoint could not be stored, or the state of an attempt not be fetched.

use std::io;
use std::path::{Path, PathBuf};

use highwater_operators::OperatorError;
use highwater_protocol::paths::RelativePath;
use highwater_storage::StorageError;
use highwater_types::{Classified, ErrorKind, KeyGroupRange, OperatorUid};

use crate::local_dirs::LocalDirError;

/// A part of a checkpoint is not stored.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The store of objects does not take it.
    #[error("the state cannot be stored")]
    Storage(#[from] StorageError),
    /// A file of the local store cannot be read.
    #[error("file {} of the local store cannot be read; check the disk", path.display())]
    LocalFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the local store is not what the store says of it.
    #[error(
        "file {} of the local store holds {found} bytes, the store wrote {wanted}; state is built again from the last checkpoint, check \
         the disk if this comes back", path.display()
    )]
    LocalLength {
        /// The file.
        path: PathBuf,
        /// Bytes, as the store says.
        wanted: u64,
        /// Bytes that are there, or more than that.
        found: u64,
    },
    /// A file that the local store was restored with has other bytes than the checkpoint that it came from.
    #[error(
        "file {} of the local store is not any more what the checkpoint said that it came from; state is built again from the last \
         checkpoint, check the disk", path.display()
    )]
    LocalChanged {
        /// The file.
        path: PathBuf,
    },
    /// The state cannot be read.
    #[error("the state of operator {uid} cannot be written out")]
    State {
        /// The operator.
        uid: OperatorUid,
        /// Why.
        #[source]
        source: Box<OperatorError>,
    },
    /// The pieces of a snapshot do not make up the whole.
    #[error(
        "the snapshot of operator {uid} holds key groups {found} behind {start} of {wanted}; this is a defect, report it"
    )]
    Pieces {
        /// The operator.
        uid: OperatorUid,
        /// The key groups of the subtask.
        wanted: KeyGroupRange,
        /// The first key group that no piece held so far.
        start: u16,
        /// What came then.
        found: String,
    },
}

impl PartError {
    pub(super) fn local(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        |source| Self::LocalFile { path, source }
    }

    /// Whether the attempt is over and not only its checkpoint: the state itself is broken, and is rebuilt from the last one. A file of a
    /// local store that cannot be read is part of the next checkpoint too, unless it was the process that could open no more.
    pub fn ends_attempt(&self) -> bool {
        match self {
            Self::State { source, .. } => {
                !matches!(source.kind(), ErrorKind::Transient | ErrorKind::Exhausted)
            }
            Self::LocalFile { source, .. } => !is_out_of_files(source),
            Self::LocalLength { .. } | Self::LocalChanged { .. } | Self::Pieces { .. } => true,
            Self::Storage(_) => false,
        }
    }
}

/// Whether the process or the system has as many files open as it may.
fn is_out_of_files(error: &io::Error) -> bool {
    let errors = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    errors
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Classified for PartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Storage(source) => source.kind(),
            Self::LocalFile { .. } | Self::LocalLength { .. } | Self::LocalChanged { .. } => {
                ErrorKind::Transient
            }
            // Local disk is a cache: the state is built again from the last checkpoint.
            Self::State { source, .. } if source.kind() == ErrorKind::Corrupt => {
                ErrorKind::Transient
            }
            Self::State { source, .. } => source.kind(),
            Self::Pieces { .. } => ErrorKind::Bug,
        }
    }
}

/// The state of an attempt is not here.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An object is damaged or missing, or the store does not answer.
    #[error("the state cannot be fetched")]
    Storage(#[from] StorageError),
    /// A file inside a sound object is not what the manifest says of it.
    #[error(
        "file `{name}` inside object {path} has another checksum than the manifest says; go back to an older checkpoint"
    )]
    Part {
        /// The file.
        name: String,
        /// The object.
        path: RelativePath,
    },
    /// Local disk does not take it.
    #[error("the state cannot be written to local disk")]
    Local(#[from] LocalDirError),
    /// There is no local disk to put it on.
    #[error(
        "file {path} of the checkpoint needs files of the store `{store}` beside it, and this worker has no local directory for \
         them: the program was built without the feature `{store}`, or `state.local-dir` cannot be used"
    )]
    NoLocalDir {
        /// The file.
        path: RelativePath,
        /// The store that wrote its files.
        store: String,
    },
}

impl Classified for RestoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Storage(source) => source.kind(),
            Self::Part { .. } => ErrorKind::Corrupt,
            Self::Local(source) => source.kind(),
            Self::NoLocalDir { .. } => ErrorKind::Invalid,
        }
    }
}
