//! Where the job answers: its processes at one address, one after another.
//!
//! Each has a name and a state of its own, so that whoever asks can tell one from the next. The rule: a job that was asked to
//! stop ends well, and none is left behind.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater_testkit::port;
use serde_json::Value;

use super::run::{Caller, READS, WRITES};
use crate::flink::tail;
use crate::http::StatusServer;
use crate::program::{JobCommand, wait};

/// A job runs, or has stopped, within this time.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An address and what answers there.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    address: SocketAddr,
    /// The file of tokens of a job that asks for one.
    tokens: Option<PathBuf>,
}

impl Place {
    /// A free address for jobs that `caller` asks, with their files in `folder`.
    pub(super) fn new(folder: &Path, caller: Caller) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let tokens = caller.is_asked().then(|| folder.join("tokens"));
        if let Some(file) = &tokens {
            std::fs::write(
                file,
                format!("read {READS} reader\nwrite {WRITES} writer\n"),
            )?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port::free()?)),
            tokens,
        })
    }

    /// Where the job is asked.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The job for the test itself, which may do everything.
    pub(super) fn server(&self) -> StatusServer {
        let token = self.tokens.as_ref().map(|_| WRITES);
        StatusServer::at(self.address, token)
    }

    /// Starts job `number`.
    pub(super) fn start(&self, number: u32) -> Result<Job> {
        let folder = self.folder.join(format!("job-{number}"));
        std::fs::create_dir_all(&folder)?;
        let mut job = JobCommand::new(&folder, &format!("fuzz-{number}"))?;
        job.arguments(&["run", "--quiet", "--parallelism", "2", "--slots", "2"]);
        job.arguments(&["--checkpoint-interval", "500ms"]);
        job.arguments(&["--rest-address", &self.address.to_string()]);
        if let Some(file) = &self.tokens {
            let file = file.to_str().context("the folder of the test is no text")?;
            job.arguments(&["--rest-authentication", "tokens", "--rest-tokens", file]);
        }
        job.parameter("job", "rest");
        let path = folder.join("log");
        let log = File::create(&path)?;
        let command = job.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("the job does not start")?;
        Ok(Job { child, log: path })
    }

    /// Waits until a job runs here, as long as `lives` says that one may.
    pub(super) fn wait(&self, mut lives: impl FnMut() -> Result<()>) -> Result<()> {
        let started = Instant::now();
        while !self.runs() {
            lives()?;
            ensure!(
                started.elapsed() < PATIENCE,
                "no job runs at {}",
                self.address
            );
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn runs(&self) -> bool {
        let status = self.status().ok();
        status.is_some_and(|status| status["phase"] == "running")
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.server().get("/v1/status")?)?)
    }

    /// What is wrong with a job that nobody should have ended; `None` = it runs as before, and stops when it is asked to.
    pub(super) fn harm(&self, job: &mut Job) -> Result<Option<String>> {
        if let Err(ended) = job.lives() {
            return Ok(Some(ended.to_string()));
        }
        let status = self.status().context("the job after its run")?;
        if status["phase"] != "running" || status["restarts"] != 0 {
            let (phase, restarts) = (&status["phase"], &status["restarts"]);
            let last = &status["last_failure"]["message"];
            return Ok(Some(format!(
                "the job is {phase} after {restarts} restarts, the last for {last}"
            )));
        }
        let body = r#"{"mode":"suspend"}"#;
        let stopped = self.server().post("/v1/stop", body, PATIENCE);
        stopped.context("the stop after the run")?;
        let ended = wait(&mut job.child, |_| ())?;
        Ok((!ended.success()).then(|| job.told(ended)))
    }
}

/// A process of the job.
#[derive(Debug)]
pub(super) struct Job {
    child: Child,
    log: PathBuf,
}

impl Job {
    /// Fails if it has ended.
    pub(super) fn lives(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(ended) => bail!("{}", self.told(ended)),
            None => Ok(()),
        }
    }

    /// How it ended, with the end of its log.
    fn told(&self, ended: ExitStatus) -> String {
        format!("the job ended with {ended}: {}", tail(&self.log))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Keeps a job at `place`, another one whenever it has ended well, until `over`. How many ended.
pub(super) fn keep(place: &Place, over: &AtomicBool) -> Result<u32> {
    let mut ended = 0;
    let mut job = place.start(ended)?;
    while !over.load(Ordering::Relaxed) {
        if let Some(status) = job.child.try_wait()? {
            ensure!(status.success(), "{}", job.told(status));
            ended += 1;
            job = place.start(ended)?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(ended)
}
