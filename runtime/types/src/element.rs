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
    /// An automatic checkpoint, or one that was asked for.
    Checkpoint,
    /// A savepoint: a checkpoint of the same chain that is exported afterwards.
    Savepoint,
    /// The last snapshot of a job that stops.
    Stop {
        /// What the sources do before it.
        mode: StopMode,
        /// Whether it is exported as a savepoint; else it is a checkpoint like any other.
        is_savepoint: bool,
    },
}

impl BarrierKind {
    /// How the job stops behind it; `None` = it goes on.
    pub const fn stop_mode(self) -> Option<StopMode> {
        match self {
            Self::Checkpoint | Self::Savepoint => None,
            Self::Stop { mode, .. } => Some(mode),
        }
    }

    /// Whether state has to be in the form that depends on no backend.
    pub const fn is_savepoint(self) -> bool {
        match self {
            Self::Checkpoint => false,
            Self::Savepoint => true,
            Self::Stop { is_savepoint, .. } => is_savepoint,
        }
    }
}

/// How a job stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopMode {
    /// Sources stop; windows and timers stay as they are, so that the job can go on where it stopped.
    Suspend,
    /// Sources stop and event time goes to its end: every window fires.
    Drain,
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
