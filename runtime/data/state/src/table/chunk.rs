//! Chunk-wise access: the fast path of aggregation.
//!
//! A lookup waits for memory twice, once for the index slot and once for the entry. Rows of a block are therefore
//! looked up in three passes (slot, entry, change), each a run of independent loads that the processor overlaps.

use std::borrow::Borrow;
use std::hint::black_box;

use highwater_types::{Key, KeyHash};

use super::directory::{Position, table_hash};
use super::{NO_TIME, Namespace, StateTable};
use crate::cell::Cell;

/// Rows that are looked up together: enough to overlap, few enough to stay in the first-level cache.
const BLOCK: usize = 64;

/// Entries below which a table is near anyway.
const NEAR_ENTRIES: usize = 16_384;

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    /// Changes the value of the key of every row of a chunk, in the order of the rows.
    ///
    /// `key` gives the key of a row, `init` the value of an absent key, `change` gets the row number and the value. With
    /// a store behind the table, call [`StateTable::prepare`] first.
    #[expect(
        clippy::too_many_arguments,
        reason = "three closures of one loop, which a struct would only rename"
    )]
    pub fn update_chunk<Q: Borrow<K>>(
        &mut self,
        hashes: &[KeyHash],
        namespace: &N,
        key: impl Fn(usize) -> Q,
        init: impl Fn() -> C,
        mut change: impl FnMut(usize, &mut C),
    ) {
        for (block, hashes) in hashes.chunks(BLOCK).enumerate() {
            let guesses = self.guess_block(hashes, namespace);
            for (at, &hash) in hashes.iter().enumerate() {
                let row = block * BLOCK + at;
                let key = key(row);
                let key = key.borrow();
                if let Some(value) = self.warm_value(guesses[at], hash, key, namespace) {
                    let before = value.heap_bytes();
                    change(row, value);
                    let after = value.heap_bytes();
                    self.heap_bytes = self.heap_bytes + after - before;
                    continue;
                }
                let position = self
                    .find(hash, key, namespace)
                    .unwrap_or_else(|| self.insert_new((hash, key, namespace), init(), NO_TIME));
                self.modify(position, |value| change(row, value));
            }
        }
    }

    /// The value at a guessed position, if it is that of `key` and was written in this generation already.
    #[inline]
    fn warm_value(
        &mut self,
        guess: Position,
        hash: KeyHash,
        key: &K,
        namespace: &N,
    ) -> Option<&mut C> {
        let table = &mut self.directory.tables[guess.table as usize];
        let entry = table.get_mut(guess.at as usize)?;
        let is_warm = entry.hash == hash
            && entry.mark == self.marks.written()
            && entry.key == *key
            && entry.namespace == *namespace;
        is_warm.then_some(&mut entry.value)
    }

    /// Merges one value for each row of a chunk into the value of its key, in the order of the rows.
    ///
    /// `row` gives key and value of a row; the value of an absent key is inserted. `merge` gets the row number, the held
    /// value and the value to merge, which is `None` when it was inserted.
    pub(crate) fn merge_chunk<Q: Borrow<K>>(
        &mut self,
        hashes: &[KeyHash],
        namespace: &N,
        row: impl Fn(usize) -> (Q, C),
        mut merge: impl FnMut(usize, &mut C, Option<C>),
    ) {
        for (block, hashes) in hashes.chunks(BLOCK).enumerate() {
            let guesses = self.guess_block(hashes, namespace);
            for (at, &hash) in hashes.iter().enumerate() {
                let number = block * BLOCK + at;
                let (key, value) = row(number);
                let key = key.borrow();
                if let Some(held) = self.warm_value(guesses[at], hash, key, namespace) {
                    let before = held.heap_bytes();
                    merge(number, held, Some(value));
                    let after = held.heap_bytes();
                    self.heap_bytes = self.heap_bytes + after - before;
                    continue;
                }
                let held = self.find(hash, key, namespace);
                let (position, value) = match held {
                    Some(position) => (position, Some(value)),
                    None => (
                        self.insert_new((hash, key, namespace), value, NO_TIME),
                        None,
                    ),
                };
                self.modify(position, |held| merge(number, held, value));
            }
        }
    }

    /// Brings the entries of rows near, so that the accesses that follow do not wait for memory one by one.
    pub(super) fn warm<'a>(&self, mut rows: impl Iterator<Item = (KeyHash, &'a K, &'a N)>) {
        if self.directory.len() < NEAR_ENTRIES {
            return;
        }
        loop {
            let mut placed = [0; BLOCK];
            let mut count = 0;
            for (place, (hash, _, namespace)) in placed.iter_mut().zip(&mut rows) {
                *place = table_hash(hash, namespace);
                count += 1;
            }
            self.guess_placed(&placed[..count]);
            if count < BLOCK {
                return;
            }
        }
    }

    /// Brings the entries of keys near, in a table without namespaces. With namespaces it does nothing: which one an
    /// access will name is not known.
    pub(crate) fn warm_keys(&self, hashes: &[KeyHash]) {
        if size_of::<N>() != 0 || self.directory.len() < NEAR_ENTRIES {
            return;
        }
        for hashes in hashes.chunks(BLOCK) {
            let mut placed = [0; BLOCK];
            for (place, hash) in placed.iter_mut().zip(hashes) {
                // Nothing is hashed to 0, see `spread`.
                *place = hash.0;
            }
            self.guess_placed(&placed[..hashes.len()]);
        }
    }

    /// Where the rows of a block probably are.
    #[inline]
    fn guess_block(&self, hashes: &[KeyHash], namespace: &N) -> [Position; BLOCK] {
        let mut placed = [0; BLOCK];
        for (place, &hash) in placed.iter_mut().zip(hashes) {
            *place = table_hash(hash, namespace);
        }
        self.guess_placed(&placed[..hashes.len()])
    }

    /// Where the entries with these table hashes probably are. Loads the entries, so that they are near when they are
    /// accessed. What is loaded goes to `black_box`: without a use there would be no load.
    #[inline]
    fn guess_placed(&self, placed: &[u64]) -> [Position; BLOCK] {
        let mut guesses = [Position { table: 0, at: 0 }; BLOCK];
        let tables = self.directory.tables.as_slice();
        let mut touched = 0;
        for (guess, &placed) in guesses.iter_mut().zip(placed) {
            guess.table = self.directory.table_of(placed);
            touched ^= tables[guess.table as usize].touch_tags(placed);
        }
        for (guess, &placed) in guesses.iter_mut().zip(placed) {
            guess.at = tables[guess.table as usize].guess(placed);
        }
        for guess in &guesses[..placed.len()] {
            touched ^= tables[guess.table as usize].touch_slot(guess.at as usize);
        }
        black_box(touched);
        guesses
    }
}
