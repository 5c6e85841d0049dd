//! What the commands that speak to a running job print for people.
//!
//! The page of `status` is made of the JSON as it comes, so that a program of another version has one too.

use std::fmt::Write as _;
use std::time::Duration;

use highwater_web_api as api;
use serde_json::Value;

use crate::view::{age, bytes, count};

/// The page.
pub(super) fn status(status: &Value, tasks: &Value) -> String {
    let mut page = String::new();
    write(&mut page, status, tasks).expect("a String takes everything");
    page
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn write(page: &mut String, status: &Value, tasks: &Value) -> std::fmt::Result {
    writeln!(
        page,
        "{}  {}  epoch {}  restarts {}",
        text(&status["job"]),
        text(&status["phase"]),
        status["epoch"],
        status["restarts"]
    )?;
    if let Some(lineage) = status["lineage"].as_str() {
        writeln!(page, "lineage {lineage}")?;
    }
    let number = |value: &Value| count(value.as_u64().unwrap_or(0));
    let (taken, given) = (
        number(&status["records_in"]),
        number(&status["records_out"]),
    );
    write!(page, "records {taken} in, {given} out in this attempt")?;
    if let Some(lag) = status["watermark_lag_ms"].as_i64() {
        let (span, word) = (
            Duration::from_millis(lag.unsigned_abs()),
            if lag < 0 { " ahead" } else { "" },
        );
        write!(page, "; watermark lag {}{word}", age(span))?;
    }
    writeln!(page)?;
    checkpoints(page, &status["checkpoints"])?;
    restored(page, &status["restored"])?;
    redeployments(page, &status["redeployments"])?;
    if let Some(culprit) = status["held_back_by"].as_str() {
        writeln!(page, "held back by {culprit}")?;
    }
    let workers = &status["workers"];
    if let Some(count) = workers["count"].as_u64().filter(|count| *count > 0) {
        let slots = workers["slots"].as_u64().unwrap_or_default();
        write!(page, "workers {count}, slots {slots}")?;
        match workers["leaving"].as_u64() {
            Some(leaving) if leaving > 0 => writeln!(page, "; {leaving} leaving")?,
            _ => writeln!(page)?,
        }
    }
    last_failure(page, &status["last_failure"])?;
    for source in status["sources"].as_array().into_iter().flatten() {
        source_lines(page, source)?;
    }
    for operator in status["late_records"].as_array().into_iter().flatten() {
        late_records(page, operator)?;
    }
    for task in tasks.as_array().into_iter().flatten() {
        task_line(page, task)?;
    }
    Ok(())
}

/// How far an operation is.
pub(super) fn operation(told: &api::Operation) -> String {
    let checkpoint = told.checkpoint.unwrap_or_default();
    let words = match (told.state, told.kind) {
        (api::OperationState::Done, api::OperationKind::Savepoint) => {
            let name = told.savepoint.as_deref().unwrap_or("-");
            format!("savepoint {name}: checkpoint {checkpoint}")
        }
        (api::OperationState::Done, api::OperationKind::Checkpoint) => {
            format!("checkpoint {checkpoint}")
        }
        (api::OperationState::Done, api::OperationKind::Rescale) => {
            format!("runs at the parallelism that was asked for, from checkpoint {checkpoint}")
        }
        (api::OperationState::Done, api::OperationKind::Stop) => {
            format!("stopped with checkpoint {checkpoint}")
        }
        (api::OperationState::Running, _) => {
            format!("operation {} is under way", told.operation)
        }
        (api::OperationState::Refused, _) => format!("operation {} was refused", told.operation),
    };
    format!("{words}\n")
}

/// The last failures, a paragraph for each.
pub(super) fn exceptions(failures: &[api::Failure]) -> String {
    if failures.is_empty() {
        return "no failure since the coordinator began\n".to_owned();
    }
    let mut page = String::new();
    for failure in failures {
        let ago = failure.age_ms.map(Duration::from_millis).map(age);
        let mut place = format!("subtask {}", failure.subtask);
        for (word, part) in [("worker ", &failure.worker), ("", &failure.position)] {
            if let Some(part) = part {
                place = format!("{place}, {word}{part}");
            }
        }
        let line = format!(
            "attempt {}, {} ago, behind checkpoint {}, {}: {} ({place}): {}\n",
            failure.attempt,
            ago.as_deref().unwrap_or("-"),
            failure.checkpoint,
            failure.kind,
            failure.task,
            failure.message,
        );
        page.push_str(&line);
    }
    page
}

/// The keys that take many of the records of their subtasks, a line for each.
pub(super) fn hot_keys(operators: &[api::HotKeys]) -> String {
    if operators.is_empty() {
        return "the job has no keyed operator\n".to_owned();
    }
    let mut page = format!(
        "{:<32} {:>7} {:>4}  {:<16} {:>5} {:>7}\n",
        "operator", "subtask", "rank", "hash of the key", "group", "share"
    );
    for one in operators {
        let name = format!("{} ({})", one.operator, one.name);
        if one.keys.is_empty() {
            let line = format!("{name:<32} none\n");
            page.push_str(&line);
        }
        for key in &one.keys {
            let line = format!(
                "{name:<32} {:>7} {:>4}  {:<16} {:>5} {:>5.1} %\n",
                key.subtask,
                key.rank,
                key.hash,
                key.group,
                key.share * 100.0,
            );
            page.push_str(&line);
        }
    }
    page.push_str("by a sample of the last records of each subtask; less than 1 % is not told\n");
    page
}

/// The last checkpoints, a line for each.
pub(super) fn history(checkpoints: &[api::Checkpoint]) -> String {
    if checkpoints.is_empty() {
        return "no checkpoint since the coordinator began\n".to_owned();
    }
    let mut page = format!(
        "{:>8}  {:<12} {:<10} {:>12} {:>10} {:>10} {:>10} {:>9}\n",
        "number", "kind", "outcome", "began", "took", "new", "full", "answered"
    );
    for one in checkpoints {
        let kind = one.kind.map_or("-", kind_word);
        let outcome = match one.outcome {
            api::CheckpointOutcome::Pending => "pending",
            api::CheckpointOutcome::Completed => "completed",
            api::CheckpointOutcome::GivenUp => "given up",
        };
        let line = format!(
            "{:>8}  {kind:<12} {outcome:<10} {:>8} ago {:>10} {:>10} {:>10} {:>4}/{:<4}",
            one.number,
            age(Duration::from_millis(one.age_ms)),
            age(Duration::from_millis(one.duration_ms)),
            bytes(one.bytes),
            bytes(one.full_bytes),
            one.answered,
            one.subtasks,
        );
        page.push_str(line.trim_end());
        if let Some(reason) = &one.reason {
            page.push_str("  ");
            page.push_str(reason);
        }
        page.push('\n');
    }
    page
}

const fn kind_word(kind: api::CheckpointKind) -> &'static str {
    match kind {
        api::CheckpointKind::Checkpoint => "checkpoint",
        api::CheckpointKind::Savepoint => "savepoint",
        api::CheckpointKind::StopSuspend => "suspend",
        api::CheckpointKind::StopDrain => "stop, drain",
    }
}

