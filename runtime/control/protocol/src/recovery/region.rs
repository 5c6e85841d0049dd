//! The recovery of a region whose tasks start again (rule L5, steps R3 to R7).
//!
//! Called by the leader's driver with the settled head and its manifest. The order is the rule: free the readers, fetch
//! and verify the state, confirm every slot that has a log in its own session, only then open state, and only then let
//! records flow (S4). State is verified before anything is published, since a checkpoint whose output is not visible
//! yet can still be given up, and one whose output is visible cannot. A failure on the way starts a new recovery with
//! new attempts; nothing here is undone.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::CheckpointId;
use serde::{Deserialize, Serialize};

use crate::head::Head;
use crate::job::{JobShape, TaskId};
use crate::manifest::{LogObject, Manifest, SlotOutput};
use crate::mutant::{Mutant, planted};
use crate::sink_slot::Purpose;
use crate::stop::SlotKey;

/// One slot's `Session(n)` and the task whose worker performs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDuty {
    /// The slot, possibly one that the graph no longer has.
    pub slot: SlotKey,
    /// The task.
    pub task: TaskId,
    /// The completed checkpoint.
    pub id: CheckpointId,
    /// Its log.
    pub log: Vec<LogObject>,
    /// The offset from which markers are read.
    pub from: u64,
    /// What the session is for.
    pub purpose: Purpose,
}

/// What wakes the recovery of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionEvent {
    /// The leader's own session on a slot's id is open: its older transactions are decided.
    Freed(SlotKey),
    /// A slot has confirmed this number.
    Confirmed {
        /// The slot.
        slot: SlotKey,
        /// The number.
        number: u64,
    },
    /// A slot met a void marker.
    Void(SlotKey),
    /// A task has fetched its state, and every length and checksum is right.
    Verified(TaskId),
    /// A task found a file missing or damaged.
    Damaged(TaskId),
    /// A task has opened its state and sought its source positions.
    Opened(TaskId),
}

/// What the driver does for the recovery of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionEffect {
    /// Opens a session on the slot's id and drops it (R3).
    Free(SlotKey),
    /// Fetches and verifies the state of all tasks (R5).
    VerifyAll,
    /// Starts `Session(n)` of a slot in the worker of a task (R4, R7).
    StartSession(SlotDuty),
    /// Opens the state of all tasks, seeks the sources (R6).
    OpenAll,
    /// Lets records flow: releases all slots, then the sources (R7).
    Release,
    /// State is damaged, a void marker was met, or `head` says that its number is being given up: *Going back* is to be
    /// done or finished. The driver first reads `head` again: a deposed leader misses files that its successor has
    /// collected, and that is no damage.
    GoBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Freeing,
    Verifying,
    Confirming,
    Opening,
    Running,
    Left,
}

/// The recovery of a region.
#[derive(Clone, Debug)]
pub struct RegionRecovery {
    phase: Phase,
    id: CheckpointId,
    to_free: BTreeSet<SlotKey>,
    duties: BTreeMap<SlotKey, SlotDuty>,
    to_verify: BTreeSet<TaskId>,
    to_open: BTreeSet<TaskId>,
}

impl RegionRecovery {
    /// Starts the recovery from the settled `head` and its manifest. `alive` are slots of other regions that run on.
    ///
    /// # Panics
    /// If the manifest is not the one of `head`, or a slot has unconfirmed output and its sink is not in the graph: such
    /// a restore was refused before (L8).
    pub fn start(
        head: &Head,
        manifest: &Manifest,
        shape: &JobShape,
        alive: &BTreeSet<SlotKey>,
    ) -> (Self, Vec<RegionEffect>) {
        assert_eq!(
            manifest.id,
            head.checkpoint(),
            "the manifest is the one of head"
        );
        let mut to_free = BTreeSet::new();
        for (sink, &count) in &head.slots {
            let forgotten = planted(Mutant::SlotsForgotten);
            let used = shape.sinks.get(sink).map_or(0, |of| of.slots);
            let count = if forgotten { used.min(count) } else { count };
            to_free.extend((0..count).map(|slot| SlotKey {
                sink: sink.clone(),
                slot,
            }));
        }
        to_free.retain(|slot| !alive.contains(slot));
        let mut recovery = Self {
            phase: Phase::Freeing,
            id: manifest.id,
            to_free,
            duties: if head.has_pending_output() {
                duties(manifest, shape, alive)
            } else {
                // `head` says that all is confirmed: the sink may be gone or moved, and its markers with it.
                BTreeMap::new()
            },
            to_verify: shape.tasks.keys().cloned().collect(),
            to_open: shape.tasks.keys().cloned().collect(),
        };
        if head.giving_up.is_some() {
            recovery.phase = Phase::Left;
            return (recovery, vec![RegionEffect::GoBack]);
        }
        let mut effects: Vec<RegionEffect> = recovery
            .to_free
            .iter()
            .cloned()
            .map(RegionEffect::Free)
            .collect();
        recovery.advance(&mut effects);
        (recovery, effects)
    }

