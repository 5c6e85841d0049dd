//! One run of schemathesis against a job: its files, its process, its report.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater_testkit::Schemathesis;

use super::place::Place;
use super::report::Report;
use super::run::{Amount, Asks, Run};
use crate::flink::tail;

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_hours(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const DOCUMENT: &str = "openapi.json";
const REPORT: &str = "report.json";
const HOOKS: &str = include_str!("hooks.py");

/// What is run.
pub(super) struct Fuzz<'a> {
    pub(super) schemathesis: &'a Schemathesis,
    pub(super) run: &'a Run,
    pub(super) amount: Amount,
    pub(super) place: &'a Place,
    /// For its files.
    pub(super) folder: &'a Path,
}

impl Fuzz<'_> {
    /// Asks the job that runs, to the end or until `given_up`.
    pub(super) fn ask(&self, given_up: &AtomicBool) -> Result<Report> {
        let document = self.place.server().get("/v1/openapi.json")?;
        std::fs::write(self.folder.join(DOCUMENT), document)?;
        std::fs::write(self.folder.join("hooks.py"), HOOKS)?;
        std::fs::write(self.folder.join("schemathesis.toml"), self.run.settings())?;
        let log = File::create(self.log())?;
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command.spawn().context("schemathesis does not start")?;
        let ended = finish(&mut child, given_up);
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let ended = ended?;
        let text = std::fs::read_to_string(self.folder.join(REPORT)).unwrap_or_default();
        ensure!(
            !text.is_empty(),
            "schemathesis ended with {ended} and left no report: {}",
            tail(&self.log())
        );
        Report::parse(&text)
    }

    /// What schemathesis printed.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("schemathesis.log")
    }

    fn command(&self) -> Command {
        let base = format!("http://{}", self.place.address());
        let mut command = self.schemathesis.command();
        command
            .current_dir(self.folder)
            .args(["--config-file", "schemathesis.toml", "run", DOCUMENT])
            .args(["--url", &base, "--report-json-path", REPORT, "--no-color"])
            .args(self.run.arguments(&self.amount));
        // The job answers on this machine, whatever the environment says of proxies.
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "127.0.0.1");
        }
        command.env("COLUMNS", "120");
        if let Some(token) = self.run.caller.token() {
            command.env("FUZZ_TOKEN", token);
        }
        if self.run.asks == Asks::Stops {
            command.env("FUZZ_STATUS", format!("{base}/v1/status"));
        }
        command
    }
}

/// Waits for the end, unless it is given up.
fn finish(child: &mut Child, given_up: &AtomicBool) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if given_up.load(Ordering::Relaxed) {
            bail!("the job is gone for good");
        }
        ensure!(started.elapsed() < PATIENCE, "schemathesis does not end");
        std::thread::sleep(LOOK_EVERY);
    }
}
