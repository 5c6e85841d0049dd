//! The checkpoint machine of a leader: steps P1 to P11, savepoints, stop and finish.
//!
//! Called by the coordinator's driver with the time and one event; the driver performs the effects. The rules:
//!
//! - At most one checkpoint is on its way. It is complete when its head write has landed, never earlier.
//! - L1: while a head write is undecided nothing is declined. A timeout contests the write and waits for the decision.
//! - L2: only acknowledgements of current attempts for the checkpoint at hand enter a manifest.
//! - L3: commits are ordered for slots with a log of the completed checkpoint, again and again until confirmed.
//! - L6: a redeployment is told only when all output of its checkpoint is confirmed and `head` says so. The write that completes it raises
//!   the slots, and its manifest says at which parallelism the job goes on.
//! - L7: stop, finish and savepoint end only when all output is confirmed and `head` says so. That the job has ended is in `head` before
//!   anybody is told.
//!
//! ```text
//! Idle ─trigger─► Collecting ─all acked─► Storing ─manifest durable─► Moving ─won─► Idle ─(closing)─► Recording ─► Exporting
//!   ▲                 │ timeout, refused      │ failed                  │ declined                          │
//!   └─────────────────┴───────────────────────┴─────────────────────────┘    EndJob ◄─won─ Ending ◄─────────┤
//!                                                                        Waiting ◄─tasks lost─ Redeploying ◄┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{
    AttemptId, BarrierKind, CheckpointBarrier, CheckpointId, Nonce, OperatorUid,
};

use crate::head::{Head, ManifestRef};
use crate::job::{JobShape, TaskId, TaskSnapshot};
use crate::manifest::{HexBytes, Manifest};
use crate::mutant::{Mutant, planted};
use crate::nonce::TrySource;
use crate::rescale::Rescaled;
use crate::stop::SlotKey;

mod assemble;
mod closing;
mod completion;
mod events;
mod requests;

pub use assemble::BaseFiles;
pub use events::{CheckpointEffect, CheckpointEvent, CheckpointFailure, Redeploy, SnapshotRequest};

use closing::Closing;
use requests::Requests;

/// How often and how patiently checkpoints are taken. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// From the start of one to the start of the next.
    pub interval_ms: u64,
    /// At least this long from the end of one to the start of the next.
    pub min_pause_ms: u64,
    /// A checkpoint that takes longer is given up.
    pub timeout_ms: u64,
    /// A commit order is repeated after this time.
    pub commit_retry_ms: u64,
    /// More failures in a row fail the job; `None` = any number is tolerated.
    pub failures_max: Option<u32>,
}

#[derive(Clone, Debug)]
struct Pending {
    id: CheckpointId,
    kind: BarrierKind,
    nonce: Nonce,
    started_ms: u64,
    request: Option<SnapshotRequest>,
    /// The engine itself has asked for it.
    is_wanted: bool,
    is_final: bool,
    triggered: BTreeSet<TaskId>,
    parts: BTreeMap<TaskId, TaskSnapshot>,
    enumerators: Option<BTreeMap<OperatorUid, HexBytes>>,
}

#[derive(Clone, Debug)]
struct Built {
    manifest: ManifestRef,
    files: BaseFiles,
    commits: BTreeSet<SlotKey>,
    rescaled: Option<Rescaled>,
}

#[derive(Clone, Debug)]
enum Phase {
    Idle,
    Collecting(Pending),
    Storing(Pending, Built),
    Moving {
        pending: Pending,
        built: Built,
        contested: bool,
        lost: bool,
    },
    Recording {
        lost: bool,
    },
    Exporting,
    /// The end of the job is written into `head`.
    Ending {
        lost: bool,
    },
    /// The driver was told to end the attempt: the next one begins from the completed checkpoint.
    Redeploying,
    Waiting,
    Ended,
}

