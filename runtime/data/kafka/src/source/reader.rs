//! Reads partitions on a slot thread: takes batches from the fetch thread and decodes them. Never blocks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};

use compact_str::CompactString;
use highwater_connectors::{
    ConnectorError, DecodeRecord, Intake, Origin, RawInput, ReaderContext, ReaderFigures,
    ReaderPoll, SourceOutput, SourceReader, Split, SplitIndex,
};
use highwater_types::{CheckpointId, Record};

use super::SourceSettings;
use super::batch::{RawRecord, RecordBatch};
use super::fetch::{Assignment, Command, FetchThread, Fetched, Queues};
use super::position::{LastRead, PartitionPosition, parse_split, split_of};
use crate::context::{ClientLog, GroupCommits, HeldPartitions, PartitionEnds};
use crate::failure::connector_error;
use crate::topic::READING;

/// Batches that wait for the slot thread: some chunks of work, so that neither side waits for each single one.
const BATCHES_MAX: usize = 16;
/// What a reader fetches ahead, unless the user says otherwise. The backoff is a second by default: a reader that has
/// emptied the queue would wait for the rest of it.
const FETCHING_AHEAD: &[(&str, &str)] = &[
    ("fetch.queue.backoff.ms", "5"),
    ("queued.min.messages", "100000"),
    ("queued.max.messages.kbytes", "32768"),
    // Tells which partitions hold records that an open transaction keeps back.
    ("statistics.interval.ms", "500"),
];
/// How long a broker holds the answer at the end of a partition back for a reader that ends there: twice at most where the
/// last offsets hold no records. An unbounded reader saves requests instead.
const WAIT_AT_END: (&str, &str) = ("fetch.wait.max.ms", "100");
/// Commands are rare; a partition that is assigned is one.
const COMMANDS_MAX: usize = 1_024;

#[derive(Debug)]
struct ReadSplit {
    id: CompactString,
    partition: i32,
    position: PartitionPosition,
    ended: bool,
    /// Everything that was committed at the last look has been read.
    caught_up: bool,
}

