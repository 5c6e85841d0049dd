//! Keys that take many of the records of their subtasks: `GET /v1/hot-keys`.
//!
//! The rule: a key is told by rank, hash and group. What it says is data of the job, and no task keeps it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The hot keys of one keyed operator, by a sample of the last records of each of its subtasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HotKeys {
    /// The uid of the operator.
    pub operator: String,
    /// What it does: `window`, `process`, ...
    pub name: String,
    /// The type of the key that it works by.
    pub key: Option<String>,
    /// Its hot keys by subtask and rank, up to five of each subtask; none where no key has 1 % of the records, or too few were looked at.
    pub keys: Vec<HotKey>,
}

/// One hot key of one subtask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HotKey {
    /// Which subtask.
    pub subtask: u32,
    /// 1 = the key with most records of that subtask.
    pub rank: u32,
    /// The hash of the key, 16 hexadecimal digits: what `Key::key_hash` gives. What the key says is data of the job and is not told.
    pub hash: String,
    /// Its key group.
    pub group: u32,
    /// Its share of the last records of the subtask, 0 to 1, as the sample has it.
    pub share: f64,
    /// How many records the sample stands for; older ones count for less.
    pub sampled_records: u64,
}
