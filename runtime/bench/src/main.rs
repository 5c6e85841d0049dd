//! The benchmarks as a program, and the jobs that they measure.
//!
//! `cargo xtask bench` starts it with the name of a benchmark, `cargo xtask acceptance` with that of an acceptance test; either
//! starts this same program as a job binary (`run ...`), so that what is measured or judged is a process of production:
//! coordinator, worker, status server, metrics. The rule: a benchmark compares results before it says a time, and prints
//! every bar with its value, met or missed.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark owns a clock, waits for processes of other programs, and speaks on its standard streams"
)]

mod backend;
mod bars;
mod cgroup;
mod checkpoints;
mod cluster;
mod flink;
mod gated;
mod http;
mod instructions;
mod job;
mod keyed_count;
mod latency;
mod line;
mod machine;
mod machine_clock;
mod metrics;
mod one_thread;
mod open_loop;
mod process_figures;
mod program;
mod report;
mod rest;
mod spread;
mod state;
mod state_job;
mod tally;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = std::env::args_os().nth(1);
    match command.as_ref().and_then(|command| command.to_str()) {
        Some("keyed-count") => keyed_count::main(),
        Some("instructions") => instructions::main(),
        Some("state") => state::main(),
        Some("backend") => backend::main(),
        Some("rest") => rest::main(),
        Some("checkpoints") => checkpoints::main(),
        Some("cluster") => cluster::main(),
        Some("help" | "--help" | "-h") | None => {
            println!(
                "benchmarks: keyed-count, instructions, state, checkpoints, cluster; acceptance tests: backend, rest; \
                 every other command is that of a job binary"
            );
            ExitCode::SUCCESS
        }
        Some(_) => tally::finish(highwater::main(job::build)),
    }
}
