//! Composition root: commands, settings and wiring of a job binary.
//!
//! A job is a program whose `main` hands its function to [`main`]. The same program runs the job, prints its plan and
//! inspects its checkpoints. This is the only crate that reads the environment.

mod children;
pub mod commands;
pub mod exit;
mod holding;
pub mod inspect;
mod local_store;
pub mod logs;
mod own_metrics;
pub mod remote;
mod rest_client;
pub mod run;
mod server;
pub mod settings;
mod signals;
mod standby;
mod stop_point;
mod summary;
pub mod view;
mod worker;

pub use commands::main;

/// The allocator of every program with this feature, of its C and C++ parts too. That of glibc keeps for each thread what others
/// freed: with a budget of 128 MiB for state the process took 390 MiB, with this one 274.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
