//! Composition root: commands, settings and wiring of a job binary.
//!
//! A job is a program whose `main` hands its function to [`main`]. The same program runs the job, prints its plan and
//! inspects its checkpoints. This is the only crate that reads the environment.

pub mod commands;
pub mod exit;
pub mod inspect;
mod local_store;
pub mod logs;
pub mod remote;
pub mod run;
pub mod settings;
mod signals;
mod stop_point;
mod summary;
pub mod view;

pub use commands::main;
