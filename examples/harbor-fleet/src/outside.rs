//! Where payments come from and where results go: files, or Kafka topics (feature `kafka`). The job is the same for both.
//!
//! Called by the job while it is built. The rule: every output is exactly-once. Alerts, late payments and dead letters are
//! appended; counts are upserts, keyed by user and start of window, so that the last one of a key is the valid one.

use std::path::PathBuf;

use highwater::api::SourceStream;
use highwater::connectors::DeadLetter;
use highwater::json::{Json, clock};
use highwater::prelude::{
    BadRecords, DataStream, FileLogSource, FileSink, StreamEnvironment, UserError,
};

use crate::payments::{
    ALERTS_TOPIC, COUNTS_TOPIC, DEAD_LETTER_TOPIC, DeclineCount, FraudAlert, LATE_TOPIC,
    PAYMENTS_TOPIC, Payment,
};

/// The systems that the job reads and writes.
#[derive(Clone, Debug)]
pub enum Outside {
    /// A partitioned file log, and files of output.
    Files {
        /// The root of the log.
        input: PathBuf,
        /// The root of the output.
        output: PathBuf,
    },
    /// Topics of a Kafka cluster.
    #[cfg(feature = "kafka")]
    Kafka(kafka::Topics),
}

/// A parameter that the job cannot do without.
///
/// # Errors
/// When it is missing.
pub fn required<'a>(env: &'a StreamEnvironment, name: &str) -> Result<&'a str, UserError> {
    let missing = || format!("the job needs --param {name}=...").into();
    env.parameter(name).ok_or_else(missing)
}

impl Outside {
    /// Reads the parameters: `kafka` (address) and `topics` (what their names begin with), or `input` and `output`
    /// (directories).
    ///
    /// # Errors
    /// When a parameter is missing, or this program was built without what it asks for.
    pub fn of(env: &StreamEnvironment) -> Result<Self, UserError> {
        if let Some(address) = env.parameter("kafka") {
            return Self::of_kafka(address, env.parameter("topics").unwrap_or_default());
        }
        Ok(Self::Files {
            input: PathBuf::from(required(env, "input")?),
            output: PathBuf::from(required(env, "output")?),
        })
    }

    #[cfg(feature = "kafka")]
    #[expect(clippy::unnecessary_wraps, reason = "a build without Kafka refuses")]
    fn of_kafka(address: &str, prefix: &str) -> Result<Self, UserError> {
        Ok(Self::Kafka(kafka::Topics::new(address, prefix)))
    }

    #[cfg(not(feature = "kafka"))]
    fn of_kafka(_: &str, _: &str) -> Result<Self, UserError> {
        Err("this program was built without the feature `kafka`; use --param input=...".into())
    }

    /// The payments.
    ///
    /// # Errors
    /// When the machine gives no clock.
    pub fn payments(
        &self,
        env: &mut StreamEnvironment,
    ) -> Result<SourceStream<Payment>, UserError> {
        Ok(match self {
            Self::Files { input, .. } => {
                let log = FileLogSource::until_end_marker(
                    input,
                    PAYMENTS_TOPIC,
                    Json::<Payment>::decoder(),
                    clock()?,
                );
                env.source("source-auth", log.bad_records(BadRecords::DeadLetter))
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(topics) => env.source("source-auth", topics.payments()),
        })
    }

    /// Puts out the lines that are no payments.
    pub fn put_dead_letters(&self, letters: &DataStream<DeadLetter>) {
        match self {
            Self::Files { output, .. } => {
                let sink = FileSink::new(output.join(DEAD_LETTER_TOPIC), write_dead_letter);
                letters.sink("dlq-sink", sink);
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(topics) => {
                letters.sink(
                    "dlq-sink",
                    topics.append(DEAD_LETTER_TOPIC, write_dead_letter),
                );
            }
        }
    }

    /// Puts out the counts.
    pub fn put_counts(&self, counts: &DataStream<DeclineCount>) {
        match self {
            Self::Files { output, .. } => {
                let sink = FileSink::new(output.join(COUNTS_TOPIC), Json::format());
                counts.sink("count-sink", sink);
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(topics) => {
                let sink = topics.append(COUNTS_TOPIC, Json::format());
                counts.sink("count-sink", sink.keyed(kafka::write_count_key));
            }
        }
    }

    /// Puts out the payments that came too late.
    pub fn put_late(&self, late: &DataStream<Payment>) {
        match self {
            Self::Files { output, .. } => {
                let sink = FileSink::new(output.join(LATE_TOPIC), Json::format());
                late.sink("late-sink", sink);
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(topics) => {
                late.sink("late-sink", topics.append(LATE_TOPIC, Json::format()));
            }
        }
    }

    /// Puts out the alerts.
    pub fn put_alerts(&self, alerts: &DataStream<FraudAlert>) {
        match self {
            Self::Files { output, .. } => {
                let sink = FileSink::new(output.join(ALERTS_TOPIC), Json::format());
                alerts.sink("alert-sink", sink);
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(topics) => {
                alerts.sink("alert-sink", topics.append(ALERTS_TOPIC, Json::format()));
            }
        }
    }
}

/// A dead letter as JSON: where it was read, why it is none, and the line as escaped text.
fn write_dead_letter(letter: &DeadLetter, out: &mut Vec<u8>) {
    let value = serde_json::json!({
        "split": letter.split.as_str(),
        "position": letter.position,
        "reason": letter.reason,
        "payload": letter.payload.escape_ascii().to_string(),
    });
    out.extend_from_slice(value.to_string().as_bytes());
}

/// The topics of the job on a Kafka cluster.
#[cfg(feature = "kafka")]
pub mod kafka {
    use highwater::connectors::ValueFormat;
    use highwater::json::Json;
    use highwater::kafka::{KafkaConnection, KafkaSink, KafkaSource};
    use highwater::prelude::BadRecords;
    use highwater_types::Record;

    use crate::payments::{DeclineCount, PAYMENTS_TOPIC, Payment};

    /// Topics whose names begin alike.
    #[derive(Clone, Debug)]
    pub struct Topics {
        connection: KafkaConnection,
        prefix: String,
    }

    impl Topics {
        /// The topics of the cluster at `address` whose names begin with `prefix`.
        pub fn new(address: &str, prefix: &str) -> Self {
            Self {
                connection: KafkaConnection::new(address),
                prefix: prefix.to_owned(),
            }
        }

        /// The payments. The consumer group `<prefix>harbor-fleet` is told of completed checkpoints (HB-73).
        pub(super) fn payments(&self) -> KafkaSource<Payment, Json<Payment>> {
            let topic = format!("{}{PAYMENTS_TOPIC}", self.prefix);
            KafkaSource::new(self.connection.clone(), topic, Json::decoder())
                .group(format!("{}harbor-fleet", self.prefix))
                .bad_records(BadRecords::DeadLetter)
        }

        /// A sink of one topic.
        pub(super) fn append<T: Record, V: ValueFormat<T>>(
            &self,
            topic: &str,
            value: V,
        ) -> KafkaSink<T, V> {
            let topic = format!("{}{topic}", self.prefix);
            KafkaSink::new(self.connection.clone(), topic, value)
        }
    }

    /// The key of a count: user and start of window.
    pub(super) fn write_count_key(count: &DeclineCount, out: &mut Vec<u8>) {
        let key = format!("{}/{}", count.user_id, count.window_start.millis());
        out.extend_from_slice(key.as_bytes());
    }
}
