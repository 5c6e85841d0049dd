//! The head of a source task: reader, event times and per-split watermarks in front of the chain.
//!
//! A poll reads records of one split, assigns event times, feeds the watermark generator of that split and pushes the
//! chunk on. What the event time of the source became is asked for afterwards, once per poll.

use compact_str::CompactString;
use highwater_connectors::{
    BadInput, DeadLetter, ReaderFigures, ReaderPoll, SourceOutput, SourceReader, Split, SplitIndex,
};
use highwater_time::{SourceSignal, SplitWatermarks};
use highwater_types::{CheckpointId, EventTime, ProcessingTime, Record};
use serde::{Deserialize, Serialize};

use crate::chain::Downstream;
use crate::error::OperatorError;
use crate::operator::TaskClock;
use crate::outputs::{OutputTag, Outputs};

/// The tag of the dead-letter output of every source.
pub const DEAD_LETTERS: &str = "dead-letters";

/// What one poll of a source brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePoll {
    /// This many records were pushed; there may be more.
    Records(usize),
    /// Nothing is there now.
    Nothing,
    /// All splits are read and no further one will come.
    EndOfInput,
}

/// What one reader of a source counts since its attempt began, for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceReport {
    /// Refused records that were dropped, because the job says so.
    pub dropped: u64,
    /// Refused records that went to the dead-letter output.
    pub dead_letters: u64,
    /// Those of both whose event time was too far in the future, and those that the watermark strategy ignores for it.
    pub future: u64,
    /// Splits whose next records an open transaction of somebody keeps back. Now, not since the attempt began.
    pub held: u64,
    /// Splits that are not read to their end. Now.
    pub splits: u64,
    /// Those of them that are idle. Now.
    pub splits_idle: u64,
    /// Records that were pushed on.
    pub records: u64,
    /// Chunks of them.
    pub chunks: u64,
    /// Bytes that were read from outside, where the reader counts them.
    pub read_bytes: u64,
    /// Bytes that were sent over an exchange.
    pub sent_bytes: u64,
    /// Records up to the ends of the splits, where the reader can tell. Now.
    pub pending_records: Option<u64>,
    /// Bytes up to the ends of the splits, where the reader can tell. Now.
    pub pending_bytes: Option<u64>,
    /// Processing time minus event time of the record pushed last, in milliseconds.
    pub emit_lag_ms: Option<i64>,
    /// Milliseconds since the last record.
    pub idle_ms: Option<i64>,
    /// Positions that were written back to the consumer group.
    pub group_commits: u64,
    /// Positions that could not be written back.
    pub group_commits_failed: u64,
}

/// The untyped side of a source task's head.
pub trait SourceInput {
    /// Reads one chunk at most and pushes it.
    fn poll(&mut self) -> Result<SourcePoll, OperatorError>;
    /// Takes splits to read.
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), OperatorError>;
    /// No further split will be assigned.
    fn no_more_splits(&mut self);
    /// The unfinished splits behind the last record pushed.
    fn snapshot(&mut self) -> Result<Vec<Split>, OperatorError>;
    /// Checkpoint `id` is complete.
    fn completed(&mut self, id: CheckpointId) -> Result<(), OperatorError>;
    /// What the event time of the source became since the last call. `paused` = the source is held back and its
    /// idleness clock does not run.
    fn signals(&mut self, paused: bool) -> Vec<SourceSignal>;
    /// Where the last records came from, for error messages.
    fn position(&self) -> String;
    /// What the source counts.
    fn source_report(&self) -> SourceReport;
    /// The chain.
    fn head(&mut self) -> &mut dyn Downstream;
    /// The chain, to ask.
    fn head_ref(&self) -> &dyn Downstream;
}

/// Assigns the event time of a record.
pub type TimestampAssigner<T> = std::sync::Arc<dyn Fn(&[T], &mut [EventTime]) + Send + Sync>;

/// How a source gives event times, makes watermarks and refuses records.
pub struct SourceRules<T> {
    /// Gives a record its event time; `None` = it keeps that of the source.
    pub assign: Option<TimestampAssigner<T>>,
    /// The watermarks.
    pub watermarks: SplitWatermarks,
    /// What is refused, and what becomes of it.
    pub bad_input: BadInput,
}

