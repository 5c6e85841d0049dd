//! The fleet: several workers that look like one to the rest of the coordinator.
//!
//! A pure machine. Commands of the coordinator go in and come out addressed to the workers that they concern; what workers tell comes
//! out as one worker would have told it: verified when all have verified, cancelled when all have ended it. [`driver`] runs it.
//!
//! The rules: an attempt runs on the workers that were there when it was placed, and a worker that is lost ends it; nothing is
//! waited for from a worker that is lost, because whatever it still does is fenced by its attempt and by its sessions (rules L2, S2
//! of the sink protocol); without enough slots nothing is deployed, and it is said what is missing. A worker that holds an attempt for an
//! older leader gets nothing else to do before that attempt is adopted or has ended, and one that leaves nothing else at all. An attempt
//! keeps the shape that the job had when it was prepared.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::placement::{Placement, WorkerOffer};
use highwater_protocol::recovery::SlotDuty;
use highwater_protocol::stop::SlotKey;
use highwater_types::{
    AttemptId, ErrorKind, Nonce, OperatorUid, Parallelism, SubtaskIndex, WorkerIndex,
};
use highwater_worker::{
    Deployment, FailureReport, Peers, RestoredBytes, Standing, WorkerCommand, WorkerEvent,
};

use crate::run::attempt_of;

pub mod driver;
mod leaving;
mod older;

use leaving::Leave;
use older::Older;

/// A worker that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it offers.
    pub offer: WorkerOffer,
    /// Where its data plane listens.
    pub address: String,
    /// The attempt that it holds for an older leader.
    pub holds: Option<HeldPart>,
}

/// A worker's part of an attempt that it holds for an older leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPart {
    /// The attempt.
    pub attempt: AttemptId,
    /// The number that the worker has in it.
    pub worker: WorkerIndex,
}

/// What is shown of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Its number.
    pub worker: WorkerIndex,
    /// Its name and slots.
    pub offer: WorkerOffer,
    /// Where its data plane listens.
    pub address: String,
    /// The subtasks of every operator that run there.
    pub subtasks: Vec<SubtaskIndex>,
    /// It gets no share of a later attempt.
    pub is_leaving: bool,
}

/// What wakes the fleet.
#[derive(Clone, Debug)]
pub enum FleetInput {
    /// From the coordinator.
    Command(WorkerCommand),
    /// From the coordinator: what is prepared from now on has this shape.
    Shape(FleetShape),
    /// A worker has registered.
    Joined(WorkerIndex, Member),
    /// A worker wants to go once its tasks run elsewhere.
    Leaving(WorkerIndex),
    /// A worker is gone, and why that is believed.
    Left(WorkerIndex, String),
    /// From a worker.
    Said(WorkerIndex, WorkerEvent),
}

/// What the fleet does.
#[derive(Clone, Debug)]
pub enum FleetOutput {
    /// To a worker.
    Send(WorkerIndex, WorkerCommand),
    /// To the coordinator.
    Tell(WorkerEvent),
}

/// What the fleet must know of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetShape {
    /// The largest parallelism: so many slots are needed.
    pub shares: u32,
    /// The parallelism of every sink.
    pub sinks: BTreeMap<OperatorUid, Parallelism>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Of what is prepared next.
    shape: FleetShape,
    members: BTreeMap<WorkerIndex, Member>,
    leaving: BTreeMap<WorkerIndex, Leave>,
    /// The name of the worker that had each share last, of as many shares as there were.
    before: Vec<String>,
    held: Option<Held>,
    older: Older,
}

/// The attempt that the fleet holds.
#[derive(Clone, Debug)]
enum Held {
    Waiting(Waiting),
    Placed(Placed),
}

/// An attempt that waits for slots.
#[derive(Clone, Debug)]
struct Waiting {
    deployment: Box<Deployment>,
    shape: FleetShape,
    pass: Nonce,
    /// What its sink slots are to do, if that was told already.
    duties: Option<Vec<SlotDuty>>,
}

