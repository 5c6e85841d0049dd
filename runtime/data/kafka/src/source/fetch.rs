//! The fetch thread of one reader: owns the consumer, fills batches, knows where bounded partitions end.
//!
//! Partitions are assigned and sought by the engine; the group never decides. Everything goes through two bounded queues:
//! commands to the thread, fetched batches to the reader. A full queue of batches stops polling: that is backpressure.
//!
//! The end of a bounded partition is a last stable offset that existed when the source started. So it is reached with the
//! first record at or behind it, or, where the last offsets hold no records, when the client reports the end of the
//! partition. That report is believed only when the leader was asked before and after it: one that was just elected may answer
//! fetches before it knows how far its own records are good, and its end would leave records unread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use highwater_connectors::{ConnectorError, SplitIndex, WakeHandle};
use highwater_types::EventTime;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::batch::{RawRecord, RecordBatch};
use super::ends::{AtEnd, EndLook, EndReports};
use super::position::{LastRead, PartitionPosition};
use crate::context::ClientLog;
use crate::failure::{code_of, connector_error};
use crate::topic::{CALL_TIMEOUT, ends_of, leaders_of};

/// How long the thread waits for records before it looks for commands.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// Records that are taken from the client before they are handed over, whatever else is there.
const DRAIN_RECORDS_MAX: usize = 4_096;
/// Looks at the group at the end: five seconds when the broker does not answer, then the job ends without knowing.
const GROUP_LOOKS_MAX: u32 = 5;
const GROUP_ANSWER: Duration = Duration::from_millis(900);
const GROUP_LOOK: Duration = Duration::from_millis(100);

/// What the reader asks of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Read these partitions too. All at once: a fetch that waits at the end of one would delay the others.
    Assign(Vec<Assignment>),
    /// Tell the group: partition and next offset.
    Commit(Vec<(i32, i64)>),
}

/// A partition to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assignment {
    pub(super) split: SplitIndex,
    pub(super) partition: i32,
    pub(super) position: PartitionPosition,
}

/// What the thread hands to the reader.
#[derive(Debug)]
pub(super) enum Fetched {
    /// Records.
    Batch(RecordBatch),
    /// Everything that is committed now has been handed over.
    CaughtUp(SplitIndex),
    /// The split is read to its end.
    Ended(SplitIndex),
    /// Nothing more will come.
    Failed(ConnectorError),
}

/// The queues of the thread.
pub(super) struct Queues {
    pub(super) commands: Receiver<Command>,
    pub(super) fetched: SyncSender<Fetched>,
    /// Batches that were read, for their memory.
    pub(super) used: Receiver<RecordBatch>,
    /// Set by the reader when it found nothing: it wants to be woken.
    pub(super) reader_waits: Arc<AtomicBool>,
    pub(super) wake: WakeHandle,
}

/// A partition that is being read.
#[derive(Debug)]
struct Open {
    split: SplitIndex,
    next: i64,
    end: Option<i64>,
    /// The record before `next`, which is read again first: only in the same topic is it the same.
    check: Option<LastRead>,
    batch: RecordBatch,
    /// The client has reported the end of the partition, and the reader does not know yet.
    at_end: bool,
    /// The client has reported an end before `end`, and the leader is to be asked about it.
    is_doubtful: bool,
    reports: EndReports,
}

impl Open {
    /// Where fetching begins: one record earlier while that one is to be checked.
    const fn first(&self) -> i64 {
        match self.check {
            Some(_) => self.next - 1,
            None => self.next,
        }
    }
}

/// The state of the thread.
pub(super) struct FetchThread {
    topic: String,
    consumer: BaseConsumer<ClientLog>,
    log: ClientLog,
    queues: Queues,
    open: BTreeMap<i32, Open>,
    /// Full batches and ends, in the order in which they are to be handed over.
    outgoing: VecDeque<Fetched>,
    taken: usize,
    /// What the group was told last: partition and next offset.
    told: Option<Vec<(i32, i64)>>,
}

/// Why the thread ends.
enum Stop {
    /// The reader is gone.
    ReaderGone,
    /// The job must know.
    Failed(ConnectorError),
}

impl From<ConnectorError> for Stop {
    fn from(error: ConnectorError) -> Self {
        Self::Failed(error)
    }
}

impl FetchThread {
    pub(super) fn new(
        topic: String,
        consumer: BaseConsumer<ClientLog>,
        log: ClientLog,
        queues: Queues,
    ) -> Self {
        Self {
            topic,
            consumer,
            log,
            queues,
            open: BTreeMap::new(),
            outgoing: VecDeque::new(),
            taken: 0,
            told: None,
        }
    }

