//! What a node can do: the context of a handler, the messages between nodes, the seam of protocol steps.
//!
//! A handler of a node gets one input and pushes outputs into its [`Ctx`]; the world carries them out. A node that is
//! stopped at a protocol step loses the outputs that it had not pushed yet, exactly as a killed process would.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::hash::ContentHash;
use highwater_protocol::head::JobEnd;
use highwater_protocol::head_write::Authority;
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::manifest::{FileEntry, KeyedFile};
use highwater_protocol::paths::RelativePath;
use highwater_protocol::recovery::{AttemptReport, SlotDuty};
use highwater_protocol::sink_slot::MarkerKind;
use highwater_protocol::steps::Step;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{AttemptId, CheckpointBarrier, CheckpointId, Epoch, Lineage};

use crate::kafka::{KafkaAnswer, KafkaOp};
use crate::rng::Rng;
use crate::store::{StoreAnswer, StoreOp};
use crate::workload::{InRecord, Workload};

pub(crate) type NodeId = u32;

/// Microseconds since the start of the run.
pub(crate) type Micros = u64;

/// What a task is deployed with.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    pub(crate) lineage: Lineage,
    /// The fingerprint of the execution.
    pub(crate) shape: ContentHash,
    /// The number that the new attempt continues.
    pub(crate) restored: CheckpointId,
    pub(crate) placements: BTreeMap<TaskId, NodeId>,
    /// Splits and positions of a source task.
    pub(crate) splits: BTreeMap<u32, u64>,
    /// Keyed files of an aggregating task.
    pub(crate) keyed: Vec<KeyedFile>,
    pub(crate) files: BTreeMap<RelativePath, FileEntry>,
    /// The slots of the task and the marker offset to start from.
    pub(crate) slots: BTreeMap<SlotKey, u64>,
    pub(crate) inputs: Vec<TaskId>,
    pub(crate) outputs: Vec<TaskId>,
}

#[derive(Clone, Debug)]
pub(crate) enum ToTask {
    Deploy(Box<Deployment>),
    StartSession(Box<SlotDuty>),
    VerifyAll,
    OpenAll,
    Release,
    /// A new leader introduces itself.
    Hello,
    Expect,
    Barrier(CheckpointBarrier),
    Decline(CheckpointId),
    Commit(SlotKey, CheckpointId),
    Completed(CheckpointId),
    Says(SlotKey, Authority),
    WriteVoid(SlotKey, CheckpointId),
    Assign {
        split: u32,
        position: u64,
    },
    ResumeSources,
    Cancel,
}

#[derive(Clone, Debug)]
pub(crate) enum FromTask {
    Acked(CheckpointId, Box<TaskSnapshot>),
    Refused(CheckpointId, String),
    Confirmed(SlotKey, u64),
    Void(SlotKey),
    Examined(SlotKey, Option<MarkerKind>),
    Ask(SlotKey),
    Verified,
    Opened,
    Failed { damaged: bool },
    Stopped(NamedStop),
}

/// What a worker says of one task, again and again.
#[derive(Clone, Debug)]
pub(crate) struct TaskReport {
    pub(crate) report: AttemptReport,
    /// Failed, and whether by damaged state.
    pub(crate) failed: Option<bool>,
    pub(crate) verified: bool,
    pub(crate) opened: bool,
    pub(crate) ended: bool,
    pub(crate) finished: Option<Box<TaskSnapshot>>,
    pub(crate) passed: Option<CheckpointId>,
    pub(crate) voided: Vec<SlotKey>,
}

/// A stream element on its way between two tasks.
#[derive(Clone, Debug)]
pub(crate) enum Element {
    Records(Vec<InRecord>),
    Watermark(i64),
    Barrier(CheckpointBarrier),
    End,
}

#[derive(Clone, Debug)]
pub(crate) enum Message {
    ToTask {
        epoch: Epoch,
        attempt: AttemptId,
        task: TaskId,
        body: ToTask,
    },
    FromTask {
        task: TaskId,
        attempt: AttemptId,
        body: FromTask,
    },
    Heartbeat {
        tasks: Vec<TaskReport>,
    },
    /// The connection of a channel broke: what it carried may be lost.
    Broken {
        to: TaskId,
        attempt: AttemptId,
    },
    Data {
        from: TaskId,
        to: TaskId,
        attempt: AttemptId,
        sequence: u64,
        element: Element,
    },
}

/// What woke a node; names the request that it answers.
#[derive(Clone, Debug)]
pub(crate) enum Wake {
    Start,
    Tick,
    Message { from: NodeId, message: Box<Message> },
    Store { tag: Tag, answer: StoreAnswer },
    Kafka { tag: Tag, answer: KafkaAnswer },
    Timeout { tag: Tag },
}

/// Tells the answers of a node's requests apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag {
    pub(crate) token: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Head,
    HeadPut,
    HeadRead,
    Authority(u64),
    List,
    Manifest,
    ManifestPut(u64),
    Free(SlotKey),
    Gc,
    GcHead,
    GcManifest,
    Orphans,
    Export,
    Savepoint,
    Take,
    TargetManifest,
    StateFile(TaskId),
    StateRead(TaskId),
    Slot(TaskId, SlotKey),
    SlotLog(TaskId, SlotKey),
}

/// What a node wants the world to do.
#[derive(Clone, Debug)]
pub(crate) enum Out {
    Send {
        to: NodeId,
        message: Box<Message>,
    },
    Store {
        tag: Tag,
        op: StoreOp,
    },
    Kafka {
        tag: Tag,
        op: KafkaOp,
    },
    /// Wakes the node with a timeout for `tag`.
    Timer {
        after: Micros,
        tag: Tag,
    },
}