    /// The recovery of a region whose tasks run on under a new leader (L4): nothing is left to do.
    pub fn adopted(head: &Head) -> Self {
        Self {
            phase: Phase::Running,
            id: head.checkpoint(),
            to_free: BTreeSet::new(),
            duties: BTreeMap::new(),
            to_verify: BTreeSet::new(),
            to_open: BTreeSet::new(),
        }
    }

    /// Whether records flow.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The sessions that have not confirmed yet, once they were started: a driver sends them again after a reconnect.
    pub fn open_duties(&self) -> impl Iterator<Item = &SlotDuty> {
        let started = self.phase == Phase::Confirming;
        self.duties.values().filter(move |_| started)
    }

    /// Whether tasks are asked to fetch and verify.
    pub fn is_verifying(&self) -> bool {
        self.phase == Phase::Verifying
    }

    /// Whether tasks are asked to open.
    pub fn is_opening(&self) -> bool {
        self.phase == Phase::Opening
    }

    /// Whether every slot that had a log has confirmed it.
    pub fn is_confirmed(&self) -> bool {
        self.duties.is_empty()
    }

    /// Handles one event. Late and repeated events change nothing.
    pub fn step(&mut self, event: RegionEvent) -> Vec<RegionEffect> {
        let mut effects = Vec::new();
        match event {
            RegionEvent::Freed(slot) => {
                self.to_free.remove(&slot);
            }
            RegionEvent::Confirmed { slot, number } if number >= self.id.number => {
                self.duties.remove(&slot);
            }
            RegionEvent::Confirmed { .. } => {}
            RegionEvent::Void(slot) => {
                if self.phase == Phase::Confirming && self.duties.contains_key(&slot) {
                    self.phase = Phase::Left;
                    effects.push(RegionEffect::GoBack);
                }
            }
            RegionEvent::Verified(task) => {
                if self.phase == Phase::Verifying {
                    self.to_verify.remove(&task);
                }
            }
            RegionEvent::Damaged(_) => {
                if self.phase == Phase::Verifying {
                    self.phase = Phase::Left;
                    effects.push(RegionEffect::GoBack);
                }
            }
            RegionEvent::Opened(task) => {
                if self.phase == Phase::Opening {
                    self.to_open.remove(&task);
                }
            }
        }
        self.advance(&mut effects);
        effects
    }

    fn advance(&mut self, effects: &mut Vec<RegionEffect>) {
        if self.phase == Phase::Freeing && self.to_free.is_empty() {
            self.phase = Phase::Verifying;
            effects.push(RegionEffect::VerifyAll);
        }
        if self.phase == Phase::Verifying && self.to_verify.is_empty() {
            self.phase = Phase::Confirming;
            let duties = self.duties.values().cloned();
            effects.extend(duties.map(RegionEffect::StartSession));
        }
        let hurried = planted(Mutant::FlowBeforeConfirmed);
        if self.phase == Phase::Confirming && (self.duties.is_empty() || hurried) {
            self.phase = Phase::Opening;
            effects.push(RegionEffect::OpenAll);
        }
        if self.phase == Phase::Opening && self.to_open.is_empty() {
            self.phase = Phase::Running;
            effects.push(RegionEffect::Release);
        }
    }
}

/// Every slot with a log that may be unconfirmed gets exactly one task: the one that holds it, or one of the same sink.
fn duties(
    manifest: &Manifest,
    shape: &JobShape,
    alive: &BTreeSet<SlotKey>,
) -> BTreeMap<SlotKey, SlotDuty> {
    let mut duties = BTreeMap::new();
    for (sink, state) in &manifest.sinks {
        for (&slot, output) in &state.slots {
            let SlotOutput::Log(log) = output else {
                continue;
            };
            let key = SlotKey {
                sink: sink.clone(),
                slot,
            };
            if alive.contains(&key) {
                continue;
            }
            let duty = SlotDuty {
                task: performer(&key, shape),
                slot: key.clone(),
                id: manifest.id,
                log: log.clone(),
                from: state.from,
                purpose: Purpose::Confirm,
            };
            duties.insert(key, duty);
        }
    }
    duties
}

pub(super) fn performer(slot: &SlotKey, shape: &JobShape) -> TaskId {
    let Some(sink) = shape.sinks.get(&slot.sink) else {
        panic!("slot {slot} has pending output and its sink is not in the graph");
    };
    let stand_in = SlotKey {
        sink: slot.sink.clone(),
        slot: slot.slot % sink.slots,
    };
    let held = shape.holder(&stand_in);
    held.expect("each slot of the graph has a task").clone()
}