/// A reader in front of its chain.
pub struct SourceHead<T> {
    reader: Box<dyn SourceReader<T>>,
    buffer: SourceOutput<T>,
    rules: SourceRules<T>,
    outputs: Outputs<T>,
    clock: TaskClock,
    dead_letters: OutputTag<DeadLetter>,
    split_ids: Vec<CompactString>,
    last_split: Option<SplitIndex>,
    /// When the last record was pushed.
    last_record: Option<ProcessingTime>,
    counted: SourceReport,
}

impl<T: Record> SourceHead<T> {
    /// Joins a reader to its chain.
    pub fn new(
        reader: Box<dyn SourceReader<T>>,
        rules: SourceRules<T>,
        outputs: Outputs<T>,
        clock: TaskClock,
    ) -> Self {
        Self {
            reader,
            buffer: SourceOutput::default(),
            rules,
            outputs,
            clock,
            dead_letters: OutputTag::new(DEAD_LETTERS),
            split_ids: Vec::new(),
            last_split: None,
            last_record: None,
            counted: SourceReport::default(),
        }
    }

    fn push(&mut self, split: SplitIndex) -> Result<usize, OperatorError> {
        self.last_split = Some(split);
        if let Some(assign) = &self.rules.assign {
            let chunk = &mut self.buffer.records;
            chunk.assign_times(|records, times| assign(records, times));
        }
        self.refuse_future(split)?;
        let count = self.buffer.records.len();
        self.counted.dropped += std::mem::take(&mut self.buffer.dropped);
        self.counted.dead_letters += self.buffer.dead_letters.len() as u64;
        if count > 0 {
            let (times, now) = (self.buffer.records.times(), self.clock.now());
            if let Some(last) = times.last().filter(|time| time.is_some()) {
                self.counted.emit_lag_ms = Some(now.0.saturating_sub(last.0));
            }
            self.last_record = Some(now);
            self.counted.chunks += 1;
            self.rules.watermarks.on_chunk(split.0, times, now);
            self.outputs.main.emit_chunk(&mut self.buffer.records)?;
        }
        for (letter, time, _) in self.buffer.dead_letters.drain() {
            self.outputs.emit_side(&self.dead_letters, letter, time)?;
        }
        self.outputs.flush()?;
        Ok(count)
    }

    /// Refuses records whose event time is too far ahead of the clock, before they move the watermark.
    fn refuse_future(&mut self, split: SplitIndex) -> Result<(), OperatorError> {
        let Some(limit) = self.rules.bad_input.future_limit_ms else {
            return Ok(());
        };
        let latest = EventTime(self.clock.now().0.saturating_add(limit));
        if self
            .buffer
            .records
            .times()
            .iter()
            .all(|time| *time <= latest)
        {
            return Ok(());
        }
        let id = &self.split_ids[split.0 as usize];
        let (reader, rules) = (&self.reader, &self.rules.bad_input);
        let origin = |at| reader.origin(at);
        self.counted.future += self.buffer.refuse_beyond(latest, rules, id, origin)?;
        Ok(())
    }
}

