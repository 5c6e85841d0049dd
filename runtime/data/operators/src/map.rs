//! Map: one record out for each record in. Called by the chain with whole chunks; keeps the event time of each record
//! and forgets its key, because the new record may have another one.

use highwater_types::{Chunk, Record};

use crate::error::{OperatorError, UserError};
use crate::operator::Operator;
use crate::outputs::Outputs;

/// Turns each record into another one.
///
/// Source: Flink `StreamMap`.
#[derive(Clone, Copy, Debug)]
pub struct Map<F> {
    function: F,
}

impl<F> Map<F> {
    /// A map by a function that may fail: its error fails the attempt.
    pub const fn fallible<In, Out>(function: F) -> Self
    where
        F: FnMut(In) -> Result<Out, UserError>,
    {
        Self { function }
    }
}

/// A map by a function that cannot fail.
pub fn map<In, Out, F>(mut function: F) -> Map<impl FnMut(In) -> Result<Out, UserError>>
where
    F: FnMut(In) -> Out,
{
    Map::fallible(move |record| Ok(function(record)))
}

impl<In, Out, F> Operator<In, Out> for Map<F>
where
    Out: Record,
    F: FnMut(In) -> Result<Out, UserError>,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        for (record, time) in chunk.drain_unkeyed() {
            let mapped = (self.function)(record).map_err(|e| OperatorError::user("map", e))?;
            out.emit(mapped, time)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::EventTime;

    use super::*;
    use crate::testing::Harness;

    #[test]
    fn each_record_gives_one_with_its_time() {
        let mut harness = Harness::stateless(map(|value: i64| value.to_string()));
        harness.push_all([(1, EventTime(10)), (2, EventTime(-5))]);
        let expected = [
            ("1".to_owned(), EventTime(10)),
            ("2".to_owned(), EventTime(-5)),
        ];
        assert_eq!(harness.take_output(), expected);
    }

    #[test]
    fn an_error_of_the_function_fails_the_operator_with_its_source() {
        let refuse = |value: i64| {
            if value > 0 {
                Ok(value)
            } else {
                Err("not positive".into())
            }
        };
        let mut harness = Harness::stateless(Map::fallible(refuse));
        harness.push(1, EventTime(0));
        let error = harness.try_push_all([(0, EventTime(0))]).unwrap_err();
        assert_eq!(error.to_string(), "the user function failed in `map`");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("not positive"));
    }
}
