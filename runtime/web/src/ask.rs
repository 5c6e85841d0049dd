//! Requests to the coordinator, and what is answered when they end or have begun.
//!
//! Called by the routes that change something. The rule: nobody is told that an operation is under way before the coordinator keeps it.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use highwater_coordinator::{JobRequest, OperationId, OperationOrder, RequestAnswer, SnapshotWish};
use highwater_types::SavepointName;
use highwater_web_api as api;
use tokio::sync::oneshot;

use crate::checkpoints::operation;
use crate::problem::{self, refusal, told};
use crate::view::JobView;

/// What somebody asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) wish: SnapshotWish,
    /// The id that the asker gave.
    pub(crate) operation: Option<String>,
    /// Whether the answer waits for the end; it does where nothing is said.
    pub(crate) wait: Option<bool>,
}

/// Sends a request to the coordinator and answers what came of it, or that it is under way.
pub(crate) async fn ask(view: &JobView, asked: Asked) -> Response {
    let id = match asked.operation.as_deref().map(OperationId::parse) {
        None => view.ids.draw(),
        Some(Ok(id)) => id,
        Some(Err(none)) => return refusal(StatusCode::BAD_REQUEST, &none.to_string()),
    };
    // The coordinator says so too, but to who does not wait only once the operation is under way.
    if let Some(Err(none)) = asked.wish.savepoint().map(SavepointName::parse) {
        return refusal(StatusCode::BAD_REQUEST, &none.to_string());
    }
    // Those who wait leave room for those who only look.
    let place = match asked.wait {
        Some(false) => None,
        Some(true) | None => view.waiting.try_acquire().ok(),
    };
    let (begun, begins) = oneshot::channel();
    let (answer, answered) = oneshot::channel();
    let request = JobRequest::Snapshot {
        wish: asked.wish.clone(),
        operation: Some(OperationOrder {
            id: id.clone(),
            begun: place.is_none().then_some(begun),
        }),
        answer,
    };
    if view.requests.send(request).await.is_err() {
        return over(view, "the job has ended, or this coordinator does");
    }
    if place.is_none()
        && let Ok(begun) = begins.await
    {
        let shown = operation(view, &begun);
        return (StatusCode::ACCEPTED, Json(shown)).into_response();
    }
    match answered.await {
        Ok(answer) => ended(view, (&id, &asked.wish), answer),
        Err(_) => over(view, "the job ended before it answered"),
    }
}

/// Nobody is left to ask here.
pub(crate) fn over(view: &JobView, reason: &str) -> Response {
    let mut problem = api::Problem::new(reason);
    problem.leader.clone_from(&view.leader.borrow());
    told(StatusCode::GONE, problem)
}

/// What came of an operation.
fn ended(
    view: &JobView,
    (id, wish): (&OperationId, &SnapshotWish),
    answer: RequestAnswer,
) -> Response {
    if let Err(refused) = &answer {
        let (code, mut problem) = problem::of(refused);
        problem.operation = Some(id.to_string());
        problem.leader.clone_from(&view.leader.borrow());
        return told(code, problem);
    }
    let status = view.status.borrow().clone();
    let held = status.operations.get(id);
    let shown = held.filter(|held| held.end.is_some()).cloned();
    // The status may be that of a moment ago.
    let now = view.now_ms();
    let shown = shown.unwrap_or_else(|| highwater_coordinator::Operation {
        id: id.clone(),
        wish: wish.clone(),
        began_ms: held.map_or(now, |held| held.began_ms),
        end: Some(highwater_coordinator::operation::OperationEnd { at_ms: now, answer }),
    });
    let shown: api::Operation = operation(view, &shown);
    Json(shown).into_response()
}
