//! What a table keeps when a store lies behind it: removals that the store does not know yet, keys known to be absent,
//! and the batch that is to be written.
//!
//! Called by the table in cold paths only. Invariant: a key is in at most one of table, `removed` and the store's view of
//! the pending batch, and the batch is written before anything is read.

use std::hash::Hash;

use highwater_types::{Key, KeyHash, Record};

use super::directory::Directory;
use super::marks::Marks;
use super::sub_table::Entry;
use crate::backing::{Backing, RowKey, RowWrite};
use crate::error::BackingError;

/// Rows at which a pending batch is written.
const BATCH_ROWS: usize = 4_096;

pub(crate) struct Paging<K, N> {
    pub(crate) backing: Box<dyn Backing>,
    /// Removed here, perhaps present in the store.
    pub(crate) removed: Directory<K, N, ()>,
    /// Looked up in this chunk and absent.
    absent: Directory<K, N, ()>,
    batch: Vec<RowWrite>,
    /// Nothing may be written: the store is being frozen.
    pub(crate) is_withheld: bool,
    /// Bytes that the table may hold before it evicts.
    pub(crate) cache_bytes: usize,
    /// Where eviction goes on.
    pub(crate) evict_table: usize,
    /// Reads of a single row that no `prepare` announced.
    pub(crate) unprepared: u64,
    /// Rows that were asked of the store.
    pub(crate) misses: u64,
}

impl<K: Key, N: Record + Eq + Hash> Paging<K, N> {
    pub(crate) fn new(backing: Box<dyn Backing>, cache_bytes: usize) -> Self {
        Self {
            backing,
            removed: Directory::new(),
            absent: Directory::new(),
            batch: Vec::new(),
            is_withheld: false,
            cache_bytes,
            evict_table: 0,
            unprepared: 0,
            misses: 0,
        }
    }

    /// Whether the store need not be asked for this key.
    pub(crate) fn is_known_absent(&self, hash: KeyHash, key: &K, namespace: &N) -> bool {
        self.absent.find(hash, key, namespace).is_some()
            || self.removed.find(hash, key, namespace).is_some()
    }

    /// Takes the key as absent until the end of the chunk.
    pub(crate) fn note_absent(&mut self, hash: KeyHash, key: &K, namespace: &N) {
        let named = (key.clone(), namespace.clone());
        let entry = Entry::new(hash, Marks::new().saved(), named, ());
        self.absent.insert(entry, None);
    }

    pub(crate) fn forget_absent(&mut self) {
        if self.absent.len() > 0 {
            self.absent = Directory::new();
        }
    }

    /// Adds a change to the pending batch.
    pub(crate) fn push(&mut self, key: RowKey, value: Option<Vec<u8>>) -> Result<(), BackingError> {
        self.batch.push(RowWrite { key, value });
        if self.batch.len() >= BATCH_ROWS {
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
        Ok(())
    }

    /// Reads rows; `keys` are sorted and distinct.
    pub(crate) fn fetch(&mut self, keys: &[RowKey]) -> Result<Vec<Option<Vec<u8>>>, BackingError> {
        self.flush()?;
        self.misses += keys.len() as u64;
        let mut found = Vec::with_capacity(keys.len());
        self.backing.fetch(keys, &mut found)?;
        Ok(found)
    }
}
