//! The peer's side: the same count as a Flink job with its state on the heap.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::Plan;
use super::ours::Job;
use crate::flink::{Flink, tail};
use crate::program::wait;
use crate::report::{self, Run};

const HEAP_MIB: u64 = 2_048;

/// What the job is told besides what to count.
const SETTINGS: &[&str] = &[
    "state.backend.type=hashmap",
    "execution.checkpointing.interval=10s",
    "taskmanager.memory.managed.size=64m",
];

/// Runs a job to its end.
pub(super) fn run(flink: &Flink, job: Job, plan: &Plan, records: u64) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let log_path = folder.path().join("log");
    let log = File::create(&log_path)?;
    let report = folder.path().join("report");
    let mut command = flink.command(folder.path(), "KeyedCount", HEAP_MIB);
    command.args(SETTINGS).arg(format!("job={}", job.name()));
    command.arg(format!("count={records}"));
    command.arg(format!("keys={}", plan.keys));
    command.arg(format!("seed={}", plan.seed));
    command.arg(format!("report={}", report.display()));
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = command.spawn().context("java does not start")?;
    let status = wait(&mut child, |_| {})?;
    ensure!(
        status.success(),
        "Flink ended with {status}: {}",
        tail(&log_path)
    );
    report::read(&report)
}
