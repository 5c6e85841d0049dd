//! What needs an administrative client: settings of brokers and topics, and making the marker topic. All calls block.
//!
//! A principal that may not read settings goes without: `None` means "not known", never "not set".

use std::time::Duration;

use futures::executor::block_on;
use highwater_connectors::ConnectorError;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::connection::KafkaConnection;
use crate::context::ClientLog;
use crate::failure::connector_error;
use crate::topic::CALL_TIMEOUT;

/// An administrative client.
pub(crate) struct Admin {
    object: String,
    client: AdminClient<ClientLog>,
    log: ClientLog,
}

impl Admin {
    /// Opens a client; `object` is named in errors.
    pub(crate) fn open(connection: &KafkaConnection, object: &str) -> Result<Self, ConnectorError> {
        let log = ClientLog::default();
        let created = connection
            .client(object, &[])?
            .create_with_context(log.clone());
        Ok(Self {
            object: object.to_owned(),
            client: created.map_err(|error| connector_error(object, &error, &log))?,
            log,
        })
    }

    fn failed(&self, error: &KafkaError) -> ConnectorError {
        connector_error(&self.object, error, &self.log)
    }

    fn setting(
        &self,
        of: &ResourceSpecifier<'_>,
        name: &str,
    ) -> Result<Option<String>, ConnectorError> {
        let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
        let described = block_on(self.client.describe_configs([of], &options));
        let described = described.map_err(|error| self.failed(&error))?;
        let found = described.into_iter().find_map(Result::ok);
        Ok(found.and_then(|resource| resource.get(name)?.value.clone()))
    }

    /// `transaction.max.timeout.ms` of the brokers. `topic` is any topic that exists: it leads to a broker.
    pub(crate) fn transaction_timeout_max(
        &self,
        topic: &str,
    ) -> Result<Option<Duration>, ConnectorError> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(Some(topic), CALL_TIMEOUT);
        let metadata = metadata.map_err(|error| self.failed(&error))?;
        let Some(broker) = metadata.brokers().first() else {
            return Ok(None);
        };
        let broker = ResourceSpecifier::Broker(broker.id());
        let value = self.setting(&broker, "transaction.max.timeout.ms")?;
        Ok(value
            .and_then(|text| text.parse().ok())
            .map(Duration::from_millis))
    }

    /// `min.insync.replicas` of a topic.
    pub(crate) fn min_insync_replicas(
        &self,
        topic: &str,
    ) -> Result<Option<String>, ConnectorError> {
        self.setting(&ResourceSpecifier::Topic(topic), "min.insync.replicas")
    }

    /// `max.message.bytes` of a topic.
    pub(crate) fn max_message_bytes(&self, topic: &str) -> Result<Option<String>, ConnectorError> {
        self.setting(&ResourceSpecifier::Topic(topic), "max.message.bytes")
    }

    /// Makes a compacted topic of one partition, unless it is there already.
    pub(crate) fn create_compacted(
        &self,
        topic: &str,
        replication: i32,
        min_insync_replicas: Option<&str>,
    ) -> Result<(), ConnectorError> {
        let mut wanted = NewTopic::new(topic, 1, TopicReplication::Fixed(replication))
            .set("cleanup.policy", "compact");
        if let Some(count) = min_insync_replicas {
            wanted = wanted.set("min.insync.replicas", count);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(CALL_TIMEOUT))
            .operation_timeout(Some(CALL_TIMEOUT));
        let created = block_on(self.client.create_topics([&wanted], &options));
        for result in created.map_err(|error| self.failed(&error))? {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(self.failed(&KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }

    /// Whether a topic exists, as the controller says, which decides about it: it is asked to make the topic, and not to do
    /// it. `None` = it refuses for another reason, such as a missing permission.
    pub(crate) fn exists(&self, topic: &str) -> Result<Option<bool>, ConnectorError> {
        let wanted = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let options = AdminOptions::new()
            .request_timeout(Some(CALL_TIMEOUT))
            .operation_timeout(Some(CALL_TIMEOUT))
            .validate_only(true);
        let asked = block_on(self.client.create_topics([&wanted], &options));
        let answers = asked.map_err(|error| self.failed(&error))?;
        Ok(match answers.into_iter().next() {
            Some(Ok(_)) => Some(false),
            Some(Err((_, Code::TopicAlreadyExists))) => Some(true),
            None
            | Some(Err((
                _,
                Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::PolicyViolation,
            ))) => None,
            Some(Err((_, code))) => return Err(self.failed(&KafkaError::AdminOp(code))),
        })
    }
}
