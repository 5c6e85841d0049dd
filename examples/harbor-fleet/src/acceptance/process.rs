//! The process of the job: started, asked, stopped and killed like any program.
//!
//! Where its tasks run on worker processes, it starts them itself, and they end with it. What kills the job kills all of them: a
//! worker that outlived it would end gently and have its say.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use highwater_testkit::S3;
use highwater_testkit::process::{ProcessKey, wait_until};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::runtime::Handle;

use super::args::Backing;

/// The signal with which a process ends itself at a stop point.
const ABORTED: i32 = 6;
const ANSWER: Duration = Duration::from_secs(2);
/// What a process says right before it ends itself at a stop point.
const LAST_WORDS: &str = "ended right before ";
/// A killed process is gone within this time.
const GONE: Duration = Duration::from_secs(10);
/// Slots of a process that runs tasks, where nothing needs more.
const SLOTS: u32 = 2;

/// What a job is started with.
#[derive(Clone, Debug)]
pub(super) struct JobSpec {
    /// Its identity.
    pub(super) name: String,
    /// Where its log and its run note are.
    pub(super) folder: PathBuf,
    /// Parameters of the job.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// Where its checkpoints are.
    pub(super) state: String,
    /// The S3 server.
    pub(super) s3_endpoint: String,
    /// Between two checkpoints.
    pub(super) interval: &'static str,
    /// Where its state rests.
    pub(super) backing: Backing,
    /// The worker processes that it starts; `None` = its tasks run in its own.
    pub(super) workers: Option<u32>,
    /// The largest parallelism that it comes to while it runs; 0 = that which it is started with.
    pub(super) parallelism_max: u32,
    /// The bytes of the disk of its own that local files are on; `None` = they are beside its log.
    pub(super) small_disk: Option<u64>,
}

/// What happens before a process starts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start<'a> {
    /// Where it ends itself.
    pub(super) stop_at: Option<&'a str>,
    /// The savepoint to which it goes back.
    pub(super) savepoint: Option<&'a str>,
}

/// Mounts a disk that nobody else sees, which is gone with the process, and becomes the job.
const ON_SMALL_DISK: &str = r#"mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@""#;

impl JobSpec {
    /// Its local files.
    pub(super) fn local(&self) -> PathBuf {
        self.folder.join("local")
    }

    /// The program as it is started.
    fn launcher(&self) -> anyhow::Result<Command> {
        let program = std::env::current_exe().context("the path of this program")?;
        let Some(bytes) = self.small_disk else {
            return Ok(Command::new(program));
        };
        std::fs::create_dir_all(self.local()).context("the directory of local files")?;
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", ON_SMALL_DISK, "sh"]);
        command
            .arg(bytes.to_string())
            .arg(self.local())
            .arg(program);
        Ok(command)
    }

    fn command(&self) -> anyhow::Result<Command> {
        let program = std::env::current_exe().context("the path of this program")?;
        Ok(self.with_store(Command::new(program)))
    }

    fn with_store(&self, mut command: Command) -> Command {
        command
            .env("HIGHWATER_S3_ENDPOINT", &self.s3_endpoint)
            .env("HIGHWATER_S3_REGION", S3::REGION)
            .env("HIGHWATER_S3_ACCESS_KEY_ID", S3::ACCESS_KEY_ID)
            .env("HIGHWATER_S3_SECRET_ACCESS_KEY", S3::SECRET_ACCESS_KEY)
            .stdin(Stdio::null());
        command
    }

    fn job_arguments(&self, command: &mut Command) {
        command
            .args(["--job", &self.name, "--state-dir", &self.state, "--run-dir"])
            .arg(self.folder.join("run"));
    }

    /// The arguments that say where tasks run. Workers have slots enough for the largest parallelism.
    fn room(&self, parallelism: u32) -> Vec<String> {
        let said = |flag: &str, number: u32| [flag.to_owned(), number.to_string()];
        let Some(workers) = self.workers else {
            return said("--slots", SLOTS).into();
        };
        let needed = parallelism.max(self.parallelism_max).div_ceil(workers);
        let slots = said("--slots", needed.max(SLOTS));
        [said("--workers", workers), slots].concat()
    }

    /// Starts the job.
    pub(super) fn start(&self, parallelism: u32, how: Start<'_>) -> anyhow::Result<Process> {
        let path = self.folder.join("job.log");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.context("job.log")?;
        let said = log.metadata().context("job.log")?.len();
        let mut command = self.with_store(self.launcher()?);
        command.args(["run", "--quiet"]);
        command.args(self.room(parallelism));
        command.args(self.backing.arguments(&self.local()));
        command.args(["--checkpoint-interval", self.interval]);
        command.args(["--restart-first-delay", "100ms", "--parallelism"]);
        command.arg(parallelism.to_string());
        self.job_arguments(&mut command);
        for (name, value) in &self.parameters {
            command.args(["--param", &format!("{name}={value}")]);
        }
        if let Some(name) = how.savepoint {
            command.args(["--from-savepoint", name, "--go-back"]);
        }
        if let Some(step) = how.stop_at {
            command.env("HIGHWATER_STOP_AT", step);
        }
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        Ok(Process {
            child: child.context("the job process")?,
            log: self.workers.is_some().then_some((path, said)),
        })
    }

