//! Late and refused records, and what a cache over a local store did: in the status and on the page of metrics.

use highwater_operators::{OperatorReport, SourceReport};
use highwater_state::{StateReport, StoreReport};
use highwater_time::LatenessHistogram;
use serde_json::json;

use super::*;
use crate::{open_metrics, report};

/// What two subtasks of `count` tell: 997 records on time, one 5 ms late, one 3 s late, one too late.
fn late_figures() -> impl Iterator<Item = (TaskId, TaskFigures)> {
    let of = |times: Vec<EventTime>, too_late| {
        let mut histogram = LatenessHistogram::default();
        histogram.on_chunk(&times, Watermark(10_000));
        let mut report = OperatorReport::new(OperatorUid::parse("count").unwrap());
        report.lateness = Some(histogram.snapshot());
        report.records_late = too_late;
        report.late_output = Some("late".to_owned());
        report.states = vec![StateReport {
            name: "counts".to_owned(),
            entries: 7,
            misses: 40,
            evicted: 30,
            ..StateReport::default()
        }];
        report.store = Some(StoreReport {
            disk_bytes: 4_096,
            write_waits: 3,
            ..StoreReport::default()
        });
        report
    };
    let on_time = (0..997).map(|at| EventTime(10_001 + at));
    let first = on_time.chain([EventTime(9_995)]).collect();
    let second = vec![EventTime(7_000), EventTime(-90_000)];
    let reports = [of(first, 0), of(second, 1)];
    reports.into_iter().zip(0..).map(|(report, subtask)| {
        let (id, idle) = idle_subtask("count", subtask);
        let figures = TaskFigures {
            shares_ms: (1, 1, 1),
            watermark: Watermark(10_000),
            source: Some(SourceReport {
                dropped: 2,
                dead_letters: 1,
                future: 1,
                held: 1,
                ..SourceReport::default()
            }),
            operators: vec![report],
            ..idle
        };
        (id, figures)
    })
}

#[test]
fn what_a_cache_over_a_local_store_did_is_told_by_state() {
    let view = fixture().view;
    view.figures.write(late_figures().collect());
    let text = open_metrics::encode(&view);
    let labels = "{identity=\"fleet\",operator=\"count\",subtask=\"1\",state=\"counts\"}";
    for (name, value) in [
        ("entries", "7.0"),
        ("misses_total", "40"),
        ("evictions_total", "30"),
    ] {
        let line = format!("highwater_state_{name}{labels} {value}");
        assert!(text.lines().any(|held| held == line), "{line} in {text}");
    }
    assert!(text.contains("highwater_store_disk_bytes{"), "{text}");
    let waits = "highwater_store_write_waits_total{";
    let line = text.lines().find(|line| line.starts_with(waits));
    assert!(line.is_some_and(|line| line.ends_with(" 3")), "{text}");
    // The view has room for stores, and none that takes it.
    for (name, value) in [("budget", "512.0"), ("used", "0.0")] {
        let line = format!("highwater_process_store_{name}_bytes{{identity=\"fleet\"}} {value}");
        assert!(text.lines().any(|held| held == line), "{line} in {text}");
    }
    let tasks = report::tasks(&view.figures.read());
    let operator = &tasks[0].operators[0];
    assert_eq!(operator.states[0].misses, 40);
    assert_eq!(operator.store_disk_bytes, Some(4_096));
}

#[tokio::test]
async fn late_and_refused_records_are_told_with_the_bound_that_would_have_helped() {
    for (is_read, dropped, to_side) in [(false, 1, 0), (true, 0, 1)] {
        let mut view = fixture().view;
        view.plan = runs(late_plan(is_read));
        view.figures.write(late_figures().collect());
        let status = read(&view, "/v1/status").await;
        let expected = json!([{
            "operator": "count", "on_time": 997, "late_accepted": 2,
            "late_dropped": dropped, "late_to_side_output": to_side,
            "lateness": [
                { "up_to_ms": 7, "records": 1 },
                { "up_to_ms": 4_095, "records": 1 },
                { "up_to_ms": 131_071, "records": 1 },
            ],
            "bound_ms": 250,
            // 99 % are on time as it is; for 99.9 % one record of 1,000 may be late: the other two are caught.
            "suggested_bound_ms": { "0.99": 250, "0.999": 250 + 4_096 },
        }]);
        assert_eq!(status["late_records"], expected);
        let refused = json!([{
            "source": "count", "dropped": 4, "dead_letters": 2, "too_far_in_the_future": 2,
            "splits_behind_open_transactions": 2,
        }]);
        assert_eq!(status["sources"], refused);
        let text = open_metrics::encode(&view);
        let subtask = "identity=\"fleet\",operator=\"count\",subtask=\"1\"";
        let what = if is_read { "side" } else { "dropped" };
        for line in [
            format!("highwater_source_dropped_records_total{{{subtask}}} 2"),
            format!("highwater_operator_late_records_{what}_total{{{subtask}}} 1"),
            format!("highwater_operator_late_records_accepted_total{{{subtask}}} 1"),
            format!("highwater_operator_lateness_seconds_sum{{{subtask}}} 103.0"),
            format!("highwater_operator_lateness_seconds_count{{{subtask}}} 2"),
            "highwater_operator_lateness_seconds_bucket{identity=\"fleet\",le=\"4.095\",operator=\"count\",subtask=\"1\"} 1".to_owned(),
            format!("highwater_operator_suggested_bound_seconds{{{subtask}}} 131.322"),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no `{line}` in\n{text}"
            );
        }
    }
}
