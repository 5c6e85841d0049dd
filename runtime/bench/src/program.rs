//! Programs that a benchmark starts: our own job binary with its settings, how long to wait, and the verdict at the end.
//!
//! Used by every benchmark that runs whole processes. It ends none that it did not start.

use std::fmt::Display;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use highwater_testkit::S3;

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_hours(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Our backends of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// All state in memory.
    Heap,
    /// A cache above RocksDB on local disk.
    Rocksdb,
}

impl Backend {
    /// Its name as a setting.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Rocksdb => "rocksdb",
        }
    }
}

/// A command of this program as a job binary, as a person would give it.
#[derive(Debug)]
pub(crate) struct JobCommand(Command);

impl JobCommand {
    /// For the job `name` with state, run note and everything else in `folder`.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.current_dir(folder).args(["--job", name]);
        command.arg("--run-dir").arg(folder.join("run"));
        command.arg("--state-dir").arg(folder.join("state"));
        Ok(Self(command))
    }

    /// As [`JobCommand::new`], with state in a real S3 store.
    pub(crate) fn in_s3(folder: &Path, name: &str, s3: &S3) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.current_dir(folder).args(["--job", name]);
        command.arg("--run-dir").arg(folder.join("run"));
        command.args(["--state-dir", &format!("s3://{}/bench", S3::BUCKET)]);
        command.env("HIGHWATER_S3_ENDPOINT", s3.endpoint());
        command.env("HIGHWATER_S3_REGION", S3::REGION);
        command.env("HIGHWATER_S3_ACCESS_KEY_ID", S3::ACCESS_KEY_ID);
        command.env("HIGHWATER_S3_SECRET_ACCESS_KEY", S3::SECRET_ACCESS_KEY);
        Ok(Self(command))
    }

    /// State in this backend with a budget in bytes; behind the argument `run`.
    pub(crate) fn backend(&mut self, backend: Backend, budget: u64, local: &Path) {
        self.0.arg("--state-memory").arg(format!("{budget}B"));
        // What is the default is not said, so that a program that knows one backend only can be measured too.
        if backend != Backend::Heap {
            self.0.args(["--state-backend", backend.name()]);
            self.0.arg("--state-local-dir").arg(local);
        }
    }

    /// More arguments.
    pub(crate) fn arguments(&mut self, more: &[&str]) {
        self.0.args(more);
    }

    /// A parameter of the job.
    pub(crate) fn parameter(&mut self, name: &str, value: impl Display) {
        self.0.arg("--param").arg(format!("{name}={value}"));
    }

    /// The command.
    pub(crate) const fn command(&mut self) -> &mut Command {
        &mut self.0
    }
}

/// Waits for a process to end and looks at it meanwhile.
pub(crate) fn wait(child: &mut Child, mut look: impl FnMut(u32)) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!(
                "the job did not end within {} minutes",
                PATIENCE.as_secs() / 60
            );
        }
        look(child.id());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Refuses a folder that lies in memory: a benchmark of a disk needs one.
pub(crate) fn disk_below(folder: &Path) -> Result<()> {
    let output = Command::new("stat")
        .args(["--file-system", "--format", "%T"])
        .arg(folder)
        .output()
        .context("stat does not start")?;
    ensure!(
        output.status.success(),
        "{}: {}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let kind = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        !["tmpfs", "ramfs"].contains(&kind.as_str()),
        "{} lies in memory ({kind}); name a folder on a disk with --work-dir",
        folder.display()
    );
    Ok(())
}

/// Shows help, or what is wrong with the command line.
pub(crate) fn refuse(refusal: &clap::Error) -> ExitCode {
    let told = refusal.print();
    let is_wrong = told.is_err() || refusal.use_stderr();
    ExitCode::from(if is_wrong { 2 } else { 0 })
}

/// Says the verdict on the bars that were missed.
pub(crate) fn tell(missed: Result<Vec<String>>) -> ExitCode {
    let (word, text) = match missed {
        Ok(missed) if missed.is_empty() => ("pass", "every bar is met".to_owned()),
        Ok(missed) => ("fail", format!("missed: {}", missed.join("; "))),
        Err(error) => ("fail", format!("{error:#}").replace('\n', " ")),
    };
    println!("VERDICT {word}: {text}");
    ExitCode::from(u8::from(word == "fail"))
}
