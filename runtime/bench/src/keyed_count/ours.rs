//! Our side: this program again, as the job binary of production, and what is asked of it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{Idle, Plan};
use crate::process_figures::{ProcessFigures, waited_for_cpu};
use crate::program::wait;
use crate::report::{self, Run};
use crate::spread::Spread;

/// How often a start is measured.
const STARTS: usize = 5;
/// How long the latency is measured: two checkpoints.
const LATENCY_SECONDS: f64 = 25.0;
const LATENCY_WARM_UP_MILLIS: u64 = 4_000;

/// Which job of a side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// The count by key.
    Count,
    /// The generator alone.
    Generate,
}

impl Job {
    /// Its name as a parameter, on both sides.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Generate => "generate",
        }
    }
}

/// The command that starts a job in `folder`, as a person would.
fn command(folder: &Path, job: &str, parameters: &[(&str, String)]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.current_dir(folder).args(["--job", "keyed-count"]);
    command.arg("--state-dir").arg(folder.join("state"));
    command.arg("--run-dir").arg(folder.join("run"));
    command.args(["run", "--quiet", "--fresh", "--log-level", "error"]);
    command.args(["--parallelism", "2", "--slots", "2"]);
    command.args(["--checkpoint-interval", "10s"]);
    let report = folder.join("report").display().to_string();
    let given = [("job", job.to_owned()), ("report", report)];
    for (name, value) in given.iter().chain(parameters) {
        command.arg("--param").arg(format!("{name}={value}"));
    }
    command.stdin(Stdio::null());
    Ok(command)
}

fn run_with(job: &str, parameters: &[(&str, String)], look: impl FnMut(u32)) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let mut child = command(folder.path(), job, parameters)?.spawn()?;
    let status = wait(&mut child, look)?;
    ensure!(status.success(), "the job {job} ended with {status}");
    report::read(&folder.path().join("report"))
}

fn parameters(plan: &Plan, records: u64) -> Vec<(&'static str, String)> {
    vec![
        ("count", records.to_string()),
        ("keys", plan.keys.to_string()),
        ("seed", plan.seed.to_string()),
    ]
}

/// The command that starts a job in `folder`.
pub(super) fn command_for(folder: &Path, job: Job, plan: &Plan, records: u64) -> Result<Command> {
    command(folder, job.name(), &parameters(plan, records))
}

/// Runs a job to its end.
pub(super) fn run(job: Job, plan: &Plan, records: u64) -> Result<Run> {
    run_with(job.name(), &parameters(plan, records), |_| {})
}

/// What the latency run came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct LatencyRun {
    /// Records a second.
    pub(super) rate: f64,
    pub(super) latency: report::Latency,
    /// How long the slot threads could run and had no processor, as a share of the run.
    pub(super) waited: f64,
}

/// Latency at `rate` records a second.
pub(super) fn latency(plan: &Plan, rate: f64) -> Result<LatencyRun> {
    ensure!(
        rate >= 1_000.0,
        "the runs were too short to know the rate: give more records"
    );
    let rate = rate.round();
    let mut given = parameters(plan, (rate * LATENCY_SECONDS) as u64);
    given.push(("rate", rate.to_string()));
    given.push(("skip", LATENCY_WARM_UP_MILLIS.to_string()));
    let mut waited = Duration::ZERO;
    let run = run_with("latency", &given, |pid| {
        // A process that is just ending has nothing more to say.
        if let Ok(now) = waited_for_cpu(pid, "slot-") {
            waited = waited.max(now);
        }
    })?;
    Ok(LatencyRun {
        rate,
        latency: run.latency.context("the report has no latency")?,
        waited: waited.as_secs_f64() / 2.0 / LATENCY_SECONDS,
    })
}

/// Seconds from before the start of a process to its first output, over several starts.
pub(super) fn starts(job: &str, given: &[(&str, String)]) -> Result<Spread> {
    let mut seconds = Vec::new();
    for _ in 0..STARTS {
        let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let run = run_with(job, given, |_| {})?;
        seconds.push(run.first_unix_nanos.saturating_sub(before) as f64 / 1e9);
    }
    Ok(Spread::of(seconds.into_iter()))
}

/// Seconds to the first output with the generator.
pub(super) fn first_output(plan: &Plan) -> Result<Spread> {
    starts("count", &parameters(plan, 1_000_000))
}

/// Memory and CPU of a job that has nothing to do.
pub(super) fn idle() -> Result<Idle> {
    const SETTLE: Duration = Duration::from_secs(2);
    const WATCH: Duration = Duration::from_secs(5);
    let folder = tempfile::tempdir()?;
    let mut child = command(folder.path(), "idle", &[])?.spawn()?;
    std::thread::sleep(SETTLE);
    let before = ProcessFigures::of(child.id());
    std::thread::sleep(WATCH);
    let after = ProcessFigures::of(child.id());
    child.kill()?;
    child.wait()?;
    let (before, after) = (before?, after?);
    let used = after.cpu.saturating_sub(before.cpu);
    Ok(Idle {
        resident_mib: after.resident_kib as f64 / 1_024.0,
        cores: used.as_secs_f64() / WATCH.as_secs_f64(),
    })
}
