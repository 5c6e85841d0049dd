//! Rolling reduction: every record gives the merged record of its key so far. Called by the chain with whole keyed
//! chunks; the keys of a chunk are looked up together and nothing is allocated per record.

use highwater_state::{ReducingState, Reduction, StateHandle, TtlConfig};
use highwater_types::{CheckpointBarrier, Chunk, Key, Record};

use crate::context::OperatorContext;
use crate::error::OperatorError;
use crate::keyed_states::{KeyedStates, assert_keyed};
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::Outputs;
use crate::snapshot::SnapshotStep;

/// The name of the state.
const STATE: &str = "reduce";

/// Merges records of a key and emits the merged one for each, with its event time.
///
/// Source: Flink `StreamGroupedReduceOperator`.
pub struct RollingReduce<K, T, F, S> {
    states: KeyedStates,
    merged: StateHandle<ReducingState<K, (), T, F>>,
    key_of: S,
}

impl<K, T, F, S> RollingReduce<K, T, F, S>
where
    K: Key,
    T: Record,
    F: Reduction<T>,
    S: Fn(&T) -> K,
{
    /// Opens the operator; `key_of` gives the key by which the stream is keyed, `reduce` merges its second argument into
    /// the first.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn open(
        context: &OperatorContext,
        key_of: S,
        reduce: F,
        ttl: Option<TtlConfig>,
    ) -> Result<Self, OperatorError> {
        let mut states = KeyedStates::open(context)?;
        let mut descriptor = ReducingState::<K, (), T, F>::describe(STATE);
        descriptor.ttl = ttl;
        let merged = states.backend.open_reducing(descriptor, reduce)?;
        states.finish_restore()?;
        Ok(Self {
            states,
            merged,
            key_of,
        })
    }
}

impl<K, T, F, S> Operator<T, T> for RollingReduce<K, T, F, S>
where
    K: Key,
    T: Record,
    F: Reduction<T>,
    S: Fn(&T) -> K,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<T>,
        out: &mut Outputs<T>,
    ) -> Result<(), OperatorError> {
        assert_keyed(chunk);
        let now = self.states.now();
        let state = self.states.backend.get(self.merged);
        let (records, times) = (chunk.records(), chunk.times());
        state.prepare_chunk(chunk.hashes(), &(), |at| (self.key_of)(&records[at]))?;
        let mut emitted = Ok(());
        state.add_chunk(
            (chunk.hashes(), &(), now),
            |at| ((self.key_of)(&records[at]), records[at].clone()),
            |at, merged| {
                if emitted.is_ok()
                    && let Err(error) = out.emit(merged.clone(), times[at])
                {
                    emitted = Err(error);
                }
            },
        );
        chunk.clear();
        emitted?;
        self.states.after_chunk()
    }

    fn on_turn(&mut self, _: &mut Outputs<T>) -> Result<Progress, OperatorError> {
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
    use crate::testing::{Harness, HarnessSetup};

    type Pair = (i64, i64);

    const fn key_of(pair: &Pair) -> i64 {
        pair.0
    }

    fn summing(setup: HarnessSetup, ttl: Option<TtlConfig>) -> Harness<Pair, Pair> {
        let sum = |into: &mut Pair, pair: Pair| into.1 += pair.1;
        Harness::new(setup, |context| {
            RollingReduce::open(&context, key_of, sum, ttl)
        })
    }

    fn push(harness: &mut Harness<Pair, Pair>, pairs: &[Pair]) -> Vec<Pair> {
        harness.push_keyed(pairs.iter().map(|&pair| (pair, EventTime(1))), key_of);
        harness
            .take_output()
            .into_iter()
            .map(|(pair, _)| pair)
            .collect()
    }

    #[test]
    fn every_record_gives_the_merged_one_of_its_key() {
        let mut harness = summing(HarnessSetup::default(), None);
        let output = push(&mut harness, &[(1, 5), (2, 7), (1, 3), (1, -1)]);
        assert_eq!(output, [(1, 5), (2, 7), (1, 8), (1, 7)]);
    }

    #[test]
    fn the_merged_record_comes_back_after_a_restore() {
        let mut before = summing(HarnessSetup::default(), None);
        push(&mut before, &[(1, 5), (2, 7)]);
        let setup = HarnessSetup {
            restored: Some(before.snapshot().into()),
            ..HarnessSetup::default()
        };
        let mut after = summing(setup, None);
        assert_eq!(push(&mut after, &[(1, 1), (3, 1)]), [(1, 6), (3, 1)]);
    }

    #[test]
    fn t28_a_merged_record_is_gone_at_last_write_plus_ttl() {
        let ttl = Some(TtlConfig::after_write(10));
        let mut harness = summing(HarnessSetup::default(), ttl);
        push(&mut harness, &[(1, 5)]);
        harness.processing_time(9);
        assert_eq!(push(&mut harness, &[(1, 1)]), [(1, 6)]);
        harness.processing_time(19);
        assert_eq!(push(&mut harness, &[(1, 1)]), [(1, 1)]);
    }
}
