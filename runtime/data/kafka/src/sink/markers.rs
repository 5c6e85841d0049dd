//! The marker topic of a lineage: one partition, compacted, where committed markers of all its slots lie.
//!
//! Records: first of all one *identity*, which tells this topic from any other of the same name; then *markers*, written
//! inside the transactions of the slots, and *sync records*, written outside of any. The client library does not tell the
//! id of a topic, so the identity stands for it: a topic that was deleted and made again begins with another one, and a
//! topic that was cut begins with none. Every manifest names the identity, and a topic is made only where none is named:
//! whatever else is found in its place, or nothing, is a lost topic, since it cannot say what is committed.
//!
//! Reading goes from a position of the manifest up to the own sync record, committed records only. Since the sync record
//! was written after the session was opened, every marker of an earlier session lies before it.

use std::time::Duration;

use highwater_connectors::{
    ConnectorError, KnownMarkers, Marker, MarkerKind, MarkerPosition, MarkerReading,
    RequiredMarkers,
};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::target::{TargetSettings, wait_delivered};
use crate::admin::Admin;
use crate::context::DeliveryLog;
use crate::failure::connector_error;
use crate::topic::{MISSING_LOOKS_MAX, TopicInspector};

const PARTITION: i32 = 0;
const IDENTITY: &str = "identity/";
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Polls that bring nothing before a reading gives up: half a minute of waiting for a foreign open transaction.
const EMPTY_POLLS_MAX: u32 = 300;

/// Looks at a topic that was just made: ten seconds at least.
const KNOWN_LOOKS_MAX: u32 = 100;
/// Durable, but not idempotent: a sync record that is there twice does no harm, and the client starts half a second sooner.
const PLAIN: &[(&str, &str)] = &[("enable.idempotence", "false"), ("acks", "all")];

const FORMAT: u8 = 1;
const OUTPUT: u8 = 1;
const VOID: u8 = 2;

/// The value of a marker record.
pub(super) fn marker_bytes(marker: &Marker) -> Vec<u8> {
    let kind = match marker.kind {
        MarkerKind::Output => OUTPUT,
        MarkerKind::Void => VOID,
    };
    let mut bytes = vec![FORMAT, kind];
    for number in [marker.number, marker.epoch, marker.attempt] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn parse_marker(bytes: &[u8]) -> Option<(u64, MarkerKind)> {
    let (head, numbers) = bytes.split_first_chunk::<2>()?;
    let kind = match head {
        [FORMAT, OUTPUT] => MarkerKind::Output,
        [FORMAT, VOID] => MarkerKind::Void,
        _ => return None,
    };
    let (number, rest) = numbers.split_first_chunk::<8>()?;
    (rest.len() == 16).then_some((u64::from_le_bytes(*number), kind))
}

/// What stands where a marker topic must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Empty,
    Identity(String),
}

/// Whether it is the topic that is required. Else what is wrong.
fn judge(required: RequiredMarkers<'_>, found: Found) -> Result<String, String> {
    match (found, required) {
        (Found::Identity(found), RequiredMarkers::This(required)) if found != required => {
            Err(format!(
                "it was deleted and made anew: its identity is {found}, and the checkpoint names {required}"
            ))
        }
        (Found::Identity(found), _) => Ok(found),
        (Found::Empty, _) => Err("it was deleted and made anew: it is empty".to_owned()),
        (Found::Nothing, _) => {
            Err("it does not exist any more, and with it is gone what was committed".to_owned())
        }
    }
}

/// The marker topic as one slot uses it. Clients are opened when needed and closed by [`MarkerTopic::rest`].
pub(super) struct MarkerTopic {
    settings: TargetSettings,
    topic: String,
    /// Names the slot among all slots of the lineage.
    slot: String,
    known: KnownMarkers,
    place: Option<String>,
    inspector: Option<TopicInspector>,
    producer: Option<(BaseProducer<DeliveryLog>, DeliveryLog)>,
}

impl MarkerTopic {
    pub(super) fn new(settings: TargetSettings, topic: String, slot: String) -> Self {
        Self {
            settings,
            topic,
            slot,
            known: KnownMarkers::default(),
            place: None,
            inspector: None,
            producer: None,
        }
    }

    /// What the manifest says of the topic.
    pub(super) fn expect(&mut self, known: KnownMarkers) {
        self.known = known;
        self.forget();
    }

    /// Looks at the topic again before it is used next.
    pub(super) fn forget(&mut self) {
        self.place = None;
    }

    pub(super) fn name(&self) -> &str {
        &self.topic
    }

    /// The key of the markers of this slot.
    pub(super) fn marker_key(&self) -> String {
        format!("marker/{}", self.slot)
    }

