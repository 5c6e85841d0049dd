//! *Going back*: the newest checkpoint cannot be used, the job goes on from an older one under a new number.
//!
//! Called by the leader's driver while no task runs. The rule: an output that is visible is never rewound, and an
//! output that is given up can never become visible later. Each slot with a log examines in a session of its own; if
//! none found output, one conditional write of `head` makes the choice; then each commits a void marker in that same
//! session, and one more write takes the older state. Whoever leads after the choice goes on from there, even if the file
//! that was damaged is whole again: where one slot is void, the output of the others may no longer be published.
//! The number never falls (schedule 8): the new one was never tried before, has the older state and no pending output.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::CheckpointId;
use serde::{Deserialize, Serialize};

use super::SavepointFacts;
use super::compat::unreachable_markers;
use super::region::{SlotDuty, performer};
use crate::hash::ContentHash;
use crate::head::{Head, HeadChange, ManifestRef, Origin};
use crate::job::JobShape;
use crate::manifest::{Manifest, SlotOutput, SnapshotKind};
use crate::mutant::{Mutant, planted};
use crate::nonce::TrySource;
use crate::paths::ManifestName;
use crate::sink_slot::{MarkerKind, Purpose};
use crate::source_start::base;
use crate::stop::{NamedStop, SlotKey};

/// Why a number is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Its state or its manifest cannot be used, or a void marker was met: it cannot be gone on from.
    State,
    /// A log of its output cannot be read. Where output is visible already, the logs that are still needed may be whole.
    Log,
}

/// What is given up and what takes its place.
#[derive(Clone, Debug)]
pub struct GoingBackPlan {
    /// The settled head; its number is given up.
    pub head: Head,
    /// The older state and the name of its manifest, see [`return_of`]. S3 has confirmed its output.
    pub target: (ManifestRef, Manifest),
    /// The manifest of the number that is given up, if it can be read. If not, every slot up to `head.slots` examines.
    pub given_up: Option<Manifest>,
    /// Why it is given up.
    pub fault: Fault,
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
    /// `head` says that the number is given up.
    ChoiceDurable,
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
    /// Makes the choice durable: nothing is void before it is decided.
    MakeChoice(HeadChange),
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
    /// Takes the older state; afterwards the job recovers from `head` as always.
    WriteHead(HeadChange),
    /// Output is visible and only a log is damaged: the region recovers as always, and each slot decides by its own
    /// markers whether it needs its log.
    Recover,
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
    /// All are examined, none has found output; the choice is on its way into `head`.
    Choosing(BTreeMap<SlotKey, Answer>),
    Voiding(BTreeSet<SlotKey>),
    Storing(ManifestRef),
    Done,
}

/// A going back on its way.
#[derive(Clone, Debug)]
pub struct GoingBack {
    phase: Phase,
    head: Head,
    target: Target,
    fault: Fault,
    tries: TrySource,
}

