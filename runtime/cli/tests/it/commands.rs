//! The commands, one after the other.

use std::path::{Path, PathBuf};

use highwater_connectors::FileLogWriter;
use serde_json::Value;

use crate::job::{Job, complained, said};

#[test]
fn a_bounded_job_ends_with_0_and_leaves_a_whole_checkpoint() {
    let job = Job::new();
    let ran = job.call(&["run", "--param", "count=50", "--parallelism", "1"]);
    assert_eq!(ran.status.code(), Some(0), "{}", complained(&ran));
    let listed = job.call(&["checkpoints", "list"]);
    assert_eq!(listed.status.code(), Some(0), "{}", complained(&listed));
    assert!(said(&listed).contains("number"), "{}", said(&listed));
    let shown = said(&job.call(&["checkpoints", "inspect"]));
    assert!(shown.contains("source     numbers"), "{shown}");
    let verified = job.call(&["checkpoints", "verify"]);
    assert!(
        said(&verified).contains("is whole"),
        "{}",
        complained(&verified)
    );
}

/// The files in a folder and in those below it.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn the_end_of_a_bounded_run_tells_what_became_of_its_records() {
    let job = Job::new();
    let log = job.state().with_file_name("log");
    let mut writer = FileLogWriter::open(&log, "numbers", 1).unwrap();
    for line in ["no number", "none either", "no \u{fc}"] {
        writer.append(0, line.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let ran = job.call(&["run", "--param", "log=log", "--parallelism", "1"]);
    assert_eq!(ran.status.code(), Some(0), "{}", complained(&ran));
    let words = complained(&ran);
    let told = "records: 3 read, 3 written, 3 to dead letters, 0 dropped, 0 late";
    assert!(words.contains(told), "{words}");
    let warned = words
        .lines()
        .find(|line| line.contains("not all records were taken"))
        .unwrap();
    assert!(warned.contains("WARN"), "{warned}");
    // out/bad/<lineage>/<file>, beside a file of the sink's own.
    let lines = files_below(&log.with_file_name("out").join("bad"))
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .find(|text| text.contains("payload"));
    let bad = lines.unwrap();
    let letter: Value = serde_json::from_str(bad.lines().last().unwrap()).unwrap();
    assert_eq!(letter["payload"], "no \u{fc}");

    let job = Job::new();
    let path = log.to_str().unwrap();
    let log = format!("log={path}");
    let ran = job.call(&["run", "--param", &log, "--param", "bad=drop"]);
    let words = complained(&ran);
    let told = "records: 3 read, 0 written, 0 to dead letters, 3 dropped, 0 late";
    assert!(words.contains(told), "{words}");

    // A run without such records warns of nothing.
    let ran = job.call(&["run", "--fresh", "--param", "count=50"]);
    let words = complained(&ran);
    assert!(words.contains("records: 50 read, 50 written"), "{words}");
    assert!(!words.contains("not all records were taken"), "{words}");
}

#[test]
fn a_running_job_tells_its_status_and_stops_by_command_and_by_signal() {
    let job = Job::new();
    let running = job.start();
    let status = job.call(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["job"], "numbers");
    assert_eq!(status["phase"], "running");
    let page = said(&job.call(&["status"]));
    assert!(page.starts_with("numbers  running  epoch 1"), "{page}");
    let lineage = format!("\nlineage {}\n", status["lineage"].as_str().unwrap());
    assert!(page.contains(&lineage), "{page}");
    let stopped = job.call(&["stop", "--savepoint", "first"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", complained(&stopped));
    assert_eq!(running.end(), Some(0));
    assert!(job.state().join("savepoints/first/manifest").exists());

    // The second run goes on: the epoch rises, the lineage stays.
    let running = job.start();
    let again = job.call(&["status", "--json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["lineage"], status["lineage"]);
    assert_eq!(again["epoch"], 2);
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
}

#[test]
fn a_job_that_runs_is_not_started_twice_by_accident() {
    let job = Job::new();
    let first = job.start();
    let second = job.call(&["run", "--param", "count=20"]);
    assert_eq!(second.status.code(), Some(2), "{}", complained(&second));
    assert!(
        complained(&second).contains("runs here already"),
        "{}",
        complained(&second)
    );
    let epoch = |status: Value| status["epoch"].clone();
    let status = job.call(&["status", "--json"]);
    assert_eq!(epoch(serde_json::from_slice(&status.stdout).unwrap()), 1);

    // Asked for, it is done: the newer owns the job, the older finds out and says so.
    let ran = job.call(&["run", "--take-over", "--param", "count=20"]);
    assert_eq!(ran.status.code(), Some(0), "{}", complained(&ran));
    assert_eq!(first.end(), Some(4));
    let status = job.call(&["status"]);
    assert_eq!(status.status.code(), Some(7), "{}", complained(&status));
}

#[test]
fn the_status_of_a_running_job_tells_how_late_records_come_and_which_bound_would_do() {
    let job = Job::new();
    let running = job.start_with(&["--param", "late=yes"]);
    // Each call is a process of its own; the hundredth record is late within a second.
    let late = loop {
        let status = job.call(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let late = status["late_records"][0].clone();
        if late["lateness"][0]["records"].is_u64() {
            break late;
        }
    };
    assert_eq!(late["operator"], "count");
    assert_eq!(late["bound_ms"], 100);
    // 400 ms behind the record before, judged with a bound of 100 ms: at most 300 ms behind the watermark, and less
    // where many records came at once.
    let buckets = late["lateness"].as_array().unwrap();
    let limits: Vec<_> = buckets
        .iter()
        .map(|bucket| bucket["up_to_ms"].as_i64().unwrap())
        .collect();
    let largest = *limits.last().unwrap();
    assert!(largest <= 511, "{late}");
    // Each hundredth is late, so for 99.9 % most of them have to be caught.
    let suggested = late["suggested_bound_ms"]["0.999"].as_i64().unwrap();
    assert!(
        limits.iter().any(|limit| suggested == 100 + limit + 1),
        "{late}"
    );
    let page = said(&job.call(&["status"]));
    assert!(page.contains("late records at count: "), "{page}");
    assert!(page.contains("the bound is 100 ms; 99 % would"), "{page}");
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
}

#[test]
fn the_only_key_of_an_operator_is_its_hot_key() {
    let job = Job::new();
    let running = job.start_with(&["--param", "late=yes"]);
    // Each call is a process of its own; a thousand records a second are enough for a sample soon.
    let told = loop {
        let told = job.call(&["hot-keys", "--json"]);
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!(told[0]["operator"], "count");
        if told[0]["keys"][0].is_object() {
            break told;
        }
    };
    let hot = &told[0]["keys"][0];
    assert_eq!(hot["subtask"], 0);
    assert_eq!(hot["rank"], 1);
    assert_eq!(hot["share"].as_f64(), Some(1.0));
    let page = said(&job.call(&["hot-keys"]));
    let hash = hot["hash"].as_str().unwrap();
    let line = page.lines().find(|line| line.contains(hash)).unwrap();
    assert!(line.starts_with("count (window) "), "{page}");
    assert!(line.ends_with("100.0 %"), "{page}");
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
}

#[test]
fn a_fresh_run_says_that_it_leaves_state_behind() {
    let job = Job::new();
    let ran = job.call(&["run", "--param", "count=20"]);
    assert_eq!(ran.status.code(), Some(0), "{}", complained(&ran));
    let fresh = job.call(&["run", "--fresh", "--param", "count=20"]);
    assert_eq!(fresh.status.code(), Some(0), "{}", complained(&fresh));
    assert!(
        complained(&fresh).contains("left behind"),
        "{}",
        complained(&fresh)
    );
}

#[test]
fn the_list_of_checkpoints_tells_which_folder_of_output_is_current() {
    let job = Job::new();
    let log = job.state().with_file_name("log");
    let mut writer = FileLogWriter::open(&log, "numbers", 1).unwrap();
    writer.append(0, b"no number").unwrap();
    writer.finish().unwrap();
    let out = log.with_file_name("out").join("bad");
    let mut current = Vec::new();
    for start in [
        &["run", "--param", "log=log"][..],
        &["run", "--fresh", "--param", "log=log"],
    ] {
        let ran = job.call(start);
        assert_eq!(ran.status.code(), Some(0), "{}", complained(&ran));
        let listed = said(&job.call(&["checkpoints", "list"]));
        let first = listed.lines().next().unwrap();
        let lineage = first.strip_prefix("lineage ").unwrap().to_owned();
        assert!(out.join(&lineage).is_dir(), "{listed}");
        current.push(lineage);
    }
    assert_ne!(
        current[0], current[1],
        "a fresh run has a folder of its own"
    );
}

#[test]
fn logs_in_a_pipe_are_plain_lines_that_name_the_job() {
    let job = Job::new();
    let ran = job.call(&["run", "--param", "count=20"]);
    let log = complained(&ran);
    assert!(!log.contains('\x1b'), "{log:?}");
    assert!(
        log.lines().all(|line| line.ends_with(" job=numbers")),
        "{log}"
    );
    assert_eq!(said(&ran), "");
}

#[test]
fn what_is_wrong_decides_the_exit_code() {
    let job = Job::new();
    for (arguments, code, part) in [
        (&["run", "--slots", "0"][..], 2, "1 to 1024"),
        (&["run", "--no-such-flag"], 2, "--no-such-flag"),
        (&["run", "--config", "no.yaml"], 2, "no.yaml"),
        (&["run", "--param", "count=many"], 5, "invalid digit"),
        (&["run", "--param", "cuont=5"], 2, "it reads count"),
        (
            &["run", "--log-level", "loud"],
            2,
            "`loud`, which is no level",
        ),
        (&["run", "--log-level", "info,engine=lout"], 2, "lout"),
        (&["plan", "--parallelism", "800"], 5, "max parallelism"),
        (&["checkpoints", "verify"], 2, "no checkpoints"),
        (&["status"], 7, "does not run here"),
        (&["savepoint", "one"], 7, "does not run here"),
        (&["hot-keys"], 7, "does not run here"),
        (&["stop"], 7, "does not run here"),
    ] {
        let ended = job.call(arguments);
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}");
        assert!(complained(&ended).contains(part), "{}", complained(&ended));
    }
    assert!(!job.state().exists(), "nothing was started");
}

#[test]
fn an_unknown_variable_stops_every_command_but_version() {
    let job = Job::new();
    let ended = job.call_with(("HIGHWATER_SLOT", "1"), &["status"]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        complained(&ended).contains("HIGHWATER_SLOTS"),
        "{}",
        complained(&ended)
    );
    let version = job.call_with(("HIGHWATER_SLOT", "1"), &["version"]);
    assert!(
        said(&version).starts_with("highwater "),
        "{}",
        complained(&version)
    );
}

#[test]
fn damaged_state_ends_with_6() {
    let job = Job::new();
    let ran = job.call(&["run", "--param", "count=20"]);
    assert_eq!(ran.status.code(), Some(0), "{}", complained(&ran));
    let head = job.state().join("numbers/head");
    let mut bytes = std::fs::read(&head).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&head, bytes).unwrap();
    for arguments in [
        &["checkpoints", "verify"][..],
        &["run", "--param", "count=20"],
    ] {
        let ended = job.call(arguments);
        assert_eq!(ended.status.code(), Some(6), "{}", complained(&ended));
        assert!(
            complained(&ended).contains("head"),
            "{}",
            complained(&ended)
        );
    }
}

#[test]
fn a_savepoint_is_taken_by_an_explicit_word_only() {
    let job = Job::new();
    let running = job.start();
    let taken = job.call(&["savepoint", "first"]);
    assert_eq!(taken.status.code(), Some(0), "{}", complained(&taken));
    let twice = job.call(&["stop", "--savepoint", "first"]);
    assert!(
        complained(&twice).contains("another name"),
        "{}",
        complained(&twice)
    );
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
    let (from, count) = (["run", "--from-savepoint", "first"], ["--param", "count=5"]);
    let with = |words: &[&'static str]| [&from[..], words, &count[..]].concat();
    let unsaid = job.call(&with(&[]));
    assert_eq!(unsaid.status.code(), Some(5), "{}", complained(&unsaid));
    for word in ["--go-back", "--fork"] {
        assert!(
            complained(&unsaid).contains(word),
            "{}",
            complained(&unsaid)
        );
    }
    for (words, code) in [
        (&["--go-back", "--fork"][..], 2),
        (&["--fresh"], 2),
        (&["--fork"], 0),
        (&[], 0),
    ] {
        let ran = job.call(&with(words));
        assert_eq!(ran.status.code(), Some(code), "{}", complained(&ran));
    }
    let missing = job.call(&["run", "--from-savepoint", "second", "--go-back"]);
    assert_eq!(missing.status.code(), Some(5), "{}", complained(&missing));
    assert!(
        complained(&missing).contains("savepoints/second"),
        "{}",
        complained(&missing)
    );
}

#[test]
fn a_state_directory_that_cannot_be_made_is_a_wrong_setting() {
    let job = Job::new();
    std::fs::write(job.state(), "a file, no directory").unwrap();
    let ended = job.call(&["run", "--param", "count=5"]);
    assert_eq!(ended.status.code(), Some(2), "{}", complained(&ended));
    assert!(
        complained(&ended).contains("state"),
        "{}",
        complained(&ended)
    );
}
