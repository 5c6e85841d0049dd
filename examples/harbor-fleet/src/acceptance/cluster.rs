//! The Kafka cluster as somebody else sees it: topics, ends of partitions, records, offsets of a group.
//!
//! Called by every part that judges from the outside; shares no code with the connector of the job.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::executor::block_on;
use highwater_testkit::process::wait_until;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::BaseProducer;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_mins(1);
/// One question; a topic that was just made may leave it unanswered.
const ANSWER: Duration = Duration::from_secs(3);

/// What a reader sees of open and aborted transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    Committed,
    Uncommitted,
}

/// The ends of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// Everything before it is decided.
    pub(super) stable: i64,
    /// Behind the last record.
    pub(super) high: i64,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) value: Vec<u8>,
}

/// A cluster, and the clients that ask it.
pub(super) struct Cluster {
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
    committed: BaseConsumer,
    uncommitted: BaseConsumer,
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Emerg);
    config.set("bootstrap.servers", bootstrap);
    config
}

fn consumer(bootstrap: &str, isolation: Isolation, group: &str) -> anyhow::Result<BaseConsumer> {
    let level = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    let mut config = config(bootstrap);
    config.set("group.id", group);
    config.set("isolation.level", level);
    config.set("enable.partition.eof", "true");
    config.set("enable.auto.commit", "false");
    config.set("fetch.wait.max.ms", "10");
    config.create().context("a Kafka consumer")
}

impl Cluster {
    /// The cluster at this address.
    pub(super) fn at(bootstrap: &str) -> anyhow::Result<Self> {
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            admin: config(bootstrap).create().context("a Kafka client")?,
            committed: consumer(bootstrap, Isolation::Committed, "acceptance")?,
            uncommitted: consumer(bootstrap, Isolation::Uncommitted, "acceptance")?,
        })
    }

    /// Makes topics and waits until the brokers know every partition.
    pub(super) fn create(&self, topics: &[(String, i32)]) -> anyhow::Result<()> {
        let wanted: Vec<_> = topics
            .iter()
            .map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)))
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for made in block_on(self.admin.create_topics(&wanted, &options))? {
            if let Err((name, code)) = made {
                bail!("topic {name} cannot be made: {code}");
            }
        }
        for (topic, partitions) in topics {
            for partition in 0..*partitions {
                self.ends(topic, partition)?;
            }
        }
        Ok(())
    }

    /// Removes topics.
    pub(super) fn delete(&self, topics: &[String]) -> anyhow::Result<()> {
        let names: Vec<_> = topics.iter().map(String::as_str).collect();
        let options = AdminOptions::new();
        block_on(self.admin.delete_topics(&names, &options))?;
        Ok(())
    }

    /// A producer that writes every record once, of up to 16 MiB if the broker takes such.
    pub(super) fn producer(&self) -> anyhow::Result<BaseProducer> {
        let mut config = config(&self.bootstrap);
        config.set("enable.idempotence", "true");
        config.set("message.max.bytes", "16777216");
        config.create().context("a Kafka producer")
    }

    /// The ends of a partition now.
    pub(super) fn ends(&self, topic: &str, partition: i32) -> anyhow::Result<Ends> {
        let end = |known: &BaseConsumer, isolation| {
            let mut ends = known.fetch_watermarks(topic, partition, ANSWER);
            wait_until(PATIENCE, || {
                if ends.is_err()
                    // A client that has once met a topic as unknown holds to that for long: ask as somebody new.
                    && let Ok(fresh) = consumer(&self.bootstrap, isolation, "acceptance")
                {
                    ends = fresh.fetch_watermarks(topic, partition, ANSWER);
                }
                ends.is_ok()
            });
            ends.with_context(|| format!("the ends of {topic}/{partition}"))
        };
        // In this order: an end that moves in between never looks like an open transaction that is none.
        let (_, high) = end(&self.uncommitted, Isolation::Uncommitted)?;
        let (_, stable) = end(&self.committed, Isolation::Committed)?;
        Ok(Ends {
            stable: stable.min(high),
            high,
        })
    }

    /// All records of the topic from these offsets on (partition to offset), as a reader of this isolation sees them.
    pub(super) fn read(
        &self,
        topic: &str,
        from: &BTreeMap<i32, i64>,
        isolation: Isolation,
    ) -> anyhow::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        if from.is_empty() {
            return Ok(seen);
        }
        let consumer = consumer(&self.bootstrap, isolation, "acceptance-reader")?;
        let mut list = TopicPartitionList::new();
        for (&partition, &offset) in from {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        }
        consumer.assign(&list)?;
        let mut open: Vec<i32> = from.keys().copied().collect();
        while !open.is_empty() {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => seen.push(Seen {
                    partition: message.partition(),
                    offset: message.offset(),
                    value: message.payload().unwrap_or_default().to_vec(),
                }),
                Some(Err(KafkaError::PartitionEOF(ended))) => open.retain(|open| *open != ended),
                Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
                None => bail!("topic {topic} has no end after {} s", PATIENCE.as_secs()),
            }
        }
        seen.sort_by_key(|seen| (seen.partition, seen.offset));
        Ok(seen)
    }

    /// The offsets that the group has committed: partition to next offset.
    pub(super) fn group(
        &self,
        group: &str,
        topic: &str,
        partitions: i32,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let consumer = consumer(&self.bootstrap, Isolation::Committed, group)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, partition);
        }
        let mut committed = consumer.committed_offsets(list.clone(), PATIENCE);
        wait_until(PATIENCE, || {
            if committed.is_err() {
                // The broker looks for the coordinator of a group that is new to it, and says no meanwhile.
                committed = consumer.committed_offsets(list.clone(), PATIENCE);
            }
            committed.is_ok()
        });
        let committed = committed.with_context(|| format!("the offsets of group {group}"))?;
        let elements = committed.elements();
        let known = elements.iter().filter_map(|one| match one.offset() {
            Offset::Offset(offset) => Some((one.partition(), offset)),
            _ => None,
        });
        Ok(known.collect())
    }
}
