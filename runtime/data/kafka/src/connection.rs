//! How to reach a cluster: addresses, and client properties handed through to the client library.
//!
//! Properties that the engine must decide itself are refused by name, with the reason. Values are shown nowhere: they may
//! be secrets.

use std::collections::BTreeMap;
use std::fmt;

use highwater_connectors::ConnectorError;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// Properties that a user may not set, and why.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is the address of the connection"),
    (
        "metadata.broker.list",
        "it is the address of the connection",
    ),
    (
        "enable.auto.commit",
        "offsets are committed only after a completed checkpoint",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed only after a completed checkpoint",
    ),
    (
        "auto.offset.reset",
        "a lost position stops the job; choose a start position instead",
    ),
    ("isolation.level", "sources read committed records only"),
    (
        "enable.partition.eof",
        "the end of bounded sources leans on it",
    ),
    ("group.id", "name the group with `KafkaSource::group`"),
    (
        "group.instance.id",
        "partitions are assigned by the engine, not by a group",
    ),
    (
        "transactional.id",
        "the sink protocol names its transactions itself",
    ),
    (
        "transaction.timeout.ms",
        "set it with `KafkaSink::transaction_timeout`",
    ),
    ("enable.idempotence", "sinks are always idempotent"),
    ("acks", "sinks always wait for all replicas"),
    (
        "request.required.acks",
        "sinks always wait for all replicas",
    ),
    ("max.in.flight", "the order of records leans on it"),
    (
        "max.in.flight.requests.per.connection",
        "the order of records leans on it",
    ),
    (
        "message.timeout.ms",
        "the sink decides how long a record may take",
    ),
    (
        "delivery.timeout.ms",
        "the sink decides how long a record may take",
    ),
];

/// A Kafka cluster and how to talk to it.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConnection {
    bootstrap: String,
    properties: BTreeMap<String, String>,
}

impl KafkaConnection {
    /// The cluster behind these addresses: `host:port`, several separated by commas.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            properties: BTreeMap::new(),
        }
    }

    /// Sets a property of the client library, such as `security.protocol`, `sasl.username` or `ssl.ca.location`.
    ///
    /// Checked when the source or sink starts: unknown names and those that the engine decides are refused.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// The addresses.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The configuration of one client. `own` wins over what the user set; `object` is named in errors.
    pub(crate) fn client(
        &self,
        object: &str,
        own: &[(&str, &str)],
    ) -> Result<ClientConfig, ConnectorError> {
        let refuse = |reason: String| ConnectorError::Configuration {
            connector: object.to_owned(),
            reason,
        };
        if self.bootstrap.trim().is_empty() {
            return Err(refuse(
                "no broker address is given; write `host:port`".to_owned(),
            ));
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        config.set("bootstrap.servers", &self.bootstrap);
        for (name, value) in &self.properties {
            if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| reserved == name) {
                return Err(refuse(format!("property `{name}` cannot be set: {why}")));
            }
            config.set(name, value);
        }
        for (name, value) in own {
            config.set(*name, *value);
        }
        Ok(config)
    }
}

impl fmt::Debug for KafkaConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.properties.keys().collect();
        f.debug_struct("KafkaConnection")
            .field("bootstrap", &self.bootstrap)
            .field("properties", &names)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_of_the_engine_are_refused_with_the_reason() {
        for (name, _) in RESERVED {
            let connection = KafkaConnection::new("b:1").property(*name, "x");
            let error = connection
                .client("kafka topic t", &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains("kafka topic t") && error.contains(&format!("`{name}`")));
        }
    }

    #[test]
    fn values_of_properties_are_shown_nowhere() {
        let connection = KafkaConnection::new("b:1").property("sasl.password", "hunter2");
        let shown = format!("{connection:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"));
    }

    #[test]
    fn an_empty_address_is_refused() {
        let error = KafkaConnection::new(" ")
            .client("kafka topic t", &[])
            .unwrap_err();
        assert!(error.to_string().contains("host:port"));
    }
}
