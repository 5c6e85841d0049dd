//! The routes, against a coordinator that the test plays.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body as RequestBody, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use highwater_api::StreamEnvironment;
use highwater_connectors::{BlackholeSink, ElementsSource};
use highwater_coordinator::fleet::WorkerSeen;
use highwater_coordinator::{
    JobPhase, JobRequest, JobStatus, LiveSettings, OperationId, OperationOrder, PastFailure,
    RequestAnswer, RequestRefused, RestartStrategy, SnapshotWish,
};
use highwater_graph::check::Checkpoints;
use highwater_graph::{Plan, PlanDefaults};
use highwater_operators::{Count, OperatorReport, OutputTag, SourceReport, emit_result};
use highwater_protocol::checkpoint::{CheckpointFailure, CheckpointSettings};
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::manifest::StateBytes;
use highwater_protocol::placement::WorkerOffer;
use highwater_state::{StateReport, Store, StoreReport};
use highwater_time::{LatenessHistogram, WatermarkStrategy};
use highwater_types::{
    AttemptId, BarrierKind, CheckpointId, Epoch, ErrorKind, EventTime, JobIdentity, Lineage,
    MaxParallelism, Nonce, OperatorUid, Parallelism, StopMode, SubtaskIndex, Watermark,
    WorkerIndex,
};
use highwater_web_api as api;
use highwater_window::Tumbling;
use highwater_worker::{
    FailureReport, FigureBoard, LoopFigures, ManualClock, Pauses, TaskFigures, WorkerSettings,
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tower::ServiceExt as _;

use crate::access::{Access, TokenFile};
use crate::config::{Changes, Config};
use crate::routes::{BODY_BYTES_MAX, JOB_HEADER, document, routes, routes_with};
use crate::view::{JobView, OperationIds, TasksRun, room_to_wait};
use crate::{RateBoard, open_metrics, report};

mod contract;

fn plan() -> Plan {
    let mut env = StreamEnvironment::new();
    let numbers = env.source("numbers", ElementsSource::new([1_u64, 2, 3]));
    numbers.sink("nowhere", BlackholeSink::new().0);
    env.compile(plan_defaults()).unwrap().plan().clone()
}

/// Numbers that are counted in windows; what comes too late leaves by a side output that is read or not.
pub(crate) fn late_plan(is_read: bool) -> Plan {
    let mut env = StreamEnvironment::new();
    let late = OutputTag::<u64>::new("late");
    let counts = env
        .source("numbers", ElementsSource::new([1_u64, 2, 3]))
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(250), |number| {
            EventTime(*number as i64)
        })
        .key_by(|number| *number)
        .window_of(Tumbling::try_new(1_000))
        .late_to(&late)
        .aggregate("count", Count, emit_result);
    if is_read {
        counts
            .side_output(&late)
            .sink("late", BlackholeSink::new().0);
    }
    counts.sink("nowhere", BlackholeSink::new().0);
    env.compile(plan_defaults()).unwrap().plan().clone()
}

fn plan_defaults() -> PlanDefaults {
    PlanDefaults {
        parallelism: Parallelism(2),
        max_parallelism: MaxParallelism::DEFAULT,
        checkpoints: Checkpoints::On,
    }
}

pub(crate) struct Fixture {
    pub(crate) view: JobView,
    pub(crate) status: watch::Sender<JobStatus>,
    requests: mpsc::Receiver<JobRequest>,
}

fn seen() -> WorkerSeen {
    WorkerSeen {
        worker: WorkerIndex(4),
        offer: WorkerOffer {
            name: "left".to_owned(),
            slots: 2,
        },
        address: "127.0.0.1:7000".to_owned(),
        subtasks: vec![SubtaskIndex(1)],
    }
}

/// One setting, which may change to any number.
struct Slots;

impl Config for Slots {
    fn read(&self, changes: &Changes) -> Vec<api::Setting> {
        let found = changes.get("slots");
        vec![api::Setting {
            name: "slots".to_owned(),
            value: Some(found.map_or("2", String::as_str).to_owned()),
            from: found.map_or("--slots", |_| "changed").to_owned(),
            live: true,
        }]
    }

