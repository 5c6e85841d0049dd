//! What the REST server of a job is asked and answers, as types.
//!
//! The server fills them, the command line and whoever watches jobs read them. In reading order: the job, its graph, its tasks, its hot keys, its
//! checkpoints, its failures, its workers, its settings, what can be asked for, and what a refusal says. The rules of version 1: a field
//! is added and never renamed, dropped or given another meaning; readers skip fields that they do not know; requests with unknown fields
//! are refused. Times are milliseconds: spans and ages, and `_ms` since 1970 where a field says so.

pub mod checkpoint;
pub mod failure;
pub mod graph;
pub mod hot_keys;
pub mod job;
pub mod operation;
pub mod problem;
pub mod setting;
pub mod task;
pub mod worker;

pub use checkpoint::{
    Checkpoint, CheckpointDetails, CheckpointKind, CheckpointOutcome, Checkpoints, TaskPart,
};
pub use failure::Failure;
pub use graph::{Graph, GraphOperator, GraphOutput, GraphState, GraphTask, Live};
pub use hot_keys::{HotKey, HotKeys};
pub use job::{
    Job, LateRecords, LatenessBucket, Phase, Redeployments, Restored, Source, WorkerCount,
};
pub use operation::{
    Operation, OperationKind, OperationState, RescaleRequest, SavepointRequest, SnapshotRequest,
    StopMode, StopRequest,
};
pub use problem::Problem;
pub use setting::{ConfigRequest, Setting};
pub use task::{Operator, State, SubtaskWatermark, Task, Watermarks};
pub use worker::Worker;
