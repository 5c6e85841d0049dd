//! The transactional target of one slot: sessions on one stable transactional id, markers inside the transactions.
//!
//! Called by the sink driver of a worker, which obeys the slot machine of `highwater-protocol`. A target decides nothing:
//! it reports what it knows as `SessionLost` or `Unclear` and drops its producer, so that nothing of a session that is in
//! doubt can go on in the background.

use std::time::Duration;

use highwater_connectors::{
    ConnectorError, ExternalIdentity, KnownMarkers, Marker, MarkerPosition, MarkerReading,
    OutputBatch, OutputRecord, OutputTarget, TargetError, WriterContext,
};
use highwater_types::EventTime;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::markers::{MarkerTopic, marker_bytes};
use super::missing::{look_for, refusal};
use crate::connection::KafkaConnection;
use crate::context::DeliveryLog;
use crate::failure::{connector_error, delivery_error, marker_error, transaction_error};

/// How long one call to the brokers may take before its outcome is called unclear.
const TRANSACTION_CALL_TIMEOUT: Duration = Duration::from_secs(30);
const DELIVERY_WAIT: Duration = Duration::from_millis(1);
/// Waits for deliveries before they are called unclear: half a minute.
const DELIVERY_WAITS_MAX: u32 = 30_000;
/// Looks at the last commit before a session is opened whether it is visible or not.
const SETTLE_LOOKS_MAX: u32 = 40;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(20);
/// Waits for room in the client's queue before a send gives up.
const FULL_QUEUE_WAITS_MAX: u32 = 3_000;
/// Delivery reports are collected once in so many records.
const POLL_EVERY: u64 = 256;

/// The properties of every producer of this crate.
pub(super) const PRODUCING: &[(&str, &str)] = &[("enable.idempotence", "true"), ("acks", "all")];

/// What a target needs to know of its sink.
#[derive(Clone, Debug)]
pub(super) struct TargetSettings {
    pub(super) connection: KafkaConnection,
    pub(super) topic: String,
    pub(super) transaction_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ready,
    Ongoing,
}

/// One producer epoch.
struct Session {
    producer: BaseProducer<DeliveryLog>,
    deliveries: DeliveryLog,
    phase: Phase,
    sync: Option<u64>,
}

/// The door of one slot to a topic.
pub struct KafkaTarget {
    settings: TargetSettings,
    transactional_id: String,
    session: Option<Session>,
    /// The producer of the next session, connected ahead: a session opens in some milliseconds then.
    spare: Option<(BaseProducer<DeliveryLog>, DeliveryLog)>,
    markers: MarkerTopic,
    /// No marker of this slot that is not yet known lies before it.
    known: Option<MarkerPosition>,
    /// The marker of the last commit, until it was seen to be visible.
    settling: Option<u64>,
    /// The last partition of the output that was written to.
    last_partition: i32,
}

impl KafkaTarget {
    pub(super) fn new(settings: TargetSettings, context: &WriterContext) -> Self {
        let WriterContext {
            lineage,
            uid,
            subtask,
            ..
        } = context;
        let markers = MarkerTopic::new(
            settings.clone(),
            format!("hw.{lineage}.markers"),
            format!("{uid}/{subtask}"),
        );
        Self {
            settings,
            transactional_id: format!("hw.{lineage}.{uid}.{subtask}"),
            session: None,
            spare: None,
            markers,
            known: None,
            settling: None,
            last_partition: 0,
        }
    }

    /// The one transactional id of the slot, the same in every attempt.
    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    fn object(&self) -> String {
        format!(
            "kafka topic {}, transactional id {}",
            self.settings.topic, self.transactional_id
        )
    }

    fn no_session(&self, reason: &str) -> TargetError {
        TargetError::SessionLost(ConnectorError::Unavailable {
            object: self.object(),
            reason: reason.to_owned(),
        })
    }

    fn session(&mut self) -> Result<&mut Session, TargetError> {
        let missing = self.no_session("no session is open");
        self.session.as_mut().ok_or(missing)
    }

    fn transaction(&mut self) -> Result<&mut Session, TargetError> {
        let missing = self.no_session("no transaction is open");
        match &mut self.session {
            Some(session) if session.phase == Phase::Ongoing => Ok(session),
            _ => Err(missing),
        }
    }

