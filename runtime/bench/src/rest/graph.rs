//! The job that is asked: numbers in event time, counted in windows, a hundredth of them late.
//!
//! Built by `run --param job=rest`. It has what the answers tell of: keyed state, timers, watermarks, late records, a side output.

use std::sync::Arc;

use highwater::connectors::{GeneratorSource, Random, RecordsPerSecond, SystemClock};
use highwater::operators::emit_result;
use highwater::prelude::*;

/// Windows are of so many numbers, which are milliseconds.
const WINDOW_MS: i64 = 1_000;
const RECORDS_PER_SECOND: f64 = 1_000.0;

/// Builds the job.
pub(crate) fn build(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let late = OutputTag::<u64>::new("late");
    let number = |index: u64, _: &mut Random| (index, EventTime::from_millis(index as i64));
    let clock = Arc::new(SystemClock::start()?);
    let source = GeneratorSource::builder("numbers", 1, number)
        .paced(RecordsPerSecond::try_new(RECORDS_PER_SECOND)?, clock)
        .build()?;
    let numbers = env.source("numbers", source).watermarks(
        WatermarkStrategy::bounded_out_of_orderness(100),
        |index: &u64| {
            let late_ms = if index % 100 == 99 { 2_000 } else { 0 };
            EventTime(*index as i64 - late_ms)
        },
    );
    let counts = numbers
        .stream()
        .key_by(|number| *number % 16)
        .window_of(Tumbling::try_new(WINDOW_MS))
        .late_to(&late)
        .aggregate("count", Count, emit_result);
    counts
        .side_output(&late)
        .sink("late", BlackholeSink::new().0);
    counts.sink("counts", BlackholeSink::new().0);
    numbers.sink("nowhere", BlackholeSink::new().0);
    Ok(())
}
