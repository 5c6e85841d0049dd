//! What a person reads, for readings that are given.

use highwater_types::{CheckpointId, Epoch};

use super::*;

fn reading(millis: u64, records: u64, shares_ms: [u64; 3]) -> Reading {
    Reading {
        elapsed: Duration::from_millis(millis),
        now: ProcessingTime(1_000_000 + millis as i64),
        flow: JobFlow {
            records_in: records,
            records_out: records / 10,
        },
        tasks: vec![TaskSummary {
            head: OperatorUid::parse("payments").unwrap(),
            name: "payments -> parse".to_owned(),
            subtasks: 2,
            shares_ms,
        }],
        culprit: None,
        event_time: None,
    }
}

fn text(status: &JobStatus, before: &Reading, now: &Reading) -> String {
    let job = JobIdentity::parse("fleet").unwrap();
    Frame {
        job: &job,
        status,
        before,
        now,
    }
    .text()
}

#[test]
fn rates_and_shares_are_those_between_two_readings() {
    let before = reading(1_000, 10_000, [1_000, 500, 500]);
    let now = reading(1_500, 1_010_000, [1_750, 625, 625]);
    let shown = text(&JobStatus::starting(), &before, &now);
    assert!(shown.contains("in 2,000,000/s  out 200,000/s\n"), "{shown}");
    assert!(shown.contains("payments -> parse x2"), "{shown}");
    assert!(shown.contains(" 75%   13%      12%\n"), "{shown}");
}

#[test]
fn a_new_attempt_begins_its_shares_and_rates_anew() {
    let before = reading(1_000, 10_000, [900, 50, 50]);
    let now = reading(1_500, 100, [10, 80, 10]);
    let shown = text(&JobStatus::starting(), &before, &now);
    assert!(shown.contains("in 0/s"), "{shown}");
    assert!(shown.contains(" 10%   80%      10%\n"), "{shown}");
}

#[test]
fn the_lag_of_the_watermark_and_the_culprit_are_named() {
    let before = reading(1_000, 0, [0; 3]);
    let mut now = reading(1_500, 0, [0; 3]);
    now.event_time = Some(1_001_500 - 2_500);
    now.culprit = Some("r1-window".to_owned());
    let shown = text(&JobStatus::starting(), &before, &now);
    assert!(shown.contains("watermark lag 2.5 s"), "{shown}");
    assert!(shown.contains("held back by r1-window"), "{shown}");
    now.event_time = Some(1_001_500 + 200);
    let shown = text(&JobStatus::starting(), &before, &now);
    assert!(shown.contains("event time ahead by 200 ms"), "{shown}");
}

#[test]
fn checkpoints_say_number_age_and_size() {
    let mut status = JobStatus::starting();
    let id = |number| CheckpointId {
        number,
        epoch: Epoch(1),
    };
    status.epoch = Epoch(4);
    status.restarts = 2;
    status.phase = JobPhase::Restarting { at_ms: 3_500 };
    let (before, now) = (reading(1_000, 0, [0; 3]), reading(1_500, 0, [0; 3]));
    assert!(text(&status, &before, &now).contains("no checkpoint yet"));
    status.checkpoints = CheckpointStatus {
        completed: Some(id(7)),
        completed_at_ms: Some(300),
        duration_ms: Some(40),
        bytes: 3 << 20,
        pending: Some(id(8)),
        failed_count: 1,
        ..CheckpointStatus::default()
    };
    let shown = text(&status, &before, &now);
    let first = "fleet  restarting in 2.0 s  epoch 4  restarts 2\n";
    assert!(shown.starts_with(first), "{shown}");
    let line = "  checkpoint 7, 1.2 s ago, 3.0 MiB in 40 ms; 8 on its way; 1 given up\n";
    assert!(shown.contains(line), "{shown}");
}

#[test]
fn numbers_are_made_for_reading() {
    assert_eq!(count(0), "0");
    assert_eq!(count(999), "999");
    assert_eq!(count(1_234_567), "1,234,567");
    assert_eq!(age(Duration::from_millis(999)), "999 ms");
    assert_eq!(age(Duration::from_secs(125)), "2 min 5 s");
    assert_eq!(age(Duration::from_hours(25)), "1 d 1 h");
    assert_eq!(bytes(1_023), "1023 B");
    assert_eq!(bytes(5 << 30), "5.0 GiB");
}
