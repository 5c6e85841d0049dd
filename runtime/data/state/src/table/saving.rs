//! The running snapshot of a table: copy on write, and a scan in pieces for the rest.
//!
//! At the barrier only the generation moves. From then on an entry that is older than the barrier is saved by whoever
//! comes first: its first writer, or the scan. Within a sub-table the scan goes downwards, because a removal moves entries
//! down only: what moves was scanned already, or is still ahead.
//!
//! With a store behind the table only dirty entries are saved, into the store; the store is frozen once it has them all. What
//! was saved is as old as before, for eviction. The generation may move on while the snapshot runs: what it owes is what is
//! older than the generation that its barrier began.

use highwater_types::{DecodeError, Key, KeyGroup, KeyHash, ProcessingTime};

use super::directory::{Position, table_hash};
use super::marks::{Mark, Marks};
use super::{Namespace, StateTable};
use crate::backing::RowKey;
use crate::cell::{Cell, CellForm, StoredForm, recode};
use crate::error::StateError;
use crate::snapshot::rows::{GroupRows, next_row};
use crate::snapshot::{RowOrder, SavedRows, StateHeader, UnsealedState};
use crate::ttl::Expiry;

/// How many slots that owe nothing cost as much of the budget as an entry that is saved.
const PASSED_PER_ENTRY: usize = 64;

/// The state of a running snapshot.
pub(super) struct Saving {
    /// The generation that the barrier began.
    barrier: Marks,
    form: CellForm,
    /// Where rows go; stays empty when a store takes them.
    rows: GroupRows,
    /// The sub-table that the scan is in.
    table: usize,
    /// Slots passed over since the budget was last charged for them.
    passed: usize,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// What the scan came to.
enum Scanned {
    /// An entry that the snapshot still owes.
    Owed(Position),
    /// The end of the budget.
    Pause,
    /// The end of the table.
    End,
}

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    /// Begins a snapshot of the table as it is now. `now` decides what is expired in it.
    ///
    /// Cost: independent of the number of entries.
    pub(crate) fn begin_snapshot(&mut self, now: ProcessingTime) {
        let cleaned = self.descriptor.ttl.filter(|ttl| ttl.cleanup.at_snapshot);
        self.marks.rotate();
        self.saving = Some(Saving {
            barrier: self.marks,
            form: CellForm {
                timed: self.is_timed(),
                expiry: cleaned.map(|ttl| Expiry { ttl, now }),
            },
            rows: GroupRows::new(self.range),
            table: 0,
            passed: 0,
            key: Vec::new(),
            value: Vec::new(),
        });
    }

    /// Saves up to `budget` more entries that are still owed. Returns what is left of the budget once all are
    /// saved, `None` before.
    pub(crate) fn advance_snapshot(&mut self, mut budget: usize) -> Option<usize> {
        loop {
            match self.next_owed(&mut budget) {
                Scanned::Owed(position) => {
                    self.save_if_owed(position);
                    let mark = self.directory.entry(position).mark;
                    self.directory.entry_mut(position).mark = if self.is_paged() {
                        mark.cleaned()
                    } else {
                        self.marks.saved()
                    };
                }
                Scanned::Pause => return None,
                Scanned::End => break,
            }
        }
        let most = budget.max(1);
        let saved = self.save_removals(most);
        (saved < most).then(|| budget - saved)
    }

    /// Saves the rest and hands the snapshot over.
    pub(crate) fn take_snapshot(&mut self) -> Result<UnsealedState, StateError> {
        self.advance_snapshot(usize::MAX);
        if let Some(fault) = self.fault.take() {
            self.saving = None;
            return Err(fault);
        }
        let Some(saving) = self.saving.take() else {
            return Err(StateError::NoSnapshot {
                uid: self.uid.clone(),
            });
        };
        let flushed = self.paging.as_mut().map(|paging| paging.flush());
        let rows = match flushed.transpose() {
            Ok(None) => SavedRows::Rows(saving.rows),
            Ok(Some(())) => SavedRows::InStore(RowOrder::Key, Some((saving.form, recode::<C>))),
            Err(source) => return Err(self.backing_error("write to", source)),
        };
        Ok(UnsealedState {
            header: StateHeader::of(&self.descriptor),
            rows,
        })
    }