    fn prepare(&self, changes: Changes) -> Result<LiveSettings, String> {
        let slots = changes.get("slots").ok_or("there is only `slots`")?;
        slots.parse::<u64>().map_err(|error| error.to_string())?;
        Ok(LiveSettings {
            checkpoint: CheckpointSettings {
                interval_ms: 10,
                min_pause_ms: 0,
                timeout_ms: 10,
                commit_retry_ms: 10,
                failures_max: None,
            },
            restart: RestartStrategy::Never,
            changes,
        })
    }

    fn log(&self, _: &Changes) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn fixture() -> Fixture {
    let (requests, incoming) = mpsc::channel(4);
    let (status, watching) = watch::channel(JobStatus::starting());
    let view = JobView {
        job: JobIdentity::parse("fleet").unwrap(),
        role: "run",
        plan: Arc::new(plan()),
        config: Arc::new(Slots),
        changing: Arc::default(),
        ids: OperationIds::new(Nonce(7)),
        waiting: room_to_wait(),
        leader: watch::channel(None).1,
        rates: RateBoard::default(),
        tasks: TasksRun::Here,
        worker: WorkerSettings {
            slots: 2,
            state_bytes_max: 1 << 20,
            store_bytes_max: 512,
            spool_bytes_max: 1 << 20,
        },
        store: Store::heap(),
        requests,
        status: watching,
        workers: watch::channel(vec![seen()]).1,
        figures: FigureBoard::default(),
        clock: Arc::new(ManualClock::default()),
    };
    Fixture {
        view,
        status,
        requests: incoming,
    }
}

/// The routes as they are on loopback.
fn open(view: JobView) -> Router {
    routes(view, &Access::Open)
}

fn request(method: Method, path: &str, body: &str) -> Request {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "127.0.0.1:8081")
        .header(header::CONTENT_TYPE, "application/json")
        .body(RequestBody::from(body.to_owned()))
        .unwrap()
}

