//! A job for the tests of the command line: numbers into nowhere, without end or up to `count`; with `late` also counted
//! in windows, where each hundredth is 400 ms older than the one before it. With `log` the numbers are the lines of a file
//! log, of which those that are none go to dead letters, or are dropped with `bad=drop`.

use std::process::ExitCode;
use std::sync::Arc;

use highwater_api::StreamEnvironment;
use highwater_connectors::{
    BadRecords, BlackholeSink, DeadLetter, DecodeFailure, FileLogSource, FileSink, GeneratorSource,
    Random, RecordsPerSecond, SystemClock,
};
use highwater_json::ToJson as _;
use highwater_operators::{Count, UserError, emit_result};
use highwater_time::WatermarkStrategy;
use highwater_types::EventTime;
use highwater_window::Tumbling;

/// The numbers that stand in a log.
fn logged(env: &mut StreamEnvironment, log: &str) {
    let decode = |line: &[u8]| {
        let number = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.parse::<u64>().ok());
        number.ok_or_else(|| DecodeFailure::new("it is no number"))
    };
    let drops = env.parameter("bad") == Some("drop");
    let policy = if drops {
        BadRecords::Drop
    } else {
        BadRecords::DeadLetter
    };
    let source = FileLogSource::bounded(log, "numbers", decode).bad_records(policy);
    let numbers = env.source("numbers", source);
    if !drops {
        let json = |letter: &DeadLetter, out: &mut Vec<u8>| letter.to_json(out);
        numbers
            .dead_letters()
            .sink("bad", FileSink::new("out/bad", json));
    }
    numbers.sink("nowhere", BlackholeSink::new().0);
}

fn numbers(env: &mut StreamEnvironment) -> Result<(), UserError> {
    if let Some(log) = env.parameter("log").map(str::to_owned) {
        logged(env, &log);
        return Ok(());
    }
    let number = |index: u64, _: &mut Random| (index, EventTime::from_millis(index as i64));
    let mut source = GeneratorSource::builder("numbers", 1, number);
    if let Some(count) = env.parameter("count") {
        source = source.count(count.parse()?);
    }
    let clock = Arc::new(SystemClock::start()?);
    let source = source
        .paced(RecordsPerSecond::try_new(1_000.0)?, clock)
        .build()?;
    let numbers = env.source("numbers", source).watermarks(
        WatermarkStrategy::bounded_out_of_orderness(100),
        |index: &u64| {
            let late_ms = if index % 100 == 99 { 400 } else { 0 };
            EventTime(*index as i64 - late_ms)
        },
    );
    if env.parameter("late").is_some() {
        numbers
            .stream()
            .key_by(|_| 0_u32)
            .window_of(Tumbling::try_new(1_000))
            .aggregate("count", Count, emit_result)
            .sink("counts", BlackholeSink::new().0);
    }
    numbers.sink("nowhere", BlackholeSink::new().0);
    Ok(())
}

fn main() -> ExitCode {
    highwater_cli::main(numbers)
}
