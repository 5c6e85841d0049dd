//! The payment fraud scorer: its records, its rules, the job, and what judges it.
//!
//! In reading order: the records, the rules, the blocklist, where it reads and writes, where a test has it panic, the job that joins them, the
//! generator of its input, and the oracle that judges its output. The oracle shares no code with the rest: it must not make the mistake that it is there
//! to find.

pub mod blocklist;
pub mod generator;
pub mod job;
pub mod oracle;
pub mod outside;
pub mod payments;
pub mod rules;
pub mod trap;
