//! Sealing: how saved rows become the files of a checkpoint.
//!
//! Called off the slot thread. Three ways out of one snapshot: whole and canonical, canonical in pieces of a bounded size
//! (a savepoint of state that is larger than memory), or with the rows left in the files of the store that has them.

use highwater_types::{
    CheckpointId, DecodeError, KeyGroup, KeyGroupRange, MaxParallelism, OperatorUid,
};

use super::order::RowOrder;
use super::rows::{Distinct, GroupRows, RowBuffer};
use super::{GroupBlock, KeyedSnapshot, RawKeyGroupState, RowsPlace, StateBlock, StateHeader};
use crate::cell::CellForm;
use crate::error::{BackingError, StateError, StateName};
use crate::store::{Freezing, FrozenStore, StoreFiles};

/// Reads a stored cell and writes it as `form` says. Returns false when nothing of it lives.
pub(crate) type RecodeCell = fn(&[u8], &CellForm, &mut Vec<u8>) -> Result<bool, DecodeError>;

/// Where the rows of an unsealed state are.
pub(crate) enum SavedRows {
    /// In memory, in the order in which they were saved.
    Rows(GroupRows),
    /// In memory, sealed before.
    Blocks(Vec<GroupBlock>),
    /// In the store of the subtask, in this order; `None` = values are written as they are.
    InStore(RowOrder, Option<(CellForm, RecodeCell)>),
}

/// One state, saved and not yet sorted.
pub struct UnsealedState {
    pub(crate) header: StateHeader,
    pub(crate) rows: SavedRows,
}

/// The store of the subtask on its way to be read.
pub(crate) enum StoreView {
    /// All rows are in memory.
    None,
    /// It is to be frozen.
    Freezing(Box<dyn Freezing>),
    /// It is frozen.
    Frozen(Box<dyn FrozenStore>),
}

/// The keyed state of one subtask, saved and not yet sorted. May go to another thread to be frozen and sealed.
pub struct UnsealedSnapshot {
    pub(crate) uid: OperatorUid,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) range: KeyGroupRange,
    pub(crate) checkpoint: CheckpointId,
    pub(crate) states: Vec<UnsealedState>,
    pub(crate) store: StoreView,
}

/// A snapshot whose rows lie, for the most part, in the files of a store.
#[derive(Clone, Debug)]
pub struct SealedInStore {
    /// Everything but the rows in the store.
    pub head: KeyedSnapshot,
    /// The files of the store.
    pub files: StoreFiles,
}

/// A canonical snapshot that is made piece by piece.
pub struct SealedPieces {
    snapshot: UnsealedSnapshot,
    /// The first key group that is not sealed yet.
    next: u16,
    bytes_target: u64,
}

impl UnsealedSnapshot {
    /// The checkpoint.
    pub const fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    /// Whether rows lie in a store, so that it must be frozen before it may be written again.
    pub const fn is_in_store(&self) -> bool {
        !matches!(self.store, StoreView::None)
    }

    /// Freezes the store, if there is one. Until this returns nothing may be written to the store.
    ///
    /// # Errors
    /// Of the store's kind.
    pub fn freeze(&mut self) -> Result<(), StateError> {
        match std::mem::replace(&mut self.store, StoreView::None) {
            StoreView::Freezing(freezing) => {
                let frozen = freezing.freeze();
                let frozen = frozen.map_err(|source| self.store_error("freeze", source))?;
                self.store = StoreView::Frozen(frozen);
            }
            other => self.store = other,
        }
        Ok(())
    }

    /// Sorts and sums up everything: makes the bytes canonical.
    ///
    /// # Errors
    /// `Bug` when a key occurs twice; of the store's kind when it cannot be frozen or read.
    pub fn seal(mut self) -> Result<KeyedSnapshot, StateError> {
        self.freeze()?;
        let range = self.range;
        self.piece(range, u64::MAX).map(|(piece, _)| piece)
    }

    /// Seals piece by piece: each speaks for some key groups and has about `bytes_target` bytes, or one group.
    ///
    /// # Errors
    /// Of the store's kind when it cannot be frozen.
    pub fn into_pieces(mut self, bytes_target: u64) -> Result<SealedPieces, StateError> {
        self.freeze()?;
        Ok(SealedPieces {
            next: self.range.start,
            snapshot: self,
            bytes_target,
        })
    }

    /// Seals what is in memory and hands out the files of the store.
    ///
    /// # Errors
    /// `Bug` when a key occurs twice; of the store's kind when it cannot be frozen.
    ///
    /// # Panics
    /// If there is no store.
    pub fn seal_in_store(&mut self) -> Result<SealedInStore, StateError> {
        self.freeze()?;
        let mut states = Vec::new();
        for at in 0..self.states.len() {
            let mut groups = Vec::new();
            let place = if let SavedRows::InStore(order, _) = self.states[at].rows {
                RowsPlace::InStore(order)
            } else {
                for group in self.range.groups() {
                    groups.extend(self.block(at, group)?);
                }
                self.states[at].rows = SavedRows::Blocks(groups.clone());
                RowsPlace::Here
            };
            states.push(StateBlock {
                header: self.states[at].header.clone(),
                place,
                groups,
            });
        }
        let StoreView::Frozen(frozen) = &self.store else {
            panic!("only a snapshot of a store is left in its files");
        };
        let files = frozen.files();
        let files = files.map_err(|source| self.store_error("list the files of", source))?;
        Ok(SealedInStore {
            head: self.snapshot_of(self.range, states),
            files,
        })
    }

