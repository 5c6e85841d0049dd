//! The graph of a job with what flows through it: `GET /v1/graph`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Graph {
    /// What must agree between processes.
    pub fingerprint: String,
    /// Its tasks.
    pub tasks: Vec<GraphTask>,
    /// What works, but not as well as its author may think.
    pub warnings: Vec<String>,
}

/// One task: a chain of operators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GraphTask {
    /// Its number.
    pub task: u32,
    /// The operators of its chain.
    pub name: String,
    /// How many subtasks.
    pub parallelism: u32,
    /// How many key groups.
    pub max_parallelism: u32,
    /// Its operators, each behind the one it hangs on.
    pub operators: Vec<GraphOperator>,
    /// Where its records go.
    pub outputs: Vec<GraphOutput>,
    /// What flows; `null` = it does not run.
    pub live: Option<Live>,
}

/// One operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphOperator {
    /// Its uid.
    pub uid: String,
    /// What it does: `map`, `window`, ...
    pub operator: String,
    /// Details, such as the windows.
    pub detail: String,
    /// The type of its main output.
    pub emits: String,
    /// The key that it works by.
    pub key: Option<String>,
    /// Its states.
    pub states: Vec<GraphState>,
    /// Of a source: connector and object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<String>,
    /// Of a source: whether it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boundedness: Option<String>,
    /// Of a source: its watermarks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermarks: Option<String>,
    /// Of a source: what it does with records that it refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Of a sink: connector and object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<String>,
    /// Of a sink: what the outside sees after failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<String>,
}

/// One named state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphState {
    /// Its name.
    pub name: String,
    /// What it holds, with its schemas.
    pub shape: String,
}

/// An output of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphOutput {
    /// The number of the receiving task.
    pub to: u32,
    /// How records pick a subtask.
    pub partitioning: String,
    /// The tag of a side output.
    pub side_output: Option<String>,
}

/// What flows through all subtasks of a task, over the last seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// Subtasks that run.
    pub subtasks: u32,
    /// How long rates and shares were measured; `null` = not long enough yet, and so are they.
    pub measured_ms: Option<u64>,
    /// Records a second that its first operator took.
    pub records_in_per_second: Option<f64>,
    /// Records a second that its operators emitted out of the task.
    pub records_out_per_second: Option<f64>,
    /// The share of their time that subtasks worked.
    pub busy: Option<f64>,
    /// The share that they had nothing to do.
    pub idle: Option<f64>,
    /// The share that a receiver held them back.
    pub backpressured: Option<f64>,
}
