//! The routes: what is read, what is asked for, and the document that describes both.
//!
//! A handler says in its own attribute what the document says of it, so neither is there without the other; each stands in one of two
//! routers, and so needs the scope of that one. Everything that is read comes from the view; the few requests that change something go to
//! the coordinator, which decides. No text of a request ever names a file.

use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use highwater_coordinator::{JobPhase, OperationId, SnapshotWish};
use highwater_types::{ErrorKind, StopMode};
use highwater_web_api as api;
use tokio::sync::Semaphore;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Access, Scope, authorize};
use crate::ask::{Asked, ask};
use crate::fields::Fields;
use crate::problem::{refusal, told};
use crate::view::JobView;
use crate::{checkpoints, config, graph, hot_keys, open_metrics, refusals, report, rescale};

/// The largest request body.
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1_024;
/// What a page of metrics is.
pub(crate) const METRICS_KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Requests that are answered at the same time. One that waits for a savepoint counts as long as it waits.
const REQUESTS_MAX: usize = 64;

/// What the document says of the whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Highwater job",
        description = "Status, checkpoints, savepoints, rescale and stop of one job. Times are milliseconds. Fields are added and never renamed or \
                       dropped: skip those that you do not know."
    ),
    modifiers(&Token)
)]
struct Document;

/// How a request shows who asks.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", scheme);
    }
}

/// The OpenAPI document of the server.
pub fn document() -> utoipa::openapi::OpenApi {
    let all = OpenApiRouter::with_openapi(Document::openapi());
    let mut document = all.merge(own()).merge(led()).merge(writes()).into_openapi();
    refusals::add(&mut document);
    document
}

/// What every process answers for itself, and needs the scope `read`.
fn own() -> OpenApiRouter<Arc<JobView>> {
    OpenApiRouter::default()
        .routes(routes!(status))
        .routes(routes!(config))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
}

/// What the process that leads the job answers, and needs the scope `read`.
fn led() -> OpenApiRouter<Arc<JobView>> {
    OpenApiRouter::default()
        .routes(routes!(graph))
        .routes(routes!(tasks))
        .routes(routes!(watermarks))
        .routes(routes!(hot_keys))
        .routes(routes!(checkpoints))
        .routes(routes!(checkpoint_details))
        .routes(routes!(exceptions))
        .routes(routes!(workers))
        .routes(routes!(operations))
        .routes(routes!(operation))
}

/// What needs the scope `write`.
fn writes() -> OpenApiRouter<Arc<JobView>> {
    OpenApiRouter::default()
        .routes(routes!(checkpoint))
        .routes(routes!(savepoint))
        .routes(routes!(rescale))
        .routes(routes!(stop))
        .routes(routes!(change_config))
}

/// The routes over a view, for whom `access` lets in.
pub fn routes(view: JobView, access: &Access) -> Router {
    routes_with(view, access, REQUESTS_MAX)
}

pub(crate) fn routes_with(view: JobView, access: &Access, requests_max: usize) -> Router {
    let guard = |scope| from_fn_with_state((access.clone(), scope), authorize);
    let view = Arc::new(view);
    let leading = from_fn_with_state(Arc::clone(&view), by_who_leads);
    Router::from(own())
        .merge(Router::from(led()).route_layer(leading))
        .merge(Router::from(writes()).route_layer(guard(Scope::Write)))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&view), of_this_job))
        // Around everything: also what there is not is told to those only who may ask.
        .layer(guard(Scope::Read))
        .layer(from_fn(for_programs))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(
            Arc::new(Semaphore::new(requests_max)),
            bounded,
        ))
        .with_state(view)
}

/// Points to the coordinator that leads, while this one stands by.
async fn by_who_leads(State(view): Shared, request: Request, next: Next) -> Response {
    if view.status.borrow().phase != JobPhase::Standby {
        return next.run(request).await;
    }
    let leader = view.leader.borrow().clone();
    let reason = match &leader {
        Some(leader) => format!("this coordinator stands by; ask the one that leads, at {leader}"),
        None => "this coordinator stands by and knows none that leads; ask again".to_owned(),
    };
    let mut problem = api::Problem::new(reason);
    problem.kind = Some(ErrorKind::Transient.to_string());
    problem.leader = leader;
    told(StatusCode::SERVICE_UNAVAILABLE, problem)
}

/// The job that a request is for. An address may be another job's by the time that somebody asks there.
pub const JOB_HEADER: &str = "highwater-job";

