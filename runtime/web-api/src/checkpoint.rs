//! Checkpoints: `GET /v1/checkpoints`, `GET /v1/checkpoints/{number}`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The checkpoints of a job. Counts and the history are those of the coordinator that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoints {
    /// The number of the last complete one.
    pub completed: Option<u64>,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// How long ago it completed.
    pub age_ms: Option<u64>,
    /// How long it took.
    pub duration_ms: Option<u64>,
    /// Bytes of state that it added to the store.
    pub bytes: u64,
    /// Bytes of state that a restore of it needs.
    pub full_bytes: u64,
    /// Whether all of its output is confirmed.
    pub confirmed: bool,
    /// The number of the one on its way.
    pub pending: Option<u64>,
    /// How many completed.
    pub completed_count: u64,
    /// How many were given up.
    pub failed_count: u64,
    /// Why the last one was given up, or what stands in the way of the one on its way.
    pub last_failure: Option<String>,
    /// Why the last collection of what no checkpoint needs any more was left unfinished.
    pub cleanup_failure: Option<String>,
    /// The last ones, the newest first; left out in the status of the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Checkpoint>,
}

/// What a checkpoint was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointKind {
    /// By itself, or since somebody asked for one.
    Checkpoint,
    /// For a savepoint.
    Savepoint,
    /// For what lets the sources wait behind it: a stop, a rescale, or a worker that leaves.
    StopSuspend,
    /// For a stop with all input drained.
    StopDrain,
}

/// What became of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointOutcome {
    /// It is under way.
    Pending,
    /// It is complete.
    Completed,
    /// It was given up.
    GivenUp,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoint {
    /// Its number.
    pub number: u64,
    /// Its epoch.
    pub epoch: u64,
    /// What it was taken for; `null` = no barrier was sent.
    pub kind: Option<CheckpointKind>,
    /// What became of it.
    pub outcome: CheckpointOutcome,
    /// How long ago it began.
    pub age_ms: u64,
    /// How long it took, or has taken until now.
    pub duration_ms: u64,
    /// From its completion until all of its output was confirmed; `null` = not yet, or by a recovery.
    pub confirmation_ms: Option<u64>,
    /// Bytes of state that it added to the store.
    pub bytes: u64,
    /// Bytes of state that a restore of it needs.
    pub full_bytes: u64,
    /// Subtasks that have answered.
    pub answered: u32,
    /// All subtasks.
    pub subtasks: u32,
    /// Why it was given up.
    pub reason: Option<String>,
}

/// One checkpoint with its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointDetails {
    /// The checkpoint.
    #[serde(flatten)]
    pub checkpoint: Checkpoint,
    /// Its tasks.
    pub tasks: Vec<TaskPart>,
}

/// What all subtasks of one task did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskPart {
    /// The uid of its first operator.
    pub task: String,
    /// All subtasks.
    pub subtasks: u32,
    /// Those that have answered.
    pub answered: u32,
    /// From the beginning to the first answer.
    pub first_answer_ms: Option<u64>,
    /// From the beginning to the last answer so far.
    pub last_answer_ms: Option<u64>,
    /// Whose that was.
    pub last_subtask: Option<u32>,
    /// Bytes of state that they added to the store.
    pub bytes: u64,
    /// Bytes of state of older checkpoints that they refer to.
    pub referenced_bytes: u64,
}
