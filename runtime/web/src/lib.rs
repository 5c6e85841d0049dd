//! Status REST and metrics of a running job, on loopback.
//!
//! One server per job process. Everything is read from the coordinator's status and the workers' figures; the few
//! requests that change something go to the coordinator, which decides. No request text ever names a file.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use highwater_coordinator::fleet::WorkerSeen;
use highwater_coordinator::{JobRequest, JobStatus, RequestRefused, StopMode};
use highwater_graph::{Plan, PlanFormat, explain};
use highwater_state::Store;
use highwater_types::{Classified as _, ErrorKind, JobIdentity};
use highwater_worker::{Clock, FigureBoard, WorkerSettings};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub mod flow;
pub mod late;
pub mod open_metrics;
mod process;
pub mod report;

/// The largest request body.
const BODY_BYTES_MAX: usize = 16 * 1_024;
/// Requests that are answered at the same time. One that waits for a savepoint counts as long as it waits.
const REQUESTS_MAX: usize = 64;

/// What the server answers from.
#[derive(Clone)]
pub struct JobView {
    /// The job.
    pub job: JobIdentity,
    /// What the process is to the job: `run` or `coordinator`.
    pub role: &'static str,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// What its worker may hold.
    pub worker: WorkerSettings,
    /// Where its keyed state rests.
    pub store: Store,
    /// Requests to the coordinator.
    pub requests: mpsc::Sender<JobRequest>,
    /// The status.
    pub status: watch::Receiver<JobStatus>,
    /// The workers of a coordinator; none where the tasks run in this process.
    pub workers: watch::Receiver<Vec<WorkerSeen>>,
    /// The figures of the worker.
    pub figures: FigureBoard,
    /// The clock of coordinator and worker.
    pub clock: Arc<dyn Clock>,
}

impl JobView {
    /// How long ago the coordinator's clock showed `at`.
    pub(crate) fn age_ms(&self, at: Option<u64>) -> Option<u64> {
        let now = self.clock.elapsed().as_millis() as u64;
        at.map(|at| now.saturating_sub(at))
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not on loopback.
    #[error(
        "{0} is not on loopback; the status server has no authentication yet and listens on 127.0.0.1 only"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be used.
    #[error(
        "the status server cannot listen on {address}; choose another port or 0 for any free one"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Binds the server; serve it with [`serve`].
///
/// # Errors
/// When the address is not on loopback or cannot be used.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind { address, source })
}

/// Serves until the future is dropped.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, view: JobView) -> std::io::Result<()> {
    axum::serve(listener, routes(view)).await
}

/// Serves until `over`, and the requests that are being answered then to their end.
///
/// # Errors
/// Those of the listener.
pub async fn serve_until(
    listener: TcpListener,
    view: JobView,
    over: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes(view))
        .with_graceful_shutdown(over)
        .await
}

/// The routes.
pub fn routes(view: JobView) -> Router {
    routes_with(view, REQUESTS_MAX)
}

fn routes_with(view: JobView, requests_max: usize) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/tasks", get(tasks))
        .route("/v1/graph", get(graph))
        .route("/v1/exceptions", get(exceptions))
        .route("/v1/workers", get(workers))
        .route("/v1/checkpoints", get(checkpoints).post(checkpoint))
        .route("/v1/savepoints", post(savepoint))
        .route("/v1/stop", post(stop))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(
            Arc::new(Semaphore::new(requests_max)),
            bounded,
        ))
        .layer(from_fn(from_this_machine))
        .with_state(Arc::new(view))
}

/// Refuses what is more than the server answers at the same time.
async fn bounded(State(permits): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = permits.try_acquire() else {
        let reason = "too many requests are being answered; try again";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, reason);
    };
    next.run(request).await
}

/// Refuses requests that a browser sends for a page of somebody else: by a foreign name that leads to loopback, or from
/// a foreign origin.
async fn from_this_machine(headers: HeaderMap, request: Request, next: Next) -> Response {
    let named = headers
        .get(header::HOST)
        .is_none_or(|host| is_loopback(host.as_bytes()));
    if named && !headers.contains_key(header::ORIGIN) {
        return next.run(request).await;
    }
    let reason = "only programs on this machine are answered, by 127.0.0.1, [::1] or localhost";
    refusal(StatusCode::FORBIDDEN, reason)
}

fn is_loopback(host: &[u8]) -> bool {
    let Some(host) = std::str::from_utf8(host).ok() else {
        return false;
    };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.parse::<std::net::Ipv4Addr>();
    name == "localhost" || host == "[::1]" || address.is_ok_and(|address| address.is_loopback())
}

