//! Timestamps: gives every record an event time taken from its content. Called by the chain with whole chunks, which
//! pass through with their key hashes. Makes no watermarks: their generators are in `highwater-time`.

use highwater_types::{Chunk, EventTime, Record};

use crate::error::OperatorError;
use crate::operator::Operator;
use crate::outputs::Outputs;

/// Assigns event time; the function also sees the time that the record has.
///
/// Source: Flink `TimestampAssigner`.
#[derive(Clone, Copy, Debug)]
pub struct AssignTimestamps<F> {
    time_of: F,
}

impl<F> AssignTimestamps<F> {
    /// Assigns the time that `time_of` returns.
    pub const fn new<T>(time_of: F) -> Self
    where
        F: FnMut(&T, EventTime) -> EventTime,
    {
        Self { time_of }
    }
}

impl<T, F> Operator<T, T> for AssignTimestamps<F>
where
    T: Record,
    F: FnMut(&T, EventTime) -> EventTime,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<T>,
        out: &mut Outputs<T>,
    ) -> Result<(), OperatorError> {
        chunk.assign_times(|records, times| {
            for (record, time) in records.iter().zip(times) {
                *time = (self.time_of)(record, *time);
            }
        });
        out.main.emit_chunk(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Harness;

    #[test]
    fn time_comes_from_the_record_and_the_time_before() {
        let later = |value: &i64, before: EventTime| before.saturating_add(*value);
        let mut harness = Harness::stateless(AssignTimestamps::new(later));
        harness.push_all([(5, EventTime(100)), (-7, EventTime(0))]);
        assert_eq!(
            harness.take_output(),
            [(5, EventTime(105)), (-7, EventTime(-7))]
        );
    }
}
