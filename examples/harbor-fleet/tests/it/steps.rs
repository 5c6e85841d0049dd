//! The real program is ended right before each of the 19 protocol steps, goes on, and puts everything out once.

#[cfg(feature = "kafka")]
use std::path::Path;
#[cfg(feature = "kafka")]
use std::process::Command;

use crate::job::Job;

const CHECKPOINT: [&str; 12] = [
    "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12",
];
const RECOVERY: [&str; 7] = ["R1", "R2", "R3", "R4", "R5", "R6", "R7"];

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
