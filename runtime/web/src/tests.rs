//! The routes, against a coordinator that the test plays.

use axum::body::{Body as RequestBody, to_bytes};
use axum::http::Method;
use highwater_api::StreamEnvironment;
use highwater_connectors::{BlackholeSink, ElementsSource};
use highwater_coordinator::{JobPhase, PastFailure};
use highwater_graph::PlanDefaults;
use highwater_graph::check::Checkpoints;
use highwater_operators::{Count, OperatorReport, OutputTag, SourceReport, emit_result};
use highwater_protocol::checkpoint::CheckpointFailure;
use highwater_protocol::job::TaskId;
use highwater_protocol::placement::WorkerOffer;
use highwater_state::{StateReport, Store, StoreReport};
use highwater_time::{LatenessHistogram, WatermarkStrategy};
use highwater_types::{
    AttemptId, CheckpointId, Epoch, EventTime, MaxParallelism, OperatorUid, Parallelism,
    SubtaskIndex, Watermark, WorkerIndex,
};
use highwater_window::Tumbling;
use highwater_worker::{FailureReport, ManualClock, Pauses, TaskFigures};
use tower::ServiceExt as _;

use super::*;

fn plan() -> Plan {
    let mut env = StreamEnvironment::new();
    let numbers = env.source("numbers", ElementsSource::new([1_u64, 2, 3]));
    numbers.sink("nowhere", BlackholeSink::new().0);
    env.compile(plan_defaults()).unwrap().plan().clone()
}

/// Numbers that are counted in windows; what comes too late leaves by a side output that is read or not.
fn late_plan(is_read: bool) -> Plan {
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

struct Fixture {
    view: JobView,
    status: watch::Sender<JobStatus>,
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

fn fixture() -> Fixture {
    let (requests, incoming) = mpsc::channel(4);
    let (status, watching) = watch::channel(JobStatus::starting());
    let view = JobView {
        job: JobIdentity::parse("fleet").unwrap(),
        role: "run",
        plan: Arc::new(plan()),
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
    let (code, text) = answer(routes(view.clone()), request(Method::GET, path, "")).await;
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
    let response = routes(fixture.view).oneshot(asked).await.unwrap();
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
            source: Some(SourceReport {
                dropped: 2,
                dead_letters: 1,
                future: 1,
                held: 1,
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
    let json = report::tasks(&view.figures.read());
    assert_eq!(json[0]["operators"][0]["states"][0]["misses"], 40);
    assert_eq!(json[0]["operators"][0]["store_disk_bytes"], 4_096);
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
            JobRequest::Savepoint { name, answer } => {
                assert_eq!(name, "before");
                answer.send(Ok(THE_CHECKPOINT)).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let ((code, text), ()) = tokio::join!(answer(routes(view), asked), coordinator);
    assert_eq!(code, StatusCode::OK);
    assert_eq!(text, "{\"checkpoint\":7,\"epoch\":2}");
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
                JobRequest::Stop {
                    mode,
                    savepoint,
                    answer,
                } => {
                    assert_eq!((mode, savepoint), wanted);
                    answer.send(Ok(THE_CHECKPOINT)).unwrap();
                }
                other => panic!("{other:?}"),
            }
        };
        let ((code, _), ()) = tokio::join!(answer(routes(view), asked), coordinator);
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
        (RequestRefused::Taken { folder: folder() }, 409, "invalid"),
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
                JobRequest::Checkpoint { answer } => answer.send(Err(refused)).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let ((answered, text), ()) = tokio::join!(answer(routes(view), asked), coordinator);
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
    let (code, _) = answer(routes(view), asked).await;
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
        let (found, text) = answer(routes(fixture().view), asked).await;
        assert_eq!(found, code, "{path} {text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["error"].is_string(), "{text}");
    }
}

#[tokio::test]
async fn a_page_of_somebody_else_is_refused() {
    let view = fixture().view;
    for (name, value) in [
        (header::HOST, "evil.example"),
        (header::HOST, "127.0.0.1.evil.example:80"),
        (header::ORIGIN, "http://evil.example"),
    ] {
        let mut asked = request(Method::GET, "/v1/status", "");
        asked.headers_mut().insert(name, value.parse().unwrap());
        let (code, _) = answer(routes(view.clone()), asked).await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{value}");
    }
    for host in [
        "localhost",
        "localhost:80",
        "127.0.0.1",
        "[::1]:80",
        "[::1]",
    ] {
        assert!(is_loopback(host.as_bytes()), "{host}");
    }
}

#[tokio::test]
async fn more_requests_than_fit_are_refused() {
    let routes = routes_with(fixture().view, 0);
    let (code, _) = answer(routes, request(Method::GET, "/v1/status", "")).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_address_off_loopback_is_not_bound() {
    let refused = bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert!(matches!(refused, ServeError::NotLoopback(_)));
    let bound = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert!(bound.local_addr().unwrap().ip().is_loopback());
}