async fn unknown(uri: Uri) -> Response {
    let path = uri.path();
    let reason = format!(
        "there is no {path}; there are /v1/status, /v1/tasks, /v1/graph, /v1/exceptions, /v1/workers, /v1/checkpoints, /v1/savepoints, /v1/stop and /metrics"
    );
    refusal(StatusCode::NOT_FOUND, &reason)
}

async fn wrong_method() -> Response {
    let reason = "this path is not asked in this way; read with GET, change with POST";
    refusal(StatusCode::METHOD_NOT_ALLOWED, reason)
}

type Shared = State<Arc<JobView>>;
type Body<T> = Result<Json<T>, JsonRejection>;

async fn status(State(view): Shared) -> Json<Value> {
    Json(report::status(&view))
}

async fn tasks(State(view): Shared) -> Json<Value> {
    Json(report::tasks(&view.figures.read()))
}

async fn checkpoints(State(view): Shared) -> Json<Value> {
    let status = view.status.borrow().clone();
    Json(report::checkpoints(&view, &status.checkpoints))
}

async fn exceptions(State(view): Shared) -> Json<Value> {
    let status = view.status.borrow().clone();
    Json(report::exceptions(&view, &status.failures))
}

async fn workers(State(view): Shared) -> Json<Value> {
    Json(report::workers(&view.workers.borrow()))
}

async fn graph(State(view): Shared) -> Response {
    let text = explain(&view.plan, PlanFormat::Json);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

async fn metrics(State(view): Shared) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], open_metrics::encode(&view)).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavepointBody {
    name: String,
}

async fn savepoint(State(view): Shared, body: Body<SavepointBody>) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejected) => return refusal(rejected.status(), &rejected.body_text()),
    };
    ask(&view, |answer| JobRequest::Savepoint {
        name: body.name,
        answer,
    })
    .await
}

async fn checkpoint(State(view): Shared) -> Response {
    ask(&view, |answer| JobRequest::Checkpoint { answer }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StopBody {
    #[serde(default)]
    mode: ModeBody,
    savepoint: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeBody {
    #[default]
    Suspend,
    Drain,
}

async fn stop(State(view): Shared, body: Body<StopBody>) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejected) => return refusal(rejected.status(), &rejected.body_text()),
    };
    let mode = match body.mode {
        ModeBody::Suspend => StopMode::Suspend,
        ModeBody::Drain => StopMode::Drain,
    };
    ask(&view, |answer| JobRequest::Stop {
        mode,
        savepoint: body.savepoint,
        answer,
    })
    .await
}

/// Sends a request to the coordinator and answers what came of it.
async fn ask(
    view: &JobView,
    request: impl FnOnce(oneshot::Sender<highwater_coordinator::RequestAnswer>) -> JobRequest,
) -> Response {
    let (answer, answered) = oneshot::channel();
    if view.requests.send(request(answer)).await.is_err() {
        return refusal(StatusCode::GONE, "the job has ended");
    }
    match answered.await {
        Ok(Ok(id)) => {
            let body = json!({ "checkpoint": id.number, "epoch": id.epoch.0 });
            (StatusCode::OK, Json(body)).into_response()
        }
        Ok(Err(refused)) => {
            let body = json!({ "error": refused.to_string(), "kind": refused.kind().to_string() });
            (status_of(&refused), Json(body)).into_response()
        }
        Err(_) => refusal(StatusCode::GONE, "the job ended before it answered"),
    }
}

/// What a program does about a refusal: 400 = ask for something else, 409 = ask at another time or under another name,
/// 410 = nobody is left to ask, 503 = ask again, 500 = look at the job first.
fn status_of(refused: &RequestRefused) -> StatusCode {
    match refused {
        RequestRefused::Name(_) => StatusCode::BAD_REQUEST,
        RequestRefused::Taken { .. } | RequestRefused::Busy(_) => StatusCode::CONFLICT,
        RequestRefused::Ended(_) => StatusCode::GONE,
        RequestRefused::NotRunning(_) => StatusCode::SERVICE_UNAVAILABLE,
        RequestRefused::GivenUp(_) | RequestRefused::Store { .. } => match refused.kind() {
            ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Invalid => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

fn refusal(code: StatusCode, reason: &str) -> Response {
    (code, Json(json!({ "error": reason }))).into_response()
}

#[cfg(test)]
mod tests;
