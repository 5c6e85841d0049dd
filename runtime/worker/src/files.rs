//! Files of a checkpoint: how a worker stores its part, and fetches and verifies what it restores.
//!
//! Runs at the rim. Every path holds epoch and attempt, so a zombie overwrites nothing; nothing is used before length
//! and checksum were compared with the manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use highwater_connectors::Split;
use highwater_operators::{
    Collected, KeyedPart, ListStateSnapshot, Redistribution, RestoredOperator, RestoredPart,
};
use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::manifest::{
    Blob, FileEntry, HexBytes, KeyedFile, ListMode, ListState, LogObject,
};
use highwater_protocol::paths::{DataWriter, JobPaths, RelativePath};
use highwater_storage::digest::{FileDigest, get_verified};
use highwater_storage::{ObjectPath, ObjectStorage, StorageError};
use highwater_types::{AttemptId, CheckpointId, Classified, ErrorKind, KeyGroupRange};

use crate::messages::RestoredState;
use crate::sink::{LogStore, LogStoreError};

/// The files of one job.
#[derive(Clone, Debug)]
pub struct JobFiles {
    storage: Arc<dyn ObjectStorage>,
    paths: JobPaths,
}

impl JobFiles {
    /// The files below the prefix of a job.
    pub fn new(storage: Arc<dyn ObjectStorage>, paths: JobPaths) -> Self {
        Self { storage, paths }
    }

    fn object(&self, path: &RelativePath) -> Result<ObjectPath, StorageError> {
        ObjectPath::parse(&self.paths.object(path))
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

    /// Fetches the state of one operator subtask.
    pub async fn restore(&self, state: RestoredState) -> Result<RestoredOperator, StorageError> {
        let mut keyed = Vec::with_capacity(state.keyed.len());
        for (path, entry) in state.keyed {
            let bytes = self.fetch(&path, entry).await?.to_vec();
            keyed.push(RestoredPart::Bytes(Arc::new(bytes)));
        }
        Ok(RestoredOperator {
            keyed,
            lists: state.lists,
        })
    }
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
    /// The positions of a source.
    pub splits: Option<Vec<Split>>,
}

/// Stores the files of a task's part; what they are goes into the manifest.
pub async fn store_part(files: &JobFiles, part: TaskPart) -> Result<TaskSnapshot, StorageError> {
    let mut snapshot = TaskSnapshot::default();
    for (uid, state) in part.operators {
        let writer = DataWriter {
            epoch: part.id.epoch,
            attempt: part.attempt,
            uid: uid.clone(),
            subtask: part.task.subtask,
        };
        for (at, piece) in state.keyed.into_iter().enumerate() {
            let bytes = match piece {
                KeyedPart::Bytes(bytes) => bytes,
                KeyedPart::InStore { .. } | KeyedPart::Pieces(_) => {
                    unreachable!("no local store is there yet")
                }
            };
            let path = writer.file(part.id.number, &format!("keyed.{at}"));
            let entry = files.store(&path, Bytes::from(bytes)).await?;
            snapshot.files.insert(path.clone(), entry);
            let file = KeyedFile {
                path,
                range: part.range,
                groups: Vec::new(),
            };
            snapshot.keyed.entry(uid.clone()).or_default().push(file);
        }
        for list in state.lists {
            let stored = ListState {
                name: list.name,
                mode: match list.redistribution {
                    Redistribution::Split => ListMode::Split,
                    Redistribution::Union => ListMode::Union,
                },
                subtask: part.task.subtask,
                elements: list
                    .items
                    .into_iter()
                    .map(|item| Blob::Inline(HexBytes(item)))
                    .collect(),
            };
            snapshot.lists.entry(uid.clone()).or_default().push(stored);
        }
    }
    if let Some(splits) = part.splits {
        let positions: BTreeMap<_, _> = splits
            .into_iter()
            .map(|split| (split.id.to_string(), HexBytes(split.position)))
            .collect();
        snapshot.splits.insert(part.task.vertex.clone(), positions);
    }
    Ok(snapshot)
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

/// The sink logs of a job, for driver threads.
pub struct BlockingLogs {
    files: JobFiles,
    rim: tokio::runtime::Handle,
}

impl BlockingLogs {
    /// Logs that are stored through the runtime at the rim.
    pub const fn new(files: JobFiles, rim: tokio::runtime::Handle) -> Self {
        Self { files, rim }
    }
}

fn log_error(operation: &'static str, path: &RelativePath, error: &StorageError) -> LogStoreError {
    let (path, reason) = (path.to_string(), crate::slot::error_chain(error));
    if error.kind() == ErrorKind::Corrupt {
        LogStoreError::Damaged { path, reason }
    } else {
        LogStoreError::Unavailable {
            operation,
            path,
            reason,
        }
    }
}

impl LogStore for BlockingLogs {
    fn store(&self, path: &RelativePath, bytes: Vec<u8>) -> Result<(), LogStoreError> {
        let stored = self
            .rim
            .block_on(self.files.store(path, Bytes::from(bytes)));
        stored
            .map(|_| ())
            .map_err(|error| log_error("store", path, &error))
    }

    fn fetch(&self, object: &LogObject) -> Result<Vec<u8>, LogStoreError> {
        let fetched = self
            .rim
            .block_on(self.files.fetch(&object.path, object.file));
        let bytes = fetched.map_err(|error| log_error("read", &object.path, &error))?;
        Ok(bytes.to_vec())
    }
}
