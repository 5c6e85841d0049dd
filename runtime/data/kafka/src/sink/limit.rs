//! How large a record may be: known before the first one, so that none that can never be taken reaches a checkpoint.
//!
//! Called by the sink when a writer starts, and by its encoder for each record: a slot without a session sends nothing before
//! its checkpoint is acknowledged, so the answer of the client or the broker would come too late. Only what is refused for
//! certain is refused here; whatever else is too large is told by the broker.

use highwater_connectors::{ConnectorError, OutputRecord};
use rdkafka::config::ClientConfig;

/// What the client counts for a record beside key, value and headers: as much as a frame can ever take.
const CLIENT_FRAME_BYTES: usize = 36;
/// The head of a batch, which the limit of the topic counts too.
const BATCH_HEAD_BYTES: usize = 61;
/// Attributes, time and offset of the first record of a batch.
const RECORD_HEAD_BYTES: usize = 3;

/// The largest record of one topic. What is not known, or not certain since the client compresses, limits nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordLimit {
    object: String,
    client_max: usize,
    topic_max: usize,
}

impl RecordLimit {
    /// The limit of a client with this configuration. `topic` = `max.message.bytes` of the topic, if it is known.
    pub(super) fn new(object: String, config: &ClientConfig, topic: Option<&str>) -> Self {
        let native = config.create_native_config();
        let effective = |name| {
            let value = native.as_ref().ok().map(|native| native.get(name));
            value.and_then(Result::ok)
        };
        let client = effective("message.max.bytes");
        let compression = effective("compression.codec");
        Self {
            object,
            client_max: number(client.as_deref()),
            topic_max: topic_max(topic, compression.as_deref()),
        }
    }

    /// Refuses a record that client or topic never take.
    pub(super) fn check(&self, record: &OutputRecord<'_>) -> Result<(), ConnectorError> {
        let size = (client_bytes(record), batch_bytes(record));
        if size.0 <= self.client_max && size.1 <= self.topic_max {
            return Ok(());
        }
        Err(self.refused(size))
    }

    #[cold]
    fn refused(&self, (client, topic): (usize, usize)) -> ConnectorError {
        let (bytes, whose, max) = if client > self.client_max {
            (client, "`message.max.bytes` of the client", self.client_max)
        } else {
            (topic, "`max.message.bytes` of the topic", self.topic_max)
        };
        ConnectorError::Configuration {
            connector: self.object.clone(),
            reason: format!(
                "a record of {bytes} bytes, framing included, is above the {max} bytes that {whose} allows; raise \
                 `message.max.bytes` and `max.message.bytes`, or make the record smaller, and start the job again"
            ),
        }
    }
}

fn number(text: Option<&str>) -> usize {
    let number = text.and_then(|text| text.parse().ok());
    number.unwrap_or(usize::MAX)
}

fn topic_max(topic: Option<&str>, compression: Option<&str>) -> usize {
    number(topic.filter(|_| compression == Some("none")))
}

/// What the client compares with its limit.
fn client_bytes(record: &OutputRecord<'_>) -> usize {
    let parts = [record.key, record.value].into_iter().flatten();
    CLIENT_FRAME_BYTES + parts.map(<[u8]>::len).sum::<usize>() + header_bytes(record)
}

/// What the broker compares with the limit of the topic: the smallest batch that the record can come in.
fn batch_bytes(record: &OutputRecord<'_>) -> usize {
    let framed = |part: Option<&[u8]>| part.map_or(1, |part| length_bytes(part.len()) + part.len());
    let headers = length_bytes(record.headers.len()) + header_bytes(record);
    let body = RECORD_HEAD_BYTES + framed(record.key) + framed(record.value) + headers;
    BATCH_HEAD_BYTES + length_bytes(body) + body
}

fn header_bytes(record: &OutputRecord<'_>) -> usize {
    let parts = record
        .headers
        .iter()
        .flat_map(|(name, value)| [name, value]);
    parts
        .map(|part| length_bytes(part.len()) + part.len())
        .sum()
}

/// The bytes of a length on the wire: a signed number of seven bits a byte.
fn length_bytes(length: usize) -> usize {
    let bits = usize::BITS - length.leading_zeros() + 1;
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(properties: &[(&str, &str)], topic: Option<&str>) -> RecordLimit {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            config.set(*name, *value);
        }
        RecordLimit::new("kafka topic t".to_owned(), &config, topic)
    }

    fn is_taken(limit: &RecordLimit, bytes: usize) -> bool {
        limit
            .check(&OutputRecord::of_value(&vec![0; bytes]))
            .is_ok()
    }

    #[test]
    fn only_what_is_certain_limits_a_record() {
        assert_eq!(topic_max(Some("100"), Some("none")), 100);
        assert_eq!(topic_max(Some("100"), Some("zstd")), usize::MAX);
        assert_eq!(topic_max(Some("100"), None), usize::MAX);
        assert_eq!(topic_max(None, Some("none")), usize::MAX);
        assert_eq!(number(None), usize::MAX);
    }

    #[test]
    fn the_client_counts_its_frame_too() {
        let limit = limit(&[], Some("2000000"));
        assert!(is_taken(&limit, 999_964));
        assert!(!is_taken(&limit, 999_965));
        let bytes = vec![0; 999_965];
        let record = OutputRecord::of_value(&bytes);
        let refused = limit.check(&record).unwrap_err().to_string();
        for part in ["kafka topic t", "1000001 bytes", "message.max.bytes"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn the_topic_counts_the_batch_too() {
        let limit = limit(&[("message.max.bytes", "3000000")], Some("2000000"));
        // Head of the batch, length, head of the record, no key, length of the value, no headers.
        let frame = 61 + 4 + 3 + 1 + 4 + 1;
        assert!(is_taken(&limit, 2_000_000 - frame));
        assert!(!is_taken(&limit, 2_000_001 - frame));
    }

    #[test]
    fn keys_and_headers_count() {
        let mut record = OutputRecord::of_value(b"value");
        assert_eq!((client_bytes(&record), batch_bytes(&record)), (41, 73));
        record.key = Some(b"key");
        record.headers = vec![(b"name", b"header")];
        assert_eq!((client_bytes(&record), batch_bytes(&record)), (56, 88));
        record.value = None;
        assert_eq!((client_bytes(&record), batch_bytes(&record)), (51, 83));
    }

    #[test]
    fn lengths_are_signed_numbers_of_seven_bits() {
        let sizes = [
            (0, 1),
            (63, 1),
            (64, 2),
            (8191, 2),
            (8192, 3),
            (1_048_575, 3),
        ];
        for (length, bytes) in sizes {
            assert_eq!(length_bytes(length), bytes, "{length}");
        }
        assert_eq!(length_bytes(1_048_576), 4);
    }
}
