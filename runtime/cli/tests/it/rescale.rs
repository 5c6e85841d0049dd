//! The command `rescale` on a job in one process. Jobs on workers, and those that are killed on the way, are tested with Harbor Fleet.

use serde_json::Value;

use crate::job::{Job, complained, said};

/// How often a page is looked at, each time by a process of its own, until it is as wanted.
const LOOKS: usize = 1_000;

/// Waits until so many subtasks of the source are shown.
fn has_subtasks(job: &Job, count: usize) {
    let mut page = String::new();
    for _ in 0..LOOKS {
        page = said(&job.call(&["status"]));
        let lines = page.lines().map(str::trim_start);
        let subtasks = lines.filter(|line| line.starts_with("numbers."));
        if subtasks.count() == count {
            return;
        }
    }
    panic!("there are not {count} subtasks: {page}");
}

fn status(job: &Job) -> Value {
    let told = job.call(&["status", "--json"]);
    assert_eq!(told.status.code(), Some(0), "{}", complained(&told));
    serde_json::from_slice(&told.stdout).unwrap()
}

#[test]
fn a_running_job_goes_on_at_another_parallelism_and_later_runs_keep_it() {
    let job = Job::new();
    let running = job.start();
    // Asked for again, there is nothing to be done.
    for _ in 0..2 {
        let asked = job.call(&["rescale", "--parallelism", "3"]);
        assert_eq!(asked.status.code(), Some(0), "{}", complained(&asked));
        let words = said(&asked);
        assert!(words.starts_with("runs at the parallelism"), "{words}");
    }
    has_subtasks(&job, 3);
    let told = status(&job);
    assert_eq!(told["phase"], "running");
    assert_eq!(told["redeployments"]["count"], 1, "{told}");
    assert_eq!(told["restarts"], 0, "{told}");
    let page = said(&job.call(&["status"]));
    assert!(page.contains("redeployments 1, last behind"), "{page}");
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));

    // Started as before.
    let running = job.start();
    has_subtasks(&job, 3);
    let asked = job.call(&["rescale", "--operator", "numbers=2"]);
    assert_eq!(asked.status.code(), Some(0), "{}", complained(&asked));
    has_subtasks(&job, 2);
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
}

#[test]
fn a_rescale_that_cannot_be_is_refused_by_name_and_the_job_goes_on() {
    let job = Job::new();
    for (words, code, part) in [
        (&["rescale"][..], 2, "--parallelism"),
        (&["rescale", "--parallelism", "0"], 2, "1 to 32768"),
        (&["rescale", "--parallelism", "2"], 7, "does not run here"),
    ] {
        let ended = job.call(words);
        assert_eq!(ended.status.code(), Some(code), "{words:?}");
        let complaint = complained(&ended);
        assert!(complaint.contains(part), "{words:?}: {complaint}");
    }
    let running = job.start();
    let before = status(&job)["attempt"].clone();
    for (words, part) in [
        (["rescale", "--operator", "nobody=2"], "`nobody`"),
        (["rescale", "--parallelism", "800"], "max parallelism"),
    ] {
        let ended = job.call(&words);
        assert_eq!(ended.status.code(), Some(2), "{words:?}");
        let complaint = complained(&ended);
        assert!(complaint.contains(part), "{words:?}: {complaint}");
    }
    let told = status(&job);
    assert_eq!(told["phase"], "running");
    assert_eq!(told["attempt"], before);
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
}
