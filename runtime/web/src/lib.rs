//! Status REST and metrics of a running job, on loopback.
//!
//! One server per job process. Everything is read from the coordinator's status and the workers' figures; the few
//! requests that change something go to the coordinator, which decides. No request text ever names a file.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use highwater_coordinator::{JobRequest, JobStatus, StopMode};
use highwater_types::JobIdentity;
use highwater_worker::FigureBoard;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

pub mod open_metrics;
pub mod report;

/// The largest request body.
const BODY_BYTES_MAX: usize = 16 * 1_024;

/// What the server answers from.
#[derive(Clone)]
pub struct JobView {
    /// The job.
    pub job: JobIdentity,
    /// Requests to the coordinator.
    pub requests: mpsc::Sender<JobRequest>,
    /// The status.
    pub status: watch::Receiver<JobStatus>,
    /// The figures of the worker.
    pub figures: FigureBoard,
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

/// The routes.
pub fn routes(view: JobView) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/tasks", get(tasks))
        .route("/v1/checkpoints", post(checkpoint))
        .route("/v1/savepoints", post(savepoint))
        .route("/v1/stop", post(stop))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(view))
}

type Shared = State<Arc<JobView>>;

async fn status(State(view): Shared) -> Json<Value> {
    let status = view.status.borrow().clone();
    Json(report::status(&view.job, &status))
}

async fn tasks(State(view): Shared) -> Json<Value> {
    Json(report::tasks(&view.figures.read()))
}

async fn metrics(State(view): Shared) -> Response {
    let status = view.status.borrow().clone();
    let text = open_metrics::encode(&view.job, &status, &view.figures.read());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavepointBody {
    name: String,
}

async fn savepoint(State(view): Shared, Json(body): Json<SavepointBody>) -> Response {
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
    drain: bool,
    savepoint: Option<String>,
}

async fn stop(State(view): Shared, Json(body): Json<StopBody>) -> Response {
    let mode = if body.drain {
        StopMode::Drain
    } else {
        StopMode::Suspend
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
        Ok(Err(refused)) => refusal(StatusCode::CONFLICT, &refused.to_string()),
        Err(_) => refusal(StatusCode::GONE, "the job ended before it answered"),
    }
}

fn refusal(code: StatusCode, reason: &str) -> Response {
    (code, Json(json!({ "error": reason }))).into_response()
}
