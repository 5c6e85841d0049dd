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
use highwater_protocol::rescale::Rescaled;
use highwater_protocol::sink_slot::MarkerKind;
use highwater_protocol::steps::Step;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{AttemptId, CheckpointBarrier, CheckpointId, Epoch, Lineage};

use crate::job::Scale;
use crate::kafka::{KafkaAnswer, KafkaOp};
use crate::rng::Rng;
use crate::store::{StoreAnswer, StoreOp};
use crate::workload::{InRecord, KeyState, Workload};

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
    /// The barrier behind which a source reads nothing: of a stop or a redeployment.
    pub(crate) stands_behind: Option<CheckpointId>,
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
    /// How wide the job runs by program and settings.
    pub(crate) configured: Scale,
    pub(crate) running: bool,
    /// The request that is open: its number, whether it stops the job, whether it drains.
    pub(crate) request: Option<(u64, bool, bool)>,
    /// The rescale that is open: its number, and how wide the job is to run.
    pub(crate) rescale: Option<(u64, Scale)>,
    /// Workers that were told to end, each with the number under which its tasks are moved away first.
    pub(crate) leaving: BTreeMap<NodeId, u64>,
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
    /// Redeployments behind which tasks run again.
    pub(crate) redeployments: u64,
    /// The rescales among them, as their users heard.
    pub(crate) rescales: u64,
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
    /// What happens at which step after a redeployment is asked for: the step is counted from 1, whoever reaches it.
    pub(crate) redeploying: Option<(u64, StepFault)>,
    /// The same since one was asked for: how many steps are left.
    pub(crate) armed: Option<(u64, StepFault)>,
    pub(crate) reached: BTreeMap<Step, u64>,
    pub(crate) stopped: BTreeMap<Step, u64>,
}

/// What a process has done, for the oracles.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// What the leader of an epoch has done.
    Leader(Epoch, Act),
    Restored(Box<Restored>),
}

/// What a leader does that concerns how wide the job runs.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// An attempt begins, or is gone on with.
    Begins { configured: Scale, scale: Scale },
    /// Asks its machine for a rescale.
    Asks(u64, Rescaled),
    /// Tells the user that a rescale has failed: its checkpoint was refused or given up.
    Refuses(u64),
    /// Ends the attempt behind a checkpoint.
    Redeploys(CheckpointId),
    /// Tells the user that the job runs so wide.
    Answers(u64, Scale),
}

/// What an aggregating task goes on with.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    pub(crate) from: CheckpointId,
    pub(crate) subtask: u32,
    pub(crate) parallelism: u32,
    pub(crate) states: BTreeMap<u32, KeyState>,
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
    pub(crate) facts: Vec<Fact>,
    /// The end of the job that this call tells, and the epoch that it is of.
    pub(crate) ended: Option<(Epoch, JobEnd)>,
}

impl StepPlan {
    /// Whether any process may still freeze.
    pub(crate) fn freezes(&self) -> bool {
        let later = self.redeploying.iter().chain(&self.armed);
        let later = later.map(|(_, fault)| fault);
        let mut planned = self.planned.values().chain(later);
        planned.any(|fault| matches!(fault, StepFault::Freeze(_)))
    }

    /// A redeployment is asked for: steps are counted from here on.
    pub(crate) fn arm(&mut self) {
        if self.armed.is_none() {
            self.armed = self.redeploying.take();
        }
    }

    /// What happens to the process that reaches a step for the `count`-th time.
    fn fault_at(&mut self, step: Step, count: u64) -> Option<StepFault> {
        let planned = self.planned.get(&(step, count)).copied();
        let Some((left, fault)) = self.armed else {
            return planned;
        };
        self.armed = (left > 1).then_some((left - 1, fault));
        planned.or_else(|| (left <= 1).then_some(fault))
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
            facts: Vec::new(),
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
        let count = *count;
        if let Some(fault) = plan.fault_at(step, count) {
            *plan.stopped.entry(step).or_default() += 1;
            self.stopped = Some(fault);
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

    pub(crate) fn fact(&mut self, fact: Fact) {
        if !self.is_dead() {
            self.facts.push(fact);
        }
    }

    pub(crate) fn trace(&self, text: impl FnOnce() -> String) {
        if self.shared.trace {
            crate::report::line(&format!("{:>9} n{} {}", self.now, self.node, text()));
        }
    }
}
