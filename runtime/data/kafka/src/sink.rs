//! The Kafka sink as a job author describes it: exactly once by the sink protocol, or at least once.
//!
//! Keyed sinks choose the partition by key as the Java client does, on the slot thread, so that a record that is published
//! again after a recovery goes to the same partition.

mod direct;
mod encoder;
mod limit;
mod markers;
mod missing;
mod partition;
mod target;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use highwater_connectors::{
    ConnectorError, Guarantee, OutputTarget, Sink, SinkFacts, SinkWriter, ValueFormat,
    WriterContext,
};
use highwater_types::Record;

pub use self::encoder::NoKey;
pub use self::target::KafkaTarget;
use crate::admin::Admin;
use crate::connection::KafkaConnection;
use crate::topic::TopicInspector;
use direct::KafkaWriter;
use encoder::KafkaEncoder;
use limit::RecordLimit;
use target::{PRODUCING, TargetSettings};

/// Below the 15 minutes that brokers allow by default.
const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(10);
const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Writes one topic. Each record carries its event time as timestamp; a time up to 1970, which Kafka has no timestamp for,
/// becomes the first millisecond.
pub struct KafkaSink<T, V, K = NoKey> {
    connection: KafkaConnection,
    topic: String,
    value: Arc<V>,
    key: Arc<K>,
    deletion: Option<fn(&T) -> bool>,
    guarantee: Guarantee,
    transaction_timeout: Duration,
    records: PhantomData<fn(T)>,
}

impl<T, V, K> fmt::Debug for KafkaSink<T, V, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink")
            .field("connection", &self.connection)
            .field("topic", &self.topic)
            .field("guarantee", &self.guarantee)
            .finish_non_exhaustive()
    }
}

impl<T: Record, V: ValueFormat<T>> KafkaSink<T, V> {
    /// Writes values to `topic`, exactly once. Without keys, chunk after chunk goes to the next partition.
    pub fn new(connection: KafkaConnection, topic: impl Into<String>, value: V) -> Self {
        Self {
            connection,
            topic: topic.into(),
            value: Arc::new(value),
            key: Arc::new(NoKey),
            deletion: None,
            guarantee: Guarantee::ExactlyOnce,
            transaction_timeout: TRANSACTION_TIMEOUT,
            records: PhantomData,
        }
    }

    /// Gives every record a key. Records of one key stay in order.
    pub fn keyed<K: ValueFormat<T>>(self, key: K) -> KafkaSink<T, V, K> {
        KafkaSink {
            connection: self.connection,
            topic: self.topic,
            value: self.value,
            key: Arc::new(key),
            deletion: self.deletion,
            guarantee: self.guarantee,
            transaction_timeout: self.transaction_timeout,
            records: PhantomData,
        }
    }
}

impl<T: Record, V: ValueFormat<T>, K: ValueFormat<T>> KafkaSink<T, V, K> {
    /// Keyed upserts: a record for which `deletion` holds is written as its key without value, which deletes the key in
    /// compacted topics and for readers of changes.
    #[must_use]
    pub fn deleting(mut self, deletion: fn(&T) -> bool) -> Self {
        self.deletion = Some(deletion);
        self
    }

    /// Writes at once instead of with checkpoints: less delay, and repeated records after a failure.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.guarantee = Guarantee::AtLeastOnce;
        self
    }

    /// How long a transaction may stay open; ten minutes if not set. At most the broker's `transaction.max.timeout.ms`.
    #[must_use]
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.transaction_timeout = timeout;
        self
    }

    fn object(&self) -> String {
        format!("kafka topic {}", self.topic)
    }

    fn refused(&self, reason: String) -> ConnectorError {
        ConnectorError::Configuration {
            connector: self.object(),
            reason,
        }
    }

    /// What can be known to fail before the first record: the topic, the transaction timeout.
    fn check(&self) -> Result<(i32, RecordLimit), ConnectorError> {
        if self.deletion.is_some() && !encoder::is_keyed::<K>() {
            return Err(
                self.refused("deletions need a key: call `keyed` before `deleting`".to_owned())
            );
        }
        let inspector = TopicInspector::open(&self.connection, &self.topic)?;
        let facts = inspector.find_patiently()?;
        let facts = facts.ok_or_else(|| ConnectorError::Missing {
            object: self.object(),
        })?;
        let config = self.connection.client(&self.object(), PRODUCING)?;
        // A direct writer waits for the broker's answer before its checkpoint is acknowledged.
        let topic_max = if self.guarantee == Guarantee::ExactlyOnce {
            let admin = Admin::open(&self.connection, &self.object())?;
            self.check_transaction_timeout(&admin)?;
            admin.max_message_bytes(&self.topic)?
        } else {
            None
        };
        let limit = RecordLimit::new(self.object(), &config, topic_max.as_deref());
        Ok((facts.partitions, limit))
    }

    fn check_transaction_timeout(&self, admin: &Admin) -> Result<(), ConnectorError> {
        let wanted = self.transaction_timeout;
        if wanted < TRANSACTION_TIMEOUT_MIN {
            return Err(self.refused(format!(
                "the transaction timeout of {} ms is too short; the least is {} ms",
                wanted.as_millis(),
                TRANSACTION_TIMEOUT_MIN.as_millis()
            )));
        }
        let broker_max = admin.transaction_timeout_max(&self.topic)?;
        match broker_max {
            Some(max) if wanted > max => Err(self.refused(format!(
                "the transaction timeout of {} ms is above the broker's `transaction.max.timeout.ms` of {} ms; \
                 lower the one or raise the other",
                wanted.as_millis(),
                max.as_millis()
            ))),
            _ => Ok(()),
        }
    }

    fn transactional(&self, context: &WriterContext) -> KafkaTarget {
        let settings = TargetSettings {
            connection: self.connection.clone(),
            topic: self.topic.clone(),
            transaction_timeout: self.transaction_timeout,
        };
        KafkaTarget::new(settings, context)
    }
}

impl<T: Record, V: ValueFormat<T>, K: ValueFormat<T>> Sink for KafkaSink<T, V, K> {
    type Record = T;

    fn facts(&self) -> SinkFacts {
        SinkFacts {
            connector: "kafka",
            object: format!("topic {}", self.topic),
            guarantee: self.guarantee,
        }
    }

    fn writer(&self, context: &WriterContext) -> Result<SinkWriter<T>, ConnectorError> {
        let (partitions, limit) = self.check()?;
        let encoder = KafkaEncoder::new(
            Arc::clone(&self.value),
            Arc::clone(&self.key),
            self.deletion,
            partition::Partitions::new(partitions, context.subtask),
            limit,
        );
        Ok(match self.guarantee {
            Guarantee::ExactlyOnce => SinkWriter::Transactional(Box::new(encoder)),
            Guarantee::AtLeastOnce | Guarantee::AtMostOnce => SinkWriter::Direct(Box::new(
                KafkaWriter::open(&self.connection, &self.topic, encoder)?,
            )),
        })
    }

    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(match self.guarantee {
            Guarantee::ExactlyOnce => Some(Box::new(self.transactional(context))),
            Guarantee::AtLeastOnce | Guarantee::AtMostOnce => None,
        })
    }
}
