//! The job that sweeps: started, told how far to go, asked for a checkpoint, ended.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater_testkit::S3;
use serde_json::Value;
use tempfile::TempDir;

use super::figures::Checkpoint;
use crate::flink::tail;
use crate::gated::allow;
use crate::http::Note;
use crate::metrics::Metrics;
use crate::program::{Backend, JobCommand};

/// Whatever is waited for is there within this time.
const PATIENCE: Duration = Duration::from_hours(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const JOB: &str = "sweep";
const COMPACTIONS: &str = "highwater_store_compactions";
/// So many looks in a row without a compaction: figures of a task are a second old at most.
const LOOKS_AT_QUIET: u32 = 150;
/// The interval of a job whose checkpoints are asked for.
pub(super) const ONLY_WHEN_ASKED: &str = "1d";

/// What all processes of one size share.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) s3: S3,
    pub(super) folder: TempDir,
    pub(super) backend: Backend,
    /// Bytes for state.
    pub(super) budget: u64,
    pub(super) keys: u64,
    pub(super) seed: u64,
}

impl Setup {
    pub(super) fn local(&self) -> PathBuf {
        self.folder.path().join("local")
    }

    /// The job, before its own arguments.
    fn command(&self, interval: &str) -> Result<JobCommand> {
        let mut job = JobCommand::in_s3(self.folder.path(), JOB, &self.s3)?;
        job.arguments(&["run", "--quiet", "--log-level", "warn"]);
        job.backend(self.backend, self.budget, &self.local());
        job.arguments(&["--parallelism", "2", "--slots", "2"]);
        job.arguments(&["--checkpoint-interval", interval]);
        job.parameter("job", "state");
        job.parameter("keys", self.keys);
        job.parameter("seed", self.seed);
        Ok(job)
    }

    /// Starts a command with its output in a log.
    fn spawn(&self, job: &mut JobCommand, log: &str) -> Result<Child> {
        let log = File::create(self.folder.path().join(log))?;
        let command = job.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.spawn().context("the job does not start")
    }
}

/// A process of the job.
pub(super) struct Running<'a> {
    setup: &'a Setup,
    child: Child,
    note: Note,
    /// Which process of the job, from 0.
    number: u32,
    started: Instant,
    /// Records that the job may read in its life.
    goal: u64,
    /// Those that it had read when this process began.
    began: u64,
}

impl<'a> Running<'a> {
    /// Starts process `number`, which finds `goal` records read and takes a checkpoint in each `interval`.
    pub(super) fn start(setup: &'a Setup, number: u32, goal: u64, interval: &str) -> Result<Self> {
        let mut job = setup.command(interval)?;
        job.parameter("goal", setup.folder.path().join("goal").display());
        let report = setup.folder.path().join(format!("report-{number}"));
        job.parameter("report", report.display());
        let started = Instant::now();
        let child = setup.spawn(&mut job, &format!("log-{number}"))?;
        let mut running = Self {
            setup,
            child,
            note: Note::of(&setup.folder.path().join("run"), JOB),
            number,
            started,
            goal,
            began: goal,
        };
        running.wait("the job runs", |running| {
            let status = running.status().ok();
            Ok(status.is_some_and(|status| status["phase"] == "running"))
        })?;
        Ok(running)
    }

    /// From the start of the process until now.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Records that the job may read.
    pub(super) const fn goal(&self) -> u64 {
        self.goal
    }

    fn report(&self) -> PathBuf {
        self.setup
            .folder
            .path()
            .join(format!("report-{}", self.number))
    }

    fn log(&self) -> PathBuf {
        self.setup
            .folder
            .path()
            .join(format!("log-{}", self.number))
    }

    pub(super) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.note.get("/v1/status")?)?)
    }

    pub(super) fn metrics(&self) -> Result<Metrics> {
        self.metrics_of("")
    }

    /// Those with a label, such as `operator="book"`.
    pub(super) fn metrics_of(&self, label: &str) -> Result<Metrics> {
        Ok(Metrics::parse_with(&self.note.get("/metrics")?, label))
    }

    /// Waits for something; the job must live as long.
    fn wait(&mut self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !done(self)? {
            self.lives(what)?;
            ensure!(started.elapsed() < PATIENCE, "this did not come: {what}");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Lets `records` more be read.
    pub(super) fn allow(&mut self, records: u64) -> Result<()> {
        self.goal += records;
        let goal = self.setup.folder.path().join("goal");
        Ok(allow(&goal, self.goal)?)
    }

    /// Fails if the process has ended; `before` says what it was needed for.
    pub(super) fn lives(&mut self, before: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = tail(&self.log());
            bail!("the job ended with {status} before: {before}: {said}");
        }
        Ok(())
    }

    /// Lets `records` more be read, and waits until they are in the state.
    pub(super) fn advance(&mut self, records: u64) -> Result<()> {
        self.allow(records)?;
        let due = self.goal - self.began;
        self.wait("the records are read", |running| {
            Ok(running.records()? >= due)
        })?;
        let found = self.records()?;
        ensure!(found == due, "the job put out {found} records of {due}");
        Ok(())
    }

    /// Records that this process has put out, from the last line of its report.
    pub(super) fn records(&self) -> Result<u64> {
        let text = std::fs::read_to_string(self.report())?;
        // The line that is being written may be torn.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let last = whole
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("at "));
        let records = last.and_then(|rest| rest.split(' ').next());
        records.map_or(Ok(0), |records| records.parse().context("the report"))
    }

    /// Waits until local stores have no compaction to do: what those rewrite goes into the next checkpoint.
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut quiet = 0;
        self.wait("the end of compaction", |running| {
            let compactions = running.metrics()?.sum(COMPACTIONS);
            quiet = if compactions.is_none_or(|count| count == 0.0) {
                quiet + 1
            } else {
                0
            };
            Ok(quiet >= LOOKS_AT_QUIET)
        })
    }

    /// Takes a checkpoint and says what it cost.
    pub(super) fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.note.post("/v1/checkpoints", "", PATIENCE)?;
        let status = self.status()?;
        let of = |name: &str| {
            let value = status["checkpoints"][name].as_u64();
            value.with_context(|| format!("the status has no checkpoints.{name}"))
        };
        Ok(Checkpoint {
            bytes: of("bytes")?,
            seconds: of("duration_ms")? as f64 / 1e3,
        })
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops with state kept. Returns the report of this process.
    pub(super) fn stop(mut self) -> Result<crate::report::Run> {
        let body = r#"{"mode":"suspend"}"#;
        self.note.post("/v1/stop", body, PATIENCE)?;
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "the stopped job ended with {status}: {}",
            tail(&self.log())
        );
        crate::report::read(&self.report())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A run that was given up leaves no process behind; one that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
