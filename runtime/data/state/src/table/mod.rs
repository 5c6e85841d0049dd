//! The state table: typed values of one keyed state, by key and namespace.
//!
//! Owned by the state handles and used on one slot thread through `&mut`. With no store behind it the table is the state;
//! with one it is a write-back cache, and what it lacks is fetched in bulk by [`StateTable::prepare`]. The one rule:
//! before an entry changes or goes, `before_write` has seen it in this generation, because it saves what a running snapshot
//! still owes; only eviction lets clean entries go without.

mod ahead;
mod chunk;
mod directory;
mod drain;
mod evict;
mod filter;
mod likely;
mod marks;
mod misses;
mod paging;
mod recency;
mod saving;
mod slots;
mod sub_table;
mod sweep;

use std::hash::Hash;

use highwater_types::{
    DecodeError, Key, KeyGroup, KeyGroupRange, KeyHash, MaxParallelism, OperatorUid,
    ProcessingTime, Record,
};

use self::directory::Directory;
pub(crate) use self::directory::Position;
use self::marks::Marks;
use self::paging::Paging;
use self::saving::Saving;
use self::sub_table::{Entry, SubTable};
use crate::backing::{Backing, RowKey};
use crate::cell::{Cell, StoredForm};
use crate::context::KeyContext;
use crate::descriptor::StateDescriptor;
use crate::error::{BackingError, StateError, StateName};
use crate::keyed::StateReport;

/// What may tell apart the values of one key: a window, or `()`.
pub trait Namespace: Record + Eq + Hash {}

impl<N: Record + Eq + Hash> Namespace for N {}

/// The last access where none is kept.
const NO_TIME: ProcessingTime = ProcessingTime(0);

/// What a state needs to open: made by the backend, consumed by the constructor of the state.
pub struct TableSetup {
    pub(crate) uid: OperatorUid,
    pub(crate) descriptor: StateDescriptor,
    pub(crate) range: KeyGroupRange,
    pub(crate) max_parallelism: MaxParallelism,
    /// The store behind the table.
    pub(crate) backing: Option<StoreBehind>,
}

/// The rows of a state in a local store, for the table above them.
pub(crate) struct StoreBehind {
    pub(crate) rows: Box<dyn Backing>,
    /// Whether the store held nothing of the state when it was opened: then the table knows all that is in it.
    pub(crate) is_empty: bool,
}

impl TableSetup {
    /// What the job declared.
    pub const fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
}