/// One checkpoint with its tasks.
pub(super) fn checkpoint(details: &api::CheckpointDetails) -> String {
    let mut page = history(std::slice::from_ref(&details.checkpoint));
    for part in &details.tasks {
        let after = |ms: Option<u64>| {
            ms.map_or_else(|| "-".to_owned(), |ms| age(Duration::from_millis(ms)))
        };
        let last = part.last_subtask;
        let last = last.map_or(String::new(), |subtask| format!(" (subtask {subtask})"));
        let line = format!(
            "  {:<32} {}/{} answered, first after {}, last after {}{last}; {} new, {} of older checkpoints\n",
            part.task,
            part.answered,
            part.subtasks,
            after(part.first_answer_ms),
            after(part.last_answer_ms),
            bytes(part.bytes),
            bytes(part.referenced_bytes),
        );
        page.push_str(&line);
    }
    page
}

/// The settings, a line for each that is set.
pub(super) fn config(settings: &[api::Setting]) -> String {
    let mut page = String::new();
    for one in settings {
        let Some(value) = &one.value else { continue };
        let mark = if one.live { ", live" } else { "" };
        let line = format!("{:<28} {value}  ({}{mark})\n", one.name, one.from);
        page.push_str(&line);
    }
    page
}

/// What a source refused, and what it waits for.
fn source_lines(page: &mut String, source: &Value) -> std::fmt::Result {
    let name = text(&source["source"]);
    let part = |name: &str| source[name].as_u64().unwrap_or(0);
    let (letters, dropped) = (part("dead_letters"), part("dropped"));
    let future = part("too_far_in_the_future");
    if letters + dropped + future > 0 {
        writeln!(
            page,
            "refused by {name}: {} to dead letters, {} dropped; {} too far in the future",
            count(letters),
            count(dropped),
            count(future),
        )?;
    }
    match part("splits_behind_open_transactions") {
        0 => Ok(()),
        held => writeln!(
            page,
            "{name} waits: {held} splits hold records of a transaction that somebody keeps open"
        ),
    }
}