/// Refuses what is meant for another job.
async fn of_this_job(State(view): Shared, request: Request, next: Next) -> Response {
    let wanted = request.headers().get(JOB_HEADER);
    if wanted.is_none_or(|wanted| wanted.as_bytes() == view.job.as_str().as_bytes()) {
        return next.run(request).await;
    }
    let reason = format!(
        "job {} answers here and not the one that the header {JOB_HEADER} names; ask elsewhere",
        view.job
    );
    refusal(StatusCode::MISDIRECTED_REQUEST, &reason)
}

/// Answers are for programs: no page shows them, no browser guesses what they are, nobody keeps them.
pub(crate) async fn for_programs(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Refuses what is more than the server answers at the same time.
pub(crate) async fn bounded(
    State(permits): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = permits.try_acquire() else {
        let reason = "too many requests are being answered; try again";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, reason);
    };
    next.run(request).await
}

async fn unknown(uri: Uri) -> Response {
    let path = uri.path();
    let reason = format!("there is no {path}; GET /v1/openapi.json lists what there is");
    refusal(StatusCode::NOT_FOUND, &reason)
}

async fn wrong_method() -> Response {
    let reason = "this path is not asked in this way; GET /v1/openapi.json lists what there is";
    refusal(StatusCode::METHOD_NOT_ALLOWED, reason)
}

type Shared = State<Arc<JobView>>;
type Body<T> = Result<Json<Fields<T>>, JsonRejection>;
/// What a path names; text that is none names nothing.
type Named = Result<Path<String>, PathRejection>;

/// The job as a whole
#[utoipa::path(
    get, path = "/v1/status", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = api::Job, description = "The job"))
)]
async fn status(State(view): Shared) -> Json<api::Job> {
    Json(report::status(&view))
}

/// Its graph with what flows through it
#[utoipa::path(
    get, path = "/v1/graph", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = api::Graph, description = "The graph"))
)]
async fn graph(State(view): Shared) -> Json<api::Graph> {
    let rates = view.rates.read();
    let figures = view.figures.read();
    let plan = view.current_plan();
    Json(graph::graph(&plan, &figures, rates.as_ref()))
}

/// Each subtask with its figures
#[utoipa::path(
    get, path = "/v1/tasks", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = Vec<api::Task>, description = "The subtasks"))
)]
async fn tasks(State(view): Shared) -> Json<Vec<api::Task>> {
    Json(report::tasks(&view.figures.read()))
}

/// The event time of each task
#[utoipa::path(
    get, path = "/v1/watermarks", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = Vec<api::Watermarks>, description = "The tasks"))
)]
async fn watermarks(State(view): Shared) -> Json<Vec<api::Watermarks>> {
    Json(report::watermarks(&view))
}

/// The keys that take many records of a keyed operator, by a sample
#[utoipa::path(
    get, path = "/v1/hot-keys", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = Vec<api::HotKeys>, description = "The keyed operators"))
)]
async fn hot_keys(State(view): Shared) -> Json<Vec<api::HotKeys>> {
    Json(hot_keys::told(&view.current_plan(), &view.figures.read()))
}

/// The last checkpoints, the newest first
#[utoipa::path(
    get, path = "/v1/checkpoints", tag = "checkpoints", security(("token" = ["read"])),
    responses((status = 200, body = api::Checkpoints, description = "The checkpoints"))
)]
async fn checkpoints(State(view): Shared) -> Json<api::Checkpoints> {
    Json(checkpoints::checkpoints(&view))
}

/// One checkpoint with its tasks
#[utoipa::path(
    get, path = "/v1/checkpoints/{number}", tag = "checkpoints", security(("token" = ["read"])),
    params(("number" = u64, Path, description = "Its number; of several tries the newest is told")),
    responses(
        (status = 200, body = api::CheckpointDetails, description = "The checkpoint"),
        (status = 404, body = api::Problem, description = "The history of this coordinator does not have it"),
    )
)]
async fn checkpoint_details(State(view): Shared, number: Named) -> Response {
    let known = number.ok().and_then(|Path(number)| number.parse().ok());
    match known.and_then(|number| checkpoints::details(&view, number)) {
        Some(details) => Json(details).into_response(),
        None => refusal(
            StatusCode::NOT_FOUND,
            "the history of this coordinator has no such checkpoint; GET /v1/checkpoints has those that it has",
        ),
    }
}

/// The last failures, the newest first
#[utoipa::path(
    get, path = "/v1/exceptions", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = Vec<api::Failure>, description = "The failures"))
)]
async fn exceptions(State(view): Shared) -> Json<Vec<api::Failure>> {
    let status = view.status.borrow().clone();
    Json(report::exceptions(&view, &status.failures))
}

