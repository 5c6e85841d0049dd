//! The jobs of several processes, and what each process notes of itself while it runs one.
//!
//! `--param job=NAME`, where NAME is one of:
//! - `cluster-count`: the count by key of `keyed-count`, in as many splits as the parameter `splits` says.
//! - `cluster-latency`: the same behind an open-loop source; only records that came from another process are measured.
//! - `cluster-state`: the accounts of `state_job`, swept over as far as a file says. A sample of what is put out goes into files,
//!   exactly once, where anybody can see when it becomes visible and whether it is right.
//!
//! A process that has a report notes in it, besides what the tally does, by the clock that all processes have in common:
//! `pulse <nanoseconds> <records>` fifty times a second, `open <nanoseconds> <subtask>` when a writer of the sink is made, and
//! `flow <nanoseconds> <subtask>` when its first records have come. The rule: records pay nothing for it, chunks a comparison.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use highwater::connectors::sink::{
    DirectWriter, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext,
};
use highwater::connectors::{Clock, ConnectorError};
use highwater::prelude::*;
use highwater::types::{Chunk, SubtaskIndex};

use crate::job::{Counted, KEYS, SEED, counted, keys};
use crate::latency::LatencySink;
use crate::machine_clock::{MachineClock, now};
use crate::open_loop::{OpenLoop, Probe};
use crate::state_job::booked;
use crate::tally::{self, Fold, TallySink};

const PULSE_EVERY: Duration = Duration::from_millis(20);
/// One of so many keys is in the sample.
const SAMPLED_EVERY: u64 = 1_000;

/// Whether what is put out for a key is in the sample.
pub(super) fn is_sampled(key: u64) -> bool {
    key.is_multiple_of(SAMPLED_EVERY)
}

/// Builds the count.
pub(crate) fn build_count(env: &mut StreamEnvironment) -> Result<(), UserError> {
    start_pulse(env)?;
    let keys = keys(env)?;
    counted(&keys).sink("tally", PulseSink(Fold::Counted));
    Ok(())
}

/// A record with the process that made it.
#[derive(Clone, Debug, Record)]
struct Crossing {
    key: u64,
    due_nanos: u64,
    count: u64,
    /// The process id.
    from: u32,
}

/// Builds the count with latencies. What is due in the first `skip` milliseconds of a process is warm-up.
pub(crate) fn build_latency(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let clock: Arc<dyn Clock> = Arc::new(MachineClock::start()?);
    let skip_millis: u64 = env.parameter_or("skip", 0)?;
    let counts_from = clock.now() + Duration::from_millis(skip_millis);
    let source = OpenLoop::new(
        env.parameter_or("keys", KEYS)?,
        env.parameter_or("seed", SEED)?,
        env.parameter_or("rate", 1_000.0)?,
        env.parameter_or("count", 1_000)?,
        Arc::clone(&clock),
    );
    let here = std::process::id();
    let counted = env
        .source("probes", source)
        .map(move |probe: Probe| Crossing {
            key: probe.key,
            due_nanos: probe.due_nanos,
            count: probe.count,
            from: here,
        })
        .key_by(|crossing: &Crossing| crossing.key)
        .reduce("count-by-key", |held: &mut Crossing, new: &Crossing| {
            held.due_nanos = new.due_nanos;
            held.count += new.count;
            held.from = new.from;
        });
    counted
        .filter(move |crossing: &Crossing| crossing.from != here)
        .map(|crossing: Crossing| Probe {
            key: crossing.key,
            due_nanos: crossing.due_nanos,
            count: crossing.count,
        })
        .sink(
            "latency",
            LatencySink::new(clock, counts_from.as_millis() as u64),
        );
    Ok(())
}

/// By how much the digest of an account has grown.
#[derive(Clone, Debug, Record, ToJson)]
struct Growth {
    key: u64,
    grown: u64,
}

/// Builds the accounts. The sample goes below the directory `out`.
pub(crate) fn build_state(env: &mut StreamEnvironment) -> Result<(), UserError> {
    start_pulse(env)?;
    let booked = booked(env)?;
    let out = env.parameter("out").ok_or("parameter out is missing")?;
    booked
        .filter(|(key, _): &Counted| is_sampled(*key))
        .map(|(key, grown): Counted| Growth { key, grown })
        .sink("visible", FileSink::new(out, Json::format()));
    booked.sink("tally", PulseSink(Fold::Delta));
    Ok(())
}

/// Notes the records of this process until it ends, if it has a report.
fn start_pulse(env: &StreamEnvironment) -> io::Result<()> {
    if env.parameter("report").is_none() {
        return Ok(());
    }
    let beating = std::thread::Builder::new().name("pulse".to_owned());
    beating.spawn(beat).map(drop)
}

fn beat() {
    loop {
        let noted = tally::note(&format!("pulse {} {}", now().as_nanos(), tally::records()));
        if let Err(error) = noted {
            eprintln!("the report ends: {error}");
            return;
        }
        std::thread::sleep(PULSE_EVERY);
    }
}

/// The tally, with notes of its writers.
#[derive(Clone, Copy)]
struct PulseSink(Fold);

impl Sink for PulseSink {
    type Record = Counted;

    fn facts(&self) -> SinkFacts {
        tally::facts()
    }

    fn writer(&self, context: &WriterContext) -> Result<SinkWriter<Counted>, ConnectorError> {
        let subtask = context.subtask;
        note("open", subtask)?;
        Ok(SinkWriter::Direct(Box::new(PulseWriter {
            tally: TallySink(self.0),
            subtask,
            flows: false,
        })))
    }

    fn target(&self, _: &WriterContext) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(None)
    }
}

struct PulseWriter {
    tally: TallySink,
    subtask: SubtaskIndex,
    /// Whether records have come.
    flows: bool,
}

impl DirectWriter<Counted> for PulseWriter {
    fn write(&mut self, chunk: &mut Chunk<Counted>) -> Result<(), ConnectorError> {
        if !self.flows {
            self.flows = true;
            note("flow", self.subtask)?;
        }
        self.tally.write(chunk)
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// Notes what has happened now.
fn note(what: &str, subtask: SubtaskIndex) -> Result<(), ConnectorError> {
    tally::note(&format!("{what} {} {}", now().as_nanos(), subtask.0))
        .map_err(ConnectorError::io("the report", "write"))
}
