//! The job on several worker processes: as `run --workers` starts them, and started one by one, with some that end themselves.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};

use crate::job::Job;

/// A port that is free now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A job with a coordinator of its own.
struct Cluster {
    job: Job,
    address: String,
    coordinator: Child,
}

impl Cluster {
    fn start(backend: &'static str, stop_at: Option<&str>) -> Self {
        let job = Job::new(backend);
        let address = format!("127.0.0.1:{}", free_port());
        let coordinator = coordinator(&job, &address, stop_at);
        Self {
            job,
            address,
            coordinator,
        }
    }

    /// A worker with two slots, which ends itself at a step if one is named.
    fn worker(&self, name: &str, stop_at: Option<&str>) -> Child {
        let mut command = self.job.command("worker", 4);
        command.args(["--control-address", &self.address, "--worker-name", name]);
        if let Some(step) = stop_at {
            command.env("HIGHWATER_STOP_AT", step);
        }
        command.stderr(Stdio::null()).spawn().unwrap()
    }

    /// Waits for the end of the job, of its workers, and judges the output.
    fn finished(self, workers: Vec<Child>, after: &str) {
        let ended = self.coordinator.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "after {after}: {said}");
        for mut worker in workers {
            let status = worker.wait().unwrap();
            assert!(
                status.success(),
                "after {after}: a worker ended with {status}"
            );
        }
        self.job.is_exact(after);
    }
}

/// A coordinator that takes workers at `address`, and ends itself at a step if one is named.
fn coordinator(job: &Job, address: &str, stop_at: Option<&str>) -> Child {
    let mut command = job.command("coordinator", 4);
    command.args(["--control-listen", address]);
    // Workers that come back do so at once.
    command.args(["--restart-first-delay", "50ms"]);
    if let Some(step) = stop_at {
        command.env("HIGHWATER_STOP_AT", step);
    }
    command.stderr(Stdio::piped()).spawn().unwrap()
}

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
        let status = ends.wait().unwrap();
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
        let ended = cluster.coordinator.wait().unwrap();
        assert_eq!(ended.signal(), Some(6), "{step}: {ended}");
        cluster.coordinator = coordinator(&cluster.job, &cluster.address, None);
        cluster.finished(workers, step);
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn with_state_on_local_disk_a_worker_that_ends_is_replaced() {
    let cluster = Cluster::start("rocksdb", None);
    let kept = cluster.worker("a", None);
    let mut ends = cluster.worker("b", Some("P5:3"));
    assert_eq!(ends.wait().unwrap().signal(), Some(6));
    let workers = vec![kept, cluster.worker("b", None)];
    cluster.finished(workers, "P5:3");
}

#[test]
fn a_worker_of_another_program_is_refused_by_name() {
    let mut cluster = Cluster::start("heap", None);
    let mut command = cluster.job.command("worker", 2);
    command.args(["--control-address", &cluster.address]);
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("the program of the worker builds graph"),
        "{said}"
    );
    cluster.coordinator.kill().unwrap();
    cluster.coordinator.wait().unwrap();
}
