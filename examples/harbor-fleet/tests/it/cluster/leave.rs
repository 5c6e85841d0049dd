//! A worker process that is told to end hands its tasks over behind a checkpoint, and nothing fails.

use std::process::Stdio;

use super::seen::complained;
use super::{Cluster, Coordinator, Process, free_port};
use crate::job::Job;

#[test]
fn a_worker_that_is_told_to_end_moves_its_tasks_or_has_them_wait_and_nothing_fails() {
    let mut cluster = Cluster::fed("heap", None);
    let (kept, mut leaves) = (cluster.worker("a", None), cluster.worker("b", None));
    cluster.flows(4);
    cluster.rescale(2);
    // The other worker has slots enough.
    let attempt = cluster.attempt();
    leaves.signal("-TERM");
    assert!(leaves.ends("a worker that leaves").success());
    cluster.goes_behind(attempt);
    cluster.flows(2);
    let job = cluster.job.ask("/v1/status").unwrap();
    assert_eq!(job["redeployments"]["count"], 2, "{job}");
    assert_eq!(job["workers"]["count"], 1, "{job}");
    cluster.has_no_failure();

    // Without the slots of the one that is gone nothing begins, unless somebody waits for others.
    let mut asking = cluster.job.asking(&["rescale", "--parallelism", "4"]);
    let refused = asking.output().unwrap();
    let said = complained(&refused);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("4 slots are needed, 2 are there"), "{said}");
    asking.args(["--slots-within", "2m"]);
    let mut waits = Process::spawn(asking.stdout(Stdio::null()).stderr(Stdio::null()));
    let mut leaves = cluster.worker("c", None);
    assert!(waits.ends("a rescale that waits for slots").success());
    cluster.flows(4);

    // Nobody has slots for its tasks: it goes all the same, and the job waits.
    leaves.signal("-TERM");
    assert!(leaves.ends("a worker that leaves").success());
    let job = cluster.wait("the job waits for slots", "/v1/status", |job| {
        let reason = job["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("4 slots are needed, 2 are there"))
    });
    assert_eq!(job["workers"]["slots"], 2, "{job}");
    let comes = cluster.worker("d", None);
    cluster.flows(4);
    cluster.has_no_failure();
    cluster.ends(vec![kept, comes], "workers that leave");
}

#[test]
fn a_worker_without_a_coordinator_ends_at_once_where_it_is_told_to() {
    let job = Job::new("heap");
    let mut command = job.command("worker", 4);
    let nobody = format!("127.0.0.1:{}", free_port());
    command.args(["--control-address", &nobody, "--worker-name", "a"]);
    // It is no coordinator, but heard like one.
    let mut worker = Coordinator::run(command);
    worker.says("waits for a coordinator");
    worker.process.signal("-TERM");
    let (status, said) = worker.ended();
    assert!(status.success(), "{said}");
}