    /// While `withheld`, nothing is written to the store: what has to leave memory waits.
    pub(crate) fn withhold_writes(&mut self, withheld: bool) {
        if let Some(paging) = self.paging.as_mut() {
            paging.is_withheld = withheld;
        }
    }

    /// Forgets the running snapshot.
    pub(crate) fn abort_snapshot(&mut self) {
        self.saving = None;
    }

    /// The next entry that the running snapshot owes; saving it costs one of the budget, and so do some slots without.
    fn next_owed(&mut self, budget: &mut usize) -> Scanned {
        let is_paged = self.is_paged();
        let Some(saving) = self.saving.as_mut() else {
            return Scanned::End;
        };
        let (begun, barrier) = (saving.barrier.saved(), saving.barrier);
        let is_owed = |mark: Mark| barrier.is_old(mark) && (mark.is_dirty() || !is_paged);
        while let Some(sub) = self.directory.tables.get_mut(saving.table) {
            if sub.scan_mark != Some(begun) {
                sub.scan_mark = Some(begun);
                sub.scan_left = sub.slots();
            }
            while sub.scan_left > 0 {
                if *budget == 0 {
                    return Scanned::Pause;
                }
                sub.scan_left -= 1;
                let entry = sub.get(sub.scan_left);
                if entry.is_some_and(|entry| is_owed(entry.mark)) {
                    *budget -= 1;
                    return Scanned::Owed(Position {
                        table: saving.table as u32,
                        at: sub.scan_left as u32,
                    });
                }
                saving.passed += 1;
                if saving.passed == PASSED_PER_ENTRY {
                    saving.passed = 0;
                    *budget -= 1;
                }
            }
            saving.table += 1;
        }
        Scanned::End
    }

    /// Whether the running snapshot has not got an entry with this mark yet: on the heap that may be any, with a store
    /// behind the table what is dirty.
    pub(super) fn is_owed(&self, mark: Mark) -> bool {
        let saving = self.saving.as_ref();
        saving.is_some_and(|saving| saving.barrier.is_old(mark))
            && (mark.is_dirty() || !self.is_paged())
    }

    /// Saves the entry as it is if the running snapshot has not got it yet.
    pub(super) fn save_if_owed(&mut self, position: Position) {
        let entry = self.directory.entry(position);
        if !self.is_owed(entry.mark) {
            return;
        }
        if self.paging.is_some() {
            self.write_out(position);
            return;
        }
        let stamp = self.directory.stamp(position);
        let Some(saving) = self.saving.as_mut() else {
            return;
        };
        saving.key.clear();
        saving.value.clear();
        if entry.value.write(stamp, &saving.form, &mut saving.value) {
            entry.key.encode(&mut saving.key);
            entry.namespace.encode(&mut saving.key);
            saving.key.extend_from_slice(&self.suffix);
            let group = entry.hash().group(self.max_parallelism);
            // One of a foreign group is left out: the fault that it raised keeps the snapshot from being taken.
            saving.rows.push(group, &saving.key, &saving.value);
        }
    }

    /// Adds the entry to the batch for the store.
    pub(super) fn write_out(&mut self, position: Position) {
        let entry = self.directory.entry(position);
        let key = self.row_key(entry.hash(), &entry.key, &entry.namespace);
        let form = CellForm {
            timed: self.is_timed(),
            expiry: None,
        };
        let mut value = Vec::with_capacity(size_of::<(ProcessingTime, C)>());
        let is_there = entry
            .value
            .write(self.directory.stamp(position), &form, &mut value);
        self.push_write(key, is_there.then_some(value));
    }

