//! A failure that ended an attempt: `GET /v1/exceptions`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// How long ago.
    pub age_ms: Option<u64>,
    /// The attempt that it ended.
    pub attempt: u64,
    /// The number of the checkpoint that was the last complete one.
    pub checkpoint: u64,
    /// What failed: the operators of a task, or a part of the engine.
    pub task: String,
    /// Which subtask.
    pub subtask: u32,
    /// On which worker; `null` = in the process that answers.
    pub worker: Option<String>,
    /// The position of the input, where it is known.
    pub position: Option<String>,
    /// What helps: `transient`, `invalid`, `fenced`, `corrupt`, `exhausted` or `bug`.
    pub kind: String,
    /// The causes, the outermost first.
    pub message: String,
}
