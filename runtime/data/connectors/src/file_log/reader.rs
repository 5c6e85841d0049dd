//! Reads partitions of a file log on a slot thread.

use std::sync::Arc;
use std::time::Duration;

use highwater_types::chunk::CHUNK_RECORDS_MAX;
use highwater_types::{CheckpointId, EventTime, Record};

use super::lines::{LINE_BYTES_MAX, NextLine};
use super::split::LogSplit;
use super::topic::TopicDirectory;
use super::{FileLogSource, LogEnd};
use crate::error::ConnectorError;
use crate::format::DecodeRecord;
use crate::intake::{Intake, Origin, RawInput};
use crate::source::{
    ReaderFigures, ReaderPoll, SourceOutput, SourceReader, Split, SplitIndex, WakeHandle,
};

/// How often a file that was read to its end is looked at again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(10);

/// How far one turn of a split came.
enum Turn {
    Delivered,
    AtEnd,
    Waiting,
}

/// Reads lines of `split` into `out` until the chunk is full or the file has no further line.
fn read_lines<T, D: DecodeRecord<T>>(
    intake: &mut Intake<T, D>,
    split: &mut LogSplit,
    out: &mut SourceOutput<T>,
) -> Result<Turn, ConnectorError> {
    let filled = out.records.len().max(out.dead_letters.len());
    let mut taken = 0;
    while taken < CHUNK_RECORDS_MAX.saturating_sub(filled) {
        match split.lines.next_line() {
            NextLine::Whole { offset, range } => {
                taken += 1;
                let raw = RawInput {
                    position: offset,
                    time: EventTime::NONE,
                    payload: Some(split.lines.bytes(range)),
                };
                intake.take(&split.id, raw, out)?;
            }
            NextLine::TooLong { offset, head } => {
                taken += 1;
                let reason = format!(
                    "the line has more than {LINE_BYTES_MAX} bytes; only its beginning is kept"
                );
                intake.refuse(split.refused((offset, &head), reason), out)?;
            }
            NextLine::NotYet => {
                let count = split.lines.fill(&mut split.file, split.end);
                if count.map_err(split.io("reading"))? == 0 {
                    // A log that is there as a whole ends with its last byte, be it a newline or not.
                    taken += usize::from(read_last_line(intake, split, out)?);
                    break;
                }
            }
        }
    }
    if taken > 0 {
        return Ok(Turn::Delivered);
    }
    if split.lines.offset() >= split.end {
        return Ok(Turn::AtEnd);
    }
    if split.end != u64::MAX {
        return Err(split.lost(format!(
            "the file ends before byte {}, where it ended when the job began to read it; put back what is missing, or begin \
             anew with `run --fresh`",
            split.end
        )));
    }
    split.read_up_to = Some(split.lines.end());
    Ok(Turn::Waiting)
}

/// Reads what stands behind the last newline of a split that was read to its end; whether there is such a line.
fn read_last_line<T, D: DecodeRecord<T>>(
    intake: &mut Intake<T, D>,
    split: &mut LogSplit,
    out: &mut SourceOutput<T>,
) -> Result<bool, ConnectorError> {
    let has_grown = split.size()? > split.end;
    let Some((offset, line)) = split.take_last_line() else {
        return Ok(false);
    };
    if has_grown {
        let reason = "it was still being written when the job began to read the log".to_owned();
        intake.refuse(split.refused((offset, &line), reason), out)?;
    } else {
        let raw = RawInput {
            position: offset,
            time: EventTime::NONE,
            payload: Some(&line),
        };
        intake.take(&split.id, raw, out)?;
    }
    Ok(true)
}

pub(super) struct FileLogReader<T, D: DecodeRecord<T>> {
    topic: TopicDirectory,
    end: LogEnd,
    intake: Intake<T, D>,
    /// The split of the last poll that brought records.
    last: usize,
    wake: WakeHandle,
    splits: Vec<LogSplit>,
    turn: usize,
    no_more_splits: bool,
    /// The end marker was seen: what a file holds now is all it will ever hold.
    final_sizes: bool,
    /// The alarm that is set and has not rung yet.
    alarm: Option<Duration>,
}

