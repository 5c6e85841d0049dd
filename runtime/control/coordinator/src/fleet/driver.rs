//! Runs the fleet on a thread of its own, as the worker's loop runs: inputs come through one bounded queue, and outputs go where
//! they are addressed.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use highwater_protocol::nonce::NonceStream;
use highwater_types::{Nonce, WorkerIndex};
use highwater_worker::{WorkerCommand, WorkerEvent};
use tokio::sync::{mpsc, watch};

use super::{Fleet, FleetInput, FleetOutput, FleetShape, Member, WorkerSeen};

/// Inputs that may wait. Few come per checkpoint and none per record.
const INPUT_QUEUE: usize = 4_096;

/// The way to one worker.
pub trait WorkerLink: Send {
    /// Sends a command; `Err` = it takes no more: it is gone, or so slow that it may as well be.
    ///
    /// # Errors
    /// Why it takes no more.
    fn send(&self, command: WorkerCommand) -> Result<(), String>;
}

/// What comes to the driver.
enum Inbox {
    Input(FleetInput),
    Joined(Joining),
    Said(Joined, WorkerEvent),
    Leaving(Joined),
    Left(Joined, String),
    End,
}

/// A worker that joins.
struct Joining {
    member: Member,
    link: Box<dyn WorkerLink>,
    greet: Box<dyn FnOnce(WorkerIndex) -> bool + Send>,
    number: SyncSender<Joined>,
}

/// One connection of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The number of the worker.
    pub worker: WorkerIndex,
    /// Of the connection: a worker may come again under its number, and what is said of an older connection then concerns nobody.
    pub serial: u64,
}

/// The fleet as the coordinator and the workers' connections hold it.
#[derive(Clone)]
pub struct FleetHandle {
    inbox: SyncSender<Inbox>,
}

/// The fleet as its starter holds it.
pub struct RunningFleet {
    handle: FleetHandle,
    seen: watch::Receiver<Vec<WorkerSeen>>,
    thread: JoinHandle<()>,
}

impl RunningFleet {
    /// To give to connections.
    pub fn handle(&self) -> FleetHandle {
        self.handle.clone()
    }

    /// What is shown of the workers, now and later.
    pub fn seen(&self) -> watch::Receiver<Vec<WorkerSeen>> {
        self.seen.clone()
    }

    /// Sends a command of the coordinator.
    pub fn send(&self, command: WorkerCommand) {
        self.handle.give(Inbox::Input(FleetInput::Command(command)));
    }

    /// What is prepared from now on has this shape.
    pub fn reshape(&self, shape: FleetShape) {
        self.handle.give(Inbox::Input(FleetInput::Shape(shape)));
    }

    /// Tells all workers to end, and ends.
    pub fn shut_down(self) {
        self.send(WorkerCommand::Shutdown);
        self.let_go();
    }

    /// Ends. The workers wait for another coordinator.
    pub fn let_go(self) {
        self.handle.give(Inbox::End);
        if self.thread.join().is_err() {
            tracing::error!("the fleet's thread panicked");
        }
    }
}

impl FleetHandle {
    /// A worker has registered. `greet` is called with its number before any command is sent, and says whether it is still there.
    /// Its number; `None` = it is not, or the fleet has ended. Waits for the fleet's thread.
    pub fn join(
        &self,
        member: Member,
        link: Box<dyn WorkerLink>,
        greet: impl FnOnce(WorkerIndex) -> bool + Send + 'static,
    ) -> Option<Joined> {
        let (number, joined) = sync_channel(1);
        self.give(Inbox::Joined(Joining {
            member,
            link,
            greet: Box::new(greet),
            number,
        }));
        joined.recv().ok()
    }

    /// A worker tells something over this connection.
    pub fn said(&self, joined: Joined, event: WorkerEvent) {
        self.give(Inbox::Said(joined, event));
    }

    /// A worker says over this connection that it wants to go.
    pub fn leaving(&self, joined: Joined) {
        self.give(Inbox::Leaving(joined));
    }

    /// A connection of a worker has ended.
    pub fn left(&self, joined: Joined, reason: String) {
        self.give(Inbox::Left(joined, reason));
    }

    fn give(&self, inbox: Inbox) {
        if self.inbox.send(inbox).is_err() {
            tracing::debug!("the fleet has ended");
        }
    }
}

/// Starts a fleet. What it tells the coordinator goes to `events`.
///
/// # Errors
/// When the operating system gives no thread.
pub fn start(
    shape: FleetShape,
    mut passes: NonceStream,
    events: mpsc::Sender<WorkerEvent>,
) -> std::io::Result<RunningFleet> {
    let (inbox, inputs) = sync_channel(INPUT_QUEUE);
    let (shown, seen) = watch::channel(Vec::new());
    let first = first_number(passes.draw());
    let mut driver = Driver {
        fleet: Fleet::new(shape),
        passes,
        links: BTreeMap::new(),
        next: first,
        serial: 0,
        events,
        shown,
    };
    let thread = std::thread::Builder::new().name("fleet".to_owned());
    let thread = thread.spawn(move || {
        while let Ok(input) = inputs.recv() {
            match input {
                Inbox::Input(input) => driver.input(input),
                Inbox::Joined(joining) => driver.joined(joining),
                Inbox::Said(joined, event) => driver.said(joined, event),
                Inbox::Leaving(joined) => driver.leaving(joined),
                Inbox::Left(joined, reason) => driver.left(joined, reason),
                Inbox::End => break,
            }
        }
    })?;
    Ok(RunningFleet {
        handle: FleetHandle { inbox },
        seen,
        thread,
    })
}