/// The workers of a coordinator
#[utoipa::path(
    get, path = "/v1/workers", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = Vec<api::Worker>, description = "The workers; none where the tasks run in this process"))
)]
async fn workers(State(view): Shared) -> Json<Vec<api::Worker>> {
    Json(report::workers(&view.workers.borrow()))
}

/// The settings of the process, without secrets
#[utoipa::path(
    get, path = "/v1/config", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = Vec<api::Setting>, description = "The settings"))
)]
async fn config(State(view): Shared) -> Json<Vec<api::Setting>> {
    Json(config::read(&view))
}

/// Changes settings that may change while the job runs, until its coordinator ends
#[utoipa::path(
    patch, path = "/v1/config", tag = "job", security(("token" = ["write"])),
    request_body = api::ConfigRequest,
    responses(
        (status = 200, body = Vec<api::Setting>, description = "All settings as they are now"),
        (status = 400, body = api::Problem, description = "A setting is refused, and nothing was changed"),
        (status = 410, body = api::Problem, description = "The job has ended"),
        (status = 503, body = api::Problem, description = "Ask again, or ask the coordinator that leads"),
    )
)]
async fn change_config(State(view): Shared, body: Body<api::ConfigRequest>) -> Response {
    match body {
        Ok(Json(Fields(body))) => config::change(&view, body.settings).await,
        Err(rejected) => refusal(rejected.status(), &rejected.body_text()),
    }
}

/// The last operations, the newest first
#[utoipa::path(
    get, path = "/v1/operations", tag = "operations", security(("token" = ["read"])),
    responses((status = 200, body = Vec<api::Operation>, description = "The operations"))
)]
async fn operations(State(view): Shared) -> Json<Vec<api::Operation>> {
    let status = view.status.borrow().clone();
    let all = status.operations.all().rev();
    Json(
        all.map(|held| checkpoints::operation(&view, held))
            .collect(),
    )
}

/// One operation
#[utoipa::path(
    get, path = "/v1/operations/{operation}", tag = "operations", security(("token" = ["read"])),
    params((
        "operation" = String, Path, description = "Its id",
        pattern = "^[A-Za-z0-9._-]+$", min_length = 1, max_length = 64
    )),
    responses(
        (status = 200, body = api::Operation, description = "The operation"),
        (status = 404, body = api::Problem, description = "This coordinator was not asked for it, or it is no longer kept"),
    )
)]
async fn operation(State(view): Shared, id: Named) -> Response {
    let status = view.status.borrow();
    let id = id.ok().and_then(|Path(id)| OperationId::parse(&id).ok());
    match id.and_then(|id| status.operations.get(&id)) {
        Some(held) => Json(checkpoints::operation(&view, held)).into_response(),
        None => refusal(
            StatusCode::NOT_FOUND,
            "this coordinator knows no such operation; ask for it again: a savepoint that was made is found under its name",
        ),
    }
}

/// Metrics in the format OpenMetrics
#[utoipa::path(
    get, path = "/metrics", tag = "metrics", security(("token" = ["read"])),
    responses((status = 200, body = String, content_type = "application/openmetrics-text", description = "The metrics"))
)]
async fn metrics(State(view): Shared) -> Response {
    let page = open_metrics::encode(&view);
    ([(header::CONTENT_TYPE, METRICS_KIND)], page).into_response()
}

/// This document
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "job", security(("token" = ["read"])),
    responses((status = 200, body = Object, content_type = "application/json", description = "The OpenAPI document"))
)]
async fn openapi() -> Json<&'static utoipa::openapi::OpenApi> {
    static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(document);
    Json(&DOCUMENT)
}

/// Takes a checkpoint now
#[utoipa::path(
    post, path = "/v1/checkpoints", tag = "checkpoints", security(("token" = ["write"])),
    request_body(content = Option<api::SnapshotRequest>, description = "May be left out"),
    responses(
        (status = 200, body = api::Operation, description = "It is complete"),
        (status = 202, body = api::Operation, description = "It is under way, and the request did not want to wait"),
        (status = 400, body = api::Problem, description = "The request is none; ask for something else"),
        (status = 409, body = api::Problem, description = "Ask at another time, or under another id"),
        (status = 410, body = api::Problem, description = "The job has ended"),
        (status = 500, body = api::Problem, description = "It came to nothing; look at the job first"),
        (status = 503, body = api::Problem, description = "Ask again, or ask the coordinator that leads"),
    )
)]
async fn checkpoint(State(view): Shared, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body.map(|bytes| or_default::<api::SnapshotRequest>(&bytes)) {
        Ok(Ok(body)) => body,
        Ok(Err(rejected)) => return refusal(rejected.status(), &rejected.body_text()),
        Err(rejected) => return refusal(rejected.status(), &rejected.body_text()),
    };
    let asked = Asked {
        wish: SnapshotWish::Checkpoint,
        operation: body.operation,
        wait: body.wait,
    };
    ask(&view, asked).await
}

