//! The worker: one loop over one event enum, between the coordinator, its slot threads and its sink drivers.
//!
//! It holds one attempt at a time and refuses every message of another. It decides nothing: it opens, builds, forwards,
//! stores and reports, in the order in which it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use highwater_api::JobProgram;
use highwater_connectors::WriterContext;
use highwater_operators::OperatorSnapshot;
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::stop::SlotKey;
use highwater_state::MemoryBudget;
use highwater_types::{
    AttemptId, CheckpointId, ErrorKind, JobIdentity, Parallelism, SlotIndex, SubtaskIndex,
};
use tokio::sync::mpsc;

use crate::build::{SliceContext, SubtaskParts, build, operators_of, task_id, wire};
use crate::clock::Clock;
use crate::files::{BlockingLogs, JobFiles, TaskPart, store_part};
use crate::messages::{
    Deployment, FailureReport, History, OperatorSubtask, WorkerCommand, WorkerEvent,
};
use crate::sink::driver::{DriverParts, SinkEvent, SlotStart};
use crate::sink::{SinkControl, SinkMailbox, spawn};
use crate::slot::{
    FigureBoard, LetterOf, SlotEvent, SlotEventKind, SlotLetter, SlotParts, error_chain, run,
};
use crate::task::{TaskEvent, TaskLetter};
use crate::waker::SlotWaker;

/// Events that may wait for the worker's loop. Few come per checkpoint and none per record.
const INPUT_QUEUE: usize = 4_096;
/// Letters that may wait for a slot thread.
const LETTER_QUEUE: usize = 1_024;

/// Settings of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Slot threads.
    pub slots: u32,
    /// Bytes of keyed state that all slots may hold together.
    pub state_bytes_max: u64,
    /// Bytes of unconfirmed output that a sink slot may hold.
    pub spool_bytes_max: u64,
}

/// What a worker is made of.
pub struct WorkerSetup {
    /// The program.
    pub program: JobProgram,
    /// The job.
    pub job: JobIdentity,
    /// Its settings.
    pub settings: WorkerSettings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The files of the job.
    pub files: JobFiles,
    /// The runtime at the rim.
    pub rim: tokio::runtime::Handle,
    /// Nonces for the names of sink logs.
    pub nonces: NonceStream,
    /// Where events go.
    pub events: mpsc::Sender<WorkerEvent>,
    /// Told of each protocol step right before it is performed.
    pub stop: StopHook,
}

/// Told of each protocol step right before it is performed: where a test build stops a process.
pub type StopHook = Arc<dyn Fn(highwater_protocol::steps::Step) + Send + Sync>;

/// Everything that can wake the worker.
#[derive(Debug)]
pub enum WorkerInput {
    /// From the coordinator.
    Command(WorkerCommand),
    /// From a slot thread.
    Slot(SlotEvent),
    /// From a sink driver.
    Sink {
        /// The attempt of the driver.
        attempt: AttemptId,
        /// Its slot.
        slot: SlotKey,
        /// What happened.
        event: SinkEvent,
    },
    /// The state of an attempt was fetched.
    Fetched(
        AttemptId,
        Result<BTreeMap<OperatorSubtask, OperatorSnapshot>, FailureReport>,
    ),
    /// A task's part of a checkpoint was stored.
    Stored {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// Its part, or why it was not stored.
        result: Result<TaskSnapshot, String>,
    },
    /// All drivers of an attempt have ended.
    DriversEnded(AttemptId),
}

/// A running worker.
pub struct WorkerHandle {
    inputs: SyncSender<WorkerInput>,
    board: FigureBoard,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Sends a command. A worker that is gone has told so by closing its events.
    pub fn send(&self, command: WorkerCommand) {
        if self.inputs.send(WorkerInput::Command(command)).is_err() {
            tracing::debug!("the worker is gone");
        }
    }

    /// Figures of its tasks.
    pub const fn figures(&self) -> &FigureBoard {
        &self.board
    }

    /// Ends the worker and waits for its threads.
    pub fn shut_down(mut self) {
        self.send(WorkerCommand::Shutdown);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the worker thread panicked");
        }
    }
}

