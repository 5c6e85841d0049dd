//! What is read of a job: its status, graph, workers, failures, checkpoints and metrics.

use std::time::Duration;

use highwater_coordinator::{JobPhase, LastRedeployment, PastFailure};
use highwater_operators::OperatorReport;
use highwater_protocol::job::TaskSnapshot;
use highwater_protocol::manifest::StateBytes;
use highwater_types::{AttemptId, BarrierKind, ErrorKind, StopMode};
use highwater_worker::FailureReport;
use serde_json::json;

use super::*;
use crate::{graph, open_metrics};

#[tokio::test]
async fn workers_are_told_with_what_runs_on_them() {
    let view = fixture().view;
    let expected = json!([{
        "worker": 4, "name": "left", "slots": 2, "data_address": "127.0.0.1:7000", "subtasks": [1],
        "leaving": false,
    }]);
    assert_eq!(read(&view, "/v1/workers").await, expected);
    let status = read(&view, "/v1/status").await;
    let expected = json!({ "count": 1, "slots": 2, "leaving": 0 });
    assert_eq!(status["workers"], expected);
}

#[tokio::test]
async fn a_worker_that_leaves_is_told_apart() {
    let mut view = fixture().view;
    let leaves = WorkerSeen {
        worker: WorkerIndex(5),
        is_leaving: true,
        ..seen()
    };
    view.workers = watch::channel(vec![seen(), leaves]).1;
    let workers = read(&view, "/v1/workers").await;
    assert_eq!(workers[0]["leaving"], false);
    assert_eq!(workers[1]["leaving"], true);
    let status = read(&view, "/v1/status").await;
    let expected = json!({ "count": 2, "slots": 4, "leaving": 1 });
    assert_eq!(status["workers"], expected);
}

