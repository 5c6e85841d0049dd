//! The Kafka source as a job author describes it: partitions as splits, committed records only.

mod batch;
mod ends;
mod enumerator;
mod fetch;
mod position;
mod reader;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use highwater_connectors::intake::whole_millis;
use highwater_connectors::{
    BadInput, BadRecords, Boundedness, ConnectorError, DecodeRecord, ReaderContext, Source,
    SourceFacts, SourceReader, SplitEnumerator,
};
use highwater_types::Record;

pub use self::position::{EndPosition, StartPosition};
use crate::connection::KafkaConnection;
use enumerator::KafkaEnumerator;
use reader::KafkaReader;

/// How often an unbounded source looks for new partitions.
const DISCOVERY_INTERVAL: Duration = Duration::from_mins(1);

/// Reads one topic. Partitions are splits named `<topic>/<partition>`; those that are added later are read from their
/// first record.
///
/// Each record carries the timestamp of its Kafka record as event time. A record without value is handled like one that
/// cannot be decoded.
#[derive(Debug)]
pub struct KafkaSource<T, D> {
    settings: Arc<SourceSettings>,
    decoder: Arc<D>,
    records: PhantomData<fn() -> T>,
}

/// How far ahead of processing time an event time may be, unless the job says otherwise: a day.
const FUTURE_LIMIT_MS: i64 = 86_400_000;

/// What enumerator and readers share.
#[derive(Clone, Debug)]
struct SourceSettings {
    connection: KafkaConnection,
    topic: String,
    start: StartPosition,
    end: Option<EndPosition>,
    group: Option<String>,
    bad_input: BadInput,
    discovery_interval: Duration,
}

impl SourceSettings {
    fn object(&self) -> String {
        format!("kafka topic {}", self.topic)
    }
}

impl<T: Record, D: DecodeRecord<T>> KafkaSource<T, D> {
    /// Reads `topic` from its first record on, for ever; values are decoded by `decoder`.
    pub fn new(connection: KafkaConnection, topic: impl Into<String>, decoder: D) -> Self {
        let settings = SourceSettings {
            connection,
            topic: topic.into(),
            start: StartPosition::Earliest,
            end: None,
            group: None,
            bad_input: BadInput {
                future_limit_ms: Some(FUTURE_LIMIT_MS),
                ..BadInput::FAIL
            },
            discovery_interval: DISCOVERY_INTERVAL,
        };
        Self {
            settings: Arc::new(settings),
            decoder: Arc::new(decoder),
            records: PhantomData,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut SourceSettings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Where to start. Resolved to offsets once, before the first record flows.
    #[must_use]
    pub fn start(self, start: StartPosition) -> Self {
        self.with(|settings| settings.start = start)
    }

    /// Where to end: makes the source bounded. Resolved to offsets once, together with the start.
    #[must_use]
    pub fn until(self, end: EndPosition) -> Self {
        self.with(|settings| settings.end = Some(end))
    }

    /// Tells the consumer group `group` about the positions of completed checkpoints.
    #[must_use]
    pub fn group(self, group: impl Into<String>) -> Self {
        let group = group.into();
        self.with(|settings| settings.group = Some(group))
    }

    /// What to do with records that are refused: no value, too large, not decodable, too far in the future.
    #[must_use]
    pub fn bad_records(self, policy: BadRecords) -> Self {
        self.with(|settings| settings.bad_input.policy = policy)
    }

    /// Refuses values of more than `bytes` bytes; 16 MiB if not set.
    #[must_use]
    pub fn record_bytes_max(self, bytes: usize) -> Self {
        self.with(|settings| settings.bad_input.record_bytes_max = bytes)
    }

    /// How far ahead of processing time the event time of a record may be before it is refused: one day if not set.
    /// One such record that was let through would make everything behind it late.
    #[must_use]
    pub fn future_limit(self, limit: Duration) -> Self {
        self.with(|settings| settings.bad_input.future_limit_ms = Some(whole_millis(limit)))
    }

    /// Takes records however far their event time is ahead of processing time.
    #[must_use]
    pub fn without_future_limit(self) -> Self {
        self.with(|settings| settings.bad_input.future_limit_ms = None)
    }

    /// How often to look for new partitions; one minute if not set.
    #[must_use]
    pub fn discovery_interval(self, interval: Duration) -> Self {
        self.with(|settings| settings.discovery_interval = interval)
    }
}

impl<T: Record, D: DecodeRecord<T>> Source for KafkaSource<T, D> {
    type Record = T;

    fn facts(&self) -> SourceFacts {
        SourceFacts {
            connector: "kafka",
            object: format!("topic {}", self.settings.topic),
            boundedness: match self.settings.end {
                Some(_) => Boundedness::Bounded,
                None => Boundedness::Unbounded,
            },
        }
    }

    fn bad_input(&self) -> BadInput {
        self.settings.bad_input
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        Ok(Box::new(KafkaEnumerator::open(Arc::clone(&self.settings))?))
    }

    fn reader(&self, context: &ReaderContext) -> Result<Box<dyn SourceReader<T>>, ConnectorError> {
        let reader = KafkaReader::open(&self.settings, Arc::clone(&self.decoder), context)?;
        Ok(Box::new(reader))
    }
}
