//! `acceptance`: the drills of the payment fraud scorer on a real Kafka broker and a real S3 store.
//!
//! Called by `cargo xtask acceptance harbor-fleet` and `cargo xtask soak`. Every run is a job of its own, a process that is killed and judged
//! from the outside: by what a `read_committed` consumer sees, by the group's offsets, by the objects in the store. The
//! rule: a run in which nothing was pending at the kill proves nothing; it is repeated at another instant and never
//! counted. In reading order: the arguments, the servers (cluster, store), the process, the payments, one run with its
//! judge, the drills that are made of it (those of another parallelism and of the local disk apart), the boundary vectors, the lanes that run
//! them side by side, the soak, and the experiments on machines that are broken.

use std::process::ExitCode;

mod args;
mod cluster;
mod disk;
mod drill;
mod faults;
mod feed;
mod judge;
mod lanes;
mod process;
mod rescale;
mod scene;
mod soak;
mod store;
mod table;
mod testbed;
mod vectors;

use args::Args;

use crate::verdict::conclude;

/// Runs the drills that the command line asks for.
pub(crate) fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    conclude(lanes::run_all(&args))
}

/// Runs the experiments on a cluster that the command line asks for.
pub(crate) fn cluster() -> ExitCode {
    faults::main()
}

/// Runs the soak that the command line asks for.
pub(crate) fn soak() -> ExitCode {
    use clap::Parser as _;
    match soak::Soak::try_parse() {
        Ok(args) => conclude(soak::run(&args)),
        Err(error) => error.exit(),
    }
}
