//! Properties are handed through: SASL works with the right password, and what is wrong is named without it.

use std::sync::OnceLock;

use highwater_connectors::contract::writer_context;
use highwater_connectors::{ConnectorError, DecodeFailure, Sink, Source};
use highwater_kafka::{KafkaConnection, KafkaSink, KafkaSource};
use highwater_testkit::{Kafka, KafkaOptions};
use highwater_types::{Classified, ErrorKind};

use crate::broker::{self, Cluster};

const JAAS: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"job\" \
                    password=\"right-password\" user_job=\"right-password\";";

/// A broker that wants a password.
fn guarded() -> &'static Kafka {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(|| {
        let properties = [
            (
                "listener.security.protocol.map",
                "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            ),
            ("sasl.enabled.mechanisms", "PLAIN"),
            ("sasl.mechanism.inter.broker.protocol", "PLAIN"),
            ("listener.name.plaintext.plain.sasl.jaas.config", JAAS),
        ];
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
        broker::start(&KafkaOptions {
            properties: properties.to_vec(),
        })
    })
}

fn with_password(password: &str) -> KafkaConnection {
    KafkaConnection::new(guarded().bootstrap())
        .property("security.protocol", "SASL_PLAINTEXT")
        .property("sasl.mechanism", "PLAIN")
        .property("sasl.username", "job")
        .property("sasl.password", password)
}

fn text(payload: &[u8]) -> Result<String, DecodeFailure> {
    String::from_utf8(payload.to_vec()).map_err(DecodeFailure::new)
}

fn discover(connection: KafkaConnection) -> ConnectorError {
    let source = KafkaSource::new(connection, "no-such-topic", text);
    let found = source
        .enumerator()
        .and_then(|mut enumerator| enumerator.discover());
    found.expect_err("there is no such topic")
}

#[test]
fn the_right_password_opens_the_door() {
    let error = discover(with_password("right-password"));
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn a_wrong_password_is_refused_by_kind_and_not_shown() {
    let error = discover(with_password("wrong-password"));
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let message = error.to_string();
    assert!(message.contains("credentials are refused"), "{message}");
    assert!(!message.contains("wrong-password"), "{message}");
    let sink = KafkaSink::new(
        with_password("wrong-password"),
        "t",
        |_: &u64, _: &mut Vec<u8>| {},
    );
    let Err(error) = sink.writer(&writer_context(0)) else {
        panic!("the password is wrong");
    };
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn tls_to_a_port_without_tls_is_told_apart() {
    let connection = Cluster::shared()
        .connection()
        .property("security.protocol", "SSL");
    let message = discover(connection).to_string();
    assert!(message.contains("SSL"), "{message}");
}