impl<T: Record, D: DecodeRecord<T>> FileLogReader<T, D> {
    pub(super) fn new(source: &FileLogSource<T, D>, wake: WakeHandle) -> Self {
        Self {
            topic: source.topic.clone(),
            end: source.end.clone(),
            intake: Intake::new(Arc::clone(&source.decoder), source.bad_input),
            last: 0,
            wake,
            splits: Vec::new(),
            turn: 0,
            no_more_splits: false,
            final_sizes: false,
            alarm: None,
        }
    }

    fn now(&self) -> Duration {
        self.end.clock().map_or(Duration::ZERO, |clock| clock.now())
    }

    /// One turn of the split at `at`; `None` = it has nothing to say.
    fn serve(
        &mut self,
        at: usize,
        now: Duration,
        out: &mut SourceOutput<T>,
    ) -> Result<Option<ReaderPoll>, ConnectorError> {
        let split = &mut self.splits[at];
        let index = SplitIndex(at as u32);
        if split.ended || now < split.retry_at {
            return Ok(None);
        }
        // Asked before the last read: whatever was written before the marker is then read.
        let final_size = self.final_sizes;
        if split.has_grown()? || final_size {
            self.intake.begin();
            self.last = at;
            match read_lines(&mut self.intake, split, out)? {
                Turn::Delivered => return Ok(Some(ReaderPoll::Records(index))),
                Turn::AtEnd => {
                    split.ended = true;
                    return Ok(Some(ReaderPoll::SplitEnded(index)));
                }
                Turn::Waiting if final_size => {
                    let Some((offset, payload)) = split.take_torn() else {
                        split.ended = true;
                        return Ok(Some(ReaderPoll::SplitEnded(index)));
                    };
                    let reason = "the last line has no newline".to_owned();
                    let refused = split.refused((offset, &payload), reason);
                    self.intake.refuse(refused, out)?;
                    return Ok(Some(ReaderPoll::Records(index)));
                }
                Turn::Waiting => {}
            }
        }
        split.retry_at = now + FOLLOW_INTERVAL;
        Ok(None)
    }

    /// Looks for the end marker; true when it is seen for the first time.
    fn sees_end_marker(&mut self) -> Result<bool, ConnectorError> {
        if self.final_sizes || !matches!(self.end, LogEnd::Marker(_)) || !self.topic.has_ended()? {
            return Ok(false);
        }
        self.final_sizes = true;
        for split in &mut self.splits {
            split.retry_at = Duration::ZERO;
        }
        Ok(true)
    }

    fn set_alarm(&mut self, now: Duration) {
        let open = self.splits.iter().any(|split| !split.ended);
        if let Some(clock) = self.end.clock()
            && open
            && self.alarm.is_none_or(|alarm| alarm <= now)
        {
            let at = now + FOLLOW_INTERVAL;
            clock.wake_at(at, &self.wake);
            self.alarm = Some(at);
        }
    }
}

impl<T: Record, D: DecodeRecord<T>> SourceReader<T> for FileLogReader<T, D> {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        for split in &splits {
            self.splits.push(LogSplit::open(&self.topic, split)?);
        }
        Ok(())
    }

    fn no_more_splits(&mut self) {
        self.no_more_splits = true;
    }

    fn poll(&mut self, out: &mut SourceOutput<T>) -> Result<ReaderPoll, ConnectorError> {
        let now = self.now();
        loop {
            for _ in 0..self.splits.len() {
                let at = self.turn;
                self.turn = (at + 1) % self.splits.len();
                if let Some(poll) = self.serve(at, now, out)? {
                    return Ok(poll);
                }
            }
            if self.no_more_splits && self.splits.iter().all(|split| split.ended) {
                return Ok(ReaderPoll::EndOfInput);
            }
            if !self.sees_end_marker()? {
                self.set_alarm(now);
                return Ok(ReaderPoll::Nothing);
            }
        }
    }

    fn origin(&self, at: usize) -> Result<Origin, ConnectorError> {
        let position = self.intake.position_of(at);
        let payload = self.splits[self.last].line_at(position)?;
        Ok(Origin {
            position,
            payload: Some(payload),
        })
    }

    fn figures(&self) -> ReaderFigures {
        let open = self.splits.iter().filter(|split| !split.ended);
        ReaderFigures {
            read_bytes: self.splits.iter().map(LogSplit::read_bytes).sum(),
            pending_bytes: open.map(LogSplit::pending_bytes).sum(),
            ..ReaderFigures::default()
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        let open = self.splits.iter().filter(|split| !split.ended);
        Ok(open.map(LogSplit::to_split).collect())
    }

    fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
        Ok(())
    }
}
