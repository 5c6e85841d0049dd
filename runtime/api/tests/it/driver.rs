//! Runs a compiled job by hand, on one thread: tasks are built from the program's erased code as a worker builds them,
//! joined by real channels, and stepped in turn until all have ended. No checkpoints and no clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_api::JobProgram;
use highwater_api::code::{ErasedEnd, ErasedOutputs, ErasedPush, NodeCode, Sending};
use highwater_connectors::{
    Marker, MarkerKind, OutputBatch, OutputTarget, WakeHandle, WriterContext,
};
use highwater_exchange::{InputGate, Step};
use highwater_graph::{EdgeId, JobVertex, NodeId, OutputName, Partitioning};
use highwater_operators::{
    Downstream, OperatorContext, OperatorError, OutputQueue, Progress, SourceInput, SourcePoll,
    TaskClock,
};
use highwater_state::{MemoryBudget, Store};
use highwater_time::{SourceSignal, StatusValve, ValveOutput};
use highwater_types::{CheckpointBarrier, JobIdentity, Lineage, SubtaskIndex, Watermark};

/// Rounds without which every test here must have ended: a hang is a failure with a message.
const ROUNDS_MAX: usize = 100_000;

/// Where a task takes its records from.
enum Input {
    Source(Box<dyn SourceInput>),
    Gate(Box<dyn InputGate>, StatusValve),
}

struct Task {
    input: Input,
    ended: bool,
}

/// The ends of the channels of one subtask.
#[derive(Default)]
struct Ends {
    receivers: Vec<ErasedEnd>,
    senders: BTreeMap<EdgeId, Vec<ErasedEnd>>,
}

type AllEnds = BTreeMap<(usize, u32), Ends>;

/// Runs a bounded job to its end.
pub(crate) fn run(program: &JobProgram) {
    let rim = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut ends = channels(program);
    let mut tasks = Vec::new();
    for vertex in program.plan().job.vertices() {
        for subtask in 0..vertex.parallelism.0 {
            let ends = ends.remove(&(vertex.id.0, subtask)).unwrap_or_default();
            let subtask = SubtaskIndex(subtask);
            let rim = rim.handle().clone();
            tasks.push(
                Chain {
                    program,
                    vertex,
                    subtask,
                    rim,
                    ends,
                }
                .task(),
            );
        }
    }
    for _ in 0..ROUNDS_MAX {
        tasks.iter_mut().for_each(Task::round);
        // Lets lookups on the rim go on.
        rim.block_on(tokio::task::yield_now());
        if tasks.iter().all(|task| task.ended) {
            return;
        }
    }
    panic!("the job has not ended after {ROUNDS_MAX} rounds");
}

fn silent() -> WakeHandle {
    WakeHandle::new(|| {})
}

fn channels(program: &JobProgram) -> AllEnds {
    let plan = program.plan();
    let mut all = AllEnds::new();
    let between = plan
        .graph
        .edges()
        .iter()
        .filter(|edge| !plan.job.is_chained(edge.id));
    for edge in between {
        let from = plan.job.vertex(plan.job.vertex_of(edge.from));
        let to = plan.job.vertex(plan.job.vertex_of(edge.to));
        for sender in 0..from.parallelism.0 {
            let receivers = match edge.partitioning {
                Partitioning::Forward => sender..sender + 1,
                _ => 0..to.parallelism.0,
            };
            for receiver in receivers {
                let (sending, receiving) = program.edge_type(edge.id).channel(silent(), silent());
                let ends = all.entry((from.id.0, sender)).or_default();
                ends.senders.entry(edge.id).or_default().push(sending);
                all.entry((to.id.0, receiver))
                    .or_default()
                    .receivers
                    .push(receiving);
            }
        }
    }
    all
}

/// Builds the chain of one subtask.
struct Chain<'a> {
    program: &'a JobProgram,
    vertex: &'a JobVertex,
    subtask: SubtaskIndex,
    rim: tokio::runtime::Handle,
    ends: Ends,
}

