//! The real program, run as processes that are ended where a test says.

#![allow(
    clippy::unwrap_used,
    reason = "tests may unwrap; the lint knows unit tests only"
)]

mod cluster;
mod job;
mod steps;
