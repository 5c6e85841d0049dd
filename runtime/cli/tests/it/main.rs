//! Job binaries as a script sees them: commands, exit codes, and what stands on stdout.

#![allow(
    clippy::unwrap_used,
    reason = "tests may unwrap; the lint knows unit tests only"
)]

mod commands;
mod job;
mod rescale;
