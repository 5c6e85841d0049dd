//! `demo`: runs the job against generated payments, kills it once with uncommitted output, and judges what came out.
//!
//! Everything is real but small: the job is a process of its own that is ended with SIGKILL, reads a log on disk that is
//! being written, keeps checkpoints in a directory and writes files exactly once. The last line says pass or fail.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use harbor_fleet::blocklist::{Faults, serve};
use harbor_fleet::generator::{Paced, Profile, write_log};
use harbor_fleet::oracle::{Expected, Observed, Report};
use harbor_fleet::payments::{
    ALERTS_TOPIC, COUNTS_TOPIC, DEAD_LETTER_TOPIC, LATE_TOPIC, PAYMENTS_TOPIC,
};
use highwater::json::clock;
use highwater_connectors::file_sink::committed_files;
use highwater_connectors::generator::RecordsPerSecond;

use crate::verdict::{conclude, say};

/// How often the demo looks at the job.
const LOOK: Duration = Duration::from_millis(25);
/// The job must end within this time after the last payment was written.
const PATIENCE: Duration = Duration::from_mins(5);

#[derive(Parser)]
#[command(about = "Runs the fraud scorer, kills it once, and compares its output with an oracle")]
struct Args {
    /// Always `demo`
    #[arg(hide = true)]
    command: String,
    /// Seed of the payments [default: random, printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Payments a second
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// Rule R1 as `process` function or as `window` operator
    #[arg(long, default_value = "process")]
    rule: String,
    /// Where to work [default: a temporary directory that is removed]
    #[arg(long)]
    directory: Option<PathBuf>,
}

pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    conclude(run(&args))
}

/// What belongs to one demo.
struct Demo {
    root: PathBuf,
    blocklist: SocketAddr,
    rule: String,
}

