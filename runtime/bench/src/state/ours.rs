//! Our side: this program again, as the job binary of production, inside the limit.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Result, bail};

use super::figures::Measured;
use super::{Plan, Work};
use crate::cgroup::Cgroup;
use crate::flink::tail;
use crate::http::Note;
use crate::program::{JobCommand, wait};
use crate::report::{self, Run};
use crate::watch::{Seen, Watch};

const JOB: &str = "state";

/// Runs the job to its end inside the limit, and measures it.
pub(super) fn run(plan: &Plan, work: &Work) -> Result<Measured> {
    let (run, seen) = finish(plan, work)?;
    Measured::of(run, seen, work, plan)
}

/// Runs the job to its end inside the limit: for its results, however short it is.
pub(super) fn finish(plan: &Plan, work: &Work) -> Result<(Run, Seen)> {
    let folder = tempfile::tempdir_in(&plan.work)?;
    let group = Cgroup::with_limit(plan.limit)?;
    let log_path = folder.path().join("log");
    let log = File::create(&log_path)?;
    let report = folder.path().join("report");
    let mut job = JobCommand::new(folder.path(), JOB)?;
    job.arguments(&["run", "--quiet", "--fresh", "--log-level", "warn"]);
    job.backend(plan.backend, plan.budget, &folder.path().join("local"));
    job.arguments(&["--parallelism", "2", "--slots", "2"]);
    job.arguments(&[
        "--checkpoint-interval",
        &format!("{}s", plan.checkpoint_seconds),
    ]);
    job.parameter("job", JOB);
    job.parameter("report", report.display());
    for (name, value) in work.arguments(plan.seed) {
        job.parameter(name, value);
    }
    let mut child = group
        .around(job.command())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let note = Note::of(&folder.path().join("run"), JOB);
    let mut watch = Watch::new(&group, folder.path(), Some(note));
    let status = wait(&mut child, |pid| watch.look(pid))?;
    if !status.success() {
        let killed = group.killed_for_memory()?;
        let tail = tail(&log_path);
        bail!("the job ended with {status}, {killed} processes were ended for memory: {tail}");
    }
    Ok((report::read(&report)?, watch.end()?))
}