#[derive(Clone, Debug)]
struct Unconfirmed {
    id: CheckpointId,
    slots: BTreeSet<SlotKey>,
    ordered_ms: u64,
}

/// The answer to a worker that reports an acknowledged checkpoint after a reconnect or to a new leader (L4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It is complete: commit.
    Commit,
    /// It is on its way: wait.
    Wait,
    /// It can never complete: declined.
    Decline,
}

/// The checkpoint machine.
#[derive(Clone, Debug)]
pub struct CheckpointCoordinator {
    settings: CheckpointSettings,
    shape: JobShape,
    head: Head,
    base: BaseFiles,
    /// What the manifest in `head` says of the parallelism: carried on by every later one.
    rescaled: Option<Rescaled>,
    tries: TrySource,
    attempts: BTreeMap<TaskId, AttemptId>,
    ended: BTreeSet<TaskId>,
    finished: BTreeMap<TaskId, TaskSnapshot>,
    phase: Phase,
    unconfirmed: Option<Unconfirmed>,
    requests: Requests,
    closing: Option<Closing>,
    clock: TriggerClock,
}

#[derive(Clone, Copy, Debug)]
struct TriggerClock {
    started_ms: u64,
    ended_ms: u64,
    failures: u32,
    /// The last try was given up: what waits for the next one lets a moment pass.
    is_declined: bool,
    /// A confirmation, or the end of the job, that was refused is not written again before this time.
    record_ms: u64,
}

impl CheckpointCoordinator {
    /// A machine for the leader that has just settled `head`, whose manifest is `current`. Waits for
    /// [`CheckpointEvent::TasksRunning`]. One machine lives as long as the shape; a leadership that needs another one
    /// hands over what [`CheckpointCoordinator::into_tries`] gives back. A savepoint that the manifest names is copied
    /// out first, if it is not there yet: an earlier leader may have died before its copy.
    ///
    /// # Panics
    /// If the manifest is not the one of `head`.
    pub fn new(
        settings: CheckpointSettings,
        shape: JobShape,
        head: Head,
        current: &Manifest,
        tries: TrySource,
    ) -> Self {
        assert_eq!(
            current.id,
            head.checkpoint(),
            "the manifest is the one of head"
        );
        shape.assert_sound();
        Self {
            settings,
            shape,
            head,
            base: current.files.clone(),
            rescaled: current.rescaled.clone(),
            tries,
            attempts: BTreeMap::new(),
            ended: BTreeSet::new(),
            finished: BTreeMap::new(),
            phase: Phase::Waiting,
            unconfirmed: None,
            requests: Requests::default(),
            closing: Closing::owed_by(current),
            clock: TriggerClock {
                started_ms: 0,
                ended_ms: 0,
                failures: 0,
                is_declined: false,
                record_ms: 0,
            },
        }
    }

    /// Goes on with other settings. What is under way is held to the new limits.
    pub const fn configure(&mut self, settings: CheckpointSettings) {
        self.settings = settings;
    }

    /// Takes over with living workers (L4): the slots of `head`'s manifest that have not confirmed it yet.
    #[must_use]
    pub fn with_unconfirmed(mut self, slots: BTreeSet<SlotKey>) -> Self {
        let id = self.head.checkpoint();
        self.unconfirmed = (!slots.is_empty()).then_some(Unconfirmed {
            id,
            slots,
            ordered_ms: 0,
        });
        self
    }

    /// Ends the machine; the next one of this leadership goes on with its tries.
    pub fn into_tries(self) -> TrySource {
        self.tries.handed_over()
    }

    /// The last completed checkpoint.
    pub const fn completed(&self) -> CheckpointId {
        self.head.checkpoint()
    }

    /// The checkpoint on its way.
    pub fn pending(&self) -> Option<CheckpointId> {
        match &self.phase {
            Phase::Collecting(pending)
            | Phase::Storing(pending, _)
            | Phase::Moving { pending, .. } => Some(pending.id),
            _ => None,
        }
    }

