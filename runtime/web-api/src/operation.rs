//! What can be asked for, and what came of it: `POST /v1/checkpoints`, `POST /v1/savepoints`, `POST /v1/rescale`, `POST /v1/stop`,
//! `GET /v1/operations`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// Asks for a checkpoint now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The id of the operation: asked for again under it, it is not done again. 1 to 64 letters, digits, `-`, `_` and `.`; drawn if it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]+$", min_length = 1, max_length = 64)]
    pub operation: Option<String>,
    /// Whether the answer waits for the end of the operation. It does where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
}

/// Asks for a savepoint; the job goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SavepointRequest {
    /// Its name: 1 to 63 lower-case letters, digits, `-`, `_`, the first a letter or digit.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]*$", min_length = 1, max_length = 63)]
    pub name: String,
    /// The id of the operation: asked for again under it, it is not done again. 1 to 64 letters, digits, `-`, `_` and `.`; drawn if it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]+$", min_length = 1, max_length = 64)]
    pub operation: Option<String>,
    /// Whether the answer waits for the end of the operation. It does where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
}

/// Asks for another parallelism; the job goes on at it. At least one of `parallelism` and `operators` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RescaleRequest {
    /// The parallelism of all operators whose author set none; `null` = they keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 32_768)]
    pub parallelism: Option<u32>,
    /// The parallelism of single operators by their uid, from 1: it goes before `parallelism`. What neither names keeps its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operators: BTreeMap<String, u32>,
    /// How long slots that are missing are waited for, up to a day, while the job goes on as it is. Not at all where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86_400_000)]
    pub slots_within_ms: Option<u64>,
    /// The id of the operation: asked for again under it, it is not done again. 1 to 64 letters, digits, `-`, `_` and `.`; drawn if it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]+$", min_length = 1, max_length = 64)]
    pub operation: Option<String>,
    /// Whether the answer waits for the end of the operation. It does where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
}

/// How a job stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StopMode {
    /// Windows and timers stay as they are; the job can go on where it stopped.
    #[default]
    Suspend,
    /// Event time goes to its end first: every window fires.
    Drain,
}

/// Asks for the stop of the job, with its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How.
    #[serde(default)]
    pub mode: StopMode,
    /// The name of the savepoint that it leaves; `null` = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]*$", min_length = 1, max_length = 63)]
    pub savepoint: Option<String>,
    /// The id of the operation: asked for again under it, it is not done again. 1 to 64 letters, digits, `-`, `_` and `.`; drawn if it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]+$", min_length = 1, max_length = 64)]
    pub operation: Option<String>,
    /// Whether the answer waits for the end of the operation. It does where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
}

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// A checkpoint.
    Checkpoint,
    /// A savepoint.
    Savepoint,
    /// A change of the parallelism.
    Rescale,
    /// A stop.
    Stop,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// It is under way.
    Running,
    /// It was done.
    Done,
    /// It was refused or given up.
    Refused,
}

/// An operation. A coordinator knows its own: what an older one was asked for is unknown to the next, and is asked for again under the same
/// name; a savepoint that is there by then is found as such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    pub operation: String,
    /// What it is.
    pub kind: OperationKind,
    /// How far it is.
    pub state: OperationState,
    /// The name of the savepoint.
    pub savepoint: Option<String>,
    /// The number of the checkpoint that it came to.
    pub checkpoint: Option<u64>,
    /// The epoch of that checkpoint.
    pub epoch: Option<u64>,
    /// How long ago it was asked for.
    pub age_ms: u64,
    /// How long it took, or has taken until now.
    pub duration_ms: u64,
    /// Why it was refused or given up.
    pub problem: Option<Problem>,
}
