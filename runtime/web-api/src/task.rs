//! Subtasks with their figures, and event time: `GET /v1/tasks`, `GET /v1/watermarks`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One subtask of a chain of operators. Figures count since the attempt began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// The uid of its first operator.
    pub task: String,
    /// Which subtask.
    pub subtask: u32,
    /// The operators of its chain.
    pub name: String,
    /// How long it worked.
    pub busy_ms: u64,
    /// How long it had nothing to do.
    pub idle_ms: u64,
    /// How long a receiver held it back.
    pub backpressured_ms: u64,
    /// The receiver that holds it back now.
    pub blocked_on: Option<String>,
    /// Its event time, in milliseconds since 1970.
    pub watermark: Option<i64>,
    /// Its operators.
    pub operators: Vec<Operator>,
}

/// One operator of a subtask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operator {
    /// Its uid.
    pub uid: String,
    /// Records taken.
    pub records_in: u64,
    /// Records emitted to the main output.
    pub records_out: u64,
    /// Records that came too late.
    pub records_late: u64,
    /// Entries of keyed state in memory.
    pub state_entries: u64,
    /// Bytes of keyed state in memory.
    pub state_bytes: u64,
    /// Each keyed state.
    pub states: Vec<State>,
    /// Bytes on local disk; `null` = state is in memory only.
    pub store_disk_bytes: Option<u64>,
    /// Memory of the local store.
    pub store_memory_bytes: Option<u64>,
    /// Timers that wait.
    pub timers: u64,
    /// Requests in flight of an asynchronous lookup.
    pub in_flight: u64,
}

/// What one keyed state holds, and what its cache did: all 0 where memory is all there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct State {
    /// Its name.
    pub name: String,
    /// Entries in memory.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries whose time to live was over.
    pub expired: u64,
    /// Reads that were answered from memory.
    pub hits: u64,
    /// Reads that went to the local store.
    pub misses: u64,
    /// Reads of keys that were known to be new.
    pub known_absent: u64,
    /// Reads that were not prepared with their chunk.
    pub unprepared_reads: u64,
    /// Entries that left memory.
    pub evictions: u64,
    /// Those of them that had to be written.
    pub dirty_evictions: u64,
    /// Rows written to the local store.
    pub rows_written: u64,
}

/// The event time of one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Watermarks {
    /// The uid of its first operator.
    pub task: String,
    /// The least of its subtasks, in milliseconds since 1970; `null` = one has none yet, or all input has ended.
    pub watermark: Option<i64>,
    /// How far that is behind the clock.
    pub lag_ms: Option<i64>,
    /// Each subtask.
    pub subtasks: Vec<SubtaskWatermark>,
}

/// The event time of one subtask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubtaskWatermark {
    /// Which subtask.
    pub subtask: u32,
    /// Its event time, in milliseconds since 1970.
    pub watermark: Option<i64>,
}
