//! *Going back*: the newest checkpoint cannot be used, the job goes on from an older one under a new number.
//!
//! Called by the leader's driver while no task runs. The rule: an output that is visible is never rewound, and an
//! output that is given up can never become visible later. Each slot with a log examines in a session of its own; if
//! none found output, each commits a void marker in that same session; then one conditional write makes the choice.
//! The number never falls (schedule 8): the new one was never tried before, has the older state and no pending output.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::CheckpointId;

use super::region::{SlotDuty, performer};
use crate::hash::ContentHash;
use crate::head::{Head, HeadChange, ManifestRef};
use crate::job::JobShape;
use crate::manifest::{Manifest, SlotOutput, SnapshotKind};
use crate::mutant::{Mutant, planted};
use crate::nonce::TrySource;
use crate::paths::ManifestName;
use crate::sink_slot::{MarkerKind, Purpose};
use crate::stop::{NamedStop, SlotKey};

/// What is given up and what takes its place.
#[derive(Clone, Debug)]
pub struct GoingBackPlan {
    /// The settled head; its number is given up.
    pub head: Head,
    /// The older state and the name of its manifest. S3 has confirmed its output.
    pub target: (ManifestRef, Manifest),
    /// The manifest of the number that is given up, if it can be read. If not, every slot up to `head.slots` examines.
    pub given_up: Option<Manifest>,
}

/// What wakes a going back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoingBackEvent {
    /// A slot's session has read the markers.
    Examined {
        /// The slot.
        slot: SlotKey,
        /// The marker of the number that is given up.
        found: Option<MarkerKind>,
    },
    /// A slot's void marker is committed.
    Voided(SlotKey),
    /// The new manifest is durable.
    ManifestWritten(ManifestName),
}

/// What the driver does for a going back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoingBackEffect {
    /// Starts an examining session of a slot.
    Examine(SlotDuty),
    /// Orders the void marker.
    WriteVoid {
        /// The slot.
        slot: SlotKey,
        /// The number that is given up.
        id: CheckpointId,
    },
    /// Writes the manifest of the new number.
    WriteManifest {
        /// Its name.
        name: ManifestName,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Their hash.
        hash: ContentHash,
    },
    /// Makes the choice; afterwards the job recovers from `head` as always.
    WriteHead(HeadChange),
    /// The job stops.
    Stop(NamedStop),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Waiting,
    Missing,
    Found(MarkerKind),
}

impl From<Option<MarkerKind>> for Answer {
    fn from(found: Option<MarkerKind>) -> Self {
        found.map_or(Self::Missing, Self::Found)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Examining(BTreeMap<SlotKey, Answer>),
    Voiding(BTreeSet<SlotKey>),
    Storing(ManifestRef),
    Done,
}

/// A going back on its way.
#[derive(Clone, Debug)]
pub struct GoingBack {
    phase: Phase,
    head: Head,
    target: (ManifestRef, Manifest),
    tries: TrySource,
}

impl GoingBack {
    /// Gives the number of `head` up because it cannot be used (a).
    ///
    /// A number that was taken by going back is not given up again: the output before it is visible, and the state that
    /// belongs to that output is the damaged one. The job stops by name.
    pub fn forced(
        plan: GoingBackPlan,
        shape: &JobShape,
        tries: TrySource,
    ) -> (Self, Vec<GoingBackEffect>) {
        let GoingBackPlan {
            head,
            target,
            given_up,
        } = plan;
        assert!(
            target.0.name.number < head.number,
            "going back leads to an older state"
        );
        if given_up
            .as_ref()
            .is_some_and(|manifest| manifest.kind == SnapshotKind::Rebased)
        {
            let stop = NamedStop::StateDamaged {
                number: head.number,
            };
            let phase = Phase::Done;
            let machine = Self {
                phase,
                head,
                target,
                tries,
            };
            return (machine, vec![GoingBackEffect::Stop(stop)]);
        }
        let duties = examinations(&head, &target.1, given_up.as_ref(), shape);
        let slots = duties
            .iter()
            .map(|duty| (duty.slot.clone(), Answer::Waiting))
            .collect();
        let mut machine = Self {
            phase: Phase::Examining(slots),
            head,
            target,
            tries,
        };
        let mut effects: Vec<GoingBackEffect> =
            duties.into_iter().map(GoingBackEffect::Examine).collect();
        machine.advance(&mut effects);
        (machine, effects)
    }

    /// Goes to an older state by the user's will (b). Output from `target` up to the number in `head` will appear again.
    ///
    /// # Panics
    /// If output is pending: it is confirmed first, or given up by [`GoingBack::forced`].
    pub fn voluntary(
        head: Head,
        target: (ManifestRef, Manifest),
        tries: TrySource,
    ) -> (Self, Vec<GoingBackEffect>) {
        assert!(
            !head.has_pending_output(),
            "pending output is confirmed before the state goes back"
        );
        let phase = Phase::Voiding(BTreeSet::new());
        let mut machine = Self {
            phase,
            head,
            target,
            tries,
        };
        let mut effects = Vec::new();
        machine.advance(&mut effects);
        (machine, effects)
    }

    /// Ends the machine; the next one of this leadership goes on with its tries.
    pub fn into_tries(self) -> TrySource {
        self.tries.handed_over()
    }

