//! What the client library says on the side: connection problems and delivery reports.
//!
//! The library reports a failed connection as "timed out" to the caller and tells the reason only in its log, so the last
//! reason is kept for error messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientContext, Statistics, TopicPartitionList};

/// A problem that a client told about on the side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: Option<RDKafkaErrorCode>,
    pub(crate) text: String,
}

/// Keeps the last connection problem of one client, and tells the log about all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientLog {
    last: Arc<Mutex<Option<Problem>>>,
    /// The topic whose held partitions are watched; empty = none.
    topic: String,
    held: HeldPartitions,
    ends: PartitionEnds,
    commits: GroupCommits,
}

/// Where the committed records of each partition of the topic of one reader end, as the client was told last.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionEnds(Arc<Mutex<BTreeMap<i32, i64>>>);

impl PartitionEnds {
    /// The end of a partition; `None` = the client was not told yet.
    pub(crate) fn of(&self, partition: i32) -> Option<i64> {
        lock(&self.0).get(&partition).copied()
    }

    fn note(&self, ends: BTreeMap<i32, i64>) {
        *lock(&self.0) = ends;
    }
}

/// How many positions were written back to the consumer group, and how many could not be.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupCommits(Arc<CommitCounts>);

#[derive(Debug, Default)]
struct CommitCounts {
    written: AtomicU64,
    failed: AtomicU64,
}

impl GroupCommits {
    /// So many were written.
    fn written(&self, positions: usize) {
        self.0
            .written
            .fetch_add(positions as u64, Ordering::Relaxed);
    }

    /// So many could not be written.
    pub(crate) fn failed(&self, positions: usize) {
        self.0.failed.fetch_add(positions as u64, Ordering::Relaxed);
    }

    /// How many were written, and how many could not be.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.0.written), read(&self.0.failed))
    }
}

/// Partitions of the topic of one reader whose last records an open transaction of somebody keeps back: the high
/// watermark is above the last stable offset. They are not idle, whatever the reader sees of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldPartitions {
    any: Arc<AtomicBool>,
    partitions: Arc<Mutex<BTreeSet<i32>>>,
}

impl HeldPartitions {
    /// Whether the partition is one of them. Costs one load while there is none.
    pub(crate) fn contains(&self, partition: i32) -> bool {
        self.any.load(Ordering::Acquire) && lock(&self.partitions).contains(&partition)
    }

    fn note(&self, partitions: BTreeSet<i32>) {
        let any = !partitions.is_empty();
        *lock(&self.partitions) = partitions;
        self.any.store(any, Ordering::Release);
    }
}

