//! The Kafka connector.