    /// Waits until the last commit is visible, for a moment only.
    ///
    /// The broker answers a commit before it is done with it, refuses a new session until then, and the client asks again
    /// only half a second later. A foreign open transaction before the marker may hide it for longer.
    fn settle(&mut self, producer: &BaseProducer<DeliveryLog>) {
        let Some(marker) = self.settling.take() else {
            return;
        };
        for _ in 0..SETTLE_LOOKS_MAX {
            let ends = producer
                .client()
                .fetch_watermarks(self.markers.name(), 0, SETTLE_TIMEOUT);
            let visible = ends.is_ok_and(|(_, stable)| u64::try_from(stable).unwrap_or(0) > marker);
            if visible {
                return;
            }
            producer.poll(DELIVERY_WAIT);
        }
    }

    /// A producer on the id of the slot that has not touched it yet.
    fn producer(&self) -> Result<(BaseProducer<DeliveryLog>, DeliveryLog), TargetError> {
        let object = self.object();
        let deliveries = DeliveryLog::watching(self.markers.name());
        let timeout_ms = self.settings.transaction_timeout.as_millis().to_string();
        let config = self.settings.connection.client(&object, PRODUCING);
        let mut config = config.map_err(TargetError::Refused)?;
        config.set("transactional.id", &self.transactional_id);
        config.set("transaction.timeout.ms", &timeout_ms);
        let created = config.create_with_context(deliveries.clone());
        let producer = created.map_err(|error| {
            TargetError::Refused(connector_error(&object, &error, deliveries.client_log()))
        })?;
        Ok((producer, deliveries))
    }

    /// Ends a session that is in doubt. Nothing of it may go on.
    fn give_up<T>(&mut self, result: Result<T, TargetError>) -> Result<T, TargetError> {
        if result.is_err() {
            self.session = None;
        }
        let result = result.map_err(|error| self.missed(error));
        self.looked(result)
    }

    /// An output topic that a broker does not know is looked for; what is refused then is refused for good.
    fn missed(&self, error: TargetError) -> TargetError {
        let object = self.object();
        let is_output = matches!(
            &error,
            TargetError::SessionLost(ConnectorError::Missing { object: of }) if *of == object
        );
        if !is_output {
            return error;
        }
        let TargetSettings {
            connection, topic, ..
        } = &self.settings;
        let verdict = look_for(connection, topic, self.last_partition);
        refusal(verdict, &object).map_or(error, TargetError::Refused)
    }

    /// After any failure the marker topic is looked at again before the next session: it may be why.
    fn looked<T>(&mut self, result: Result<T, TargetError>) -> Result<T, TargetError> {
        if result.is_err() {
            self.markers.forget();
        }
        result
    }

    fn connect_session(&mut self) -> Result<(), TargetError> {
        self.session = None;
        // The transaction writes there, and the broker would not make the topic, or make it as it likes.
        self.markers.place().map_err(marker_error)?;
        let object = self.object();
        let (producer, deliveries) = match self.spare.take() {
            Some(spare) => spare,
            None => self.producer()?,
        };
        let log = deliveries.client_log();
        // A client that looks for its coordinator before it is connected looks again only half a second later.
        let topic = Some(self.settings.topic.as_str());
        let connected = producer
            .client()
            .fetch_metadata(topic, TRANSACTION_CALL_TIMEOUT);
        self.settle(&producer);
        let opened = connected.and_then(|_| producer.init_transactions(TRANSACTION_CALL_TIMEOUT));
        opened.map_err(|error| transaction_error(&object, &error, log))?;
        self.session = Some(Session {
            producer,
            deliveries,
            phase: Phase::Ready,
            sync: None,
        });
        self.spare = Some(self.producer()?);
        Ok(())
    }

