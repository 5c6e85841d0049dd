//! What the checkpoint machine hears and what it asks for.
//!
//! Read by the coordinator's driver, which performs effects in order.

use std::collections::BTreeMap;

use highwater_types::{
    AttemptId, BarrierKind, CheckpointBarrier, CheckpointId, Classified, ErrorKind, OperatorUid,
};

use crate::hash::ContentHash;
use crate::head::{HeadChange, JobEnd};
use crate::head_write::HeadOutcome;
use crate::job::{TaskId, TaskSnapshot};
use crate::manifest::HexBytes;
use crate::paths::{ManifestName, RelativePath};
use crate::rescale::Rescaled;
use crate::stop::SlotKey;

/// How the job goes on behind a checkpoint with another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeploy {
    /// At the same parallelism: its tasks may lie elsewhere.
    Same,
    /// At another one, as the manifest says from then on.
    At(Rescaled),
}

/// Somebody's wish for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// Tells answers apart.
    pub request: u64,
    /// The savepoint's name; `None` = only a checkpoint now.
    pub savepoint: Option<String>,
    /// What the barrier asks for.
    pub kind: BarrierKind,
    /// The attempt ends behind the checkpoint and the next one begins from it; `None` = it runs on. The barrier is that of a stop that
    /// suspends, and there is no savepoint.
    pub redeploy: Option<Redeploy>,
}

impl SnapshotRequest {
    /// Whether the job ends afterwards.
    pub const fn stops(&self) -> bool {
        self.kind.stop_mode().is_some() && !self.redeploys()
    }

    /// Whether the job goes on with another attempt afterwards.
    pub const fn redeploys(&self) -> bool {
        self.redeploy.is_some()
    }

    /// What becomes of the parallelism, if anything.
    pub const fn rescaled(&self) -> Option<&Rescaled> {
        match &self.redeploy {
            Some(Redeploy::At(rescaled)) => Some(rescaled),
            Some(Redeploy::Same) | None => None,
        }
    }
}

/// Why a checkpoint was given up, or a request refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFailure {
    /// Not all tasks answered in time.
    #[error(
        "checkpoint {id} did not complete within {timeout_ms} ms; {missing} tasks have not answered, first {first}"
    )]
    Timeout {
        /// The checkpoint.
        id: CheckpointId,
        /// The limit.
        timeout_ms: u64,
        /// How many tasks have not answered.
        missing: usize,
        /// The first of them, or the step that was under way.
        first: String,
    },
    /// A task refused.
    #[error("task {task} refused checkpoint {id}: {reason}")]
    Refused {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        id: CheckpointId,
        /// Its reason.
        reason: String,
    },
    /// A snapshot breaks a rule.
    #[error("task {task} sent a wrong snapshot for checkpoint {id}: {fault}")]
    WrongSnapshot {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        id: CheckpointId,
        /// The broken rule.
        fault: String,
    },
    /// The manifest could not be written.
    #[error(
        "the manifest of checkpoint {id} could not be written; the object store is not available"
    )]
    Manifest {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The tasks were lost.
    #[error("checkpoint {id} was given up because tasks failed")]
    TasksLost {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The job is stopping already.
    #[error("the job is stopping; ask for the savepoint that it stops with")]
    Stopping,
    /// Another redeployment waits or is not done yet.
    #[error(
        "a rescale, or the move of a worker's tasks, is under way; ask again when that has ended"
    )]
    Redeploying,
    /// Too many requests are waiting.
    #[error("too many requests are waiting; ask again when they are done")]
    Busy,
    /// The leader has found a reason against it after all, before its manifest was written.
    #[error("checkpoint {id} was given up: {reason}")]
    Withdrawn {
        /// The checkpoint.
        id: CheckpointId,
        /// The reason.
        reason: String,
    },
    /// All input has been read when a redeployment is to begin.
    #[error("all input has been read; the job ends and is not redeployed")]
    InputEnded,
    /// The store refuses the write of `head`.
    #[error("checkpoint {id} was given up because the store refuses to write head: {reason}")]
    HeadRefused {
        /// The checkpoint.
        id: CheckpointId,
        /// What it says.
        reason: String,
    },
    /// The copy of the savepoint failed.
    #[error("savepoint of checkpoint {id} could not be copied; the checkpoint itself is complete")]
    Export {
        /// The checkpoint.
        id: CheckpointId,
    },
}

impl Classified for CheckpointFailure {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Timeout { .. }
            | Self::Refused { .. }
            | Self::Manifest { .. }
            | Self::TasksLost { .. }
            | Self::Stopping
            | Self::Busy
            | Self::Redeploying
            | Self::InputEnded
            | Self::Withdrawn { .. }
            | Self::Export { .. } => ErrorKind::Transient,
            Self::HeadRefused { .. } => ErrorKind::Exhausted,
            Self::WrongSnapshot { .. } => ErrorKind::Bug,
        }
    }
}

