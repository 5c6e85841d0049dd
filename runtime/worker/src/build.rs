//! Builds the tasks of an attempt: channels on the worker's thread, chains on the slot threads.
//!
//! Subtask `i` of every task goes to the same slot, so a slot holds one subtask of each task: a whole slice of the pipeline. An edge
//! to a subtask that another worker runs ends in a link. Channel ends are made first and travel to the slot that uses them; everything else is made where it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_api::JobProgram;
use highwater_api::code::{ErasedEnd, ErasedOutputs, ErasedPush, NodeCode, Sending};
use highwater_connectors::{Split, WakeHandle, WriterContext};
use highwater_exchange::remote::{ChannelIndex, Compression, InboundPort, OutboundPort};
use highwater_graph::{EdgeId, JobVertex, NodeId, OutputName, Partitioning};
use highwater_network::Bell;
use highwater_operators::{
    OnUnmatched, OperatorContext, OperatorError, RestoredOperator, TaskClock,
};
use highwater_protocol::alignment::Alignment;
use highwater_protocol::job::TaskId;
use highwater_protocol::recovery::UnmatchedState;
use highwater_protocol::stop::SlotKey;
use highwater_state::{MemoryBudget, Store};
use highwater_time::StatusValve;
use highwater_types::{
    Classified, JobIdentity, Lineage, OperatorUid, Parallelism, SubtaskIndex, WorkerIndex,
};

use crate::messages::{FailureReport, OperatorSubtask, Standing};
use crate::sink::SinkMailbox;
use crate::slot::{SlotTask, error_chain};
use crate::task::{Task, TaskInput, TaskLetter};
use crate::worker::StopHook;

/// What every subtask of an attempt shares. Moves to each slot thread.
#[derive(Clone)]
pub struct SliceContext {
    /// The program.
    pub program: JobProgram,
    /// The job.
    pub job: JobIdentity,
    /// The lineage.
    pub lineage: Lineage,
    /// The runtime at the rim.
    pub rim: tokio::runtime::Handle,
    /// Wakes the slot thread.
    pub wake: WakeHandle,
    /// The byte budget of keyed state, which all slots of the worker share.
    pub budget: MemoryBudget,
    /// Where keyed state rests.
    pub store: Store,
    /// Whether state is restored rather than begun.
    pub is_restored: bool,
    /// What happens to stored state that its operator does not open any more.
    pub unmatched: UnmatchedState,
    /// The mailbox of every sink slot of the worker.
    pub sinks: Arc<BTreeMap<SlotKey, SinkMailbox>>,
    /// Told of each protocol step right before it is performed.
    pub stop: StopHook,
}

/// What one subtask of one task is built from.
pub struct SubtaskParts {
    /// The task.
    pub vertex: JobVertex,
    /// The subtask.
    pub subtask: SubtaskIndex,
    /// Receiving ends of all input edges.
    pub receivers: Vec<ErasedEnd>,
    /// Sending ends of each output edge.
    pub senders: BTreeMap<EdgeId, Vec<ErasedEnd>>,
    /// Restored state of each operator.
    pub states: BTreeMap<OperatorUid, RestoredOperator>,
    /// Splits of a source.
    pub splits: Vec<Split>,
    /// Whether a source gets no further split.
    pub complete: bool,
}

/// The name of a task for the protocol: its first operator and subtask.
pub fn task_id(program: &JobProgram, vertex: &JobVertex, subtask: SubtaskIndex) -> TaskId {
    TaskId {
        vertex: program.plan().uid(vertex.head).clone(),
        subtask,
    }
}

/// The links of an attempt on one worker, to be connected.
#[derive(Default)]
pub struct Links {
    /// Those that send, by receiving worker.
    pub sending: BTreeMap<WorkerIndex, Ports<OutboundPort>>,
    /// Those that receive, by sending worker.
    pub receiving: BTreeMap<WorkerIndex, Ports<InboundPort>>,
}