#[derive(Clone, Debug)]
struct Placed {
    attempt: AttemptId,
    placement: Placement,
    /// The parallelism of every sink in it.
    sinks: BTreeMap<OperatorUid, Parallelism>,
    /// Its workers that were not lost.
    on: BTreeSet<WorkerIndex>,
    to_verify: BTreeSet<WorkerIndex>,
    restored: RestoredBytes,
    to_open: BTreeSet<WorkerIndex>,
    stage: Stage,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Active,
    /// It was told that it failed: it only waits for its end.
    Failed,
    /// Those of `on` that have not ended it are waited for.
    Cancelling,
}

impl Fleet {
    /// A fleet without workers.
    pub const fn new(shape: FleetShape) -> Self {
        Self {
            shape,
            members: BTreeMap::new(),
            leaving: BTreeMap::new(),
            before: Vec::new(),
            held: None,
            older: Older::Open,
        }
    }

    /// What is shown of the workers.
    pub fn seen(&self) -> Vec<WorkerSeen> {
        let placement = match &self.held {
            Some(Held::Placed(placed)) => Some(&placed.placement),
            Some(Held::Waiting(..)) | None => None,
        };
        let seen = |(&worker, member): (&WorkerIndex, &Member)| {
            let places = placement.into_iter().flat_map(Placement::shares);
            let subtasks = (0..).map(SubtaskIndex).zip(places);
            let own = subtasks.filter(|(_, place)| place.worker == worker);
            WorkerSeen {
                worker,
                offer: member.offer.clone(),
                address: member.address.clone(),
                subtasks: own.map(|(subtask, _)| subtask).collect(),
                is_leaving: self.leaving.contains_key(&worker),
            }
        };
        self.members.iter().map(seen).collect()
    }

    /// Takes one input. `pass` is random and is used up if an attempt is prepared.
    pub fn step(&mut self, input: FleetInput, pass: Nonce) -> Vec<FleetOutput> {
        let mut outputs = match input {
            FleetInput::Command(command) => self.command(command, pass),
            FleetInput::Shape(shape) => {
                self.shape = shape;
                self.all_free().into_iter().collect()
            }
            FleetInput::Joined(worker, member) => self.joined(worker, member),
            FleetInput::Leaving(worker) => self.leaves(worker),
            FleetInput::Left(worker, reason) => self.left(worker, &reason),
            FleetInput::Said(worker, event) => self.said(worker, event),
        };
        outputs.extend(self.dismiss());
        outputs
    }

    fn joined(&mut self, worker: WorkerIndex, member: Member) -> Vec<FleetOutput> {
        let holds = member.holds;
        self.members.insert(worker, member);
        match (holds, &self.older) {
            (Some(part), Older::Asked(epoch, _)) if part.worker == worker => {
                let mut outputs = vec![FleetOutput::Send(worker, WorkerCommand::Report(*epoch))];
                outputs.extend(self.all_free());
                outputs
            }
            (Some(part), Older::Over | Older::Asked(..)) => {
                vec![FleetOutput::Send(
                    worker,
                    WorkerCommand::Cancel(part.attempt),
                )]
            }
            (Some(_), Older::Open) => Vec::new(),
            (None, Older::Asked(..)) => self.all_free().into_iter().collect(),
            (None, _) => self.place_waiting(),
        }
    }

    /// Places what waits for slots, if there are enough now.
    fn place_waiting(&mut self) -> Vec<FleetOutput> {
        match self.held.take() {
            Some(Held::Waiting(waiting)) => self.place(waiting),
            held => {
                self.held = held;
                Vec::new()
            }
        }
    }

    /// What free workers offer that stay.
    fn offers(&self) -> BTreeMap<WorkerIndex, WorkerOffer> {
        let free = self.members.iter().filter(|(worker, member)| {
            member.holds.is_none() && !self.leaving.contains_key(*worker)
        });
        free.map(|(worker, member)| (*worker, member.offer.clone()))
            .collect()
    }

