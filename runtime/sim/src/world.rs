//! The world: one event heap, nodes, network, store and broker, all driven from one seed.
//!
//! Called by `run`. Everything that happens is an event with a time; equal times are ordered by their creation. The
//! world knows no protocol: it delivers, loses, delays and repeats, kills, pauses and heals.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use highwater_protocol::hash::ContentHash;
use highwater_types::CheckpointId;

use crate::coordinator::Coordinator;
use crate::job::{Scale, paths};
use crate::kafka::{KafkaAnswer, KafkaOp, SimKafka};
use crate::node::{
    Ctx, Desired, JobState, Message, Micros, NodeId, Out, Shared, StepFault, StepPlan, Tag, Wake,
};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::store::{Handling, SimStore, StoreAnswer, StoreOp};
use crate::swarm::{Fault, HEAL, Returns, Swarm};
use crate::worker::Worker;
use crate::workload::Workload;

mod faults;

const TICK: Micros = 20_000;
const COORDINATORS: u32 = 2;
const FIRST_WORKER: NodeId = 10;

#[derive(Clone)]
enum Process {
    Coordinator(Box<Coordinator>),
    Worker(Box<Worker>),
}

struct Node {
    process: Option<Process>,
    incarnation: u64,
    paused_until: Micros,
    deferred: Vec<Wake>,
    rng: Rng,
}

enum Event {
    Wake {
        node: NodeId,
        incarnation: u64,
        wake: Wake,
    },
    Store {
        node: NodeId,
        incarnation: u64,
        tag: Tag,
        op: StoreOp,
    },
    StoreLate(StoreOp),
    Kafka {
        node: NodeId,
        incarnation: u64,
        tag: Tag,
        op: KafkaOp,
    },
    KafkaFinish(String),
    KafkaLate(KafkaOp),
    Restart(NodeId),
    Resume(NodeId),
    /// A worker that was told to end under this number waits no longer.
    Gone(NodeId, u64),
    Fault(Fault),
    Heal,
    StartAgain,
    Look,
}

struct Scheduled {
    at: (Micros, u64),
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) checkpoints: u64,
    pub(crate) events: u64,
    pub(crate) hash: u64,
    pub(crate) stopped_at: BTreeMap<highwater_protocol::steps::Step, u64>,
    pub(crate) reached: BTreeMap<highwater_protocol::steps::Step, u64>,
    pub(crate) restores: u64,
    pub(crate) adoptions: u64,
    pub(crate) rebased: u64,
    pub(crate) taken: u64,
    pub(crate) sharing: u64,
    pub(crate) requests: u64,
    pub(crate) redeployments: u64,
    pub(crate) rescales: u64,
    pub(crate) named_stop: bool,
}

pub(crate) struct World {
    seed: u64,
    now: Micros,
    created: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
    nodes: BTreeMap<NodeId, Node>,
    shared: Shared,
    store: SimStore,
    kafka: SimKafka,
    pub(crate) oracle: Oracle,
    swarm: Swarm,
    net_rng: Rng,
    store_rng: Rng,
    kafka_rng: Rng,
    last_delivery: BTreeMap<(NodeId, NodeId), Micros>,
    cut: BTreeMap<(NodeId, NodeId), Micros>,
    healed: Option<u64>,
    hash: u64,
    events: u64,
    over: bool,
}

