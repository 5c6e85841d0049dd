//! The job on several worker processes: as `run --workers` starts them, and started one by one, with some that end themselves.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use highwater_tls::IdentityFiles;
use highwater_tls::testing::Authority;

use crate::job::Job;

mod leave;
mod rescale;
mod seen;

/// A port that is free now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// How long a process may take to say what it is waited for, or to end.
const LONG: Duration = Duration::from_mins(2);

#[expect(
    clippy::disallowed_methods,
    reason = "a wait for processes of the system has a deadline of the system"
)]
fn now() -> Instant {
    Instant::now()
}

/// A process that ends with the test at the latest.
struct Process(Child);

impl Process {
    fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn ended(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A coordinator, and what it says.
struct Coordinator {
    process: Process,
    lines: Receiver<String>,
    said: String,
}

impl Coordinator {
    /// One that takes workers at `address`, and ends itself at a step if one is named.
    fn start(job: &Job, address: &str, stop_at: Option<&str>) -> Self {
        let mut command = job.command("coordinator", 4);
        command.args(["--control-listen", address]);
        if let Some(step) = stop_at {
            command.env("HIGHWATER_STOP_AT", step);
        }
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        // Workers that come back do so at once.
        command.args(["--restart-first-delay", "50ms"]);
        command.args(["--lease-duration", "3s"]);
        command.args(HEARTBEAT);
        let mut process = Process::spawn(command.stderr(Stdio::piped()));
        let stderr = BufReader::new(process.0.stderr.take().unwrap());
        let (sender, lines) = sync_channel(100_000);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            process,
            lines,
            said: String::new(),
        }
    }

    /// The next line; `None` = it has ended.
    fn line(&mut self, until: Instant) -> Option<&str> {
        let left = until.saturating_duration_since(now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                let at = self.said.len();
                self.said += &line;
                self.said.push('\n');
                Some(&self.said[at..])
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it takes too long: {}", self.said),
        }
    }

    /// Waits until it has said this.
    fn says(&mut self, text: &str) {
        let until = now() + LONG;
        loop {
            match self.line(until) {
                Some(line) if line.contains(text) => return,
                Some(_) => {}
                None => panic!("it ended and did not say `{text}`: {}", self.said),
            }
        }
    }

    /// Waits for its end. How it ended, and all that it said.
    fn ended(mut self) -> (ExitStatus, String) {
        let until = now() + LONG;
        while self.line(until).is_some() {}
        (self.process.ended(), self.said)
    }
}

/// So that a peer that is gone is noticed soon, and one beat that is late is not.
const HEARTBEAT: [&str; 4] = ["--heartbeat-interval", "100ms", "--heartbeat-timeout", "2s"];

/// A job with a coordinator of its own.
struct Cluster {
    job: Job,
    address: String,
    coordinator: Coordinator,
}

impl Cluster {
    fn start(backend: &'static str, stop_at: Option<&str>) -> Self {
        Self::of(Job::new(backend), stop_at)
    }

    fn of(job: Job, stop_at: Option<&str>) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let coordinator = Coordinator::start(&job, &address, stop_at);
        Self {
            job,
            address,
            coordinator,
        }
    }

    /// A worker with two slots, which ends itself at a step if one is named.
    fn worker(&self, name: &str, stop_at: Option<&str>) -> Process {
        let mut command = self.job.command("worker", 4);
        command.args(["--control-address", &self.address, "--worker-name", name]);
        command.args(HEARTBEAT);
        if let Some(step) = stop_at {
            command.env("HIGHWATER_STOP_AT", step);
        }
        Process::spawn(command.stderr(Stdio::null()))
    }

    /// One more coordinator, which stands by while that of the cluster leads. Workers that start from now on know both.
    fn stand_by(&mut self) -> Coordinator {
        self.coordinator.says("takes workers");
        let address = format!("127.0.0.1:{}", free_port());
        let mut second = Coordinator::start(&self.job, &address, None);
        second.says("stands by: coordinator");
        self.address = format!("{},{address}", self.address);
        second
    }

    /// Waits for the end of the job, of its workers, and judges the output.
    fn finished(self, workers: Vec<Process>, after: &str) -> Job {
        self.finished_saying(workers, after).0
    }

    /// The same, with what the coordinator has said.
    fn finished_saying(self, workers: Vec<Process>, after: &str) -> (Job, String) {
        let (status, said) = self.coordinator.ended();
        assert!(status.success(), "after {after}: {said}");
        for mut worker in workers {
            let status = worker.ended();
            assert!(
                status.success(),
                "after {after}: a worker ended with {status}"
            );
        }
        self.job.is_exact(after);
        (self.job, said)
    }
}

/// What a coordinator says that has taken an attempt over.
const ADOPTS: &str = "goes on with the attempt that workers hold";