/// Who wants nothing special sends nothing.
fn or_default<T: Default + serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonRejection> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    Ok(match Json::from_bytes(bytes)? {
        Json(Some(Fields(body))) => body,
        Json(None) => T::default(),
    })
}

/// Takes a savepoint; the job goes on
#[utoipa::path(
    post, path = "/v1/savepoints", tag = "operations", security(("token" = ["write"])),
    request_body = api::SavepointRequest,
    responses(
        (status = 200, body = api::Operation, description = "It is complete and copied out"),
        (status = 202, body = api::Operation, description = "It is under way, and the request did not want to wait"),
        (status = 400, body = api::Problem, description = "The request is none; ask for something else"),
        (status = 409, body = api::Problem, description = "Ask at another time, or under another name or id; what has the name is told"),
        (status = 410, body = api::Problem, description = "The job has ended"),
        (status = 500, body = api::Problem, description = "It came to nothing; look at the job first"),
        (status = 503, body = api::Problem, description = "Ask again, or ask the coordinator that leads"),
    )
)]
async fn savepoint(State(view): Shared, body: Body<api::SavepointRequest>) -> Response {
    let Json(Fields(body)) = match body {
        Ok(body) => body,
        Err(rejected) => return refusal(rejected.status(), &rejected.body_text()),
    };
    let asked = Asked {
        wish: SnapshotWish::Savepoint { name: body.name },
        operation: body.operation,
        wait: body.wait,
    };
    ask(&view, asked).await
}

/// Changes the parallelism of the job, which goes on
#[utoipa::path(
    post, path = "/v1/rescale", tag = "operations", security(("token" = ["write"])),
    request_body = api::RescaleRequest,
    responses(
        (status = 200, body = api::Operation, description = "Records flow at the parallelism that is asked for"),
        (status = 202, body = api::Operation, description = "It is under way, and the request did not want to wait"),
        (status = 400, body = api::Problem, description = "The request is none, or the job cannot run like that; ask for something else"),
        (status = 409, body = api::Problem, description = "Ask at another time, such as when the slots are there, or under another id"),
        (status = 410, body = api::Problem, description = "The job has ended"),
        (status = 500, body = api::Problem, description = "It came to nothing; look at the job first"),
        (status = 503, body = api::Problem, description = "Ask again, or ask the coordinator that leads"),
    )
)]
async fn rescale(State(view): Shared, body: Body<api::RescaleRequest>) -> Response {
    let Json(Fields(body)) = match body {
        Ok(body) => body,
        Err(rejected) => return refusal(rejected.status(), &rejected.body_text()),
    };
    match rescale::asked(body) {
        Ok(asked) => ask(&view, asked).await,
        Err(reason) => refusal(StatusCode::BAD_REQUEST, &reason),
    }
}

/// Stops the job with its state
#[utoipa::path(
    post, path = "/v1/stop", tag = "operations", security(("token" = ["write"])),
    request_body = api::StopRequest,
    responses(
        (status = 200, body = api::Operation, description = "All output is confirmed; the job ends"),
        (status = 202, body = api::Operation, description = "It is under way, and the request did not want to wait"),
        (status = 400, body = api::Problem, description = "The request is none; ask for something else"),
        (status = 409, body = api::Problem, description = "Ask at another time, or under another name or id; what has the name is told"),
        (status = 410, body = api::Problem, description = "The job has ended"),
        (status = 500, body = api::Problem, description = "It came to nothing; look at the job first"),
        (status = 503, body = api::Problem, description = "Ask again, or ask the coordinator that leads"),
    )
)]
async fn stop(State(view): Shared, body: Body<api::StopRequest>) -> Response {
    let Json(Fields(body)) = match body {
        Ok(body) => body,
        Err(rejected) => return refusal(rejected.status(), &rejected.body_text()),
    };
    let mode = match body.mode {
        api::StopMode::Suspend => StopMode::Suspend,
        api::StopMode::Drain => StopMode::Drain,
    };
    let asked = Asked {
        wish: SnapshotWish::Stop {
            mode,
            savepoint: body.savepoint,
        },
        operation: body.operation,
        wait: body.wait,
    };
    ask(&view, asked).await
}