/// Typed values by key and namespace.
pub struct StateTable<K, N, C> {
    directory: Directory<K, N, C>,
    marks: Marks,
    saving: Option<Saving>,
    paging: Option<Box<Paging<K, N>>>,
    uid: OperatorUid,
    descriptor: StateDescriptor,
    range: KeyGroupRange,
    max_parallelism: MaxParallelism,
    /// Appended to every row key: the namespace that all entries of a slice share.
    suffix: Vec<u8>,
    /// Heap bytes of keys, namespaces and values.
    heap_bytes: usize,
    /// Accesses since the last chunk, for the cleanup of expired values.
    accesses: u32,
    swept: Position,
    /// Entries removed because they were expired.
    expired: u64,
    /// The first error of an access that could not return it.
    fault: Option<StateError>,
}

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    /// An empty table.
    pub fn new(setup: TableSetup) -> Self {
        let paging = setup.backing.map(Paging::new);
        Self {
            directory: Directory::new(),
            marks: Marks::new(),
            saving: None,
            paging: paging.map(Box::new),
            uid: setup.uid,
            descriptor: setup.descriptor,
            range: setup.range,
            max_parallelism: setup.max_parallelism,
            suffix: Vec::new(),
            heap_bytes: 0,
            accesses: 0,
            swept: Position { table: 0, at: 0 },
            expired: 0,
            fault: None,
        }
    }

    /// What the job declared.
    pub const fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }

    /// Entries in memory.
    pub const fn len(&self) -> usize {
        self.directory.len()
    }

    /// Whether no entry is in memory.
    pub const fn is_empty(&self) -> bool {
        self.directory.len() == 0
    }

    /// Bytes of memory that the state takes: what the budget is charged.
    pub fn used_bytes(&self) -> usize {
        self.directory.len() * self.entry_bytes() + self.heap_bytes + self.beside_bytes()
    }

    /// The part of [`StateTable::used_bytes`] that cannot be evicted.
    pub(crate) fn fixed_bytes(&self) -> usize {
        if self.is_paged() {
            self.beside_bytes()
        } else {
            self.used_bytes()
        }
    }

    /// Bytes of memory that an entry takes without what its parts hold on the heap.
    const fn entry_bytes(&self) -> usize {
        let stamp = if self.is_timed() {
            2 * size_of::<ProcessingTime>()
        } else {
            0
        };
        SubTable::<K, N, C>::ENTRY_BYTES + stamp
    }

    /// Bytes of memory beside the entries.
    fn beside_bytes(&self) -> usize {
        self.paging.as_ref().map_or(0, |paging| paging.bytes())
    }

    /// What the table holds and did.
    pub fn report(&self) -> StateReport {
        let counts = self.paging.as_ref().map(|paging| paging.counts);
        let counts = counts.unwrap_or_default();
        StateReport {
            name: self.descriptor.name.clone(),
            entries: self.directory.len() as u64,
            bytes: self.used_bytes() as u64,
            expired: self.expired,
            hits: counts.hits,
            misses: counts.misses,
            known_absent: counts.known_absent,
            unprepared: counts.unprepared,
            evicted: counts.evicted,
            evicted_dirty: counts.evicted_dirty,
            rows_written: counts.rows_written,
        }
    }

    /// The value of a key, or `None`.
    #[inline]
    pub fn get(&mut self, hash: KeyHash, key: &K, namespace: &N) -> Option<&C> {
        let position = self.find(hash, key, namespace)?;
        Some(&self.directory.entry(position).value)
    }

    /// Changes the value of a key, made by `init` when absent.
    #[inline]
    pub fn upsert<R>(
        &mut self,
        (hash, key, namespace): (KeyHash, &K, &N),
        init: impl FnOnce() -> C,
        change: impl FnOnce(&mut C) -> R,
    ) -> R {
        let position = match self.find(hash, key, namespace) {
            Some(position) => position,
            None => self.insert_new((hash, key, namespace), init(), NO_TIME),
        };
        self.modify(position, change)
    }

    /// Sets the value of a key. Returns the one before.
    pub fn insert(&mut self, hash: KeyHash, key: &K, namespace: &N, value: C) -> Option<C> {
        if let Some(position) = self.find(hash, key, namespace) {
            return Some(self.modify(position, |held| std::mem::replace(held, value)));
        }
        self.insert_new((hash, key, namespace), value, NO_TIME);
        None
    }

    /// Removes the value of a key. Returns it.
    pub fn take(&mut self, hash: KeyHash, key: &K, namespace: &N) -> Option<C> {
        let position = self.find(hash, key, namespace)?;
        Some(self.remove(position))
    }

    /// Calls `visit` with every entry in memory, in an order fixed by the history.
    ///
    /// With a store behind the table this is not all of the state.
    pub fn for_each(&self, mut visit: impl FnMut(KeyHash, &K, &N, &C)) {
        for entry in self.directory.iter() {
            visit(entry.hash(), &entry.key, &entry.namespace, &entry.value);
        }
    }

    /// Brings the keys of a chunk near: into memory, with at most one read of the store, or on the heap into the cache of
    /// the processor, which makes the accesses of a large table that follow several times cheaper.
    ///
    /// An access of a key that was not prepared is still right, but reads the store alone and is counted.
    ///
    /// # Errors
    /// Of the kind of the store's error; `Corrupt` when a row cannot be decoded.
    #[inline]
    pub fn prepare<'a>(
        &mut self,
        rows: impl IntoIterator<Item = (KeyHash, &'a K, &'a N)>,
    ) -> Result<(), StateError> {
        if self.paging.is_none() {
            self.warm(rows.into_iter());
            return Ok(());
        }
        self.fetch_misses(&mut rows.into_iter())
    }

    /// Ends a chunk: cleans expired values in pieces.
    ///
    /// # Errors
    /// The first error of an access since the last call, or of a write of removals.
    pub fn after_chunk(&mut self, now: ProcessingTime) -> Result<(), StateError> {
        self.sweep_expired(now);
        self.end_chunk_of_cache();
        self.take_fault()
    }

    /// The first error of an access since the last call.
    pub(crate) fn take_fault(&mut self) -> Result<(), StateError> {
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    pub(crate) const fn is_timed(&self) -> bool {
        self.descriptor.ttl.is_some()
    }

    pub(crate) fn is_paged(&self) -> bool {
        self.paging.is_some()
    }

    pub(crate) const fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    pub(crate) fn set_suffix(&mut self, suffix: Vec<u8>) {
        self.suffix = suffix;
    }

    #[inline]
    pub(crate) const fn note_access(&mut self) {
        self.accesses = self.accesses.saturating_add(1);
    }

    #[inline]
    pub(crate) fn find(&mut self, hash: KeyHash, key: &K, namespace: &N) -> Option<Position> {
        let found = self.directory.find(hash, key, namespace);
        if self.paging.is_some() {
            return self.find_in_cache(found, (hash, key, namespace));
        }
        found
    }

    /// Where the value of a context is, unless it is expired and not visible.
    #[inline]
    pub(crate) fn find_visible(&mut self, at: &KeyContext<'_, K, N>) -> Option<Position> {
        let position = self.find(at.hash, at.key, at.namespace)?;
        if let Some(ttl) = self.descriptor.ttl {
            self.note_access();
            if !ttl.is_visible(self.directory.stamp(position), at.now) {
                return None;
            }
        }
        Some(position)
    }

    /// Where the value of a context is; removes it first when it is expired and not visible.
    #[inline]
    pub(crate) fn find_or_remove_expired(&mut self, at: &KeyContext<'_, K, N>) -> Option<Position> {
        let position = self.find(at.hash, at.key, at.namespace)?;
        if let Some(ttl) = self.descriptor.ttl {
            self.note_access();
            if !ttl.is_visible(self.directory.stamp(position), at.now) {
                self.remove_expired(position);
                return None;
            }
        }
        Some(position)
    }

    #[inline]
    pub(crate) fn cell(&self, position: Position) -> &C {
        &self.directory.entry(position).value
    }

    /// Moves the last access of an entry. Does nothing when the state is not timed.
    #[inline]
    pub(crate) fn restamp(&mut self, position: Position, now: ProcessingTime) {
        if self.is_timed() && self.directory.stamp(position) != now {
            self.before_write(position);
            self.directory.set_stamp(position, now);
        }
    }

    /// Changes an entry in place.
    #[inline]
    pub(crate) fn modify<R>(&mut self, position: Position, change: impl FnOnce(&mut C) -> R) -> R {
        self.before_write(position);
        let cell = &mut self.directory.entry_mut(position).value;
        let before = cell.heap_bytes();
        let result = change(cell);
        self.heap_bytes = self.heap_bytes + cell.heap_bytes() - before;
        result
    }

    /// Adds an entry that is absent.
    pub(crate) fn insert_new(
        &mut self,
        (hash, key, namespace): (KeyHash, &K, &N),
        value: C,
        now: ProcessingTime,
    ) -> Position {
        self.check_group(hash);
        self.withdraw_removal(hash, key, namespace);
        self.heap_bytes += key.heap_bytes() + namespace.heap_bytes() + value.heap_bytes();
        let named = (key.clone(), namespace.clone());
        let entry = Entry::new(hash, self.marks.written(), named, value);
        let stamp = self.is_timed().then_some(now);
        self.directory.insert(entry, stamp)
    }

    /// Removes an entry because it is expired.
    pub(crate) fn remove_expired(&mut self, position: Position) {
        self.expired += 1;
        self.remove(position);
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, position: Position) -> C {
        self.before_write(position);
        let entry = self.directory.remove(position);
        self.heap_bytes -=
            entry.key.heap_bytes() + entry.namespace.heap_bytes() + entry.value.heap_bytes();
        if let Some(paging) = self.paging.as_mut() {
            let hash = entry.hash();
            paging.removed_heap += entry.key.heap_bytes() + entry.namespace.heap_bytes();
            let named = (entry.key, entry.namespace);
            let removal = Entry::new(hash, self.marks.written(), named, ());
            paging.removed.insert(removal, None);
        }
        entry.value
    }

    /// Marks an entry as written, after saving it when the running snapshot still owes it.
    #[inline]
    fn before_write(&mut self, position: Position) {
        let mark = self.directory.entry(position).mark;
        if mark != self.marks.written() {
            self.first_write(position);
        }
    }

    #[cold]
    fn first_write(&mut self, position: Position) {
        self.save_if_owed(position);
        self.directory.entry_mut(position).mark = self.marks.written();
    }

    fn check_group(&mut self, hash: KeyHash) {
        let group = hash.group(self.max_parallelism);
        if !self.range.contains(group) {
            let range = self.range;
            self.raise(|name| StateError::ForeignGroup { name, group, range });
        }
    }

    /// Keeps the first error for the end of the chunk.
    #[cold]
    fn raise(&mut self, error: impl FnOnce(StateName) -> StateError) {
        if self.fault.is_none() {
            self.fault = Some(error(self.name()));
        }
    }

    pub(crate) fn name(&self) -> StateName {
        StateName {
            uid: self.uid.clone(),
            state: self.descriptor.name.clone(),
        }
    }

    fn backing_error(&self, operation: &'static str, source: BackingError) -> StateError {
        StateError::backing(self.name(), operation, source)
    }

    fn decode_error(&self, group: KeyGroup, source: DecodeError) -> StateError {
        StateError::row(&self.name(), group, source)
    }

    fn row_key(&self, hash: KeyHash, key: &K, namespace: &N) -> RowKey {
        // As long as most keys are that own no memory: one allocation.
        let mut bytes = Vec::with_capacity(size_of::<(K, N)>() + self.suffix.len());
        key.encode(&mut bytes);
        namespace.encode(&mut bytes);
        bytes.extend_from_slice(&self.suffix);
        RowKey {
            group: hash.group(self.max_parallelism),
            bytes,
        }
    }

    fn stored_form(&self, now: ProcessingTime) -> StoredForm {
        StoredForm {
            timed: self.is_timed(),
            keeps_time: self.is_timed(),
            now,
        }
    }
}

#[cfg(test)]
mod tests;
