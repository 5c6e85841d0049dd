//! `cluster`: two coordinators and three workers as real processes on machines of their own, with everything between them broken that
//! the reliability plan names for real processes.
//!
//! Called by `cargo xtask acceptance cluster`. A machine is a network namespace; Kafka, the S3 server and this program are on one of
//! their own, the hub. The ledger of the drills judges every run. The rule: a fault that met nothing is no fault, and its run is made
//! again. In reading order: the experiments as data, how long things last, the arguments; machines, their network, cuts, processes,
//! certificates, what all runs share; where processes freeze and under what conditions; the processes at work, the history of `head`,
//! what shows that a run is right, the scripts, and the runs with what comes of them.

use std::process::{Command, ExitCode, Stdio};

mod args;
mod arming;
mod catalogue;
mod certificates;
mod chain;
mod changes;
mod conditions;
mod cut;
mod evidence;
mod fleet;
mod ground;
mod machine;
mod network;
mod outcome;
mod process;
mod run;
mod script;
mod spans;

use args::Args;
use catalogue::{EXPERIMENTS, Player};

use crate::verdict::{conclude, say};

/// The exit code of a call that has to be mended.
const USAGE: u8 = 2;
/// The programs that machines are made and cut with, and what brings them on Debian.
const TOOLS: [(&str, &str, &str); 3] = [
    ("ip", "-V", "iproute2"),
    ("nsenter", "--version", "util-linux"),
    ("iptables", "--version", "iptables"),
];

/// Runs the experiments that the command line asks for.
pub(super) fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    if args.list {
        return list(&args);
    }
    if let Err(error) = args.wanted() {
        return refuse(&format!("{error:#}"));
    }
    if let Some(missing) = missing() {
        return refuse(&missing);
    }
    conclude(run::run_all(&args))
}

/// What this host lacks, with the next step.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        let text = "network namespaces are made by root: run it as `sudo -E env PATH=\"$PATH\" cargo xtask acceptance cluster`";
        return Some(text.to_owned());
    }
    let runs = |tool: &str, flag: &str| {
        let mut command = Command::new(tool);
        command
            .arg(flag)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let lacking = TOOLS.iter().find(|(tool, flag, _)| !runs(tool, flag));
    lacking.map(|(tool, _, package)| format!("`{tool}` is not there: apt-get install {package}"))
}

/// Says what has to be mended before anything can be run.
fn refuse(why: &str) -> ExitCode {
    say(&format!("VERDICT fail: {why}\n"));
    ExitCode::from(USAGE)
}

/// Shows all experiments, and how long things last.
fn list(args: &Args) -> ExitCode {
    say(&format!(
        "{}\n{}",
        catalogue::table(args.profile),
        spans::table()
    ));
    let here = EXPERIMENTS
        .iter()
        .filter(|one| matches!(one.player, Player::Processes(_)));
    let ways: usize = EXPERIMENTS.iter().map(|one| one.cases().len()).sum();
    conclude(Ok(format!(
        "{} experiments, {} of them here in {ways} ways",
        EXPERIMENTS.len(),
        here.count()
    )))
}
