//! Snapshots of keyed state: what a subtask hands to a checkpoint, and the bytes of it.
//!
//! Two steps: the slot thread saves rows ([`UnsealedSnapshot`]); [`UnsealedSnapshot::seal`], on any thread, sorts the
//! rows of each key group by encoded key and sums them up ([`KeyedSnapshot`]). So the bytes of a key group depend on its
//! content only: not on the backend, the parallelism or the history.

mod digest;
mod format;
pub(crate) mod rows;
pub(crate) mod schema_bytes;

use std::ops::Range;
use std::sync::Arc;

use highwater_types::key::hash_bytes;
use highwater_types::{
    CheckpointId, DecodeError, KeyGroup, KeyGroupRange, MaxParallelism, OperatorUid, Schema,
};

pub use self::digest::canonical_digest;
use self::rows::{Distinct, GroupRows};
use crate::backing::FrozenRows;
use crate::cell::CellForm;
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::error::{StateError, StateName};

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

    fn raw(name: &str) -> Self {
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

/// The rows of one state and key group: sorted by encoded key, framed, summed up.
#[derive(Clone, Debug)]
pub struct GroupBlock {
    /// The key group.
    pub group: KeyGroup,
    /// How many rows.
    pub count: u64,
    /// XXH3-64 of the bytes.
    pub checksum: u64,
    buffer: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl GroupBlock {
    fn new(group: KeyGroup, count: u64, bytes: Vec<u8>) -> Self {
        Self {
            group,
            count,
            checksum: hash_bytes(&bytes).0,
            range: 0..bytes.len(),
            buffer: Arc::new(bytes),
        }
    }

    /// The bytes, unchecked.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    /// The bytes, if they have their checksum.
    ///
    /// # Errors
    /// `Corrupt` otherwise.
    pub fn verified(&self, name: &StateName) -> Result<&[u8], StateError> {
        let found = hash_bytes(self.bytes()).0;
        if found != self.checksum {
            return Err(StateError::Checksum {
                what: format!("key group {} of {name}", self.group),
                expected: self.checksum,
                found,
            });
        }
        Ok(self.bytes())
    }
}

/// One state of one subtask: its header and its non-empty key groups in order.
#[derive(Clone, Debug)]
pub struct StateBlock {
    /// The header.
    pub header: StateHeader,
    /// The groups that hold anything.
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

/// Where the rows of an unsealed state are.
pub(crate) enum SavedRows {
    /// In memory, in the order in which they were saved.
    Rows(GroupRows),
    /// In a store that has been frozen.
    Frozen {
        rows: Box<dyn FrozenRows>,
        range: KeyGroupRange,
        form: CellForm,
        recode: RecodeCell,
    },
}

type RecodeRow<'a> = dyn Fn(&[u8], &mut Vec<u8>) -> Result<bool, DecodeError> + 'a;

type RecodeCell = fn(&[u8], &CellForm, &mut Vec<u8>) -> Result<bool, DecodeError>;

/// One state, saved and not yet sorted.
pub struct UnsealedState {
    pub(crate) uid: OperatorUid,
    pub(crate) header: StateHeader,
    pub(crate) rows: SavedRows,
}

/// The keyed state of one subtask, saved and not yet sorted. May go to another thread to be sealed.
pub struct UnsealedSnapshot {
    pub(crate) uid: OperatorUid,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) range: KeyGroupRange,
    pub(crate) checkpoint: CheckpointId,
    pub(crate) states: Vec<UnsealedState>,
    pub(crate) carried: Vec<StateBlock>,
    pub(crate) raw: Vec<RawKeyGroupState>,
}

impl UnsealedSnapshot {
    /// The checkpoint.
    pub const fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    /// Sorts and sums up: makes the bytes canonical.
    ///
    /// # Errors
    /// `Bug` when a key occurs twice; of the store's kind when a frozen store cannot be read.
    pub fn seal(self) -> Result<KeyedSnapshot, StateError> {
        let mut states = self.carried;
        for state in self.states {
            states.push(state.seal()?);
        }
        for raw in self.raw {
            states.push(seal_raw(raw));
        }
        states.sort_by(|a, b| a.header.name.cmp(&b.header.name));
        Ok(KeyedSnapshot {
            uid: self.uid,
            max_parallelism: self.max_parallelism,
            range: self.range,
            checkpoint: self.checkpoint,
            states,
        })
    }
}

fn seal_raw(raw: RawKeyGroupState) -> StateBlock {
    let mut groups: Vec<_> = raw
        .groups
        .into_iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(group, bytes)| GroupBlock::new(group, 1, bytes))
        .collect();
    groups.sort_by_key(|block| block.group);
    StateBlock {
        header: StateHeader::raw(&raw.name),
        groups,
    }
}

impl UnsealedState {
    fn name(&self) -> StateName {
        StateName {
            uid: self.uid.clone(),
            state: self.header.name.clone(),
        }
    }

    pub(crate) fn seal(self) -> Result<StateBlock, StateError> {
        let name = self.name();
        let rows = match self.rows {
            SavedRows::Rows(rows) => rows,
            SavedRows::Frozen {
                mut rows,
                range,
                form,
                recode,
            } => thaw(&name, rows.as_mut(), range, &|bytes, out| {
                recode(bytes, &form, out)
            })?,
        };
        let mut groups = Vec::new();
        for (group, buffer) in rows.range.groups().zip(rows.groups) {
            if buffer.count == 0 {
                continue;
            }
            let what = || format!("key group {group} of {name}");
            let (bytes, distinct) = buffer.sorted().map_err(|source| StateError::Decode {
                what: what(),
                source,
            })?;
            if distinct == Distinct::No {
                return Err(StateError::DuplicateKey { what: what() });
            }
            groups.push(GroupBlock::new(group, buffer.count, bytes));
        }
        Ok(StateBlock {
            header: self.header,
            groups,
        })
    }
}

/// Reads all rows of a frozen store into canonical form.
fn thaw(
    name: &StateName,
    frozen: &mut dyn FrozenRows,
    range: KeyGroupRange,
    recode: &RecodeRow<'_>,
) -> Result<GroupRows, StateError> {
    let mut rows = GroupRows::new(range);
    let mut refused = Ok(());
    let mut value = Vec::new();
    frozen
        .visit(&mut |key, bytes| {
            value.clear();
            match recode(bytes, &mut value) {
                Ok(true) => {
                    rows.push(key.group, &key.bytes, &value);
                }
                Ok(false) => {}
                Err(source) => {
                    refused = Err(StateError::Decode {
                        what: format!("a row of {name} in key group {}", key.group),
                        source,
                    });
                }
            }
        })
        .map_err(|source| StateError::Backing {
            name: name.clone(),
            operation: "read from",
            kind: source.kind(),
            source,
        })?;
    refused.map(|()| rows)
}