/// Starts a worker: its loop and its slot threads.
///
/// # Errors
/// When the operating system gives no thread.
pub fn start(setup: WorkerSetup) -> std::io::Result<WorkerHandle> {
    let (inputs, receiver) = sync_channel(INPUT_QUEUE);
    let board = FigureBoard::default();
    let mut slots = Vec::new();
    for index in 0..setup.settings.slots {
        slots.push(start_slot(SlotIndex(index), &setup, &inputs, &board)?);
    }
    let sender = inputs.clone();
    let figures = board.clone();
    let worker = move || {
        Worker {
            setup,
            inputs: sender,
            slots,
            current: None,
            board: figures,
        }
        .run(&receiver)
    };
    let thread = std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(worker)?;
    Ok(WorkerHandle {
        inputs,
        board,
        thread: Some(thread),
    })
}

struct Slot {
    letters: SyncSender<SlotLetter>,
    waker: Arc<SlotWaker>,
    thread: Option<JoinHandle<()>>,
}

impl Slot {
    fn send(&self, letter: SlotLetter) {
        if self.letters.send(letter).is_err() {
            tracing::error!("a slot thread is gone");
        }
        self.waker.wake();
    }
}

fn start_slot(
    slot: SlotIndex,
    setup: &WorkerSetup,
    events: &SyncSender<WorkerInput>,
    board: &FigureBoard,
) -> std::io::Result<Slot> {
    let (letters, receiver) = sync_channel(LETTER_QUEUE);
    let waker = SlotWaker::shared();
    let parts = SlotParts {
        slot,
        clock: Arc::clone(&setup.clock),
        letters: receiver,
        waker: Arc::clone(&waker),
        events: events.clone(),
        board: board.clone(),
    };
    let thread = std::thread::Builder::new()
        .name(format!("slot-{slot}"))
        .spawn(|| run(parts))?;
    Ok(Slot {
        letters,
        waker,
        thread: Some(thread),
    })
}

struct Worker {
    setup: WorkerSetup,
    inputs: SyncSender<WorkerInput>,
    slots: Vec<Slot>,
    current: Option<Attempt>,
    board: FigureBoard,
}

/// The attempt that the worker holds.
struct Attempt {
    deployment: Box<Deployment>,
    mailboxes: Arc<BTreeMap<SlotKey, SinkMailbox>>,
    drivers: Vec<JoinHandle<()>>,
    unopened: BTreeSet<SlotIndex>,
    undropped: BTreeSet<SlotIndex>,
    drivers_ended: bool,
    stage: Stage,
    parts: BTreeMap<(CheckpointId, TaskId), PartialAck>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Active,
    Failed,
    Cancelling,
}

/// A task's acknowledgement that still misses its chain or some of its slots.
#[derive(Default)]
struct PartialAck {
    chain: Option<TaskSnapshot>,
    slots: TaskSnapshot,
}

impl Worker {
    fn run(mut self, inputs: &Receiver<WorkerInput>) {
        while let Ok(input) = inputs.recv() {
            match input {
                WorkerInput::Command(WorkerCommand::Shutdown) => break,
                WorkerInput::Command(command) => self.command(command),
                WorkerInput::Slot(event) => self.slot_event(event),
                WorkerInput::Sink {
                    attempt,
                    slot,
                    event,
                } => self.sink_event(attempt, slot, event),
                WorkerInput::Fetched(attempt, states) => self.fetched(attempt, states),
                WorkerInput::Stored {
                    task,
                    attempt,
                    id,
                    result,
                } => {
                    self.stored(task, attempt, id, result);
                }
                WorkerInput::DriversEnded(attempt) => {
                    if let Some(current) = self.held(attempt) {
                        current.drivers_ended = true;
                    }
                    self.finish_cancel();
                }
            }
        }
        self.close();
    }

