//! What one operator subtask puts into a checkpoint, and gets back from one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use highwater_state::{LocalDir, StoreFiles};
use highwater_types::KeyGroupRange;
use serde::{Deserialize, Serialize};

use crate::error::OperatorError;

/// How list state is dealt out when the parallelism changes.
///
/// Source: Flink operator state, `getListState` and `getUnionListState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Redistribution {
    /// The concatenated list is split evenly, in order.
    Split,
    /// Every subtask gets the whole list.
    Union,
}

/// One named list of opaque items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStateSnapshot {
    /// The name, unique within the operator.
    pub name: String,
    /// How it is dealt out.
    pub redistribution: Redistribution,
    /// The items, encoded by the operator.
    pub items: Vec<Vec<u8>>,
}

/// A piece of the keyed state of one operator subtask, timers included. Its bytes are a snapshot file in the format of
/// `highwater-state`, self-describing and checksummed.
pub enum KeyedPart {
    /// A snapshot file in memory.
    Bytes(Vec<u8>),
    /// A snapshot file that says of some states that their rows lie in the files of a local store.
    InStore {
        /// The snapshot file.
        head: Vec<u8>,
        /// The files of the store.
        files: StoreFiles,
    },
    /// Snapshot files of ranges of key groups, made one after another while they are stored.
    Pieces(Box<dyn SnapshotPieces>),
}

impl fmt::Debug for KeyedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::InStore { head, files } => {
                write!(
                    f,
                    "InStore({} bytes, {} files)",
                    head.len(),
                    files.files.len()
                )
            }
            Self::Pieces(_) => f.write_str("Pieces"),
        }
    }
}

/// A piece of restored keyed state, verified.
#[derive(Clone, Debug)]
pub enum RestoredPart {
    /// A snapshot file in memory.
    Bytes(Arc<Vec<u8>>),
    /// A snapshot file on local disk, in a directory that lives as long as it is wanted.
    File {
        /// Its name in the directory.
        name: String,
        /// What holds it.
        dir: LocalDir,
    },
    /// A snapshot file that says of some states that their rows lie in the files of a local store.
    InStore {
        /// The snapshot file.
        head: Arc<Vec<u8>>,
        /// The files of the store.
        files: StoreFiles,
    },
}

/// What one operator subtask gets back from a checkpoint: the keyed files that hold a key group of it, and its share of
/// the lists.
#[derive(Clone, Debug, Default)]
pub struct RestoredOperator {
    /// Keyed state with timers.
    pub keyed: Vec<RestoredPart>,
    /// Operator state.
    pub lists: Vec<ListStateSnapshot>,
}

impl RestoredOperator {
    /// The items of a named list, or none.
    pub fn list(&self, name: &str) -> &[Vec<u8>] {
        items_of(&self.lists, name)
    }
}

fn items_of<'a>(lists: &'a [ListStateSnapshot], name: &str) -> &'a [Vec<u8>] {
    let list = lists.iter().find(|list| list.name == name);
    list.map_or(&[], |list| &list.items)
}

/// Makes the snapshot files of a large state one after another, so that they are never all in memory. Called on a thread
/// that may block.
pub trait SnapshotPieces: Send {
    /// The next snapshot file with the key groups that it speaks for; `None` behind the last. Together they speak for all
    /// key groups of the subtask, each once.
    ///
    /// # Errors
    /// Of the kind of what the state reports; the checkpoint fails with it.
    fn next_piece(&mut self) -> Result<Option<(KeyGroupRange, Vec<u8>)>, OperatorError>;
}

/// The state of one operator subtask at a barrier. Empty for a stateless one.
#[derive(Debug, Default)]
pub struct OperatorSnapshot {
    /// Keyed state with timers.
    pub keyed: Vec<KeyedPart>,
    /// Operator state.
    pub lists: Vec<ListStateSnapshot>,
    /// How long records waited, at the longest, for this state to be fixed; not stored.
    pub waited: Duration,
}

impl OperatorSnapshot {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.lists.is_empty()
    }

    /// The items of a named list, or none.
    pub fn list(&self, name: &str) -> &[Vec<u8>] {
        items_of(&self.lists, name)
    }
}

/// What one portion of a snapshot came to.
#[derive(Debug)]
pub enum SnapshotStep {
    /// The snapshot is whole.
    Whole(OperatorSnapshot),
    /// There is more to do: call again at the next turn.
    More,
    /// Another thread works on it, or still on one that was given up, and wakes this one when it is done: a call before that does
    /// nothing.
    Waits,
}
