//! What coordinator and worker say to each other. The only way in which the two planes meet.
//!
//! In one process these travel through bounded channels, between processes through the control protocol; nothing here
//! is a handle, a lock or a callback. Every message that belongs to an attempt names it, so that a late one of an older
//! attempt is recognised and refused.

use std::collections::BTreeMap;

use highwater_connectors::Split;
use highwater_operators::ListStateSnapshot;
use highwater_protocol::head_write::Authority;
use highwater_protocol::manifest::{FileEntry, KeyedFile, LogObject, SlotOutput};
use highwater_protocol::paths::RelativePath;
use highwater_protocol::sink_slot::MarkerKind;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{
    AttemptId, CheckpointBarrier, CheckpointId, Epoch, ErrorKind, Lineage, OperatorUid,
    SubtaskIndex,
};

/// The number of a worker in its job, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerIndex(pub u32);

/// One operator's subtask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubtaskKey {
    /// The operator.
    pub uid: OperatorUid,
    /// Its subtask.
    pub subtask: SubtaskIndex,
}

/// What one operator subtask gets back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredState {
    /// Keyed files that hold a group of the subtask.
    pub keyed: Vec<(RelativePath, FileEntry)>,
    /// Its share of the operator state.
    pub lists: Vec<ListStateSnapshot>,
}

/// The output of a completed checkpoint that a slot has to decide before records flow (L5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotClaim {
    /// The slot.
    pub slot: SlotKey,
    /// The checkpoint.
    pub id: CheckpointId,
    /// Its log, in order.
    pub log: Vec<LogObject>,
    /// The position from which markers are read.
    pub from: u64,
    /// The place of the markers, as the manifest has it.
    pub marker_place: String,
}

/// Everything a worker needs to run its part of an attempt.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The leadership.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// The lineage.
    pub lineage: Lineage,
    /// The checkpoint that is restored.
    pub restored: CheckpointId,
    /// The state of each operator subtask, where the checkpoint has one.
    pub states: BTreeMap<SubtaskKey, RestoredState>,
    /// The splits of each source subtask, and whether no further split will come.
    pub splits: BTreeMap<SubtaskKey, (Vec<Split>, bool)>,
    /// Output that is to be decided first.
    pub claims: Vec<SlotClaim>,
    /// Where each sink's markers are read from: position and place; empty for a first start.
    pub markers: BTreeMap<OperatorUid, (u64, String)>,
}

/// The coordinator to a worker.
#[derive(Clone, Debug)]
pub enum WorkerCommand {
    /// Prepare the attempt: open sink slots, decide claims, build chains, restore state. Nothing is read yet.
    Deploy(Box<Deployment>),
    /// Every slot has confirmed and every chain is built: records may flow.
    Run(AttemptId),
    /// Take a checkpoint: sources emit the barrier.
    Trigger(AttemptId, CheckpointBarrier),
    /// Read these splits too.
    Assign {
        /// The attempt.
        attempt: AttemptId,
        /// The source subtask.
        to: SubtaskKey,
        /// The splits.
        splits: Vec<Split>,
        /// Whether no further split will come.
        complete: bool,
    },
    /// The checkpoint is complete: commit it, tell the sources.
    Completed(AttemptId, CheckpointId),
    /// The checkpoint was given up.
    Declined(AttemptId, CheckpointId),
    /// The leader's word on the attempt of a slot that asked.
    Authority(AttemptId, SlotKey, Authority),
    /// *Going back*: the slot gives its output up.
    WriteVoid(AttemptId, SlotKey, CheckpointId),
    /// End the attempt; answered by [`WorkerEvent::Cancelled`].
    Cancel(AttemptId),
    /// End the worker.
    Shutdown,
}

/// What one operator subtask adds to a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredState {
    /// Its keyed files, stored.
    pub keyed: Vec<(KeyedFile, FileEntry)>,
    /// Its operator state.
    pub lists: Vec<ListStateSnapshot>,
}

/// A failure, as people and machines need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureReport {
    /// The operators of the task.
    pub task: String,
    /// Its subtask.
    pub subtask: SubtaskIndex,
    /// Where the last records came from, if it is a source.
    pub position: Option<String>,
    /// What to do about it.
    pub kind: ErrorKind,
    /// The message with its causes.
    pub message: String,
}

/// A worker to the coordinator.
#[derive(Clone, Debug)]
pub enum WorkerEvent {
    /// The attempt is prepared: chains are built and claims are confirmed.
    Ready(AttemptId),
    /// A task's part of a checkpoint is stored.
    TaskAck {
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// The head of the task: names it in the set of expected acknowledgements.
        task: SubtaskKey,
        /// The state of each operator of the chain.
        states: BTreeMap<SubtaskKey, StoredState>,
        /// The positions, if the task is a source.
        splits: Option<Vec<Split>>,
    },
    /// A sink slot's part of a checkpoint is stored.
    SlotAck {
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// The slot.
        slot: SlotKey,
        /// Its output.
        output: SlotOutput,
        /// A marker position seen before.
        marker_offset: u64,
        /// The outside system and the place of its markers.
        external: (String, String),
    },
    /// A task or slot cannot take part in the checkpoint.
    Declined {
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// Why.
        reason: String,
    },
    /// The output of a slot is visible.
    SlotConfirmed(AttemptId, SlotKey, CheckpointId),
    /// The output of a slot was given up.
    SlotVoided(AttemptId, SlotKey, CheckpointId),
    /// An examination found a marker, or none.
    SlotExamined(AttemptId, SlotKey, CheckpointId, Option<MarkerKind>),
    /// Is this attempt current?
    AskAuthority(AttemptId, SlotKey),
    /// A spool is half full: a checkpoint is wanted.
    RequestCheckpoint(AttemptId),
    /// A source subtask has read everything.
    SourceEnded(AttemptId, SubtaskKey),
    /// A task failed; the attempt is over.
    Failed(AttemptId, Box<FailureReport>),
    /// The job must stop by name.
    Stop(AttemptId, NamedStop),
    /// The attempt has ended: no thread of it runs any more.
    Cancelled(AttemptId),
}