    /// Runs one of the other commands of the job to its end.
    pub(super) fn call(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command()?;
        command.args(arguments);
        self.job_arguments(&mut command);
        let output = command.output().context("a command of the job")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("`{}` failed: {}", arguments.join(" "), said.trim());
        }
        Ok(())
    }

    /// The status of the running job; `None` = it does not answer now.
    pub(super) fn status(&self, rim: &Handle) -> Option<Value> {
        self.ask(rim, "/v1/status")
            .and_then(|text| serde_json::from_str(&text).ok())
            // The note of a killed process may name a port that another job has by now.
            .filter(|status: &Value| status["job"] == self.name.as_str())
    }

    /// What the running job answers to GET `path`.
    pub(super) fn ask(&self, rim: &Handle, path: &str) -> Option<String> {
        let note = self
            .folder
            .join("run")
            .join(format!("{}.address", self.name));
        let base = std::fs::read_to_string(note).ok()?;
        let url = format!("{}{path}", base.trim());
        rim.block_on(async {
            let client = reqwest::Client::builder().no_proxy().timeout(ANSWER);
            let answer = client.build().ok()?.get(url).send().await.ok()?;
            answer.text().await.ok()
        })
    }

    /// The number of the last checkpoint that the running process completed.
    pub(super) fn completed(&self, rim: &Handle) -> u64 {
        let status = self.status(rim);
        status.map_or(0, |status| {
            status["checkpoints"]["completed"].as_u64().unwrap_or(0)
        })
    }

    /// The parallelism that it runs at: that of its widest task; `None` = it does not answer now.
    pub(super) fn parallelism(&self, rim: &Handle) -> Option<u64> {
        let graph: Value = serde_json::from_str(&self.ask(rim, "/v1/graph")?).ok()?;
        let tasks = graph["tasks"].as_array()?.iter();
        tasks.filter_map(|task| task["parallelism"].as_u64()).max()
    }

    /// Whether records flow.
    pub(super) fn is_running(&self, rim: &Handle) -> bool {
        self.status(rim)
            .is_some_and(|status| status["phase"] == "running")
    }

    /// The job's log.
    pub(super) fn log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(self.folder.join("job.log")).context("job.log")
    }

    /// The end of the job's log.
    pub(super) fn tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// A running job.
pub(super) struct Process {
    child: Child,
    /// With workers: the log that all of them write, and its length before this process.
    log: Option<(PathBuf, u64)>,
}

/// How a process that was to end itself has ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stopped {
    /// It is gone.
    Whole(ExitStatus),
    /// A worker of it is gone, by a stop point.
    Worker,
}

impl Process {
    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("looking at the job process")
    }

    /// SIGKILL to it and to the workers that it has started, and waits for all to be gone.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        let workers = children_of(self.id());
        for worker in &workers {
            let worker = i32::try_from(worker.pid).ok().and_then(Pid::from_raw);
            match kill_process(worker.context("the number of a worker")?, Signal::KILL) {
                // One that has just ended is not there to be killed.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error).context("killing a worker"),
            }
        }
        self.child.kill().context("killing the job")?;
        self.child.wait().context("waiting for the killed job")?;
        let alive = || workers.iter().any(|worker| worker.is_alive());
        if !wait_until(GONE, || !alive()) {
            bail!("a killed worker does not end");
        }
        Ok(())
    }

    /// How it has come to its stop point, if it has.
    fn stopped(&mut self) -> anyhow::Result<Option<Stopped>> {
        if let Some(status) = self.ended()? {
            return Ok(Some(Stopped::Whole(status)));
        }
        let Some((path, before)) = &self.log else {
            return Ok(None);
        };
        let log = std::fs::read(path).context("job.log")?;
        let said = log.get(*before as usize..).unwrap_or_default();
        let is_last = String::from_utf8_lossy(said).contains(LAST_WORDS);
        Ok(is_last.then_some(Stopped::Worker))
    }

    /// Waits until it has ended, or a worker of it has ended itself at a stop point.
    pub(super) fn wait_stopped(&mut self, patience: Duration) -> anyhow::Result<Option<Stopped>> {
        let mut stopped = Ok(None);
        wait_until(patience, || {
            stopped = self.stopped();
            !matches!(stopped, Ok(None))
        });
        stopped
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self, patience: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let mut ended = Ok(None);
        wait_until(patience, || {
            ended = self.ended();
            !matches!(ended, Ok(None))
        });
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A run that was given up leaves no process behind; one that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The living processes that this one has started.
fn children_of(process: u32) -> Vec<ProcessKey> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = numbers.filter(|number| parent_of(*number) == Some(process));
    children.filter_map(ProcessKey::of).collect()
}

fn parent_of(process: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Whether a process ended itself at a stop point.
pub(super) fn is_stop_point(status: ExitStatus) -> bool {
    status.signal() == Some(ABORTED)
}