    fn left(&mut self, worker: WorkerIndex, reason: &str) -> Vec<FleetOutput> {
        let Some(member) = self.members.remove(&worker) else {
            return Vec::new();
        };
        self.leaving.remove(&worker);
        let name = &member.offer.name;
        let Some(Held::Placed(placed)) = &mut self.held else {
            return self.all_free().into_iter().collect();
        };
        if !placed.on.remove(&worker) {
            return Vec::new();
        }
        let attempt = placed.attempt;
        match placed.stage {
            Stage::Active => {
                placed.stage = Stage::Failed;
                vec![lost(attempt, reason, Some(named(worker, name)))]
            }
            Stage::Failed => Vec::new(),
            Stage::Cancelling => self.cancelled(),
        }
    }

    fn command(&mut self, command: WorkerCommand, pass: Nonce) -> Vec<FleetOutput> {
        match command {
            WorkerCommand::Prepare(deployment) => {
                let mut outputs = self.end_older(None);
                outputs.extend(self.place(Waiting {
                    deployment,
                    shape: self.shape.clone(),
                    pass,
                    duties: None,
                }));
                outputs
            }
            WorkerCommand::Report(epoch) => self.ask(epoch),
            WorkerCommand::Adopt(attempt, ..) => self.adopt(attempt, &command),
            WorkerCommand::Cancel(attempt) => self.cancel(attempt),
            WorkerCommand::Shutdown => {
                let members = self.members.keys();
                let sent =
                    members.map(|worker| FleetOutput::Send(*worker, WorkerCommand::Shutdown));
                sent.collect()
            }
            WorkerCommand::Confirm(attempt, duties) => {
                if let Some(Held::Waiting(waiting)) = &mut self.held
                    && waiting.deployment.attempt == attempt
                {
                    waiting.duties = Some(duties);
                    return Vec::new();
                }
                self.confirm(attempt, &duties)
            }
            // Of the process of a worker to its worker.
            WorkerCommand::Unled(_) => Vec::new(),
            WorkerCommand::Open(attempt)
            | WorkerCommand::Run(attempt)
            | WorkerCommand::Expect(attempt, _)
            | WorkerCommand::Completed(attempt, _)
            | WorkerCommand::Declined(attempt, _)
            | WorkerCommand::ResumeSources(attempt) => self.each(attempt, |_, _| command.clone()),
            WorkerCommand::Trigger(attempt, ref task, _)
            | WorkerCommand::Assign {
                attempt,
                to: ref task,
                ..
            } => {
                let subtask = task.subtask;
                self.one(attempt, subtask, command)
            }
            WorkerCommand::Commit(attempt, ref slot, _)
            | WorkerCommand::Authority(attempt, ref slot, _)
            | WorkerCommand::WriteVoid(attempt, ref slot, _) => {
                let placed = self.placed(attempt);
                let subtask = placed.map(|placed| holder(&placed.sinks, slot));
                subtask.map_or_else(Vec::new, |subtask| self.one(attempt, subtask, command))
            }
        }
    }

    /// Each worker gets its own duties.
    fn confirm(&self, attempt: AttemptId, duties: &[SlotDuty]) -> Vec<FleetOutput> {
        self.each(attempt, |placed, worker| {
            let of_worker = duties.iter().filter(|duty| {
                let holder = placed.placement.of(duty.task.subtask);
                holder.worker == worker
            });
            WorkerCommand::Confirm(attempt, of_worker.cloned().collect())
        })
    }

    fn placed(&self, attempt: AttemptId) -> Option<&Placed> {
        match &self.held {
            Some(Held::Placed(placed)) if placed.attempt == attempt => Some(placed),
            _ => None,
        }
    }

    /// A command for each worker of the attempt.
    fn each(
        &self,
        attempt: AttemptId,
        command: impl Fn(&Placed, WorkerIndex) -> WorkerCommand,
    ) -> Vec<FleetOutput> {
        let Some(placed) = self.placed(attempt) else {
            return Vec::new();
        };
        let workers = placed.on.iter();
        let sent = workers.map(|worker| FleetOutput::Send(*worker, command(placed, *worker)));
        sent.collect()
    }

    /// A command for the worker of one subtask.
    fn one(
        &self,
        attempt: AttemptId,
        subtask: SubtaskIndex,
        command: WorkerCommand,
    ) -> Vec<FleetOutput> {
        let placed = self.placed(attempt);
        let worker = placed.map(|placed| (placed, placed.placement.of(subtask).worker));
        let worker = worker.filter(|(placed, worker)| placed.on.contains(worker));
        worker
            .map(|(_, worker)| FleetOutput::Send(worker, command))
            .into_iter()
            .collect()
    }

