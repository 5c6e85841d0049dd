//! How large a record may be: known before the first one, so that none that can never be taken reaches a checkpoint.
//!
//! Called by the sink when a writer starts, and by its encoder for each record: a slot without a session sends nothing before
//! its checkpoint is acknowledged, so the answer of the client or the broker would come too late. Only what is refused for
//! certain is refused here; whatever else is too large is told by the broker.

use highwater_connectors::ConnectorError;
use rdkafka::config::ClientConfig;

/// What a batch and a record in it take at least, beside key, value and headers.
const FRAME_BYTES: usize = 68;

/// The largest record of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordLimit {
    object: String,
    bytes_max: usize,
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
            bytes_max: bytes_max(client.as_deref(), topic, compression.as_deref()),
        }
    }

    /// Refuses a record whose key and value have this many bytes.
    pub(super) fn check(&self, bytes: usize) -> Result<(), ConnectorError> {
        if bytes <= self.bytes_max {
            return Ok(());
        }
        Err(ConnectorError::Configuration {
            connector: self.object.clone(),
            reason: format!(
                "a record of {bytes} bytes is above the {} bytes that `message.max.bytes` of the client and \
                 `max.message.bytes` of the topic allow; raise them, or make the record smaller, and start the job again",
                self.bytes_max
            ),
        })
    }
}

/// What is not known, or not certain since the client compresses, limits nothing.
fn bytes_max(client: Option<&str>, topic: Option<&str>, compression: Option<&str>) -> usize {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<usize>().ok());
    let client = number(client).unwrap_or(usize::MAX);
    let topic = number(topic).filter(|_| compression == Some("none"));
    client.min(topic.map_or(usize::MAX, |topic| topic.saturating_sub(FRAME_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_limits_a_record() {
        assert_eq!(bytes_max(Some("100"), Some("1000"), Some("none")), 100);
        assert_eq!(bytes_max(Some("1000"), Some("100"), Some("none")), 32);
        assert_eq!(bytes_max(Some("1000"), Some("100"), Some("zstd")), 1000);
        assert_eq!(bytes_max(Some("1000"), Some("100"), None), 1000);
        assert_eq!(bytes_max(Some("1000"), None, Some("none")), 1000);
        assert_eq!(bytes_max(None, None, None), usize::MAX);
    }

    #[test]
    fn the_client_tells_its_own_limit() {
        let limit = |property: Option<(&str, &str)>| {
            let mut config = ClientConfig::new();
            if let Some((name, value)) = property {
                config.set(name, value);
            }
            RecordLimit::new("kafka topic t".to_owned(), &config, Some("2000000")).bytes_max
        };
        assert_eq!(limit(None), 1_000_000);
        assert_eq!(limit(Some(("message.max.bytes", "3000000"))), 1_999_932);
        let limit = RecordLimit::new("kafka topic t".to_owned(), &ClientConfig::new(), None);
        assert!(limit.check(1_000_000).is_ok());
        let refused = limit.check(1_000_001).unwrap_err().to_string();
        for part in ["kafka topic t", "1000001 bytes", "message.max.bytes"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}
