//! Filter: passes the records for which a predicate holds. Called by the chain with whole chunks; times and key hashes
//! stay with their records, and the chunk itself is passed on, so nothing is copied.

use highwater_types::{Chunk, Record};

use crate::error::{OperatorError, UserError};
use crate::operator::Operator;
use crate::outputs::Outputs;

/// Keeps the records for which a predicate holds.
///
/// Source: Flink `StreamFilter`.
#[derive(Clone, Copy, Debug)]
pub struct Filter<F> {
    predicate: F,
}

impl<F> Filter<F> {
    /// A filter by a predicate that may fail: its error fails the attempt.
    pub const fn fallible<T>(predicate: F) -> Self
    where
        F: FnMut(&T) -> Result<bool, UserError>,
    {
        Self { predicate }
    }
}

/// A filter by a predicate that cannot fail.
pub fn filter<T, F>(mut predicate: F) -> Filter<impl FnMut(&T) -> Result<bool, UserError>>
where
    F: FnMut(&T) -> bool,
{
    Filter::fallible(move |record: &T| Ok(predicate(record)))
}

impl<T, F> Operator<T, T> for Filter<F>
where
    T: Record,
    F: FnMut(&T) -> Result<bool, UserError>,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<T>,
        out: &mut Outputs<T>,
    ) -> Result<(), OperatorError> {
        let mut fault = None;
        chunk.retain(|record| {
            if fault.is_some() {
                return false;
            }
            match (self.predicate)(record) {
                Ok(keeps) => keeps,
                Err(error) => {
                    fault = Some(error);
                    false
                }
            }
        });
        match fault {
            Some(error) => Err(OperatorError::user("filter", error)),
            None => out.main.emit_chunk(chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::EventTime;

    use super::*;
    use crate::testing::Harness;

    #[test]
    fn kept_records_keep_order_and_time() {
        let mut harness = Harness::stateless(filter(|value: &i64| value % 2 == 0));
        harness.push_all((0..6).map(|value| (value, EventTime(value * 10))));
        let expected = [(0, EventTime(0)), (2, EventTime(20)), (4, EventTime(40))];
        assert_eq!(harness.take_output(), expected);
    }

    #[test]
    fn an_error_of_the_predicate_fails_the_operator() {
        let mut harness = Harness::stateless(Filter::fallible(|_: &i64| Err("broken".into())));
        let error = harness.try_push_all([(0, EventTime(0))]).unwrap_err();
        assert!(matches!(error, OperatorError::User { call: "filter", .. }));
    }
}
