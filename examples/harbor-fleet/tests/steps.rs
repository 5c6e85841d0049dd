//! The real program is ended right before each of the 19 protocol steps, goes on, and puts everything out once.

#![allow(
    clippy::unwrap_used,
    reason = "tests may unwrap; the lint knows unit tests only"
)]

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use harbor_fleet::blocklist::{Faults, serve};
use harbor_fleet::generator::{AtOnce, Profile, write_log};
use harbor_fleet::oracle::{Expected, Observed, Report};
use harbor_fleet::payments::{
    ALERTS_TOPIC, COUNTS_TOPIC, DEAD_LETTER_TOPIC, LATE_TOPIC, PAYMENTS_TOPIC,
};
use highwater_connectors::file_sink::committed_files;

/// The signal of `abort`.
const ABORTED: i32 = 6;
const CHECKPOINT: [&str; 12] = [
    "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12",
];
const RECOVERY: [&str; 7] = ["R1", "R2", "R3", "R4", "R5", "R6", "R7"];

/// The blocklist that all tests ask.
fn blocklist() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let (sender, address) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                let faults = Faults {
                    unavailable_percent: 0,
                    slow_percent: 0,
                };
                sender
                    .send(serve(faults, &mut tasks).await.unwrap())
                    .unwrap();
                tasks.join_all().await
            })
        });
        address.recv().unwrap()
    })
}

/// One job with its input, output and state.
struct Job {
    folder: tempfile::TempDir,
    backend: &'static str,
}

impl Job {
    fn new(backend: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let profile = Profile {
            payments: 5_000,
            users: 200,
            ..Profile::demo()
        };
        write_log(&profile, &folder.path().join("in"), &mut AtOnce).unwrap();
        Self { folder, backend }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, stop_at: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-fleet"));
        command.args([
            "run",
            "--quiet",
            "--job",
            "harbor-fleet",
            "--parallelism",
            "2",
        ]);
        command.args(["--slots", "2", "--checkpoint-interval", "20ms"]);
        let folder = |flag, name| [flag, self.at(name).display().to_string()];
        command.args(folder("--state-dir".to_owned(), "state"));
        command.args(folder("--run-dir".to_owned(), "run"));
        command.args(folder("--state-local-dir".to_owned(), "local"));
        // With a store: less than what the job keeps, so that state leaves memory.
        command.args(["--state-backend", self.backend, "--state-memory", "4MiB"]);
        for (name, value) in [
            ("input", self.at("in").display().to_string()),
            ("output", self.at("out").display().to_string()),
            ("blocklist", blocklist().to_string()),
        ] {
            command.args(["--param", &format!("{name}={value}")]);
        }
        if let Some(step) = stop_at {
            command.env("HIGHWATER_STOP_AT", step);
        }
        command.output().unwrap()
    }

    /// Runs until the process ends itself right before `step`.
    fn stopped_at(&self, step: &str) {
        let ended = self.run(Some(step));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.signal(), Some(ABORTED), "{step}: {said}");
        assert!(
            said.contains(&format!("ended right before {step}, time 1")),
            "{step}: {said}"
        );
    }

    /// Runs to the end of the input and compares what was put out with the oracle.
    fn finished(&self, after: &str) {
        let ended = self.run(None);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "after {after}: {said}");
        let expected = Expected::read(&self.at("in"), PAYMENTS_TOPIC).unwrap();
        let mut observed = Observed::default();
        observed
            .add_alerts(lines(&self.at("out"), ALERTS_TOPIC))
            .unwrap();
        observed
            .add_counts(lines(&self.at("out"), COUNTS_TOPIC))
            .unwrap();
        observed
            .add_late(lines(&self.at("out"), LATE_TOPIC))
            .unwrap();
        observed.add_dead_letters(lines(&self.at("out"), DEAD_LETTER_TOPIC));
        let report = Report::new(&expected, &observed);
        assert!(report.is_clean(), "after {after}: {report}");
        assert_eq!(report.alerts, report.hits, "after {after}");
    }
}

fn lines(output: &Path, topic: &str) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for file in committed_files(&output.join(topic)).unwrap() {
        lines.extend(file.lines().unwrap());
    }
    lines
}

fn ends_at_each_step_of_a_checkpoint(backend: &'static str) {
    for step in CHECKPOINT {
        let job = Job::new(backend);
        job.stopped_at(step);
        job.finished(step);
    }
}

fn ends_at_each_step_of_a_recovery(backend: &'static str) {
    for step in RECOVERY {
        let job = Job::new(backend);
        // A completed checkpoint whose output nobody has committed: the recovery has something to do at every step.
        job.stopped_at("P9");
        job.stopped_at(step);
        job.finished(step);
    }
}

#[test]
fn a_process_ends_at_every_step_of_a_checkpoint_and_nothing_is_lost_or_doubled() {
    ends_at_each_step_of_a_checkpoint("heap");
}

#[test]
fn a_process_ends_at_every_step_of_a_recovery_and_nothing_is_lost_or_doubled() {
    ends_at_each_step_of_a_recovery("heap");
}

#[cfg(feature = "rocksdb")]
#[test]
fn with_state_on_local_disk_a_process_ends_at_every_step_of_a_checkpoint() {
    ends_at_each_step_of_a_checkpoint("rocksdb");
}

#[cfg(feature = "rocksdb")]
#[test]
fn with_state_on_local_disk_a_process_ends_at_every_step_of_a_recovery() {
    ends_at_each_step_of_a_recovery("rocksdb");
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_job_changes_its_backend_between_two_runs() {
    for (first, then) in [("heap", "rocksdb"), ("rocksdb", "heap")] {
        let mut job = Job::new(first);
        job.stopped_at("P9");
        job.backend = then;
        job.finished(then);
    }
}

#[cfg(feature = "kafka")]
#[test]
fn the_settings_of_production_are_understood() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-fleet"));
    command.args(["plan", "--config"]);
    command.arg(here.join("production.yaml"));
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
}