/// The channels of one link, in the order in which both sides count them.
pub struct Ports<P> {
    /// Rung by their ends.
    pub bell: Arc<Bell>,
    /// Their ports.
    pub ports: Vec<P>,
}

/// One channel of an edge between two tasks.
struct Crossing<'a> {
    edge: EdgeId,
    from: (&'a JobVertex, SubtaskIndex),
    to: (&'a JobVertex, SubtaskIndex),
}

/// Every channel of the job, in an order that is the same on all workers.
fn crossings(program: &JobProgram) -> Vec<Crossing<'_>> {
    let plan = program.plan();
    let mut all = Vec::new();
    let edges = plan.graph.edges().iter();
    for edge in edges.filter(|edge| !plan.job.is_chained(edge.id)) {
        let from = plan.job.vertex(plan.job.vertex_of(edge.from));
        let to = plan.job.vertex(plan.job.vertex_of(edge.to));
        for sender in (0..from.parallelism.0).map(SubtaskIndex) {
            for receiver in receivers_of(&edge.partitioning, sender, to.parallelism) {
                all.push(Crossing {
                    edge: edge.id,
                    from: (from, sender),
                    to: (to, receiver),
                });
            }
        }
    }
    all
}

impl Links {
    /// The links with bells for their channels, and no channel yet.
    fn of(crossings: &[Crossing<'_>], standing: &Standing) -> Self {
        let (mut sending, mut receiving) = (BTreeMap::new(), BTreeMap::new());
        for crossing in crossings {
            match (
                standing.other_of(crossing.from.1),
                standing.other_of(crossing.to.1),
            ) {
                (None, Some(to)) => *sending.entry(to).or_insert(0) += 1,
                (Some(from), None) => *receiving.entry(from).or_insert(0) += 1,
                _ => {}
            }
        }
        Self {
            sending: sending.into_iter().map(Ports::without_any).collect(),
            receiving: receiving.into_iter().map(Ports::without_any).collect(),
        }
    }
}

impl<P> Ports<P> {
    fn without_any((worker, channels): (WorkerIndex, usize)) -> (WorkerIndex, Self) {
        let ports = Self {
            bell: Arc::new(Bell::new(channels)),
            ports: Vec::with_capacity(channels),
        };
        (worker, ports)
    }