    /// The smallest number that a later try may have: garbage collection touches no try of this epoch from here on.
    pub fn protected_from(&self) -> u64 {
        self.pending()
            .map_or_else(|| self.tries.peek(self.head.number), |id| id.number)
    }

    /// The slots that have not confirmed the last completed checkpoint.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &SlotKey> {
        self.unconfirmed.iter().flat_map(|waiting| &waiting.slots)
    }

    /// Whether a head write of this machine is undecided: nothing may be derived from `head` (L1).
    pub const fn is_undecided(&self) -> bool {
        matches!(
            self.phase,
            Phase::Moving { .. } | Phase::Recording { .. } | Phase::Ending { .. }
        )
    }

    /// Whether the end of the job is being written.
    pub const fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// What a slot that acknowledged `acked` is told.
    pub fn resolve(&self, acked: CheckpointId) -> Resolution {
        if acked == self.head.checkpoint() {
            Resolution::Commit
        } else if self.pending() == Some(acked) {
            Resolution::Wait
        } else {
            Resolution::Decline
        }
    }

    /// Handles one event at `now_ms`. Effects are performed in order.
    ///
    /// # Panics
    /// If an invariant of the protocol does not hold.
    pub fn step(&mut self, now_ms: u64, event: CheckpointEvent) -> Vec<CheckpointEffect> {
        let mut effects = Vec::new();
        if matches!(self.phase, Phase::Ended) {
            return effects;
        }
        self.handle(now_ms, event, &mut effects);
        self.advance(now_ms, &mut effects);
        effects
    }

    fn handle(&mut self, now_ms: u64, event: CheckpointEvent, effects: &mut Vec<CheckpointEffect>) {
        match event {
            CheckpointEvent::Tick => self.tick(now_ms, effects),
            CheckpointEvent::Wanted => self.requests.wanted = true,
            CheckpointEvent::Request(request) => self.request(request, effects),
            CheckpointEvent::Enumerators { id, states } => self.enumerators(id, states),
            CheckpointEvent::Acked {
                task,
                attempt,
                id,
                snapshot,
            } => {
                if self.is_current(&task, attempt) && self.is_collecting(id) {
                    self.acked(now_ms, task, *snapshot, effects);
                }
            }
            CheckpointEvent::Refused {
                task,
                attempt,
                id,
                reason,
            } => {
                if self.is_current(&task, attempt) && self.is_collecting(id) {
                    let failure = CheckpointFailure::Refused { task, id, reason };
                    self.decline(now_ms, failure, effects);
                }
            }
            CheckpointEvent::InputEnded { task, attempt } => {
                if self.is_current(&task, attempt) {
                    self.ended.insert(task);
                }
            }
            CheckpointEvent::Finished {
                task,
                attempt,
                snapshot,
                passed,
            } => {
                if self.is_current(&task, attempt) {
                    self.task_finished(task, *snapshot, passed, effects);
                }
            }
            CheckpointEvent::ManifestWritten { id } => {
                self.manifest_written(now_ms, id, effects);
            }
            CheckpointEvent::ManifestFailed { id } => {
                self.not_stored(now_ms, id, CheckpointFailure::Manifest { id }, effects);
            }
            CheckpointEvent::Withdrawn { id, reason } => {
                let failure = CheckpointFailure::Withdrawn { id, reason };
                self.not_stored(now_ms, id, failure, effects);
            }
            CheckpointEvent::HeadDecided(outcome) => {
                self.head_decided(now_ms, outcome, effects);
            }
            CheckpointEvent::Confirmed {
                slot,
                attempt,
                number,
            } => {
                self.confirmed(&slot, attempt, number, effects);
            }
            CheckpointEvent::Voided { slot, attempt } => self.voided(&slot, attempt, effects),
            CheckpointEvent::Exported { id } => self.exported(id, effects),
            CheckpointEvent::ExportFailed { id } => self.export_failed(id, effects),
            CheckpointEvent::TasksLost => self.tasks_lost(now_ms, effects),
            CheckpointEvent::TasksRunning { attempts } => self.tasks_running(now_ms, attempts),
        }
    }

    /// A slot met a void marker.
    fn voided(&self, slot: &SlotKey, attempt: AttemptId, effects: &mut Vec<CheckpointEffect>) {
        if self.is_held_by(slot, attempt) {
            effects.push(CheckpointEffect::RestartRegion);
        }
    }

    /// The manifest of a checkpoint is not written.
    fn not_stored(
        &mut self,
        now_ms: u64,
        id: CheckpointId,
        failure: CheckpointFailure,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        if matches!(&self.phase, Phase::Storing(pending, _) if pending.id == id) {
            self.decline(now_ms, failure, effects);
        }
    }

    fn is_current(&self, task: &TaskId, attempt: AttemptId) -> bool {
        self.attempts.get(task) == Some(&attempt) || planted(Mutant::StaleAckAccepted)
    }

    fn is_held_by(&self, slot: &SlotKey, attempt: AttemptId) -> bool {
        let holder = self.shape.holder(slot);
        holder.is_some_and(|task| self.attempts.get(task) == Some(&attempt))
    }

    fn is_collecting(&self, id: CheckpointId) -> bool {
        matches!(&self.phase, Phase::Collecting(pending) if pending.id == id)
    }

    fn tick(&mut self, now_ms: u64, effects: &mut Vec<CheckpointEffect>) {
        let retry_ms = self.settings.commit_retry_ms;
        if let Some(waiting) = &mut self.unconfirmed
            && !matches!(self.phase, Phase::Waiting)
            && now_ms >= waiting.ordered_ms.saturating_add(retry_ms)
        {
            waiting.ordered_ms = now_ms;
            order_commits(waiting, effects);
        }
        let timeout_ms = self.settings.timeout_ms;
        let late = |pending: &Pending| now_ms >= pending.started_ms.saturating_add(timeout_ms);
        match &mut self.phase {
            Phase::Collecting(pending) | Phase::Storing(pending, _) if late(pending) => {
                let failure = timeout(pending, timeout_ms, &self.shape, &self.finished);
                self.decline(now_ms, failure, effects);
            }
            Phase::Moving {
                pending, contested, ..
            } if late(pending) && !*contested => {
                *contested = true;
                effects.push(CheckpointEffect::ContestHead);
            }
            _ => {}
        }
    }

    /// Does what has become possible: trigger, complete the collection, finish a closing.
    fn advance(&mut self, now_ms: u64, effects: &mut Vec<CheckpointEffect>) {
        self.refuse_redeployment(effects);
        if let Phase::Idle = self.phase {
            self.advance_closing(now_ms, effects);
        }
        if let Phase::Idle = self.phase
            && self.closing.is_none()
        {
            self.trigger_if_due(now_ms, effects);
        }
        let complete = matches!(&self.phase, Phase::Collecting(pending)
            if pending.enumerators.is_some() && pending.parts.len() == self.shape.tasks.len());
        if complete {
            self.store(now_ms, effects);
        }
    }

    fn trigger_if_due(&mut self, now_ms: u64, effects: &mut Vec<CheckpointEffect>) {
        let clock = self.clock;
        let rested = now_ms >= clock.ended_ms.saturating_add(self.settings.min_pause_ms);
        let due = now_ms >= clock.started_ms.saturating_add(self.settings.interval_ms);
        let over = self.is_over();
        // What was given up is tried again, but not in a loop: its cause may stand for a while.
        let calm_ms = self.settings.commit_retry_ms;
        let calm = !clock.is_declined || now_ms >= clock.ended_ms.saturating_add(calm_ms);
        let asked = calm && (self.requests.wanted && rested || !self.requests.is_empty());
        if !(asked || rested && (due || over)) {
            return;
        }
        let request = if calm { self.requests.next() } else { None };
        let is_wanted = std::mem::take(&mut self.requests.wanted);
        let id = CheckpointId {
            number: self.tries.number(self.head.number),
            epoch: self.head.epoch,
        };
        self.clock.started_ms = now_ms;
        let kind = request
            .as_ref()
            .map_or(BarrierKind::Checkpoint, |request| request.kind);
        self.phase = Phase::Collecting(Pending {
            id,
            kind,
            nonce: self.tries.draw(),
            started_ms: now_ms,
            request,
            is_wanted,
            is_final: over,
            triggered: BTreeSet::new(),
            parts: self.finished.clone(),
            enumerators: None,
        });
        effects.push(CheckpointEffect::SnapshotEnumerators { id });
        effects.push(CheckpointEffect::Announce { id });
        self.trigger_frontier(effects);
    }

    /// Whether all input has been read: every task has emitted everything that it ever will.
    fn is_over(&self) -> bool {
        let over = |task: &TaskId| self.ended.contains(task) || self.finished.contains_key(task);
        self.shape.tasks.keys().all(over)
    }

    /// Triggers every running task whose inputs have all finished, once.
    fn trigger_frontier(&mut self, effects: &mut Vec<CheckpointEffect>) {
        let Phase::Collecting(pending) = &mut self.phase else {
            return;
        };
        let barrier = CheckpointBarrier {
            id: pending.id,
            kind: pending.kind,
        };
        for (task, of) in &self.shape.tasks {
            let runs = !self.finished.contains_key(task) && !pending.parts.contains_key(task);
            let first = of.upstream.iter().all(|up| self.finished.contains_key(up));
            if runs && first && pending.triggered.insert(task.clone()) {
                effects.push(CheckpointEffect::SendBarrier {
                    task: task.clone(),
                    barrier,
                });
            }
        }
    }

    fn enumerators(&mut self, id: CheckpointId, states: BTreeMap<OperatorUid, HexBytes>) {
        if let Phase::Collecting(pending) = &mut self.phase
            && pending.id == id
        {
            pending.enumerators = Some(states);
        }
    }

    fn acked(
        &mut self,
        now_ms: u64,
        task: TaskId,
        snapshot: TaskSnapshot,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        let Phase::Collecting(pending) = &mut self.phase else {
            return;
        };
        let id = pending.id;
        match assemble::check_part(&self.shape, &task, id, &snapshot, &self.base) {
            Ok(()) => {
                pending.parts.insert(task, snapshot);
            }
            Err(fault) => {
                let failure = CheckpointFailure::WrongSnapshot { task, id, fault };
                self.decline(now_ms, failure, effects);
            }
        }
    }

    fn task_finished(
        &mut self,
        task: TaskId,
        snapshot: TaskSnapshot,
        passed: Option<CheckpointId>,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        let bare = snapshot.files.is_empty() && self.shape.tasks[&task].slots.is_empty();
        assert!(
            bare,
            "task {task} finished with files or sink slots: it has to answer barriers"
        );
        if let Phase::Collecting(pending) = &mut self.phase
            && passed != Some(pending.id)
        {
            pending
                .parts
                .entry(task.clone())
                .or_insert_with(|| snapshot.clone());
        }
        self.finished.insert(task, snapshot);
        self.trigger_frontier(effects);
    }

    fn tasks_lost(&mut self, now_ms: u64, effects: &mut Vec<CheckpointEffect>) {
        match &mut self.phase {
            Phase::Collecting(pending) | Phase::Storing(pending, _) => {
                let failure = CheckpointFailure::TasksLost { id: pending.id };
                self.decline(now_ms, failure, effects);
                // The whole region starts again: there is nobody left to read on or to restart.
                effects.retain(|effect| {
                    !matches!(
                        effect,
                        CheckpointEffect::ResumeSources | CheckpointEffect::RestartRegion
                    )
                });
                self.phase = Phase::Waiting;
            }
            Phase::Moving {
                contested, lost, ..
            } => {
                *lost = true;
                if !std::mem::replace(contested, true) {
                    effects.push(CheckpointEffect::ContestHead);
                }
            }
            Phase::Recording { lost } | Phase::Ending { lost } => *lost = true,
            Phase::Idle | Phase::Redeploying => self.phase = Phase::Waiting,
            Phase::Exporting | Phase::Waiting | Phase::Ended => {}
        }
        // The spools that asked are gone with their tasks.
        self.requests.wanted = false;
        self.attempts.clear();
        self.ended.clear();
        self.finished.clear();
    }

    fn tasks_running(&mut self, now_ms: u64, attempts: BTreeMap<TaskId, AttemptId>) {
        // A copy that ends while a recovery is under way has the end of the job written beside it.
        assert!(
            matches!(
                self.phase,
                Phase::Waiting | Phase::Exporting | Phase::Ending { .. }
            ),
            "tasks run anew only after they were lost and head is settled"
        );
        assert!(
            attempts.keys().eq(self.shape.tasks.keys()),
            "every task has an attempt"
        );
        self.attempts = attempts;
        // Whoever asked for it is answered by the driver, which knows that records flow.
        if self.closing.as_ref().is_some_and(Closing::redeploys) {
            self.closing = None;
        }
        match &mut self.phase {
            Phase::Ending { lost } => *lost = false,
            Phase::Waiting => self.phase = Phase::Idle,
            _ => {}
        }
        self.clock.started_ms = now_ms;
        self.clock.ended_ms = now_ms;
        self.clock.is_declined = false;
    }

    fn confirmed(
        &mut self,
        slot: &SlotKey,
        attempt: AttemptId,
        number: u64,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        if !self.is_held_by(slot, attempt) {
            return;
        }
        let Some(waiting) = &mut self.unconfirmed else {
            return;
        };
        if number < waiting.id.number || !waiting.slots.remove(slot) || !waiting.slots.is_empty() {
            return;
        }
        let id = waiting.id;
        self.unconfirmed = None;
        effects.push(CheckpointEffect::AllConfirmed { id });
    }

    /// A recovery has confirmed everything that `head` has (L5).
    pub fn recovered(&mut self) {
        assert!(
            matches!(
                self.phase,
                Phase::Waiting | Phase::Exporting | Phase::Ending { .. }
            ),
            "a recovery runs while no task runs"
        );
        self.unconfirmed = None;
    }
}