/// How late the records of one operator come: the counts, a line for each bucket, and the bounds that would do.
fn late_records(page: &mut String, operator: &Value) -> std::fmt::Result {
    let part = |name: &str| count(operator[name].as_u64().unwrap_or(0));
    writeln!(
        page,
        "late records at {}: {} on time, {} late but accepted, {} dropped, {} to a side output",
        text(&operator["operator"]),
        part("on_time"),
        part("late_accepted"),
        part("late_dropped"),
        part("late_to_side_output"),
    )?;
    let buckets = operator["lateness"].as_array().into_iter().flatten();
    for bucket in buckets {
        let limit = span_of(&bucket["up_to_ms"]).unwrap_or_default();
        let records = count(bucket["records"].as_u64().unwrap_or(0));
        writeln!(page, "  up to {limit:<10} late: {records}")?;
    }
    let Some(bound) = span_of(&operator["bound_ms"]) else {
        return Ok(());
    };
    let suggested = &operator["suggested_bound_ms"];
    let of = |share: &str| span_of(&suggested[share]).unwrap_or_default();
    writeln!(
        page,
        "  the bound is {bound}; 99 % would be on time with {}, 99.9 % with {}",
        of("0.99"),
        of("0.999")
    )
}

fn span_of(millis: &Value) -> Option<String> {
    let millis = millis.as_i64()?;
    Some(age(Duration::from_millis(millis.unsigned_abs())))
}

fn checkpoints(page: &mut String, checkpoints: &Value) -> std::fmt::Result {
    match checkpoints["completed"].as_u64() {
        None => write!(page, "no checkpoint yet in this run")?,
        Some(number) => {
            write!(page, "checkpoint {number}")?;
            if let Some(passed) = checkpoints["age_ms"].as_u64() {
                write!(page, ", {} ago", age(Duration::from_millis(passed)))?;
            }
            let (new, full) = (&checkpoints["bytes"], &checkpoints["full_bytes"]);
            write!(page, ", {}", bytes(new.as_u64().unwrap_or(0)))?;
            if let Some(full) = full.as_u64().filter(|full| Some(*full) != new.as_u64()) {
                write!(page, " new of {}", bytes(full))?;
            }
            let confirmed = checkpoints["confirmed"].as_bool().unwrap_or(false);
            write!(
                page,
                ", output {}",
                if confirmed {
                    "confirmed"
                } else {
                    "being confirmed"
                }
            )?;
        }
    }
    if let Some(number) = checkpoints["pending"].as_u64() {
        write!(page, "; {number} on its way")?;
    }
    if let Some(reason) = checkpoints["last_failure"].as_str() {
        write!(
            page,
            "; {} given up, last: {reason}",
            checkpoints["failed_count"]
        )?;
    }
    writeln!(page)
}

/// Where the state of the attempt came from.
fn restored(page: &mut String, restored: &Value) -> std::fmt::Result {
    let part = |name: &str| restored[name].as_u64().unwrap_or(0);
    let (fetched, local) = (part("fetched_bytes"), part("local_bytes"));
    if fetched + local == 0 {
        return Ok(());
    }
    let (fetched, local) = (bytes(fetched), bytes(local));
    writeln!(
        page,
        "restored {fetched} from the object store, {local} from local disk"
    )
}

/// How often the tasks began anew without a failure, and how long records stood still at the last time.
fn redeployments(page: &mut String, all: &Value) -> std::fmt::Result {
    let Some(count) = all["count"].as_u64().filter(|count| *count > 0) else {
        return Ok(());
    };
    write!(page, "redeployments {count}")?;
    if let Some(number) = all["checkpoint"].as_u64() {
        write!(page, ", last behind checkpoint {number}")?;
    }
    if let Some(pause) = all["pause_ms"].as_u64() {
        let pause = age(Duration::from_millis(pause));
        write!(page, " with a pause of {pause}")?;
    }
    writeln!(page)
}

fn task_line(page: &mut String, task: &Value) -> std::fmt::Result {
    let part = |name: &str| task[name].as_u64().unwrap_or(0);
    let (busy, blocked) = (part("busy_ms"), part("backpressured_ms"));
    let total = busy + part("idle_ms") + blocked;
    let percent = |part: u64| (part * 100).checked_div(total).unwrap_or(0);
    let name = format!("{}.{}", text(&task["task"]), task["subtask"]);
    write!(
        page,
        "  {name:<32} busy {:>3}%  idle {:>3}%  blocked {:>3}%",
        percent(busy),
        if total == 0 {
            0
        } else {
            100 - percent(busy) - percent(blocked)
        },
        percent(blocked)
    )?;
    if let Some(receiver) = task["blocked_on"].as_str() {
        write!(page, "  waits for {receiver}")?;
    }
    writeln!(page)
}

