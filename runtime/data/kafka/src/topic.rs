//! Questions about a topic: its partitions, its offsets, the cluster it lives in. All calls block, with a bound.
//!
//! Asked by the enumerator, by the start-up checks of the sink and by the marker topic. Offsets are those of a reader of
//! committed records: the end of a partition is its last stable offset.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_connectors::ConnectorError;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use rdkafka::{Offset, TopicPartitionList};

use crate::connection::KafkaConnection;
use crate::context::{ClientLog, DeliveryLog};
use crate::failure::{code_of, connector_error, is_transport};

/// How long one question may take: with the search for the reason, below the 30 s within which a start-up must fail.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const DIAGNOSIS_POLL: Duration = Duration::from_millis(100);
/// Five seconds.
const DIAGNOSIS_POLLS_MAX: u32 = 50;

/// Looks at what is not there before it counts as missing: five seconds at least, each look with metadata of its own.
pub(crate) const MISSING_LOOKS_MAX: u32 = 50;
const LOOK_WAIT: Duration = Duration::from_millis(100);

/// A topic as the cluster describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicFacts {
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
}

/// The first offset and the last stable offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetRange {
    pub(crate) low: i64,
    pub(crate) stable: i64,
}

/// Asks about one topic.
pub(crate) struct TopicInspector {
    connection: KafkaConnection,
    object: String,
    topic: String,
    consumer: BaseConsumer<ClientLog>,
    log: ClientLog,
}

/// The properties of every consumer of this crate.
pub(crate) const READING: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
];

impl TopicInspector {
    pub(crate) fn open(connection: &KafkaConnection, topic: &str) -> Result<Self, ConnectorError> {
        let object = format!("kafka topic {topic}");
        let log = ClientLog::default();
        // The client polls through a group only; this one never joins or commits.
        let mut config = connection.client(&object, READING)?;
        config.set("group.id", "highwater-inspection");
        // Few records are read here, one short look after another; none waits for records to come.
        config.set("fetch.wait.max.ms", "10");
        let consumer = config
            .create_with_context(log.clone())
            .map_err(|error| connector_error(&object, &error, &log))?;
        Ok(Self {
            connection: connection.clone(),
            object,
            topic: topic.to_owned(),
            consumer,
            log,
        })
    }

    pub(crate) const fn consumer(&self) -> &BaseConsumer<ClientLog> {
        &self.consumer
    }

    pub(crate) fn failed(&self, error: &KafkaError) -> ConnectorError {
        connector_error(&self.object, error, &self.log)
    }