/// What the user wants at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) parallelism: u32,
    pub(crate) running: bool,
    /// The request that is open: its number, whether it stops the job, whether it drains.
    pub(crate) request: Option<(u64, bool, bool)>,
    /// The folder of the savepoint that the job is to go back to, once.
    pub(crate) savepoint: Option<String>,
    /// The epoch of the end that the user wants the job to go on after.
    pub(crate) goes_past: Option<Epoch>,
}

/// How the job ended, as far as its leaders say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    Running,
    Finished,
    Stopped(NamedStop),
}

/// What all nodes see: the user's wishes, the lease, the outside world.
pub(crate) struct Shared {
    pub(crate) workload: Workload,
    pub(crate) desired: Desired,
    pub(crate) job: JobState,
    pub(crate) lease: Option<(NodeId, Micros)>,
    pub(crate) coordinators: Vec<NodeId>,
    pub(crate) bounded: bool,
    /// Tasks of each source.
    pub(crate) readers: u32,
    pub(crate) retained: u32,
    pub(crate) spool_bytes: u64,
    pub(crate) txn_timeout: Micros,
    pub(crate) steps: StepPlan,
    pub(crate) savepoints: BTreeSet<String>,
    /// Savepoints that the store refused for long: whoever asked was told.
    pub(crate) not_copied: BTreeSet<String>,
    pub(crate) requests_done: u64,
    pub(crate) restores: u64,
    pub(crate) adoptions: u64,
    pub(crate) rebased: u64,
    pub(crate) unhealed: bool,
    pub(crate) trace: bool,
}

/// What happens to a process that reaches a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepFault {
    Kill,
    /// Performs what it is at, then stands still.
    Pause(Micros),
    /// Stands still right before what it is at.
    Freeze(Micros),
}

/// Which steps stop a process, and how often each was reached.
#[derive(Default)]
pub(crate) struct StepPlan {
    pub(crate) planned: BTreeMap<(Step, u64), StepFault>,
    /// A worker freezes for this long on its way into its next session.
    pub(crate) session: Option<Micros>,
    pub(crate) reached: BTreeMap<Step, u64>,
    pub(crate) stopped: BTreeMap<Step, u64>,
}

/// The context of one handler call.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Micros,
    pub(crate) node: NodeId,
    pub(crate) shared: &'a mut Shared,
    pub(crate) rng: &'a mut Rng,
    pub(crate) outs: Vec<Out>,
    pub(crate) stopped: Option<StepFault>,
    pub(crate) violations: Vec<String>,
    /// The end of the job that this call tells, and the epoch that it is of.
    pub(crate) ended: Option<(Epoch, JobEnd)>,
}

impl StepPlan {
    /// Whether any process may still freeze.
    pub(crate) fn freezes(&self) -> bool {
        let mut planned = self.planned.values();
        planned.any(|fault| matches!(fault, StepFault::Freeze(_)))
    }
}

impl Shared {
    /// What a handler may change: kept for a process that freezes before its act.
    pub(crate) fn wishes(&self) -> Wishes {
        (self.desired.clone(), self.job.clone(), self.lease)
    }

    pub(crate) fn wish(&mut self, wishes: Wishes) {
        (self.desired, self.job, self.lease) = wishes;
    }
}

type Wishes = (Desired, JobState, Option<(NodeId, Micros)>);

impl<'a> Ctx<'a> {
    pub(crate) fn new(now: Micros, node: NodeId, shared: &'a mut Shared, rng: &'a mut Rng) -> Self {
        let (outs, violations) = (Vec::new(), Vec::new());
        Self {
            now,
            node,
            shared,
            rng,
            outs,
            stopped: None,
            violations,
            ended: None,
        }
    }
}

impl Ctx<'_> {
    /// Announces a protocol step. `true` = the process goes on.
    pub(crate) fn reached(&mut self, step: Step) -> bool {
        if self.is_dead() {
            return false;
        }
        let plan = &mut self.shared.steps;
        let count = plan.reached.entry(step).or_default();
        *count += 1;
        if let Some(fault) = plan.planned.get(&(step, *count)) {
            *plan.stopped.entry(step).or_default() += 1;
            self.stopped = Some(*fault);
        }
        !self.is_dead()
    }

    /// Whether nothing more of this call counts.
    pub(crate) const fn is_dead(&self) -> bool {
        matches!(self.stopped, Some(StepFault::Kill | StepFault::Freeze(_)))
    }

    /// A worker is about to open a session that decides about output.
    pub(crate) fn enters_session(&mut self) -> bool {
        if let Some(length) = self.shared.steps.session.take() {
            self.stopped = Some(StepFault::Freeze(length));
        }
        self.reached(Step::R3)
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        self.push(Out::Send {
            to,
            message: Box::new(message),
        });
    }

    pub(crate) fn push(&mut self, out: Out) {
        if !self.is_dead() {
            self.outs.push(out);
        }
    }

    pub(crate) fn store(&mut self, tag: Tag, op: StoreOp) {
        self.push(Out::Store { tag, op });
    }

    pub(crate) fn kafka(&mut self, tag: Tag, op: KafkaOp) {
        self.push(Out::Kafka { tag, op });
    }

    pub(crate) fn timer(&mut self, after: Micros, tag: Tag) {
        self.push(Out::Timer { after, tag });
    }

    pub(crate) fn trace(&self, text: impl FnOnce() -> String) {
        if self.shared.trace {
            crate::report::line(&format!("{:>9} n{} {}", self.now, self.node, text()));
        }
    }
}
