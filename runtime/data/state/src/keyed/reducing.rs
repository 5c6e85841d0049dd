//! Reducing state: one value for each key and namespace, into which added values are merged.
//!
//! Source: Flink `ReducingState`, `TtlReducingState`.

use std::borrow::Borrow;

use highwater_types::{Key, KeyHash, ProcessingTime, Record};

use super::{keyed_state_by_table, prepare_by_table};
use crate::context::KeyContext;
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::table::{Namespace, StateTable, TableSetup};

/// Merges a value into another of the same type.
///
/// Law: associative; merging is done in order of arrival.
pub trait Reduction<V>: Send + 'static {
    /// Merges `value` into `into`.
    fn reduce(&self, into: &mut V, value: V);
}

impl<V, F: Fn(&mut V, V) + Send + 'static> Reduction<V> for F {
    #[inline]
    fn reduce(&self, into: &mut V, value: V) {
        self(into, value);
    }
}

/// One merged value for each key and namespace.
pub struct ReducingState<K, N, V, F> {
    table: StateTable<K, N, V>,
    reduction: F,
}

impl<K: Key, N: Namespace, V: Record, F: Reduction<V>> ReducingState<K, N, V, F> {
    /// The empty state; called by [`KeyedStateBackend::open_reducing`](crate::KeyedStateBackend::open_reducing).
    pub fn new(setup: TableSetup, reduction: F) -> Self {
        Self {
            table: StateTable::new(setup),
            reduction,
        }
    }

    /// A descriptor of this state.
    pub fn describe(name: &str) -> StateDescriptor {
        StateDescriptor::new(name, StateKind::Reducing, StateSchemas::of::<K, N, V>())
    }

    prepare_by_table!(K, N);

    /// The merged value, or `None` when nothing was added or it is expired.
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

    /// Merges a value in. Returns the merged value.
    #[inline]
    pub fn add(&mut self, at: KeyContext<'_, K, N>, value: V) -> &V {
        let position = match self.table.find_or_remove_expired(&at) {
            Some(position) => {
                self.table.restamp(position, at.now);
                let reduction = &self.reduction;
                self.table
                    .modify(position, |into| reduction.reduce(into, value));
                position
            }
            None => self
                .table
                .insert_new((at.hash, at.key, at.namespace), value, at.now),
        };
        self.table.cell(position)
    }

    /// Merges one value for each row of a chunk, in order of the rows; `merged` sees each merged value.
    ///
    /// `row` gives the key and the value of a row.
    pub fn add_chunk<Q: Borrow<K>>(
        &mut self,
        (hashes, namespace, now): (&[KeyHash], &N, ProcessingTime),
        row: impl Fn(usize) -> (Q, V),
        mut merged: impl FnMut(usize, &V),
    ) {
        if self.table.is_timed() {
            for (at, &hash) in hashes.iter().enumerate() {
                let (key, value) = row(at);
                let key = key.borrow();
                let context = KeyContext {
                    hash,
                    key,
                    namespace,
                    now,
                };
                merged(at, self.add(context, value));
            }
            return;
        }
        let reduction = &self.reduction;
        self.table
            .merge_chunk(hashes, namespace, row, |at, held, value| {
                if let Some(value) = value {
                    reduction.reduce(held, value);
                }
                merged(at, held);
            });
    }

    /// Removes the value.
    pub fn clear(&mut self, at: KeyContext<'_, K, N>) {
        if let Some(position) = self.table.find(at.hash, at.key, at.namespace) {
            self.table.remove(position);
        }
    }
}

keyed_state_by_table!(
    impl [K: Key, N: Namespace, V: Record, F: Reduction<V>] for ReducingState<K, N, V, F>
);