    fn place(&mut self, waiting: Waiting) -> Vec<FleetOutput> {
        let attempt = waiting.deployment.attempt;
        let before = stretched(&self.before, waiting.shape.shares);
        let placed = Placement::over(waiting.shape.shares, &self.offers(), &before);
        let placement = match placed {
            Ok(placement) => placement,
            Err(missing) => {
                self.held = Some(Held::Waiting(waiting));
                let text = format!("{missing}; start more workers, or lower the parallelism");
                return vec![FleetOutput::Tell(WorkerEvent::WaitsForSlots(attempt, text))];
            }
        };
        let Waiting {
            deployment,
            shape: FleetShape { sinks, .. },
            pass,
            duties,
        } = waiting;
        self.before = self.names(&placement);
        let on = placement.workers();
        let addresses = on.iter();
        let addresses: BTreeMap<_, _> = addresses
            .map(|worker| (*worker, self.members[worker].address.clone()))
            .collect();
        let sent = on.iter().map(|&me| {
            let mut part = (*deployment).clone();
            keep(&mut part, &placement, me, |slot| holder(&sinks, slot));
            part.standing = Standing::Among(Box::new(Peers {
                me,
                placement: placement.clone(),
                addresses: addresses.clone(),
                pass,
            }));
            FleetOutput::Send(me, WorkerCommand::Prepare(Box::new(part)))
        });
        let mut sent: Vec<_> = sent.collect();
        self.held = Some(Held::Placed(Placed {
            attempt,
            placement,
            sinks,
            to_verify: on.clone(),
            restored: RestoredBytes::default(),
            to_open: on.clone(),
            on,
            stage: Stage::Active,
        }));
        if let Some(duties) = duties {
            sent.extend(self.confirm(attempt, &duties));
        }
        sent
    }

    /// The name of the worker of each share.
    fn names(&self, placement: &Placement) -> Vec<String> {
        let shares = placement.shares();
        shares
            .map(|place| self.members[&place.worker].offer.name.clone())
            .collect()
    }

    fn cancel(&mut self, attempt: AttemptId) -> Vec<FleetOutput> {
        match &mut self.held {
            Some(Held::Placed(placed)) if placed.attempt == attempt => {
                placed.stage = Stage::Cancelling;
                let mut outputs = self.each(attempt, |_, _| WorkerCommand::Cancel(attempt));
                outputs.extend(self.cancelled());
                outputs
            }
            Some(Held::Waiting(waiting)) if waiting.deployment.attempt == attempt => {
                self.held = None;
                vec![FleetOutput::Tell(WorkerEvent::Cancelled(attempt))]
            }
            _ => vec![FleetOutput::Tell(WorkerEvent::Cancelled(attempt))],
        }
    }

    /// The end of the attempt, if no worker is left that has it.
    fn cancelled(&mut self) -> Vec<FleetOutput> {
        match &self.held {
            Some(Held::Placed(placed)) if placed.on.is_empty() => {
                let attempt = placed.attempt;
                self.held = None;
                vec![FleetOutput::Tell(WorkerEvent::Cancelled(attempt))]
            }
            _ => Vec::new(),
        }
    }

    fn said(&mut self, worker: WorkerIndex, event: WorkerEvent) -> Vec<FleetOutput> {
        let member = self.members.get(&worker);
        let holds = member.and_then(|member| member.holds);
        if holds.is_some_and(|part| part.attempt == attempt_of(&event)) {
            return self.said_of_older(worker, event);
        }
        let name = member.map(|member| member.offer.name.clone());
        let Some(Held::Placed(placed)) = &mut self.held else {
            return Vec::new();
        };
        let is_of = placed.attempt == attempt_of(&event) && placed.on.contains(&worker);
        let Some(name) = name.filter(|_| is_of) else {
            return Vec::new();
        };
        match (placed.stage, event) {
            (Stage::Cancelling, WorkerEvent::Cancelled(_)) => {
                placed.on.remove(&worker);
                self.cancelled()
            }
            (_, WorkerEvent::Cancelling(attempt, waits)) => {
                let waits = format!("worker {}: {waits}", named(worker, &name));
                vec![FleetOutput::Tell(WorkerEvent::Cancelling(attempt, waits))]
            }
            (Stage::Active, mut event) => {
                if let WorkerEvent::Failed(_, report) | WorkerEvent::Damaged(_, _, report) =
                    &mut event
                {
                    report.worker = Some(named(worker, &name));
                }
                placed.active(worker, event)
            }
            _ => Vec::new(),
        }
    }
}