    fn flush_session(&mut self) -> Result<(), TargetError> {
        let object = self.object();
        let output = self.settings.topic.clone();
        let session = self.session()?;
        let arrived = wait_delivered(&session.producer);
        let log = session.deliveries.client_log();
        let Some((error, topic)) = session.deliveries.take_failure() else {
            return arrived
                .map_err(|error| TargetError::Unclear(connector_error(&object, &error, log)));
        };
        // A fatal error stands behind the purged records of a fenced producer.
        let fatal = session.producer.client().fatal_error();
        let error = fatal.map_or(error, |(code, _)| KafkaError::MessageProduction(code));
        if topic == output {
            return Err(delivery_error(&object, &error, log));
        }
        let object = format!("kafka marker topic {topic}");
        Err(match delivery_error(&object, &error, log) {
            // Nobody but the job writes there, so a marker is refused only where the topic is closed.
            TargetError::Refused(cause) => TargetError::MarkerLost(cause),
            other => other,
        })
    }

    fn begin_transaction(&mut self) -> Result<(), TargetError> {
        let object = self.object();
        let session = self.session()?;
        if session.phase == Phase::Ongoing {
            return Err(self.no_session("a transaction is open already"));
        }
        let begun = session.producer.begin_transaction();
        begun
            .map_err(|error| transaction_error(&object, &error, session.deliveries.client_log()))?;
        session.phase = Phase::Ongoing;
        Ok(())
    }

    fn send_batch(&mut self, batch: &OutputBatch) -> Result<(), TargetError> {
        let object = self.object();
        let topic = self.settings.topic.clone();
        let session = self.transaction()?;
        let mut last_partition = 0;
        let sent = send_all(&session.producer, &topic, batch, &mut last_partition);
        let sent =
            sent.map_err(|error| delivery_error(&object, &error, session.deliveries.client_log()));
        self.last_partition = self.last_partition.max(last_partition);
        sent
    }

    fn commit_transaction(&mut self, marker: &Marker) -> Result<MarkerPosition, TargetError> {
        let object = self.object();
        let (topic, key) = (self.markers.name().to_owned(), self.markers.marker_key());
        let value = marker_bytes(marker);
        let known = self.known;
        let session = self.transaction()?;
        let record = BaseRecord::to(&topic)
            .partition(0)
            .key(&key)
            .payload(&value);
        session.producer.send(record).map_err(|(error, _)| {
            let object = format!("kafka marker topic {topic}");
            delivery_error(&object, &error, session.deliveries.client_log())
        })?;
        self.flush_session()?;
        let session = self.session()?;
        let Some(offset) = session.deliveries.take_watched() else {
            return Err(self.no_session("the broker did not tell where the marker went"));
        };
        if known.is_some_and(|known| offset < known.0) {
            return Err(TargetError::MarkerLost(ConnectorError::PositionLost {
                object: format!("kafka marker topic {topic}"),
                position: offset,
                reason: "a new marker stands before old ones: the topic was replaced".to_owned(),
            }));
        }
        let ended = session
            .producer
            .commit_transaction(TRANSACTION_CALL_TIMEOUT);
        ended
            .map_err(|error| transaction_error(&object, &error, session.deliveries.client_log()))?;
        session.phase = Phase::Ready;
        Ok(MarkerPosition(offset + 1))
    }

    fn abort_transaction(&mut self) -> Result<(), TargetError> {
        let object = self.object();
        let session = self.transaction()?;
        let ended = session.producer.abort_transaction(TRANSACTION_CALL_TIMEOUT);
        ended
            .map_err(|error| transaction_error(&object, &error, session.deliveries.client_log()))?;
        session.phase = Phase::Ready;
        // Records of the given-up transaction were purged; their reports are no news.
        drop(session.deliveries.take_failure());
        Ok(())
    }
}

impl OutputTarget for KafkaTarget {
    fn expect_markers(&mut self, known: KnownMarkers) {
        self.markers.expect(known);
    }

    fn identity(&mut self) -> Result<ExternalIdentity, TargetError> {
        Ok(ExternalIdentity {
            system: self.markers.cluster_id().map_err(marker_error)?,
            markers: self.markers.place().map_err(marker_error)?,
            output: self.settings.topic.clone(),
        })
    }

    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError> {
        if let Some(known) = self.known {
            return Ok(known);
        }
        let end = self.markers.stable_end().map_err(marker_error)?;
        self.known = Some(end);
        Ok(end)
    }

    fn open_session(&mut self) -> Result<(), TargetError> {
        let opened = self.connect_session();
        self.looked(opened)
    }

