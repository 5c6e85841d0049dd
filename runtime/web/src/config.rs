//! Settings of the process: read, and those changed that may be while the job runs.
//!
//! Called by the routes. What settings there are and what their texts mean is known to whoever started the server, behind [`Config`]. The
//! rule: what was changed is what the coordinator says that it goes on with, and nobody else keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use highwater_coordinator::{JobRequest, JobStatus, LiveSettings};
use highwater_web_api as api;
use tokio::sync::{oneshot, watch};

use crate::ask::over;
use crate::problem::{self, refusal, told};
use crate::view::JobView;

/// Changed settings, by name and as text.
pub type Changes = BTreeMap<String, String>;

/// The settings of a process.
pub trait Config: Send + Sync {
    /// All of them, without secrets, with these changes.
    fn read(&self, changes: &Changes) -> Vec<api::Setting>;

    /// What the coordinator goes on with after these changes.
    ///
    /// # Errors
    /// When a name is none, stays as it is while the job runs, or its value is refused: in words for whoever asked.
    fn prepare(&self, changes: Changes) -> Result<LiveSettings, String>;

    /// Logs by these changes from now on.
    ///
    /// # Errors
    /// When it cannot, in words for the log.
    fn log(&self, changes: &Changes) -> Result<(), String>;
}

/// Logs by what the coordinator goes on with, until it ends.
pub async fn follow(config: Arc<dyn Config>, mut status: watch::Receiver<JobStatus>) {
    let mut held = Changes::new();
    loop {
        let changed = status.wait_for(|status| status.changes != held).await;
        let Ok(now) = changed.map(|status| status.changes.clone()) else {
            return;
        };
        if let Err(reason) = config.log(&now) {
            tracing::warn!(reason, "log levels stay as they are");
        }
        held = now;
    }
}

/// The settings as they are.
pub(crate) fn read(view: &JobView) -> Vec<api::Setting> {
    view.config.read(&view.status.borrow().changes)
}

/// Changes settings, and answers with all of them.
pub(crate) async fn change(view: &JobView, more: Changes) -> Response {
    // One after another: each change is made to what the one before it left.
    let _turn = view.changing.lock().await;
    let mut changes = view.status.borrow().changes.clone();
    changes.extend(more);
    let settings = match view.config.prepare(changes) {
        Ok(settings) => settings,
        Err(reason) => return refusal(StatusCode::BAD_REQUEST, &reason),
    };
    let (answer, answered) = oneshot::channel();
    let request = JobRequest::Configure {
        settings: Box::new(settings),
        answer,
    };
    let ended = || over(view, "the job has ended, or this coordinator does");
    if view.requests.send(request).await.is_err() {
        return ended();
    }
    match answered.await {
        Ok(Ok(())) => Json(read(view)).into_response(),
        Ok(Err(refused)) => {
            let (code, mut problem) = problem::of(&refused);
            problem.leader.clone_from(&view.leader.borrow());
            told(code, problem)
        }
        Err(_) => ended(),
    }
}
