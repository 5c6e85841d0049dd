//! What a table keeps when a store lies behind it: removals that the store does not know yet, keys known to be absent,
//! the batch that is to be written, and how recently entries were used.
//!
//! Called by the table in cold paths only. Invariant: a key is not both in the table and in `removed`; the batch is written
//! before anything is read.

use std::hash::Hash;

use hashbrown::HashTable;
use highwater_types::{Key, KeyHash, Record};

use super::StoreBehind;
use super::directory::{Directory, Position, table_hash};
use super::filter::Filter;
use super::likely::Likely;
use super::recency::Recency;
use super::sub_table::SubTable;
use crate::backing::{Backing, RowKey, RowWrite};
use crate::error::BackingError;

/// Rows at which a pending batch is written.
const BATCH_ROWS: usize = 1_024;

/// Bytes at which it is written: rows may be large, and each has copies on its way into the store.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes of an allocation beside those that were asked for.
const ALLOCATION_BYTES: usize = 16;

/// What a cache did since it was opened, in entries or rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CacheCounts {
    /// Prepared and in memory.
    pub(crate) hits: u64,
    /// Asked of the store.
    pub(crate) misses: u64,
    /// Not in memory, and known to be absent without a read.
    pub(crate) known_absent: u64,
    /// Reads of a single row that no `prepare` announced.
    pub(crate) unprepared: u64,
    /// Dropped from memory.
    pub(crate) evicted: u64,
    /// Written because they had to leave memory.
    pub(crate) evicted_dirty: u64,
    /// Written to the store for whatever reason.
    pub(crate) rows_written: u64,
}

pub(crate) struct Paging<K, N> {
    pub(crate) backing: Box<dyn Backing>,
    /// Removed here, perhaps present in the store.
    pub(crate) removed: Directory<K, N, ()>,
    /// Heap bytes of the keys and namespaces in `removed`.
    pub(crate) removed_heap: usize,
    /// Looked up in this chunk and absent.
    absent: HashTable<(KeyHash, K, N)>,
    batch: Vec<RowWrite>,
    /// Bytes of the rows in the batch.
    batch_bytes: usize,
    /// Nothing may be written: the store is being frozen.
    pub(crate) is_withheld: bool,
    /// The keys that only the store has. `None` when it may have keys that this table never saw, or when the filter
    /// grew too large: then only the store knows.
    pub(super) only_stored: Option<Filter>,
    pub(super) recency: Recency,
    pub(super) likely: Likely,
    /// Where the rows of the chunk that was prepared last probably are.
    pub(super) places: Vec<Position>,
    pub(crate) counts: CacheCounts,
}

impl<K: Key, N: Record + Eq + Hash> Paging<K, N> {
    pub(crate) fn new(store: StoreBehind) -> Self {
        Self {
            backing: store.rows,
            removed: Directory::new(),
            removed_heap: 0,
            absent: HashTable::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            is_withheld: false,
            only_stored: store.is_empty.then(Filter::default),
            recency: Recency::new(),
            likely: Likely::new(),
            places: Vec::new(),
            counts: CacheCounts::default(),
        }
    }

    /// Bytes of memory beside the entries: none of them can be evicted.
    pub(crate) fn bytes(&self) -> usize {
        let removed = self.removed.len() * SubTable::<K, N, ()>::ENTRY_BYTES + self.removed_heap;
        let absent = self.absent.capacity() * (size_of::<(KeyHash, K, N)>() + 1) * 8 / 7;
        let filter = self.only_stored.as_ref().map_or(0, Filter::bytes);
        let places = self.places.capacity() * size_of::<Position>();
        removed + absent + places + self.batch_bytes + filter
    }

    /// Whether the key, which is not in memory, was removed or looked up in vain since the store was last asked.
    pub(crate) fn is_known_absent(&self, hash: KeyHash, key: &K, namespace: &N) -> bool {
        let placed = table_hash(hash, namespace);
        let is = |held: &(KeyHash, K, N)| held.0 == hash && held.1 == *key && held.2 == *namespace;
        self.absent.find(placed, is).is_some()
            || (self.removed.len() > 0 && self.removed.find(hash, key, namespace).is_some())
    }

    /// Takes a key as absent until the end of the chunk.
    pub(crate) fn note_absent(&mut self, hash: KeyHash, key: K, namespace: N) {
        let placed = table_hash(hash, &namespace);
        let place = |held: &(KeyHash, K, N)| table_hash(held.0, &held.2);
        self.absent
            .insert_unique(placed, (hash, key, namespace), place);
    }

    pub(crate) fn forget_absent(&mut self) {
        self.absent.clear();
        self.places.clear();
    }

    /// Adds a change to the pending batch.
    pub(crate) fn push(&mut self, key: RowKey, value: Option<Vec<u8>>) -> Result<(), BackingError> {
        self.batch_bytes += size_of::<RowWrite>()
            + key.bytes.capacity()
            + value.as_ref().map_or(0, Vec::capacity)
            + 2 * ALLOCATION_BYTES;
        self.batch.push(RowWrite { key, value });
        self.counts.rows_written += 1;
        if self.batch.len() >= BATCH_ROWS || self.batch_bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the pending batch, sorted. Of several changes of one row, which an aborted snapshot leaves, the last counts.
    pub(crate) fn flush(&mut self) -> Result<(), BackingError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        debug_assert!(
            !self.is_withheld,
            "nothing is written while the store is frozen"
        );
        self.batch.reverse();
        self.batch.sort_by(|a, b| a.key.cmp(&b.key));
        self.batch.dedup_by(|a, b| a.key == b.key);
        self.backing.write(&self.batch)?;
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }

    /// Whether changes wait to be written.
    pub(crate) const fn has_pending(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Reads rows; `keys` are sorted and distinct.
    pub(crate) fn fetch(&mut self, keys: &[RowKey]) -> Result<Vec<Option<Vec<u8>>>, BackingError> {
        self.flush()?;
        self.counts.misses += keys.len() as u64;
        let mut found = Vec::with_capacity(keys.len());
        self.backing.fetch(keys, &mut found)?;
        Ok(found)
    }
}