    fn write_sync(&mut self) -> Result<(), TargetError> {
        self.session()?;
        let written = self.markers.write_sync().map_err(marker_error);
        let sync = self.looked(written)?;
        self.session()?.sync = Some(sync);
        Ok(())
    }

    fn read_markers(&mut self, from: MarkerPosition) -> Result<MarkerReading, TargetError> {
        let Some(sync) = self.session()?.sync else {
            return Err(self.no_session("no sync record was written in this session"));
        };
        let read = self.markers.read_markers(from, sync).map_err(marker_error);
        let reading = self.looked(read)?;
        self.known = Some(reading.end);
        Ok(reading)
    }

    fn begin(&mut self) -> Result<(), TargetError> {
        self.markers.rest();
        let begun = self.begin_transaction();
        self.give_up(begun)
    }

    fn send(&mut self, batch: &OutputBatch) -> Result<(), TargetError> {
        let sent = self.send_batch(batch);
        self.give_up(sent)
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        let flushed = self.flush_session();
        self.give_up(flushed)
    }

    fn commit(&mut self, marker: Marker) -> Result<MarkerPosition, TargetError> {
        let committed = self.commit_transaction(&marker);
        let position = self.give_up(committed)?;
        self.known = Some(position);
        self.settling = position.0.checked_sub(1);
        Ok(position)
    }

    fn abort(&mut self) -> Result<(), TargetError> {
        let aborted = self.abort_transaction();
        self.give_up(aborted)
    }
}

/// Waits until every record that was sent is delivered or has failed.
///
/// The flush of the client library looks ten times a second; a commit must not wait for that.
pub(super) fn wait_delivered(producer: &BaseProducer<DeliveryLog>) -> Result<(), KafkaError> {
    for _ in 0..DELIVERY_WAITS_MAX {
        if producer.in_flight_count() == 0 {
            return Ok(());
        }
        producer.poll(DELIVERY_WAIT);
    }
    Err(KafkaError::Flush(Code::OperationTimedOut))
}

/// Hands every record of the batch to the client, waiting for room in its queue. `last_partition` is raised to the last
/// one that is written to.
pub(super) fn send_all(
    producer: &BaseProducer<DeliveryLog>,
    topic: &str,
    batch: &OutputBatch,
    last_partition: &mut i32,
) -> Result<(), KafkaError> {
    let mut sent = 0;
    for record in batch.iter() {
        *last_partition = record.partition.unwrap_or(0).max(*last_partition);
        send_one(producer, topic, &record)?;
        sent += 1;
        if sent % POLL_EVERY == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

fn send_one(
    producer: &BaseProducer<DeliveryLog>,
    topic: &str,
    output: &OutputRecord<'_>,
) -> Result<(), KafkaError> {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
    record.partition = output.partition;
    record.key = output.key;
    record.payload = output.value;
    record.timestamp = timestamp_of(output.time);
    if !output.headers.is_empty() {
        record.headers = Some(headers_of(output));
    }
    for _ in 0..FULL_QUEUE_WAITS_MAX {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                record = back;
                producer.poll(FULL_QUEUE_WAIT);
            }
            Err((error, _)) => return Err(error),
        }
    }
    Err(KafkaError::MessageProduction(Code::QueueFull))
}

/// The timestamp of a record. Kafka has none before 1970, and the client reads 0 as "now", another one with every sending:
/// such times become the first millisecond. The record itself carries its time as it is.
fn timestamp_of(time: EventTime) -> Option<i64> {
    time.is_some().then(|| time.millis().max(1))
}

fn headers_of(output: &OutputRecord<'_>) -> OwnedHeaders {
    let all = OwnedHeaders::new_with_capacity(output.headers.len());
    output.headers.iter().fold(all, |all, (name, value)| {
        // Names are text in the protocol; other bytes are replaced.
        let name = String::from_utf8_lossy(name);
        all.insert(Header {
            key: &name,
            value: Some(*value),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_kafka_has_no_timestamp_for_becomes_the_first_millisecond() {
        assert_eq!(timestamp_of(EventTime(7)), Some(7));
        assert_eq!(timestamp_of(EventTime(0)), Some(1), "0 would mean now");
        assert_eq!(timestamp_of(EventTime(-5)), Some(1));
        assert_eq!(timestamp_of(EventTime::NONE), None);
    }
}