impl Chain<'_> {
    fn task(mut self) -> Task {
        let head = self.vertex.head;
        let input = if let NodeCode::Source(code) = self.program.node(head).clone() {
            let outputs = self.outputs(head);
            let mut source = code.input(&self.context(head), outputs).unwrap();
            // Subtask 0 reads everything.
            if self.subtask == SubtaskIndex(0) {
                let found = code.enumerator().unwrap().discover().unwrap();
                source.add_splits(found.splits).unwrap();
            }
            source.no_more_splits();
            Input::Source(source)
        } else {
            let push = self.push(head);
            let receivers = std::mem::take(&mut self.ends.receivers);
            let valve = StatusValve::new(receivers.len());
            let of = self.program.edge_type(self.vertex.inputs[0]);
            Input::Gate(of.gate(receivers, push), valve)
        };
        Task {
            input,
            ended: false,
        }
    }

    fn context(&self, node: NodeId) -> OperatorContext {
        OperatorContext {
            job: JobIdentity::parse("by-hand").unwrap(),
            uid: self.program.plan().uid(node).clone(),
            subtask: self.subtask,
            parallelism: self.vertex.parallelism,
            max_parallelism: self.vertex.max_parallelism,
            clock: TaskClock::default(),
            wake: silent(),
            budget: MemoryBudget::unlimited(),
            store: Store::heap(),
            rim: self.rim.clone(),
            restored: None,
            unmatched: highwater_operators::OnUnmatched::Refuse,
        }
    }

    fn push(&mut self, node: NodeId) -> ErasedPush {
        let context = self.context(node);
        match self.program.node(node).clone() {
            NodeCode::Operator(code) => {
                let outputs = self.outputs(node);
                code(&context, outputs).unwrap()
            }
            NodeCode::Sink(code) => {
                let writer = WriterContext {
                    job: context.job.clone(),
                    lineage: Lineage(1),
                    uid: context.uid.clone(),
                    subtask: context.subtask,
                    parallelism: context.parallelism,
                };
                let target = code.target(&writer).unwrap();
                let queue = target.map(|mut target| -> Box<dyn OutputQueue> {
                    target.open_session().unwrap();
                    Box::new(Committed { target, number: 0 })
                });
                code.operator(&context, &writer, queue).unwrap()
            }
            NodeCode::Source(_) => unreachable!("a source has no input"),
        }
    }

    fn outputs(&mut self, node: NodeId) -> ErasedOutputs {
        let plan = self.program.plan();
        let mut outputs = ErasedOutputs::default();
        for edge in plan.graph.outputs(node) {
            let piece = if plan.job.is_chained(edge.id) {
                self.push(edge.to)
            } else {
                self.writer(edge.id, edge.to)
            };
            match &edge.output {
                OutputName::Main => outputs.main.push(piece),
                OutputName::Side(tag) => {
                    let known = outputs.sides.iter_mut().find(|(known, ..)| known == tag);
                    if let Some((.., pieces)) = known {
                        pieces.push(piece);
                    } else {
                        let of = Arc::clone(self.program.edge_type(edge.id));
                        outputs.sides.push((tag.clone(), of, vec![piece]));
                    }
                }
            }
        }
        outputs
    }

    fn writer(&mut self, edge: EdgeId, to: NodeId) -> ErasedPush {
        let plan = self.program.plan();
        let max_parallelism = plan.job.vertex(plan.job.vertex_of(to)).max_parallelism;
        let sending = Sending {
            subtask: self.subtask,
            max_parallelism,
        };
        let senders = self.ends.senders.remove(&edge).unwrap_or_default();
        self.program
            .edge(edge)
            .writer(plan.uid(to).as_str(), senders, sending)
    }
}

/// A queue that commits every batch as an output of its own.
struct Committed {
    target: Box<dyn OutputTarget>,
    number: u64,
}

impl OutputQueue for Committed {
    fn offer(&mut self, batch: &mut OutputBatch) -> Result<(), OperatorError> {
        self.number += 1;
        self.target.begin().unwrap();
        self.target.send(batch).unwrap();
        let (number, kind) = (self.number, MarkerKind::Output);
        self.target
            .commit(Marker {
                number,
                kind,
                epoch: 1,
                attempt: 1,
            })
            .unwrap();
        batch.clear();
        Ok(())
    }

    fn barrier(&mut self, _: &CheckpointBarrier) -> Result<(), OperatorError> {
        Ok(())
    }

    fn is_full(&self) -> bool {
        false
    }
}

impl Task {
    fn head(&mut self) -> &mut dyn Downstream {
        match &mut self.input {
            Input::Source(source) => source.head(),
            Input::Gate(gate, _) => gate.head(),
        }
    }

    /// Gives turns until a call is done.
    fn finish(&mut self, mut progress: Progress) {
        while progress != Progress::Done {
            progress = self.head().turn().unwrap();
        }
    }

    fn watermark(&mut self, watermark: Watermark) {
        let progress = self.head().watermark(watermark).unwrap();
        self.finish(progress);
    }

    fn end(&mut self) {
        self.watermark(Watermark::MAX);
        let progress = self.head().end().unwrap();
        self.finish(progress);
        self.ended = true;
    }

    fn round(&mut self) {
        if !self.ended {
            match self.input {
                Input::Source(_) => self.poll(),
                Input::Gate(..) => self.step(),
            }
        }
        let progress = self.head().turn().unwrap();
        self.finish(progress);
    }

    fn poll(&mut self) {
        let Input::Source(source) = &mut self.input else {
            return;
        };
        let polled = source.poll().unwrap();
        for signal in source.signals(false) {
            match signal {
                SourceSignal::Watermark(watermark) => self.watermark(watermark),
                SourceSignal::Status(status) => self.head().status(status).unwrap(),
            }
        }
        if polled == SourcePoll::EndOfInput {
            self.end();
        }
    }

    fn step(&mut self) {
        let Input::Gate(gate, valve) = &mut self.input else {
            return;
        };
        let (news, all_ended) = match gate.step().unwrap() {
            Step::Watermark(channel, watermark) => (valve.watermark(channel, watermark), false),
            Step::Status(channel, status) => (valve.status(channel, status), false),
            Step::End(channel) => valve.end(channel),
            Step::Nothing | Step::NoRoom | Step::Records(_) => (Vec::new(), false),
            Step::Barrier(..) => unreachable!("there are no checkpoints"),
        };
        for item in news {
            match item {
                ValveOutput::Watermark(watermark) => self.watermark(watermark),
                ValveOutput::Status(status) => self.head().status(status).unwrap(),
            }
        }
        if all_ended {
            self.end();
        }
    }
}
