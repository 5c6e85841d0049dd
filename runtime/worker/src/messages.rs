//! What coordinator and worker say to each other. The only way in which the two planes meet.
//!
//! In one process these travel through bounded channels, between processes through the control protocol; nothing here
//! is a handle, a lock or a callback. Every message that belongs to an attempt names it, so that a late one of an older
//! attempt is recognised and refused.

use std::collections::{BTreeMap, BTreeSet};

use highwater_connectors::Split;
use highwater_operators::ListStateSnapshot;
use highwater_protocol::hash::ContentHash;
use highwater_protocol::head_write::Authority;
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::manifest::{FileEntry, LogObject, StoreParts};
use highwater_protocol::paths::RelativePath;
use highwater_protocol::placement::Placement;
use highwater_protocol::recovery::{AttemptReport, Fault, SlotDuty, UnmatchedState};
use highwater_protocol::sink_slot::MarkerKind;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{
    AttemptId, CheckpointBarrier, CheckpointId, Epoch, ErrorKind, Lineage, Nonce, OperatorUid,
    Parallelisms, SlotIndex, SubtaskIndex, WorkerIndex,
};
use serde::{Deserialize, Serialize};

/// One subtask of one operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OperatorSubtask {
    /// The operator.
    pub uid: OperatorUid,
    /// Its subtask.
    pub subtask: SubtaskIndex,
}

/// A file of keyed state that is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredKeyed {
    /// The file.
    pub path: RelativePath,
    /// What its bytes must be.
    pub entry: FileEntry,
    /// The files of a local store that it speaks of.
    pub store: Option<RestoredStore>,
}

/// The files of a local store that are restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredStore {
    /// The files, and where they lie.
    pub parts: StoreParts,
    /// The objects that they lie in.
    pub objects: BTreeMap<RelativePath, FileEntry>,
}

/// What one operator subtask gets back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredState {
    /// Keyed files that hold a group of the subtask.
    pub keyed: Vec<RestoredKeyed>,
    /// Its share of the operator state.
    pub lists: Vec<ListStateSnapshot>,
}

/// Where the markers of a sink are read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerPlace {
    /// Names the place: the topic id.
    pub place: String,
    /// A position that no marker of interest lies before.
    pub from: u64,
}

/// Where a worker stands among those of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is the only one: subtask `i` of every task runs in slot `i` modulo the number of its slots.
    Alone,
    /// One of several.
    Among(Box<Peers>),
}

/// Who runs what in an attempt of several workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// The worker that this is told to.
    pub me: WorkerIndex,
    /// Where each subtask runs.
    pub placement: Placement,
    /// Where the data plane of each worker listens: host and port.
    pub addresses: BTreeMap<WorkerIndex, String>,
    /// Random bits that only workers of this attempt know: links carry them.
    pub pass: Nonce,
}

impl Standing {
    /// The slot of a subtask on this worker, which has so many; `None` = another worker runs it.
    pub fn slot_of(&self, subtask: SubtaskIndex, slots: u32) -> Option<SlotIndex> {
        match self {
            Self::Alone => Some(SlotIndex(subtask.0 % slots)),
            Self::Among(peers) => {
                let place = peers.placement.of(subtask);
                (place.worker == peers.me).then_some(place.slot)
            }
        }
    }

    /// The worker that runs a subtask, if it is another than this one.
    pub fn other_of(&self, subtask: SubtaskIndex) -> Option<WorkerIndex> {
        match self {
            Self::Alone => None,
            Self::Among(peers) => {
                let worker = peers.placement.of(subtask).worker;
                (worker != peers.me).then_some(worker)
            }
        }
    }
}

/// Everything a worker needs to open the slots and tasks of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deployment {
    /// The leadership.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// The fingerprint of what is executed, parallelism included: [`JobShape::fingerprint`](highwater_protocol::job::JobShape::fingerprint).
    pub shape: ContentHash,
    /// What each operator runs at: that of the program as it was started, unless the job was rescaled.
    pub parallelism: Parallelisms,
    /// The lineage.
    pub lineage: Lineage,
    /// The checkpoint that is restored.
    pub restored: CheckpointId,
    /// Whether there was a run before: state is restored, not begun.
    pub history: History,
    /// What happens to stored state that its operator does not open any more.
    pub unmatched: UnmatchedState,
    /// The state of each operator subtask, where the checkpoint has one.
    pub states: BTreeMap<OperatorSubtask, RestoredState>,
    /// The splits of each source subtask.
    pub splits: BTreeMap<OperatorSubtask, Vec<Split>>,
    /// Sources that will get no further split.
    pub complete: Vec<OperatorUid>,
    /// The marker place of each exactly-once sink.
    pub markers: BTreeMap<OperatorUid, MarkerPlace>,
    /// Logs that may have to be published, verified together with the state: as long as nothing is published, a
    /// checkpoint whose log is damaged can still be given up.
    pub logs: Vec<(SlotKey, LogObject)>,
    /// Where the worker stands.
    pub standing: Standing,
}

/// Whether a deployment goes on or begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum History {
    /// Nothing ran before in this lineage.
    FirstStart,
    /// State and positions come from a checkpoint.
    Restored,
}

