//! Chunk-wise access: the fast path of aggregation.
//!
//! Called by the keyed states. Rows are looked up ahead of their use, see [`Ahead`]. The rule: a row whose entry was found
//! there and was written in this generation already is changed in place; every other goes the way of a single access.

use std::borrow::Borrow;

use highwater_types::{Key, KeyHash};

use super::ahead::Ahead;
use super::directory::{Position, table_hash};
use super::{NO_TIME, Namespace, StateTable};
use crate::cell::Cell;

/// Rows of an iterator that are brought near together.
const BLOCK: usize = 256;

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
        let mut each = |table: &mut Self, row: usize, hash: KeyHash, guess: Position| {
            let key = key(row);
            let key = key.borrow();
            if let Some(value) = table.warm_value(guess, hash, key, namespace) {
                let before = value.heap_bytes();
                change(row, value);
                let after = value.heap_bytes();
                table.heap_bytes = table.heap_bytes + after - before;
                return;
            }
            let position = table
                .find(hash, key, namespace)
                .unwrap_or_else(|| table.insert_new((hash, key, namespace), init(), NO_TIME));
            table.modify(position, |value| change(row, value));
        };
        if let Some(places) = self.take_places(hashes.len()) {
            for ((row, &hash), &place) in hashes.iter().enumerate().zip(&places) {
                each(self, row, hash, place);
            }
            self.keep_places(places);
            return;
        }
        let mut ahead = Ahead::new(hashes);
        for tick in 0..ahead.ticks() {
            let place = |_, hash| table_hash(hash, namespace);
            let (first, hashes, guesses) = ahead.advance(tick, &self.directory, place);
            for ((row, &hash), &guess) in (first..).zip(hashes).zip(guesses) {
                each(self, row, hash, guess);
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
        let is_warm = entry.may_have(hash)
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
        let mut ahead = Ahead::new(hashes);
        for tick in 0..ahead.ticks() {
            let place = |_, hash| table_hash(hash, namespace);
            let (first, hashes, guesses) = ahead.advance(tick, &self.directory, place);
            for ((number, &hash), &guess) in (first..).zip(hashes).zip(guesses) {
                let (key, value) = row(number);
                let key = key.borrow();
                if let Some(held) = self.warm_value(guess, hash, key, namespace) {
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
            let (mut hashes, mut placed) = ([KeyHash(0); BLOCK], [0; BLOCK]);
            let mut count = 0;
            let block = hashes.iter_mut().zip(&mut placed);
            for ((held, place), (hash, _, namespace)) in block.zip(&mut rows) {
                *held = hash;
                *place = table_hash(hash, namespace);
                count += 1;
            }
            self.bring_near(&hashes[..count], |row, _| placed[row]);
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
        // Nothing is hashed to 0, see `spread`.
        self.bring_near(hashes, |_, hash| hash.0);
    }

    /// Brings near the entries with these key hashes that are placed by `place`.
    fn bring_near(&self, hashes: &[KeyHash], place: impl Fn(usize, KeyHash) -> u64) {
        let mut ahead = Ahead::new(hashes);
        for tick in 0..ahead.ticks() {
            ahead.advance(tick, &self.directory, &place);
        }
    }
}