#[tokio::test]
async fn exceptions_are_the_last_sixteen_the_newest_first() {
    let fixture = fixture();
    assert_eq!(read(&fixture.view, "/v1/exceptions").await, json!([]));
    fixture.status.send_modify(|status| {
        for attempt in 1..=20 {
            let message = format!("failure {attempt}");
            status.failures.push(PastFailure {
                at_ms: 0,
                attempt: AttemptId(attempt),
                completed: THE_CHECKPOINT,
                report: FailureReport {
                    worker: Some("1 (left)".to_owned()),
                    position: Some("orders-0 at 17".to_owned()),
                    ..FailureReport::of("count", ErrorKind::Invalid, message)
                },
            });
        }
    });
    let exceptions = read(&fixture.view, "/v1/exceptions").await;
    let attempts = exceptions.as_array().unwrap().iter();
    let attempts: Vec<_> = attempts
        .map(|one| one["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, (5..=20).rev().collect::<Vec<_>>());
    let newest = &exceptions[0];
    assert_eq!(newest["message"], "failure 20");
    assert_eq!(newest["worker"], "1 (left)");
    assert_eq!(newest["position"], "orders-0 at 17");
    assert_eq!(newest["kind"], "invalid");
    assert_eq!(newest["checkpoint"], 7);
    let status = read(&fixture.view, "/v1/status").await;
    assert_eq!(status["last_failure"], *newest);
}

#[tokio::test]
async fn status_tells_the_phase_and_the_checkpoints() {
    let fixture = fixture();
    fixture.status.send_modify(|status| {
        status.phase = JobPhase::Running;
        status.restarts = 3;
        status.checkpoints.completed = Some(THE_CHECKPOINT);
        status.checkpoints.completed_at_ms = Some(0);
        status.checkpoints.bytes = 99;
    });
    let status = read(&fixture.view, "/v1/status").await;
    assert_eq!(status["job"], "fleet");
    assert_eq!(status["phase"], "running");
    assert_eq!(status["restarts"], 3);
    let none = json!({ "count": 0, "checkpoint": null, "pause_ms": null });
    assert_eq!(status["redeployments"], none);
    assert_eq!(status["records_in"], 0);
    assert_eq!(status["watermark_lag_ms"], Value::Null);
    let checkpoints = read(&fixture.view, "/v1/checkpoints").await;
    assert_eq!(status["checkpoints"]["completed"], 7);
    assert_eq!(checkpoints["completed"], 7);
    assert_eq!(checkpoints["bytes"], 99);
    assert!(checkpoints["age_ms"].is_u64());
}

#[tokio::test]
async fn graph_is_the_plan_and_tasks_are_a_list() {
    let fixture = fixture();
    let told = read(&fixture.view, "/v1/graph").await;
    assert!(told.to_string().contains("\"numbers\""), "{told}");
    // Before anything runs, the server says what the command `plan` does.
    let planned = graph::planned(&fixture.view.current_plan());
    assert_eq!(told, serde_json::to_value(planned).unwrap());
    assert_eq!(read(&fixture.view, "/v1/tasks").await, json!([]));
}

#[tokio::test]
async fn after_a_rescale_answers_are_of_the_plan_that_runs_then() {
    let fixture = fixture();
    let mut view = fixture.view;
    let (runs_now, plan) = watch::channel(Arc::new(plan_at(2)));
    view.plan = plan;
    fixture.status.send_modify(|status| {
        status.redeployments.count = 1;
        status.redeployments.last = Some(LastRedeployment {
            id: THE_CHECKPOINT,
            pause_ms: 250,
        });
    });
    for parallelism in [2, 5] {
        runs_now.send_replace(Arc::new(plan_at(parallelism)));
        let graph = read(&view, "/v1/graph").await;
        assert_eq!(graph["tasks"][0]["parallelism"], parallelism);
        let text = open_metrics::encode(&view);
        let line = format!("highwater_job_slots_needed{{identity=\"fleet\"}} {parallelism}.0");
        assert!(text.lines().any(|found| found == line), "{text}");
    }
    let status = read(&view, "/v1/status").await;
    let expected = json!({ "count": 1, "checkpoint": 7, "pause_ms": 250 });
    assert_eq!(status["redeployments"], expected);
}

#[test]
fn the_graph_names_states_and_keys() {
    let graph = graph::planned(&late_plan(false));
    let mut operators = graph.tasks.iter().flat_map(|task| &task.operators);
    let count = operators.find(|one| one.uid == "count").unwrap();
    assert_eq!(count.key.as_deref(), Some("u64"));
    assert_eq!(count.states.len(), 1);
    assert!(count.states[0].shape.contains("u64"), "{count:?}");
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    let fixture = fixture();
    fixture
        .status
        .send_modify(|status| status.checkpoints.completed_count = 5);
    let asked = request(Method::GET, "/metrics", "");
    let response = open(fixture.view).oneshot(asked).await.unwrap();
    let kind = response.headers()[header::CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let has = |line: &str| text.lines().any(|found| found == line);
    assert!(
        has("highwater_checkpoints_completed_total{identity=\"fleet\"} 5"),
        "{text}"
    );
    assert!(has("highwater_job_slots{identity=\"fleet\"} 2.0"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn the_history_of_checkpoints_tells_tasks_and_outcomes() {
    let fixture = fixture();
    let (task, _) = idle_subtask("numbers", 1);
    let next = CheckpointId {
        number: 8,
        ..THE_CHECKPOINT
    };
    let bytes = StateBytes {
        new: 10,
        referenced: 90,
    };
    fixture.status.send_modify(|status| {
        let history = &mut status.history;
        history.begin(THE_CHECKPOINT, 0, [&task].into_iter());
        let kind = BarrierKind::Stop {
            mode: StopMode::Drain,
            is_savepoint: false,
        };
        history.sent(THE_CHECKPOINT, kind);
        history.answered(THE_CHECKPOINT, &task, &TaskSnapshot::default(), 30);
        history.completed(THE_CHECKPOINT, bytes, 40);
        history.confirmed(THE_CHECKPOINT, 45);
        history.begin(next, 50, [&task].into_iter());
        history.given_up("it took too long", 60);
    });
    let told = read(&fixture.view, "/v1/checkpoints").await;
    let outcomes = told["history"].as_array().unwrap().iter();
    let outcomes = outcomes.map(|one| (one["number"].clone(), one["outcome"].clone()));
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        [
            (json!(8), json!("given-up")),
            (json!(7), json!("completed"))
        ]
    );
    let status = read(&fixture.view, "/v1/status").await;
    assert_eq!(status["checkpoints"].get("history"), None);
    let details = read(&fixture.view, "/v1/checkpoints/7").await;
    let text = details.to_string();
    let details: api::CheckpointDetails = serde_json::from_str(&text).unwrap();
    let held = &details.checkpoint;
    assert_eq!(held.kind, Some(api::CheckpointKind::StopDrain));
    assert_eq!((held.duration_ms, held.confirmation_ms), (40, Some(5)));
    assert_eq!((held.bytes, held.full_bytes), (10, 100));
    assert_eq!((held.answered, held.subtasks), (1, 1));
    assert_eq!(details.tasks[0].last_answer_ms, Some(30));
    assert_eq!(details.tasks[0].last_subtask, Some(1));
    let asked = request(Method::GET, "/v1/checkpoints/9", "");
    let (code, _) = answer(open(fixture.view), asked).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_graph_tells_what_flows() {
    let view = fixture().view;
    let of = |records, busy| {
        let mut report = OperatorReport::new(OperatorUid::parse("nowhere").unwrap());
        report.records_in = records;
        let (id, idle) = idle_subtask("numbers", 0);
        let figures = TaskFigures {
            shares_ms: (busy, 1_000 - busy, 0),
            watermark: Watermark(10),
            operators: vec![report],
            ..idle
        };
        [(id, figures)]
    };
    let quiet = read(&view, "/v1/graph").await;
    assert_eq!(quiet["tasks"][0]["live"], Value::Null);
    for (second, records, busy) in [(0, 0, 0), (2, 500, 500)] {
        let figures = of(records, busy);
        view.rates
            .look(Duration::from_secs(second), &figures.clone().into());
        view.figures.write(figures.into());
    }
    let graph: api::Graph = serde_json::from_value(read(&view, "/v1/graph").await).unwrap();
    let live = graph.tasks[0].live.unwrap();
    assert_eq!((live.subtasks, live.measured_ms), (1, Some(2_000)));
    assert_eq!(live.records_in_per_second, Some(250.0));
    let text = read(&view, "/v1/graph").await.to_string();
    assert!(!text.contains("-0.0"), "{text}");
    let watermarks = read(&view, "/v1/watermarks").await;
    assert_eq!(watermarks[0]["watermark"], 10);
    assert_eq!(watermarks[0]["subtasks"][0]["watermark"], 10);
}
