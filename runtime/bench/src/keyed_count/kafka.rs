//! The start from Kafka: a real broker, a topic of keys, and the time to the first output.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::executor::block_on;
use highwater_testkit::{Kafka, KafkaOptions};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{Plan, ours};
use crate::spread::Spread;

const TOPIC: &str = "keys";
const PARTITIONS: i32 = 4;
const RECORDS: u64 = 10_000;
const PATIENCE: Duration = Duration::from_mins(1);

/// Seconds from process start to first output, with records that wait in the topic.
pub(super) fn first_output(_: &Plan) -> Result<Spread> {
    let broker = Kafka::start_temporary(&KafkaOptions::default())?;
    fill(&broker.bootstrap())?;
    let given = [("broker", broker.bootstrap()), ("topic", TOPIC.to_owned())];
    ours::starts("kafka", &given)
}

fn fill(bootstrap: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    for made in block_on(admin.create_topics([&topic], &options))? {
        made.map_err(|(name, code)| anyhow::anyhow!("topic {name} is not made: {code}"))?;
    }
    let producer: BaseProducer = config.create()?;
    for key in 0..RECORDS {
        let payload = key.to_le_bytes();
        let record = BaseRecord::<(), _>::to(TOPIC)
            .partition((key % PARTITIONS as u64) as i32)
            .payload(&payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer
        .flush(PATIENCE)
        .context("the records do not arrive")
}