#[test]
fn run_starts_its_own_workers_and_takes_them_along() {
    let job = Job::new("heap");
    let mut command = job.command("run", 4);
    let ended = command.args(["--workers", "2"]).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    job.is_exact("a run with workers");
}

#[test]
fn a_worker_may_start_before_its_coordinator_and_one_may_come_late() {
    let cluster = Cluster::start("heap", None);
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    cluster.finished(workers, "a start in any order");
}

#[test]
fn workers_end_at_steps_of_a_checkpoint_and_nothing_is_lost_or_doubled() {
    for step in ["P4", "P5", "P6", "P10"] {
        let cluster = Cluster::start("heap", None);
        let kept = cluster.worker("a", None);
        let mut ends = cluster.worker("b", Some(step));
        let status = ends.ended();
        assert_eq!(status.signal(), Some(6), "{step}: {status}");
        let workers = vec![kept, cluster.worker("b", None)];
        cluster.finished(workers, step);
    }
}

#[test]
fn a_coordinator_ends_at_a_step_and_the_next_one_goes_on_with_the_same_workers() {
    for step in ["P2", "P7", "P8", "P9", "R3", "R5", "R7"] {
        let mut cluster = Cluster::start("heap", Some(step));
        let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
        let status = cluster.coordinator.process.ended();
        assert_eq!(status.signal(), Some(6), "{step}: {status}");
        cluster.coordinator = Coordinator::start(&cluster.job, &cluster.address, None);
        let (_job, said) = cluster.finished_saying(workers, step);
        // Records flowed while it led, or they did not yet.
        assert_eq!(
            said.contains(ADOPTS),
            step.starts_with('P'),
            "{step}: {said}"
        );
    }
}

#[test]
fn a_worker_that_is_told_not_to_wait_ends_its_attempt_with_its_coordinator() {
    let mut cluster = Cluster::start("heap", Some("P9"));
    let mut command = cluster.job.command("worker", 4);
    command.args(["--control-address", &cluster.address, "--worker-name", "a"]);
    command.args(HEARTBEAT).args(["--takeover-timeout", "0s"]);
    let workers = vec![
        Process::spawn(command.stderr(Stdio::null())),
        cluster.worker("b", None),
    ];
    assert_eq!(cluster.coordinator.process.ended().signal(), Some(6));
    cluster.coordinator = Coordinator::start(&cluster.job, &cluster.address, None);
    let (_job, said) = cluster.finished_saying(workers, "a worker that does not wait");
    assert!(!said.contains(ADOPTS), "{said}");
}

#[cfg(feature = "rocksdb")]
#[test]
fn with_state_on_local_disk_an_attempt_is_taken_over() {
    for step in ["P7:2", "P9:3"] {
        let mut cluster = Cluster::start("rocksdb", Some(step));
        let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
        let status = cluster.coordinator.process.ended();
        assert_eq!(status.signal(), Some(6), "{step}: {status}");
        cluster.coordinator = Coordinator::start(&cluster.job, &cluster.address, None);
        let (_job, said) = cluster.finished_saying(workers, step);
        assert!(said.contains(ADOPTS), "{step}: {said}");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn with_state_on_local_disk_a_worker_that_ends_is_replaced() {
    let cluster = Cluster::start("rocksdb", None);
    let kept = cluster.worker("a", None);
    let mut ends = cluster.worker("b", Some("P5:3"));
    assert_eq!(ends.ended().signal(), Some(6));
    let workers = vec![kept, cluster.worker("b", None)];
    cluster.finished(workers, "P5:3");
}

#[test]
fn a_worker_of_another_program_is_refused_by_name() {
    let cluster = Cluster::start("heap", None);
    let mut command = cluster.job.command("worker", 2);
    command.args(["--control-address", &cluster.address]);
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("the program of the worker builds graph"),
        "{said}"
    );
}

#[test]
fn a_coordinator_that_stands_by_leads_after_the_leader_has_ended_at_a_step() {
    for step in ["P7", "P9", "R4"] {
        let mut cluster = Cluster::start("heap", Some(step));
        let second = cluster.stand_by();
        let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
        let (status, said) = std::mem::replace(&mut cluster.coordinator, second).ended();
        assert_eq!(status.signal(), Some(6), "{step}: {said}");
        let (_job, said) = cluster.finished_saying(workers, step);
        assert_eq!(
            said.contains(ADOPTS),
            step.starts_with('P'),
            "{step}: {said}"
        );
    }
}

#[test]
fn a_coordinator_that_stands_by_ends_with_the_job() {
    let mut cluster = Cluster::start("heap", None);
    let second = cluster.stand_by();
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    let _job = cluster.finished(workers, "a job with a coordinator that stands by");
    let (status, said) = second.ended();
    assert!(status.success(), "{said}");
    assert!(said.contains("all input was processed"), "{said}");
}

#[test]
fn a_leader_that_is_told_to_end_hands_the_job_over() {
    let mut cluster = Cluster::start("heap", None);
    let second = cluster.stand_by();
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    cluster.coordinator.says("worker joined");
    cluster.coordinator.process.signal("-TERM");
    let (status, said) = std::mem::replace(&mut cluster.coordinator, second).ended();
    assert!(status.success(), "{said}");
    cluster.finished(workers, "the job was handed over");
}

#[test]
fn a_coordinator_that_begins_anew_does_not_wait_for_another() {
    let mut cluster = Cluster::start("heap", None);
    cluster.coordinator.says("takes workers");
    let mut command = cluster.job.command("coordinator", 4);
    command.args(["--control-listen", "127.0.0.1:0", "--fresh"]);
    let (status, said) = Coordinator::run(command).ended();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("holds the lease"), "{said}");
}

