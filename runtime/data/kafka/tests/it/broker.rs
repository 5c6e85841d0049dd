//! The shared broker, and what tests ask of it with clients of their own.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use highwater_kafka::KafkaConnection;
use highwater_testkit::process::wait_until;
use highwater_testkit::{Kafka, KafkaOptions};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Long enough for a busy machine; nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(200);
/// An ended transaction is visible long before.
const OPEN_END_PATIENCE: Duration = Duration::from_secs(1);

/// The broker that all tests share.
pub(crate) fn shared() -> &'static Kafka {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(|| start(&KafkaOptions::default()))
}

/// A broker of its own.
pub(crate) fn start(options: &KafkaOptions) -> Kafka {
    Kafka::start_temporary(options).unwrap_or_else(|error| panic!("{error}"))
}

/// A name that no other test uses.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A client's view of one broker.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) bootstrap: String,
}

impl Cluster {
    pub(crate) fn shared() -> Self {
        Self::of(shared())
    }

    pub(crate) fn of(kafka: &Kafka) -> Self {
        Self {
            bootstrap: kafka.bootstrap(),
        }
    }

    pub(crate) fn connection(&self) -> KafkaConnection {
        KafkaConnection::new(&self.bootstrap)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("an admin client")
    }

    pub(crate) fn topic(&self, name: &str, partitions: i32) {
        assert!(self.try_topic(name, partitions), "topic {name} is made");
    }

    /// Makes a topic; false when one of this name is there, or is still being deleted.
    pub(crate) fn try_topic(&self, name: &str, partitions: i32) -> bool {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let created = block_on(self.admin().create_topics([&topic], &options));
        created.expect("an answer")[0].is_ok()
    }

    pub(crate) fn delete_topic(&self, name: &str) {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let deleted = block_on(self.admin().delete_topics(&[name], &options));
        deleted.expect("an answer")[0]
            .as_ref()
            .expect("the topic is deleted");
    }

    pub(crate) fn grow(&self, name: &str, partitions: usize) {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let grown = NewPartitions::new(name, partitions);
        let done = block_on(self.admin().create_partitions([&grown], &options));
        done.expect("an answer")[0]
            .as_ref()
            .expect("the topic grows");
    }

    /// Lets retention and people delete records of a compacted topic.
    pub(crate) fn allow_deletion(&self, topic: &str) {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let altered =
            AlterConfig::new(ResourceSpecifier::Topic(topic)).set("cleanup.policy", "delete");
        let done = block_on(self.admin().alter_configs([&altered], &options));
        done.expect("an answer")[0]
            .as_ref()
            .expect("the policy is changed");
    }

    /// Deletes the records of partition 0 before `offset`.
    pub(crate) fn cut(&self, topic: &str, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(offset))
            .expect("an offset");
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        block_on(self.admin().delete_records(&list, &options)).expect("records are deleted");
    }

    pub(crate) fn producer(&self) -> BaseProducer {
        self.config().create().expect("a producer")
    }

    /// A producer with a transaction of its own, in `init`ed state.
    pub(crate) fn transactional(&self, id: &str) -> BaseProducer {
        let mut config = self.config();
        config.set("transactional.id", id);
        let producer: BaseProducer = config.create().expect("a producer");
        producer.init_transactions(PATIENCE).expect("a session");
        producer
    }

    /// Writes values with timestamps 1000, 1001, ... to one partition.
    pub(crate) fn write(&self, topic: &str, partition: i32, values: &[&str]) {
        let producer = self.producer();
        put(&producer, topic, partition, values);
    }

    /// One partition as a reader of this isolation sees it now: offset, key, value.
    pub(crate) fn read(&self, topic: &str, partition: i32, isolation: &str) -> Vec<Seen> {
        let mut config = self.config();
        config.set("group.id", unique("look"));
        config.set("isolation.level", isolation);
        config.set("enable.partition.eof", "true");
        config.set("fetch.wait.max.ms", "10");
        config.set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .expect("an offset");
        consumer.assign(&list).expect("an assignment");
        let mut seen = Vec::new();
        loop {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => seen.push(Seen {
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    time: message.timestamp().to_millis(),
                }),
                Some(Err(KafkaError::PartitionEOF(_))) => return seen,
                Some(Err(error)) => assert!(error.rdkafka_error_code().is_some(), "{error}"),
                None => panic!("partition {partition} of {topic} has no end"),
            }
        }
    }

    /// Last stable offset and high watermark.
    fn ends(&self, topic: &str, partition: i32) -> (i64, i64) {
        let end = |isolation| {
            let mut config = self.config();
            config
                .set("group.id", "look")
                .set("isolation.level", isolation);
            let consumer: BaseConsumer = config.create().expect("a consumer");
            let ends = consumer.fetch_watermarks(topic, partition, PATIENCE);
            ends.expect("offsets").1
        };
        (end("read_committed"), end("read_uncommitted"))
    }

    /// Committed values of all partitions. Ended transactions become visible some milliseconds after their end, so an
    /// open end is looked at again for a while before it counts as an open transaction.
    pub(crate) fn committed(&self, topic: &str, partitions: i32) -> Vec<Seen> {
        let mut seen = Vec::new();
        for partition in 0..partitions {
            wait_until(OPEN_END_PATIENCE, || {
                let (stable, high) = self.ends(topic, partition);
                stable == high
            });
            seen.extend(self.read(topic, partition, "read_committed"));
        }
        seen
    }

    /// The committed offsets of a group: partition to next offset.
    pub(crate) fn group(&self, group: &str, topic: &str, partitions: i32) -> BTreeMap<i32, i64> {
        let mut config = self.config();
        config.set("group.id", group);
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, partition);
        }
        let committed = consumer
            .committed_offsets(list, PATIENCE)
            .expect("an answer");
        let elements = committed.elements();
        let known = elements.iter().filter_map(|one| match one.offset() {
            Offset::Offset(offset) => Some((one.partition(), offset)),
            _ => None,
        });
        known.collect()
    }
}

/// One record as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) time: Option<i64>,
}

impl Seen {
    pub(crate) fn text(&self) -> String {
        let value = self.value.as_deref().unwrap_or(b"(none)");
        String::from_utf8_lossy(value).into_owned()
    }
}

/// Sends values and waits until they have arrived.
pub(crate) fn put(producer: &BaseProducer, topic: &str, partition: i32, values: &[&str]) {
    for (time, value) in (1_000..).zip(values) {
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic);
        record = record.partition(partition).payload(value).timestamp(time);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            producer.poll(LOOK);
        }
    }
    producer.flush(PATIENCE).expect("records arrive");
}
