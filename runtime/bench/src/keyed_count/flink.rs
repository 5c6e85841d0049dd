//! The peer: one Flink job in one JVM, fetched once with Maven, compiled, and started as tuned as it gets here.
//!
//! Tuned means what its users find: the parallel collector (the default one costs heap state about half), object
//! reuse, state on the heap. The mini cluster listens on loopback only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use highwater_testkit::cache::{Cache, run_logged};
use highwater_testkit::{TestbedError, tool};
use tempfile::TempDir;

use super::Plan;
use super::ours::{Job, wait};
use super::report::{self, Run};

/// The version of Flink, as the page says it.
pub(super) const VERSION: &str = "2.3.0";

const POM: &str = include_str!("../../flink/pom.xml");
const SOURCE: &str = include_str!("../../flink/KeyedCount.java");
const LOGGING: &str = include_str!("../../flink/log4j2.xml");

/// Names the cache folder: changes with the jars.
const FOLDER: &str = "flink-2.3.0-keyed-count";

/// Parts of Java that Flink reaches into, opened as its own scripts do.
const OPENED: &[&str] = &[
    "java.lang",
    "java.lang.reflect",
    "java.io",
    "java.math",
    "java.net",
    "java.nio",
    "java.text",
    "java.time",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
    "sun.nio.ch",
];

/// What the job is told besides what to count.
const SETTINGS: &[&str] = &[
    "parallelism.default=2",
    "pipeline.object-reuse=true",
    "state.backend.type=hashmap",
    "execution.checkpointing.interval=10s",
    "execution.checkpointing.mode=EXACTLY_ONCE",
    "jobmanager.bind-host=127.0.0.1",
    "taskmanager.bind-host=127.0.0.1",
    "taskmanager.memory.managed.size=64m",
];

/// Flink, ready to run.
pub(super) struct Flink {
    jars: PathBuf,
    classes: TempDir,
}

impl Flink {
    /// Fetches the jars where they are not there yet, and compiles the job.
    pub(super) fn prepare() -> Result<Self> {
        tool::java()?;
        let jars = Cache::of_user()?.folder(FOLDER, fetch)?.join("lib");
        let classes = tempfile::tempdir()?;
        let source = classes.path().join("KeyedCount.java");
        fs::write(&source, SOURCE)?;
        fs::write(classes.path().join("log4j2.xml"), LOGGING)?;
        let mut compile = Command::new("java");
        compile.arg("-cp").arg(jars.join("*"));
        compile.arg("org.eclipse.jdt.internal.compiler.batch.Main");
        compile.args(["-17", "-nowarn", "-proc:none", "-cp"]);
        compile
            .arg(class_path(&jars)?)
            .arg("-d")
            .arg(classes.path());
        compile.arg(&source);
        let log = classes.path().join("compile.log");
        run_logged("compilation of the Flink job", &mut compile, &log)?;
        Ok(Self { jars, classes })
    }

    /// Runs a job to its end.
    pub(super) fn run(&self, job: Job, plan: &Plan, records: u64) -> Result<Run> {
        let folder = tempfile::tempdir()?;
        let log_path = folder.path().join("log");
        let log = File::create(&log_path)?;
        let mut command = self.command(folder.path());
        let report = folder.path().join("report");
        command.arg(format!("job={}", job.name()));
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
        let told = fs::read_to_string(&log_path)?;
        let tail = told.lines().rev().take(20).collect::<Vec<_>>();
        ensure!(
            status.success(),
            "Flink ended with {status}: {}",
            tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
        );
        report::read(&report)
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("java");
        command.current_dir(folder);
        command.args(["-Xmx2g", "-XX:+UseParallelGC"]);
        for package in OPENED {
            command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
        }
        command.arg(format!("-Djava.io.tmpdir={}", folder.display()));
        let mut path = self.classes.path().as_os_str().to_owned();
        path.push(":");
        path.push(self.jars.join("*"));
        command
            .arg("-cp")
            .arg(path)
            .arg("KeyedCount")
            .args(SETTINGS);
        let folder = folder.display();
        command.arg(format!(
            "execution.checkpointing.dir=file://{folder}/checkpoints"
        ));
        command.arg(format!("io.tmp.dirs={folder}"));
        command
    }
}

/// Every jar by name: the compiler reads no wildcard.
fn class_path(jars: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(jars)? {
        names.push(entry?.path().display().to_string());
    }
    names.sort();
    Ok(names.join(":"))
}

fn fetch(staging: &Path) -> Result<(), TestbedError> {
    tool::maven()?;
    let pom = staging.join("pom.xml");
    fs::write(&pom, POM).map_err(|source| TestbedError::Io {
        operation: "write",
        path: pom.clone(),
        source,
    })?;
    let mut command = Command::new("mvn");
    command
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(&pom);
    command.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
    let lib = staging.join("lib");
    command.arg(format!("-DoutputDirectory={}", lib.display()));
    run_logged(
        "fetch of Flink with Maven",
        &mut command,
        &staging.join("fetch.log"),
    )
}
