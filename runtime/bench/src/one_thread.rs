//! A whole pipeline slice on one thread, task by task as a slot runs it: generator, map, exchange, keyed count, sink.
//!
//! For counting instructions: the same records cost the same instructions in every run, because no other thread, no
//! clock and no chance has a part. Production builds the same pieces from a plan; here they are joined by hand, since the
//! builder hands them to slot threads only.

use std::sync::Arc;

use anyhow::{Result, ensure};
use highwater::connectors::sink::{Sink, SinkWriter, WriterContext};
use highwater::connectors::source::{ReaderContext, Source, WakeHandle};
use highwater::connectors::{BlackholeSink, GeneratorSource, Random};
use highwater::operators::{
    DirectSink, Link, OperatorContext, Outputs, Port, Push, RollingReduce, SourceHead, SourceRules,
    TaskClock, map,
};
use highwater::state::{MemoryBudget, Store};
use highwater::time::{SplitWatermarks, StatusValve, WatermarkStrategy};
use highwater::types::{
    Chunk, EventTime, JobIdentity, Key, Lineage, MaxParallelism, OperatorUid, Parallelism, Record,
    SubtaskIndex,
};
use highwater_exchange::{ChannelReceiver, ExchangeWriter, Gate, Partitioner, channel};
use highwater_protocol::alignment::Alignment;
use highwater_worker::task::{Task, TaskInput, TaskLetter};
use highwater_worker::{ManualClock, StopHook};

use crate::job::{Counted, SEED, key_of};

/// Few enough that all are there after a moment: new keys cost more, and how many come would change with the count.
const KEYS: u64 = 50_000;

/// Receiving subtasks: the exchange scatters.
const RECEIVERS: u32 = 2;

fn uid(name: &str) -> Result<OperatorUid> {
    Ok(OperatorUid::parse(name)?)
}

fn silent() -> WakeHandle {
    WakeHandle::new(|| {})
}

fn outputs<T: Record>(target: Box<dyn Push<T>>) -> Outputs<T> {
    Outputs::new(Port::new(vec![target]), Vec::new())
}

/// The source task, which scatters over the channels that come with it.
fn sender(count: u64) -> Result<(Task, Vec<ChannelReceiver<Counted>>)> {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..RECEIVERS).map(|_| channel(silent(), silent())).unzip();
    let partitioner = Partitioner::Hash {
        rekey: Box::new(|chunk: &mut Chunk<Counted>| chunk.rekey(|counted| counted.0.key_hash())),
        max_parallelism: MaxParallelism::DEFAULT,
    };
    let writer = ExchangeWriter::new("count", senders, partitioner);
    let counted = Link::new(
        uid("map")?,
        map(|key: u64| (key, 1)),
        outputs(Box::new(writer)),
    );
    let record = |_: u64, random: &mut Random| (key_of(random, KEYS), EventTime::NONE);
    let source = GeneratorSource::builder("keys", SEED, record).count(count);
    let source = source.build()?;
    let reader = source.reader(&ReaderContext {
        job: JobIdentity::parse("instructions")?,
        uid: uid("keys")?,
        subtask: SubtaskIndex(0),
        parallelism: Parallelism(1),
        wake: silent(),
    })?;
    let rules = SourceRules {
        assign: None,
        watermarks: SplitWatermarks::new(WatermarkStrategy::none()),
        bad_input: source.bad_input(),
    };
    let head = SourceHead::new(
        reader,
        rules,
        outputs(Box::new(counted)),
        TaskClock::default(),
    );
    let mut task = Task::new(TaskInput::Source(Box::new(head)), no_stop());
    let splits = source.enumerator()?.discover()?.splits;
    task.letter(TaskLetter::Assign {
        splits,
        complete: true,
    })?;
    Ok((task, receivers))
}

/// A counting task behind one channel.
fn receiver(
    subtask: u32,
    channel: ChannelReceiver<Counted>,
    (sink, rim): (&BlackholeSink<Counted>, &tokio::runtime::Handle),
) -> Result<Task> {
    let job = JobIdentity::parse("instructions")?;
    let (subtask, parallelism) = (SubtaskIndex(subtask), Parallelism(RECEIVERS));
    let context = OperatorContext {
        job: job.clone(),
        uid: uid("count")?,
        subtask,
        parallelism,
        max_parallelism: MaxParallelism::DEFAULT,
        clock: TaskClock::default(),
        wake: silent(),
        budget: MemoryBudget::unlimited(),
        store: Store::heap(),
        rim: rim.clone(),
        restored: None,
        unmatched: highwater::operators::OnUnmatched::Refuse,
    };
    let sum = |held: &mut Counted, new: Counted| held.1 += new.1;
    let count = RollingReduce::open(&context, |counted: &Counted| counted.0, sum, None)?;
    let writer = sink.writer(&WriterContext {
        job,
        lineage: Lineage(1),
        uid: uid("sink")?,
        subtask,
        parallelism,
    })?;
    let SinkWriter::Direct(writer) = writer else {
        unreachable!("a blackhole writes at once")
    };
    let nothing = Outputs::new(Port::new(Vec::new()), Vec::new());
    let sink = Link::new(uid("sink")?, DirectSink::new(writer), nothing);
    let head = Link::new(uid("count")?, count, outputs(Box::new(sink)));
    let input = TaskInput::Gate {
        gate: Box::new(Gate::new(vec![channel], Box::new(head))),
        valve: StatusValve::new(1),
        alignment: Alignment::new(1),
    };
    Ok(Task::new(input, no_stop()))
}

/// Goes on at every protocol step.
fn no_stop() -> StopHook {
    Arc::new(|_| {})
}

/// Runs `count` records from the generator to the sink.
pub(crate) fn run(count: u64) -> Result<()> {
    let rim = tokio::runtime::Builder::new_current_thread().build()?;
    let (sink, swallowed) = BlackholeSink::new();
    let (source, channels) = sender(count)?;
    let mut tasks = vec![source];
    for (subtask, channel) in channels.into_iter().enumerate() {
        tasks.push(receiver(subtask as u32, channel, (&sink, rim.handle()))?);
    }
    let clock = Arc::new(ManualClock::default());
    let mut before = None;
    while before != Some(swallowed.get()) || swallowed.get() == 0 {
        before = Some(swallowed.get());
        for task in &mut tasks {
            task.turn(clock.as_ref())?;
        }
    }
    ensure!(
        swallowed.get() == count,
        "{} of {count} records arrived",
        swallowed.get()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_record_arrives() {
        super::run(100_000).unwrap();
    }
}
