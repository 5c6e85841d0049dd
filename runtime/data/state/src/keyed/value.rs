//! Value state: one value for each key and namespace.
//!
//! Source: Flink `ValueState`, `TtlValueState`.

use highwater_types::{Key, KeyHash, Record};

use super::{OpenState, keyed_state_by_table, prepare_by_table};
use crate::context::KeyContext;
use crate::descriptor::{StateKind, StateSchemas};
use crate::table::{Namespace, StateTable, TableSetup};

/// One value for each key and namespace.
pub struct ValueState<K, N, V> {
    table: StateTable<K, N, V>,
}

impl<K: Key, N: Namespace, V: Record> OpenState for ValueState<K, N, V> {
    fn open(setup: TableSetup) -> Self {
        Self {
            table: StateTable::new(setup),
        }
    }

    fn shape() -> (StateKind, StateSchemas) {
        (StateKind::Value, StateSchemas::of::<K, N, V>())
    }
}

impl<K: Key, N: Namespace, V: Record> ValueState<K, N, V> {
    prepare_by_table!(K, N);

    /// The value, or `None` when absent or expired.
    #[inline]
    pub fn get(&mut self, at: KeyContext<'_, K, N>) -> Option<&V> {
        let position = self.table.find_visible(&at)?;
        if self
            .table
            .descriptor()
            .ttl
            .is_some_and(|ttl| ttl.refreshes_on_read())
        {
            self.table.restamp(position, at.now);
        }
        Some(self.table.cell(position))
    }

    /// Sets the value.
    #[inline]
    pub fn set(&mut self, at: KeyContext<'_, K, N>, value: V) {
        self.table.note_access();
        match self.table.find(at.hash, at.key, at.namespace) {
            Some(position) => {
                self.table.restamp(position, at.now);
                self.table.modify(position, |held| *held = value);
            }
            None => {
                self.table
                    .insert_new((at.hash, at.key, at.namespace), value, at.now);
            }
        }
    }

    /// Changes the value in place, made by `init` when absent or expired.
    #[inline]
    pub fn update<R>(
        &mut self,
        at: KeyContext<'_, K, N>,
        init: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        let position = match self.table.find_or_remove_expired(&at) {
            Some(position) => {
                self.table.restamp(position, at.now);
                position
            }
            None => self
                .table
                .insert_new((at.hash, at.key, at.namespace), init(), at.now),
        };
        self.table.modify(position, change)
    }

    /// Removes the value. Returns it unless it was absent or expired.
    pub fn take(&mut self, at: KeyContext<'_, K, N>) -> Option<V> {
        let position = self.table.find_or_remove_expired(&at)?;
        Some(self.table.remove(position))
    }

    /// Removes the value.
    pub fn clear(&mut self, at: KeyContext<'_, K, N>) {
        self.take(at);
    }

    /// Calls `visit` with every value in memory, expired ones included, in an order fixed by the history.
    pub fn for_each(&self, visit: impl FnMut(KeyHash, &K, &N, &V)) {
        self.table.for_each(visit);
    }
}

keyed_state_by_table!(impl [K: Key, N: Namespace, V: Record] for ValueState<K, N, V>);