    fn object(&self) -> String {
        format!("kafka marker topic {}", self.topic)
    }

    fn lost(&self, position: i64, reason: &str) -> ConnectorError {
        ConnectorError::PositionLost {
            object: self.object(),
            position: u64::try_from(position).unwrap_or(0),
            reason: reason.to_owned(),
        }
    }

    /// Closes the clients: they are needed for recoveries only.
    pub(super) fn rest(&mut self) {
        self.inspector = None;
        self.producer = None;
    }

    fn inspector(&mut self) -> Result<&TopicInspector, ConnectorError> {
        if self.inspector.is_none() {
            let opened = TopicInspector::open(&self.settings.connection, &self.topic)?;
            self.inspector = Some(opened);
        }
        self.inspector
            .as_ref()
            .ok_or_else(|| ConnectorError::Unavailable {
                object: format!("kafka marker topic {}", self.topic),
                reason: "no client is open".to_owned(),
            })
    }

    /// The id of the cluster.
    pub(super) fn cluster_id(&mut self) -> Result<String, ConnectorError> {
        self.inspector()?.cluster_id()
    }

    /// Asks, and closes the clients when that fails: one that has once met a topic as unknown holds to it for long.
    fn asking<T>(
        &mut self,
        ask: impl FnOnce(&mut Self) -> Result<T, ConnectorError>,
    ) -> Result<T, ConnectorError> {
        let answer = ask(self);
        if answer.is_err() {
            self.rest();
        }
        answer
    }

    /// The identity of the topic. It is made when no manifest names it, else it must be there.
    pub(super) fn place(&mut self) -> Result<String, ConnectorError> {
        if let Some(place) = &self.place {
            return Ok(place.clone());
        }
        let place = self.asking(|topic| {
            let known = topic.known.clone();
            match known.required_in(|| topic.cluster_id())? {
                RequiredMarkers::MayBeMade => topic.find_or_make(),
                required => {
                    let found = topic.look_for_identity()?;
                    judge(required, found).map_err(|reason| topic.lost(0, &reason))
                }
            }
        })?;
        self.place = Some(place.clone());
        Ok(place)
    }

    /// What stands where the topic must be. Brokers may not know it for a moment, or not yet what it holds, so only what is
    /// found again and again counts; one that does not answer is no answer. That nothing is there is asked of the
    /// controller at last: what a broker knows of a topic may be old.
    fn look_for_identity(&mut self) -> Result<Found, ConnectorError> {
        let mut found = Found::Nothing;
        for look in 0..MISSING_LOOKS_MAX {
            if look > 0 {
                self.inspector()?.wait_a_moment();
            }
            let exists = self.inspector()?.find()?;
            found = if exists.is_none() {
                Found::Nothing
            } else if let Some(identity) = self.read_identity()? {
                return Ok(Found::Identity(identity));
            } else {
                Found::Empty
            };
        }
        if found == Found::Nothing {
            self.confirm_missing()?;
        }
        Ok(found)
    }

    /// An error as long as the controller knows the topic that the brokers do not. One that may not say it is believed.
    fn confirm_missing(&self) -> Result<(), ConnectorError> {
        let admin = Admin::open(&self.settings.connection, &self.object())?;
        match admin.exists(&self.topic)? {
            Some(false) => Ok(()),
            Some(true) => Err(ConnectorError::Unavailable {
                object: self.object(),
                reason: "its controller knows it, and its brokers do not tell about it".to_owned(),
            }),
            None => {
                tracing::warn!(target: "highwater::kafka", topic = self.topic, "the controller does not say whether it exists");
                Ok(())
            }
        }
    }

    fn find_or_make(&mut self) -> Result<String, ConnectorError> {
        match self.inspector()?.find()? {
            Some(facts) if facts.partitions == 1 => {}
            Some(facts) => {
                return Err(ConnectorError::Configuration {
                    connector: self.object(),
                    reason: format!(
                        "it has {} partitions instead of 1; delete it if it is not in use",
                        facts.partitions
                    ),
                });
            }
            None => {
                self.create()?;
                self.wait_known()?;
            }
        }
        if let Some(place) = self.read_identity()? {
            return Ok(place);
        }
        // Another slot may do the same: the first identity in the log counts, for everybody.
        let nonce: u128 = rand::random();
        self.write(&format!("{IDENTITY}{nonce:032x}"))?;
        let read = self.read_identity()?;
        read.ok_or_else(|| self.lost(0, "the identity that was just written is not there"))
    }

