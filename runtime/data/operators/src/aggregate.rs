//! Rolling aggregation: every record gives the result of its key so far. Called by the chain with whole keyed chunks; the
//! keys of a chunk are looked up together and nothing is allocated per record.

use std::marker::PhantomData;
use std::sync::Arc;

use highwater_state::{AggregatingState, Aggregation, StateHandle, TtlConfig};
use highwater_types::{CheckpointBarrier, Chunk, Key, Record};

use crate::aggregate_function::AggregateFunction;
use crate::context::OperatorContext;
use crate::error::OperatorError;
use crate::keyed_states::{KeyedStates, assert_keyed};
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::Outputs;
use crate::snapshot::SnapshotStep;

/// The name of the state.
const STATE: &str = "aggregate";

/// An aggregate function as the state takes it.
struct Shared<In, A> {
    function: Arc<A>,
    input: PhantomData<fn(In)>,
}

impl<In: 'static, A: AggregateFunction<In>> Aggregation for Shared<In, A> {
    type Input = In;
    type Accumulator = A::Accumulator;
    type Output = A::Output;

    fn create(&self) -> A::Accumulator {
        self.function.create()
    }

    #[inline]
    fn add(&self, accumulator: &mut A::Accumulator, input: &In) {
        self.function.add(accumulator, input);
    }

    fn output(&self, accumulator: &A::Accumulator) -> A::Output {
        self.function.result(accumulator)
    }
}

/// Aggregates by key and emits the running result for each record, with its event time.
///
/// Source: Flink `KeyedStream.sum` and its siblings.
pub struct RollingAggregate<K, In: 'static, A: AggregateFunction<In>, S> {
    states: KeyedStates,
    accumulators: StateHandle<AggregatingState<K, (), Shared<In, A>>>,
    function: Arc<A>,
    key_of: S,
}

impl<K, In, A, S> RollingAggregate<K, In, A, S>
where
    K: Key,
    In: Record,
    A: AggregateFunction<In>,
    S: Fn(&In) -> K,
{
    /// Opens the operator; `key_of` gives the key by which the stream is keyed.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn open(
        context: &OperatorContext,
        key_of: S,
        function: A,
        ttl: Option<TtlConfig>,
    ) -> Result<Self, OperatorError> {
        let mut states = KeyedStates::open(context)?;
        let function = Arc::new(function);
        let shared = Shared {
            function: Arc::clone(&function),
            input: PhantomData,
        };
        let mut descriptor = AggregatingState::<K, (), Shared<In, A>>::describe(STATE);
        descriptor.ttl = ttl;
        let accumulators = states.backend.open_aggregating(descriptor, shared)?;
        states.finish_restore()?;
        Ok(Self {
            states,
            accumulators,
            function,
            key_of,
        })
    }
}

impl<K, In, A, S> Operator<In, A::Output> for RollingAggregate<K, In, A, S>
where
    K: Key,
    In: Record,
    A: AggregateFunction<In>,
    S: Fn(&In) -> K,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<A::Output>,
    ) -> Result<(), OperatorError> {
        assert_keyed(chunk);
        let now = self.states.now();
        let state = self.states.backend.get(self.accumulators);
        let (records, times) = (chunk.records(), chunk.times());
        state.prepare_chunk(chunk.hashes(), &(), |at| (self.key_of)(&records[at]))?;
        let mut emitted = Ok(());
        state.add_chunk(
            (chunk.hashes(), &(), now),
            records,
            |at| (self.key_of)(&records[at]),
            |at, accumulator| {
                if emitted.is_ok()
                    && let Err(error) = out.emit(self.function.result(accumulator), times[at])
                {
                    emitted = Err(error);
                }
            },
        );
        chunk.clear();
        emitted?;
        self.states.after_chunk()
    }

    fn on_turn(&mut self, _: &mut Outputs<A::Output>) -> Result<Progress, OperatorError> {
        self.states.on_turn().map(|()| Progress::Done)
    }

    fn snapshot_start(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.states.snapshot_start(barrier)
    }

    fn snapshot_step(&mut self) -> Result<SnapshotStep, OperatorError> {
        self.states.snapshot_step()
    }

    fn snapshot_abort(&mut self) {
        self.states.snapshot_abort();
    }

    fn report(&self, report: &mut OperatorReport) {
        self.states.report(report);
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::EventTime;

    use super::*;
    use crate::aggregate_function::{Count, Max};
    use crate::testing::{Harness, HarnessSetup};

    type Pair = (i64, i64);

    const fn key_of(pair: &Pair) -> i64 {
        pair.0
    }

    fn rolling<A: AggregateFunction<Pair>>(
        setup: HarnessSetup,
        function: A,
    ) -> Harness<Pair, A::Output> {
        Harness::new(setup, |context| {
            RollingAggregate::open(&context, key_of, function, None)
        })
    }

    fn pairs(pairs: &[Pair]) -> impl Iterator<Item = (Pair, EventTime)> {
        pairs.iter().map(|&pair| (pair, EventTime(pair.1)))
    }

    #[test]
    fn every_record_gives_the_result_of_its_key_with_its_own_time() {
        let mut counts = rolling(HarnessSetup::default(), Count);
        counts.push_keyed(pairs(&[(1, 5), (2, 7), (1, 3)]), key_of);
        let expected = [(1, EventTime(5)), (1, EventTime(7)), (2, EventTime(3))];
        assert_eq!(counts.take_output(), expected);
        let mut largest = rolling(HarnessSetup::default(), Max::of(|pair: &Pair| pair.1));
        largest.push_keyed(pairs(&[(1, 5), (1, 3), (1, 9)]), key_of);
        let values: Vec<_> = largest
            .take_output()
            .into_iter()
            .map(|(value, _)| value)
            .collect();
        assert_eq!(values, [5, 5, 9]);
    }

    #[test]
    fn results_come_back_after_a_restore_and_are_those_of_the_barrier() {
        let mut before = rolling(HarnessSetup::default(), Count);
        before.push_keyed(pairs(&[(1, 0), (1, 0)]), key_of);
        before.barrier();
        before.push_keyed(pairs(&[(1, 0)]), key_of);
        let setup = HarnessSetup {
            restored: Some(before.collect().into()),
            ..HarnessSetup::default()
        };
        let mut after = rolling(setup, Count);
        after.push_keyed(pairs(&[(1, 0)]), key_of);
        assert_eq!(after.take_output(), [(3, EventTime(0))]);
    }

    #[test]
    #[should_panic(expected = "a keyed operator gets keyed chunks")]
    fn an_unkeyed_chunk_is_a_fault_of_the_plan() {
        rolling(HarnessSetup::default(), Count).push((1, 0), EventTime(0));
    }
}