    fn unavailable(&self, reason: &str) -> ConnectorError {
        ConnectorError::Unavailable {
            object: self.object.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Finds out why no broker can be reached: a consumer of the client library does not tell, a producer does.
    fn diagnose(&self) {
        let deliveries = DeliveryLog::default();
        let config = self.connection.client(&self.object, &[]);
        let Some(producer) = config.ok().and_then(|config| {
            let created: Result<BaseProducer<DeliveryLog>, _> =
                config.create_with_context(deliveries.clone());
            created.ok()
        }) else {
            return;
        };
        for _ in 0..DIAGNOSIS_POLLS_MAX {
            producer.poll(DIAGNOSIS_POLL);
            if let Some(problem) = deliveries.client_log().last() {
                self.log.keep(problem.code, &problem.text);
                return;
            }
        }
    }

    /// Passes some time between two looks. Nothing is assigned, so the poll brings nothing.
    pub(crate) fn wait_a_moment(&self) {
        drop(self.consumer.poll(LOOK_WAIT));
    }

    /// The topic, or `None` when it does not exist.
    pub(crate) fn find(&self) -> Result<Option<TopicFacts>, ConnectorError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), CALL_TIMEOUT);
        let metadata = metadata.map_err(|error| {
            if code_of(&error).is_some_and(is_transport) {
                self.diagnose();
            }
            self.failed(&error)
        })?;
        let topics = metadata.topics();
        let Some(topic) = topics.iter().find(|topic| topic.name() == self.topic) else {
            return Ok(None);
        };
        if let Some(code) = topic.error() {
            let error = KafkaError::MetadataFetch(code.into());
            return match code_of(&error) {
                Some(
                    rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition
                    | rdkafka::error::RDKafkaErrorCode::UnknownTopic,
                ) => Ok(None),
                _ => Err(self.failed(&error)),
            };
        }
        let partitions = topic.partitions();
        if partitions.is_empty() {
            return Err(self.unavailable("its partitions are not known yet"));
        }
        let replication = partitions[0].replicas().len();
        Ok(Some(TopicFacts {
            partitions: partitions.len() as i32,
            replication: replication as i32,
        }))
    }

    /// The topic, which must exist.
    pub(crate) fn facts(&self) -> Result<TopicFacts, ConnectorError> {
        self.find()?.ok_or_else(|| ConnectorError::Missing {
            object: self.object.clone(),
        })
    }

    /// The topic, or `None` when every one of many looks finds it missing: a broker may not know it for a moment.
    pub(crate) fn find_patiently(&self) -> Result<Option<TopicFacts>, ConnectorError> {
        self.find_with(1)
    }

    /// As [`TopicInspector::find_patiently`]; what is found with fewer partitions is looked at again as often, too.
    pub(crate) fn find_with(&self, partitions: i32) -> Result<Option<TopicFacts>, ConnectorError> {
        let mut found = None;
        for look in 0..MISSING_LOOKS_MAX {
            if look > 0 {
                self.wait_a_moment();
            }
            found = self.find()?.or(found);
            if found.is_some_and(|facts| facts.partitions >= partitions) {
                break;
            }
        }
        Ok(found)
    }

    /// The offsets of a partition.
    pub(crate) fn range(&self, partition: i32) -> Result<OffsetRange, ConnectorError> {
        let range = self
            .consumer
            .fetch_watermarks(&self.topic, partition, CALL_TIMEOUT);
        let (low, stable) = range.map_err(|error| self.failed(&error))?;
        Ok(OffsetRange { low, stable })
    }

    /// The leader of each of the first `count` partitions, by metadata that is asked for now.
    pub(crate) fn leaders(&self, count: i32) -> Result<Vec<i32>, ConnectorError> {
        let partitions: Vec<_> = (0..count).collect();
        let leaders = leaders_of(&self.consumer, &self.topic, &partitions);
        leaders.map_err(|error| self.failed(&error))
    }

    /// The last stable offset of each of the first `count` partitions. Unlike [`TopicInspector::range`], the question
    /// carries the leader epoch: a broker of another one refuses to answer.
    pub(crate) fn ends(&self, count: i32) -> Result<Vec<i64>, ConnectorError> {
        let partitions: Vec<_> = (0..count).collect();
        let ends = ends_of(&self.consumer, &self.topic, &partitions);
        let told = |end: Result<Option<i64>, KafkaError>| {
            end.map_err(|error| self.failed(&error))?
                .ok_or_else(|| self.unavailable("a broker does not tell the end of a partition"))
        };
        let ends = ends.map_err(|error| self.failed(&error))?;
        ends.into_iter().map(told).collect()
    }

    pub(crate) fn unsteady(&self) -> ConnectorError {
        self.unavailable("its leaders change, so the ends of its partitions are not known yet")
    }

    /// The first offset of each partition whose record is not older than `time_ms`; `None` where there is none.
    pub(crate) fn offsets_at(
        &self,
        partitions: &[i32],
        time_ms: i64,
    ) -> Result<BTreeMap<i32, Option<i64>>, ConnectorError> {
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            let added = asked.add_partition_offset(&self.topic, partition, Offset::Offset(time_ms));
            added.map_err(|error| self.failed(&error))?;
        }
        let found = self.consumer.offsets_for_times(asked, CALL_TIMEOUT);
        let found = found.map_err(|error| self.failed(&error))?;
        let mut offsets = BTreeMap::new();
        for element in found.elements_for_topic(&self.topic) {
            element.error().map_err(|error| self.failed(&error))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            offsets.insert(element.partition(), offset);
        }
        Ok(offsets)
    }

    /// The id of the cluster.
    pub(crate) fn cluster_id(&self) -> Result<String, ConnectorError> {
        let id = self.consumer.client().fetch_cluster_id(CALL_TIMEOUT);
        id.ok_or_else(|| self.unavailable("the cluster does not tell its id"))
    }
}

/// The leaders of partitions, by metadata that is asked for now; negative = none.
pub(crate) fn leaders_of(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), CALL_TIMEOUT)?;
    let found = metadata.topics().iter().find(|one| one.name() == topic);
    let known = found.map_or(&[][..], |topic| topic.partitions());
    let leader = |id: &i32| {
        let found = known.iter().find(|one| one.id() == *id);
        found.map_or(-1, rdkafka::metadata::MetadataPartition::leader)
    };
    Ok(partitions.iter().map(leader).collect())
}

/// The last stable offsets as the leaders tell them, each asked with the epoch that the client knows; `None` = not told.
pub(crate) fn ends_of(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<Result<Option<i64>, KafkaError>>, KafkaError> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for &partition in partitions {
        // The question for a time, with "the latest" in its place.
        asked.add_partition_offset(topic, partition, Offset::End)?;
    }
    let told = consumer.offsets_for_times(asked, CALL_TIMEOUT)?;
    let end = |&partition: &i32| {
        let Some(found) = told.find_partition(topic, partition) else {
            return Ok(None);
        };
        found.error()?;
        Ok(match found.offset() {
            Offset::Offset(end) => Some(end),
            _ => None,
        })
    };
    Ok(partitions.iter().map(end).collect())
}
