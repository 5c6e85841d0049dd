//! Accesses that neither read the store nor leave a trace for it: for slices, which leave the store by ranges, and for values
//! that are written whatever was there.
//!
//! Called by sliced state and its operators. The rule: what is taken without a trace is kept from coming back by the caller.

use highwater_types::{Key, KeyHash};

use super::directory::Position;
use super::marks::Mark;
use super::sub_table::Entry;
use super::{NO_TIME, Namespace, StateTable};
use crate::cell::Cell;
use crate::error::StateError;

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    /// Sets the value of a key without looking for the one before in the store.
    pub fn put(&mut self, hash: KeyHash, key: &K, namespace: &N, value: C) {
        match self.directory.find(hash, key, namespace) {
            Some(position) => self.modify(position, |held| *held = value),
            None => {
                self.insert_new((hash, key, namespace), value, NO_TIME);
            }
        }
    }

    /// How many sub-tables there are. Entries move from one to a new last one only.
    pub(crate) const fn sub_tables(&self) -> usize {
        self.directory.tables.len()
    }

    /// Calls `visit` with the keys of a sub-table.
    pub(crate) fn visit_sub_table(&self, at: usize, mut visit: impl FnMut(KeyHash, &K)) {
        let entries = self.directory.tables[at].iter();
        entries.for_each(|entry| visit(entry.hash(), &entry.key));
    }

    /// Takes an entry that is in memory; the store is not told that it is gone.
    pub(crate) fn take_without_trace(
        &mut self,
        hash: KeyHash,
        key: &K,
        namespace: &N,
    ) -> Option<C> {
        let position = self.directory.find(hash, key, namespace)?;
        Some(self.remove_without_trace(position).2)
    }

    /// Takes up to `limit` entries in memory; the store is not told that they are gone. Returns how many.
    pub(crate) fn drain_without_trace(
        &mut self,
        limit: usize,
        mut take: impl FnMut(KeyHash, K, C),
    ) -> usize {
        let mut left = limit;
        for table in (0..self.directory.tables.len()).rev() {
            for at in (0..self.directory.tables[table].slots()).rev() {
                if left == 0 {
                    return limit;
                }
                if self.directory.tables[table].get(at).is_none() {
                    continue;
                }
                left -= 1;
                let (hash, key, value) = self.remove_without_trace(Position {
                    table: table as u32,
                    at: at as u32,
                });
                take(hash, key, value);
            }
        }
        limit - left
    }

    fn remove_without_trace(&mut self, position: Position) -> (KeyHash, K, C) {
        self.before_write(position);
        let entry = self.directory.remove(position);
        self.heap_bytes -=
            entry.key.heap_bytes() + entry.namespace.heap_bytes() + entry.value.heap_bytes();
        (entry.hash(), entry.key, entry.value)
    }

    /// Whether the key was removed here and the store may not know it yet.
    pub(crate) fn is_removed(&self, hash: KeyHash, key: &K, namespace: &N) -> bool {
        let removed = self.paging.as_ref().map(|paging| &paging.removed);
        removed.is_some_and(|removed| removed.find(hash, key, namespace).is_some())
    }

    /// Notes that a key which is not in memory is to be removed from the store.
    pub(crate) fn note_removed(&mut self, hash: KeyHash, key: K, namespace: N) {
        let mark: Mark = self.marks.written();
        if let Some(paging) = self.paging.as_mut()
            && paging.removed.find(hash, &key, &namespace).is_none()
        {
            paging.removed_heap += key.heap_bytes() + namespace.heap_bytes();
            let removal = Entry::new(hash, mark, (key, namespace), ());
            paging.removed.insert(removal, None);
        }
    }

    /// Writes the pending batch, so that the store can be scanned.
    ///
    /// # Errors
    /// Of the store's kind, or the first error of an access that could not return it.
    pub(crate) fn flush_pending(&mut self) -> Result<(), StateError> {
        self.flush();
        self.take_fault()
    }

    /// Whether everything that the table knows is in memory, and nothing of it is on its way to the store.
    pub(crate) fn is_blank(&self) -> bool {
        let is_settled =
            |paging: &super::Paging<K, N>| paging.removed.len() == 0 && !paging.has_pending();
        self.is_empty() && self.saving.is_none() && self.paging.as_deref().is_none_or(is_settled)
    }
}
