//! Misses: how a table that is a cache over a store finds what it lacks. Nothing here runs on the heap.
//!
//! The keys of a chunk are sought together; those that are neither in memory nor known to be absent are read at once, in
//! the order of their rows. A key is known to be absent where no entry of its sub-table ever left memory, or where the
//! filter of what only the store has says so.

use std::any::Any;
use std::borrow::Borrow;

use highwater_types::{Key, KeyHash, ProcessingTime};

use super::ahead::Ahead;
use super::directory::{Position, table_hash};
use super::sub_table::Entry;
use super::{Namespace, StateTable};
use crate::backing::RowKey;
use crate::cell::Cell;
use crate::error::StateError;
use crate::keyed::ChunkKeys;

type Row<'a, K, N> = (KeyHash, &'a K, &'a N);

/// Keys of a chunk that have to be read.
pub(super) type Misses<K, N> = Vec<(RowKey, (KeyHash, K, N))>;

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    /// Brings the keys of a chunk, all with one namespace, into memory with at most one read of the store. Does nothing on
    /// the heap, where the chunk-wise accesses look ahead themselves.
    ///
    /// # Errors
    /// Of the kind of the store's error; `Corrupt` when a row cannot be decoded.
    pub fn prepare_chunk<Q: Borrow<K>>(
        &mut self,
        hashes: &[KeyHash],
        namespace: &N,
        key: impl Fn(usize) -> Q,
    ) -> Result<(), StateError> {
        if self.paging.is_none() {
            return Ok(());
        }
        let mut places = self.take_places(0).unwrap_or_default();
        let mut misses = Misses::new();
        let mut ahead = Ahead::new(hashes);
        let mut hits = 0;
        for tick in 0..ahead.ticks() {
            let place = |_, hash| table_hash(hash, namespace);
            let (first, hashes, guesses) = ahead.advance(tick, &self.directory, place);
            for ((row, &hash), &guess) in (first..).zip(hashes).zip(guesses) {
                let key = key(row);
                let key = key.borrow();
                let table = &self.directory.tables[guess.table as usize];
                let entry = table.get(guess.at as usize);
                let is_it = entry.is_some_and(|entry| {
                    entry.may_have(hash) && entry.key == *key && entry.namespace == *namespace
                });
                places.push(guess);
                if is_it {
                    hits += 1;
                    self.touch(guess);
                } else {
                    self.seek((hash, key, namespace), &mut misses);
                }
            }
        }
        if let Some(paging) = self.paging.as_mut() {
            paging.counts.hits += hits;
        }
        self.keep_places(places);
        self.admit(misses)
    }

    /// Where the `count` rows of the chunk that was prepared last probably are; `None` when it was another chunk. Guesses,
    /// as those of [`Ahead`]: whoever uses one compares the key.
    pub(super) fn take_places(&mut self, count: usize) -> Option<Vec<Position>> {
        let paging = self.paging.as_mut()?;
        if count == 0 {
            paging.places.clear();
        }
        (paging.places.len() == count).then(|| std::mem::take(&mut paging.places))
    }

    /// Keeps the places, and their memory, for the accesses that follow.
    pub(super) fn keep_places(&mut self, places: Vec<Position>) {
        if let Some(paging) = self.paging.as_mut() {
            paging.places = places;
        }
    }

    /// Brings the keys of a chunk into memory, if the operator is likely to ask for them: for functions that decide
    /// themselves which state they ask. Does nothing where a namespace tells apart the values of a key.
    pub(crate) fn prepare_keys(&mut self, keys: &dyn Any) -> Result<(), StateError> {
        let (Some(keys), Some(namespace)) = (
            keys.downcast_ref::<ChunkKeys<K>>(),
            (&() as &dyn Any).downcast_ref::<N>(),
        ) else {
            return Ok(());
        };
        let Some(paging) = self.paging.as_mut() else {
            return Ok(());
        };
        if !paging.likely.begin_chunk(keys.hashes.len()) {
            return Ok(());
        }
        self.prepare_chunk(&keys.hashes, namespace, |row| &keys.keys[row])
    }

    #[cold]
    pub(super) fn fetch_misses(
        &mut self,
        rows: &mut dyn Iterator<Item = Row<'_, K, N>>,
    ) -> Result<(), StateError> {
        let mut misses = Misses::new();
        for row in rows {
            self.seek(row, &mut misses);
        }
        self.admit(misses)
    }

    /// Looks for a key; adds it to the misses when only the store can tell whether there is one.
    fn seek(&mut self, row: Row<'_, K, N>, misses: &mut Misses<K, N>) {
        let (hash, key, namespace) = row;
        let found = self.directory.find(hash, key, namespace);
        if let Some(position) = found {
            self.touch(position);
        }
        let is_absent = found.is_none() && self.is_surely_absent(row);
        let Some(paging) = self.paging.as_mut() else {
            return;
        };
        if found.is_some() {
            paging.counts.hits += 1;
        } else if is_absent {
            paging.counts.known_absent += 1;
        } else {
            let row_key = self.row_key(hash, key, namespace);
            misses.push((row_key, (hash, key.clone(), namespace.clone())));
        }
    }

    /// Whether a key that is not in memory is not in the store either, as far as can be told without asking it.
    fn is_surely_absent(&self, (hash, key, namespace): Row<'_, K, N>) -> bool {
        let Some(paging) = self.paging.as_ref() else {
            return true;
        };
        let placed = table_hash(hash, namespace);
        let filter = paging.only_stored.as_ref();
        filter.is_some_and(|filter| {
            let table = self.directory.table_of(placed);
            self.directory.tables[table as usize].is_complete || !filter.may_hold(placed)
        }) || paging.is_known_absent(hash, key, namespace)
    }

    /// Notes that an entry is used.
    #[inline]
    fn touch(&mut self, position: Position) {
        if self.marks.is_old(self.directory.entry(position).mark) {
            self.touch_old(position);
        }
    }

    /// Makes an entry as recent as those of this generation. One that the running snapshot owes stays as it is: its mark
    /// says so.
    #[cold]
    fn touch_old(&mut self, position: Position) {
        let mark = self.directory.entry(position).mark;
        let touched = if !mark.is_dirty() {
            self.marks.saved()
        } else if self.is_owed(mark) {
            mark
        } else {
            self.marks.written()
        };
        self.directory.entry_mut(position).mark = touched;
    }

    /// What [`StateTable::find`](super::StateTable) does with a store behind the table.
    pub(super) fn find_in_cache(
        &mut self,
        found: Option<Position>,
        row: Row<'_, K, N>,
    ) -> Option<Position> {
        if let Some(paging) = self.paging.as_mut() {
            paging.likely.note_access();
        }
        let Some(position) = found else {
            return self.fetch_one(row);
        };
        self.touch(position);
        found
    }

    /// Reads one key that no `prepare` announced.
    #[cold]
    fn fetch_one(&mut self, row: Row<'_, K, N>) -> Option<Position> {
        if self.is_surely_absent(row) {
            return None;
        }
        let (hash, key, namespace) = row;
        let paging = self.paging.as_mut()?;
        paging.counts.unprepared += 1;
        paging.likely.note_unprepared();
        let named = (hash, key.clone(), namespace.clone());
        let miss = (self.row_key(hash, key, namespace), named);
        if let Err(error) = self.admit(vec![miss]) {
            self.raise(|_| error);
        }
        self.directory.find(hash, key, namespace)
    }

    /// Reads `misses` at once and takes in what is found.
    fn admit(&mut self, mut misses: Misses<K, N>) -> Result<(), StateError> {
        if misses.is_empty() {
            return Ok(());
        }
        misses.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        misses.dedup_by(|a, b| a.0 == b.0);
        let (keys, rows): (Vec<_>, Vec<_>) = misses.into_iter().unzip();
        let Some(paging) = self.paging.as_mut() else {
            return Ok(());
        };
        let found = paging
            .fetch(&keys)
            .map_err(|source| self.backing_error("read from", source))?;
        let form = self.stored_form(ProcessingTime(0));
        for ((row_key, (hash, key, namespace)), value) in keys.iter().zip(rows).zip(found) {
            let Some(value) = value else {
                if let Some(paging) = self.paging.as_mut() {
                    paging.note_absent(hash, key, namespace);
                }
                continue;
            };
            let (cell, stamp) = C::read(&mut value.as_slice(), &form)
                .map_err(|source| self.decode_error(row_key.group, source))?;
            self.insert_clean((hash, key, namespace), cell, stamp);
        }
        Ok(())
    }

    fn insert_clean(
        &mut self,
        (hash, key, namespace): (KeyHash, K, N),
        value: C,
        stamp: ProcessingTime,
    ) {
        debug_assert!(
            !self.is_removed(hash, &key, &namespace),
            "a removed key is not read back"
        );
        self.heap_bytes += key.heap_bytes() + namespace.heap_bytes() + value.heap_bytes();
        let entry = Entry::new(hash, self.marks.saved(), (key, namespace), value);
        let stamp = self.is_timed().then_some(stamp);
        self.directory.insert(entry, stamp);
    }
}