/// The coordinator to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WorkerCommand {
    /// Hold this attempt: fetch and verify its state (R5). Answered by [`WorkerEvent::Verified`].
    Prepare(Box<Deployment>),
    /// Open the sink slots and decide the output that these duties name (R4). No state is opened yet.
    Confirm(AttemptId, Vec<SlotDuty>),
    /// Every duty of the region is done: open the state and build the chains (R6).
    Open(AttemptId),
    /// Every task is open: records may flow (R7).
    Run(AttemptId),
    /// This checkpoint was begun: its barrier is on the way to every task and every sink slot.
    Expect(AttemptId, CheckpointId),
    /// A source subtask emits the barrier behind everything that it has read.
    Trigger(AttemptId, TaskId, CheckpointBarrier),
    /// Read these splits too.
    Assign {
        /// The attempt.
        attempt: AttemptId,
        /// The source subtask.
        to: TaskId,
        /// The splits.
        splits: Vec<Split>,
        /// Whether no further split will come.
        complete: bool,
    },
    /// The checkpoint is complete: tell the sources.
    Completed(AttemptId, CheckpointId),
    /// Commit the output of a slot (P9).
    Commit(AttemptId, SlotKey, CheckpointId),
    /// The checkpoint was given up.
    Declined(AttemptId, CheckpointId),
    /// A stop was given up: sources read on.
    ResumeSources(AttemptId),
    /// The leader's word on the attempt of a slot that asked.
    Authority(AttemptId, SlotKey, Authority),
    /// *Going back*: the slot gives its output up.
    WriteVoid(AttemptId, SlotKey, CheckpointId),
    /// A leader of this epoch wants to know what attempt is held for an older one (L4). Answered by [`WorkerEvent::Reported`].
    Report(Epoch),
    /// The leader of this epoch goes on with the attempt that the workers hold, from this checkpoint in `head`: nobody decides any more what
    /// else older leaders began.
    Adopt(AttemptId, Epoch, CheckpointId),
    /// Nobody leads the attempt: the worker's own process says so when its coordinator is lost.
    Unled(AttemptId),
    /// End the attempt; answered by [`WorkerEvent::Cancelled`].
    Cancel(AttemptId),
    /// End the worker.
    Shutdown,
}

/// Where the bytes of restored state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestoredBytes {
    /// Bytes that were fetched from the object store.
    pub fetched: u64,
    /// Bytes that were found on local disk, and compared.
    pub local: u64,
}

/// A failure, as people and machines need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// The operators of the task.
    pub task: String,
    /// Its subtask.
    pub subtask: SubtaskIndex,
    /// The worker where it ran, number and name; `None` = there is one only, or it concerns no worker.
    pub worker: Option<String>,
    /// Where the last records came from, if it is a source.
    pub position: Option<String>,
    /// What to do about it.
    pub kind: ErrorKind,
    /// The message with its causes.
    pub message: String,
}

impl FailureReport {
    /// A failure of `task`, of its subtask 0 and at no position of the input.
    pub fn of(task: impl Into<String>, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            task: task.into(),
            subtask: SubtaskIndex(0),
            worker: None,
            position: None,
            kind,
            message: message.into(),
        }
    }

    /// The same of another subtask.
    pub fn in_subtask(self, subtask: SubtaskIndex) -> Self {
        Self { subtask, ..self }
    }
}

/// What a worker tells a new leader of the attempt that it holds for an older one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptNews {
    /// Its tasks.
    pub tasks: Vec<AttemptReport>,
    /// Checkpoints that were begun and of which it heard no end.
    pub begun: BTreeSet<CheckpointId>,
    /// Who runs what.
    pub placement: Placement,
}

/// A worker to the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WorkerEvent {
    /// The attempt waits for workers with enough slots, in words.
    WaitsForSlots(AttemptId, String),
    /// From a fleet that was asked for reports: whether its workers have slots enough and none of them holds an attempt.
    AllFree(bool),
    /// The attempt that the worker holds for an older leader.
    Reported(AttemptId, Box<AttemptNews>),
    /// The state of the attempt is here, and every length and checksum is right.
    Verified(AttemptId, RestoredBytes),
    /// A file of the checkpoint is missing or damaged: nothing of it was used.
    Damaged(AttemptId, Fault, Box<FailureReport>),
    /// All tasks of the worker have opened their state.
    Opened(AttemptId),
    /// A task's part of a checkpoint is stored.
    Acked {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// Its part.
        snapshot: Box<TaskSnapshot>,
    },
    /// A task cannot take part in the checkpoint.
    Refused {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// Why.
        reason: String,
    },
    /// The output of a slot up to this checkpoint is visible.
    SlotConfirmed(AttemptId, SlotKey, CheckpointId),
    /// The output of a slot was given up.
    SlotVoided(AttemptId, SlotKey, CheckpointId),
    /// An examination found a marker, or none.
    SlotExamined(AttemptId, SlotKey, CheckpointId, Option<MarkerKind>),
    /// Is this attempt current?
    AskAuthority(AttemptId, SlotKey),
    /// A spool is half full: a checkpoint is wanted before its time.
    RequestCheckpoint(AttemptId),
    /// A task has emitted everything that it ever will.
    InputEnded(AttemptId, TaskId),
    /// A task failed; the attempt is over.
    Failed(AttemptId, Box<FailureReport>),
    /// The job must stop by name.
    Stop(AttemptId, NamedStop),
    /// What the end of the attempt still waits for, in words.
    Cancelling(AttemptId, String),
    /// The attempt has ended: nothing of it runs any more.
    Cancelled(AttemptId),
}
