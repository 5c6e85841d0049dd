//! Refusals of the server: a code for programs, words for people.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use highwater_coordinator::RequestRefused;
use highwater_types::{Classified as _, ErrorKind};
use highwater_web_api::Problem;

/// A refusal for a reason that the request itself is.
pub(crate) fn refusal(code: StatusCode, reason: &str) -> Response {
    told(code, Problem::new(reason))
}

/// A refusal.
pub(crate) fn told(code: StatusCode, problem: Problem) -> Response {
    (code, Json(problem)).into_response()
}

/// What the coordinator refused.
pub(crate) fn of(refused: &RequestRefused) -> (StatusCode, Problem) {
    let mut problem = Problem::new(refused.to_string());
    problem.kind = Some(refused.kind().to_string());
    if let RequestRefused::Taken {
        holds: Some((lineage, id)),
        ..
    } = refused
    {
        problem.checkpoint = Some(id.number);
        problem.lineage = Some(lineage.to_string());
    }
    (status_of(refused), problem)
}

/// What a program does about a refusal: 400 = ask for something else, 409 = ask at another time or under another name,
/// 410 = nobody is left to ask, 503 = ask again, 500 = look at the job first.
fn status_of(refused: &RequestRefused) -> StatusCode {
    match refused {
        RequestRefused::Name(_) | RequestRefused::Rescale(_) => StatusCode::BAD_REQUEST,
        RequestRefused::Taken { .. }
        | RequestRefused::OtherOperation { .. }
        | RequestRefused::SlotsMissing(_)
        | RequestRefused::Busy(_) => StatusCode::CONFLICT,
        RequestRefused::Ended(_) => StatusCode::GONE,
        RequestRefused::NotRunning(_)
        | RequestRefused::TooMany
        | RequestRefused::TooManyWaiting(_) => StatusCode::SERVICE_UNAVAILABLE,
        RequestRefused::GivenUp(_) | RequestRefused::Store { .. } => match refused.kind() {
            ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Invalid => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}
