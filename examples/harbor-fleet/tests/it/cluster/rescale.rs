//! A job on two worker processes is rescaled while records flow, and coordinators and workers end on the way: the output is exact, and the
//! job goes on at the parallelism that `head` says.
//!
//! Where no checkpoint is taken but those that are asked for, the steps of the first checkpoint of a process are those of the rescale.

use serde_json::Value;

use super::seen::complained;
use super::{Cluster, Coordinator, free_port};

/// With the files that a worker keeps on local disk, where the program has them.
const BACKEND: &str = if cfg!(feature = "rocksdb") {
    "rocksdb"
} else {
    "heap"
};

#[test]
fn a_job_goes_down_and_up_by_the_command() {
    let mut cluster = Cluster::fed(BACKEND, None);
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    cluster.flows(4);
    let mut too_many = cluster.job.asking(&["rescale", "--parallelism", "5"]);
    let refused = too_many.output().unwrap();
    let said = complained(&refused);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("5 slots are needed, 4 are there"), "{said}");
    for parallelism in [2, 4] {
        cluster.rescale(parallelism);
    }
    // One operator alone: its neighbours stay where they are.
    let mut single = cluster.job.asking(&["rescale", "--operator", "r1-count=3"]);
    let ended = single.output().unwrap();
    assert!(ended.status.success(), "{}", complained(&ended));
    cluster.flows(4);
    let graph = cluster.job.ask("/v1/graph").unwrap();
    let counts = graph["tasks"].as_array().unwrap().iter().find(|task| {
        let operators = task["operators"].as_array().unwrap();
        operators.iter().any(|one| one["uid"] == "r1-count")
    });
    assert_eq!(counts.unwrap()["parallelism"], 3, "{graph}");
    cluster.rescale(1);
    let job = cluster.job.ask("/v1/status").unwrap();
    assert_eq!(job["redeployments"]["count"], 4, "{job}");
    assert!(job["redeployments"]["pause_ms"].is_u64(), "{job}");
    cluster.has_no_failure();
    cluster.ends(workers, "rescales by the command");
}

#[test]
fn a_leader_that_ends_in_a_rescale_is_followed_at_the_parallelism_that_is_decided() {
    // Where each leader ends on the way to which parallelism, and at which the next one goes on. The write of `head` that completes the
    // checkpoint, the first P8, decides; the second says that all output is confirmed. A recovery of the start is passed before the first
    // P1 or P9, and a leader that goes on with an attempt may take a checkpoint before it is asked for one.
    let leaders = [
        ("P7", 2, 4),
        ("P9,R3", 2, 2),
        ("P1,P8", 4, 2),
        ("P9,R5", 4, 4),
        ("P1,P9", 2, 2),
        ("P1,P8:2", 4, 4),
        ("P9,R7", 2, 2),
    ];
    let mut cluster = Cluster::fed("heap", Some(leaders[0].0));
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    cluster.flows(4);
    for (at, (step, asked, decided)) in leaders.into_iter().enumerate() {
        cluster.ask_rescale(asked, "once");
        cluster.coordinator.stops(step);
        let next = leaders.get(at + 1).map(|(step, ..)| *step);
        cluster.coordinator = Coordinator::start(&cluster.job, &cluster.address, next);
        cluster.flows(decided);
    }
    cluster.rescale(4);
    cluster.ends(workers, "leaders that end in a rescale");
}

#[test]
fn a_coordinator_that_stands_by_goes_on_at_the_parallelism_that_its_leader_has_decided() {
    let mut cluster = Cluster::fed("heap", Some("P8"));
    cluster.coordinator.says("takes workers");
    let stands_by = |cluster: &Cluster, address: &str, stop_at: Option<&str>| {
        let mut other = Coordinator::start(&cluster.job, address, stop_at);
        other.says("stands by: coordinator");
        other
    };
    let first = cluster.address.clone();
    let second = format!("127.0.0.1:{}", free_port());
    let next = stands_by(&cluster, &second, Some("P9,R5"));
    cluster.address = format!("{first},{second}");
    let workers = vec![cluster.worker("a", None), cluster.worker("b", None)];
    cluster.flows(4);
    cluster.ask_rescale(2, "once");
    cluster.coordinator.stops("P8");
    // It was not decided yet.
    cluster.coordinator = next;
    cluster.flows(4);
    let next = stands_by(&cluster, &first, None);
    cluster.ask_rescale(2, "once");
    cluster.coordinator.stops("R5");
    cluster.coordinator = next;
    cluster.flows(2);
    cluster.ends(workers, "leaders with others that stand by");
}

#[test]
fn a_worker_that_ends_in_a_rescale_leaves_the_job_at_the_parallelism_that_is_decided() {
    let mut cluster = Cluster::fed("heap", None);
    let kept = cluster.worker("a", None);
    let mut ends = cluster.worker("b", Some("P5"));
    cluster.flows(4);
    // Its part of the checkpoint is never stored: whoever asked hears of it, and the job goes on as it was.
    let attempt = cluster.attempt();
    cluster.ask_rescale(2, "first");
    ends.stops("P5");
    cluster.goes_behind(attempt);
    let mut ends = cluster.worker("b", Some("P10"));
    cluster.flows(4);
    let refused = cluster.came_of("first");
    assert!(!refused.status.success(), "{refused:?}");

    // The checkpoint is complete and its output not yet visible: at the next parallelism one worker is enough.
    has_output(&mut cluster, "b");
    let attempt = cluster.attempt();
    cluster.ask_rescale(2, "second");
    ends.stops("P10");
    cluster.goes_behind(attempt);
    cluster.flows(2);
    let done = cluster.came_of("second");
    assert!(done.status.success(), "{}", complained(&done));

    // In the recovery of the next attempt, or where that was over already, right behind it.
    let mut killed = cluster.worker("b", None);
    cluster.has_slots(4);
    cluster.rescale(4);
    let attempt = cluster.attempt();
    cluster.ask_rescale(2, "third");
    cluster.goes_behind(attempt);
    killed.signal("-KILL");
    killed.ends("a killed worker");
    cluster.has_slots(2);
    cluster.flows(2);
    let done = cluster.came_of("third");
    assert!(done.status.success(), "{}", complained(&done));
    cluster.ends(vec![kept], "workers that end in a rescale");
}

/// Waits until output has reached a sink in a subtask of this worker.
fn has_output(cluster: &mut Cluster, name: &str) {
    let is_named = |worker: &&Value| worker["name"] == name;
    let workers = cluster.job.ask("/v1/workers").unwrap();
    let worker = workers.as_array().unwrap().iter().find(is_named);
    let subtasks = worker.unwrap()["subtasks"].as_array().unwrap();
    cluster.wait("output of a worker", "/v1/tasks", |tasks| {
        let tasks = tasks.as_array().into_iter().flatten();
        let mut here = tasks.filter(|task| subtasks.contains(&task["subtask"]));
        here.any(|task| {
            let mut operators = task["operators"].as_array().into_iter().flatten();
            operators.any(|one| one["uid"] == "count-sink" && one["records_in"] != 0)
        })
    });
}
