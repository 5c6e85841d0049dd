//! The processes of a job: coordinators, workers, or one that is both.
//!
//! Each is this program again, as the job binary of production, with all files below one folder. The rule: a process is ended by
//! whoever holds it, at the latest when it is dropped, and by its own id.

use std::cell::Cell;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater_testkit::port;
use serde_json::Value;
use tempfile::TempDir;

use super::pulses::Pulses;
use crate::flink::tail;
use crate::http::StatusServer;
use crate::program::{Backend, JobCommand};

/// Whatever is waited for is there within this time.
const PATIENCE: Duration = Duration::from_mins(15);
/// A job that takes longer to its end hangs.
const LIFE_MAX: Duration = Duration::from_hours(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at a job that runs to its end by itself.
const LOOK_AT_END_EVERY: Duration = Duration::from_millis(50);
const JOB: &str = "cluster";

/// What all processes of a job are told.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// The parameter `job`.
    pub(super) job: &'static str,
    pub(super) parallelism: u32,
    /// Slots of each worker.
    pub(super) slots: u32,
    /// Settings beside the defaults, as arguments.
    pub(super) settings: Vec<&'static str>,
    /// Where state rests and the bytes of memory for it in each worker; `None` = by default.
    pub(super) state: Option<(Backend, u64)>,
    pub(super) parameters: Vec<(&'static str, String)>,
}

/// Where a coordinator takes workers, and where it is asked.
#[derive(Clone, Copy, Debug)]
struct Seat {
    control: SocketAddr,
    status: SocketAddr,
}

/// A job, its files, and the places of its coordinators.
#[derive(Debug)]
pub(super) struct Cluster {
    spec: Spec,
    folder: TempDir,
    seats: Vec<Seat>,
    /// How many processes were started.
    started: Cell<u32>,
}

/// What one process writes.
struct Files {
    log: PathBuf,
    report: PathBuf,
}

impl Cluster {
    /// A job with its files below `work` and places for so many coordinators.
    pub(super) fn new(work: &Path, spec: Spec, coordinators: usize) -> Result<Self> {
        let free = || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port::free()?)));
        let seats = (0..coordinators).map(|_| {
            anyhow::Ok(Seat {
                control: free()?,
                status: free()?,
            })
        });
        Ok(Self {
            spec,
            folder: tempfile::tempdir_in(work)?,
            seats: seats.collect::<Result<_>>()?,
            started: Cell::new(0),
        })
    }

    /// Where all processes of the job run.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where a worker of this name has its local files.
    pub(super) fn local(&self, name: &str) -> PathBuf {
        self.folder().join(format!("local-{name}"))
    }

    /// Starts all of the job in one process.
    pub(super) fn run(&self) -> Result<Process> {
        let (mut job, files) = (self.command("run", "run")?, self.files("run"));
        job.arguments(&["--quiet", "--slots", &self.spec.slots.to_string()]);
        job.parameter("report", files.report.display());
        start(&mut job, "run", files)
    }

    /// Starts the coordinator of a seat.
    pub(super) fn coordinator(&self, seat: usize) -> Result<Process> {
        let name = format!("coordinator-{seat}");
        let Seat { control, status } = self.seats[seat];
        let (control, status) = (control.to_string(), status.to_string());
        let mut job = self.command("coordinator", &name)?;
        job.arguments(&["--quiet", "--coordinator-name", &name]);
        job.arguments(&["--control-listen", &control, "--rest-address", &status]);
        start(&mut job, &name, self.files(&name))
    }

    /// Starts a worker, which knows all coordinators.
    pub(super) fn worker(&self, name: &str) -> Result<Process> {
        let (mut job, files) = (self.command("worker", name)?, self.files(name));
        let controls = self.seats.iter().map(|seat| seat.control.to_string());
        let controls = controls.collect::<Vec<_>>().join(",");
        job.arguments(&["--worker-name", name, "--control-address", &controls]);
        job.arguments(&["--slots", &self.spec.slots.to_string()]);
        job.parameter("report", files.report.display());
        start(&mut job, name, files)
    }

    /// The job for the process `name`, before what only its role is told.
    fn command(&self, role: &str, name: &str) -> Result<JobCommand> {
        let spec = &self.spec;
        let mut job = JobCommand::new(self.folder(), JOB)?;
        job.arguments(&[role, "--parallelism", &spec.parallelism.to_string()]);
        job.arguments(&spec.settings);
        if let Some((backend, budget)) = spec.state {
            job.backend(backend, budget, &self.local(name));
        }
        job.parameter("job", spec.job);
        for (parameter, value) in &spec.parameters {
            job.parameter(parameter, value);
        }
        Ok(job)
    }

    /// Files that no process before had.
    fn files(&self, name: &str) -> Files {
        let number = self.started.get();
        self.started.set(number + 1);
        let file = |kind: &str| self.folder().join(format!("{kind}-{number}-{name}"));
        Files {
            log: file("log"),
            report: file("report"),
        }
    }

    /// Where the coordinator of a seat is asked.
    pub(super) fn server(&self, seat: usize) -> StatusServer {
        StatusServer::at(self.seats[seat].status, None)
    }

    /// What the coordinator of a seat tells of the job; `None` = it does not answer now.
    pub(super) fn status(&self, seat: usize) -> Option<Value> {
        let told = self.server(seat).get("/v1/status").ok()?;
        serde_json::from_str(&told).ok()
    }

    /// Whether the coordinator of a seat says that the job is in this phase.
    pub(super) fn is(&self, seat: usize, phase: &str) -> bool {
        self.status(seat)
            .is_some_and(|status| status["phase"] == phase)
    }
}