    fn snapshot_of(&self, range: KeyGroupRange, mut states: Vec<StateBlock>) -> KeyedSnapshot {
        states.sort_by(|a, b| a.header.name.cmp(&b.header.name));
        KeyedSnapshot {
            uid: self.uid.clone(),
            max_parallelism: self.max_parallelism,
            range,
            checkpoint: self.checkpoint,
            states,
        }
    }

    /// Seals key groups from the start of `range` on until `bytes_target` bytes are reached. Returns the piece and the
    /// first group behind it.
    fn piece(
        &mut self,
        range: KeyGroupRange,
        bytes_target: u64,
    ) -> Result<(KeyedSnapshot, u16), StateError> {
        let mut sealed: Vec<Vec<GroupBlock>> = self.states.iter().map(|_| Vec::new()).collect();
        let (mut end, mut bytes) = (range.start, 0);
        for group in range.groups() {
            for (at, groups) in sealed.iter_mut().enumerate() {
                if let Some(block) = self.block(at, group)? {
                    bytes += block.length();
                    groups.push(block);
                }
            }
            end = group.0 + 1;
            if bytes >= bytes_target {
                break;
            }
        }
        let headers = self.states.iter().map(|state| state.header.clone());
        let states = headers.zip(sealed).map(|(header, groups)| StateBlock {
            header,
            place: RowsPlace::Here,
            groups,
        });
        let states = states.collect();
        let range = KeyGroupRange {
            start: range.start,
            end,
        };
        Ok((self.snapshot_of(range, states), end))
    }

    /// The rows of one state and key group; `None` when there are none.
    fn block(&mut self, state: usize, group: KeyGroup) -> Result<Option<GroupBlock>, StateError> {
        let at = (group.0 - self.range.start) as usize;
        let name = StateName {
            uid: self.uid.clone(),
            state: self.states[state].header.name.clone(),
        };
        match &mut self.states[state].rows {
            SavedRows::Blocks(blocks) => {
                Ok(blocks.iter().find(|block| block.group == group).cloned())
            }
            SavedRows::Rows(rows) => {
                // Not needed behind this: the memory goes as the pieces come.
                let buffer = std::mem::take(&mut rows.groups[at]);
                sorted(&name, group, &buffer)
            }
            SavedRows::InStore(order, recode) => {
                // Never as if there were none: a freeze that failed leaves no view behind.
                let StoreView::Frozen(frozen) = &mut self.store else {
                    return Err(StateError::NoSnapshot {
                        uid: self.uid.clone(),
                    });
                };
                let buffer = thaw(&name, frozen.as_mut(), group, (*order, *recode))?;
                sorted(&name, group, &buffer)
            }
        }
    }

    fn store_error(&self, operation: &'static str, source: BackingError) -> StateError {
        StateError::Store {
            uid: self.uid.clone(),
            operation,
            kind: source.kind(),
            source,
        }
    }
}

impl SealedPieces {
    /// The next piece; `None` behind the last. Pieces come in order of key groups and cover all of the subtask.
    ///
    /// # Errors
    /// As [`UnsealedSnapshot::seal`].
    pub fn next_piece(&mut self) -> Result<Option<KeyedSnapshot>, StateError> {
        let left = KeyGroupRange {
            start: self.next,
            end: self.snapshot.range.end,
        };
        if left.start >= left.end {
            return Ok(None);
        }
        let (piece, next) = self.snapshot.piece(left, self.bytes_target)?;
        self.next = next;
        Ok(Some(piece))
    }
}

impl UnsealedState {
    /// Raw bytes, as a state of their own.
    pub(crate) fn raw(raw: RawKeyGroupState) -> Self {
        let groups = raw.groups.into_iter();
        let mut blocks: Vec<_> = groups
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(group, bytes)| GroupBlock::new(group, 1, bytes))
            .collect();
        blocks.sort_by_key(|block| block.group);
        Self {
            header: StateHeader::raw(&raw.name),
            rows: SavedRows::Blocks(blocks),
        }
    }
}

/// The rows of a group in canonical order.
fn sorted(
    name: &StateName,
    group: KeyGroup,
    buffer: &RowBuffer,
) -> Result<Option<GroupBlock>, StateError> {
    if buffer.count == 0 {
        return Ok(None);
    }
    let what = || format!("key group {group} of {name}");
    let (bytes, distinct) = buffer.sorted().map_err(|source| StateError::Decode {
        what: what(),
        source,
    })?;
    if distinct == Distinct::No {
        return Err(StateError::DuplicateKey { what: what() });
    }
    Ok(Some(GroupBlock::new(group, buffer.count, bytes)))
}

/// Reads the rows of a group of a frozen store into canonical form.
fn thaw(
    name: &StateName,
    frozen: &mut dyn FrozenStore,
    group: KeyGroup,
    (order, recode): (RowOrder, Option<(CellForm, RecodeCell)>),
) -> Result<RowBuffer, StateError> {
    let mut buffer = RowBuffer::default();
    let mut refused = Ok(());
    let (mut row_key, mut value) = (Vec::new(), Vec::new());
    let groups = KeyGroupRange {
        start: group.0,
        end: group.0 + 1,
    };
    let visited = frozen.visit(&name.state, groups, &mut |key, bytes| {
        row_key.clear();
        value.clear();
        let read = order.to_key_first(&key.bytes, &mut row_key);
        let read = read.and_then(|()| {
            if let Some((form, recode)) = recode {
                return recode(bytes, &form, &mut value);
            }
            value.extend_from_slice(bytes);
            Ok(true)
        });
        match read {
            Ok(true) => buffer.push(&row_key, &value),
            Ok(false) => {}
            Err(source) => {
                refused = Err(StateError::row(name, group, source));
            }
        }
    });
    visited.map_err(|source| StateError::backing(name.clone(), "read from", source))?;
    refused.map(|()| buffer)
}