/// The reader of one subtask.
pub(super) struct KafkaReader<T, D: DecodeRecord<T>> {
    topic: String,
    commits_to_group: bool,
    intake: Intake<T, D>,
    /// What the last poll decoded: its bytes are asked for when one of its records is refused afterwards.
    last: Option<RecordBatch>,
    splits: Vec<ReadSplit>,
    /// Splits that had nothing to read when they came.
    ended_at_once: VecDeque<SplitIndex>,
    no_more_splits: bool,
    /// Next offsets of the last snapshot, until its checkpoint completes.
    snapshot: BTreeMap<i32, i64>,
    commands: Option<SyncSender<Command>>,
    fetched: Option<Receiver<Fetched>>,
    used: SyncSender<RecordBatch>,
    held: HeldPartitions,
    ends: PartitionEnds,
    commits: GroupCommits,
    /// Bytes of the values that were decoded.
    read_bytes: u64,
    reader_waits: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Record, D: DecodeRecord<T>> KafkaReader<T, D> {
    pub(super) fn open(
        settings: &SourceSettings,
        decoder: Arc<D>,
        context: &ReaderContext,
    ) -> Result<Self, ConnectorError> {
        let object = settings.object();
        let log = ClientLog::reading(&settings.topic);
        let mut config = settings.connection.client(&object, READING)?;
        let at_end = settings.end.is_some().then_some(&WAIT_AT_END);
        for (property, value) in FETCHING_AHEAD.iter().chain(at_end) {
            if config.get(property).is_none() {
                config.set(*property, *value);
            }
        }
        if settings.end.is_some() {
            // A follower lags as a matter of course; only the end that the leader reports can be checked with it.
            config.remove("client.rack");
        }
        let name = format!("highwater-{}-{}", context.job, context.uid);
        config.set("group.id", settings.group.as_ref().unwrap_or(&name));
        config.set("client.id", format!("{name}-{}", context.subtask));
        let consumer = config
            .create_with_context(log.clone())
            .map_err(|error| connector_error(&object, &error, &log))?;
        let (commands, commands_in) = sync_channel(COMMANDS_MAX);
        let (fetched_out, fetched) = sync_channel(BATCHES_MAX);
        let (used, used_in) = sync_channel(BATCHES_MAX);
        let reader_waits = Arc::new(AtomicBool::new(false));
        let queues = Queues {
            commands: commands_in,
            fetched: fetched_out,
            used: used_in,
            reader_waits: Arc::clone(&reader_waits),
            wake: context.wake.clone(),
        };
        let (held, ends) = (log.held().clone(), log.ends().clone());
        let commits = log.commits().clone();
        let fetching = FetchThread::new(settings.topic.clone(), consumer, log, queues);
        let thread = Builder::new()
            .name(format!("kafka-{}-{}", context.uid, context.subtask))
            .spawn(move || fetching.run())
            .map_err(ConnectorError::io(&object, "starting the fetch thread"))?;
        Ok(Self {
            topic: settings.topic.clone(),
            commits_to_group: settings.group.is_some(),
            intake: Intake::new(decoder, settings.bad_input),
            last: None,
            splits: Vec::new(),
            ended_at_once: VecDeque::new(),
            no_more_splits: false,
            snapshot: BTreeMap::new(),
            commands: Some(commands),
            fetched: Some(fetched),
            used,
            held,
            ends,
            commits,
            read_bytes: 0,
            reader_waits,
            thread: Some(thread),
        })
    }

    fn stopped(&self) -> ConnectorError {
        ConnectorError::Unavailable {
            object: format!("kafka topic {}", self.topic),
            reason: "its fetch thread has ended".to_owned(),
        }
    }

    fn command(&self, command: Command) -> Result<(), ConnectorError> {
        let sent = self
            .commands
            .as_ref()
            .map(|commands| commands.try_send(command));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.stopped()),
        }
    }

    /// The next thing that was fetched; `None` = nothing yet, and the slot thread will be woken.
    fn next(&self) -> Result<Option<Fetched>, ConnectorError> {
        let Some(fetched) = &self.fetched else {
            return Err(self.stopped());
        };
        match fetched.try_recv() {
            Ok(fetched) => return Ok(Some(fetched)),
            Err(TryRecvError::Disconnected) => return Err(self.stopped()),
            Err(TryRecvError::Empty) => self.reader_waits.store(true, Ordering::Release),
        }
        // Whatever came between the look and the note above would wake nobody.
        match fetched.try_recv() {
            Ok(fetched) => Ok(Some(fetched)),
            Err(TryRecvError::Disconnected) => Err(self.stopped()),
            Err(TryRecvError::Empty) => Ok(None),
        }
    }

    fn decode(
        &mut self,
        batch: &RecordBatch,
        split: SplitIndex,
        out: &mut SourceOutput<T>,
    ) -> Result<(), ConnectorError> {
        let split = &mut self.splits[split.0 as usize];
        self.intake.begin();
        for record in batch.records() {
            let raw = RawInput {
                position: position_of(&record),
                time: record.time,
                payload: record.value,
            };
            self.intake.take(&split.id, raw, out)?;
            split.position.offset = record.offset + 1;
        }
        if let Some(last) = batch.records().last() {
            split.position.last = Some(LastRead::of(last.time, last.value));
        }
        Ok(())
    }

    fn end(&mut self, split: SplitIndex) -> ReaderPoll {
        self.splits[split.0 as usize].ended = true;
        ReaderPoll::SplitEnded(split)
    }
}

