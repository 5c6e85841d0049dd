//! Snapshots of keyed state: what a subtask hands to a checkpoint, and the bytes of it.
//!
//! Two steps: the slot thread saves rows ([`UnsealedSnapshot`]); sealing, on any thread, sorts the rows of each key group
//! by encoded key and sums them up ([`KeyedSnapshot`]). So the bytes of a key group depend on its content only: not on
//! the backend, the parallelism or the history. Where a local store holds the rows, sealing may leave them there and hand
//! out its files instead ([`SealedInStore`]).

mod block;
mod digest;
mod format;
pub(crate) mod order;
pub(crate) mod rows;
pub(crate) mod schema_bytes;
mod seal;

use highwater_types::{CheckpointId, KeyGroup, KeyGroupRange, MaxParallelism, OperatorUid, Schema};

pub use self::block::GroupBlock;
pub use self::digest::canonical_digest;
pub use self::order::RowOrder;
pub(crate) use self::seal::{SavedRows, StoreView};
pub use self::seal::{SealedInStore, SealedPieces, UnsealedSnapshot, UnsealedState};
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};

/// Bytes of one key group that only their owner understands, saved and restored beside the states: timers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawKeyGroupState {
    /// The name, unique among the states of the operator.
    pub name: String,
    /// The bytes of each key group that has any.
    pub groups: Vec<(KeyGroup, Vec<u8>)>,
}

/// What a snapshot says about one state before its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateHeader {
    /// The name.
    pub name: String,
    /// What it holds.
    pub kind: StateKind,
    /// Whether values carry their last access.
    pub timed: bool,
    /// Its schemas, as they were when it was written.
    pub schemas: StateSchemas,
}

impl StateHeader {
    pub(crate) fn of(descriptor: &StateDescriptor) -> Self {
        Self {
            name: descriptor.name.clone(),
            kind: descriptor.kind,
            timed: descriptor.ttl.is_some(),
            schemas: descriptor.schemas.clone(),
        }
    }

    pub(crate) fn raw(name: &str) -> Self {
        let unit = || Schema::new(highwater_types::DataType::Unit);
        Self {
            name: name.to_owned(),
            kind: StateKind::Raw,
            timed: false,
            schemas: StateSchemas {
                key: unit(),
                namespace: unit(),
                values: Vec::new(),
            },
        }
    }
}

/// Where the rows of one state of a snapshot are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsPlace {
    /// In the snapshot, by key group.
    Here,
    /// In the files of a local store that go with the snapshot, in this order.
    InStore(RowOrder),
}

/// One state of one subtask: its header and its non-empty key groups in order.
#[derive(Clone, Debug)]
pub struct StateBlock {
    /// The header.
    pub header: StateHeader,
    /// Where the rows are.
    pub place: RowsPlace,
    /// The groups that hold anything; none when the rows are in a store.
    pub groups: Vec<GroupBlock>,
}

/// The keyed state of one subtask at a checkpoint, canonical and summed up.
#[derive(Clone, Debug)]
pub struct KeyedSnapshot {
    /// The operator.
    pub uid: OperatorUid,
    /// The number of key groups of the operator.
    pub max_parallelism: MaxParallelism,
    /// The key groups that this snapshot speaks for, also where it holds nothing of them.
    pub range: KeyGroupRange,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The states, in order of name.
    pub states: Vec<StateBlock>,
}