async fn answer(routes: Router, request: Request) -> (StatusCode, String) {
    let response = routes.oneshot(request).await.unwrap();
    let code = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

async fn read(view: &JobView, path: &str) -> Value {
    let (code, text) = answer(open(view.clone()), request(Method::GET, path, "")).await;
    assert_eq!(code, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

const THE_CHECKPOINT: CheckpointId = CheckpointId {
    number: 7,
    epoch: Epoch(2),
};

#[tokio::test]
async fn workers_are_told_with_what_runs_on_them() {
    let view = fixture().view;
    let expected = json!([{
        "worker": 4, "name": "left", "slots": 2, "data_address": "127.0.0.1:7000", "subtasks": [1],
    }]);
    assert_eq!(read(&view, "/v1/workers").await, expected);
    let status = read(&view, "/v1/status").await;
    assert_eq!(status["workers"], json!({ "count": 1, "slots": 2 }));
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
    let graph = read(&fixture.view, "/v1/graph").await;
    assert!(graph.to_string().contains("\"numbers\""), "{graph}");
    assert_eq!(read(&fixture.view, "/v1/tasks").await, json!([]));
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

/// What two subtasks of `count` tell: 997 records on time, one 5 ms late, one 3 s late, one too late.
fn late_figures() -> impl Iterator<Item = (TaskId, TaskFigures)> {
    let uid = OperatorUid::parse("count").unwrap();
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
    reports.into_iter().zip(0..).map(move |(report, subtask)| {
        let id = TaskId {
            vertex: uid.clone(),
            subtask: SubtaskIndex(subtask),
        };
        let figures = TaskFigures {
            name: "count".to_owned(),
            shares_ms: (1, 1, 1),
            blocked_on: None,
            watermark: Watermark(10_000),
            pauses: Pauses::default(),
            control: LoopFigures::default(),
            source: Some(SourceReport {
                dropped: 2,
                dead_letters: 1,
                future: 1,
                held: 1,
                ..SourceReport::default()
            }),
            operators: vec![report],
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
        view.plan = Arc::new(late_plan(is_read));
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

#[tokio::test]
async fn a_savepoint_is_asked_of_the_coordinator() {
    let Fixture {
        view, mut requests, ..
    } = fixture();
    let asked = request(Method::POST, "/v1/savepoints", "{\"name\":\"before\"}");
    let coordinator = async {
        match requests.recv().await.unwrap() {
            JobRequest::Snapshot { wish, answer, .. } => {
                assert_eq!(wish.savepoint(), Some("before"));
                answer.send(Ok(THE_CHECKPOINT)).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let ((code, text), ()) = tokio::join!(answer(open(view), asked), coordinator);
    assert_eq!(code, StatusCode::OK);
    let done: api::Operation = serde_json::from_str(&text).unwrap();
    assert_eq!((done.checkpoint, done.epoch), (Some(7), Some(2)));
    assert_eq!(done.state, api::OperationState::Done);
    assert_eq!(done.savepoint.as_deref(), Some("before"));
    assert!(done.operation.starts_with("op-"), "{text}");
}

#[tokio::test]
async fn stop_passes_mode_and_savepoint_on() {
    for (body, wanted) in [
        ("{}", (StopMode::Suspend, None)),
        ("{\"mode\":\"drain\"}", (StopMode::Drain, None)),
        (
            "{\"savepoint\":\"last\"}",
            (StopMode::Suspend, Some("last".to_owned())),
        ),
    ] {
        let Fixture {
            view, mut requests, ..
        } = fixture();
        let asked = request(Method::POST, "/v1/stop", body);
        let coordinator = async {
            match requests.recv().await.unwrap() {
                JobRequest::Snapshot { wish, answer, .. } => {
                    let (mode, savepoint) = wanted;
                    assert_eq!(wish, SnapshotWish::Stop { mode, savepoint });
                    answer.send(Ok(THE_CHECKPOINT)).unwrap();
                }
                other => panic!("{other:?}"),
            }
        };
        let ((code, _), ()) = tokio::join!(answer(open(view), asked), coordinator);
        assert_eq!(code, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_reason() {
    let failed = |kind| RequestRefused::Store {
        kind,
        message: "why".to_owned(),
    };
    let folder = || "savepoints/one".to_owned();
    let cases = [
        (RequestRefused::Name("why".to_owned()), 400, "invalid"),
        (
            RequestRefused::Taken {
                folder: folder(),
                holds: Some((Lineage(10), THE_CHECKPOINT)),
            },
            409,
            "invalid",
        ),
        (RequestRefused::TooMany, 503, "transient"),
        (
            RequestRefused::Busy(CheckpointFailure::Stopping),
            409,
            "transient",
        ),
        (
            RequestRefused::NotRunning("why".to_owned()),
            503,
            "transient",
        ),
        (failed(ErrorKind::Transient), 503, "transient"),
        (failed(ErrorKind::Corrupt), 500, "corrupt"),
        (RequestRefused::Ended("why"), 410, "transient"),
    ];
    for (refused, code, kind) in cases {
        let Fixture {
            view, mut requests, ..
        } = fixture();
        let asked = request(Method::POST, "/v1/checkpoints", "");
        let reason = refused.to_string();
        let coordinator = async {
            match requests.recv().await.unwrap() {
                JobRequest::Snapshot { answer, .. } => answer.send(Err(refused)).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let ((answered, text), ()) = tokio::join!(answer(open(view), asked), coordinator);
        assert_eq!(answered.as_u16(), code, "{text}");
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&body["error"], &body["kind"]),
            (&json!(reason), &json!(kind))
        );
    }
}

#[tokio::test]
async fn a_job_that_has_ended_is_gone() {
    let Fixture { view, requests, .. } = fixture();
    drop(requests);
    let asked = request(Method::POST, "/v1/checkpoints", "");
    let (code, _) = answer(open(view), asked).await;
    assert_eq!(code, StatusCode::GONE);
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_a_reason() {
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX));
    for (method, path, body, code) in [
        (
            Method::POST,
            "/v1/savepoints",
            "{}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            Method::POST,
            "/v1/savepoints",
            "{\"name\":1}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (Method::POST, "/v1/savepoints", "{", StatusCode::BAD_REQUEST),
        (
            Method::POST,
            "/v1/savepoints",
            &large,
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (
            Method::POST,
            "/v1/stop",
            "{\"mode\":\"now\"}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            Method::POST,
            "/v1/stop",
            "{\"modus\":\"drain\"}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (Method::GET, "/v1/stop", "", StatusCode::METHOD_NOT_ALLOWED),
        (
            Method::GET,
            "/v1/state/../../etc/passwd",
            "",
            StatusCode::NOT_FOUND,
        ),
    ] {
        let asked = request(method, path, body);
        let (found, text) = answer(open(fixture().view), asked).await;
        assert_eq!(found, code, "{path} {text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["error"].is_string(), "{text}");
    }
}

#[tokio::test]
async fn more_requests_than_fit_are_refused() {
    let routes = routes_with(fixture().view, &Access::Open, 0);
    let (code, _) = answer(routes, request(Method::GET, "/v1/status", "")).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
}

/// Plays a coordinator that begins what it is asked for, and gives what it was asked.
async fn begins(
    status: &watch::Sender<JobStatus>,
    requests: &mut mpsc::Receiver<JobRequest>,
) -> (OperationId, oneshot::Sender<RequestAnswer>) {
    let Some(JobRequest::Snapshot {
        wish,
        operation: Some(OperationOrder { id, begun }),
        answer,
    }) = requests.recv().await
    else {
        panic!("a snapshot is asked for");
    };
    status.send_modify(|status| {
        status.operations.begin(&id, &wish, 0);
    });
    if let Some(begun) = begun {
        let held = status.borrow().operations.get(&id).cloned();
        begun.send(held.unwrap()).unwrap();
    }
    (id, answer)
}

#[tokio::test]
async fn who_does_not_wait_is_told_that_the_operation_is_under_way() {
    let Fixture {
        view,
        status,
        mut requests,
    } = fixture();
    let body = "{\"name\":\"before\",\"operation\":\"one\",\"wait\":false}";
    let asked = request(Method::POST, "/v1/savepoints", body);
    let coordinator = begins(&status, &mut requests);
    let ((code, text), (id, answering)) =
        tokio::join!(answer(open(view.clone()), asked), coordinator);
    assert_eq!(code, StatusCode::ACCEPTED);
    let begun: api::Operation = serde_json::from_str(&text).unwrap();
    assert_eq!(begun.operation, "one");
    assert_eq!(begun.state, api::OperationState::Running);
    assert_eq!(read(&view, "/v1/operations/one").await["state"], "running");
    // Nobody waits for the answer any more: the status has it.
    answering.send(Ok(THE_CHECKPOINT)).unwrap_err().unwrap();
    status.send_modify(|status| status.operations.end(&id, Ok(THE_CHECKPOINT), 5));
    let done = read(&view, "/v1/operations/one").await;
    assert_eq!(
        (&done["state"], &done["checkpoint"], &done["duration_ms"]),
        (&json!("done"), &json!(7), &json!(5))
    );
    let all = read(&view, "/v1/operations").await;
    assert_eq!(all, json!([done]));
}

#[tokio::test]
async fn who_does_not_wait_hears_a_refusal_and_not_that_something_older_began() {
    let Fixture {
        view,
        status,
        mut requests,
    } = fixture();
    let (one, was) = (OperationId::parse("one").unwrap(), SnapshotWish::Checkpoint);
    status.send_modify(|status| {
        status.operations.begin(&one, &was, 0);
    });
    let asked = request(
        Method::POST,
        "/v1/stop",
        "{\"operation\":\"one\",\"wait\":false}",
    );
    let coordinator = async {
        let request = requests.recv().await.unwrap();
        request.refuse(RequestRefused::OtherOperation { id: one, was });
    };
    let ((code, text), ()) = tokio::join!(answer(open(view), asked), coordinator);
    assert_eq!(code, StatusCode::CONFLICT, "{text}");
}

#[tokio::test]
async fn more_than_may_wait_are_told_that_it_is_under_way() {
    let Fixture {
        mut view,
        status,
        mut requests,
    } = fixture();
    view.waiting = Arc::new(Semaphore::new(0));
    let asked = request(Method::POST, "/v1/checkpoints", "");
    let coordinator = begins(&status, &mut requests);
    let ((code, text), _) = tokio::join!(answer(open(view), asked), coordinator);
    assert_eq!(code, StatusCode::ACCEPTED, "{text}");
}

#[tokio::test]
async fn a_refused_operation_keeps_its_problem() {
    let fixture = fixture();
    let id = OperationId::parse("one").unwrap();
    let wish = SnapshotWish::Savepoint {
        name: "before".to_owned(),
    };
    let refused = RequestRefused::Taken {
        folder: "savepoints/before".to_owned(),
        holds: Some((Lineage(10), THE_CHECKPOINT)),
    };
    fixture.status.send_modify(|status| {
        status.operations.begin(&id, &wish, 0);
        status.operations.end(&id, Err(refused), 1);
    });
    let told = read(&fixture.view, "/v1/operations/one").await;
    assert_eq!(told["state"], "refused");
    assert_eq!(told["problem"]["checkpoint"], 7);
    assert_eq!(told["problem"]["lineage"], Lineage(10).to_string());
    assert_eq!(told["checkpoint"], Value::Null);
}

#[tokio::test]
async fn a_coordinator_that_stands_by_points_to_the_leader() {
    let Fixture {
        mut view,
        mut requests,
        status,
    } = fixture();
    let leader = "http://127.0.0.1:8081".to_owned();
    view.leader = watch::channel(Some(leader.clone())).1;
    assert_eq!(read(&view, "/v1/status").await["leader"], leader);
    let asked = request(Method::POST, "/v1/stop", "{}");
    let coordinator = async {
        if let Some(JobRequest::Snapshot { answer, .. }) = requests.recv().await {
            let refused = RequestRefused::NotRunning("it stands by".to_owned());
            answer.send(Err(refused)).unwrap();
        }
    };
    let routes = open(view.clone());
    let ((code, text), ()) = tokio::join!(answer(routes, asked), coordinator);
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    let problem: api::Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(problem.leader.as_ref(), Some(&leader));
    // What only the leader knows is not told as if nothing were there.
    status.send_modify(|status| status.phase = JobPhase::Standby);
    for (method, path, writes) in all_routes() {
        let asked = request(method.clone(), &path, "{}");
        if writes {
            continue;
        }
        let (code, text) = answer(open(view.clone()), asked).await;
        let own = ["/v1/status", "/v1/config", "/v1/openapi.json", "/metrics"];
        if own.contains(&path.as_str()) {
            assert_eq!(code, StatusCode::OK, "{path} {text}");
        } else {
            assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{path} {text}");
            let problem: api::Problem = serde_json::from_str(&text).unwrap();
            assert_eq!(problem.leader.as_ref(), Some(&leader), "{path}");
        }
    }
}

#[tokio::test]
async fn what_is_meant_for_another_job_is_refused() {
    let Fixture { view, requests, .. } = fixture();
    drop(requests);
    for (job, code) in [
        ("fleet", StatusCode::GONE),
        ("other", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let mut asked = request(Method::POST, "/v1/stop", "{}");
        asked.headers_mut().insert(JOB_HEADER, job.parse().unwrap());
        let (found, text) = answer(open(view.clone()), asked).await;
        assert_eq!(found, code, "{text}");
    }
}

#[tokio::test]
async fn answers_are_for_programs() {
    let asked = request(Method::GET, "/v1/nothing", "");
    let response = open(fixture().view).oneshot(asked).await.unwrap();
    let of = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(of("x-content-type-options"), "nosniff");
    assert_eq!(of("x-frame-options"), "DENY");
    assert_eq!(of("cache-control"), "no-store");
    assert_eq!(of("cross-origin-resource-policy"), "same-origin");
}

#[tokio::test]
async fn the_history_of_checkpoints_tells_tasks_and_outcomes() {
    let fixture = fixture();
    let task = TaskId {
        vertex: OperatorUid::parse("numbers").unwrap(),
        subtask: SubtaskIndex(1),
    };
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
    let uid = OperatorUid::parse("numbers").unwrap();
    let of = |records, busy| {
        let mut report = OperatorReport::new(OperatorUid::parse("nowhere").unwrap());
        report.records_in = records;
        let id = TaskId {
            vertex: uid.clone(),
            subtask: SubtaskIndex(0),
        };
        let figures = TaskFigures {
            name: "numbers -> nowhere".to_owned(),
            shares_ms: (busy, 1_000 - busy, 0),
            blocked_on: None,
            watermark: Watermark(10),
            pauses: Pauses::default(),
            control: LoopFigures::default(),
            source: None,
            operators: vec![report],
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

#[tokio::test]
async fn the_document_lists_every_route() {
    let view = fixture().view;
    let told = read(&view, "/v1/openapi.json").await;
    assert_eq!(told, serde_json::to_value(document()).unwrap());
    let paths = told["paths"].as_object().unwrap();
    assert!(paths.contains_key("/v1/operations/{operation}"), "{told}");
}

#[tokio::test]
async fn no_path_of_a_request_names_anything_but_a_route() {
    for path in [
        "/v1/operations/..%2f..%2fetc%2fpasswd",
        "/v1/operations/%2e%2e",
        "/v1/operations/..%252f",
        "/v1/operations/a%00b",
        "/v1/operations/%ff",
        "/v1/checkpoints/%ff",
        "/v1/checkpoints/..%2f1",
        "/v1/checkpoints/-1",
        "/v1/checkpoints/18446744073709551616",
        "/../v1/status",
        "/v1/%73tatus",
        "//v1/status",
    ] {
        let asked = request(Method::GET, path, "");
        let (code, text) = answer(open(fixture().view), asked).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{path} {text}");
    }
    for id in ["../x", "a b", ""] {
        let body = json!({ "operation": id }).to_string();
        let asked = request(Method::POST, "/v1/checkpoints", &body);
        let (code, text) = answer(open(fixture().view), asked).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{id} {text}");
    }
}

#[tokio::test]
async fn settings_change_when_the_coordinator_has_taken_them() {
    let Fixture {
        view,
        status,
        mut requests,
    } = fixture();
    let change = |body: &str| request(Method::PATCH, "/v1/config", body);
    assert_eq!(read(&view, "/v1/config").await[0]["from"], "--slots");
    for refused in [
        "{\"settings\":{\"slots\":\"many\"}}",
        "{\"settings\":{\"slot\":\"1\"}}",
    ] {
        let (code, text) = answer(open(view.clone()), change(refused)).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{text}");
    }
    let body = "{\"settings\":{\"slots\":\"9\"}}";
    let coordinator = async {
        match requests.recv().await.unwrap() {
            JobRequest::Configure { settings, answer } => {
                status.send_modify(|status| status.changes = settings.changes);
                answer.send(Ok(())).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let ((code, text), ()) = tokio::join!(answer(open(view.clone()), change(body)), coordinator);
    assert_eq!(code, StatusCode::OK, "{text}");
    let settings: Vec<api::Setting> = serde_json::from_str(&text).unwrap();
    assert_eq!(settings[0].value.as_deref(), Some("9"));
    assert_eq!(settings[0].from, "changed");
    let coordinator = async {
        if let Some(request) = requests.recv().await {
            request.refuse(RequestRefused::NotRunning("it stands by".to_owned()));
        }
    };
    let body = "{\"settings\":{\"slots\":\"1\"}}";
    let ((code, _), ()) = tokio::join!(answer(open(view.clone()), change(body)), coordinator);
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read(&view, "/v1/config").await[0]["value"], "9");
}

/// Every route of the document, with what it needs.
fn all_routes() -> Vec<(Method, String, bool)> {
    let document = serde_json::to_value(document()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            let writes = operation["security"][0]["token"] == json!(["write"]);
            let path = path.replace("{number}", "1").replace("{operation}", "one");
            all.push((method, path, writes));
        }
    }
    all
}

#[tokio::test]
async fn no_route_is_open_to_who_shows_too_little() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (reader, writer) = ("read-read-read-read", "write-write-write-write");
    std::fs::write(&file, format!("read {reader}\nwrite {writer}\n")).unwrap();
    let access = Access::Tokens(Arc::new(TokenFile::open(file).unwrap()));
    let Fixture { view, requests, .. } = fixture();
    // Whoever is let through to the coordinator is answered at once.
    drop(requests);
    let all = all_routes();
    assert!(
        all.iter().any(|(method, ..)| *method == Method::PATCH),
        "{all:?}"
    );
    assert_eq!(
        all.iter().filter(|(.., writes)| *writes).count(),
        4,
        "{all:?}"
    );
    for (method, path, writes) in all {
        assert_eq!(writes, method != Method::GET, "{method} {path}");
        for (shown, expected) in [
            (None, Some(401)),
            (Some("unknown-unknown-unknown"), Some(401)),
            (Some(reader), writes.then_some(403)),
            (Some(writer), None),
        ] {
            let mut asked = request(method.clone(), &path, "{}");
            asked
                .headers_mut()
                .insert(header::HOST, "job.example".parse().unwrap());
            if let Some(token) = shown {
                let value = format!("Bearer {token}").parse().unwrap();
                asked.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let routes = routes(view.clone(), &access);
            let (code, text) = answer(routes, asked).await;
            let code = code.as_u16();
            match expected {
                Some(expected) => assert_eq!(code, expected, "{method} {path} {text}"),
                None => assert!(![401, 403].contains(&code), "{method} {path} {code} {text}"),
            }
            for token in [reader, writer] {
                assert!(!text.contains(token), "{method} {path}");
            }
        }
    }
}