/// The slots of a manifest that have a log to commit.
pub fn commits_of(manifest: &Manifest) -> BTreeSet<SlotKey> {
    let slots = manifest.sinks.iter().flat_map(|(sink, state)| {
        let logs = state.slots.iter().filter(|(_, output)| output.is_log());
        logs.map(|(&slot, _)| SlotKey {
            sink: sink.clone(),
            slot,
        })
    });
    slots.collect()
}

fn order_commits(waiting: &Unconfirmed, effects: &mut Vec<CheckpointEffect>) {
    let order = |slot: &SlotKey| CheckpointEffect::OrderCommit {
        slot: slot.clone(),
        id: waiting.id,
    };
    effects.extend(waiting.slots.iter().map(order));
}

fn timeout(
    pending: &Pending,
    timeout_ms: u64,
    shape: &JobShape,
    finished: &BTreeMap<TaskId, TaskSnapshot>,
) -> CheckpointFailure {
    let silent = |task: &&TaskId| !pending.parts.contains_key(task) && !finished.contains_key(task);
    let missing: Vec<&TaskId> = shape.tasks.keys().filter(silent).collect();
    let first = missing
        .first()
        .map_or_else(|| "the object store".to_owned(), ToString::to_string);
    CheckpointFailure::Timeout {
        id: pending.id,
        timeout_ms,
        missing: missing.len(),
        first,
    }
}

#[cfg(test)]
#[path = "checkpoint/tests.rs"]
mod tests;
