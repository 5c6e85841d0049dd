//! The cell of map state: entries in order of insertion, an index once there are many, a last access for each when the
//! state is timed.
//!
//! The order of iteration depends on the history only, never on a seed (above a local store also on what left memory); a restored map iterates in the order of its
//! encoded keys.

use std::hash::Hash;

use hashbrown::HashTable;
use highwater_types::record::{decode_length, encode_length};
use highwater_types::{DecodeError, ProcessingTime, Record};

use super::{Cell, CellForm, StoredForm, Swept};
use crate::spread::spread;
use crate::ttl::Expiry;

/// Up to here a scan of the entries is as fast as an index.
const UNINDEXED_MAX: usize = 8;

/// A map in a table.
#[derive(Clone, Debug)]
pub struct MapCell<M, V> {
    entries: Vec<(M, V)>,
    /// One for each entry when the state is timed, else none.
    stamps: Vec<ProcessingTime>,
    /// Positions in `entries`; empty while there are few.
    index: HashTable<u32>,
    /// Heap bytes of keys and values.
    entries_heap: usize,
}

impl<M: Record + Eq + Hash, V: Record> MapCell<M, V> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            stamps: Vec::new(),
            index: HashTable::new(),
            entries_heap: 0,
        }
    }

    pub(crate) fn entries(&self) -> &[(M, V)] {
        &self.entries
    }

    /// The last access of the entry at `at`; `None` when the state is not timed.
    pub(crate) fn stamp(&self, at: usize) -> Option<ProcessingTime> {
        self.stamps.get(at).copied()
    }

    pub(crate) fn restamp(&mut self, at: usize, now: ProcessingTime) {
        if let Some(stamp) = self.stamps.get_mut(at) {
            *stamp = now;
        }
    }

    /// Where the entry of `key` is.
    pub(crate) fn find(&self, key: &M) -> Option<usize> {
        if self.index.is_empty() {
            return self.entries.iter().position(|(held, _)| held == key);
        }
        let found = self
            .index
            .find(spread(key), |&at| self.entries[at as usize].0 == *key);
        found.map(|&at| at as usize)
    }

    /// Replaces the value at `at`.
    pub(crate) fn replace(&mut self, at: usize, value: V) -> V {
        let old = std::mem::replace(&mut self.entries[at].1, value);
        self.entries_heap = self.entries_heap + self.entries[at].1.heap_bytes() - old.heap_bytes();
        old
    }

    /// Changes the value at `at` in place.
    pub(crate) fn modify<R>(&mut self, at: usize, change: impl FnOnce(&mut V) -> R) -> R {
        let value = &mut self.entries[at].1;
        let before = value.heap_bytes();
        let result = change(value);
        self.entries_heap = self.entries_heap + value.heap_bytes() - before;
        result
    }

    /// Adds an entry whose key is absent. Returns where it is.
    pub(crate) fn push(&mut self, key: M, value: V, stamp: Option<ProcessingTime>) -> usize {
        let at = self.entries.len();
        self.entries_heap += key.heap_bytes() + value.heap_bytes();
        self.entries.push((key, value));
        self.stamps.extend(stamp);
        if !self.index.is_empty() || at == UNINDEXED_MAX {
            let first = if self.index.is_empty() { 0 } else { at };
            for position in first..=at {
                self.index_entry(position);
            }
        }
        at
    }

    fn index_entry(&mut self, at: usize) {
        let entries = &self.entries;
        self.index
            .insert_unique(spread(&entries[at].0), at as u32, |&held| {
                spread(&entries[held as usize].0)
            });
    }

    /// Removes the entry at `at`; the last entry takes its place.
    pub(crate) fn remove(&mut self, at: usize) -> (M, V) {
        if !self.index.is_empty() {
            let last = self.entries.len() - 1;
            let removed = spread(&self.entries[at].0);
            if let Ok(found) = self.index.find_entry(removed, |&held| held as usize == at) {
                found.remove();
            }
            if last != at {
                let moved = spread(&self.entries[last].0);
                if let Some(held) = self.index.find_mut(moved, |&held| held as usize == last) {
                    *held = at as u32;
                }
            }
        }
        if !self.stamps.is_empty() {
            self.stamps.swap_remove(at);
        }
        let (key, value) = self.entries.swap_remove(at);
        self.entries_heap -= key.heap_bytes() + value.heap_bytes();
        (key, value)
    }

    fn lives(&self, at: usize, expiry: Option<&Expiry>) -> bool {
        expiry.is_none_or(|expiry| !expiry.is_expired(self.stamps[at]))
    }
}

