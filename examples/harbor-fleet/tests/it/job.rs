//! One job with its input, its output and its state, and the oracle that judges the output.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use harbor_fleet::blocklist::{Faults, serve};
use harbor_fleet::generator::{AtOnce, Pace, Paced, Profile, write_log};
use harbor_fleet::oracle::{Expected, Observed, Report};
use harbor_fleet::payments::{
    ALERTS_TOPIC, COUNTS_TOPIC, DEAD_LETTER_TOPIC, LATE_TOPIC, PAYMENTS_TOPIC,
};
use highwater_connectors::file_sink::committed_files;
use highwater_connectors::{FileLogWriter, RecordsPerSecond, SystemClock};
use serde_json::Value;

/// The signal of `abort`.
const ABORTED: i32 = 6;
/// How long the status server of a job may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// So many payments come in a second, where they come while the job runs.
const A_SECOND: f64 = 200.0;
/// Between two looks at whether the rest of them is to come.
const LOOK: Duration = Duration::from_millis(10);

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

/// Writes payments while a job runs, a few at a time until it is told to write the rest.
struct Feed {
    rest: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    fn start(profile: Profile, root: PathBuf) -> Self {
        // The topic is there before a job looks for it.
        drop(FileLogWriter::open(&root, PAYMENTS_TOPIC, profile.partitions).unwrap());
        let rest = Arc::new(AtomicBool::new(false));
        let rate = RecordsPerSecond::try_new(A_SECOND).unwrap();
        let clock = Arc::new(SystemClock::start().unwrap());
        let mut pace = UntilTold {
            paced: Paced::new(rate, clock),
            rest: Arc::clone(&rest),
            kept_from: profile.payments,
        };
        let write = move || write_log(&profile, &root, &mut pace).unwrap();
        Self {
            rest,
            thread: Some(std::thread::spawn(write)),
        }
    }

    fn finish(&self) {
        self.rest.store(true, Ordering::Relaxed);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.finish();
        if let Some(thread) = self.thread.take() {
            // A test that failed needs no payments any more, whatever became of them.
            drop(thread.join());
        }
    }
}

/// At a steady rate up to a line, which and all later ones come once they are asked for.
struct UntilTold {
    paced: Paced,
    rest: Arc<AtomicBool>,
    kept_from: u64,
}

impl Pace for UntilTold {
    fn release(&mut self, number: u64) -> u64 {
        loop {
            if self.rest.load(Ordering::Relaxed) {
                return u64::MAX;
            }
            if number < self.kept_from {
                return self.paced.release(number).min(self.kept_from);
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

/// One job with its input, output and state.
pub(crate) struct Job {
    /// Ends before the folder does.
    feed: Option<Feed>,
    folder: tempfile::TempDir,
    pub(crate) backend: &'static str,
    interval: &'static str,
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
        Self {
            feed: None,
            folder,
            backend,
            interval: "20ms",
        }
    }

    /// A job whose payments come while it runs, each window within half a second, and which takes no checkpoint by itself. Its input ends
    /// once that is wanted.
    pub(crate) fn fed(backend: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let profile = Profile {
            payments: 20_000,
            users: 200,
            span_ms: 36 * 3_600_000,
            silence: None,
            ..Profile::demo()
        };
        Self {
            feed: Some(Feed::start(profile, folder.path().join("in"))),
            folder,
            backend,
            interval: "1h",
        }
    }

    /// Lets the input come to its end.
    pub(crate) fn end_input(&self) {
        self.feed.as_ref().unwrap().finish();
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One role of the job, before its own arguments.
    pub(crate) fn command(&self, role: &str, parallelism: u32) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-fleet"));
        command.args([role, "--quiet", "--job", "harbor-fleet"]);
        command.args(["--parallelism", &parallelism.to_string(), "--slots", "2"]);
        command.args(["--checkpoint-interval", self.interval]);
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
        if self.feed.is_some() {
            // No partition is taken for idle because the machine was busy.
            command.args(["--param", "idle-ms=60000"]);
        }
        command
    }

    /// A command that speaks to the running job.
    pub(crate) fn asking(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-fleet"));
        command.args(words).args(["--job", "harbor-fleet"]);
        command.arg("--state-dir").arg(self.at("state"));
        command.arg("--run-dir").arg(self.at("run"));
        command
    }

    /// What the leader of the job answers to GET `path`; `None` = there is none that answers now.
    pub(crate) fn ask(&self, path: &str) -> Option<Value> {
        let base = std::fs::read_to_string(self.at("run").join("harbor-fleet.address")).ok()?;
        let url = format!("{}{path}", base.trim());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let text = runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().timeout(ANSWER);
            let answer = client.build().ok()?.get(url).send().await.ok()?;
            answer.text().await.ok()
        });
        serde_json::from_str(&text?).ok()
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