impl<T: Record> SourceInput for SourceHead<T> {
    fn poll(&mut self) -> Result<SourcePoll, OperatorError> {
        match self.reader.poll(&mut self.buffer)? {
            ReaderPoll::Records(split) => self.push(split).map(SourcePoll::Records),
            ReaderPoll::Nothing => Ok(SourcePoll::Nothing),
            ReaderPoll::SplitEnded(split) => {
                let pushed = self.push(split)?;
                self.rules.watermarks.finish_split(split.0);
                Ok(SourcePoll::Records(pushed))
            }
            ReaderPoll::EndOfInput => Ok(SourcePoll::EndOfInput),
        }
    }

    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), OperatorError> {
        for split in &splits {
            self.rules
                .watermarks
                .add_split(self.split_ids.len() as u32, self.clock.now());
            self.split_ids.push(split.id.clone());
        }
        Ok(self.reader.add_splits(splits)?)
    }

    fn no_more_splits(&mut self) {
        self.reader.no_more_splits();
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, OperatorError> {
        Ok(self.reader.snapshot()?)
    }

    fn completed(&mut self, id: CheckpointId) -> Result<(), OperatorError> {
        Ok(self.reader.checkpoint_completed(id)?)
    }

    fn signals(&mut self, paused: bool) -> Vec<SourceSignal> {
        let now = self.clock.now();
        for split in 0..self.split_ids.len() as u32 {
            if self.reader.is_behind(SplitIndex(split)) {
                self.rules.watermarks.keep_awake(split, now);
            }
        }
        self.rules.watermarks.signals(now, paused)
    }

    fn position(&self) -> String {
        match self
            .last_split
            .and_then(|split| self.split_ids.get(split.0 as usize))
        {
            Some(id) => format!("split {id}"),
            None => "before the first record".to_owned(),
        }
    }

    fn source_report(&self) -> SourceReport {
        let ReaderFigures {
            read_bytes,
            pending_records,
            pending_bytes,
            group_commits,
            group_commits_failed,
        } = self.reader.figures();
        let (splits, splits_idle) = self.rules.watermarks.open_and_idle();
        let now = self.clock.now();
        let since = |last: ProcessingTime| now.0.saturating_sub(last.0);
        SourceReport {
            future: self.counted.future + self.rules.watermarks.future_records(),
            held: self.reader.held() as u64,
            splits,
            splits_idle,
            records: self.outputs.main.emitted(),
            read_bytes,
            sent_bytes: self.outputs.sent_bytes(),
            pending_records,
            pending_bytes,
            idle_ms: self.last_record.map(since),
            group_commits,
            group_commits_failed,
            ..self.counted
        }
    }

    fn head(&mut self) -> &mut dyn Downstream {
        &mut self.outputs
    }

    fn head_ref(&self) -> &dyn Downstream {
        &self.outputs
    }
}

#[cfg(test)]
mod tests {
    use highwater_connectors::ConnectorError;
    use highwater_time::WatermarkStrategy;

    use super::*;
    use crate::outputs::Port;

    /// A reader of one chunk.
    struct OneChunk(Vec<(i64, EventTime)>);

    impl SourceReader<i64> for OneChunk {
        fn add_splits(&mut self, _: Vec<Split>) -> Result<(), ConnectorError> {
            Ok(())
        }

        fn no_more_splits(&mut self) {}

        fn poll(&mut self, out: &mut SourceOutput<i64>) -> Result<ReaderPoll, ConnectorError> {
            if self.0.is_empty() {
                return Ok(ReaderPoll::Nothing);
            }
            for (record, time) in self.0.drain(..) {
                out.records.push(record, time);
            }
            Ok(ReaderPoll::Records(SplitIndex(0)))
        }

        fn figures(&self) -> ReaderFigures {
            ReaderFigures {
                read_bytes: 30,
                pending_records: Some(9),
                ..ReaderFigures::default()
            }
        }

        fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
            Ok(Vec::new())
        }

        fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
            Ok(())
        }
    }

    #[test]
    fn a_source_tells_what_it_read_how_late_that_was_and_what_is_left() {
        let clock = TaskClock::default();
        clock.set(ProcessingTime(1_000));
        let rules = SourceRules {
            assign: None,
            watermarks: SplitWatermarks::new(WatermarkStrategy::monotonous()),
            bad_input: BadInput::FAIL,
        };
        let reader = OneChunk(vec![(1, EventTime(700)), (2, EventTime(900))]);
        let outputs = Outputs::new(Port::new(Vec::new()), Vec::new());
        let mut head = SourceHead::new(Box::new(reader), rules, outputs, clock.clone());
        let before = head.source_report();
        assert_eq!((before.emit_lag_ms, before.idle_ms), (None, None));
        let split = Split {
            id: "in-0".into(),
            position: Vec::new(),
        };
        head.add_splits(vec![split]).unwrap();
        assert_eq!(head.poll().unwrap(), SourcePoll::Records(2));
        assert_eq!(head.poll().unwrap(), SourcePoll::Nothing);
        clock.set(ProcessingTime(1_250));
        let after = head.source_report();
        assert_eq!((after.records, after.chunks, after.splits), (2, 1, 1));
        assert_eq!((after.emit_lag_ms, after.idle_ms), (Some(100), Some(250)));
        assert_eq!((after.read_bytes, after.pending_records), (30, Some(9)));
        assert_eq!(after.pending_bytes, None);
    }
}
