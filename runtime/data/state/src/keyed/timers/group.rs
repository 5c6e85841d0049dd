//! The timers of one key group that are in memory, and the changes that its rows in the store do not have yet. Pure: no store.
//!
//! Called by the timers of a subtask. The rule: a timer before the horizon is in `near` exactly when it is set; one behind it
//! is set when the buffer says so, or when the store has it and the buffer does not say otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The most timers of a group that are in memory. Source: Flink `KeyGroupPartitionedPriorityQueue` with its cache of 128.
pub(super) const NEAR_MAX: usize = 128;

/// About what a row takes beside its bytes: its place in a tree, and an allocation.
const ROW_BYTES: usize = 64;

/// What is to become of a row of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It is to be there; `is_new` = it is not there yet, for sure.
    Set { is_new: bool },
    /// It is to be gone.
    Removed,
}

/// The timers of one key group.
#[derive(Debug, Default)]
pub(super) struct Group {
    near: BTreeSet<Vec<u8>>,
    /// All timers before this row are near; `None` = all are.
    horizon: Option<Vec<u8>>,
    pending: BTreeMap<Vec<u8>, Change>,
    bytes: usize,
}

impl Group {
    pub(super) fn first(&self) -> Option<&Vec<u8>> {
        self.near.first()
    }

    pub(super) fn near(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.near.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.near.len()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of memory.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_near(&self, row: &[u8]) -> bool {
        let horizon = self.horizon.as_ref();
        horizon.is_none_or(|horizon| row < horizon.as_slice())
    }

    pub(super) fn register(&mut self, row: Vec<u8>) {
        let is_near = self.is_near(&row);
        if is_near && !self.insert_near(row.clone()) {
            return;
        }
        let change = match self.pending.get(&row) {
            Some(Change::Set { .. }) => return self.trim(),
            Some(Change::Removed) => Change::Set { is_new: false },
            // What is near and was not there is nowhere.
            None => Change::Set { is_new: is_near },
        };
        self.note(row, change);
        self.trim();
    }

    pub(super) fn delete(&mut self, row: &[u8]) {
        if self.near.remove(row) {
            self.bytes -= row.len() + ROW_BYTES;
        } else if self.is_near(row) {
            return;
        }
        if self.pending.get(row) == Some(&Change::Set { is_new: true }) {
            self.pending.remove(row);
            self.bytes -= row.len() + ROW_BYTES;
        } else {
            self.note(row.to_vec(), Change::Removed);
        }
    }

    fn insert_near(&mut self, row: Vec<u8>) -> bool {
        let length = row.len();
        let is_new = self.near.insert(row);
        if is_new {
            self.bytes += length + ROW_BYTES;
        }
        is_new
    }

    fn note(&mut self, row: Vec<u8>, change: Change) {
        let length = row.len();
        if self.pending.insert(row, change).is_none() {
            self.bytes += length + ROW_BYTES;
        }
    }

    /// Lets go of the last ones, which are in the store or on their way to it.
    fn trim(&mut self) {
        while self.near.len() > NEAR_MAX
            && let Some(last) = self.near.pop_last()
        {
            self.bytes -= last.len() + ROW_BYTES;
            self.horizon = Some(last);
        }
    }

    /// The store has rows of which nothing is known here, where no timer was set or deleted before.
    pub(super) fn expect_stored(&mut self) {
        debug_assert!(
            self.near.is_empty() && self.pending.is_empty(),
            "the rows of a key group come from one place"
        );
        self.horizon = Some(Vec::new());
    }

    /// From where on the store is to be scanned, because no timer is in memory and there may be more.
    pub(super) fn wanted(&self) -> Option<Vec<u8>> {
        self.horizon.clone().filter(|_| self.near.is_empty())
    }

    /// Takes in up to [`NEAR_MAX`] rows from `from` on, the first that the store has: less than that are all.
    pub(super) fn admit(&mut self, from: Vec<u8>, rows: Vec<Vec<u8>>) {
        self.horizon = match rows.last() {
            Some(last) if rows.len() == NEAR_MAX => Some([last.as_slice(), &[0]].concat()),
            _ => None,
        };
        let until = self.horizon.clone();
        let until = until.map_or(Bound::Unbounded, Bound::Excluded);
        let changes = self.pending.range((Bound::Included(from), until));
        let set = changes.filter(|(_, change)| **change != Change::Removed);
        let set: Vec<_> = set.map(|(row, _)| row.clone()).collect();
        for row in rows {
            if self.pending.get(&row) != Some(&Change::Removed) {
                self.insert_near(row);
            }
        }
        for row in set {
            self.insert_near(row);
        }
        self.trim();
    }

    /// Takes the changes in order of rows: whether each is to be there.
    pub(super) fn take_pending(&mut self) -> impl Iterator<Item = (Vec<u8>, bool)> + use<> {
        let rows = self.pending.keys().map(|row| row.len() + ROW_BYTES);
        self.bytes -= rows.sum::<usize>();
        let changes = std::mem::take(&mut self.pending).into_iter();
        changes.map(|(row, change)| (row, change != Change::Removed))
    }
}
