//! Errors of the client library, by what the job must do next.
//!
//! Kinds derive from error codes, never from text. Everything that the library retries by itself is no error here.

use highwater_connectors::{ConnectorError, TargetError};
use highwater_types::{Classified, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::context::ClientLog;

/// Wraps what the client answered about `object`.
pub(crate) fn connector_error(object: &str, error: &KafkaError, log: &ClientLog) -> ConnectorError {
    let configuration = |reason: String| ConnectorError::Configuration {
        connector: object.to_owned(),
        reason,
    };
    if let KafkaError::ClientConfig(_, description, name, _) = error {
        // The value is not shown: it may be a secret.
        return configuration(format!(
            "property `{name}` is refused by the client: {}",
            without_value(description)
        ));
    }
    let code = code_of(error);
    let told = log.last().and_then(|problem| problem.code);
    let code = match code {
        // What the client could not do for want of a connection fails for the reason that there is none.
        Some(transport) if is_transport(transport) => told.or(code),
        _ => code,
    };
    match code {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            ConnectorError::Missing {
                object: object.to_owned(),
            }
        }
        Some(code) if is_authorization(code) => configuration(format!(
            "access is denied ({code}); grant it to the principal of this job"
        )),
        Some(Code::InvalidTransactionTimeout) => configuration(
            "the transaction timeout is above the broker's `transaction.max.timeout.ms`; lower it, or raise the broker's"
                .to_owned(),
        ),
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
            configuration(with_log("the credentials are refused", log))
        }
        Some(Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch) => {
            ConnectorError::Fenced {
                object: object.to_owned(),
            }
        }
        _ => ConnectorError::Unavailable {
            object: object.to_owned(),
            reason: with_log(&error.to_string(), log),
        },
    }
}

/// Why a record was not taken, when retrying cannot help; else the session is lost. That one broker does not know the topic
/// is no reason: the cause is `Missing` then, and whoever sent the record looks for the topic.
pub(crate) fn delivery_error(object: &str, error: &KafkaError, log: &ClientLog) -> TargetError {
    let reason = match code_of(error) {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize) => {
            "the record is larger than `message.max.bytes` of the client or `max.message.bytes` of the topic; raise them"
                .to_owned()
        }
        Some(
            code @ (Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::PolicyViolation
            | Code::InvalidMessage),
        ) => format!("the broker refuses the record ({code})"),
        Some(code) if is_authorization(code) => {
            format!("access is denied ({code}); grant it to the principal of this job")
        }
        _ => return TargetError::SessionLost(connector_error(object, error, log)),
    };
    TargetError::Refused(ConnectorError::Configuration {
        connector: object.to_owned(),
        reason,
    })
}

/// What a failed transactional call means for the session.
pub(crate) fn transaction_error(object: &str, error: &KafkaError, log: &ClientLog) -> TargetError {
    let wrapped = connector_error(object, error, log);
    let lost = match error {
        KafkaError::Transaction(inner) => inner.is_fatal() || inner.txn_requires_abort(),
        _ => false,
    };
    match wrapped.kind() {
        _ if matches!(wrapped, ConnectorError::Missing { .. }) => TargetError::SessionLost(wrapped),
        ErrorKind::Invalid => TargetError::Refused(wrapped),
        ErrorKind::Fenced => TargetError::SessionLost(wrapped),
        _ if lost => TargetError::SessionLost(wrapped),
        _ => TargetError::Unclear(wrapped),
    }
}

/// An error at the place of the markers, where nothing of the session is at stake.
///
/// A client that does not know the topic is no answer: the topic is made when it is first needed, and a client may learn of
/// that late. Whether it was deleted is told by its identity and its records.
pub(crate) fn marker_error(error: ConnectorError) -> TargetError {
    if matches!(error, ConnectorError::Missing { .. }) {
        return TargetError::Unclear(error);
    }
    match error.kind() {
        ErrorKind::Invalid => TargetError::Refused(error),
        ErrorKind::Corrupt => TargetError::MarkerLost(error),
        ErrorKind::Fenced => TargetError::SessionLost(error),
        _ => TargetError::Unclear(error),
    }
}

/// The library's code, also where it hides behind "fatal".
pub(crate) fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::Transaction(inner) => Some(inner.code()),
        other => other.rdkafka_error_code(),
    }
}

/// Whether the code says only that no broker can be reached.
pub(crate) const fn is_transport(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut
    )
}

const fn is_authorization(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

fn with_log(text: &str, log: &ClientLog) -> String {
    match log.last() {
        Some(problem) => format!("{text}: {}", problem.text),
        None => text.to_owned(),
    }
}

/// The library quotes a refused value: `Invalid value "x" for ...`. What stands in quotes is cut out.
fn without_value(description: &str) -> String {
    let parts = description.split('"');
    parts.step_by(2).collect::<Vec<_>>().join("…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code) -> ErrorKind {
        let error = KafkaError::MessageConsumption(code);
        connector_error("kafka topic t", &error, &ClientLog::default()).kind()
    }

    #[test]
    fn codes_decide_what_the_job_does() {
        assert_eq!(kind(Code::UnknownTopicOrPartition), ErrorKind::Invalid);
        assert_eq!(kind(Code::TopicAuthorizationFailed), ErrorKind::Invalid);
        assert_eq!(kind(Code::SaslAuthenticationFailed), ErrorKind::Invalid);
        assert_eq!(kind(Code::ProducerFenced), ErrorKind::Fenced);
        assert_eq!(kind(Code::BrokerTransportFailure), ErrorKind::Transient);
        assert_eq!(kind(Code::OperationTimedOut), ErrorKind::Transient);
    }

    #[test]
    fn a_client_that_does_not_know_the_marker_topic_yet_decides_nothing() {
        let error = KafkaError::MetadataFetch(Code::UnknownTopicOrPartition);
        let unknown = connector_error("kafka marker topic m", &error, &ClientLog::default());
        assert!(unknown.to_string().contains("does not exist; create it"));
        assert!(matches!(marker_error(unknown), TargetError::Unclear(_)));
    }

    #[test]
    fn a_record_that_is_too_large_is_refused_by_name() {
        let error = KafkaError::MessageProduction(Code::MessageSizeTooLarge);
        let refused = delivery_error("kafka topic t", &error, &ClientLog::default());
        assert!(matches!(refused, TargetError::Refused(_)));
        let error = KafkaError::MessageProduction(Code::PurgeQueue);
        let lost = delivery_error("kafka topic t", &error, &ClientLog::default());
        assert!(matches!(lost, TargetError::SessionLost(_)));
    }

    #[test]
    fn a_broker_that_does_not_know_the_topic_refuses_nothing() {
        for code in [
            Code::UnknownTopicOrPartition,
            Code::UnknownTopic,
            Code::UnknownPartition,
        ] {
            let error = KafkaError::MessageProduction(code);
            let lost = delivery_error("kafka topic t", &error, &ClientLog::default());
            assert!(
                matches!(
                    lost,
                    TargetError::SessionLost(ConnectorError::Missing { .. })
                ),
                "{lost:?}"
            );
        }
    }

    #[test]
    fn refused_values_are_cut_out_of_the_message() {
        let text = without_value("Invalid value \"hunter2\" for configuration property \"sasl.x\"");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
