//! The worker: one loop over one event enum, between the coordinator, its slot threads and its sink drivers.
//!
//! It holds one attempt at a time and refuses every message of another. It decides nothing: it opens, builds, forwards,
//! stores and reports, in the order in which it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use highwater_api::JobProgram;
use highwater_network::{DataPlane, Link, LinkKey, LinkNews};
use highwater_operators::RestoredOperator;
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::recovery::Fault;
use highwater_protocol::stop::SlotKey;
use highwater_state::Store;
use highwater_types::{
    AttemptId, CheckpointId, Epoch, ErrorKind, JobIdentity, SlotIndex, SubtaskIndex,
};
use tokio::sync::mpsc;

use crate::build::task_id;
use crate::clock::Clock;
use crate::files::{AttemptFiles, JobFiles, KeptFiles, Restored, StoredPart, TaskPart};
use crate::local_dirs::LocalDirs;
use crate::messages::{
    AttemptNews, Deployment, FailureReport, OperatorSubtask, Standing, WorkerCommand, WorkerEvent,
};
use crate::sink::driver::SinkEvent;
use crate::sink::{SinkControl, SinkMailbox};
use crate::slot::{
    FigureBoard, LetterOf, SlotEvent, SlotEventKind, SlotLetter, SlotParts, error_chain, run,
};
use crate::task::{TaskEvent, TaskLetter};
use crate::waker::SlotWaker;

mod links;
mod recover;
mod report;
mod witness;

use witness::Witness;

/// Events that may wait for the worker's loop. Few come per checkpoint and none per record.
const INPUT_QUEUE: usize = 4_096;
/// Letters that may wait for a slot thread.
const LETTER_QUEUE: usize = 1_024;

/// Settings of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Slot threads.
    pub slots: u32,
    /// Bytes of keyed state that the tables of all slots may hold together.
    pub state_bytes_max: u64,
    /// Bytes of memory that the local stores of all slots may take together; 0 = there are none.
    pub store_bytes_max: u64,
    /// Bytes of unconfirmed output that a sink slot may hold.
    pub spool_bytes_max: u64,
}

/// What a worker is made of.
pub struct WorkerSetup {
    /// The program, at whatever parallelism: each attempt says at which it runs.
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
    /// The directory of this process on local disk, if it has one.
    pub local: Option<LocalDirs>,
    /// Where keyed state rests.
    pub store: Store,
    /// Nonces for the names of sink logs.
    pub nonces: NonceStream,
    /// The data plane; `None` = this worker is the only one.
    pub plane: Option<Arc<DataPlane>>,
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
    /// The state of an attempt was fetched and verified, its logs were verified.
    Fetched(AttemptId, Result<Box<Restored>, (Fault, FailureReport)>),
    /// A task's part of a checkpoint was stored.
    Stored {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        id: CheckpointId,
        /// Its part, or why it was not stored.
        result: Result<Box<StoredPart>, PartFailure>,
    },
    /// All drivers of an attempt have ended.
    DriversEnded(AttemptId),
    /// From a link to or from another worker.
    Link(LinkNews),
}

/// Why a task's part was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFailure {
    /// What to do about it.
    pub kind: ErrorKind,
    /// The message with its causes.
    pub message: String,
    /// Whether the attempt is over, and not only the checkpoint.
    pub ends_attempt: bool,
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
            kept: KeptFiles::default(),
            board: figures,
        }
        .run(&receiver);
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
    kept: KeptFiles,
    board: FigureBoard,
}

/// The attempt that the worker holds.
struct Attempt {
    deployment: Box<Deployment>,
    /// The program at the parallelism of the attempt.
    program: JobProgram,
    states: BTreeMap<OperatorSubtask, RestoredOperator>,
    mailboxes: Arc<BTreeMap<SlotKey, SinkMailbox>>,
    drivers: Vec<JoinHandle<()>>,
    unopened: BTreeSet<SlotIndex>,
    undropped: BTreeSet<SlotIndex>,
    /// Links that are not up yet.
    unlinked: BTreeSet<LinkKey>,
    links: Vec<Link>,
    drivers_ended: bool,
    stage: Stage,
    parts: BTreeMap<(CheckpointId, TaskId), PartialAck>,
    files: AttemptFiles,
    witness: Witness,
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
                WorkerInput::Link(news) => self.link_news(news),
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

    /// Notes what was seen of an attempt.
    fn seen(&mut self, attempt: AttemptId, note: impl FnOnce(&mut Witness)) {
        if let Some(held) = self.held(attempt) {
            note(&mut held.witness);
        }
    }

