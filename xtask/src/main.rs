//! The one door to every project command: `cargo xtask <command>`.
//!
//! People, scripts and CI come in here. Each command explains itself with `--help` and ends in one line
//! `VERDICT pass|fail: ...` with exit code 0 or 1 (2 when the command line is wrong). This file reads the command line
//! and hands on; what a command does lies in the module of its name.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool speaks on its standard streams"
)]

mod programs;
mod project;
mod run;
mod suite;
mod testbed;
mod tidy;
mod verdict;

use std::process::ExitCode;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use highwater_testkit::Service;

use crate::project::Project;
use crate::suite::Extent;
use crate::tidy::Stale;
use crate::verdict::Verdict;

/// The one door to every project command.
///
/// Every command ends in one line `VERDICT pass|fail: ...` and exits with 0 for pass, 1 for fail and 2 for a wrong
/// command line, so that a script needs to read nothing else.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Door {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the product: Harbor Fleet, a crash in the middle, and every alert once.
    ///
    /// Builds the payment fraud scorer without Kafka and RocksDB, feeds it a seeded stream from files, kills it once
    /// with `kill -9` while output is pending, lets it recover and compares what it wrote with an oracle that shares
    /// no code with it. Needs nothing but Rust.
    #[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --seed 7")]
    Demo {
        /// Arguments for the demo; `-- --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs what CI runs: format, house rules, lints, simulator, demo, all tests.
    ///
    /// A step that fails does not stop the later ones; a table at the end shows what each took. The build goes to
    /// CARGO_TARGET_DIR where that is set.
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --quick\n  \
                            cargo xtask test --only clippy --only tidy"
    )]
    Test {
        /// Only the steps of the inner loop: format, tidy, unit tests.
        #[arg(long)]
        quick: bool,
        /// Only this step; may be given several times. An unknown name lists the steps.
        #[arg(long, value_name = "STEP", conflicts_with = "quick")]
        only: Vec<String>,
    },
    /// Checks the house rules that no compiler knows.
    ///
    /// Layers, planes, module docs, file names and sizes, words, stubs, links, generated pages. Each finding names the
    /// file, the line and what to do instead. Files that were too long when their limit came are listed in
    /// `xtask/ratchet.txt` and may only shrink.
    #[command(
        after_help = "Examples:\n  cargo xtask tidy\n  cargo xtask tidy --self-test\n  \
                            cargo xtask tidy --write"
    )]
    Tidy {
        /// Plants each violation into a small workspace and sees that its rule, and no other, finds it.
        #[arg(long, group = "way")]
        self_test: bool,
        /// Writes the generated pages anew, then checks.
        #[arg(long, group = "way")]
        write: bool,
        /// Lists the rules with their reasons.
        #[arg(long, group = "way")]
        list: bool,
    },
    /// Runs the whole cluster in one thread from a seed, with faults, and asks the oracles.
    ///
    /// A failing seed is printed; the same seed fails the same way everywhere. Arguments go to the simulator.
    #[command(
        after_help = "Examples:\n  cargo xtask sim --seeds 10000\n  cargo xtask sim --mutants\n  \
                            cargo xtask sim --seed 4711 --trace"
    )]
    Sim {
        /// Arguments for the simulator; `-- --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs an acceptance test; without a name, lists those that exist.
    #[command(
        after_help = "Examples:\n  cargo xtask acceptance harbor-fleet --backend rocksdb --drill all --runs 20\n  \
                            cargo xtask acceptance cluster --profile ci --only X40,X50\n  \
                            cargo xtask acceptance backend\n  cargo xtask acceptance rest --quick"
    )]
    Acceptance {
        /// Which test.
        name: Option<String>,
        /// Arguments for the test.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs Harbor Fleet for long at half of what it can do, with more state than memory, killed every 20 to 60 seconds.
    ///
    /// On a real Kafka and a real S3 store, judged by the oracles of the drills. Memory that drifts, an orphan object or
    /// an open transaction fails it. Arguments go to the soak; `-- --help` lists them.
    #[command(
        after_help = "Examples:\n  cargo xtask soak --minutes 30 --backend rocksdb\n  \
                            cargo xtask soak --minutes 2"
    )]
    Soak {
        /// Arguments for the soak.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs a benchmark; without a name, lists those that exist.
    #[command(
        after_help = "Examples:\n  cargo xtask bench keyed-count\n  cargo xtask bench state --against flink\n  \
                            cargo xtask bench checkpoints\n  cargo xtask bench cluster --parts rescale,recovery"
    )]
    Bench {
        /// Which benchmark.
        name: Option<String>,
        /// Arguments for the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Starts and stops the real servers that drills need: Apache Kafka and an S3 store, on loopback.
    ///
    /// Tests start their own; this is for a shell. `up` prints NAME=value lines. The first start fetches what is missing
    /// into the user's cache; a tool that is missing is named with the line that installs it. Without a service each
    /// action means all of them.
    #[command(
        after_help = "Examples:\n  export $(cargo xtask testbed up | grep =)\n  cargo xtask testbed status\n  \
                            cargo xtask testbed down"
    )]
    Testbed {
        /// What to do.
        #[arg(value_parser = ["up", "down", "status"])]
        action: String,
        /// Which services.
        #[arg(value_parser = PossibleValuesParser::new(Service::ALL.map(Service::name)))]
        services: Vec<String>,
    },
}

fn main() -> ExitCode {
    let door = match Door::try_parse() {
        Ok(door) => door,
        Err(refusal) => return refuse(&refusal),
    };
    let verdict = run(&door.command).unwrap_or_else(|error| Verdict::Fail(format!("{error:#}")));
    println!("{verdict}");
    verdict.exit_code()
}

/// Shows help, or what is wrong with the command line.
fn refuse(refusal: &clap::Error) -> ExitCode {
    if let Err(error) = refusal.print() {
        eprintln!("cannot print: {error}");
    }
    if !refusal.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let message = refusal.to_string();
    let first = message.lines().next().unwrap_or_default();
    let verdict = Verdict::Usage(first.trim_start_matches("error: ").to_owned());
    println!("{verdict}");
    verdict.exit_code()
}

fn run(command: &Command) -> Result<Verdict> {
    let project = Project::load(&std::env::current_dir()?)?;
    match command {
        Command::Demo { arguments } => programs::demo(&project, arguments),
        Command::Test { quick: true, .. } => suite::run(&project, Extent::Quick, &[]),
        Command::Test { only, .. } => suite::run(&project, Extent::Full, only),
        Command::Tidy {
            self_test: true, ..
        } => tidy::run_self_test(),
        Command::Tidy { list: true, .. } => Ok(tidy::list()),
        Command::Tidy { write: true, .. } => tidy::run(&project, Stale::Write),
        Command::Tidy { .. } => tidy::run(&project, Stale::Report),
        Command::Sim { arguments } => programs::sim(&project, arguments),
        Command::Acceptance { name, arguments } => {
            programs::acceptance(&project, name.as_deref(), arguments)
        }
        Command::Soak { arguments } => programs::soak(&project, arguments),
        Command::Testbed { action, services } => {
            let words = [std::slice::from_ref(action), services.as_slice()].concat();
            testbed::run(&words)?;
            Ok(Verdict::Pass(format!("testbed {}", words.join(" "))))
        }
        Command::Bench { name, arguments } => programs::bench(&project, name.as_deref(), arguments),
    }
}