impl Placed {
    fn active(&mut self, worker: WorkerIndex, event: WorkerEvent) -> Vec<FleetOutput> {
        match event {
            WorkerEvent::Verified(attempt, restored) => {
                self.restored.fetched += restored.fetched;
                self.restored.local += restored.local;
                let was_last = self.to_verify.remove(&worker) && self.to_verify.is_empty();
                let told = WorkerEvent::Verified(attempt, self.restored);
                was_last
                    .then_some(FleetOutput::Tell(told))
                    .into_iter()
                    .collect()
            }
            WorkerEvent::Opened(attempt) => {
                let was_last = self.to_open.remove(&worker) && self.to_open.is_empty();
                let told = WorkerEvent::Opened(attempt);
                was_last
                    .then_some(FleetOutput::Tell(told))
                    .into_iter()
                    .collect()
            }
            event => {
                if matches!(event, WorkerEvent::Failed(..) | WorkerEvent::Damaged(..)) {
                    self.stage = Stage::Failed;
                }
                vec![FleetOutput::Tell(event)]
            }
        }
    }
}

/// An attempt has failed because a worker of it is not there any more.
fn lost(attempt: AttemptId, reason: &str, worker: Option<String>) -> FleetOutput {
    let message = format!("the worker was lost: {reason}");
    let report = FailureReport {
        worker,
        ..FailureReport::of("a worker", ErrorKind::Transient, message)
    };
    FleetOutput::Tell(WorkerEvent::Failed(attempt, Box::new(report)))
}

/// A worker, as people are told of it.
fn named(worker: WorkerIndex, name: &str) -> String {
    format!("{worker} ({name})")
}

/// The share whose worker performs what a slot has to do, also a slot that is not used any more.
fn holder(sinks: &BTreeMap<OperatorUid, Parallelism>, slot: &SlotKey) -> SubtaskIndex {
    let parallelism = sinks.get(&slot.sink).map_or(1, |of| of.0);
    SubtaskIndex(slot.slot % parallelism)
}

/// The names of those who had the shares, for another number of shares: each goes to whoever had the one with most of its key groups, the
/// first of equals. That one's disk may have their state, and the state backend goes on from the files of the same one.
fn stretched(names: &[String], shares: u32) -> Vec<String> {
    let (had, shares) = (names.len(), shares as usize);
    if had == 0 {
        return Vec::new();
    }
    // In parts of which each share has `had`, and each that was there `shares`.
    let common = |share: usize, old: usize| {
        let (from, until) = (
            (share * had).max(old * shares),
            ((share + 1) * had).min((old + 1) * shares),
        );
        until.saturating_sub(from)
    };
    let most = |share: usize| {
        let olds = (0..had).rev();
        olds.max_by_key(|old| common(share, *old)).unwrap_or(0)
    };
    (0..shares)
        .map(|share| names[most(share)].clone())
        .collect()
}

/// Leaves of a deployment what concerns one worker.
fn keep(
    part: &mut Deployment,
    placement: &Placement,
    me: WorkerIndex,
    holder: impl Fn(&SlotKey) -> SubtaskIndex,
) {
    let is_mine = |subtask: SubtaskIndex| placement.of(subtask).worker == me;
    part.states.retain(|of, _| is_mine(of.subtask));
    part.splits.retain(|of, _| is_mine(of.subtask));
    part.logs.retain(|(slot, _)| is_mine(holder(slot)));
}

#[cfg(test)]
mod tests;