    /// As safe as the output: the same number of replicas, and as many of them in sync.
    fn create(&self) -> Result<(), ConnectorError> {
        let TargetSettings {
            connection, topic, ..
        } = &self.settings;
        let output = TopicInspector::open(connection, topic)?.find_patiently()?;
        // The topic of the output is made by its owner, not by the job.
        let output = output.ok_or_else(|| ConnectorError::Configuration {
            connector: format!("kafka topic {topic}"),
            reason: "it does not exist; create it, or check its name".to_owned(),
        })?;
        let replication = output.replication;
        let admin = Admin::open(connection, &self.object())?;
        let in_sync = admin.min_insync_replicas(topic)?;
        admin.create_compacted(&self.topic, replication, in_sync.as_deref())
    }

    /// Waits until the brokers tell about the topic that was just made, here or by another slot.
    fn wait_known(&mut self) -> Result<(), ConnectorError> {
        for _ in 0..KNOWN_LOOKS_MAX {
            let inspector = self.inspector()?;
            if matches!(inspector.find(), Ok(Some(_))) && inspector.range(PARTITION).is_ok() {
                return Ok(());
            }
            inspector.wait_a_moment();
        }
        Err(ConnectorError::Unavailable {
            object: self.object(),
            reason: "it was made, and the brokers do not tell about it yet".to_owned(),
        })
    }

    /// The first record of the topic; `None` = it is empty.
    fn read_identity(&mut self) -> Result<Option<String>, ConnectorError> {
        let range = self.inspector()?.range(PARTITION)?;
        if range.low == range.stable {
            return Ok(None);
        }
        let mut first = None;
        self.read(range.low, |offset, key, _| {
            first = Some((offset, key.to_owned()));
            true
        })?;
        match first {
            Some((0, key)) => match key.strip_prefix(IDENTITY) {
                Some(identity) => Ok(Some(identity.to_owned())),
                None => Err(self.lost(
                    0,
                    "it does not begin with its identity: it was made by somebody else",
                )),
            },
            _ => Err(self.lost(0, "its beginning was deleted, so markers may be missing")),
        }
    }

    /// The position behind everything that is decided: no marker that is not yet known lies before it.
    pub(super) fn stable_end(&mut self) -> Result<MarkerPosition, ConnectorError> {
        self.place()?;
        let range = self.asking(|topic| topic.inspector()?.range(PARTITION))?;
        Ok(MarkerPosition(u64::try_from(range.stable).unwrap_or(0)))
    }

    /// Writes the sync record of this slot, outside of any transaction; its offset.
    pub(super) fn write_sync(&mut self) -> Result<u64, ConnectorError> {
        self.place()?;
        self.write(&format!("sync/{}", self.slot))
    }

    fn write(&mut self, key: &str) -> Result<u64, ConnectorError> {
        if self.producer.is_none() {
            let deliveries = DeliveryLog::watching(&self.topic);
            let config = self.settings.connection.client(&self.object(), PLAIN)?;
            let producer = config
                .create_with_context(deliveries.clone())
                .map_err(|error| {
                    connector_error(&self.object(), &error, deliveries.client_log())
                })?;
            self.producer = Some((producer, deliveries));
        }
        let written = match &self.producer {
            Some((producer, deliveries)) => self.write_with(producer, deliveries, key),
            None => Err(self.lost(0, "no client is open")),
        };
        if written.is_err() {
            // The record may still be on its way: its report must not be taken for that of a later one.
            self.producer = None;
        }
        written
    }

    fn write_with(
        &self,
        producer: &BaseProducer<DeliveryLog>,
        deliveries: &DeliveryLog,
        key: &str,
    ) -> Result<u64, ConnectorError> {
        let failed =
            |error: &KafkaError| connector_error(&self.object(), error, deliveries.client_log());
        let record = BaseRecord::to(&self.topic)
            .partition(PARTITION)
            .key(key)
            .payload(b"");
        producer.send(record).map_err(|(error, _)| failed(&error))?;
        wait_delivered(producer).map_err(|error| failed(&error))?;
        if let Some((error, _)) = deliveries.take_failure() {
            return Err(failed(&error));
        }
        deliveries
            .take_watched()
            .ok_or_else(|| ConnectorError::Unavailable {
                object: self.object(),
                reason: "the broker did not tell where a record went".to_owned(),
            })
    }

    /// Reads the committed markers of this slot from `from` up to the sync record at `sync`.
    pub(super) fn read_markers(
        &mut self,
        from: MarkerPosition,
        sync: u64,
    ) -> Result<MarkerReading, ConnectorError> {
        self.asking(|topic| topic.read_up_to(from, sync))
    }