impl<T: Record, D: DecodeRecord<T>> SourceReader<T> for KafkaReader<T, D> {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        let mut assignments = Vec::with_capacity(splits.len());
        for split in splits {
            let (partition, position) = parse_split(&self.topic, &split)?;
            let index = SplitIndex(self.splits.len() as u32);
            self.splits.push(ReadSplit {
                id: split.id,
                partition,
                position,
                ended: false,
                caught_up: false,
            });
            if position.end.is_some_and(|end| position.offset >= end) {
                self.ended_at_once.push_back(index);
            } else {
                assignments.push(Assignment {
                    split: index,
                    partition,
                    position,
                });
            }
        }
        if assignments.is_empty() {
            return Ok(());
        }
        self.command(Command::Assign(assignments))
    }

    fn no_more_splits(&mut self) {
        self.no_more_splits = true;
    }

    fn poll(&mut self, out: &mut SourceOutput<T>) -> Result<ReaderPoll, ConnectorError> {
        if let Some(split) = self.ended_at_once.pop_front() {
            return Ok(self.end(split));
        }
        if self.no_more_splits && self.splits.iter().all(|split| split.ended) {
            return Ok(ReaderPoll::EndOfInput);
        }
        if let Some(batch) = self.last.take() {
            // A full queue means that there is memory enough.
            drop(self.used.try_send(batch));
        }
        loop {
            return match self.next()? {
                None => Ok(ReaderPoll::Nothing),
                Some(Fetched::Failed(error)) => Err(error),
                Some(Fetched::Ended(split)) => Ok(self.end(split)),
                Some(Fetched::CaughtUp(split)) => {
                    self.splits[split.0 as usize].caught_up = true;
                    continue;
                }
                Some(Fetched::Batch(batch)) => {
                    let index = batch.split();
                    self.splits[index.0 as usize].caught_up = false;
                    self.read_bytes += batch.byte_count() as u64;
                    self.decode(&batch, index, out)?;
                    self.last = Some(batch);
                    Ok(ReaderPoll::Records(index))
                }
            };
        }
    }

    fn origin(&self, at: usize) -> Result<Origin, ConnectorError> {
        let position = self.intake.position_of(at);
        let mut records = self.last.iter().flat_map(RecordBatch::records);
        let record = records.find(|record| position_of(record) == position);
        Ok(Origin {
            position,
            payload: record.and_then(|record| record.value).map(<[u8]>::to_vec),
        })
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        let open = self.splits.iter().filter(|split| !split.ended);
        let taken: Vec<_> = open
            .map(|split| split_of(&self.topic, split.partition, split.position))
            .collect();
        // Ended splits too: the group is to see that they are read.
        self.snapshot = self
            .splits
            .iter()
            .map(|split| (split.partition, split.position.offset))
            .collect();
        Ok(taken)
    }

    fn held(&self) -> usize {
        let open = self.splits.iter().filter(|split| !split.ended);
        open.filter(|split| self.held.contains(split.partition))
            .count()
    }

    fn figures(&self) -> ReaderFigures {
        let open = self.splits.iter().filter(|split| !split.ended);
        let left = open.map(|split| {
            let PartitionPosition { offset, end, .. } = split.position;
            let end = end.or_else(|| self.ends.of(split.partition))?;
            Some(u64::try_from(end - offset).unwrap_or(0))
        });
        let (group_commits, group_commits_failed) = self.commits.counts();
        ReaderFigures {
            read_bytes: self.read_bytes,
            pending_records: left.sum(),
            pending_bytes: None,
            group_commits,
            group_commits_failed,
        }
    }

    fn is_behind(&self, split: SplitIndex) -> bool {
        let split = &self.splits[split.0 as usize];
        !split.ended && (!split.caught_up || self.held.contains(split.partition))
    }

    /// Barriers and completions come through one ordered mailbox, so the last snapshot is the one of this checkpoint.
    fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
        let offsets: Vec<_> = std::mem::take(&mut self.snapshot).into_iter().collect();
        if !self.commits_to_group || offsets.is_empty() {
            return Ok(());
        }
        self.command(Command::Commit(offsets))
    }
}

impl<T, D: DecodeRecord<T>> Drop for KafkaReader<T, D> {
    fn drop(&mut self) {
        // Without queues the thread ends with its next look at them.
        self.commands = None;
        self.fetched = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "highwater::kafka", topic = self.topic, "the fetch thread panicked");
        }
    }
}

/// Offsets are not negative.
fn position_of(record: &RawRecord<'_>) -> u64 {
    u64::try_from(record.offset).unwrap_or(0)
}
