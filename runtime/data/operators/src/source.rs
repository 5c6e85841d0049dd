//! The head of a source task: reader, event times and per-split watermarks in front of the chain.
//!
//! A poll reads records of one split, assigns event times, feeds the watermark generator of that split and pushes the
//! chunk on. What the event time of the source became is asked for afterwards, once per poll.

use highwater_connectors::{DeadLetter, ReaderPoll, SourceOutput, SourceReader, Split, SplitIndex};
use highwater_time::{SourceSignal, SplitWatermarks};
use highwater_types::{CheckpointId, EventTime, Record};

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
    /// How many records were dropped as undecodable.
    fn dropped(&self) -> u64;
    /// The chain.
    fn head(&mut self) -> &mut dyn Downstream;
    /// The chain, to ask.
    fn head_ref(&self) -> &dyn Downstream;
}

/// Assigns the event time of a record.
pub type TimestampAssigner<T> = std::sync::Arc<dyn Fn(&[T], &mut [EventTime]) + Send + Sync>;

/// A reader in front of its chain.
pub struct SourceHead<T> {
    reader: Box<dyn SourceReader<T>>,
    buffer: SourceOutput<T>,
    assign: Option<TimestampAssigner<T>>,
    watermarks: SplitWatermarks,
    outputs: Outputs<T>,
    clock: TaskClock,
    dead_letters: OutputTag<DeadLetter>,
    split_ids: Vec<String>,
    last_split: Option<SplitIndex>,
    dropped: u64,
}

impl<T: Record> SourceHead<T> {
    /// Joins a reader to its chain.
    pub fn new(
        reader: Box<dyn SourceReader<T>>,
        assign: Option<TimestampAssigner<T>>,
        watermarks: SplitWatermarks,
        outputs: Outputs<T>,
        clock: TaskClock,
    ) -> Self {
        Self {
            reader,
            buffer: SourceOutput::default(),
            assign,
            watermarks,
            outputs,
            clock,
            dead_letters: OutputTag::new(DEAD_LETTERS),
            split_ids: Vec::new(),
            last_split: None,
            dropped: 0,
        }
    }

    fn push(&mut self, split: SplitIndex) -> Result<usize, OperatorError> {
        let count = self.buffer.records.len();
        self.last_split = Some(split);
        self.dropped += std::mem::take(&mut self.buffer.dropped);
        if let Some(assign) = &self.assign {
            let chunk = &mut self.buffer.records;
            chunk.assign_times(|records, times| assign(records, times));
        }
        if count > 0 {
            self.watermarks
                .on_chunk(split.0, self.buffer.records.times(), self.clock.now());
            self.outputs.main.emit_chunk(&mut self.buffer.records)?;
        }
        for (letter, time, _) in self.buffer.dead_letters.drain() {
            self.outputs.emit_side(&self.dead_letters, letter, time)?;
        }
        self.outputs.flush()?;
        Ok(count)
    }
}

impl<T: Record> SourceInput for SourceHead<T> {
    fn poll(&mut self) -> Result<SourcePoll, OperatorError> {
        match self.reader.poll(&mut self.buffer)? {
            ReaderPoll::Records(split) => self.push(split).map(SourcePoll::Records),
            ReaderPoll::Nothing => Ok(SourcePoll::Nothing),
            ReaderPoll::SplitEnded(split) => {
                let pushed = self.push(split)?;
                self.watermarks.finish_split(split.0);
                Ok(SourcePoll::Records(pushed))
            }
            ReaderPoll::EndOfInput => Ok(SourcePoll::EndOfInput),
        }
    }

    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), OperatorError> {
        for split in &splits {
            self.watermarks
                .add_split(self.split_ids.len() as u32, self.clock.now());
            self.split_ids.push(split.id.to_string());
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
                self.watermarks.hold(split, now);
            }
        }
        self.watermarks.signals(now, paused)
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

    fn dropped(&self) -> u64 {
        self.dropped
    }

    fn head(&mut self) -> &mut dyn Downstream {
        &mut self.outputs
    }

    fn head_ref(&self) -> &dyn Downstream {
        &self.outputs
    }
}