impl ClientLog {
    /// A log that also watches for partitions of `topic` that are held.
    pub(crate) fn reading(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            ..Self::default()
        }
    }

    /// The partitions that are held.
    pub(crate) const fn held(&self) -> &HeldPartitions {
        &self.held
    }

    /// Where partitions end.
    pub(crate) const fn ends(&self) -> &PartitionEnds {
        &self.ends
    }

    /// What became of positions for the group.
    pub(crate) const fn commits(&self) -> &GroupCommits {
        &self.commits
    }

    /// The last problem that the client told about.
    pub(crate) fn last(&self) -> Option<Problem> {
        lock(&self.last).clone()
    }

    pub(crate) fn keep(&self, code: Option<RDKafkaErrorCode>, text: &str) {
        *lock(&self.last) = Some(Problem {
            code,
            text: text.to_owned(),
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values behind these locks are whole at any time, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for ClientLog {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        let held = topic.partitions.values();
        let held = held.filter(|one| one.ls_offset >= 0 && one.hi_offset > one.ls_offset);
        self.held.note(held.map(|one| one.partition).collect());
        let told = topic.partitions.values().filter(|one| one.ls_offset >= 0);
        self.ends
            .note(told.map(|one| (one.partition, one.ls_offset)).collect());
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Lines begin with the name of a thread: `[thrd:host:port/bootstrap]: text`.
        let text = message.split_once("]: ").map_or(message, |(_, text)| text);
        if (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.keep(None, text);
        }
        tracing::debug!(target: "highwater::kafka", facility, "{text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // "All brokers are down" says less than the problem before it.
        let code = error.rdkafka_error_code();
        if code != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.keep(code, reason);
        }
        tracing::debug!(target: "highwater::kafka", %error, "{reason}");
    }
}

impl ConsumerContext for ClientLog {
    fn commit_callback(&self, result: KafkaResult<()>, positions: &TopicPartitionList) {
        match result {
            Ok(()) => self.commits.written(positions.count()),
            Err(error) => {
                self.commits.failed(positions.count());
                // Group offsets are for people who watch; the job itself goes on from its checkpoints.
                tracing::warn!(target: "highwater::kafka", %error, "group offsets were not committed");
            }
        }
    }
}

#[derive(Debug, Default)]
struct Delivered {
    failure: Option<(KafkaError, String)>,
    watched: Option<u64>,
}

/// Delivery reports of one producer: the first failure, and the last offset in a watched topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeliveryLog {
    log: ClientLog,
    watched_topic: String,
    delivered: Arc<Mutex<Delivered>>,
}

impl DeliveryLog {
    /// A log that remembers offsets of records in `topic`.
    pub(crate) fn watching(topic: &str) -> Self {
        Self {
            watched_topic: topic.to_owned(),
            ..Self::default()
        }
    }

    /// The first failed delivery since the last look, and the topic of its record.
    pub(crate) fn take_failure(&self) -> Option<(KafkaError, String)> {
        lock(&self.delivered).failure.take()
    }

    /// The offset of the last record in the watched topic that was delivered since the last look.
    pub(crate) fn take_watched(&self) -> Option<u64> {
        lock(&self.delivered).watched.take()
    }

    /// The connection problems.
    pub(crate) const fn client_log(&self) -> &ClientLog {
        &self.log
    }
}

impl ClientContext for DeliveryLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for DeliveryLog {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut delivered = lock(&self.delivered);
        match result {
            Err((error, message)) => {
                let topic = message.topic();
                delivered
                    .failure
                    .get_or_insert_with(|| (error.clone(), topic.to_owned()));
            }
            Ok(message) if message.topic() == self.watched_topic => {
                delivered.watched = u64::try_from(message.offset()).ok();
            }
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Offset;

    use super::*;

    #[test]
    fn positions_for_the_group_are_counted_by_what_became_of_them() {
        let log = ClientLog::default();
        let mut positions = TopicPartitionList::new();
        for partition in 0..3 {
            let added = positions.add_partition_offset("topic", partition, Offset::Offset(7));
            added.unwrap();
        }
        log.commit_callback(Ok(()), &positions);
        let refused = KafkaError::Global(RDKafkaErrorCode::RebalanceInProgress);
        log.commit_callback(Err(refused), &positions);
        log.commits().failed(2);
        assert_eq!(log.commits().counts(), (3, 5));
    }

    #[test]
    fn the_last_connection_problem_is_kept_without_the_thread_name() {
        let log = ClientLog::default();
        log.log(RDKafkaLogLevel::Info, "CONNECT", "[thrd:x]: fine");
        assert_eq!(log.last(), None);
        log.log(
            RDKafkaLogLevel::Error,
            "FAIL",
            "[thrd:h:1/bootstrap]: h:1: Connection refused",
        );
        let problem = log.last().unwrap();
        assert_eq!(problem.text, "h:1: Connection refused");
        let down = KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
        ClientContext::error(&log, down, "1/1 brokers are down");
        assert_eq!(log.last().unwrap(), problem);
        let refused = KafkaError::Global(RDKafkaErrorCode::Authentication);
        ClientContext::error(&log, refused, "SASL failed");
        assert_eq!(
            log.last().unwrap().code,
            Some(RDKafkaErrorCode::Authentication)
        );
    }
}