    /// Tells a new leader of the attempt that is held.
    fn report(&mut self, epoch: Epoch) {
        let Some(held) = &mut self.current else {
            return;
        };
        // One that is older hears of the newer one, and its question changes nothing.
        held.witness.admits(epoch);
        let Some(held) = &self.current else { return };
        let attempt = held.deployment.attempt;
        let Standing::Among(peers) = &held.deployment.standing else {
            return;
        };
        if held.stage != Stage::Active {
            let ended =
                FailureReport::of("the worker", ErrorKind::Transient, "the attempt has failed");
            return self.tell(WorkerEvent::Failed(attempt, Box::new(ended)));
        }
        let program = &held.program;
        let vertices = program.plan().job.vertices().iter();
        let tasks = vertices.flat_map(|vertex| {
            let subtasks = (0..vertex.parallelism.0).map(SubtaskIndex);
            let here =
                subtasks.filter(|subtask| held.deployment.standing.other_of(*subtask).is_none());
            here.map(|subtask| task_id(program, vertex, subtask))
        });
        let tasks = tasks.map(|task| {
            let slots = held.mailboxes.keys();
            let own = slots.filter(|slot| slot_task(program, slot).as_ref() == Some(&task));
            let own: Vec<_> = own.cloned().collect();
            held.witness.report(task, own.into_iter())
        });
        let news = AttemptNews {
            tasks: tasks.collect(),
            begun: held.witness.begun(),
            placement: peers.placement.clone(),
        };
        self.tell(WorkerEvent::Reported(attempt, Box::new(news)));
    }