/// The older state.
#[derive(Clone, Debug)]
struct Target {
    state: Manifest,
    /// The manifest that it comes after; `None` = a savepoint, which lies elsewhere.
    parent: Option<ManifestRef>,
    origin: Option<Box<Origin>>,
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
            target: (reference, state),
            given_up,
            fault,
        } = plan;
        assert!(
            reference.name.number < head.number,
            "going back leads to an older state"
        );
        let chosen = head.giving_up.as_deref();
        assert!(
            chosen.is_none_or(|chosen| chosen.to == reference),
            "a choice that is durable is carried out as it was made"
        );
        // Where it was made nothing may be confirmed any more, whatever led to it.
        let fault = chosen.map_or(fault, |_| Fault::State);
        let duties = if given_up
            .as_ref()
            .is_some_and(|manifest| manifest.kind == SnapshotKind::Rebased)
        {
            Err(NamedStop::StateDamaged {
                number: head.number,
            })
        } else {
            examinations(&head, &state, given_up.as_ref(), shape)
        };
        let mut machine = Self {
            phase: Phase::Done,
            head,
            target: Target {
                state,
                parent: Some(reference),
                origin: None,
            },
            fault,
            tries,
        };
        let effects = machine.examine(duties);
        (machine, effects)
    }

    /// Gives the number of `head` up, as `head` has chosen, and puts a savepoint in its place: the checkpoint that was
    /// chosen to take it is not needed, and may be damaged. `state` names files of the job, as in
    /// [`GoingBack::voluntary`].
    ///
    /// # Panics
    /// If `head` has not chosen: the checkpoint before is the choice then, if it is made at all.
    pub fn replaced(
        (head, given_up): (Head, &Manifest),
        state: Manifest,
        savepoint: &SavepointFacts,
        shape: &JobShape,
        tries: TrySource,
    ) -> (Self, Vec<GoingBackEffect>) {
        assert!(
            head.giving_up.is_some(),
            "nothing is void before head says that it is given up"
        );
        let duties = examinations(&head, given_up, Some(given_up), shape);
        let origin = Origin::from((savepoint, tries.peek(head.number)));
        let mut machine = Self {
            phase: Phase::Done,
            head,
            target: Target {
                state,
                parent: None,
                origin: Some(Box::new(origin)),
            },
            fault: Fault::State,
            tries,
        };
        let effects = machine.examine(duties);
        (machine, effects)
    }

    fn examine(&mut self, duties: Result<Vec<SlotDuty>, NamedStop>) -> Vec<GoingBackEffect> {
        let duties = match duties {
            Ok(duties) => duties,
            Err(stop) => return vec![GoingBackEffect::Stop(stop)],
        };
        let slots = duties
            .iter()
            .map(|duty| (duty.slot.clone(), Answer::Waiting))
            .collect();
        self.phase = Phase::Examining(slots);
        let mut effects: Vec<GoingBackEffect> =
            duties.into_iter().map(GoingBackEffect::Examine).collect();
        self.advance(&mut effects);
        effects
    }

    /// Takes the state of a savepoint by the user's will (b). `state` names files of the job; what came after it up to
    /// the number in `head` will appear again. That it was taken is part of the same head write.
    ///
    /// # Panics
    /// If output is pending: it is confirmed first, or given up by [`GoingBack::forced`].
    pub fn voluntary(
        head: Head,
        state: Manifest,
        savepoint: &SavepointFacts,
        tries: TrySource,
    ) -> (Self, Vec<GoingBackEffect>) {
        assert!(
            !head.has_pending_output(),
            "pending output is confirmed before the state goes back"
        );
        let origin = Origin::from((savepoint, tries.peek(head.number)));
        let mut machine = Self {
            phase: Phase::Voiding(BTreeSet::new()),
            head,
            target: Target {
                state,
                parent: None,
                origin: Some(Box::new(origin)),
            },
            fault: Fault::State,
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
            (
                Phase::Examining(slots) | Phase::Choosing(slots),
                GoingBackEvent::Examined { slot, found },
            ) => {
                if let Some(answer) = slots.get_mut(slot) {
                    *answer = Answer::from(*found);
                }
            }
            (Phase::Examining(slots) | Phase::Choosing(slots), GoingBackEvent::Voided(slot)) => {
                if let Some(answer) = slots.get_mut(slot) {
                    *answer = Answer::Found(MarkerKind::Void);
                }
            }
            (Phase::Choosing(slots), GoingBackEvent::ChoiceDurable) => {
                let slots = std::mem::take(slots);
                self.fault = Fault::State;
                self.give_up(&slots, &mut effects);
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
                let change = HeadChange::Rebase {
                    manifest: *built,
                    origin: self.target.origin.clone(),
                };
                effects.push(GoingBackEffect::WriteHead(change));
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
            Some(MarkerKind::Output) => self.visible(slot, effects),
            Some(MarkerKind::Void) => {}
        }
    }

    fn visible(&mut self, slot: SlotKey, effects: &mut Vec<GoingBackEffect>) {
        self.phase = Phase::Done;
        effects.push(match self.fault {
            Fault::Log => GoingBackEffect::Recover,
            Fault::State => GoingBackEffect::Stop(NamedStop::PartlyCommitted {
                slot,
                number: self.head.number,
                giving_up: self.head.giving_up.is_some(),
            }),
        });
    }

    fn advance(&mut self, effects: &mut Vec<GoingBackEffect>) {
        if let Phase::Examining(slots) = &self.phase {
            let output = Answer::Found(MarkerKind::Output);
            if let Some((slot, _)) = slots.iter().find(|(_, found)| **found == output) {
                return self.visible(slot.clone(), effects);
            }
            if slots.values().any(|found| *found == Answer::Waiting) {
                return;
            }
            let slots = slots.clone();
            let is_void = |found: &Answer| *found == Answer::Found(MarkerKind::Void);
            // Without a void marker to write there is nothing to choose: nothing is pending, or all of it is void.
            let chosen = self.head.giving_up.is_some() || slots.values().all(is_void);
            match self.target.parent {
                Some(to) if !chosen && !planted(Mutant::GiveUpNotDurable) => {
                    effects.push(GoingBackEffect::MakeChoice(HeadChange::GiveUp { to }));
                    self.phase = Phase::Choosing(slots);
                }
                _ => self.give_up(&slots, effects),
            }
        }
        if matches!(&self.phase, Phase::Voiding(slots) if slots.is_empty()) {
            self.store(effects);
        }
    }

    /// Every slot that is not void yet becomes so.
    fn give_up(&mut self, slots: &BTreeMap<SlotKey, Answer>, effects: &mut Vec<GoingBackEffect>) {
        let output = Answer::Found(MarkerKind::Output);
        if let Some((slot, _)) = slots.iter().find(|(_, found)| **found == output) {
            return self.visible(slot.clone(), effects);
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

    fn store(&mut self, effects: &mut Vec<GoingBackEffect>) {
        let Target { state, parent, .. } = &self.target;
        let mut manifest = state.clone();
        let reused = planted(Mutant::NumberReused);
        let number = if reused {
            state.id.number
        } else {
            self.tries.number(self.head.number)
        };
        manifest.id = CheckpointId {
            number,
            epoch: self.head.epoch,
        };
        manifest.kind = SnapshotKind::Rebased;
        // The copy was of the number that it was asked for at: the driver says that it is not made any more.
        manifest.savepoint = None;
        manifest.parent = if reused { state.parent } else { *parent };
        // The starts of sources that were added since belong to it as long as it comes back, and they are durable.
        manifest.set_starts(manifest.parent.map(|parent| base(state, parent.name)));
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

/// The checkpoint to which `head` can go back: what was chosen before, or else what the manifest that is given up comes
/// after, or else, if it cannot be read, what `head` had before it. `None` = none may take its place.
pub fn return_of(head: &Head, given_up: Option<&Manifest>) -> Option<ManifestRef> {
    match (head.giving_up.as_deref(), given_up) {
        (Some(chosen), _) => Some(chosen.to),
        (None, Some(manifest)) => manifest.parent,
        (None, None) => head.previous.as_deref().copied(),
    }
}

/// One examination for each slot that may have output of the number that is given up.
///
/// # Errors
/// With the stop, if output is known to be visible, or if a slot cannot be examined in this graph.
fn examinations(
    head: &Head,
    target: &Manifest,
    given_up: Option<&Manifest>,
    shape: &JobShape,
) -> Result<Vec<SlotDuty>, NamedStop> {
    let mut duties = Vec::new();
    for (sink, &count) in &head.slots {
        let known = given_up.unwrap_or(target).sinks.get(sink);
        for slot in (0..count).map(|slot| SlotKey {
            sink: sink.clone(),
            slot,
        }) {
            let log = match given_up {
                None => Vec::new(),
                Some(_) => match known.and_then(|known| known.slots.get(&slot.slot)) {
                    Some(SlotOutput::Log(log)) => log.clone(),
                    _ => continue,
                },
            };
            let number = head.number;
            if !log.is_empty() && !head.has_pending_output() {
                // `head` says that all of it is visible: nobody needs to ask.
                return Err(NamedStop::PartlyCommitted {
                    slot,
                    number,
                    giving_up: false,
                });
            }
            if let Some(stop) = unreachable_markers(&slot, number, known, shape) {
                return Err(stop);
            }
            duties.push(SlotDuty {
                task: performer(&slot, shape),
                slot,
                id: head.checkpoint(),
                log,
                from: known.map_or(0, |known| known.from),
                purpose: Purpose::Examine,
            });
        }
    }
    Ok(duties)
}