    pub(super) fn push_write(&mut self, key: RowKey, value: Option<Vec<u8>>) {
        let Some(paging) = self.paging.as_mut() else {
            return;
        };
        if let Err(source) = paging.push(key, value) {
            let error = self.backing_error("write to", source);
            self.raise(|_| error);
        }
    }

    /// Writes the batch for the store.
    pub(super) fn flush(&mut self) {
        let Some(paging) = self.paging.as_mut() else {
            return;
        };
        if let Err(source) = paging.flush() {
            let error = self.backing_error("write to", source);
            self.raise(|_| error);
        }
    }

    /// Adds up to `most` removals, while a snapshot runs those before its barrier, to the batch for the store. Returns how
    /// many.
    pub(super) fn save_removals(&mut self, most: usize) -> usize {
        let Some(paging) = self.paging.as_mut() else {
            return 0;
        };
        let barrier = self.saving.as_ref().map(|saving| saving.barrier);
        let is_owed = |mark| barrier.is_none_or(|barrier| barrier.is_old(mark));
        let owed: Vec<(KeyHash, K, N)> = paging
            .removed
            .iter()
            .filter(|entry| is_owed(entry.mark))
            .take(most)
            .map(|entry| (entry.hash(), entry.key.clone(), entry.namespace.clone()))
            .collect();
        let saved = owed.len();
        for (hash, key, namespace) in owed {
            if let Some(paging) = self.paging.as_mut()
                && let Some(position) = paging.removed.find(hash, &key, &namespace)
            {
                paging.removed.remove(position);
                paging.removed_heap -= key.heap_bytes() + namespace.heap_bytes();
            }
            let key = self.row_key(hash, &key, &namespace);
            self.push_write(key, None);
        }
        saved
    }

    /// Takes back the removal of a key that is written again.
    pub(super) fn withdraw_removal(&mut self, hash: KeyHash, key: &K, namespace: &N) {
        let Some(paging) = self.paging.as_mut() else {
            return;
        };
        let Some(position) = paging.removed.find(hash, key, namespace) else {
            return;
        };
        let removal = paging.removed.remove(position);
        paging.removed_heap -= removal.key.heap_bytes() + removal.namespace.heap_bytes();
        if self.is_owed(removal.mark) {
            let key = self.row_key(hash, key, namespace);
            self.push_write(key, None);
        }
    }

    /// Takes in the stored rows of one key group of the own range.
    pub(crate) fn load(
        &mut self,
        group: KeyGroup,
        mut rows: &[u8],
        form: &StoredForm,
    ) -> Result<(), StateError> {
        while !rows.is_empty() {
            self.load_row(group, &mut rows, form)
                .map_err(|source| self.decode_error(group, source))?;
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
        }
        Ok(())
    }

    fn load_row(
        &mut self,
        group: KeyGroup,
        rows: &mut &[u8],
        form: &StoredForm,
    ) -> Result<(), DecodeError> {
        let (mut key_bytes, mut value) = next_row(rows)?;
        let (key, namespace) = (K::decode(&mut key_bytes)?, N::decode(&mut key_bytes)?);
        self.load_entry((group, &key, &namespace), &mut value, form)
    }

    /// Takes in one stored value.
    pub(crate) fn load_entry(
        &mut self,
        (group, key, namespace): (KeyGroup, &K, &N),
        value: &mut &[u8],
        form: &StoredForm,
    ) -> Result<(), DecodeError> {
        let hash = key.key_hash();
        let (cell, stamp) = C::read(value, form)?;
        if hash.group(self.max_parallelism) != group {
            return Err(DecodeError::Value {
                what: "key group of a key",
                value: u64::from(group.0),
            });
        }
        if self.is_paged() {
            let form = CellForm {
                timed: self.is_timed(),
                expiry: None,
            };
            let mut bytes = Vec::new();
            if cell.write(stamp, &form, &mut bytes) {
                self.note_stored(table_hash(hash, namespace));
                let key = self.row_key(hash, key, namespace);
                self.push_write(key, Some(bytes));
            }
        } else {
            self.insert_new((hash, key, namespace), cell, stamp);
        }
        Ok(())
    }
}
