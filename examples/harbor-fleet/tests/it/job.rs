//! One job with its input, its output and its state, and the oracle that judges the output.

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
pub(crate) struct Job {
    folder: tempfile::TempDir,
    pub(crate) backend: &'static str,
}

impl Job {
    pub(crate) fn new(backend: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let profile = Profile {
            payments: 5_000,
            users: 200,
            ..Profile::demo()
        };
        write_log(&profile, &folder.path().join("in"), &mut AtOnce).unwrap();
        Self { folder, backend }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One role of the job, before its own arguments.
    pub(crate) fn command(&self, role: &str, parallelism: u32) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-fleet"));
        command.args([role, "--quiet", "--job", "harbor-fleet"]);
        command.args(["--parallelism", &parallelism.to_string(), "--slots", "2"]);
        command.args(["--checkpoint-interval", "20ms"]);
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
        command
    }

    fn run(&self, stop_at: Option<&str>) -> Output {
        let mut command = self.command("run", 2);
        if let Some(step) = stop_at {
            command.env("HIGHWATER_STOP_AT", step);
        }
        command.output().unwrap()
    }

    /// Runs until the process ends itself right before `step`.
    pub(crate) fn stopped_at(&self, step: &str) {
        let ended = self.run(Some(step));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.signal(), Some(ABORTED), "{step}: {said}");
        assert!(
            said.contains(&format!("ended right before {step}, time 1")),
            "{step}: {said}"
        );
    }

    /// Runs to the end of the input and compares what was put out with the oracle.
    pub(crate) fn finished(&self, after: &str) {
        let ended = self.run(None);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "after {after}: {said}");
        self.is_exact(after);
    }

    /// Compares what was put out with the oracle.
    pub(crate) fn is_exact(&self, after: &str) {
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
