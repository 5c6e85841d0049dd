//! Misses and eviction: how a table is a cache over a store. Nothing here runs on the heap.
//!
//! Eviction goes round the sub-tables and takes whatever it meets; what is hot comes back with the next chunk's one
//! read. While a snapshot runs, entries written after the barrier stay, because the store may not see them before it is
//! frozen.

use std::collections::BTreeMap;

use highwater_types::{Key, KeyHash, ProcessingTime};

use super::directory::Position;
use super::sub_table::Entry;
use super::{Namespace, StateTable};
use crate::backing::RowKey;
use crate::cell::Cell;
use crate::error::StateError;

/// Pending removals at which they are written to the store.
const REMOVALS_MAX: usize = 4_096;

type Row<'a, K, N> = (KeyHash, &'a K, &'a N);

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    #[cold]
    pub(super) fn fetch_misses(
        &mut self,
        rows: &mut dyn Iterator<Item = Row<'_, K, N>>,
    ) -> Result<(), StateError> {
        let mut misses = BTreeMap::new();
        for (hash, key, namespace) in rows {
            let is_here = self.directory.find(hash, key, namespace).is_some();
            let Some(paging) = self.paging.as_mut() else {
                return Ok(());
            };
            if !is_here && !paging.is_known_absent(hash, key, namespace) {
                paging.note_absent(hash, key, namespace);
                misses.insert(self.row_key(hash, key, namespace), (hash, key, namespace));
            }
        }
        self.admit(misses)
    }

    /// Reads `misses` at once and takes in what is found.
    fn admit(&mut self, misses: BTreeMap<RowKey, Row<'_, K, N>>) -> Result<(), StateError> {
        if misses.is_empty() {
            return Ok(());
        }
        let (keys, rows): (Vec<_>, Vec<_>) = misses.into_iter().unzip();
        let Some(paging) = self.paging.as_mut() else {
            return Ok(());
        };
        let found = paging
            .fetch(&keys)
            .map_err(|source| self.backing_error("read from", source))?;
        let form = self.stored_form(ProcessingTime(0));
        for ((key, row), value) in keys.iter().zip(rows).zip(found) {
            let Some(value) = value else { continue };
            let (cell, stamp) = C::read(&mut value.as_slice(), &form)
                .map_err(|source| self.decode_error(key.group, source))?;
            self.insert_clean(row, cell, stamp);
        }
        Ok(())
    }

    fn insert_clean(
        &mut self,
        (hash, key, namespace): Row<'_, K, N>,
        value: C,
        stamp: ProcessingTime,
    ) {
        self.heap_bytes += key.heap_bytes() + namespace.heap_bytes() + value.heap_bytes();
        let named = (key.clone(), namespace.clone());
        let entry = Entry::new(hash, self.marks.saved(), named, value);
        let stamp = self.is_timed().then_some(stamp);
        self.directory.insert(entry, stamp);
    }

    /// Reads one key that no `prepare` announced.
    #[cold]
    pub(super) fn fetch_one(&mut self, hash: KeyHash, key: &K, namespace: &N) -> Option<Position> {
        let paging = self.paging.as_mut()?;
        if paging.is_known_absent(hash, key, namespace) {
            return None;
        }
        paging.unprepared += 1;
        paging.note_absent(hash, key, namespace);
        let miss = (self.row_key(hash, key, namespace), (hash, key, namespace));
        if let Err(error) = self.admit(BTreeMap::from([miss])) {
            self.raise(|_| error);
        }
        self.directory.find(hash, key, namespace)
    }

    /// Ends a chunk of a cache: forgets what was absent, writes out and drops entries above the cache size.
    pub(super) fn evict(&mut self) {
        let Some(paging) = self.paging.as_mut() else {
            return;
        };
        paging.forget_absent();
        if paging.is_withheld {
            return;
        }
        let (limit, removals) = (paging.cache_bytes, paging.removed.len());
        if removals > REMOVALS_MAX && self.saving.is_none() {
            self.save_removals();
        }
        let mut tables_left = self.directory.tables.len();
        while self.used_bytes() > limit && tables_left > 0 {
            self.evict_table(limit - limit / 8);
            tables_left -= 1;
        }
    }

    /// Evicts from the next sub-table until `target` bytes are used.
    fn evict_table(&mut self, target: usize) {
        let Some(paging) = self.paging.as_mut() else {
            return;
        };
        let table = paging.evict_table % self.directory.tables.len();
        paging.evict_table = table + 1;
        for at in (0..self.directory.tables[table].slots()).rev() {
            if self.used_bytes() <= target {
                return;
            }
            let position = Position {
                table: table as u32,
                at: at as u32,
            };
            let Some(mark) = self.directory.tables[table].get(at).map(|entry| entry.mark) else {
                continue;
            };
            if self.saving.is_some() && mark == self.marks.written() {
                continue;
            }
            if mark.is_dirty() {
                self.write_out(position);
            }
            let entry = self.directory.remove(position);
            self.heap_bytes -=
                entry.key.heap_bytes() + entry.namespace.heap_bytes() + entry.value.heap_bytes();
        }
    }
}