    /// The index and the bell of the next channel.
    fn next(&self) -> (ChannelIndex, Arc<Bell>) {
        (
            ChannelIndex(self.ports.len() as u32),
            Arc::clone(&self.bell),
        )
    }
}

/// Makes the channels of every edge between two tasks and deals out the ends of those that run here.
pub fn wire(
    program: &JobProgram,
    (standing, compression): (&Standing, Compression),
    wake_of: impl Fn(SubtaskIndex) -> WakeHandle,
) -> (BTreeMap<TaskId, SubtaskParts>, Links) {
    let plan = program.plan();
    let mut parts = BTreeMap::new();
    for vertex in plan.job.vertices() {
        let subtasks = (0..vertex.parallelism.0).map(SubtaskIndex);
        for subtask in subtasks.filter(|subtask| standing.other_of(*subtask).is_none()) {
            let part = SubtaskParts {
                vertex: vertex.clone(),
                subtask,
                receivers: Vec::new(),
                senders: BTreeMap::new(),
                states: BTreeMap::new(),
                splits: Vec::new(),
                complete: false,
            };
            parts.insert(task_id(program, vertex, subtask), part);
        }
    }
    let crossings = crossings(program);
    let mut links = Links::of(&crossings, standing);
    for Crossing { edge, from, to } in crossings {
        let of = program.edge_type(edge);
        let (sending, receiving) = match (standing.other_of(from.1), standing.other_of(to.1)) {
            (None, None) => {
                let (sending, receiving) = of.channel(wake_of(from.1), wake_of(to.1));
                (Some(sending), Some(receiving))
            }
            (None, Some(worker)) => {
                let Some(link) = links.sending.get_mut(&worker) else {
                    continue;
                };
                let (channel, bell) = link.next();
                let (end, port) = of.outbound(channel, bell, wake_of(from.1), compression);
                link.ports.push(port);
                (Some(end), None)
            }
            (Some(worker), None) => {
                let Some(link) = links.receiving.get_mut(&worker) else {
                    continue;
                };
                let (channel, bell) = link.next();
                let (end, port) = of.inbound(channel, bell, wake_of(to.1));
                link.ports.push(port);
                (None, Some(end))
            }
            (Some(_), Some(_)) => (None, None),
        };
        if let Some(part) = parts.get_mut(&task_id(program, from.0, from.1)) {
            part.senders.entry(edge).or_default().extend(sending);
        }
        if let Some(part) = parts.get_mut(&task_id(program, to.0, to.1)) {
            part.receivers.extend(receiving);
        }
    }
    (parts, links)
}

fn receivers_of(
    partitioning: &Partitioning,
    sender: SubtaskIndex,
    parallelism: Parallelism,
) -> Vec<SubtaskIndex> {
    match partitioning {
        Partitioning::Forward => vec![sender],
        _ => (0..parallelism.0).map(SubtaskIndex).collect(),
    }
}

/// Builds one subtask on its slot thread.
pub fn build(
    context: &SliceContext,
    mut parts: SubtaskParts,
    clock: &TaskClock,
) -> Result<SlotTask, FailureReport> {
    let plan = context.program.plan();
    let name = plan.task_name(parts.vertex.id);
    let (key, subtask) = (
        task_id(&context.program, &parts.vertex, parts.subtask),
        parts.subtask,
    );
    let mut builder = ChainBuilder {
        context,
        parts: &mut parts,
        clock,
    };
    let task = builder.task().map_err(|error| {
        FailureReport::of(&name, error.kind(), error_chain(&error)).in_subtask(subtask)
    })?;
    Ok(SlotTask { key, name, task })
}

struct ChainBuilder<'a> {
    context: &'a SliceContext,
    parts: &'a mut SubtaskParts,
    clock: &'a TaskClock,
}

