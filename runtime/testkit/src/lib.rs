//! Real servers for tests: Apache Kafka and an S3 store on loopback, without a container engine; a program that asks a
//! server what its OpenAPI document says; and groups of processes with bounds of the kernel.
//!
//! Called by integration tests (a server that ends with the test process), by acceptance tests and by `cargo xtask testbed`
//! (a server that stays until `down`). What must be downloaded or built is fetched once into a cache. The one rule: stop only
//! what was started here, by its process id and start time, and leave nothing behind.
//!
//! Not in any product binary: dev-dependency and xtask only.

#![allow(
    clippy::disallowed_methods,
    reason = "this crate waits for processes of other programs, so it owns a clock and may sleep between looks"
)]

pub mod cache;
pub mod cgroup;
pub mod error;
pub mod kafka;
pub mod port;
pub mod process;
pub mod resident;
pub mod s3;
pub mod schemathesis;
pub mod tool;

pub use cache::Cache;
pub use cgroup::ControlGroup;
pub use error::TestbedError;
pub use kafka::{Kafka, KafkaOptions};
pub use resident::{Resident, Service};
pub use s3::S3;
pub use schemathesis::Schemathesis;
