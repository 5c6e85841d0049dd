//! Aggregating state: one accumulator for each key and namespace, which differs in type from what is added and returned.
//!
//! Source: Flink `AggregatingState`, `AggregateFunction`.

use std::borrow::Borrow;

use highwater_types::{Key, KeyHash, ProcessingTime, Record};

use super::{keyed_state_by_table, prepare_by_table};
use crate::context::KeyContext;
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::table::{Namespace, StateTable, TableSetup};

/// How an accumulator is made, fed and read.
pub trait Aggregation: Send + 'static {
    /// What is added.
    type Input;
    /// What is kept.
    type Accumulator: Record;
    /// What is returned.
    type Output;

    /// The accumulator of nothing.
    fn create(&self) -> Self::Accumulator;

    /// Adds one input.
    fn add(&self, accumulator: &mut Self::Accumulator, input: &Self::Input);

    /// What the accumulator comes to.
    fn output(&self, accumulator: &Self::Accumulator) -> Self::Output;
}

/// One accumulator for each key and namespace.
pub struct AggregatingState<K, N, A: Aggregation> {
    table: StateTable<K, N, A::Accumulator>,
    aggregation: A,
}

impl<K: Key, N: Namespace, A: Aggregation> AggregatingState<K, N, A> {
    /// The empty state; called by
    /// [`KeyedStateBackend::open_aggregating`](crate::KeyedStateBackend::open_aggregating).
    pub fn new(setup: TableSetup, aggregation: A) -> Self {
        Self {
            table: StateTable::new(setup),
            aggregation,
        }
    }

    /// A descriptor of this state.
    pub fn describe(name: &str) -> StateDescriptor {
        let schemas = StateSchemas::of::<K, N, A::Accumulator>();
        StateDescriptor::new(name, StateKind::Aggregating, schemas)
    }

    prepare_by_table!(K, N);

    /// What was added so far comes to, or `None` when nothing was added or it is expired.
    #[inline]
    pub fn get(&mut self, at: KeyContext<'_, K, N>) -> Option<A::Output> {
        let position = self.table.find_visible(&at)?;
        if self
            .table
            .descriptor()
            .ttl
            .is_some_and(|ttl| ttl.refreshes_on_read())
        {
            self.table.restamp(position, at.now);
        }
        Some(self.aggregation.output(self.table.cell(position)))
    }

    /// Adds one input.
    #[inline]
    pub fn add(&mut self, at: KeyContext<'_, K, N>, input: &A::Input) {
        let position = if let Some(position) = self.table.find_or_remove_expired(&at) {
            self.table.restamp(position, at.now);
            position
        } else {
            let empty = self.aggregation.create();
            self.table
                .insert_new((at.hash, at.key, at.namespace), empty, at.now)
        };
        let aggregation = &self.aggregation;
        self.table
            .modify(position, |held| aggregation.add(held, input));
    }

    /// Adds one input for each row of a chunk, in order of the rows; `added` sees each accumulator after its row.
    ///
    /// `key` gives the key of a row.
    pub fn add_chunk<Q: Borrow<K>>(
        &mut self,
        (hashes, namespace, now): (&[KeyHash], &N, ProcessingTime),
        inputs: &[A::Input],
        key: impl Fn(usize) -> Q,
        mut added: impl FnMut(usize, &A::Accumulator),
    ) {
        if self.table.is_timed() {
            for (at, (&hash, input)) in hashes.iter().zip(inputs).enumerate() {
                let key = key(at);
                let key = key.borrow();
                self.add(
                    KeyContext {
                        hash,
                        key,
                        namespace,
                        now,
                    },
                    input,
                );
                if let Some(position) = self.table.find(hash, key, namespace) {
                    added(at, self.table.cell(position));
                }
            }
            return;
        }
        let aggregation = &self.aggregation;
        let create = || aggregation.create();
        self.table
            .update_chunk(hashes, namespace, key, create, |at, held| {
                aggregation.add(held, &inputs[at]);
                added(at, held);
            });
    }

    /// Removes the accumulator.
    pub fn clear(&mut self, at: KeyContext<'_, K, N>) {
        if let Some(position) = self.table.find(at.hash, at.key, at.namespace) {
            self.table.remove(position);
        }
    }
}

keyed_state_by_table!(
    impl [K: Key, N: Namespace, A: Aggregation] for AggregatingState<K, N, A>
);
