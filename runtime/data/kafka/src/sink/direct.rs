//! Writes at least once: records go out as they come, and a barrier waits until all of them have arrived.
//!
//! Brokers that are slow fill the queue of the client, and then a write waits on the slot thread: that is backpressure.

use highwater_connectors::{ConnectorError, DirectWriter, Encoder, OutputBatch, TargetError};
use highwater_types::Chunk;
use rdkafka::producer::BaseProducer;

use super::missing::{look_for, refusal};
use super::target::{PRODUCING, send_all, wait_delivered};
use crate::connection::KafkaConnection;
use crate::context::DeliveryLog;
use crate::failure::{connector_error, delivery_error};

/// The writer of one subtask.
pub(super) struct KafkaWriter<E> {
    object: String,
    connection: KafkaConnection,
    topic: String,
    producer: BaseProducer<DeliveryLog>,
    deliveries: DeliveryLog,
    encoder: E,
    batch: OutputBatch,
    /// The last partition that was written to.
    last_partition: i32,
}

impl<E> KafkaWriter<E> {
    pub(super) fn open(
        connection: &KafkaConnection,
        topic: &str,
        encoder: E,
    ) -> Result<Self, ConnectorError> {
        let object = format!("kafka topic {topic}");
        let deliveries = DeliveryLog::default();
        let config = connection.client(&object, PRODUCING)?;
        let producer = config
            .create_with_context(deliveries.clone())
            .map_err(|error| connector_error(&object, &error, deliveries.client_log()))?;
        Ok(Self {
            object,
            connection: connection.clone(),
            topic: topic.to_owned(),
            producer,
            deliveries,
            encoder,
            batch: OutputBatch::default(),
            last_partition: 0,
        })
    }

    fn check_deliveries(&self) -> Result<(), ConnectorError> {
        match self.deliveries.take_failure() {
            None => Ok(()),
            Some((error, _)) => {
                let log = self.deliveries.client_log();
                Err(self.looked(cause(delivery_error(&self.object, &error, log))))
            }
        }
    }

    /// A topic that only some broker did not know is an error that a restart helps against.
    fn looked(&self, error: ConnectorError) -> ConnectorError {
        if !matches!(error, ConnectorError::Missing { .. }) {
            return error;
        }
        let verdict = look_for(&self.connection, &self.topic, self.last_partition);
        refusal(verdict, &self.object).unwrap_or_else(|| ConnectorError::Unavailable {
            object: self.object.clone(),
            reason: "a broker did not know the topic or a partition of it".to_owned(),
        })
    }
}

/// A direct writer has no session: only the cause counts.
fn cause(error: TargetError) -> ConnectorError {
    match error {
        TargetError::SessionLost(cause)
        | TargetError::Unclear(cause)
        | TargetError::Refused(cause)
        | TargetError::MarkerLost(cause) => cause,
    }
}

impl<T, E: Encoder<T>> DirectWriter<T> for KafkaWriter<E> {
    fn write(&mut self, chunk: &mut Chunk<T>) -> Result<(), ConnectorError> {
        self.batch.clear();
        self.encoder.encode(chunk, &mut self.batch)?;
        let (topic, last) = (&self.topic, &mut self.last_partition);
        send_all(&self.producer, topic, &self.batch, last).map_err(|error| {
            self.looked(cause(delivery_error(
                &self.object,
                &error,
                self.deliveries.client_log(),
            )))
        })?;
        self.check_deliveries()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        let flushed = wait_delivered(&self.producer);
        self.check_deliveries()?;
        flushed.map_err(|error| connector_error(&self.object, &error, self.deliveries.client_log()))
    }
}