fn start(job: &mut JobCommand, name: &str, files: Files) -> Result<Process> {
    let log = File::create(&files.log)?;
    let command = job.command();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn();
    Ok(Process {
        child: child.with_context(|| format!("{name} does not start"))?,
        name: name.to_owned(),
        log: files.log,
        pulses: Pulses::of(files.report),
    })
}

/// A process of the job.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    pulses: Pulses,
}

impl Process {
    /// Its id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended; `before` says what it was needed for.
    pub(super) fn lives(&mut self, before: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let (name, said) = (&self.name, tail(&self.log));
            bail!("{name} ended with {status} before: {before}: {said}");
        }
        Ok(())
    }

    /// Whether it has ended, which it must do well.
    fn has_ended(&mut self) -> Result<bool> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(false);
        };
        let name = &self.name;
        ensure!(
            status.success(),
            "{name} ended with {status}: {}",
            tail(&self.log)
        );
        Ok(true)
    }

    /// How often its log has this text.
    pub(super) fn said(&self, text: &str) -> Result<usize> {
        Ok(std::fs::read_to_string(&self.log)?.matches(text).count())
    }

    /// Ends it at once: SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What all of these have noted of themselves until now.
pub(super) fn noted(crew: &mut [Process]) -> Result<Vec<&Pulses>> {
    for process in crew.iter_mut() {
        process.pulses.look()?;
    }
    Ok(crew.iter().map(|process| &process.pulses).collect())
}

/// Waits for something while all of these live, and looks for it often.
pub(super) fn wait(
    what: &str,
    crew: &mut [Process],
    done: impl FnMut(&mut [Process]) -> Result<bool>,
) -> Result<()> {
    wait_each(LOOK_EVERY, what, crew, done)
}

/// Waits for something while all of these live, and looks for it each `every`.
pub(super) fn wait_each(
    every: Duration,
    what: &str,
    crew: &mut [Process],
    mut done: impl FnMut(&mut [Process]) -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    while !done(crew)? {
        for process in crew.iter_mut() {
            process.lives(what)?;
        }
        ensure!(started.elapsed() < PATIENCE, "this did not come: {what}");
        std::thread::sleep(every);
    }
    Ok(())
}

/// Lets a job run on for a while; all of these must outlive it.
pub(super) fn run_on(crew: &mut [Process], time: Duration) -> Result<()> {
    let started = Instant::now();
    wait("time to pass", crew, |_| Ok(started.elapsed() >= time))
}

/// Waits until all of these have ended, each of them well; `look` looks at them meanwhile.
pub(super) fn finish(crew: &mut [Process], mut look: impl FnMut(&[Process])) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut all_ended = true;
        for process in crew.iter_mut() {
            all_ended &= process.has_ended()?;
        }
        if all_ended {
            return Ok(());
        }
        ensure!(started.elapsed() < LIFE_MAX, "the job does not end");
        look(crew);
        std::thread::sleep(LOOK_AT_END_EVERY);
    }
}