impl<M: Record + Eq + Hash, V: Record> Cell for MapCell<M, V> {
    fn heap_bytes(&self) -> usize {
        let entries = self.entries.capacity() * size_of::<(M, V)>();
        let stamps = self.stamps.capacity() * size_of::<ProcessingTime>();
        let index = self.index.capacity() * 8;
        entries + stamps + index + self.entries_heap
    }

    fn write(&self, _: ProcessingTime, form: &CellForm, out: &mut Vec<u8>) -> bool {
        let mut keys = Vec::new();
        let mut order = Vec::with_capacity(self.entries.len());
        for at in (0..self.entries.len()).filter(|&at| self.lives(at, form.expiry.as_ref())) {
            let start = keys.len();
            self.entries[at].0.encode(&mut keys);
            order.push((start, keys.len(), at));
        }
        if order.is_empty() {
            return false;
        }
        order.sort_unstable_by(|a, b| keys[a.0..a.1].cmp(&keys[b.0..b.1]));
        encode_length(order.len() as u64, out);
        for (start, end, at) in order {
            if form.timed {
                self.stamps[at].encode(out);
            }
            out.extend_from_slice(&keys[start..end]);
            self.entries[at].1.encode(out);
        }
        true
    }

    fn read(input: &mut &[u8], form: &StoredForm) -> Result<(Self, ProcessingTime), DecodeError> {
        let mut cell = Self::new();
        for _ in 0..decode_length(input)? {
            let stamp = form.read_stamp(input)?;
            let (key, value) = (M::decode(input)?, V::decode(input)?);
            cell.push(key, value, form.keeps_time.then_some(stamp));
        }
        Ok((cell, form.now))
    }

    fn inspect(&self, _: ProcessingTime, expiry: &Expiry) -> Swept {
        let live = (0..self.entries.len()).filter(|&at| self.lives(at, Some(expiry)));
        match live.count() {
            0 => Swept::Gone,
            all if all == self.entries.len() => Swept::Whole,
            _ => Swept::Parts,
        }
    }

    fn sweep(&mut self, expiry: &Expiry) {
        for at in (0..self.entries.len()).rev() {
            if expiry.is_expired(self.stamps[at]) {
                self.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_follows_removals() {
        let mut cell = MapCell::<i64, i64>::new();
        for key in 0..50 {
            cell.push(key, key * 2, None);
        }
        for key in (0..50).step_by(3) {
            let at = cell.find(&key).unwrap();
            assert_eq!(cell.remove(at), (key, key * 2));
        }
        for key in 0..50 {
            let found = cell.find(&key).map(|at| cell.entries()[at].1);
            assert_eq!(found, (key % 3 != 0).then_some(key * 2), "{key}");
        }
    }

    #[test]
    fn written_form_does_not_depend_on_history() {
        let form = CellForm {
            timed: false,
            expiry: None,
        };
        let (mut up, mut down) = (MapCell::<i64, i64>::new(), MapCell::<i64, i64>::new());
        for key in 0..20 {
            up.push(key, key, None);
            down.push(19 - key, 19 - key, None);
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert!(up.write(ProcessingTime(0), &form, &mut a));
        assert!(down.write(ProcessingTime(0), &form, &mut b));
        assert_eq!(a, b);
    }
}
