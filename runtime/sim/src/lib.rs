//! The deterministic simulator: the production machines of the protocol in a world of faults, from one seed.
//!
//! Dev-only. In reading order: chance, the simulated store and broker, the workload and its job, what a node can do,
//! the drivers of sink slot, task, worker and coordinator, the oracles, the swarm, the world, and runs over many seeds.
//! The drivers here do in memory what the real ones do over the network; every decision is made by `highwater-protocol`.

mod rng;

mod kafka;
mod store;

mod codec;
mod job;
mod workload;

mod node;
mod slot;
mod task;
mod worker;

mod coordinator;

mod oracle;
mod swarm;
mod world;

mod report;
mod run;

#[cfg(feature = "mutants")]
pub use run::hunt;
pub use run::{Catch, SeedReport, Totals, regression_seeds, run_seed, run_seeds};
