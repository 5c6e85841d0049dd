//! The profile: where the CPU time of our side goes, by `perf`, as a page of functions.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};

use super::Plan;
use super::ours::{self, Job};

/// Functions below this share are left out.
const LEAST_PERCENT: &str = "0.5";

/// Writes the profile of a run into `file`. Returns what to tell the person.
pub(super) fn write(plan: &Plan, file: &Path) -> Result<String> {
    let mut there = Command::new("perf");
    there
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !there.status().is_ok_and(|status| status.success()) {
        bail!("--profile needs perf: apt-get install linux-perf");
    }
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("perf.data");
    let mut run = ours::command_for(folder.path(), Job::Count, plan, plan.ours / 2)?;
    let mut record = Command::new("perf");
    record
        .args(["record", "--quiet", "--freq", "997", "--output"])
        .arg(&data);
    record.arg("--").arg(run.get_program()).args(run.get_args());
    run.stdin(Stdio::null());
    let log = fs::File::create(folder.path().join("perf.log"))?;
    let status = record
        .current_dir(folder.path())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    ensure!(
        status.success(),
        "perf ended with {status}; it may need: sysctl kernel.perf_event_paranoid=1"
    );
    let report = Command::new("perf")
        .args([
            "report",
            "--stdio",
            "--no-children",
            "--sort",
            "symbol",
            "--percent-limit",
        ])
        .arg(LEAST_PERCENT)
        .arg("--input")
        .arg(&data)
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&report.stdout);
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let lines = lines.collect::<Vec<_>>();
    fs::write(file, lines.join("\n") + "\n")?;
    Ok(format!(
        "profile in {}; it begins with\n{}",
        file.display(),
        lines[..lines.len().min(8)].join("\n")
    ))
}