impl ChainBuilder<'_> {
    fn task(&mut self) -> Result<Task, OperatorError> {
        let head = self.parts.vertex.head;
        if let NodeCode::Source(code) = self.context.program.node(head).clone() {
            let operator = self.operator_context(head);
            let outputs = self.outputs(head)?;
            let input = TaskInput::Source(code.input(&operator, outputs)?);
            let mut task = Task::new(input, Arc::clone(&self.context.stop));
            let splits = std::mem::take(&mut self.parts.splits);
            task.letter(TaskLetter::Assign {
                splits,
                complete: self.parts.complete,
            })?;
            return Ok(task);
        }
        let push = self.push(head)?;
        let receivers = std::mem::take(&mut self.parts.receivers);
        let channels = receivers.len();
        let Some(edge) = self.parts.vertex.inputs.first() else {
            unreachable!("a task that is no source has an input")
        };
        let gate = self.context.program.edge_type(*edge).gate(receivers, push);
        let input = TaskInput::Gate {
            gate,
            valve: StatusValve::new(channels),
            alignment: Alignment::new(channels as u32),
        };
        Ok(Task::new(input, Arc::clone(&self.context.stop)))
    }

    /// Each state that is dropped is told by name, once for each subtask that held some of it.
    fn unmatched(&self, uid: &OperatorUid) -> OnUnmatched {
        if self.context.unmatched == UnmatchedState::Refuse {
            return OnUnmatched::Refuse;
        }
        let (operator, subtask) = (uid.clone(), self.parts.subtask.0);
        OnUnmatched::Drop(Arc::new(move |state, rows| {
            tracing::warn!(
                %operator, state, subtask, rows,
                "stored state is dropped: its operator does not open it any more, and `allow-unmatched-state` says so"
            );
        }))
    }

    fn operator_context(&mut self, node: NodeId) -> OperatorContext {
        let uid = self.context.program.plan().uid(node).clone();
        let restored = self.parts.states.remove(&uid);
        let unmatched = self.unmatched(&uid);
        OperatorContext {
            job: self.context.job.clone(),
            uid,
            subtask: self.parts.subtask,
            parallelism: self.parts.vertex.parallelism,
            max_parallelism: self.parts.vertex.max_parallelism,
            clock: self.clock.clone(),
            wake: self.context.wake.clone(),
            budget: self.context.budget.clone(),
            store: self.context.store.clone(),
            rim: self.context.rim.clone(),
            restored: self
                .context
                .is_restored
                .then(|| restored.unwrap_or_default()),
            unmatched,
        }
    }

    /// The piece of chain that begins with `node`.
    fn push(&mut self, node: NodeId) -> Result<ErasedPush, OperatorError> {
        let operator = self.operator_context(node);
        match self.context.program.node(node).clone() {
            NodeCode::Operator(code) => {
                let outputs = self.outputs(node)?;
                code(&operator, outputs)
            }
            NodeCode::Sink(code) => {
                let writer = self.writer_context(&operator);
                let slot = SlotKey {
                    sink: operator.uid.clone(),
                    slot: self.parts.subtask.0,
                };
                let mailbox = self.context.sinks.get(&slot);
                let queue = mailbox.map(|mailbox| mailbox.queue(self.context.wake.clone()));
                code.operator(&operator, &writer, queue)
            }
            NodeCode::Source(_) => unreachable!("a source has no input edge"),
        }
    }

    fn writer_context(&self, operator: &OperatorContext) -> WriterContext {
        WriterContext {
            job: operator.job.clone(),
            lineage: self.context.lineage,
            uid: operator.uid.clone(),
            subtask: operator.subtask,
            parallelism: operator.parallelism,
        }
    }

    fn outputs(&mut self, node: NodeId) -> Result<ErasedOutputs, OperatorError> {
        let program = self.context.program.clone();
        let mut outputs = ErasedOutputs::default();
        let edges: Vec<_> = program.plan().graph.outputs(node).cloned().collect();
        for edge in edges {
            let piece = if program.plan().job.is_chained(edge.id) {
                self.push(edge.to)?
            } else {
                self.writer(edge.id, edge.to)
            };
            match edge.output {
                OutputName::Main => outputs.main.push(piece),
                OutputName::Side(tag) => {
                    let known = outputs.sides.iter_mut().find(|(known, ..)| *known == tag);
                    if let Some((_, _, pieces)) = known {
                        pieces.push(piece);
                    } else {
                        let of = Arc::clone(program.edge_type(edge.id));
                        outputs.sides.push((tag, of, vec![piece]));
                    }
                }
            }
        }
        Ok(outputs)
    }

    fn writer(&mut self, edge: EdgeId, to: NodeId) -> ErasedPush {
        let plan = self.context.program.plan();
        let receiver = plan.job.vertex(plan.job.vertex_of(to));
        let sending = Sending {
            subtask: self.parts.subtask,
            max_parallelism: receiver.max_parallelism,
        };
        let senders = self.parts.senders.remove(&edge).unwrap_or_default();
        self.context
            .program
            .edge(edge)
            .writer(plan.uid(to).as_str(), senders, sending)
    }
}

/// All operator subtasks of a task, for restoring.
pub fn operators_of(parts: &SubtaskParts, program: &JobProgram) -> Vec<OperatorSubtask> {
    let nodes = parts.vertex.nodes.iter();
    nodes
        .map(|node| OperatorSubtask {
            uid: program.plan().uid(*node).clone(),
            subtask: parts.subtask,
        })
        .collect()
}
