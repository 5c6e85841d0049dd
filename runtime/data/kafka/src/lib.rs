//! The Kafka connector: sources that read partitions as splits, sinks that write at least once or exactly once.
//!
//! In reading order: the connection and its properties, errors by what to do next, the inspection of topics; then the
//! source (positions, enumerator on the coordinator, reader on a slot thread, fetch thread), then the sink (encoder,
//! direct writer, and the transactional target with its markers).
//!
//! The one rule: positions of a checkpoint decide where reading goes on, and markers of the sink protocol decide what was
//! published. Consumer groups are told about progress and never asked for it.

mod admin;
pub mod connection;
mod context;
mod failure;
pub mod sink;
pub mod source;
mod topic;

pub use connection::KafkaConnection;
pub use sink::{KafkaSink, KafkaTarget, NoKey};
pub use source::{EndPosition, KafkaSource, StartPosition};