    /// A leader goes on with the attempt: what older ones began is over, unless it is in `head`.
    fn adopt(&mut self, attempt: AttemptId, epoch: Epoch, in_head: CheckpointId) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        if !held.witness.admits(epoch) {
            tracing::warn!(
                epoch = epoch.0,
                "an older leader wants to go on with the attempt"
            );
            return;
        }
        held.parts
            .retain(|(id, _), _| id.epoch >= epoch || *id == in_head);
        self.tell_all_sinks(attempt, &SinkControl::Adopted(epoch, in_head));
    }

    fn command(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::Prepare(deployment) => self.prepare(deployment),
            WorkerCommand::Confirm(attempt, duties) => self.confirm(attempt, &duties),
            WorkerCommand::Open(attempt) => self.build(attempt),
            WorkerCommand::Run(attempt) => self.release(attempt),
            WorkerCommand::Expect(attempt, id) => {
                let at = self.setup.clock.elapsed();
                self.tell_all(attempt, move || TaskLetter::Expected { id, at });
                self.tell_all_sinks(attempt, &SinkControl::Expected);
            }
            WorkerCommand::Trigger(attempt, task, barrier) => {
                self.seen(attempt, |seen| seen.triggered(&barrier));
                self.tell_task(
                    attempt,
                    task,
                    Box::new(move || TaskLetter::Trigger(barrier)),
                );
            }
            WorkerCommand::Assign {
                attempt,
                to,
                splits,
                complete,
            } => {
                let names = splits.iter().map(|split| split.id.to_string());
                self.seen(attempt, |seen| seen.assigned(&to, names));
                let letter: LetterOf = Box::new(move || TaskLetter::Assign {
                    splits: splits.clone(),
                    complete,
                });
                self.tell_task(attempt, to, letter);
            }
            WorkerCommand::Completed(attempt, id) => {
                self.seen(attempt, |seen| seen.completed(id));
                self.forget_parts(attempt, id);
                self.files_completed(attempt, id);
                self.tell_all(attempt, move || TaskLetter::Completed(id));
            }
            WorkerCommand::Commit(attempt, slot, id) => {
                self.tell_sink(attempt, &slot, SinkControl::Commit(id));
            }
            WorkerCommand::Declined(attempt, id) => {
                self.seen(attempt, |seen| seen.declined(id));
                self.forget_parts(attempt, id);
                self.files_declined(attempt, id);
                self.tell_all(attempt, move || TaskLetter::Aborted(id));
                self.tell_all_sinks(attempt, &SinkControl::Declined(id));
            }
            WorkerCommand::ResumeSources(attempt) => {
                self.seen(attempt, Witness::resumed);
                self.tell_all(attempt, || TaskLetter::Resume);
            }
            WorkerCommand::Authority(attempt, slot, authority) => {
                self.tell_sink(attempt, &slot, SinkControl::LeaderSays(authority));
            }
            WorkerCommand::WriteVoid(attempt, slot, id) => {
                self.tell_sink(attempt, &slot, SinkControl::WriteVoid(id));
            }
            WorkerCommand::Report(epoch) => self.report(epoch),
            WorkerCommand::Adopt(attempt, epoch, in_head) => self.adopt(attempt, epoch, in_head),
            WorkerCommand::Unled(attempt) => {
                self.tell_all_sinks(attempt, &SinkControl::Unled);
            }
            WorkerCommand::Cancel(attempt) => self.cancel(attempt),
            WorkerCommand::Shutdown => unreachable!("the loop ends at it"),
        }
    }

    fn tell_sink(&mut self, attempt: AttemptId, slot: &SlotKey, control: SinkControl) {
        if let Some(mailbox) = self
            .active(attempt)
            .and_then(|held| held.mailboxes.get(slot))
        {
            mailbox.control(control);
        }
    }

    fn tell_all_sinks(&mut self, attempt: AttemptId, control: &SinkControl) {
        if let Some(current) = self.active(attempt) {
            for mailbox in current.mailboxes.values() {
                mailbox.control(*control);
            }
        }
    }

    fn tell_all(
        &mut self,
        attempt: AttemptId,
        letter: impl Fn() -> TaskLetter + Clone + Send + 'static,
    ) {
        if self.active(attempt).is_none() {
            return;
        }
        let now = self.setup.clock.elapsed();
        for slot in &self.slots {
            let letter = Box::new(letter.clone());
            slot.send(SlotLetter::Task(attempt, None, letter, now));
        }
    }

    fn tell_task(&mut self, attempt: AttemptId, to: TaskId, letter: LetterOf) {
        let slots = self.slots.len() as u32;
        let held = self.active(attempt);
        let slot = held.and_then(|held| held.deployment.standing.slot_of(to.subtask, slots));
        if let Some(slot) = slot {
            let now = self.setup.clock.elapsed();
            self.slots[slot.0 as usize].send(SlotLetter::Task(attempt, Some(to), letter, now));
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
                self.opened(attempt);
            }
            SlotEventKind::Task(task, TaskEvent::Ended) => {
                if self.active(attempt).is_some() {
                    self.seen(attempt, |seen| seen.ended(&task));
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
                let Some(held) = self.active(attempt) else {
                    return;
                };
                let range = held.range_of(&task);
                let referable = held.files.begin(id, task.subtask, &operators);
                self.store(TaskPart {
                    task,
                    attempt,
                    id,
                    range,
                    operators,
                    referable,
                    splits,
                });
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

    fn fail(&mut self, attempt: AttemptId, report: FailureReport) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        held.stage = Stage::Failed;
        self.tell(WorkerEvent::Failed(attempt, Box::new(report)));
    }

    /// What the attempt is to be restored from is damaged: whether anything else can take its place, the leader decides.
    fn damaged(&mut self, attempt: AttemptId, fault: Fault, report: FailureReport) {
        if let Some(held) = self.active(attempt) {
            held.stage = Stage::Failed;
            self.tell(WorkerEvent::Damaged(attempt, fault, Box::new(report)));
        }
    }

    fn cancel(&mut self, attempt: AttemptId) {
        let Some(held) = self.held(attempt) else {
            self.tell(WorkerEvent::Cancelled(attempt));
            return;
        };
        if held.stage == Stage::Cancelling {
            // Told again, as by a worker process whose coordinator is lost: what ends already is waited for, and nothing else.
            return self.finish_cancel();
        }
        held.stage = Stage::Cancelling;
        held.links.clear();
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
        self.finish_cancel();
    }

    fn finish_cancel(&mut self) {
        let Some(held) = &self.current else { return };
        if held.stage == Stage::Cancelling && held.drivers_ended && held.undropped.is_empty() {
            let attempt = held.deployment.attempt;
            self.current = None;
            self.tell(WorkerEvent::Cancelled(attempt));
        } else if held.stage == Stage::Cancelling {
            let attempt = held.deployment.attempt;
            let slots: Vec<_> = held.undropped.iter().map(ToString::to_string).collect();
            let mut waits = Vec::new();
            if !slots.is_empty() {
                let slots = slots.join(", ");
                waits.push(format!(
                    "slot {slots}: a function of the job does not return"
                ));
            }
            if !held.drivers_ended {
                waits.push("a sink: a call to the outside does not return".to_owned());
            }
            self.tell(WorkerEvent::Cancelling(attempt, waits.join("; ")));
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

pub(crate) fn give(inputs: &SyncSender<WorkerInput>, input: WorkerInput) {
    if inputs.send(input).is_err() {
        tracing::debug!("the worker is gone");
    }
}

fn sink_failure(slot: &SlotKey, error: &dyn std::error::Error) -> FailureReport {
    slot_failure(slot, ErrorKind::Transient, error_chain(error))
}

fn slot_failure(slot: &SlotKey, kind: ErrorKind, message: String) -> FailureReport {
    FailureReport::of(format!("sink {}", slot.sink), kind, message)
        .in_subtask(SubtaskIndex(slot.slot))
}

#[cfg(test)]
mod tests;