    fn read_up_to(
        &mut self,
        from: MarkerPosition,
        sync: u64,
    ) -> Result<MarkerReading, ConnectorError> {
        // Read afresh: the topic may have been replaced since it was looked at.
        let place = self.read_identity()?;
        let place = place.ok_or_else(|| self.lost(0, "it is empty after a record was written"))?;
        let range = self.inspector()?.range(PARTITION)?;
        let mut reading = MarkerReading {
            place,
            start: MarkerPosition(u64::try_from(range.low).unwrap_or(0)),
            end: MarkerPosition(sync + 1),
            markers: Vec::new(),
        };
        if from.0 > sync {
            // The manifest knows of more than is there; the reader of this answer decides what that means.
            return Ok(reading);
        }
        let own = self.marker_key();
        let mut damaged = None;
        self.read(
            i64::try_from(from.0).unwrap_or(i64::MAX).max(range.low),
            |offset, key, value| {
                if key == own {
                    match parse_marker(value) {
                        Some(marker) => reading.markers.push(marker),
                        None => damaged = Some(offset),
                    }
                }
                offset >= i64::try_from(sync).unwrap_or(i64::MAX)
            },
        )?;
        match damaged {
            Some(offset) => Err(self.lost(offset, "the marker there cannot be read")),
            None => Ok(reading),
        }
    }

    /// Reads committed records from `offset` on until `visit` says that it is enough.
    fn read(
        &mut self,
        offset: i64,
        mut visit: impl FnMut(i64, &str, &[u8]) -> bool,
    ) -> Result<(), ConnectorError> {
        let topic = self.topic.clone();
        let inspector = self.inspector()?;
        let consumer = inspector.consumer();
        let mut assignment = TopicPartitionList::with_capacity(1);
        assignment
            .add_partition_offset(&topic, PARTITION, Offset::Offset(offset))
            .map_err(|error| inspector.failed(&error))?;
        consumer
            .assign(&assignment)
            .map_err(|error| inspector.failed(&error))?;
        let mut empty_polls = 0;
        let mut last_error = None;
        let mut last = offset;
        let read = loop {
            match consumer.poll(POLL_WAIT) {
                Some(Ok(message)) => {
                    last = message.offset();
                    let key = std::str::from_utf8(message.key().unwrap_or_default());
                    let value = message.payload().unwrap_or_default();
                    if visit(last, key.unwrap_or_default(), value) {
                        break Ok(());
                    }
                }
                Some(Err(KafkaError::MessageConsumption(Code::AutoOffsetReset))) => {
                    break Err(ConnectorError::PositionLost {
                        object: format!("kafka marker topic {topic}"),
                        position: u64::try_from(last).unwrap_or(0),
                        reason: "the topic was replaced or cut".to_owned(),
                    });
                }
                // The client goes on by itself; if it cannot, the polls run out.
                Some(Err(error)) => {
                    last_error = Some(error);
                    empty_polls += 1;
                }
                None => empty_polls += 1,
            }
            if empty_polls > EMPTY_POLLS_MAX {
                break Err(ConnectorError::Unavailable {
                    object: format!("kafka marker topic {topic}"),
                    reason: last_error.map_or_else(
                        || format!("nothing can be read behind offset {last}; an open transaction may hold it back"),
                        |error| format!("nothing can be read behind offset {last}: {error}"),
                    ),
                });
            }
        };
        consumer
            .unassign()
            .map_err(|error| inspector.failed(&error))?;
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_survive_and_anything_else_is_refused() {
        for kind in [MarkerKind::Output, MarkerKind::Void] {
            let bytes = marker_bytes(&Marker {
                number: 77,
                kind,
                epoch: 3,
                attempt: 5,
            });
            assert_eq!(parse_marker(&bytes), Some((77, kind)));
            assert_eq!(parse_marker(&bytes[..25]), None);
            let mut other = bytes;
            other[0] = 2;
            assert_eq!(parse_marker(&other), None);
        }
    }

    #[test]
    fn only_the_topic_that_the_manifest_names_is_the_marker_topic() {
        let identity = |name: &str| Found::Identity(name.to_owned());
        assert_eq!(
            judge(RequiredMarkers::This("a"), identity("a")),
            Ok("a".to_owned())
        );
        assert_eq!(
            judge(RequiredMarkers::Any, identity("a")),
            Ok("a".to_owned())
        );
        for required in [RequiredMarkers::This("a"), RequiredMarkers::Any] {
            assert!(judge(required, Found::Empty).unwrap_err().contains("empty"));
            let gone = judge(required, Found::Nothing).unwrap_err();
            assert!(gone.contains("does not exist"), "{gone}");
        }
        let other = judge(RequiredMarkers::This("a"), identity("b")).unwrap_err();
        assert!(
            other.contains("identity is b") && other.contains("names a"),
            "{other}"
        );
    }
}