    /// Fetches until the reader is gone or something cannot be helped.
    pub(super) fn run(mut self) {
        let stop = loop {
            if let Err(stop) = self.turn() {
                break stop;
            }
        };
        self.finish_commits();
        if let Stop::Failed(error) = stop
            && self.queues.fetched.send(Fetched::Failed(error)).is_ok()
        {
            self.wake();
        }
    }

    fn turn(&mut self) -> Result<(), Stop> {
        self.serve_commands()?;
        self.taken = 0;
        let mut wait = IDLE_WAIT;
        while self.taken < DRAIN_RECORDS_MAX {
            // A message borrows the consumer while it is copied, so `take` gets the other fields one by one.
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => Self::take(
                    &mut self.open,
                    &mut self.outgoing,
                    &self.queues.used,
                    &message,
                ),
                Some(Err(error)) => self.meet(&error)?,
            }
            self.taken += 1;
            wait = Duration::ZERO;
        }
        self.ask_leaders()?;
        self.unassign_ended()?;
        self.hand_over()
    }

    /// Asks the leaders of partitions whose reported end comes before the end that they are read to. Those that are not at
    /// their end are begun anew: the next report is of what the leader knows by then.
    fn ask_leaders(&mut self) -> Result<(), Stop> {
        let doubtful = self.open.iter().filter(|(_, open)| open.is_doubtful);
        let doubtful: Vec<i32> = doubtful.map(|(&partition, _)| partition).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let looks = self.look_at(&doubtful);
        let mut again = Vec::with_capacity(doubtful.len());
        for (partition, look) in doubtful.into_iter().zip(looks) {
            let Some(open) = self.open.get_mut(&partition) else {
                continue;
            };
            open.is_doubtful = false;
            let Some(end) = open.end else { continue };
            match open.reports.take(look, end) {
                AtEnd::Ended => open.next = open.next.max(end),
                AtEnd::Again => again.push((partition, open.first())),
                AtEnd::Lags => {
                    let told = look.map_or(open.next, |look| look.end);
                    return Err(lagging(&self.topic, partition, (told, end)).into());
                }
            }
        }
        self.assign_again(&again)
    }

    /// Leader and end of these partitions as they are told now; one that is not told is asked for with its next report.
    fn look_at(&self, partitions: &[i32]) -> Vec<Option<EndLook>> {
        let untold = |error: &KafkaError| {
            tracing::warn!(target: "highwater::kafka", topic = self.topic, %error, "the end of a partition is not told");
        };
        let leaders = leaders_of(&self.consumer, &self.topic, partitions);
        let told = leaders.and_then(|leaders| {
            let ends = ends_of(&self.consumer, &self.topic, partitions)?;
            Ok(leaders.into_iter().zip(ends))
        });
        let look = |(leader, end): (i32, Result<Option<i64>, KafkaError>)| {
            let end = end.inspect_err(untold).ok().flatten();
            end.map(|end| EndLook { leader, end })
        };
        match told {
            Ok(told) => told.map(look).collect(),
            Err(error) => {
                untold(&error);
                vec![None; partitions.len()]
            }
        }
    }

    /// Lets the client begin anew at these offsets. A seek does not wake a partition that the client has given up.
    fn assign_again(&self, offsets: &[(i32, i64)]) -> Result<(), Stop> {
        if offsets.is_empty() {
            return Ok(());
        }
        let list = self.list(offsets)?;
        let again = self.consumer.incremental_unassign(&list);
        let again = again.and_then(|()| self.consumer.incremental_assign(&list));
        again.map_err(|error| connector_error(&self.object(), &error, &self.log))?;
        Ok(())
    }

    /// Obeys all commands that are there; waits for one while there is nothing to read.
    fn serve_commands(&mut self) -> Result<(), Stop> {
        loop {
            let command = if self.open.is_empty() {
                self.queues.commands.recv().map_err(|_| Stop::ReaderGone)?
            } else {
                match self.queues.commands.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => return Err(Stop::ReaderGone),
                }
            };
            match command {
                Command::Assign(assignments) => self.assign(&assignments)?,
                Command::Commit(offsets) => self.commit(&offsets)?,
            }
        }
    }

    fn list(&self, offsets: &[(i32, i64)]) -> Result<TopicPartitionList, Stop> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset) in offsets {
            let added = list.add_partition_offset(&self.topic, partition, Offset::Offset(offset));
            added.map_err(|error| self.failed(partition, &error))?;
        }
        Ok(list)
    }

    fn assign(&mut self, assignments: &[Assignment]) -> Result<(), Stop> {
        let mut offsets = Vec::with_capacity(assignments.len());
        for &Assignment {
            split,
            partition,
            position,
        } in assignments
        {
            let open = Open {
                split,
                next: position.offset,
                end: position.end,
                check: position.last,
                batch: RecordBatch::new(split),
                at_end: false,
                is_doubtful: false,
                reports: EndReports::default(),
            };
            offsets.push((partition, open.first()));
            self.open.insert(partition, open);
        }
        let list = self.list(&offsets)?;
        let assigned = self.consumer.incremental_assign(&list);
        assigned.map_err(|error| connector_error(&self.object(), &error, &self.log))?;
        Ok(())
    }

    fn commit(&mut self, offsets: &[(i32, i64)]) -> Result<(), Stop> {
        let list = self.list(offsets)?;
        self.told = Some(offsets.to_vec());
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            self.log.commits().failed(offsets.len());
            // Group offsets are for people who watch; the job itself goes on from its checkpoints.
            tracing::warn!(target: "highwater::kafka", %error, "group offsets were not committed");
        }
        Ok(())
    }

    /// Tells the group what the reader left behind, and waits until the group knows it, for a while: what the last
    /// completed checkpoint says is to be seen after the end of the job too (HB-73).
    fn finish_commits(&mut self) {
        while let Ok(command) = self.queues.commands.try_recv() {
            if let Command::Commit(offsets) = command
                && self.commit(&offsets).is_err()
            {
                tracing::warn!(target: "highwater::kafka", topic = self.topic, "the last group offsets cannot be named");
            }
        }
        let Some(told) = self.told.take() else { return };
        for _ in 0..GROUP_LOOKS_MAX {
            if self.group_is_at(&told) {
                return;
            }
            // The client tells no one how a commit went. A consumer in this state brings nothing that anybody needs.
            drop(self.consumer.poll(GROUP_LOOK));
        }
        tracing::warn!(target: "highwater::kafka", topic = self.topic, "the last group offsets were not confirmed");
    }

    /// Whether the group has these offsets.
    fn group_is_at(&self, told: &[(i32, i64)]) -> bool {
        let Ok(list) = self.list(told) else {
            return false;
        };
        let committed = self.consumer.committed_offsets(list, GROUP_ANSWER);
        committed.is_ok_and(|committed| {
            let is_at = |(partition, offset): &(i32, i64)| {
                let found = committed.find_partition(&self.topic, *partition);
                found.is_some_and(|found| found.offset() == Offset::Offset(*offset))
            };
            told.iter().all(is_at)
        })
    }

    /// Copies a record into the batch of its partition.
    fn take(
        open: &mut BTreeMap<i32, Open>,
        outgoing: &mut VecDeque<Fetched>,
        used: &Receiver<RecordBatch>,
        message: &BorrowedMessage<'_>,
    ) {
        // Records of a partition that has ended may still be on their way.
        let Some(partition) = open.get_mut(&message.partition()) else {
            return;
        };
        partition.at_end = false;
        partition.is_doubtful = false;
        let offset = message.offset();
        let time = message.timestamp().to_millis();
        let time = time.map_or(EventTime::NONE, EventTime);
        if let Some(kept) = partition.check.take()
            && offset < partition.next
        {
            // Compaction may have removed it; then the next one is there, and nothing is known.
            if kept != LastRead::of(time, message.payload()) {
                outgoing.push_back(Fetched::Failed(replaced(message, partition.next)));
            }
            return;
        }
        if partition.end.is_some_and(|end| offset >= end) {
            partition.next = offset;
            return;
        }
        partition.batch.push(&RawRecord {
            offset,
            time,
            value: message.payload(),
        });
        partition.next = offset + 1;
        if partition.batch.is_full() {
            let split = partition.split;
            let fresh = used.try_recv().map(|batch| batch.reuse(split));
            let fresh = fresh.unwrap_or_else(|_| RecordBatch::new(split));
            let full = std::mem::replace(&mut partition.batch, fresh);
            outgoing.push_back(Fetched::Batch(full));
        }
    }

    /// Acts on what the client reports instead of a record.
    fn meet(&mut self, error: &KafkaError) -> Result<(), Stop> {
        if let KafkaError::PartitionEOF(partition) = error {
            if let Some(open) = self.open.get_mut(partition) {
                open.at_end = true;
                open.is_doubtful = open.end.is_some_and(|end| open.next < end);
            }
            return Ok(());
        }
        match code_of(error) {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => self.position_missing(),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Err(ConnectorError::PositionLost {
                    object: format!("kafka topic {}", self.topic),
                    position: 0,
                    reason: "the topic was deleted while it was read".to_owned(),
                }
                .into())
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::BadMessage
                | Code::BadCompression
                | Code::InvalidMessage
                | Code::Fatal,
            )
            | None => Err(connector_error(&self.object(), error, &self.log).into()),
            Some(_) => {
                // The client goes on by itself: brokers that are down, coordinators that move.
                tracing::warn!(target: "highwater::kafka", topic = self.topic, %error, "reading is disturbed");
                Ok(())
            }
        }
    }

    /// The broker does not have a position: it is lost, or only the record before it is gone.
    fn position_missing(&mut self) -> Result<(), Stop> {
        if let Some(error) = self.lost_position() {
            return Err(error.into());
        }
        let unchecked: Vec<_> = self
            .open
            .iter_mut()
            .filter(|(_, open)| open.check.is_some())
            .map(|(&partition, open)| {
                open.check = None;
                (partition, open.next)
            })
            .collect();
        if unchecked.is_empty() {
            return Err(ConnectorError::PositionLost {
                object: self.object(),
                position: 0,
                reason: "the broker does not have an offset that is to be read".to_owned(),
            }
            .into());
        }
        self.assign_again(&unchecked)
    }

    /// Finds the partition whose position the broker does not have: the client does not say which one it is.
    fn lost_position(&self) -> Option<ConnectorError> {
        for (&partition, open) in &self.open {
            let range = self
                .consumer
                .fetch_watermarks(&self.topic, partition, CALL_TIMEOUT);
            match range {
                Ok((low, high)) if (low..=high).contains(&open.next) => {}
                Ok((low, high)) => {
                    return Some(ConnectorError::PositionLost {
                        object: format!("kafka topic {}, partition {partition}", self.topic),
                        position: u64::try_from(open.next).unwrap_or(0),
                        reason: format!(
                            "the partition holds offsets {low}..{high}; retention has passed it, or the topic was \
                             replaced. Restore an older topic, or start without state"
                        ),
                    });
                }
                Err(error) => return Some(connector_error(&self.object(), &error, &self.log)),
            }
        }
        None
    }

    fn unassign_ended(&mut self) -> Result<(), Stop> {
        let reached = |open: &Open| open.end.is_some_and(|end| open.next >= end);
        let ended: Vec<i32> = self
            .open
            .iter()
            .filter(|(_, open)| reached(open))
            .map(|(&at, _)| at)
            .collect();
        for partition in ended {
            let Some(open) = self.open.remove(&partition) else {
                continue;
            };
            let list = self.list(&[(partition, open.next)])?;
            let unassigned = self.consumer.incremental_unassign(&list);
            unassigned.map_err(|error| self.failed(partition, &error))?;
            if !open.batch.is_empty() {
                self.outgoing.push_back(Fetched::Batch(open.batch));
            }
            self.outgoing.push_back(Fetched::Ended(open.split));
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), Stop> {
        for open in self.open.values_mut().filter(|open| !open.batch.is_empty()) {
            let fresh = self
                .queues
                .used
                .try_recv()
                .map(|batch| batch.reuse(open.split));
            let fresh = fresh.unwrap_or_else(|_| RecordBatch::new(open.split));
            let batch = std::mem::replace(&mut open.batch, fresh);
            self.outgoing.push_back(Fetched::Batch(batch));
        }
        for open in self.open.values_mut() {
            if std::mem::take(&mut open.at_end) {
                self.outgoing.push_back(Fetched::CaughtUp(open.split));
            }
        }
        while let Some(fetched) = self.outgoing.pop_front() {
            self.queues
                .fetched
                .send(fetched)
                .map_err(|_| Stop::ReaderGone)?;
            self.wake();
        }
        Ok(())
    }

    fn wake(&self) {
        if self.queues.reader_waits.swap(false, Ordering::AcqRel) {
            self.queues.wake.wake();
        }
    }

    fn object(&self) -> String {
        format!("kafka topic {}", self.topic)
    }

    fn failed(&self, partition: i32, error: &KafkaError) -> Stop {
        let object = format!("kafka topic {}, partition {partition}", self.topic);
        connector_error(&object, error, &self.log).into()
    }
}

/// The leader of a partition does not come to know as much as there was when the source started.
#[cold]
fn lagging(topic: &str, partition: i32, (told, end): (i64, i64)) -> ConnectorError {
    ConnectorError::Unavailable {
        object: format!("kafka topic {topic}, partition {partition}"),
        reason: format!(
            "its leader knows committed records up to {told} only, and is read up to {end}, which was there when the source \
             started: the leader lags behind, or records were lost with an unclean election. Start without state if \
             they are not to be had"
        ),
    }
}

/// The record before a saved position is another one: the topic was deleted and made anew.
#[cold]
fn replaced(message: &BorrowedMessage<'_>, position: i64) -> ConnectorError {
    ConnectorError::PositionLost {
        object: format!(
            "kafka topic {}, partition {}",
            message.topic(),
            message.partition()
        ),
        position: u64::try_from(position).unwrap_or(0),
        reason: format!(
            "the record at offset {} is not the one that was read there: the topic was deleted and made anew. Restore \
             the old topic, or start without state",
            message.offset()
        ),
    }
}
