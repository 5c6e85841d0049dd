//! The engine's own messages on the wire: MessagePack with names, as serde derives it.
//!
//! Both sides are the same version, so nothing here must be read by another. Names are kept all the same: a message is
//! debugged by looking at it, and these are few.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// No message is larger, in bytes: a checkpoint part of a task with many thousands of files is a few megabytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a message of {bytes} bytes cannot be read")]
pub struct Unreadable {
    /// Its length.
    pub bytes: usize,
    /// What is wrong with it.
    #[source]
    pub source: rmp_serde::decode::Error,
}

/// Encodes a message.
///
/// # Panics
/// If the type cannot be encoded at all: no message holds such a type.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(message)
        .unwrap_or_else(|error| panic!("a control message is encoded: {error}"))
}

/// Decodes a message.
///
/// # Errors
/// When the bytes are none of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    rmp_serde::from_slice(bytes).map_err(|source| Unreadable {
        bytes: bytes.len(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use highwater_protocol::hash::ContentHash;
    use highwater_protocol::head_write::Authority;
    use highwater_protocol::job::{TaskId, TaskSnapshot};
    use highwater_protocol::manifest::{
        FileEntry, FilePart, HexBytes, KeyedFile, SlotOutput, StoreParts,
    };
    use highwater_protocol::paths::RelativePath;
    use highwater_protocol::recovery::UnmatchedState;
    use highwater_protocol::stop::{NamedStop, SlotKey};
    use highwater_types::{
        AttemptId, CheckpointId, Epoch, ErrorKind, KeyGroupRange, Lineage, OperatorUid,
        Parallelism, SubtaskIndex, Watermark,
    };
    use highwater_worker::{
        AttemptFigures, Deployment, FailureReport, History, LoopFigures, OperatorSubtask, Pauses,
        RestoredKeyed, RestoredState, RestoredStore, Standing, TaskFigures, WorkerCommand,
        WorkerEvent,
    };

    use super::*;

    fn uid() -> OperatorUid {
        OperatorUid::parse("count").unwrap()
    }

    fn id() -> CheckpointId {
        CheckpointId {
            number: 3,
            epoch: Epoch(2),
        }
    }

    fn slot() -> SlotKey {
        SlotKey {
            sink: uid(),
            slot: 1,
        }
    }

    fn parts() -> (RelativePath, FileEntry, StoreParts) {
        let path = RelativePath::parse("data/1-1/count.0/1-keyed.0").unwrap();
        let entry = FileEntry {
            length: 7,
            checksum: ContentHash(9),
        };
        let part = FilePart {
            name: "1.sst".to_owned(),
            is_immutable: true,
            path: path.clone(),
            offset: 0,
            length: 2,
            checksum: ContentHash(3),
        };
        let parts = StoreParts {
            store: "rocksdb".to_owned(),
            parts: vec![part],
        };
        (path, entry, parts)
    }

    fn same<T: Serialize + DeserializeOwned + std::fmt::Debug>(message: &T) {
        let back: T = decode(&encode(message)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{message:?}"));
    }

    #[test]
    fn a_deployment_with_everything_in_it_comes_back() {
        let (path, entry, parts) = parts();
        let of = OperatorSubtask {
            uid: uid(),
            subtask: SubtaskIndex(2),
        };
        let store = Some(RestoredStore {
            parts,
            objects: BTreeMap::from([(path.clone(), entry)]),
        });
        let keyed = vec![RestoredKeyed { path, entry, store }];
        let state = RestoredState {
            keyed,
            lists: Vec::new(),
        };
        same(&WorkerCommand::Prepare(Box::new(Deployment {
            epoch: Epoch(1),
            attempt: AttemptId(5),
            shape: ContentHash(1),
            parallelism: BTreeMap::from([(uid(), Parallelism(3))]),
            lineage: Lineage(u128::MAX),
            restored: id(),
            history: History::Restored,
            unmatched: UnmatchedState::Refuse,
            states: BTreeMap::from([(of, state)]),
            splits: BTreeMap::new(),
            complete: vec![uid()],
            markers: BTreeMap::new(),
            logs: Vec::new(),
            standing: Standing::Alone,
        })));
    }

    #[test]
    fn what_a_task_acknowledges_comes_back() {
        let (path, entry, store) = parts();
        let keyed = KeyedFile {
            path: path.clone(),
            range: KeyGroupRange { start: 0, end: 9 },
            groups: Vec::new(),
            store: Some(store),
        };
        let mut snapshot = TaskSnapshot::default();
        snapshot.files.insert(path, entry);
        snapshot.keyed.insert(uid(), vec![keyed]);
        snapshot.outputs.insert(slot(), SlotOutput::Empty);
        let positions = BTreeMap::from([("in-0".to_owned(), HexBytes(vec![0, 255]))]);
        snapshot.splits.insert(uid(), positions);
        let task = TaskId {
            vertex: uid(),
            subtask: SubtaskIndex(0),
        };
        same(&WorkerEvent::Acked {
            task,
            attempt: AttemptId(1),
            id: id(),
            snapshot: Box::new(snapshot),
        });
    }

    #[test]
    fn what_ends_things_comes_back() {
        same(&WorkerEvent::Stop(
            AttemptId(1),
            NamedStop::StateBehindOutput {
                slot: slot(),
                marker: 9,
                head: 8,
            },
        ));
        let report = FailureReport {
            task: "count".to_owned(),
            subtask: SubtaskIndex(1),
            worker: Some("1 (left)".to_owned()),
            position: Some("in-0 at 17".to_owned()),
            kind: ErrorKind::Bug,
            message: "panicked".to_owned(),
        };
        same(&WorkerEvent::Failed(AttemptId(1), Box::new(report)));
        same(&WorkerCommand::Authority(
            AttemptId(1),
            slot(),
            Authority::Current,
        ));
    }

    #[test]
    fn figures_come_back_with_their_attempt() {
        let task = TaskId {
            vertex: uid(),
            subtask: SubtaskIndex(0),
        };
        let figures = TaskFigures {
            name: "count".to_owned(),
            shares_ms: (1, 2, 3),
            blocked_on: Some("out".to_owned()),
            watermark: Watermark::MIN,
            pauses: Pauses::default(),
            control: LoopFigures::default(),
            source: None,
            operators: Vec::new(),
        };
        same(&AttemptFigures {
            attempt: AttemptId(7),
            tasks: BTreeMap::from([(task, figures)]),
        });
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let refused = decode::<WorkerEvent>(b"\xc1nonsense").unwrap_err();
        assert_eq!(refused.bytes, 9);
    }
}
