//! A source that waits for permission: it delivers the records below a goal that stands in a file, and no more.
//!
//! For the benchmarks `checkpoints`, which lets exactly so many keys change between two checkpoints, and `cluster`. The keys
//! are swept in one order again and again, so that no key changes twice before each has changed once. The rule: a position is
//! the whole of a split, so that a restored source goes on where its checkpoint was.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use highwater::connectors::source::{
    Discovery, ReaderContext, ReaderPoll, Source, SourceFacts, SourceOutput, SourceReader, Split,
    SplitEnumerator, SplitIndex, WakeHandle,
};
use highwater::connectors::{Boundedness, Clock, ConnectorError, Random, SystemClock};
use highwater::types::chunk::CHUNK_RECORDS_MAX;
use highwater::types::{CheckpointId, EventTime};

use crate::state_job::Payments;

/// Between two looks at the file.
const TICK: Duration = Duration::from_millis(5);
/// One split for each subtask.
const SPLITS: u64 = 2;

/// What enumerator and readers share.
struct Plan {
    payments: Payments,
    seed: u64,
    goal: PathBuf,
    clock: Arc<dyn Clock>,
}

/// Puts the goal `records` into the file `goal`, whole.
pub(crate) fn allow(goal: &Path, records: u64) -> std::io::Result<()> {
    let staged = goal.with_extension("new");
    std::fs::write(&staged, records.to_string())?;
    std::fs::rename(staged, goal)
}

/// The source.
pub(crate) struct Gated(Arc<Plan>);

impl Gated {
    /// Sweeps over the keys of `payments` as far as the number in the file `goal` says; a file that is not there says 0.
    pub(crate) fn new(
        payments: Payments,
        seed: u64,
        goal: PathBuf,
    ) -> Result<Self, ConnectorError> {
        Ok(Self(Arc::new(Plan {
            payments,
            seed,
            goal,
            clock: Arc::new(SystemClock::start()?),
        })))
    }
}

impl Source for Gated {
    type Record = (u64, u64);

    fn facts(&self) -> SourceFacts {
        SourceFacts {
            connector: "gated",
            object: "payments".to_owned(),
            boundedness: Boundedness::Unbounded,
        }
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        Ok(Box::new(Sweeps { reported: false }))
    }

    fn reader(
        &self,
        context: &ReaderContext,
    ) -> Result<Box<dyn SourceReader<(u64, u64)>>, ConnectorError> {
        Ok(Box::new(Reader {
            plan: Arc::clone(&self.0),
            wake: context.wake.clone(),
            splits: Vec::new(),
            goal: 0,
        }))
    }
}

struct Sweeps {
    reported: bool,
}

impl SplitEnumerator for Sweeps {
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError> {
        self.reported = !state.is_empty();
        Ok(())
    }

    fn discover(&mut self) -> Result<Discovery, ConnectorError> {
        let numbers = if self.reported { 0..0 } else { 0..SPLITS };
        self.reported = true;
        // A split begins with its own number and goes on in steps of all of them.
        let splits = numbers.map(|number| {
            Sweep {
                number,
                next: number,
            }
            .to_split()
        });
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
struct Sweep {
    number: u64,
    next: u64,
}

impl Sweep {
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

struct Reader {
    plan: Arc<Plan>,
    wake: WakeHandle,
    splits: Vec<Sweep>,
    goal: u64,
}

impl Reader {
    /// Appends records of a split below the goal. How many.
    fn deliver(&mut self, at: usize, out: &mut SourceOutput<(u64, u64)>) -> usize {
        let (plan, split) = (&self.plan, &mut self.splits[at]);
        let mut count = 0;
        while split.next < self.goal && count < CHUNK_RECORDS_MAX {
            let mut random = Random::for_record(plan.seed, split.next);
            let record = plan.payments.sweep(split.next, &mut random);
            out.records.push(record, EventTime::NONE);
            split.next += SPLITS;
            count += 1;
        }
        count
    }

    fn deliver_any(&mut self, out: &mut SourceOutput<(u64, u64)>) -> Option<ReaderPoll> {
        let at = (0..self.splits.len()).find(|&at| self.deliver(at, out) > 0)?;
        Some(ReaderPoll::Records(SplitIndex(at as u32)))
    }
}

impl SourceReader<(u64, u64)> for Reader {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        for split in &splits {
            let sweep = Sweep::parse(split).ok_or_else(|| ConnectorError::State {
                object: "gated source".to_owned(),
                reason: format!("`{}` is no split of it", split.id),
            })?;
            self.splits.push(sweep);
        }
        Ok(())
    }

    fn no_more_splits(&mut self) {}

    fn poll(&mut self, out: &mut SourceOutput<(u64, u64)>) -> Result<ReaderPoll, ConnectorError> {
        if let Some(delivered) = self.deliver_any(out) {
            return Ok(delivered);
        }
        // The file is put in place whole, by a rename: what can be read is a number.
        if let Ok(text) = std::fs::read_to_string(&self.plan.goal) {
            self.goal = text.trim().parse().map_err(|_| ConnectorError::State {
                object: self.plan.goal.display().to_string(),
                reason: format!("`{}` is no goal", text.trim()),
            })?;
        }
        if let Some(delivered) = self.deliver_any(out) {
            return Ok(delivered);
        }
        self.plan
            .clock
            .wake_at(self.plan.clock.now() + TICK, &self.wake);
        Ok(ReaderPoll::Nothing)
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        Ok(self.splits.iter().map(|split| split.to_split()).collect())
    }

    fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
        Ok(())
    }
}
