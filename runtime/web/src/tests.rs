//! The routes, against a coordinator that the test plays.
//!
//! Here is the job that is asked, and how it is asked; the tests stand by topic in the modules below.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body as RequestBody, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use highwater_api::StreamEnvironment;
use highwater_connectors::{BlackholeSink, ElementsSource};
use highwater_coordinator::fleet::WorkerSeen;
use highwater_coordinator::{JobRequest, JobStatus, LiveSettings, RestartStrategy};
use highwater_graph::check::Checkpoints;
use highwater_graph::{Plan, PlanDefaults};
use highwater_operators::{Count, OutputTag, emit_result};
use highwater_protocol::checkpoint::CheckpointSettings;
use highwater_protocol::job::TaskId;
use highwater_protocol::placement::WorkerOffer;
use highwater_state::Store;
use highwater_time::WatermarkStrategy;
use highwater_types::{
    CheckpointId, Epoch, EventTime, JobIdentity, MaxParallelism, Nonce, OperatorUid, Parallelism,
    SubtaskIndex, Watermark, WorkerIndex,
};
use highwater_web_api as api;
use highwater_window::Tumbling;
use highwater_worker::{
    FigureBoard, LoopFigures, ManualClock, Pauses, TaskFigures, WorkerSettings,
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tower::ServiceExt as _;

use crate::RateBoard;
use crate::access::Access;
use crate::config::{Changes, Config};
use crate::routes::routes;
use crate::view::{JobView, OperationIds, TasksRun, room_to_wait};

mod around;
mod contract;
mod hot_keys;
mod late;
mod operations;
mod reading;
mod settings;

/// Numbers that go nowhere, at this parallelism.
fn plan_at(parallelism: u32) -> Plan {
    let mut env = StreamEnvironment::new();
    let numbers = env.source("numbers", ElementsSource::new([1_u64, 2, 3]));
    numbers.sink("nowhere", BlackholeSink::new().0);
    let defaults = PlanDefaults {
        parallelism: Parallelism(parallelism),
        ..plan_defaults()
    };
    env.compile(defaults).unwrap().plan().clone()
}

/// A plan that runs, and that nobody changes.
pub(crate) fn runs(plan: Plan) -> watch::Receiver<Arc<Plan>> {
    watch::channel(Arc::new(plan)).1
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
        is_leaving: false,
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
        plan: runs(plan_at(2)),
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

/// A subtask of the task that `head` begins, which has done nothing yet.
pub(crate) fn idle_subtask(head: &str, subtask: u32) -> (TaskId, TaskFigures) {
    let id = TaskId {
        vertex: OperatorUid::parse(head).unwrap(),
        subtask: SubtaskIndex(subtask),
    };
    let figures = TaskFigures {
        name: head.to_owned(),
        shares_ms: (0, 0, 0),
        blocked_on: None,
        watermark: Watermark::MIN,
        pauses: Pauses::default(),
        control: LoopFigures::default(),
        source: None,
        operators: Vec::new(),
    };
    (id, figures)
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