/// The number of the first worker that holds nothing: drawn by lot for each leader, so that it is hardly one that a worker has which still holds
/// an attempt for the leader before, and needs it.
fn first_number(drawn: Nonce) -> WorkerIndex {
    const EACH: u32 = 1_000;
    const LOTS: u32 = 100_000;
    WorkerIndex((drawn.0 % u128::from(LOTS)) as u32 * EACH)
}

struct Driver {
    fleet: Fleet,
    passes: NonceStream,
    links: BTreeMap<WorkerIndex, (u64, Box<dyn WorkerLink>)>,
    next: WorkerIndex,
    /// Of the last connection.
    serial: u64,
    events: mpsc::Sender<WorkerEvent>,
    shown: watch::Sender<Vec<WorkerSeen>>,
}

/// Whether this may change what is shown of the workers.
const fn may_show(input: &FleetInput) -> bool {
    match input {
        FleetInput::Joined(..) | FleetInput::Leaving(_) | FleetInput::Left(..) => true,
        FleetInput::Shape(_) => false,
        FleetInput::Command(command) => matches!(
            command,
            WorkerCommand::Prepare(_) | WorkerCommand::Adopt(..) | WorkerCommand::Cancel(_)
        ),
        FleetInput::Said(_, event) => matches!(event, WorkerEvent::Cancelled(_)),
    }
}

impl Driver {
    fn joined(&mut self, joining: Joining) {
        let Joining {
            member,
            link,
            greet,
            number,
        } = joining;
        // Who holds an attempt for an older leader keeps the number that it has in it, if that is free.
        let kept = member.holds.map(|part| part.worker);
        let kept = kept.filter(|worker| !self.links.contains_key(worker));
        let worker = kept.unwrap_or_else(|| self.free_number());
        if kept.is_none() {
            self.next = worker.next();
        }
        let (name, slots) = (&member.offer.name, member.offer.slots);
        // Its number goes out before anything else may, and before the fleet knows it.
        self.serial += 1;
        let serial = self.serial;
        if !greet(worker) || number.send(Joined { worker, serial }).is_err() {
            tracing::debug!(%worker, name, "a worker left while it joined");
            return;
        }
        tracing::info!(%worker, name, slots, "worker joined");
        self.links.insert(worker, (serial, link));
        self.input(FleetInput::Joined(worker, member));
    }

    /// The next number that no worker has.
    fn free_number(&self) -> WorkerIndex {
        let mut number = self.next;
        while self.links.contains_key(&number) {
            number = number.next();
        }
        number
    }

    fn left(&mut self, joined: Joined, reason: String) {
        if self.is_last(joined) {
            self.lose(joined.worker, reason);
        }
    }

    fn leaving(&mut self, joined: Joined) {
        if self.is_last(joined) {
            self.input(FleetInput::Leaving(joined.worker));
        }
    }

    fn said(&mut self, joined: Joined, event: WorkerEvent) {
        if self.is_last(joined) {
            self.input(FleetInput::Said(joined.worker, event));
        }
    }

    /// Whether it is the connection that its worker has now.
    fn is_last(&self, joined: Joined) -> bool {
        let link = self.links.get(&joined.worker);
        link.is_some_and(|(serial, _)| *serial == joined.serial)
    }

    fn input(&mut self, input: FleetInput) {
        match &input {
            FleetInput::Left(worker, _) if self.fleet.is_dismissed(*worker) => {
                tracing::info!(%worker, "worker has left");
            }
            FleetInput::Left(worker, reason) => tracing::warn!(%worker, reason, "worker lost"),
            FleetInput::Leaving(worker) => {
                tracing::info!(%worker, "worker leaves; it ends once no task runs on it");
            }
            _ => {}
        }
        let (pass, may_show) = (self.passes.draw(), may_show(&input));
        let outputs = self.fleet.step(input, pass);
        if may_show {
            self.shown.send_replace(self.fleet.seen());
        }
        for output in outputs {
            match output {
                FleetOutput::Tell(event) => {
                    if self.events.blocking_send(event).is_err() {
                        tracing::debug!("the coordinator is gone");
                    }
                }
                FleetOutput::Send(worker, command) => {
                    let Some((_, link)) = self.links.get(&worker) else {
                        continue;
                    };
                    if let Err(reason) = link.send(command) {
                        self.lose(worker, reason);
                    }
                }
            }
        }
    }

    fn lose(&mut self, worker: WorkerIndex, reason: String) {
        if self.links.remove(&worker).is_some() {
            self.input(FleetInput::Left(worker, reason));
        }
    }
}
