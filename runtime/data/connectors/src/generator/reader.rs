//! The reader of a generator: fills chunks from its splits in turn.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use compact_str::{CompactString, format_compact};
use highwater_types::chunk::CHUNK_RECORDS_MAX;
use highwater_types::{CheckpointId, Record};

use super::pace::Pace;
use super::{Generate, Plan, Random};
use crate::error::ConnectorError;
use crate::intake::Origin;
use crate::source::{
    ReaderFigures, ReaderPoll, SourceOutput, SourceReader, Split, SplitIndex, WakeHandle,
};

/// Split `at` of `of`, and the ordinal of its next record: index = `ordinal * of + at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DealtSplit {
    at: u32,
    of: u32,
    ordinal: u64,
}

impl DealtSplit {
    pub(super) const fn first(at: u32, of: u32) -> Self {
        Self { at, of, ordinal: 0 }
    }

    fn id(self) -> CompactString {
        format_compact!("{}-of-{}", self.at, self.of)
    }

    pub(super) fn to_split(self) -> Split {
        Split {
            id: self.id(),
            position: self.ordinal.to_le_bytes().to_vec(),
        }
    }

    /// The split names its own division: a job that now has another number of splits reads the old ones to their end.
    fn parse(generator: &str, split: &Split) -> Result<Self, ConnectorError> {
        let numbers = split.id.split_once("-of-").and_then(|(at, of)| {
            let (at, of) = (at.parse().ok()?, of.parse().ok()?);
            (at < of).then_some((at, of))
        });
        let position = <[u8; 8]>::try_from(split.position.as_slice()).ok();
        match (numbers, position) {
            (Some((at, of)), Some(position)) => Ok(Self {
                at,
                of,
                ordinal: u64::from_le_bytes(position),
            }),
            _ => Err(ConnectorError::State {
                object: format!("generator {generator}"),
                reason: format!("`{}` is not a split of a generator", split.id),
            }),
        }
    }

    const fn index(self) -> u64 {
        self.ordinal * self.of as u64 + self.at as u64
    }

    /// How many records of `0..count` belong to the split.
    const fn length(self, count: u64) -> u64 {
        count
            .saturating_sub(self.at as u64)
            .div_ceil(self.of as u64)
    }
}

struct OwnSplit {
    dealt: DealtSplit,
    /// The ordinal behind the last record; `None` = there is no last one.
    end: Option<u64>,
    pace: Option<Pace>,
    ended: bool,
}

pub(super) struct GeneratorReader<T, G> {
    name: String,
    plan: Arc<Plan<G>>,
    wake: WakeHandle,
    splits: Vec<OwnSplit>,
    turn: usize,
    no_more_splits: bool,
    /// The alarm that is set and has not rung yet.
    alarm: Option<Duration>,
    /// The split of the last poll as it was before it.
    before: Option<DealtSplit>,
    records: PhantomData<fn() -> T>,
}

impl<T, G: Generate<T>> GeneratorReader<T, G> {
    pub(super) const fn new(name: String, plan: Arc<Plan<G>>, wake: WakeHandle) -> Self {
        Self {
            name,
            plan,
            wake,
            splits: Vec::new(),
            turn: 0,
            no_more_splits: false,
            alarm: None,
            before: None,
            records: PhantomData,
        }
    }

    fn fill(plan: &Plan<G>, split: &mut OwnSplit, count: u64, out: &mut SourceOutput<T>) {
        for _ in 0..count {
            let index = split.dealt.index();
            let mut random = Random::for_record(plan.seed, index);
            let (record, time) = plan.generate.generate(index, &mut random);
            out.records.push(record, time);
            split.dealt.ordinal += 1;
        }
        if let Some(pace) = &mut split.pace {
            pace.deliver(count);
        }
    }

    fn set_alarm(&mut self, now: Duration) {
        let Some((_, clock)) = &self.plan.pace else {
            return;
        };
        let open = self.splits.iter().filter(|split| !split.ended);
        let next = open
            .filter_map(|split| split.pace.as_ref().map(Pace::next))
            .min();
        let rings_in_time = |alarm, next| now < alarm && alarm <= next;
        if let Some(next) = next
            && !self.alarm.is_some_and(|alarm| rings_in_time(alarm, next))
        {
            clock.wake_at(next, &self.wake);
            self.alarm = Some(next);
        }
    }
}

impl<T: Record, G: Generate<T>> SourceReader<T> for GeneratorReader<T, G> {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        for split in &splits {
            let dealt = DealtSplit::parse(&self.name, split)?;
            let pace = self.plan.pace.as_ref();
            self.splits.push(OwnSplit {
                dealt,
                end: self.plan.count.map(|count| dealt.length(count)),
                pace: pace.map(|(rate, _)| Pace::new(*rate, dealt.of)),
                ended: false,
            });
        }
        Ok(())
    }

    fn no_more_splits(&mut self) {
        self.no_more_splits = true;
    }

    fn poll(&mut self, out: &mut SourceOutput<T>) -> Result<ReaderPoll, ConnectorError> {
        let now = match &self.plan.pace {
            Some((_, clock)) => clock.now(),
            None => Duration::ZERO,
        };
        let room = CHUNK_RECORDS_MAX.saturating_sub(out.records.len()) as u64;
        for _ in 0..self.splits.len() {
            let at = self.turn;
            self.turn = (at + 1) % self.splits.len();
            let split = &mut self.splits[at];
            let index = SplitIndex(at as u32);
            if split.ended {
                continue;
            }
            let left = split
                .end
                .map_or(u64::MAX, |end| end.saturating_sub(split.dealt.ordinal));
            if left == 0 {
                split.ended = true;
                return Ok(ReaderPoll::SplitEnded(index));
            }
            let due = split.pace.as_mut().map_or(u64::MAX, |pace| pace.due(now));
            if due > 0 {
                self.before = Some(split.dealt);
                Self::fill(&self.plan, split, due.min(left).min(room), out);
                return Ok(ReaderPoll::Records(index));
            }
        }
        if self.no_more_splits && self.splits.iter().all(|split| split.ended) {
            return Ok(ReaderPoll::EndOfInput);
        }
        self.set_alarm(now);
        Ok(ReaderPoll::Nothing)
    }

    fn origin(&self, at: usize) -> Result<Origin, ConnectorError> {
        let first = self.before.expect("a record of the last poll is asked for");
        let ordinal = first.ordinal + at as u64;
        Ok(Origin {
            position: DealtSplit { ordinal, ..first }.index(),
            payload: None,
        })
    }

    fn figures(&self) -> ReaderFigures {
        let open = self.splits.iter().filter(|split| !split.ended);
        let left = open.map(|split| Some(split.end?.saturating_sub(split.dealt.ordinal)));
        ReaderFigures {
            pending_records: left.sum(),
            ..ReaderFigures::default()
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        let open = self.splits.iter().filter(|split| !split.ended);
        Ok(open.map(|split| split.dealt.to_split()).collect())
    }

    fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
        Ok(())
    }
}
