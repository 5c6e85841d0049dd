//! An open-loop source: record `n` is due at `start + n / rate`, whether or not the job keeps up.
//!
//! Each record carries the time at which it was due, so a job that is held up is charged with the whole wait (no
//! coordinated omission). A poll delivers what is due and nothing early; between polls the reader sleeps until the next
//! [`TICK`], because a wake-up for each record would measure the operating system. For measurements: it holds no more
//! than its position, and after a restore it starts its schedule anew.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater::connectors::source::{
    Discovery, ReaderContext, ReaderPoll, Source, SourceFacts, SourceOutput, SourceReader, Split,
    SplitEnumerator, SplitIndex, WakeHandle,
};
use highwater::connectors::{Boundedness, Clock, ConnectorError, Random};
use highwater::types::chunk::CHUNK_RECORDS_MAX;
use highwater::types::{CheckpointId, EventTime};
use highwater_derive::Record;

use crate::job::key_of;

/// How long a reader with nothing due sleeps at least.
const TICK: Duration = Duration::from_micros(100);

/// A record that knows when it was due.
#[derive(Clone, Debug, Record)]
pub(crate) struct Probe {
    /// The key.
    pub(crate) key: u64,
    /// When it was due, in nanoseconds of the source's clock.
    pub(crate) due_nanos: u64,
    /// The running count of the key.
    pub(crate) count: u64,
}

/// What enumerator and readers share.
struct Plan {
    keys: u64,
    seed: u64,
    /// Of each split.
    rate: f64,
    /// Of each split.
    count: u64,
    clock: Arc<dyn Clock>,
    /// When record 0 was due; set by the first reader that polls with a split.
    start: OnceLock<Duration>,
}

/// One split for each subtask.
const SPLITS: u32 = 2;

/// The source.
pub(crate) struct OpenLoop(Arc<Plan>);

impl OpenLoop {
    /// `count` records in all, `rate` a second in all, due by `clock`.
    pub(crate) fn new(keys: u64, seed: u64, rate: f64, count: u64, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Plan {
            keys,
            seed,
            rate: rate / f64::from(SPLITS),
            count: count / u64::from(SPLITS),
            clock,
            start: OnceLock::new(),
        }))
    }

    /// The clock that `due_nanos` is of.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.0.clock)
    }
}

impl Source for OpenLoop {
    type Record = Probe;

    fn facts(&self) -> SourceFacts {
        SourceFacts {
            connector: "open-loop",
            object: "probes".to_owned(),
            boundedness: Boundedness::Bounded,
        }
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        Ok(Box::new(TwoSplits { reported: false }))
    }

    fn reader(
        &self,
        context: &ReaderContext,
    ) -> Result<Box<dyn SourceReader<Probe>>, ConnectorError> {
        Ok(Box::new(OpenLoopReader {
            plan: Arc::clone(&self.0),
            wake: context.wake.clone(),
            splits: Vec::new(),
            complete: false,
        }))
    }
}

struct TwoSplits {
    reported: bool,
}

impl SplitEnumerator for TwoSplits {
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError> {
        self.reported = !state.is_empty();
        Ok(())
    }

    fn discover(&mut self) -> Result<Discovery, ConnectorError> {
        let numbers = if self.reported { 0..0 } else { 0..SPLITS };
        self.reported = true;
        let splits = numbers.map(|number| OwnSplit { number, next: 0 }.to_split());
        Ok(Discovery {
            splits: splits.collect(),
            complete: true,
        })
    }

    fn snapshot(&self) -> Vec<u8> {
        vec![1; usize::from(self.reported)]
    }

    fn interval(&self) -> Option<Duration> {
        None
    }
}

#[derive(Clone, Copy)]
struct OwnSplit {
    number: u32,
    next: u64,
}

impl OwnSplit {
    fn to_split(self) -> Split {
        Split {
            id: self.number.to_string().into(),
            position: self.next.to_le_bytes().to_vec(),
        }
    }

    fn parse(split: &Split) -> Option<Self> {
        Some(Self {
            number: split.id.parse().ok()?,
            next: u64::from_le_bytes(split.position.as_slice().try_into().ok()?),
        })
    }
}

struct OpenLoopReader {
    plan: Arc<Plan>,
    wake: WakeHandle,
    splits: Vec<OwnSplit>,
    complete: bool,
}

impl OpenLoopReader {
    /// Appends what of a split is due at `since` after the start. How many records that is.
    fn deliver(&mut self, at: usize, since: Duration, out: &mut SourceOutput<Probe>) -> u64 {
        let (plan, split) = (&self.plan, &mut self.splits[at]);
        let due = ((since.as_secs_f64() * plan.rate) as u64).min(plan.count);
        let count = due.saturating_sub(split.next).min(CHUNK_RECORDS_MAX as u64);
        let start = plan.start.get().copied().unwrap_or_default().as_nanos() as u64;
        for _ in 0..count {
            let index = split.next * u64::from(SPLITS) + u64::from(split.number);
            let mut random = Random::for_record(plan.seed, index);
            let offset = split.next as f64 * 1e9 / plan.rate;
            let probe = Probe {
                key: key_of(&mut random, plan.keys),
                due_nanos: start + offset as u64,
                count: 1,
            };
            out.records.push(probe, EventTime::NONE);
            split.next += 1;
        }
        count
    }
}

impl SourceReader<Probe> for OpenLoopReader {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        for split in &splits {
            let own = OwnSplit::parse(split).ok_or_else(|| ConnectorError::State {
                object: "open loop".to_owned(),
                reason: format!("`{}` is no split of it", split.id),
            })?;
            self.splits.push(own);
        }
        Ok(())
    }

    fn no_more_splits(&mut self) {
        self.complete = true;
    }

    fn poll(&mut self, out: &mut SourceOutput<Probe>) -> Result<ReaderPoll, ConnectorError> {
        let now = self.plan.clock.now();
        if !self.splits.is_empty() {
            let since = now.saturating_sub(*self.plan.start.get_or_init(|| now));
            for at in 0..self.splits.len() {
                if self.deliver(at, since, out) > 0 {
                    return Ok(ReaderPoll::Records(SplitIndex(at as u32)));
                }
            }
        }
        let count = self.plan.count;
        if self.complete && self.splits.iter().all(|split| split.next >= count) {
            return Ok(ReaderPoll::EndOfInput);
        }
        self.plan.clock.wake_at(now + TICK, &self.wake);
        Ok(ReaderPoll::Nothing)
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        Ok(self.splits.iter().map(|split| split.to_split()).collect())
    }

    fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
        Ok(())
    }
}
