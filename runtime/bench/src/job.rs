//! The measured jobs, written like any job: against the facade, with parameters.
//!
//! `run --param job=NAME`, where NAME is one of:
//! - `count`: a seeded generator, `key_by`, a running count per key by `reduce`, a tally. What Flink's job does too.
//! - `process`: the same with a process function and a value state in place of `reduce`.
//! - `generate`: the same generator straight into the tally, with no exchange and no state: what the generator costs.
//! - `latency`: the count behind an open-loop source; the tally measures from the time at which a record was due.
//! - `kafka`: the count behind a Kafka topic of 8-byte keys.
//! - `idle`: the count behind a source that never delivers.
//! - `state`: an account of 64 bytes for each key (see `state_job`).
//! - `rest`: numbers in event time, for the acceptance test of the REST API (see `rest`).
//! - `cluster-count`, `cluster-latency`, `cluster-state`: those of several processes (see `cluster`).
//!
//! The rule: key `i` depends on seed and `i` alone, by an algorithm that the Java job repeats.

use std::sync::Arc;

use highwater::api::SourceStream;
use highwater::connectors::generator::SPLITS_DEFAULT;
use highwater::connectors::{
    BlackholeSink, DecodeFailure, GeneratorSource, Random, RecordsPerSecond, SystemClock,
};
use highwater::kafka::source::EndPosition;
use highwater::kafka::{KafkaConnection, KafkaSource};
use highwater::operators::KeyedContext;
use highwater::prelude::*;

use crate::latency::LatencySink;
use crate::open_loop::{OpenLoop, Probe};
use crate::tally::{Fold, TallySink};

/// How many keys there are unless the parameter `keys` says otherwise.
pub(crate) const KEYS: u64 = 1_000_000;
/// The seed unless the parameter `seed` says otherwise.
pub(crate) const SEED: u64 = 42;

/// The key of record `index`: 32 random bits scaled to the number of keys.
#[inline]
pub(crate) const fn key_of(random: &mut Random, keys: u64) -> u64 {
    ((random.bits() >> 32) * keys) >> 32
}

/// A key with its running count.
pub(crate) type Counted = (u64, u64);

/// Counts the records of each key.
#[derive(Clone, Default)]
struct CountByKey {
    count: Option<StateHandle<ValueState<u64, (), u64>>>,
}

impl KeyedProcessFunction<u64, u64, Counted> for CountByKey {
    fn open(&mut self, context: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.count = Some(context.value("count", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        _: u64,
        context: &mut KeyedContext<'_, u64, Counted>,
    ) -> Result<(), UserError> {
        let handle = self
            .count
            .ok_or("the state is open before the first record")?;
        let mut state = context.state(handle);
        let count = state.get().copied().unwrap_or_default() + 1;
        state.set(count);
        let key = *context.key();
        context.emit((key, count));
        Ok(())
    }
}

/// Builds the job that the parameters name.
pub(crate) fn build(env: &mut StreamEnvironment) -> Result<(), UserError> {
    if let Some(report) = env.parameter("report") {
        crate::tally::start(report.as_ref())?;
    }
    match env.parameter("job") {
        Some("count") => count(env),
        Some("process") => process(env),
        Some("generate") => generate(env),
        Some("latency") => latency(env),
        Some("kafka") => kafka(env),
        Some("idle") => idle(env),
        Some("state") => crate::state_job::build(env),
        Some("rest") => crate::rest::build(env),
        Some("cluster-count") => crate::cluster::build_count(env),
        Some("cluster-latency") => crate::cluster::build_latency(env),
        Some("cluster-state") => crate::cluster::build_state(env),
        other => Err(format!(
            "parameter job is {other:?}; it is one of count, process, generate, latency, kafka, idle, state, rest, \
             cluster-count, cluster-latency, cluster-state"
        )
        .into()),
    }
}

/// Keys without end, or `count` of them; at `rate` records a second where that is given; in `splits` splits.
pub(crate) fn keys(env: &mut StreamEnvironment) -> Result<SourceStream<u64>, UserError> {
    let keys = env.parameter_or("keys", KEYS)?;
    let seed = env.parameter_or("seed", SEED)?;
    let record = move |_: u64, random: &mut Random| (key_of(random, keys), EventTime::NONE);
    let splits = env.parameter_or("splits", SPLITS_DEFAULT)?;
    let mut source = GeneratorSource::builder("keys", seed, record).splits(splits);
    if env.parameter("count").is_some() {
        source = source.count(env.parameter_or("count", 0)?);
    }
    if env.parameter("rate").is_some() {
        let rate = RecordsPerSecond::try_new(env.parameter_or("rate", 0.0)?)?;
        source = source.paced(rate, Arc::new(SystemClock::start()?));
    }
    Ok(env.source("keys", source.build()?))
}

/// The running count of each key.
pub(crate) fn counted(keys: &DataStream<u64>) -> DataStream<Counted> {
    keys.map(|key| (key, 1))
        .key_by(|counted: &Counted| counted.0)
        .reduce("count-by-key", |held, new| held.1 += new.1)
}

fn count(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let keys = keys(env)?;
    counted(&keys).sink("tally", TallySink(Fold::Counted));
    Ok(())
}

fn process(env: &mut StreamEnvironment) -> Result<(), UserError> {
    keys(env)?
        .key_by(|key| *key)
        .process("count-by-key", CountByKey::default())
        .sink("tally", TallySink(Fold::Counted));
    Ok(())
}

fn generate(env: &mut StreamEnvironment) -> Result<(), UserError> {
    keys(env)?
        .map(|key| (key, 1))
        .sink("tally", TallySink(Fold::Counted));
    Ok(())
}

fn latency(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let source = OpenLoop::new(
        env.parameter_or("keys", KEYS)?,
        env.parameter_or("seed", SEED)?,
        env.parameter_or("rate", 1_000.0)?,
        env.parameter_or("count", 1_000)?,
        Arc::new(SystemClock::start()?),
    );
    let sink = LatencySink::new(source.clock(), env.parameter_or("skip", 0)?);
    env.source("probes", source)
        .key_by(|probe: &Probe| probe.key)
        .reduce("count-by-key", |held: &mut Probe, new: &Probe| {
            held.due_nanos = new.due_nanos;
            held.count += new.count;
        })
        .sink("latency", sink);
    Ok(())
}

fn kafka(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let broker = env
        .parameter("broker")
        .ok_or("parameter broker is missing")?;
    let topic = env.parameter("topic").ok_or("parameter topic is missing")?;
    let decode = |payload: &[u8]| {
        let bytes = payload.try_into();
        let bytes = bytes.map_err(|_| DecodeFailure::new("a key has 8 bytes"))?;
        Ok(u64::from_le_bytes(bytes))
    };
    let source = KafkaSource::new(KafkaConnection::new(broker), topic, decode);
    let keys = env.source("keys", source.until(EndPosition::Latest));
    counted(&keys).sink("tally", TallySink(Fold::Counted));
    Ok(())
}

fn idle(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let never = RecordsPerSecond::try_new(1e-9)?;
    let record = |index: u64, _: &mut Random| (index, EventTime::NONE);
    let source = GeneratorSource::builder("keys", 1, record)
        .paced(never, Arc::new(SystemClock::start()?))
        .build()?;
    counted(&env.source("keys", source)).sink("nowhere", BlackholeSink::new().0);
    Ok(())
}