/// What wakes the checkpoint machine. Each step also gets the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointEvent {
    /// Time has passed.
    Tick,
    /// The engine wants a checkpoint before its time. Any that starts later satisfies it; one that is given up does not.
    Wanted,
    /// Somebody wants a snapshot.
    Request(SnapshotRequest),
    /// The enumerators were snapshotted at the trigger.
    Enumerators {
        /// The checkpoint.
        id: CheckpointId,
        /// The state of each enumerator.
        states: BTreeMap<OperatorUid, HexBytes>,
    },
    /// A task acknowledges.
    Acked {
        /// The task.
        task: TaskId,
        /// Its attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// Its part.
        snapshot: Box<TaskSnapshot>,
    },
    /// A task refuses.
    Refused {
        /// The task.
        task: TaskId,
        /// Its attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// Its reason.
        reason: String,
    },
    /// A task has emitted everything that it ever will; it still answers barriers.
    InputEnded {
        /// The task.
        task: TaskId,
        /// Its attempt.
        attempt: AttemptId,
    },
    /// A task without sink slots is gone for good; its last snapshot stands for it.
    Finished {
        /// The task.
        task: TaskId,
        /// Its attempt.
        attempt: AttemptId,
        /// Its last snapshot, without files.
        snapshot: Box<TaskSnapshot>,
        /// The newest barrier that it passed on. The last snapshot is newer than that barrier and cannot stand for it.
        passed: Option<CheckpointId>,
    },
    /// The manifest is durable.
    ManifestWritten {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The manifest could not be written.
    ManifestFailed {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The leader has found a reason against the checkpoint after all; its manifest is not written.
    Withdrawn {
        /// The checkpoint.
        id: CheckpointId,
        /// The reason.
        reason: String,
    },
    /// The head write that this machine asked for is decided.
    HeadDecided(HeadOutcome),
    /// A slot reports that everything up to `number` is confirmed. May be repeated.
    Confirmed {
        /// The slot.
        slot: SlotKey,
        /// The attempt that reports.
        attempt: AttemptId,
        /// The number.
        number: u64,
    },
    /// A slot met a void marker of the last completed checkpoint: an older leader was giving it up when it died.
    Voided {
        /// The slot.
        slot: SlotKey,
        /// The attempt that reports.
        attempt: AttemptId,
    },
    /// The savepoint is copied and its own manifest written.
    Exported {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The savepoint could not be copied.
    ExportFailed {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Tasks failed: nothing is triggered until [`CheckpointEvent::TasksRunning`].
    TasksLost,
    /// All tasks run as these attempts, and all output of `head` is confirmed.
    TasksRunning {
        /// The attempts.
        attempts: BTreeMap<TaskId, AttemptId>,
    },
}

/// What the driver does for the checkpoint machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointEffect {
    /// Snapshots all enumerators now. Assignments sent before this effect reach their reader before the barrier, those
    /// after it behind the barrier (T-14): both ride the ordered channel to the task.
    SnapshotEnumerators {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Tells all tasks that barriers are on their way: full spools let pass what stands before them.
    Announce {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Triggers a task (P2).
    SendBarrier {
        /// The task.
        task: TaskId,
        /// The barrier.
        barrier: CheckpointBarrier,
    },
    /// Tells all tasks that the checkpoint was given up.
    Decline {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Writes the manifest, if there is no such object (P7).
    WriteManifest {
        /// Its name.
        name: ManifestName,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Their hash.
        hash: ContentHash,
    },
    /// Starts a head write (P8 or L7) with a nonce of its own.
    WriteHead(HeadChange),
    /// Contests the head write on its way with a nonce of its own.
    ContestHead,
    /// The checkpoint is complete: positions may be told to the outside, older logs may go.
    Completed {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Orders a commit (P9).
    OrderCommit {
        /// The slot.
        slot: SlotKey,
        /// The checkpoint.
        id: CheckpointId,
    },
    /// All output of the checkpoint is confirmed (P11).
    AllConfirmed {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Deletes objects of a try that can never complete any more.
    DeleteOrphans {
        /// The objects.
        paths: Vec<RelativePath>,
    },
    /// Copies the confirmed checkpoint out as savepoint; its own manifest is written last.
    Export {
        /// The checkpoint.
        id: CheckpointId,
        /// The name.
        savepoint: String,
    },
    /// The request is done.
    RequestDone {
        /// The request.
        request: u64,
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The request has failed; the job goes on. A stop whose checkpoint is given up has not failed: it waits again. A redeployment whose
    /// checkpoint is given up has: it is not tried again by itself.
    RequestFailed {
        /// The request.
        request: u64,
        /// Why.
        failure: CheckpointFailure,
    },
    /// A checkpoint was given up. For logs and metrics.
    Failed {
        /// Why.
        failure: CheckpointFailure,
        /// How many in a row, this one included.
        in_a_row: u32,
    },
    /// The stop or the redeployment was given up: sources read on.
    ResumeSources,
    /// The region starts again from `head`: a drain was given up after windows were flushed, or a void marker was met
    /// and the recovery has to finish *Going back*.
    RestartRegion,
    /// More checkpoints failed in a row than are tolerated.
    FailJob {
        /// How many.
        in_a_row: u32,
    },
    /// All output of the checkpoint is confirmed and `head` says so: the attempt is ended and the next one begins from it, as its manifest
    /// says. Told once. The request is answered by the driver when tasks run again; until then
    /// [`super::CheckpointCoordinator::redeploying`] names both.
    Redeploy {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Everything is confirmed, and `head` says that the job has ended.
    EndJob(JobEnd),
    /// Somebody newer owns the job: this leader ends, touches nothing.
    StepDown,
    /// `head` was deleted: this leader ends and says so.
    HeadVanished,
    /// `head` is damaged: this leader ends and says so.
    HeadDamaged {
        /// What is wrong with it.
        reason: String,
    },
}
