//! Stream elements that ride between chunks: barriers, idleness; watermarks are in `time`.
//!
//! The data plane meets the control plane only through these values.

use serde::{Deserialize, Serialize};

use crate::id::CheckpointId;

/// Whether an input may hold the watermark back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamStatus {
    /// The input takes part in the watermark.
    Active,
    /// The input is left out of the watermark until it delivers again.
    Idle,
}

/// What a barrier asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BarrierKind {
    /// An automatic checkpoint.
    Checkpoint,
    /// A savepoint: a checkpoint of the same chain that is exported afterwards.
    Savepoint,
    /// A savepoint after which the sources stop; timers and windows stay as they are.
    StopSuspend,
    /// A savepoint after which the sources have stopped and the largest watermark has flushed every window.
    StopDrain,
}

/// Separates the records of checkpoint n from those of n + 1 in every channel.
///
/// Source: Chandy and Lamport 1985; Flink `CheckpointBarrier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckpointBarrier {
    /// The checkpoint.
    pub id: CheckpointId,
    /// What it asks for.
    pub kind: BarrierKind,
}
