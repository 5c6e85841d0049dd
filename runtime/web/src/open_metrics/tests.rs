//! What stands on the page of a process that leads, of one that stands by, and of a worker: every metric of the table is written somewhere,
//! and none where it would not be true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_metrics::{Kind, Metric, Spans, table};
use highwater_network::LinkBytes;
use highwater_operators::{
    HotKey, LookupReport, OperatorReport, SinkReport, SourceReport, UserMetric, UserValue,
};
use highwater_state::{StateReport, StoreReport};
use highwater_time::LatenessHistogram;
use highwater_types::{CheckpointId, Epoch, EventTime, ProcessingTime, Watermark, WorkerIndex};
use highwater_worker::{LoopFigures, ManualClock, Pauses, RestoredBytes};

use super::*;
use crate::tests::{Fixture, fixture, idle_subtask, late_plan, runs};
use crate::worker_page;

fn uid(text: &str) -> OperatorUid {
    OperatorUid::parse(text).unwrap()
}

fn span() -> Spans {
    let mut spans = Spans::default();
    spans.observe(Duration::from_millis(7));
    spans
}

/// A report in which nothing is zero.
fn operator_report() -> OperatorReport {
    let mut lateness = LatenessHistogram::default();
    let times = [10_001, 9_995, 7_000].map(EventTime);
    lateness.on_chunk(&times, Watermark(10_000));
    let user = |name: &str, value| UserMetric {
        name: name.to_owned(),
        value,
    };
    let mut report = OperatorReport::new(uid("count"));
    (report.records_in, report.records_out, report.chunks_in) = (100, 90, 3);
    (report.bytes_in, report.bytes_out, report.records_late) = (1_000, 900, 1);
    (report.timers, report.timers_fired, report.in_flight) = (4, 5, 6);
    report.lateness = Some(lateness.snapshot());
    report.late_output = Some("late".to_owned());
    report.states = vec![StateReport {
        name: "counts".to_owned(),
        entries: 7,
        bytes: 70,
        expired: 1,
        hits: 2,
        misses: 3,
        known_absent: 4,
        unprepared: 5,
        evicted: 6,
        evicted_dirty: 7,
        rows_written: 8,
    }];
    report.store = Some(StoreReport {
        disk_bytes: 4_096,
        memory_bytes: 1,
        compactions: 2,
        write_waits: 3,
    });
    report.lookup = Some(LookupReport {
        requests: 9,
        retries: 2,
        retries_refused: 1,
        timeouts: 1,
        failures: 2,
        durations: span(),
    });
    report.sink = Some(SinkReport {
        send_errors: 1,
        flushes: span(),
        open_transactions: 1,
        commits: 3,
        commits_retried: 1,
        republished: 1,
        commit_times: span(),
        pending_records: 11,
        spool_bytes: 12,
        is_dark: true,
    });
    report.hot_keys = vec![HotKey {
        hash: 721,
        records: 30,
        of: 100,
    }];
    report.user = vec![
        user("declined", UserValue::Count(5)),
        user("load", UserValue::Level((-0.5_f64).to_bits())),
        user("call", UserValue::Durations(span())),
    ];
    report
}

/// The figures of subtask 0 of `numbers`, which waits for `receiver`, and of which nothing is zero.
fn figures(receiver: &str, shares_ms: (u64, u64, u64)) -> BTreeMap<TaskId, TaskFigures> {
    let mut pauses = Pauses::default();
    pauses.stretch(Duration::from_millis(1));
    pauses.end();
    let source = SourceReport {
        dropped: 2,
        dead_letters: 1,
        future: 1,
        held: 1,
        splits: 3,
        splits_idle: 1,
        records: 40,
        chunks: 2,
        read_bytes: 400,
        sent_bytes: 300,
        pending_records: Some(17),
        pending_bytes: Some(170),
        emit_lag_ms: Some(-250),
        idle_ms: Some(1_500),
        group_commits: 4,
        group_commits_failed: 1,
    };
    let (id, idle) = idle_subtask("numbers", 0);
    let figures = TaskFigures {
        shares_ms,
        blocked_on: Some(receiver.to_owned()),
        watermark: Watermark(10_000),
        pauses,
        control: LoopFigures {
            letters: 3,
            mailbox_wait: span(),
            alignment: span(),
            start_delay: span(),
            inputs_idle: 1,
            buffered_bytes: 64,
        },
        source: Some(source),
        operators: vec![operator_report()],
        ..idle
    };
    [(id, figures)].into()
}

