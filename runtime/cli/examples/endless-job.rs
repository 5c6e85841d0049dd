//! A job for the tests of the command line: numbers into nowhere, without end or up to `count`.

use std::process::ExitCode;
use std::sync::Arc;

use highwater_api::StreamEnvironment;
use highwater_connectors::{BlackholeSink, GeneratorSource, Random, RecordsPerSecond, SystemClock};
use highwater_operators::UserError;
use highwater_types::EventTime;

fn numbers(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let number = |index: u64, _: &mut Random| (index, EventTime::from_millis(index as i64));
    let mut source = GeneratorSource::builder("numbers", 1, number);
    if let Some(count) = env.parameter("count") {
        source = source.count(count.parse()?);
    }
    let clock = Arc::new(SystemClock::start()?);
    let source = source
        .paced(RecordsPerSecond::try_new(1_000.0)?, clock)
        .build()?;
    env.source("numbers", source)
        .sink("nowhere", BlackholeSink::new().0);
    Ok(())
}

fn main() -> ExitCode {
    highwater_cli::main(numbers)
}
