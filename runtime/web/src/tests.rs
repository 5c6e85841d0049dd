//! The routes, against a coordinator that the test plays.

use axum::body::{Body as RequestBody, to_bytes};
use axum::http::Method;
use highwater_api::StreamEnvironment;
use highwater_connectors::{BlackholeSink, ElementsSource};
use highwater_coordinator::{JobPhase, RequestRefused};
use highwater_graph::PlanDefaults;
use highwater_graph::check::Checkpoints;
use highwater_types::{CheckpointId, Epoch, MaxParallelism, Parallelism};
use highwater_worker::SystemClock;
use tower::ServiceExt as _;

use super::*;

fn plan() -> Plan {
    let mut env = StreamEnvironment::new();
    let numbers = env.source("numbers", ElementsSource::new([1_u64, 2, 3]));
    numbers.sink("nowhere", BlackholeSink::new().0);
    let defaults = PlanDefaults {
        parallelism: Parallelism(2),
        max_parallelism: MaxParallelism::DEFAULT,
        checkpoints: Checkpoints::On,
    };
    env.compile(defaults).unwrap().plan().clone()
}

struct Fixture {
    view: JobView,
    status: watch::Sender<JobStatus>,
    requests: mpsc::Receiver<JobRequest>,
}

fn fixture() -> Fixture {
    let (requests, incoming) = mpsc::channel(4);
    let (status, watching) = watch::channel(JobStatus::starting());
    let view = JobView {
        job: JobIdentity::parse("fleet").unwrap(),
        plan: Arc::new(plan()),
        worker: WorkerSettings {
            slots: 2,
            state_bytes_max: 1 << 20,
            spool_bytes_max: 1 << 20,
        },
        requests,
        status: watching,
        figures: FigureBoard::default(),
        clock: Arc::new(SystemClock::new()),
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
    let Fixture {
        view, mut requests, ..
    } = fixture();
    let asked = request(Method::POST, "/v1/checkpoints", "");
    let coordinator = async {
        match requests.recv().await.unwrap() {
            JobRequest::Checkpoint { answer } => {
                answer
                    .send(Err(RequestRefused("no task runs".to_owned())))
                    .unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let ((code, text), ()) = tokio::join!(answer(routes(view), asked), coordinator);
    assert_eq!(code, StatusCode::CONFLICT);
    assert_eq!(text, "{\"error\":\"no task runs\"}");
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
