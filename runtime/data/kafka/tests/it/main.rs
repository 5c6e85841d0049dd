//! The Kafka connector against a real broker: one broker for the whole binary, more where a test kills its own.
//!
//! Without Java the tests fail with the line that installs it.

mod broker;
mod mock;
mod security;
mod sink;
mod source;
mod target;
