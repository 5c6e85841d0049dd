//! Whole jobs in one process: coordinator, worker and slot threads over a store and a sink in memory.

mod exactly_once;
mod job;