    /// Handles one event. Late and repeated events change nothing.
    pub fn step(&mut self, event: &GoingBackEvent) -> Vec<GoingBackEffect> {
        let mut effects = Vec::new();
        match (&mut self.phase, event) {
            (Phase::Examining(slots), GoingBackEvent::Examined { slot, found }) => {
                if let Some(answer) = slots.get_mut(slot) {
                    *answer = Answer::from(*found);
                }
            }
            (Phase::Examining(slots), GoingBackEvent::Voided(slot)) => {
                if let Some(answer) = slots.get_mut(slot) {
                    *answer = Answer::Found(MarkerKind::Void);
                }
            }
            (Phase::Voiding(slots), GoingBackEvent::Voided(slot)) => {
                slots.remove(slot);
            }
            // A session was lost on the way to its void marker and the new one has read again.
            (Phase::Voiding(slots), GoingBackEvent::Examined { slot, found })
                if slots.contains(slot) =>
            {
                self.examined_again(slot.clone(), *found, &mut effects);
            }
            (Phase::Storing(built), GoingBackEvent::ManifestWritten(name))
                if built.name == *name =>
            {
                let manifest = *built;
                effects.push(GoingBackEffect::WriteHead(HeadChange::Rebase { manifest }));
                self.phase = Phase::Done;
            }
            _ => {}
        }
        self.advance(&mut effects);
        effects
    }

    fn examined_again(
        &mut self,
        slot: SlotKey,
        found: Option<MarkerKind>,
        effects: &mut Vec<GoingBackEffect>,
    ) {
        let id = self.head.checkpoint();
        match found {
            None => effects.push(GoingBackEffect::WriteVoid { slot, id }),
            Some(MarkerKind::Output) => {
                let stop = NamedStop::PartlyCommitted {
                    slot,
                    number: id.number,
                };
                self.phase = Phase::Done;
                effects.push(GoingBackEffect::Stop(stop));
            }
            Some(MarkerKind::Void) => {}
        }
    }

    fn advance(&mut self, effects: &mut Vec<GoingBackEffect>) {
        if let Phase::Examining(slots) = &self.phase {
            let number = self.head.number;
            let output = Answer::Found(MarkerKind::Output);
            if let Some((slot, _)) = slots.iter().find(|(_, found)| **found == output) {
                let stop = NamedStop::PartlyCommitted {
                    slot: slot.clone(),
                    number,
                };
                self.phase = Phase::Done;
                effects.push(GoingBackEffect::Stop(stop));
                return;
            }
            if slots.values().any(|found| *found == Answer::Waiting) {
                return;
            }
            let missing = slots.iter().filter(|(_, found)| **found == Answer::Missing);
            let mut missing: BTreeSet<SlotKey> = missing.map(|(slot, _)| slot.clone()).collect();
            if planted(Mutant::NoVoidMarkers) {
                missing.clear();
            }
            let id = self.head.checkpoint();
            let order = |slot: &SlotKey| GoingBackEffect::WriteVoid {
                slot: slot.clone(),
                id,
            };
            effects.extend(missing.iter().map(order));
            self.phase = Phase::Voiding(missing);
        }
        if matches!(&self.phase, Phase::Voiding(slots) if slots.is_empty()) {
            self.store(effects);
        }
    }

    fn store(&mut self, effects: &mut Vec<GoingBackEffect>) {
        let (target, state) = &self.target;
        let mut manifest = state.clone();
        let reused = planted(Mutant::NumberReused);
        let number = if reused {
            target.name.number
        } else {
            self.tries.number(self.head.number)
        };
        manifest.id = CheckpointId {
            number,
            epoch: self.head.epoch,
        };
        manifest.kind = SnapshotKind::Rebased;
        manifest.parent = if reused { state.parent } else { Some(*target) };
        for sink in manifest.sinks.values_mut() {
            sink.slots
                .values_mut()
                .for_each(|output| *output = SlotOutput::Empty);
        }
        let (bytes, hash) = manifest.encode();
        let nonce = self.tries.draw();
        let name = ManifestName {
            epoch: self.head.epoch,
            number,
            nonce,
        };
        effects.push(GoingBackEffect::WriteManifest { name, bytes, hash });
        self.phase = Phase::Storing(ManifestRef { name, hash });
    }
}

/// One examination for each slot that may have output of the number that is given up.
fn examinations(
    head: &Head,
    target: &Manifest,
    given_up: Option<&Manifest>,
    shape: &JobShape,
) -> Vec<SlotDuty> {
    let mut duties = Vec::new();
    for (sink, &count) in &head.slots {
        let state = given_up.map(|manifest| manifest.sinks.get(sink));
        let from = match state {
            Some(found) => found.map_or(0, |found| found.from),
            None => target.sinks.get(sink).map_or(0, |older| older.from),
        };
        for slot in 0..count {
            let output = state.map(|found| found.and_then(|found| found.slots.get(&slot)));
            let log = match output {
                None => Vec::new(),
                Some(Some(SlotOutput::Log(log))) => log.clone(),
                Some(_) => continue,
            };
            let slot = SlotKey {
                sink: sink.clone(),
                slot,
            };
            let task = performer(&slot, shape);
            let (id, purpose) = (head.checkpoint(), Purpose::Examine);
            duties.push(SlotDuty {
                slot,
                task,
                id,
                log,
                from,
                purpose,
            });
        }
    }
    duties
}