fn run(args: &Args) -> anyhow::Result<String> {
    let seed = args.seed.unwrap_or_else(random_seed);
    let temporary = tempfile::tempdir().context("a temporary directory")?;
    let root = args
        .directory
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    say(&format!(
        "seed {seed}, rule {}, working in {}\n",
        args.rule,
        root.display()
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut servers = tokio::task::JoinSet::new();
    let faults = Faults {
        unavailable_percent: 5,
        slow_percent: 5,
    };
    let blocklist = runtime.block_on(serve(faults, &mut servers))?;
    let demo = Demo {
        root,
        blocklist,
        rule: args.rule.clone(),
    };
    let profile = Profile {
        seed,
        ..Profile::demo()
    };
    let (pending, restored) = demo.run_with_kill(&profile, args.rate)?;
    let report = demo.judge()?;
    say(&format!("{report}\n"));
    if !report.is_clean() || report.undecided > 0 {
        bail!("the output is not that of the oracle (seed {seed})");
    }
    if report.alerts != report.hits {
        bail!(
            "{} alerts found, {} expected (seed {seed})",
            report.alerts,
            report.hits
        );
    }
    Ok(format!(
        "alerts found = alerts expected = {}; killed once with {pending} files of uncommitted output, \
         went on from checkpoint {restored}; lost 0, doubled 0; seed {seed}",
        report.alerts
    ))
}

/// Bits that differ from run to run.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

impl Demo {
    fn input(&self) -> PathBuf {
        self.root.join("in")
    }

    fn output(&self, topic: &str) -> PathBuf {
        self.root.join("out").join(topic)
    }

    /// Starts the job, or has it go on.
    fn start(&self) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("the path of this program")?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.root.join("job.log"))
            .context("job.log")?;
        let parameter = |name: &str, value: &dyn std::fmt::Display| format!("{name}={value}");
        let mut command = Command::new(program);
        command
            .args([
                "run",
                "--quiet",
                "--job",
                "harbor-fleet",
                "--checkpoint-interval",
                "1s",
            ])
            .args(["--parallelism", "2", "--restart-first-delay", "100ms"])
            .arg("--state-dir")
            .arg(self.root.join("state"))
            .arg("--run-dir")
            .arg(self.root.join("run"))
            .args(["--param", &parameter("input", &self.input().display())])
            .args([
                "--param",
                &parameter("output", &self.root.join("out").display()),
            ])
            .args(["--param", &parameter("blocklist", &self.blocklist)])
            .args(["--param", &parameter("rule", &self.rule)])
            .stdout(Stdio::null())
            .stderr(log);
        command.spawn().context("the job process")
    }

    /// Runs the job over the whole log with one kill. Returns how many files of output were uncommitted at the kill, and
    /// the checkpoint that the second process went on from.
    fn run_with_kill(&self, profile: &Profile, rate: f64) -> anyhow::Result<(usize, u64)> {
        std::fs::create_dir_all(&self.root).context("the working directory")?;
        // The topic exists before the job starts: it refuses one that does not.
        std::fs::create_dir_all(self.input().join(PAYMENTS_TOPIC)).context("the topic")?;
        let clock = clock()?;
        let mut pace = Paced::new(RecordsPerSecond::try_new(rate)?, clock);
        let (input, profile) = (self.input(), *profile);
        let writer = std::thread::Builder::new()
            .name("payments".to_owned())
            .spawn(move || write_log(&profile, &input, &mut pace))?;
        let mut job = self.start()?;
        let killed = self.kill_with_pending_output(&mut job, &writer);
        let pending = match killed {
            Ok(pending) => pending,
            Err(error) => {
                end(&mut job)?;
                return Err(error);
            }
        };
        let restored = self.last_checkpoint();
        say(&format!(
            "killed the job with {pending} files of uncommitted output; last checkpoint {restored}\n"
        ));
        let mut job = self.start()?;
        let finished = self.wait(&mut job, || false);
        if finished.is_err() {
            end(&mut job)?;
        }
        let code = finished?;
        match writer.join() {
            Ok(written) => written.context("writing payments")?,
            Err(_) => bail!("the writer of payments panicked"),
        }
        if code != Some(0) {
            bail!(
                "the job ended with {code:?}; its log ends with:\n{}",
                self.tail()
            );
        }
        Ok((pending, restored))
    }

    /// Waits until a checkpoint is complete and output is staged that no checkpoint has committed, then sends SIGKILL.
    fn kill_with_pending_output(
        &self,
        job: &mut Child,
        writer: &std::thread::JoinHandle<Result<(), highwater_connectors::ConnectorError>>,
    ) -> anyhow::Result<usize> {
        let ready = || self.last_checkpoint() >= 2 && !self.staged().is_empty();
        if let Some(code) = self.wait(job, ready)? {
            bail!(
                "the job ended with {code} before it could be killed:\n{}",
                self.tail()
            );
        }
        if writer.is_finished() {
            bail!("the payments ended before the job could be killed; use a lower --rate");
        }
        end(job)?;
        let staged = self.staged().len();
        if staged == 0 {
            bail!(
                "no output was pending when the job was killed: this run proves nothing, try again"
            );
        }
        Ok(staged)
    }

    /// Waits until the job ends (its exit code) or `ready` holds (`None`), with progress on a terminal.
    fn wait(&self, job: &mut Child, ready: impl Fn() -> bool) -> anyhow::Result<Option<i32>> {
        let is_terminal = std::io::stdout().is_terminal();
        let looks = (PATIENCE.as_millis() / LOOK.as_millis()) as u32;
        for look in 0..looks {
            if let Some(status) = job.try_wait()? {
                return Ok(Some(status.code().unwrap_or(-1)));
            }
            if ready() {
                return Ok(None);
            }
            if is_terminal && look % 20 == 0 {
                let alerts = self.committed_lines(ALERTS_TOPIC);
                let checkpoint = self.last_checkpoint();
                say(&format!(
                    "\r\x1b[2Kcheckpoint {checkpoint}, {alerts} alerts committed"
                ));
            }
            std::thread::park_timeout(LOOK);
        }
        bail!(
            "the job did not get there within {} s:\n{}",
            PATIENCE.as_secs(),
            self.tail()
        )
    }

    /// The number of the newest manifest: the last completed checkpoint, or one that is about to be.
    fn last_checkpoint(&self) -> u64 {
        let manifests = std::fs::read_dir(self.root.join("state/harbor-fleet/manifests"));
        let names = manifests.into_iter().flatten().filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.split('-').nth(1)?.parse().ok()
        });
        names.max().unwrap_or(0)
    }

    /// Files that are being written and that no reader of committed output sees.
    fn staged(&self) -> Vec<PathBuf> {
        let mut staged = Vec::new();
        collect_staged(&self.root.join("out"), false, &mut staged);
        staged
    }

    fn committed_lines(&self, topic: &str) -> usize {
        let files = committed_files(&self.output(topic)).unwrap_or_default();
        files
            .iter()
            .filter_map(|file| file.lines().ok())
            .map(|lines| lines.len())
            .sum()
    }

    fn lines(&self, topic: &str) -> anyhow::Result<Vec<Vec<u8>>> {
        let directory = self.output(topic);
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        for file in committed_files(&directory)? {
            lines.extend(file.lines()?);
        }
        Ok(lines)
    }

    fn judge(&self) -> anyhow::Result<Report> {
        let expected = Expected::read(&self.input(), PAYMENTS_TOPIC)?;
        let mut observed = Observed::default();
        observed.add_alerts(self.lines(ALERTS_TOPIC)?)?;
        observed.add_counts(self.lines(COUNTS_TOPIC)?)?;
        observed.add_late(self.lines(LATE_TOPIC)?)?;
        observed.add_dead_letters(self.lines(DEAD_LETTER_TOPIC)?);
        Ok(Report::new(&expected, &observed))
    }

    /// The end of the job's log.
    fn tail(&self) -> String {
        let log = std::fs::read_to_string(self.root.join("job.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

fn collect_staged(directory: &Path, below_session: bool, staged: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            let inside = below_session || entry.file_name() == "sessions";
            collect_staged(&path, inside, staged);
        } else if below_session {
            staged.push(path);
        }
    }
}

/// SIGKILL, and waits for the process to be gone.
fn end(job: &mut Child) -> anyhow::Result<()> {
    job.kill().context("killing the job")?;
    job.wait().context("waiting for the killed job")?;
    Ok(())
}
