//! The peer: Flink jobs, each in one JVM, fetched once with Maven, compiled, and started.
//!
//! Used by each benchmark that compares. What holds for all jobs is here: two subtasks, the parallel collector (the
//! default one costs heap state about half), object reuse, exactly-once checkpoints, a mini cluster that listens on
//! loopback only. The rule: what a benchmark tunes beside that is in its own module and on its page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use highwater_testkit::cache::{Cache, run_logged};
use highwater_testkit::{TestbedError, tool};
use tempfile::TempDir;

/// The version of Flink, as the page says it.
pub(crate) const VERSION: &str = "2.3.0";

const POM: &str = include_str!("../flink/pom.xml");
/// Every job, and what they share.
const SOURCES: &[(&str, &str)] = &[
    ("KeyedCount.java", include_str!("../flink/KeyedCount.java")),
    ("StateJob.java", include_str!("../flink/StateJob.java")),
    ("Report.java", include_str!("../flink/Report.java")),
    ("Seeded.java", include_str!("../flink/Seeded.java")),
    ("Tally.java", include_str!("../flink/Tally.java")),
];
const LOGGING: &str = include_str!("../flink/log4j2.xml");

/// Names the cache folder: changes with the jars.
const FOLDER: &str = "flink-2.3.0-jobs";

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

/// What every job is told.
pub(crate) const SETTINGS: &[&str] = &[
    "parallelism.default=2",
    "pipeline.object-reuse=true",
    "execution.checkpointing.mode=EXACTLY_ONCE",
    "jobmanager.bind-host=127.0.0.1",
    "taskmanager.bind-host=127.0.0.1",
];

/// Flink, ready to run.
pub(crate) struct Flink {
    jars: PathBuf,
    classes: TempDir,
}

impl Flink {
    /// Fetches the jars where they are not there yet, and compiles the job.
    pub(crate) fn prepare() -> Result<Self> {
        tool::java()?;
        let jars = Cache::of_user()?.folder(FOLDER, fetch)?.join("lib");
        let classes = tempfile::tempdir()?;
        for (name, text) in SOURCES {
            fs::write(classes.path().join(name), text)?;
        }
        fs::write(classes.path().join("log4j2.xml"), LOGGING)?;
        let mut compile = Command::new("java");
        compile.arg("-cp").arg(jars.join("*"));
        compile.arg("org.eclipse.jdt.internal.compiler.batch.Main");
        compile.args(["-17", "-nowarn", "-proc:none", "-cp"]);
        compile
            .arg(class_path(&jars)?)
            .arg("-d")
            .arg(classes.path());
        for (name, _) in SOURCES {
            compile.arg(classes.path().join(name));
        }
        let log = classes.path().join("compile.log");
        run_logged("compilation of the Flink jobs", &mut compile, &log)?;
        Ok(Self { jars, classes })
    }

    /// The command that runs the class `job` in `folder` with a heap of so many MiB. Its arguments come behind.
    pub(crate) fn command(&self, folder: &Path, job: &str, heap_mib: u64) -> Command {
        let mut command = Command::new("java");
        command.current_dir(folder);
        command.arg(format!("-Xmx{heap_mib}m"));
        command.arg("-XX:+UseParallelGC");
        for package in OPENED {
            command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
        }
        command.arg(format!("-Djava.io.tmpdir={}", folder.display()));
        let mut path = self.classes.path().as_os_str().to_owned();
        path.push(":");
        path.push(self.jars.join("*"));
        command.arg("-cp").arg(path).arg(job).args(SETTINGS);
        let folder = folder.display();
        command.arg(format!(
            "execution.checkpointing.dir=file://{folder}/checkpoints"
        ));
        command.arg(format!("io.tmp.dirs={folder}"));
        command
    }
}

/// The end of what a job said.
pub(crate) fn tail(log: &Path) -> String {
    let told = fs::read_to_string(log).unwrap_or_default();
    let mut tail = told.lines().rev().take(20).collect::<Vec<_>>();
    tail.reverse();
    tail.join(" | ")
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