fn last_failure(page: &mut String, failure: &Value) -> std::fmt::Result {
    let Some(message) = failure["message"].as_str() else {
        return Ok(());
    };
    write!(page, "last failure: {}", text(&failure["task"]))?;
    for (word, name) in [
        ("subtask ", "subtask"),
        ("worker ", "worker"),
        ("", "position"),
    ] {
        match &failure[name] {
            Value::String(text) => write!(page, ", {word}{text}")?,
            Value::Number(number) => write!(page, ", {word}{number}")?,
            _ => {}
        }
    }
    if let Some(millis) = failure["age_ms"].as_u64() {
        write!(page, ", {} ago", age(Duration::from_millis(millis)))?;
    }
    writeln!(page, ": {message}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_says_what_a_person_asks_first() {
        let shown = status(
            &json!({
                "job": "fleet", "phase": "running", "epoch": 2, "restarts": 1,
                "lineage": "00000000000000000000000000000fab",
                "records_in": 12_345, "records_out": 67, "watermark_lag_ms": 1_500,
                "held_back_by": "r1-window",
                "workers": { "count": 2, "slots": 8, "leaving": 1 },
                "redeployments": { "count": 2, "checkpoint": 8, "pause_ms": 1_300 },
                "restored": { "fetched_bytes": 1_024, "local_bytes": 2_048 },
                "last_failure": {
                    "task": "r1-window", "subtask": 3, "worker": "1 (left)", "position": null, "age_ms": 90_000,
                    "message": "out of memory",
                },
                "checkpoints": {
                    "completed": 9, "age_ms": 250, "bytes": 2_048, "full_bytes": 4_096, "confirmed": true, "pending": 10,
                    "failed_count": 1, "last_failure": "timeout",
                },
            }),
            &json!([{
                "task": "payments", "subtask": 0, "busy_ms": 30, "idle_ms": 60,
                "backpressured_ms": 10, "blocked_on": "r1-window",
            }]),
        );
        let expected = "\
fleet  running  epoch 2  restarts 1
lineage 00000000000000000000000000000fab
records 12,345 in, 67 out in this attempt; watermark lag 1.5 s
checkpoint 9, 250 ms ago, 2.0 KiB new of 4.0 KiB, output confirmed; 10 on its way; 1 given up, last: timeout
restored 1.0 KiB from the object store, 2.0 KiB from local disk
redeployments 2, last behind checkpoint 8 with a pause of 1.3 s
held back by r1-window
workers 2, slots 8; 1 leaving
last failure: r1-window, subtask 3, worker 1 (left), 1 min 30 s ago: out of memory
  payments.0                       busy  30%  idle  60%  blocked  10%  waits for r1-window
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn late_records_are_a_histogram_with_the_bounds_that_would_do() {
        let shown = status(
            &json!({
                "job": "fleet", "phase": "running", "checkpoints": {},
                "sources": [{
                    "source": "payments", "dead_letters": 1_200, "dropped": 0, "too_far_in_the_future": 3,
                    "splits_behind_open_transactions": 2,
                }],
                "late_records": [{
                    "operator": "r1-window", "on_time": 9_000, "late_accepted": 990, "late_dropped": 10,
                    "late_to_side_output": 0,
                    "lateness": [
                        { "up_to_ms": 127, "records": 900 }, { "up_to_ms": 65_535, "records": 100 },
                    ],
                    "bound_ms": 45_000, "suggested_bound_ms": { "0.99": 45_128, "0.999": 110_536 },
                }],
            }),
            &json!([]),
        );
        let expected = "\
refused by payments: 1,200 to dead letters, 0 dropped; 3 too far in the future
payments waits: 2 splits hold records of a transaction that somebody keeps open
late records at r1-window: 9,000 on time, 990 late but accepted, 10 dropped, 0 to a side output
  up to 127 ms     late: 900
  up to 1 min 5 s  late: 100
  the bound is 45.0 s; 99 % would be on time with 45.1 s, 99.9 % with 1 min 50 s
";
        assert!(shown.ends_with(expected), "{shown}");
    }

    #[test]
    fn a_checkpoint_has_a_line_and_its_tasks_one_each() {
        let details = api::CheckpointDetails {
            checkpoint: api::Checkpoint {
                number: 7,
                epoch: 2,
                kind: Some(api::CheckpointKind::Savepoint),
                outcome: api::CheckpointOutcome::GivenUp,
                age_ms: 65_000,
                duration_ms: 1_500,
                confirmation_ms: None,
                bytes: 2_048,
                full_bytes: 4_096,
                answered: 1,
                subtasks: 2,
                reason: Some("it took too long".to_owned()),
            },
            tasks: vec![api::TaskPart {
                task: "count".to_owned(),
                subtasks: 2,
                answered: 1,
                first_answer_ms: Some(20),
                last_answer_ms: Some(20),
                last_subtask: Some(1),
                bytes: 2_048,
                referenced_bytes: 2_048,
            }],
        };
        let page = checkpoint(&details);
        let mut lines = page.lines().skip(1);
        let words: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "7 savepoint given up 1 min 5 s ago 1.5 s 2.0 KiB 4.0 KiB 1/2 it took too long"
        );
        let task = lines.next().unwrap();
        assert!(task.contains("last after 20 ms (subtask 1)"), "{task}");
        assert_eq!(history(&[]), "no checkpoint since the coordinator began\n");
    }

    #[test]
    fn an_operation_says_what_came_of_it() {
        let told = |kind, state: api::OperationState| {
            let is_done = state == api::OperationState::Done;
            operation(&api::Operation {
                operation: "one".to_owned(),
                kind,
                state,
                savepoint: Some("before".to_owned()),
                checkpoint: is_done.then_some(7),
                epoch: is_done.then_some(2),
                age_ms: 5,
                duration_ms: 5,
                problem: None,
            })
        };
        let done = |kind| told(kind, api::OperationState::Done);
        let expected = "runs at the parallelism that was asked for, from checkpoint 7\n";
        assert_eq!(done(api::OperationKind::Rescale), expected);
        assert_eq!(
            done(api::OperationKind::Savepoint),
            "savepoint before: checkpoint 7\n"
        );
        assert_eq!(
            done(api::OperationKind::Stop),
            "stopped with checkpoint 7\n"
        );
        assert_eq!(
            told(api::OperationKind::Rescale, api::OperationState::Running),
            "operation one is under way\n"
        );
    }

    #[test]
    fn failures_and_settings_have_a_line_each() {
        let failure = api::Failure {
            age_ms: Some(1_500),
            attempt: 3,
            checkpoint: 7,
            task: "count".to_owned(),
            subtask: 1,
            worker: Some("1 (left)".to_owned()),
            position: Some("orders-0 at 17".to_owned()),
            kind: "invalid".to_owned(),
            message: "no number".to_owned(),
        };
        assert_eq!(
            exceptions(&[failure]),
            "attempt 3, 1.5 s ago, behind checkpoint 7, invalid: count (subtask 1, worker 1 (left), orders-0 at 17): no number\n"
        );
        let setting = |name: &str, value: Option<&str>, live| api::Setting {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            from: "default".to_owned(),
            live,
        };
        let page = config(&[
            setting("log.level", Some("info"), true),
            setting("workers", None, false),
        ]);
        assert_eq!(page, "log.level                    info  (default, live)\n");
    }

    #[test]
    fn a_hot_key_has_a_line_and_an_operator_without_any_has_one_too() {
        let of = |operator: &str, keys| api::HotKeys {
            operator: operator.to_owned(),
            name: "window".to_owned(),
            key: Some("text".to_owned()),
            keys,
        };
        let key = api::HotKey {
            subtask: 3,
            rank: 1,
            hash: "00000000000002d1".to_owned(),
            group: 1,
            share: 0.306,
            sampled_records: 4_096,
        };
        let expected = "\
operator                         subtask rank  hash of the key  group   share
r1-window (window)                     3    1  00000000000002d1     1  30.6 %
count (window)                   none
by a sample of the last records of each subtask; less than 1 % is not told
";
        let told = [of("r1-window", vec![key]), of("count", Vec::new())];
        assert_eq!(hot_keys(&told), expected);
        assert_eq!(hot_keys(&[]), "the job has no keyed operator\n");
    }

    #[test]
    fn a_job_that_has_just_begun_has_a_page() {
        let shown = status(
            &json!({ "job": "fleet", "phase": "starting", "checkpoints": {} }),
            &json!([]),
        );
        assert!(shown.contains("no checkpoint yet in this run"), "{shown}");
    }
}