/// A status in which everything has happened at least once.
fn busy_status(status: &mut JobStatus) {
    status.phase = JobPhase::Running;
    status.times.enter(&JobPhase::Running, 0);
    status.times.lost(250);
    status.times.enter(&JobPhase::Running, 1_000);
    status.epoch = Epoch(2);
    status.restarts = 1;
    status.restored = Some(RestoredBytes {
        fetched: 5,
        local: 6,
    });
    (status.restore_ms, status.restored_at_ms) = (Some(3), Some(1));
    let checkpoints = &mut status.checkpoints;
    checkpoints.completed = Some(CheckpointId {
        number: 7,
        epoch: Epoch(2),
    });
    (checkpoints.completed_at_ms, checkpoints.duration_ms) = (Some(500), Some(9));
    (checkpoints.bytes, checkpoints.full_bytes) = (10, 100);
    (checkpoints.completed_count, checkpoints.failed_count) = (6, 2);
    (checkpoints.failed_in_a_row, checkpoints.confirmed) = (1, Some(6));
    (checkpoints.savepoints_count, checkpoints.head_conflicts) = (1, 1);
    checkpoints.interval_ms = 10_000;
    checkpoints.durations = span();
}

/// A leader that has seen everything, at 2 s of its clock; what is late is read or dropped.
fn busy(is_read: bool) -> Fixture {
    let mut fixture = fixture();
    let clock = ManualClock::default();
    clock.set(ProcessingTime(2_000));
    fixture.view.clock = Arc::new(clock);
    fixture.view.plan = runs(late_plan(is_read));
    fixture.status.send_modify(busy_status);
    let plan = fixture.view.current_plan();
    let vertices = plan.job.vertices().iter();
    let mut edges = vertices
        .filter(|task| *plan.uid(task.head) == uid("numbers"))
        .flat_map(|task| &task.outputs);
    let edge = plan.graph.edge(*edges.next().unwrap());
    let receiver = plan.uid(edge.to).to_string();
    for (second, shares) in [(0, (0, 0, 0)), (2, (500, 1_000, 500))] {
        let figures = figures(&receiver, shares);
        let board = &fixture.view.rates;
        board.look(Duration::from_secs(second), &figures);
        fixture.view.figures.write(figures.into_iter().collect());
    }
    fixture
}

fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    let lines = text
        .lines()
        .filter(move |line| line.split(['{', ' ']).next() == Some(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Whether the page tells of a metric, and of a counter or histogram that it has counted something.
fn is_written(metric: &Metric, text: &str) -> bool {
    // A process that has just begun may have used no time of a processor yet.
    let may_be_zero = metric.name.starts_with("highwater_process_");
    match metric.kind {
        Kind::Gauge => values(text, metric.name).next().is_some(),
        Kind::Counter => values(text, metric.name).any(|value| value > 0.0 || may_be_zero),
        Kind::Histogram(_) => {
            let count = format!("{}_count", metric.name);
            values(text, &count).any(|value| value > 0.0)
        }
    }
}

fn has_line(text: &str, line: &str) {
    assert!(
        text.lines().any(|found| found == line),
        "no `{line}` in\n{text}"
    );
}

#[test]
fn every_metric_of_the_table_has_a_writer() {
    let mut pages = [false, true]
        .map(|is_read| encode(&busy(is_read).view))
        .to_vec();
    let of_worker = MetricsRegistry::new(&fixture().view.job);
    let bytes = LinkBytes {
        sent: 1,
        received: 2,
    };
    worker_page::links(&of_worker, [(WorkerIndex(3), bytes)].into());
    pages.push(of_worker.open_metrics());
    let all = table::ALL.iter().flat_map(|table| table.metrics);
    let without: BTreeSet<_> = all
        .filter(|metric| !pages.iter().any(|page| is_written(metric, page)))
        .map(|metric| metric.name)
        .collect();
    assert_eq!(without, BTreeSet::new(), "{}", pages[0]);
}

#[test]
fn a_leader_tells_its_time_its_checkpoints_and_what_waits_for_a_commit() {
    let text = encode(&busy(false).view);
    for (name, value) in [
        ("job_leads", "1.0"),
        ("job_running_seconds_total", "1.25"),
        ("job_restarting_seconds_total", "0.75"),
        ("checkpoint_interval_seconds", "10.0"),
        ("checkpoints_failed_in_a_row", "1.0"),
        ("checkpoint_last_number", "7.0"),
        ("checkpoint_confirmed_number", "6.0"),
        ("checkpoint_last_completed_timestamp_seconds", "0.5"),
        ("checkpoint_duration_seconds_count", "1"),
    ] {
        let line = format!("highwater_{name}{{identity=\"fleet\"}} {value}");
        has_line(&text, &line);
    }
}

#[test]
fn a_task_tells_its_shares_what_it_waits_for_and_who_holds_it_back() {
    let view = busy(false).view;
    let text = encode(&view);
    let subtask = "identity=\"fleet\",operator=\"numbers\",subtask=\"0\"";
    for (name, value) in [
        ("task_busy_ratio", "0.25"),
        ("task_idle_ratio", "0.5"),
        ("task_backpressured_ratio", "0.25"),
        ("task_waiting_output", "0.0"),
        ("task_input_buffered_bytes", "64.0"),
        ("task_letters_total", "3"),
        ("source_emit_lag_seconds", "-0.25"),
        ("source_pending_records", "17.0"),
        ("operator_records_in_total", "43"),
        ("operator_records_out_total", "40"),
    ] {
        has_line(&text, &format!("highwater_{name}{{{subtask}}} {value}"));
    }
    let culprits = view.rates.culprits();
    let (culprit, share) = culprits.first_key_value().unwrap();
    assert!((share - 1.0).abs() < 1e-9, "{culprits:?}");
    let line = format!(
        "highwater_backpressure_culprit_ratio{{identity=\"fleet\",operator=\"{culprit}\"}} 1.0"
    );
    has_line(&text, &line);
}

#[test]
fn hot_keys_are_told_by_rank_and_group_and_never_by_what_they_say() {
    let text = encode(&busy(false).view);
    let labels = "identity=\"fleet\",operator=\"count\",subtask=\"0\",rank=\"1\"";
    has_line(
        &text,
        &format!("highwater_operator_hot_key_ratio{{{labels}}} 0.3"),
    );
    // 721 modulo 720 groups.
    has_line(
        &text,
        &format!("highwater_operator_hot_key_group{{{labels}}} 1.0"),
    );
}

#[test]
fn a_coordinator_of_workers_counts_those_and_not_itself() {
    let mut fixture = busy(false);
    fixture.view.tasks = TasksRun::OnWorkers;
    let text = encode(&fixture.view);
    for (name, value) in [
        ("job_workers", "1.0"),
        ("job_slots", "2.0"),
        ("job_slots_free", "1.0"),
        ("job_slots_needed", "2.0"),
    ] {
        let line = format!("highwater_{name}{{identity=\"fleet\"}} {value}");
        has_line(&text, &line);
    }
    assert!(!text.contains("highwater_process_state_"), "{text}");
    fixture.view.tasks = TasksRun::Here;
    let text = encode(&fixture.view);
    has_line(&text, "highwater_job_slots_free{identity=\"fleet\"} 0.0");
    assert!(
        text.contains("highwater_process_state_used_bytes"),
        "{text}"
    );
}

#[test]
fn one_that_stands_by_says_so_and_tells_its_process_only() {
    let fixture = busy(false);
    fixture
        .status
        .send_modify(|status| status.phase = JobPhase::Standby);
    let text = encode(&fixture.view);
    has_line(&text, "highwater_job_leads{identity=\"fleet\"} 0.0");
    for name in ["job_workers", "checkpoint", "task_", "process_state"] {
        assert!(
            !text.contains(&format!("highwater_{name}")),
            "{name} {text}"
        );
    }
}
