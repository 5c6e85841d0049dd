//! What the loop of a task did besides its records: letters, barriers, input that waits.
//!
//! Filled on the slot thread, once for each letter and each barrier; copied into the figures of the task.

use highwater_metrics::Spans;
use serde::{Deserialize, Serialize};

/// Letters, barriers and input of one task. Counts begin with the attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopFigures {
    /// Letters that were taken.
    pub letters: u64,
    /// How long they had waited.
    pub mailbox_wait: Spans,
    /// From the first barrier of a checkpoint to the last.
    pub alignment: Spans,
    /// From the news of a checkpoint to its first barrier.
    pub start_delay: Spans,
    /// Input channels that are idle. Now.
    pub inputs_idle: u64,
    /// Bytes that wait in the input channels. Now.
    pub buffered_bytes: u64,
}