#[test]
fn a_leader_that_was_frozen_is_followed_and_changes_nothing_when_it_wakes() {
    let mut cluster = Cluster::start("heap", None);
    let second = cluster.stand_by();
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    cluster.coordinator.says("worker joined");
    cluster.coordinator.process.signal("-STOP");
    let first = std::mem::replace(&mut cluster.coordinator, second);
    let job = cluster.finished(workers, "a frozen leader");
    first.process.signal("-CONT");
    let (status, said) = first.ended();
    assert_eq!(status.code(), Some(4), "{said}");
    job.is_exact("the frozen leader has woken");
}

/// The flags of a process that shows its certificate.
fn tls(files: &IdentityFiles) -> [String; 8] {
    let file = |path: &Path| path.display().to_string();
    [
        "--tls-authority".to_owned(),
        file(&files.authority),
        "--tls-certificate".to_owned(),
        file(&files.certificate),
        "--tls-key".to_owned(),
        file(&files.key),
        "--tls-peer-name".to_owned(),
        files.peer_name.clone(),
    ]
}

#[test]
fn with_certificates_a_job_runs_and_a_worker_of_another_authority_gets_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let job = Job::new("heap");
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = job.command("coordinator", 4);
    command.args(["--control-listen", &address]);
    command.args(tls(&ours.sign("coordinator", "fleet.job")));
    let mut coordinator = Coordinator::run(command);
    let worker = |name: &str, files: &IdentityFiles| {
        let mut command = job.command("worker", 4);
        command.args(["--control-address", &address, "--worker-name", name]);
        command.args(tls(files)).args(["--data-compression", "lz4"]);
        Process::spawn(command.stderr(Stdio::null()))
    };
    let _stranger = worker("c", &theirs.sign("c", "fleet.job"));
    coordinator.says("a connection was refused");
    let workers = ["a", "b"].map(|name| worker(name, &ours.sign(name, "fleet.job")));
    let (status, said) = coordinator.ended();
    assert!(status.success(), "{said}");
    for mut worker in workers {
        assert!(worker.ended().success());
    }
    let joined = |name: &str| said.contains("worker joined") && said.contains(name);
    assert!(joined("name=\"a\"") && !joined("name=\"c\""), "{said}");
    job.is_exact("a run with certificates and compressed rows");
}

#[test]
fn a_job_that_was_to_begin_with_something_is_not_begun_from_nothing_by_another() {
    let job = Job::new("heap");
    let address = format!("127.0.0.1:{}", free_port());
    let coordinator = |flags: &[&str], stop_at: Option<&str>| {
        let mut command = job.command("coordinator", 4);
        command.args(["--control-listen", &address]).args(flags);
        if let Some(step) = stop_at {
            command.env("HIGHWATER_STOP_AT", step);
        }
        Coordinator::run(command)
    };
    // It dies before there is a head, and is followed by one that was not told, as often as that is started.
    let (status, said) = coordinator(&["--fresh"], Some("R2")).ended();
    assert_eq!(status.signal(), Some(6), "{said}");
    for _ in 0..2 {
        let (status, said) = coordinator(&[], None).ended();
        assert_eq!(status.code(), Some(5), "{said}");
        assert!(said.contains("begin it with that"), "{said}");
    }
    let begun = coordinator(&["--fresh", "--take-over"], None);
    let cluster = Cluster {
        job,
        address,
        coordinator: begun,
    };
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    cluster.finished(workers, "a begin that was said again");
}

#[test]
fn a_job_that_has_ended_goes_on_where_somebody_starts_a_coordinator() {
    let cluster = Cluster::start("heap", None);
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    let address = cluster.address.clone();
    let job = cluster.finished(workers, "a job that ends");
    let coordinator = Coordinator::start(&job, &address, None);
    let again = Cluster {
        job,
        address,
        coordinator,
    };
    let workers = vec![again.worker("a", None), again.worker("b", None)];
    let (_job, said) = again.finished_saying(workers, "a start after the end");
    assert!(!said.contains("nobody has asked"), "{said}");
}