impl World {
    pub(crate) fn new(seed: u64, swarm: Swarm, trace: bool) -> Self {
        let mut rng = Rng::fork(seed, 2);
        let workload = Workload::new(&mut rng, swarm.splits, swarm.records, swarm.late_split);
        let shared = Shared {
            workload,
            desired: Desired {
                configured: Scale {
                    parallelism: swarm.parallelism,
                    readers: swarm.readers,
                },
                running: true,
                request: None,
                rescale: None,
                leaving: BTreeMap::new(),
                savepoint: None,
                goes_past: None,
            },
            job: JobState::Running,
            lease: None,
            coordinators: (0..COORDINATORS).collect(),
            bounded: swarm.bounded,
            retained: swarm.retained,
            spool_bytes: swarm.spool_bytes,
            txn_timeout: swarm.txn_timeout,
            steps: StepPlan {
                planned: swarm.steps.clone(),
                session: swarm.session,
                redeploying: swarm.redeploying,
                ..StepPlan::default()
            },
            savepoints: BTreeSet::new(),
            not_copied: BTreeSet::new(),
            requests_done: 0,
            restores: 0,
            adoptions: 0,
            rebased: 0,
            redeployments: 0,
            rescales: 0,
            unhealed: true,
            trace,
        };
        let mut store = SimStore::default();
        store.faults = swarm.store.clone();
        let mut world = Self {
            seed,
            now: 0,
            created: 0,
            heap: BinaryHeap::new(),
            nodes: BTreeMap::new(),
            shared,
            store,
            kafka: SimKafka::new(5, swarm.txn_timeout),
            oracle: Oracle::new(swarm.retained),
            net_rng: Rng::fork(seed, 3),
            store_rng: Rng::fork(seed, 4),
            kafka_rng: Rng::fork(seed, 5),
            last_delivery: BTreeMap::new(),
            cut: BTreeMap::new(),
            healed: None,
            hash: seed,
            events: 0,
            over: false,
            swarm,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let ids = (0..COORDINATORS).chain((0..self.swarm.workers).map(|at| FIRST_WORKER + at));
        for id in ids.collect::<Vec<_>>() {
            let rng = Rng::fork(self.seed, 100 + u64::from(id));
            let node = Node {
                process: None,
                incarnation: 0,
                paused_until: 0,
                deferred: Vec::new(),
                rng,
            };
            self.nodes.insert(id, node);
            self.schedule(0, Event::Restart(id));
        }
        for (at, fault) in self.swarm.faults.clone() {
            self.schedule(at, Event::Fault(fault));
        }
        self.schedule(HEAL, Event::Heal);
        self.schedule(10_000, Event::Look);
    }

    fn schedule(&mut self, after: Micros, event: Event) {
        self.created += 1;
        self.heap.push(Reverse(Scheduled {
            at: (self.now + after, self.created),
            event,
        }));
    }

    /// Runs to the end and asks the oracles.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse(next)) = self.heap.pop() {
            self.now = next.at.0;
            self.events += 1;
            self.handle(next.event);
            if self.over || !self.oracle.violations.is_empty() {
                break;
            }
        }
        self.judge();
        let taken = self.oracle.taken();
        Outcome {
            violations: self.oracle.violations,
            checkpoints: self.oracle.checkpoints,
            events: self.events,
            hash: self.hash,
            stopped_at: self.shared.steps.stopped,
            reached: self.shared.steps.reached,
            restores: self.shared.restores,
            adoptions: self.shared.adoptions,
            rebased: self.shared.rebased,
            taken,
            sharing: self.oracle.sharing,
            requests: self.shared.requests_done,
            redeployments: self.shared.redeployments,
            rescales: self.shared.rescales,
            named_stop: matches!(self.shared.job, JobState::Stopped(_)),
        }
    }

    fn mix(&mut self, number: u64) {
        let mut bytes = [0u8; 24];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.now.to_le_bytes());
        bytes[16..].copy_from_slice(&number.to_le_bytes());
        self.hash = ContentHash::of(&bytes).0;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake {
                node,
                incarnation,
                wake,
            } => self.wake(node, incarnation, wake),
            Event::Store {
                node,
                incarnation,
                tag,
                op,
            } => self.store(node, incarnation, tag, &op),
            Event::StoreLate(op) => {
                self.apply(&op);
            }
            Event::Kafka {
                node,
                incarnation,
                tag,
                op,
            } => self.kafka(node, incarnation, tag, &op),
            Event::KafkaFinish(tid) => {
                self.mix(77);
                self.kafka.finish(&tid);
            }
            Event::KafkaLate(op) => {
                self.mix(78);
                self.broker(&op);
            }
            Event::Restart(node) => self.restart(node),
            Event::Resume(node) => self.resume(node),
            Event::Gone(node, number) => self.gone(node, number),
            Event::Fault(fault) => self.fault(&fault),
            Event::Heal => self.heal(),
            Event::StartAgain => self.start_again(),
            Event::Look => self.look(),
        }
    }

    /// The user starts the stopped job again, perhaps from a savepoint that it has left behind.
    fn start_again(&mut self) {
        if self.shared.desired.running {
            return;
        }
        self.shared.desired.running = true;
        let ended = self.oracle.head().filter(|head| head.ended.is_some());
        self.shared.desired.goes_past = ended.map(|head| head.epoch);
        let left = self.oracle.mark_stopped();
        if self.swarm.returns == Returns::Once && self.shared.desired.savepoint.is_none() {
            let folders = self.shared.savepoints.iter();
            let suffix = |id: &CheckpointId| format!("-{}-{}", id.epoch, id.number);
            let mut known = folders.filter(|folder| {
                let of = |id: &&CheckpointId| folder.ends_with(&suffix(id));
                left.iter().any(|id| of(&id))
            });
            self.shared.desired.savepoint = known.next().cloned();
        }
    }

    // Processes.

    fn restart(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if node.process.is_some() {
            return;
        }
        node.incarnation += 1;
        node.paused_until = 0;
        node.deferred.clear();
        node.process = Some(if id < FIRST_WORKER {
            Process::Coordinator(Box::default())
        } else {
            Process::Worker(Box::default())
        });
        let incarnation = node.incarnation;
        self.schedule(
            0,
            Event::Wake {
                node: id,
                incarnation,
                wake: Wake::Start,
            },
        );
        let first = 1_000 * u64::from(id % 10);
        self.schedule(
            first,
            Event::Wake {
                node: id,
                incarnation,
                wake: Wake::Tick,
            },
        );
    }

    fn kill(&mut self, id: NodeId, down: Micros) {
        if self.shared.trace {
            crate::report::line(&format!("{:>9} n{id} killed", self.now));
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.process = None;
            node.deferred.clear();
        }
        self.shared.desired.leaving.remove(&id);
        self.schedule(down, Event::Restart(id));
    }

    fn pause(&mut self, id: NodeId, length: Micros) {
        let until = self.now + length;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.paused_until = until.max(node.paused_until);
            self.schedule(length, Event::Resume(id));
        }
    }

    fn resume(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if node.paused_until > self.now {
            return;
        }
        let incarnation = node.incarnation;
        for wake in std::mem::take(&mut node.deferred) {
            self.wake(id, incarnation, wake);
        }
    }

    fn wake(&mut self, id: NodeId, incarnation: u64, wake: Wake) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if node.incarnation != incarnation || node.process.is_none() {
            return;
        }
        if node.paused_until > now {
            node.deferred.push(wake);
            return;
        }
        let again = matches!(wake, Wake::Tick);
        let Some(process) = node.process.take() else {
            return;
        };
        if let Some(stopped) = self.perform(id, incarnation, process, wake) {
            match stopped {
                StepFault::Kill => self.kill(id, 60_000),
                StepFault::Pause(length) => self.pause(id, length),
                // The wake is performed anew, and ticks on, once the process has thawed.
                StepFault::Freeze(length) => return self.pause(id, length),
            }
        }
        if again {
            let wake = Wake::Tick;
            let tick = Event::Wake {
                node: id,
                incarnation,
                wake,
            };
            self.schedule(TICK, tick);
        }
    }

    /// Runs one handler and carries out what it wants; answers at which fault it stopped.
    fn perform(
        &mut self,
        id: NodeId,
        incarnation: u64,
        mut process: Process,
        wake: Wake,
    ) -> Option<StepFault> {
        let node = self.nodes.get_mut(&id)?;
        // What to go back to if the process freezes before the act of this wake.
        let session = self.shared.steps.session.is_some();
        let freezes = session || self.shared.steps.freezes();
        let wishes = self.shared.wishes();
        let before = freezes.then(|| (process.clone(), node.rng.clone(), wake.clone()));
        let mut ctx = Ctx::new(self.now, id, &mut self.shared, &mut node.rng);
        match &mut process {
            Process::Coordinator(coordinator) => coordinator.wake(wake, &mut ctx),
            Process::Worker(worker) => worker.wake(wake, &mut ctx),
        }
        let (outs, stopped, violations) = (ctx.outs, ctx.stopped, ctx.violations);
        let (ended, facts) = (ctx.ended, ctx.facts);
        if let (Some(StepFault::Freeze(length)), Some((process, rng, wake))) = (stopped, before) {
            node.process = Some(process);
            node.rng = rng;
            node.deferred.push(wake);
            self.shared.wish(wishes);
            self.mix(u64::from(id));
            if session && self.shared.steps.session.is_none() {
                self.leave_alone(id, length);
            }
            return stopped;
        }
        node.process = Some(process);
        self.mix(u64::from(id) << 32 | outs.len() as u64);
        self.oracle.violations.extend(violations);
        for fact in facts {
            self.oracle.hears(fact);
        }
        if let Some((epoch, end)) = ended {
            self.oracle.job_ended(epoch, end);
        }
        for out in outs {
            self.carry(id, incarnation, out);
        }
        stopped
    }

    fn carry(&mut self, id: NodeId, incarnation: u64, out: Out) {
        match out {
            Out::Send { to, message } => self.send(id, to, message),
            Out::Store { tag, op } => {
                let latency = self.store_rng.between(500, 8_000);
                self.schedule(
                    latency,
                    Event::Store {
                        node: id,
                        incarnation,
                        tag,
                        op,
                    },
                );
            }
            Out::Kafka { tag, op } => {
                let latency = self.kafka_rng.between(200, 4_000);
                self.schedule(
                    latency,
                    Event::Kafka {
                        node: id,
                        incarnation,
                        tag,
                        op,
                    },
                );
            }
            Out::Timer { after, tag } => {
                let wake = Wake::Timeout { tag };
                self.schedule(
                    after,
                    Event::Wake {
                        node: id,
                        incarnation,
                        wake,
                    },
                );
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Box<Message>) {
        let Some(target) = self.nodes.get(&to) else {
            return;
        };
        let incarnation = target.incarnation;
        let cut = self.cut.get(&(from, to));
        let cut = cut.is_some_and(|until| *until > self.now);
        if from != to && (cut || self.net_rng.chance(self.swarm.net_drop)) {
            // Where a channel loses something its connection is broken, and the receiver will know.
            if let Message::Data {
                to: task, attempt, ..
            } = *message
            {
                let broken = Box::new(Message::Broken { to: task, attempt });
                let wake = Wake::Message {
                    from,
                    message: broken,
                };
                self.schedule(
                    200_000,
                    Event::Wake {
                        node: to,
                        incarnation,
                        wake,
                    },
                );
            }
            return;
        }
        let rng = &mut self.net_rng;
        let latency = if from == to {
            50
        } else {
            rng.between(100, self.swarm.net_latency)
        };
        let copy = from != to && rng.chance(self.swarm.net_duplicate);
        let late = rng.between(5_000, 400_000);
        let last = self.last_delivery.entry((from, to)).or_default();
        let at = (self.now + latency).max(*last + 1);
        *last = at;
        if copy {
            let wake = Wake::Message {
                from,
                message: message.clone(),
            };
            self.schedule(
                late,
                Event::Wake {
                    node: to,
                    incarnation,
                    wake,
                },
            );
        }
        let wake = Wake::Message { from, message };
        self.schedule(
            at - self.now,
            Event::Wake {
                node: to,
                incarnation,
                wake,
            },
        );
    }

    // Store and broker.

    fn apply(&mut self, op: &StoreOp) -> StoreAnswer {
        let answer = self.store.apply(op);
        self.after_apply(op, &answer);
        answer
    }

    fn after_apply(&mut self, op: &StoreOp, answer: &StoreAnswer) {
        if let (StoreOp::Put { path, bytes, .. }, StoreAnswer::Applied(_)) = (op, answer)
            && *path == paths().head()
        {
            self.mix(79);
            let ends = self.kafka.ends();
            self.oracle
                .head_landed(bytes, (&self.store, ends), &self.shared.workload);
        }
    }

    fn store(&mut self, node: NodeId, incarnation: u64, tag: Tag, op: &StoreOp) {
        let head_before = self.store.bytes(&paths().head()).cloned();
        let handling = self.store.handle(op, self.now, &mut self.store_rng);
        if let StoreOp::Put { path, bytes, .. } = op
            && *path == paths().head()
            && self.store.bytes(path).is_some_and(|now| {
                head_before.is_none_or(|before| !std::rc::Rc::ptr_eq(&before, now))
            })
        {
            self.mix(79);
            let ends = self.kafka.ends();
            self.oracle
                .head_landed(bytes, (&self.store, ends), &self.shared.workload);
        }
        let answer = match handling {
            Handling::Answer(answer) => answer,
            Handling::ApplyLater(after) => {
                self.schedule(after, Event::StoreLate(op.clone()));
                StoreAnswer::Failed
            }
        };
        let latency = self.store_rng.between(500, 8_000);
        let wake = Wake::Store { tag, answer };
        self.schedule(
            latency,
            Event::Wake {
                node,
                incarnation,
                wake,
            },
        );
    }

    fn broker(&mut self, op: &KafkaOp) -> KafkaAnswer {
        let (answer, finish) = self.kafka.handle(op, self.now);
        if let Some(tid) = finish {
            let delay = self.kafka_rng.between(100, self.swarm.marker_delay);
            self.schedule(delay, Event::KafkaFinish(tid));
        }
        self.oracle.committed(&mut self.kafka);
        answer
    }

    fn kafka(&mut self, node: NodeId, incarnation: u64, tag: Tag, op: &KafkaOp) {
        if let KafkaOp::Init { tid } = op
            && node >= FIRST_WORKER
        {
            self.oracle.session(tid);
        }
        let lost = self.kafka_rng.chance(self.swarm.kafka_lost);
        if lost && self.kafka_rng.chance(5_000) {
            return;
        }
        if let KafkaOp::End { commit: true, .. } = op
            && self.kafka_rng.chance(self.swarm.kafka_late_end)
        {
            let late = self.kafka_rng.between(10_000, 700_000);
            self.schedule(late, Event::KafkaLate(op.clone()));
            if self.kafka_rng.chance(2_000) {
                return;
            }
        }
        let answer = self.broker(op);
        if lost || matches!(answer, KafkaAnswer::Lost) {
            return;
        }
        let latency = self.kafka_rng.between(200, 4_000);
        let wake = Wake::Kafka { tag, answer };
        self.schedule(
            latency,
            Event::Wake {
                node,
                incarnation,
                wake,
            },
        );
    }

    /// The world's own look at things: transaction timeouts, an operator that starts a stopped job, the end of the run.
    fn look(&mut self) {
        for tid in self.kafka.expire(self.now) {
            let delay = self.kafka_rng.between(100, self.swarm.marker_delay);
            self.schedule(delay, Event::KafkaFinish(tid));
        }
        if !self.shared.desired.running && self.shared.job == JobState::Running {
            self.schedule(200_000, Event::StartAgain);
        }
        self.let_go();
        self.over = self.is_over();
        if !self.over {
            self.schedule(10_000, Event::Look);
        }
    }

    fn is_over(&mut self) -> bool {
        if let JobState::Stopped(stop) = &self.shared.job {
            if !self.swarm.corrupts {
                let text = format!("O9: stopped without a reason: {stop}");
                self.oracle.violations.push(text);
            }
            return true;
        }
        let Some(healed) = self.healed else {
            return false;
        };
        let quiet = !self.kafka.has_open_transactions();
        let complete = self.oracle.is_complete(&self.kafka, &self.shared.workload);
        let finished = self.shared.job == JobState::Finished;
        let progress = self.oracle.checkpoints >= healed + 3 || finished && self.swarm.bounded;
        let done = !self.swarm.bounded || finished;
        let desired = &self.shared.desired;
        let asked = (desired.request.is_some() || desired.rescale.is_some()) && !finished;
        if quiet && complete && progress && done && !asked {
            return true;
        }
        if self.now > HEAL + 12_000_000 {
            self.too_late(healed, complete, quiet);
            return true;
        }
        false
    }

    /// The run did not end: names what is missing.
    fn too_late(&mut self, healed: u64, complete: bool, quiet: bool) {
        let checkpoints = self.oracle.checkpoints - healed;
        let finished = self.shared.job == JobState::Finished;
        if (checkpoints >= 3 || finished) && !complete {
            // The job runs on, and what is missing will never come.
            self.oracle
                .ledger(&self.kafka, &self.shared.workload, false);
        }
        if checkpoints >= 3 && !quiet {
            self.oracle.stable(&self.kafka);
        }
        let job = &self.shared.job;
        self.oracle.violations.push(format!(
            "O9: invalid run: {checkpoints} checkpoints after the faults, output complete {complete}, quiet {quiet}, \
             job {job:?}"
        ));
    }

    fn judge(&mut self) {
        if !self.oracle.violations.is_empty() {
            return;
        }
        let stopped = matches!(self.shared.job, JobState::Stopped(_));
        self.oracle
            .ledger(&self.kafka, &self.shared.workload, stopped);
        if stopped {
            return;
        }
        self.oracle.stable(&self.kafka);
        let folders = self.shared.savepoints.clone();
        self.oracle
            .savepoints(&folders, &self.store, &self.shared.workload);
        self.oracle.kept_word(&self.shared.not_copied);
        self.oracle.hygiene(&mut self.store, self.swarm.retained);
    }
}
