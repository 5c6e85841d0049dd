//! Whole jobs in one process: coordinator, worker and slot threads over a store and a sink in memory.

#![allow(
    clippy::unwrap_used,
    reason = "tests may unwrap; the lint knows unit tests only"
)]

mod added_source;
mod cluster;
mod damage;
mod detour_waits;
mod dropped_state;
mod exactly_once;
mod going_back;
mod job;
mod job_end;
mod local_store;
mod operations;
mod owed_savepoint;
mod refusals;
mod rescale;
mod restore;
mod savepoint;
mod second_look;
mod take_over;
mod traps;
mod trial_restore;
