//! The job as a whole: `GET /v1/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::checkpoint::Checkpoints;
use crate::failure::Failure;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Another coordinator leads, or nobody does yet; this one waits for its turn.
    Standby,
    /// The store is read and the leadership taken.
    Starting,
    /// Output of the last checkpoint is confirmed, state is fetched and opened.
    Recovering,
    /// Records flow.
    Running,
    /// An attempt has failed and the next one starts soon.
    Restarting,
    /// A stop is under way.
    Stopping,
    /// All input was processed and all output confirmed.
    Finished,
    /// Stopped with its state.
    Stopped,
    /// Failed; state is kept.
    Failed,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its identity.
    pub job: String,
    /// What the process that answers is to the job: `run` or `coordinator`.
    pub role: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it failed, or what it waits for.
    pub reason: Option<String>,
    /// Where the status server of the coordinator that leads is, if this one stands by and knows it.
    pub leader: Option<String>,
    /// The line of its checkpoints.
    pub lineage: Option<String>,
    /// The leadership.
    pub epoch: u64,
    /// The execution attempt.
    pub attempt: u64,
    /// Attempts that failed since the coordinator began.
    pub restarts: u32,
    /// How often its tasks began anew without a failure.
    #[serde(default)]
    pub redeployments: Redeployments,
    /// The failure that came last.
    pub last_failure: Option<Failure>,
    /// Records that sources emitted since the attempt began.
    pub records_in: u64,
    /// Records that reached a sink since the attempt began.
    pub records_out: u64,
    /// The event time of the job, in milliseconds since 1970: the least of its tasks.
    pub watermark: Option<i64>,
    /// How far that is behind the clock.
    pub watermark_lag_ms: Option<i64>,
    /// The operator that holds the others back.
    pub held_back_by: Option<String>,
    /// The workers of a coordinator.
    pub workers: WorkerCount,
    /// Sources that refused records or wait for a transaction.
    pub sources: Vec<Source>,
    /// Late records of each operator that judges event time.
    pub late_records: Vec<LateRecords>,
    /// Its checkpoints in short.
    pub checkpoints: Checkpoints,
    /// Where the state of the attempt came from.
    pub restored: Option<Restored>,
}

/// Attempts that went on behind a checkpoint, without a failure: rescales, and workers that left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redeployments {
    /// How many since the coordinator began.
    pub count: u64,
    /// The number of the checkpoint behind which the last one went on.
    pub checkpoint: Option<u64>,
    /// How long records stood still at the last one: from the barrier of that checkpoint until they flowed again.
    pub pause_ms: Option<u64>,
}

/// Workers in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerCount {
    /// How many.
    pub count: u32,
    /// Their slots.
    pub slots: u32,
    /// How many of them leave: they get no more to do, and go once their tasks run elsewhere.
    #[serde(default)]
    pub leaving: u32,
}

/// What a source refused since the attempt began, all its subtasks together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// Its uid.
    pub source: String,
    /// Records that were dropped.
    pub dropped: u64,
    /// Records that went to dead letters.
    pub dead_letters: u64,
    /// Records whose time is too far in the future.
    pub too_far_in_the_future: u64,
    /// Splits that hold records of a transaction that somebody keeps open.
    pub splits_behind_open_transactions: u64,
}

/// The records that one operator judged since the attempt began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LateRecords {
    /// Its uid.
    pub operator: String,
    /// Before the watermark.
    pub on_time: u64,
    /// Behind it, and counted all the same.
    pub late_accepted: u64,
    /// Too late, and dropped.
    pub late_dropped: u64,
    /// Too late, and sent to a side output.
    pub late_to_side_output: u64,
    /// How late they were.
    pub lateness: Vec<LatenessBucket>,
    /// The out-of-orderness bound that they were judged with.
    pub bound_ms: Option<i64>,
    /// The bound with which a share of at least so much would have been on time, by the share.
    pub suggested_bound_ms: BTreeMap<String, Option<i64>>,
}

/// Late records of a range of lateness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LatenessBucket {
    /// The upper end of the range; the range begins behind that of the bucket before.
    pub up_to_ms: i64,
    /// How many.
    pub records: u64,
}

/// Where the state of an attempt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// From the object store.
    pub fetched_bytes: u64,
    /// From local disk.
    pub local_bytes: u64,
}
