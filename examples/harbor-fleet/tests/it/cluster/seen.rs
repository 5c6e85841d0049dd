//! What is seen of a running cluster from the outside, and what it is asked for.
//!
//! Called by the tests of rescales and of workers that leave. The rule: a state is waited for until it is there, and never for a time.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Cluster, Coordinator, LONG, Process, now};
use crate::job::Job;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// The signal of `abort`.
const ABORTED: i32 = 6;

impl Process {
    /// Waits for its end.
    pub(super) fn ends(&mut self, what: &str) -> ExitStatus {
        let until = now() + LONG;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(now() < until, "{what} does not end");
            std::thread::park_timeout(LOOK);
        }
    }

    /// Waits until it has ended itself at a step.
    pub(super) fn stops(&mut self, step: &str) {
        let status = self.ends(step);
        assert_eq!(status.signal(), Some(ABORTED), "{step}: {status}");
    }
}

impl Coordinator {
    /// Waits until it has ended itself at a step.
    pub(super) fn stops(&mut self, step: &str) {
        let until = now() + LONG;
        while self.line(until).is_some() {}
        let status = self.process.ended();
        let said = &self.said;
        assert_eq!(status.signal(), Some(ABORTED), "{step}: {said}");
    }

    /// All that it has said up to now.
    fn told(&mut self) -> &str {
        while let Ok(line) = self.lines.try_recv() {
            self.said += &line;
            self.said.push('\n');
        }
        &self.said
    }
}

impl Cluster {
    /// A cluster whose payments come while it runs, and which takes only those checkpoints that it is asked for. It runs at 4 at first.
    pub(super) fn fed(backend: &'static str, stop_at: Option<&str>) -> Self {
        Self::of(Job::fed(backend), stop_at)
    }

    /// Waits until what the leader answers is as wanted.
    pub(super) fn wait(
        &mut self,
        what: &str,
        path: &str,
        mut done: impl FnMut(&Value) -> bool,
    ) -> Value {
        let until = now() + LONG;
        let mut last = Value::Null;
        while now() < until {
            if let Some(told) = self.job.ask(path) {
                if done(&told) {
                    return told;
                }
                last = told;
            }
            std::thread::park_timeout(LOOK);
        }
        let said = self.coordinator.told();
        panic!("this did not come: {what}; {path} answers {last}; the coordinator said: {said}");
    }

    /// Waits until records flow at this parallelism, and output of the attempt has reached sinks. Another attempt that has to end first is
    /// waited for with [`Cluster::goes_behind`].
    pub(super) fn flows(&mut self, parallelism: u64) {
        // What was told of the attempt before may be shown for a moment. What is more than that is of this one.
        let mut before = u64::MAX;
        self.wait("output comes", "/v1/status", |job| {
            let runs = job["phase"] == "running";
            let out = job["records_out"].as_u64().filter(|_| runs);
            let is_more = out > Some(before);
            before = out.unwrap_or(u64::MAX);
            is_more
        });
        let is_shown = |graph: &Value| graph["tasks"].is_array();
        let graph = self.wait("the graph", "/v1/graph", is_shown);
        assert_eq!(widest(&graph), parallelism, "{graph}");
    }

    /// Waits until workers with so many slots are there.
    pub(super) fn has_slots(&mut self, slots: u64) {
        let are_there = |job: &Value| job["workers"]["slots"] == slots;
        self.wait("slots", "/v1/status", are_there);
    }

    /// The number of the attempt.
    pub(super) fn attempt(&mut self) -> u64 {
        let job = self.wait("a status", "/v1/status", |job| job["attempt"].is_u64());
        job["attempt"].as_u64().unwrap()
    }

    /// Waits until an attempt has begun behind this one.
    pub(super) fn goes_behind(&mut self, attempt: u64) {
        let is_next = |job: &Value| job["attempt"].as_u64() > Some(attempt);
        self.wait("the next attempt", "/v1/status", is_next);
    }

    /// Nothing has failed under this coordinator.
    pub(super) fn has_no_failure(&mut self) {
        let job = self.wait("a status", "/v1/status", |job| job["restarts"].is_u64());
        assert_eq!(job["restarts"], 0, "{job}");
        let failures = self.wait("the failures", "/v1/exceptions", Value::is_array);
        assert_eq!(failures, Value::Array(Vec::new()));
    }

    /// Has the job go on at this parallelism.
    pub(super) fn rescale(&mut self, parallelism: u64) {
        let to = parallelism.to_string();
        let asking = self.job.asking(&["rescale", "--parallelism", &to]).output();
        let ended = asking.unwrap();
        let said = complained(&ended);
        assert!(ended.status.success(), "to {parallelism}: {said}");
        self.flows(parallelism);
    }

    /// Asks for this parallelism under an id, and waits for nothing: a leader that ends soon may not answer.
    pub(super) fn ask_rescale(&self, parallelism: u64, id: &str) {
        let words = ["rescale", "--detach", "--operation", id];
        let mut asking = self.job.asking(&words);
        asking.args(["--parallelism", &parallelism.to_string()]);
        asking.stdout(Stdio::null()).stderr(Stdio::null());
        asking.status().unwrap();
    }

    /// What came of what was asked for under an id.
    pub(super) fn came_of(&self, id: &str) -> Output {
        self.job.asking(&["operation", id]).output().unwrap()
    }

    /// Lets the input end, waits for the end of the job and of its workers, and judges the output.
    pub(super) fn ends(self, workers: Vec<Process>, after: &str) {
        self.job.end_input();
        self.finished(workers, after);
    }
}

/// The parallelism of the widest task of a graph.
fn widest(graph: &Value) -> u64 {
    let tasks = graph["tasks"].as_array().unwrap().iter();
    let each = tasks.map(|task| task["parallelism"].as_u64().unwrap());
    each.max().unwrap()
}

/// What a command wrote to stderr.
pub(super) fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
