//! Files of a checkpoint: how a worker stores its part, and fetches and verifies what it restores.
//!
//! Runs at the rim. Every path holds epoch and attempt, so a zombie overwrites nothing; nothing is used before length
//! and checksum were compared with the manifest. In reading order: the objects of a job, a task's part and how it is stored
//! ([`store_part`]), what an attempt remembers of its checkpoints ([`AttemptFiles`]), the restore ([`restore`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use highwater_connectors::Split;
use highwater_operators::{Collected, ListStateSnapshot, Redistribution};
use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::TaskId;
use highwater_protocol::manifest::{FileEntry, ListMode};
use highwater_protocol::paths::{JobPaths, RelativePath};
use highwater_protocol::shared_files::Referable;
use highwater_storage::digest::{FileDigest, get_verified};
use highwater_storage::{ObjectPath, ObjectStorage, StorageError};
use highwater_types::{AttemptId, CheckpointId, KeyGroupRange, OperatorUid};
use tokio::sync::{Semaphore, SemaphorePermit};

mod attempt;
mod error;
mod logs;
mod restore;
mod store;

pub use attempt::{AttemptFiles, KeptFiles};
pub use error::{PartError, RestoreError};
pub use logs::BlockingLogs;
pub use restore::{LocalPlace, Restored, restore};
pub use store::{StoredPart, store_part};

/// Objects that one task stores, or one restore fetches, at once.
const OBJECTS_AT_ONCE: usize = 3;

/// Bytes of such objects that a worker holds in memory at once unless it is told otherwise.
const ROOM_BYTES: u64 = 32 << 20;
/// Room is counted in pieces of so many bytes.
const ROOM_PIECE: u64 = 1 << 10;

/// The files of one job.
#[derive(Clone, Debug)]
pub struct JobFiles {
    storage: Arc<dyn ObjectStorage>,
    paths: JobPaths,
    room: Arc<Semaphore>,
    /// All pieces of `room`.
    pieces: u32,
}

impl JobFiles {
    /// The files below the prefix of a job.
    pub fn new(storage: Arc<dyn ObjectStorage>, paths: JobPaths) -> Self {
        Self {
            storage,
            paths,
            room: Arc::new(Semaphore::new(0)),
            pieces: 0,
        }
        .with_room(ROOM_BYTES)
    }

    /// Holds objects of about so many bytes in memory at once, on their way from or to local disk. One of a local store is at most
    /// about the size of one of its files, or of a pack of small ones. One that is larger than the room goes alone: a snapshot
    /// of a heap, all the state of a subtask, when a local store takes it in.
    #[must_use]
    pub fn with_room(self, bytes: u64) -> Self {
        let pieces = pieces_of(bytes).max(1);
        Self {
            room: Arc::new(Semaphore::new(pieces as usize)),
            pieces,
            ..self
        }
    }

    fn object(&self, path: &RelativePath) -> Result<ObjectPath, StorageError> {
        ObjectPath::parse(&self.paths.object(path))
    }

    /// Waits until an object of `bytes` may be in memory.
    async fn room(&self, bytes: u64) -> SemaphorePermit<'_> {
        let room = self.room.acquire_many(pieces_of(bytes).min(self.pieces));
        room.await
            .unwrap_or_else(|_| unreachable!("it is never closed"))
    }

    /// Whether an object is there with its length. Says nothing about its bytes.
    async fn is_there(&self, path: &RelativePath, entry: FileEntry) -> Result<bool, StorageError> {
        let found = self.storage.stat(&self.object(path)?).await?;
        Ok(found.is_some_and(|found| found.length == entry.length))
    }

    /// Stores an object under a name that nobody else uses.
    pub async fn store(
        &self,
        path: &RelativePath,
        bytes: Bytes,
    ) -> Result<FileEntry, StorageError> {
        let entry = FileEntry {
            length: bytes.len() as u64,
            checksum: ContentHash::of(&bytes),
        };
        self.storage.put(&self.object(path)?, bytes).await?;
        Ok(entry)
    }

    /// Reads an object and compares it with what the manifest says of it.
    pub async fn fetch(
        &self,
        path: &RelativePath,
        entry: FileEntry,
    ) -> Result<Bytes, StorageError> {
        let digest = FileDigest {
            length: entry.length,
            checksum: entry.checksum.0,
        };
        get_verified(self.storage.as_ref(), &self.object(path)?, digest).await
    }
}

fn pieces_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(ROOM_PIECE)).unwrap_or(u32::MAX)
}

/// Runs file work on a thread that may block, and waits for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StorageError> {
    finished(tokio::task::spawn_blocking(work).await)
}

/// What a task of the runtime came to: a panic goes on, and a runtime that ends is told.
fn finished<T>(done: Result<T, tokio::task::JoinError>) -> Result<T, StorageError> {
    done.map_err(|lost| match lost.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(lost) => StorageError::Unavailable {
            operation: "file work",
            object: "a checkpoint".to_owned(),
            reason: format!("the process is ending: {lost}"),
        },
    })
}

/// A task's part of a checkpoint, before it is stored.
pub struct TaskPart {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The key groups of the task.
    pub range: KeyGroupRange,
    /// The state of its operators.
    pub operators: Collected,
    /// What the files of each operator's local store may refer to: one answer for each restored store from which it may have
    /// gone on.
    pub referable: BTreeMap<OperatorUid, Vec<Referable>>,
    /// The positions of a source.
    pub splits: Option<Vec<Split>>,
}

/// List state as it is in a manifest, for one operator subtask.
pub fn list_snapshot(name: String, mode: ListMode, items: Vec<Vec<u8>>) -> ListStateSnapshot {
    let redistribution = match mode {
        ListMode::Split => Redistribution::Split,
        ListMode::Union | ListMode::Broadcast => Redistribution::Union,
    };
    ListStateSnapshot {
        name,
        redistribution,
        items,
    }
}

#[cfg(test)]
mod tests;
