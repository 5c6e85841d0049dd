//! Flat map: any number of records out for each record in. Called by the chain with whole chunks. Output leaves in full
//! chunks while the function runs, so a record that gives millions needs no memory for them.

use highwater_types::{Chunk, Record};

use crate::collector::Collector;
use crate::error::{OperatorError, UserError};
use crate::operator::Operator;
use crate::outputs::Outputs;

/// Turns each record into any number of others, each with the event time of its origin.
///
/// Source: Flink `StreamFlatMap`.
#[derive(Clone, Copy, Debug)]
pub struct FlatMap<F> {
    function: F,
}

impl<F> FlatMap<F> {
    /// A flat map by a function that emits through a collector. Its error fails the attempt.
    pub const fn new<In, Out>(function: F) -> Self
    where
        F: FnMut(In, &mut Collector<'_, Out>) -> Result<(), UserError>,
    {
        Self { function }
    }
}

impl<In, Out, F> Operator<In, Out> for FlatMap<F>
where
    Out: Record,
    F: FnMut(In, &mut Collector<'_, Out>) -> Result<(), UserError>,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        for (record, time, _) in chunk.drain() {
            let mut collector = Collector::new(out, time);
            let called = (self.function)(record, &mut collector);
            collector.finish()?;
            called.map_err(|e| OperatorError::user("flat_map", e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::chunk::CHUNK_RECORDS_MAX;
    use highwater_types::{EventTime, OperatorUid};

    use super::*;
    use crate::chain::Link;
    use crate::map::Map;
    use crate::outputs::Port;
    use crate::testing::Harness;

    #[test]
    fn a_huge_fan_out_leaves_in_full_chunks() {
        let repeat = |count: i64, out: &mut Collector<'_, i64>| {
            (0..count).for_each(|value| out.emit(value));
            Ok(())
        };
        let mut harness = Harness::stateless(FlatMap::new(repeat));
        let count = 10 * CHUNK_RECORDS_MAX as i64 + 1;
        harness.push_all([(0, EventTime(1)), (count, EventTime(2))]);
        assert_eq!(harness.largest_chunk(), CHUNK_RECORDS_MAX);
        let output = harness.take_output();
        assert_eq!(output.len(), count as usize);
        assert!(
            output
                .iter()
                .enumerate()
                .all(|(at, &out)| out == (at as i64, EventTime(2)))
        );
    }

    #[test]
    fn an_error_of_the_function_fails_the_operator() {
        let emit = |value: i64, out: &mut Collector<'_, i64>| {
            out.emit(value);
            Err("after the emit".into())
        };
        let mut harness = Harness::stateless(FlatMap::new(emit));
        let error = harness.try_push_all([(1, EventTime(0))]).unwrap_err();
        assert!(matches!(
            error,
            OperatorError::User {
                call: "flat_map",
                ..
            }
        ));
    }

    #[test]
    fn an_error_of_a_receiver_comes_before_that_of_the_function() {
        let uid = OperatorUid::parse("receiver").unwrap();
        let refuse = Map::fallible(|_: i64| Err::<i64, _>("refused".into()));
        let receiver = Link::new(uid, refuse, Outputs::new(Port::new(Vec::new()), Vec::new()));
        let mut out = Outputs::new(Port::new(vec![Box::new(receiver)]), Vec::new());
        let fill = |value: i64, out: &mut Collector<'_, i64>| {
            (0..CHUNK_RECORDS_MAX).for_each(|_| out.emit(value));
            Err("after the emit".into())
        };
        let mut chunk = Chunk::new();
        chunk.push(1, EventTime(0));
        let error = FlatMap::new(fill)
            .on_chunk(&mut chunk, &mut out)
            .unwrap_err();
        assert!(matches!(error, OperatorError::User { call: "map", .. }));
    }
}