    /// Ends all threads.
    fn close(&mut self) {
        if let Some(current) = &mut self.current {
            for mailbox in current.mailboxes.values() {
                mailbox.control(SinkControl::Close);
            }
        }
        for slot in &mut self.slots {
            slot.send(SlotLetter::Shutdown);
            if let Some(thread) = slot.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a slot thread panicked");
            }
        }
    }

    fn tell(&self, event: WorkerEvent) {
        if self.setup.events.blocking_send(event).is_err() {
            tracing::debug!("the coordinator is gone");
        }
    }

    fn held(&mut self, attempt: AttemptId) -> Option<&mut Attempt> {
        self.current
            .as_mut()
            .filter(|current| current.deployment.attempt == attempt)
    }

    fn active(&mut self, attempt: AttemptId) -> Option<&mut Attempt> {
        self.held(attempt)
            .filter(|current| current.stage == Stage::Active)
    }

    fn command(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::Prepare(deployment) => self.prepare(deployment),
            WorkerCommand::Open(attempt) => self.fetch(attempt),
            WorkerCommand::Run(attempt) => self.release(attempt),
            WorkerCommand::Expect(attempt) => {
                self.to_all_sinks(attempt, &SinkControl::Expected);
            }
            WorkerCommand::Trigger(attempt, task, barrier) => {
                let letter: LetterOf = Box::new(move || TaskLetter::Trigger(barrier));
                self.to_tasks(attempt, Some(&task), || letter);
            }
            WorkerCommand::Assign {
                attempt,
                to,
                splits,
                complete,
            } => {
                let letter: LetterOf = Box::new(move || TaskLetter::Assign {
                    splits: splits.clone(),
                    complete,
                });
                self.to_tasks(attempt, Some(&to), || letter);
            }
            WorkerCommand::Completed(attempt, id) => {
                self.forget_parts(attempt, id);
                self.to_all(attempt, move || TaskLetter::Completed(id));
            }
            WorkerCommand::Commit(attempt, slot, id) => {
                self.to_sink(attempt, &slot, SinkControl::Commit(id));
            }
            WorkerCommand::Declined(attempt, id) => {
                self.forget_parts(attempt, id);
                self.to_all(attempt, move || TaskLetter::Aborted(id));
                self.to_all_sinks(attempt, &SinkControl::Declined(id));
            }
            WorkerCommand::ResumeSources(attempt) => {
                self.to_all(attempt, || TaskLetter::Resume);
            }
            WorkerCommand::Authority(attempt, slot, authority) => {
                self.to_sink(attempt, &slot, SinkControl::LeaderSays(authority));
            }
            WorkerCommand::WriteVoid(attempt, slot, id) => {
                self.to_sink(attempt, &slot, SinkControl::WriteVoid(id));
            }
            WorkerCommand::Cancel(attempt) => self.cancel(attempt),
            WorkerCommand::Shutdown => unreachable!("the loop ends at it"),
        }
    }

    fn to_sink(&mut self, attempt: AttemptId, slot: &SlotKey, control: SinkControl) {
        if let Some(mailbox) = self
            .active(attempt)
            .and_then(|held| held.mailboxes.get(slot))
        {
            mailbox.control(control);
        }
    }

    fn to_all_sinks(&mut self, attempt: AttemptId, control: &SinkControl) {
        if let Some(current) = self.active(attempt) {
            for mailbox in current.mailboxes.values() {
                mailbox.control(control.clone());
            }
        }
    }

    fn to_all(
        &mut self,
        attempt: AttemptId,
        letter: impl Fn() -> TaskLetter + Clone + Send + 'static,
    ) {
        if self.active(attempt).is_none() {
            return;
        }
        for slot in &self.slots {
            slot.send(SlotLetter::Task(attempt, None, Box::new(letter.clone())));
        }
    }

    fn to_tasks(
        &mut self,
        attempt: AttemptId,
        to: Option<&TaskId>,
        letter: impl FnOnce() -> LetterOf,
    ) {
        let slots = self.slots.len() as u32;
        let Some(to) = to.filter(|_| self.active(attempt).is_some()) else {
            return;
        };
        let slot = &self.slots[(to.subtask.0 % slots) as usize];
        slot.send(SlotLetter::Task(attempt, Some(to.clone()), letter()));
    }

    /// Opens the sink slots and begins their duties (R3, R4).
    fn prepare(&mut self, deployment: Box<Deployment>) {
        assert!(
            self.current.is_none(),
            "a worker holds one attempt at a time"
        );
        self.board.clear();
        let attempt = deployment.attempt;
        let mut held = Attempt {
            deployment,
            mailboxes: Arc::default(),
            drivers: Vec::new(),
            unopened: BTreeSet::new(),
            undropped: BTreeSet::new(),
            drivers_ended: false,
            stage: Stage::Active,
            parts: BTreeMap::new(),
        };
        let opened = self.open_slots(&mut held);
        self.current = Some(held);
        if let Err(report) = opened {
            self.fail(attempt, report);
        }
    }

    fn open_slots(&mut self, held: &mut Attempt) -> Result<(), FailureReport> {
        let plan = self.setup.program.plan().clone();
        let mut mailboxes = BTreeMap::new();
        for node in plan.sinks() {
            let uid = plan.uid(node).clone();
            let Some(markers) = held.deployment.markers.get(&uid).cloned() else {
                continue;
            };
            let parallelism = plan.graph.node(node).parallelism.unwrap_or(Parallelism(1));
            let duties = held
                .deployment
                .duties
                .iter()
                .filter(|duty| duty.slot.sink == uid);
            let last = duties.map(|duty| duty.slot.slot + 1).max().unwrap_or(0);
            for slot in 0..parallelism.0.max(last) {
                let key = SlotKey {
                    sink: uid.clone(),
                    slot,
                };
                let duty = held.deployment.duties.iter().find(|duty| duty.slot == key);
                if slot >= parallelism.0 && duty.is_none() {
                    continue;
                }
                let code = self.setup.program.sink(node);
                let code = code.unwrap_or_else(|| unreachable!("{uid} is a sink"));
                let context = WriterContext {
                    job: self.setup.job.clone(),
                    lineage: held.deployment.lineage,
                    uid: uid.clone(),
                    subtask: SubtaskIndex(slot),
                    parallelism,
                };
                let target = code
                    .target(&context)
                    .map_err(|error| sink_failure(&key, &error))?;
                let Some(target) = target else { continue };
                let mailbox = SinkMailbox::new();
                let parts = DriverParts {
                    config: highwater_protocol::sink_slot::SlotConfig {
                        key: key.clone(),
                        markers: highwater_protocol::sink_slot::MarkerTopic {
                            id: markers.place.clone(),
                            from: markers.from,
                        },
                        spool_bytes_max: self.setup.settings.spool_bytes_max,
                    },
                    start: SlotStart::of(duty, held.deployment.restored.number),
                    target,
                    log: Box::new(BlockingLogs::new(
                        self.setup.files.clone(),
                        self.setup.rim.clone(),
                    )),
                    nonces: NonceStream::new(self.setup.nonces.draw()),
                    owner: (held.deployment.epoch, held.deployment.attempt),
                    mailbox: mailbox.clone(),
                    events: self.inputs.clone(),
                };
                held.drivers
                    .push(spawn(parts).map_err(|error| sink_failure(&key, &error))?);
                mailboxes.insert(key, mailbox);
            }
        }
        held.mailboxes = Arc::new(mailboxes);
        Ok(())
    }

    /// Fetches and verifies the state of the attempt, off the loop (R5).
    fn fetch(&mut self, attempt: AttemptId) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        let states = std::mem::take(&mut held.deployment.states);
        let (files, inputs) = (self.setup.files.clone(), self.inputs.clone());
        let rim = self.setup.rim.clone();
        rim.clone().spawn_blocking(move || {
            let mut fetched = BTreeMap::new();
            for (subtask, state) in states {
                match rim.block_on(files.restore(state)) {
                    Ok(snapshot) => {
                        fetched.insert(subtask, snapshot);
                    }
                    Err(error) => {
                        let report = FailureReport {
                            task: format!("restoring {}", subtask.uid),
                            subtask: subtask.subtask,
                            position: None,
                            kind: highwater_types::Classified::kind(&error),
                            message: error_chain(&error),
                        };
                        return give(&inputs, WorkerInput::Fetched(attempt, Err(report)));
                    }
                }
            }
            give(&inputs, WorkerInput::Fetched(attempt, Ok(fetched)));
        });
    }

    /// Builds the slices (R6).
    fn fetched(
        &mut self,
        attempt: AttemptId,
        states: Result<BTreeMap<OperatorSubtask, OperatorSnapshot>, FailureReport>,
    ) {
        if self.active(attempt).is_none() {
            return;
        }
        match states {
            Ok(states) => self.build(attempt, states),
            Err(report) => self.fail(attempt, report),
        }
    }

    fn build(
        &mut self,
        attempt: AttemptId,
        mut states: BTreeMap<OperatorSubtask, OperatorSnapshot>,
    ) {
        let program = self.setup.program.clone();
        let slots = self.slots.len() as u32;
        let wakers: Vec<_> = self
            .slots
            .iter()
            .map(|slot| Arc::clone(&slot.waker))
            .collect();
        let parts = wire(&program, |subtask| {
            wakers[(subtask.0 % slots) as usize].handle()
        });
        let budget = MemoryBudget::new(self.setup.settings.state_bytes_max);
        let mut slices: BTreeMap<SlotIndex, Vec<SubtaskParts>> = (0..slots)
            .map(|slot| (SlotIndex(slot), Vec::new()))
            .collect();
        let Some(held) = self.current.as_mut() else {
            return;
        };
        for (_, mut part) in parts {
            for operator in operators_of(&part, &program) {
                if let Some(state) = states.remove(&operator) {
                    part.states.insert(operator.uid.clone(), state);
                }
                if let Some(splits) = held.deployment.splits.remove(&operator) {
                    part.complete = held.deployment.complete.contains(&operator.uid);
                    part.splits = splits;
                }
            }
            let slot = SlotIndex(part.subtask.0 % slots);
            slices.entry(slot).or_default().push(part);
        }
        held.unopened = slices.keys().copied().collect();
        held.undropped = held.unopened.clone();
        for (slot, parts) in slices {
            let context = SliceContext {
                program: program.clone(),
                job: self.setup.job.clone(),
                lineage: held.deployment.lineage,
                rim: self.setup.rim.clone(),
                wake: self.slots[slot.0 as usize].waker.handle(),
                budget: budget.clone(),
                is_restored: held.deployment.history == History::Restored,
                sinks: Arc::clone(&held.mailboxes),
            };
            let builder = Box::new(move |clock: &highwater_operators::TaskClock| {
                parts
                    .into_iter()
                    .map(|part| build(&context, part, clock))
                    .collect()
            });
            self.slots[slot.0 as usize].send(SlotLetter::Build(attempt, builder));
        }
    }

    /// Lets records flow: sink slots first, then the tasks (R7).
    fn release(&mut self, attempt: AttemptId) {
        self.to_all_sinks(attempt, &SinkControl::Released);
        if self.active(attempt).is_some() {
            self.slots
                .iter()
                .for_each(|slot| slot.send(SlotLetter::Run(attempt)));
        }
    }

    fn slot_event(&mut self, event: SlotEvent) {
        let SlotEvent {
            slot,
            attempt,
            kind,
        } = event;
        match kind {
            SlotEventKind::Opened => {
                let Some(held) = self.active(attempt) else {
                    return;
                };
                held.unopened.remove(&slot);
                if held.unopened.is_empty() {
                    self.tell(WorkerEvent::Opened(attempt));
                }
            }
            SlotEventKind::Task(task, TaskEvent::Ended) => {
                if self.active(attempt).is_some() {
                    self.tell(WorkerEvent::InputEnded(attempt, task));
                }
            }
            SlotEventKind::Task(
                task,
                TaskEvent::Snapshot {
                    id,
                    operators,
                    splits,
                },
            ) => {
                if self.active(attempt).is_some() {
                    self.store(TaskPart {
                        range: self.range_of(&task),
                        task,
                        attempt,
                        id,
                        operators,
                        splits,
                    });
                }
            }
            SlotEventKind::Failed(report) => self.fail(attempt, report),
            SlotEventKind::Dropped => {
                if let Some(held) = self.held(attempt) {
                    held.undropped.remove(&slot);
                }
                self.finish_cancel();
            }
        }
    }

    fn range_of(&self, task: &TaskId) -> highwater_types::KeyGroupRange {
        let program = &self.setup.program;
        let vertices = program.plan().job.vertices().iter();
        let vertex = vertices
            .into_iter()
            .find(|vertex| *program.plan().uid(vertex.head) == task.vertex);
        let vertex = vertex.unwrap_or_else(|| unreachable!("{task} is a task of the plan"));
        vertex
            .max_parallelism
            .range(task.subtask, vertex.parallelism)
    }

    /// Stores a task's part, off the loop (P5).
    fn store(&self, part: TaskPart) {
        let (files, inputs, rim) = (
            self.setup.files.clone(),
            self.inputs.clone(),
            self.setup.rim.clone(),
        );
        self.setup.rim.spawn_blocking(move || {
            let (task, attempt, id) = (part.task.clone(), part.attempt, part.id);
            let stored = rim.block_on(store_part(&files, part));
            let result = stored.map_err(|error| error_chain(&error));
            give(
                &inputs,
                WorkerInput::Stored {
                    task,
                    attempt,
                    id,
                    result,
                },
            );
        });
    }

    fn stored(
        &mut self,
        task: TaskId,
        attempt: AttemptId,
        id: CheckpointId,
        result: Result<TaskSnapshot, String>,
    ) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        match result {
            Ok(snapshot) => {
                held.parts.entry((id, task.clone())).or_default().chain = Some(snapshot);
                self.ack(&task, attempt, id);
            }
            Err(reason) => self.tell(WorkerEvent::Refused {
                task,
                attempt,
                id,
                reason,
            }),
        }
    }

    fn sink_event(&mut self, attempt: AttemptId, slot: SlotKey, event: SinkEvent) {
        if self.active(attempt).is_none() {
            return;
        }
        match event {
            SinkEvent::Ack {
                id,
                output,
                marker_offset,
            } => {
                let task = self.holder(&slot);
                let Some(held) = self.current.as_mut() else {
                    return;
                };
                let part = held.parts.entry((id, task.clone())).or_default();
                let seen = part
                    .slots
                    .marker_offsets
                    .entry(slot.sink.clone())
                    .or_default();
                *seen = (*seen).max(marker_offset);
                part.slots.outputs.insert(slot, output);
                self.ack(&task, attempt, id);
            }
            SinkEvent::Decline(id) => {
                let reason = format!("the sink log of slot {slot} cannot be stored now");
                let task = self.holder(&slot);
                self.tell(WorkerEvent::Refused {
                    task,
                    attempt,
                    id,
                    reason,
                });
            }
            SinkEvent::Confirmed(id) => self.tell(WorkerEvent::SlotConfirmed(attempt, slot, id)),
            SinkEvent::Voided(id) => self.tell(WorkerEvent::SlotVoided(attempt, slot, id)),
            SinkEvent::Examined(id, found) => {
                self.tell(WorkerEvent::SlotExamined(attempt, slot, id, found));
            }
            SinkEvent::AskLeader(_) => self.tell(WorkerEvent::AskAuthority(attempt, slot)),
            SinkEvent::RequestCheckpoint => self.tell(WorkerEvent::RequestCheckpoint(attempt)),
            SinkEvent::Superseded => {
                let message = format!("a newer attempt owns sink slot {slot}");
                self.fail(attempt, slot_failure(&slot, ErrorKind::Fenced, message));
            }
            SinkEvent::Stop(stop) => self.tell(WorkerEvent::Stop(attempt, stop)),
        }
    }

    /// The task that holds a slot.
    fn holder(&self, slot: &SlotKey) -> TaskId {
        let program = &self.setup.program;
        let plan = program.plan();
        let node = plan.sinks().find(|node| *plan.uid(*node) == slot.sink);
        let node = node.unwrap_or_else(|| unreachable!("{slot} is a slot of the plan"));
        let vertex = plan.job.vertex(plan.job.vertex_of(node));
        let subtask = SubtaskIndex(slot.slot % vertex.parallelism.0);
        task_id(program, vertex, subtask)
    }

    /// Tells the coordinator once chain and slots of a task are stored (P6).
    fn ack(&mut self, task: &TaskId, attempt: AttemptId, id: CheckpointId) {
        let Some(held) = self.current.as_mut() else {
            return;
        };
        let expected = held
            .mailboxes
            .keys()
            .filter(|slot| slot_task(&self.setup.program, slot).as_ref() == Some(task))
            .count();
        let key = (id, task.clone());
        let Some(part) = held.parts.get(&key) else {
            return;
        };
        if part.chain.is_none() || part.slots.outputs.len() < expected {
            return;
        }
        let part = held.parts.remove(&key).unwrap_or_default();
        let mut snapshot = part.chain.unwrap_or_default();
        snapshot.outputs = part.slots.outputs;
        snapshot.marker_offsets = part.slots.marker_offsets;
        let snapshot = Box::new(snapshot);
        self.tell(WorkerEvent::Acked {
            task: task.clone(),
            attempt,
            id,
            snapshot,
        });
    }

    fn forget_parts(&mut self, attempt: AttemptId, id: CheckpointId) {
        if let Some(held) = self.held(attempt) {
            held.parts.retain(|(of, _), _| *of != id);
        }
    }

    fn fail(&mut self, attempt: AttemptId, report: FailureReport) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        held.stage = Stage::Failed;
        self.tell(WorkerEvent::Failed(attempt, Box::new(report)));
    }

    fn cancel(&mut self, attempt: AttemptId) {
        let Some(held) = self.held(attempt) else {
            self.tell(WorkerEvent::Cancelled(attempt));
            return;
        };
        held.stage = Stage::Cancelling;
        for mailbox in held.mailboxes.values() {
            mailbox.control(SinkControl::Close);
        }
        let drivers = std::mem::take(&mut held.drivers);
        let to_drop = held.undropped.clone();
        for slot in to_drop {
            self.slots[slot.0 as usize].send(SlotLetter::Drop(attempt));
        }
        let inputs = self.inputs.clone();
        self.setup.rim.spawn_blocking(move || {
            for driver in drivers {
                if driver.join().is_err() {
                    tracing::error!("a sink driver panicked");
                }
            }
            give(&inputs, WorkerInput::DriversEnded(attempt));
        });
    }

    fn finish_cancel(&mut self) {
        let Some(held) = &self.current else { return };
        if held.stage == Stage::Cancelling && held.drivers_ended && held.undropped.is_empty() {
            let attempt = held.deployment.attempt;
            self.current = None;
            self.tell(WorkerEvent::Cancelled(attempt));
        }
    }
}

/// The task that holds a slot of the current parallelism; `None` for a slot that only has a duty.
fn slot_task(program: &JobProgram, slot: &SlotKey) -> Option<TaskId> {
    let plan = program.plan();
    let node = plan.sinks().find(|node| *plan.uid(*node) == slot.sink)?;
    let vertex = plan.job.vertex(plan.job.vertex_of(node));
    let holds = slot.slot < vertex.parallelism.0;
    holds.then(|| task_id(program, vertex, SubtaskIndex(slot.slot)))
}

fn give(inputs: &SyncSender<WorkerInput>, input: WorkerInput) {
    if inputs.send(input).is_err() {
        tracing::debug!("the worker is gone");
    }
}

fn sink_failure(slot: &SlotKey, error: &dyn std::error::Error) -> FailureReport {
    slot_failure(slot, ErrorKind::Transient, error_chain(error))
}

fn slot_failure(slot: &SlotKey, kind: ErrorKind, message: String) -> FailureReport {
    FailureReport {
        task: format!("sink {}", slot.sink),
        subtask: SubtaskIndex(slot.slot),
        position: None,
        kind,
        message,
    }
}
