//! The `head` object: the one mutable object of a job, its only authority on leadership and completion.
//!
//! Called by the leader's head writes and by everyone who reads the store. Each body follows from the one before it by
//! one [`HeadChange`]; [`Head::changed`] is the only constructor of a successor and asserts the rules of the chain:
//! epoch, number, confirmed and slots never fall inside a lineage, the counter rises by one, the nonce is new.

use std::collections::BTreeMap;

use highwater_types::{
    CheckpointId, Classified, Epoch, ErrorKind, JobIdentity, Lineage, Nonce, OperatorUid,
};
use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::mutant::{Mutant, planted};
use crate::paths::ManifestName;
use crate::sealed::{SealError, SealKind, seal, unseal};

const FORMAT: u32 = 4;
const KIND: SealKind = SealKind {
    what: "head object",
    format: FORMAT,
    bytes_max: 1 << 20,
};

/// The highest number of slots that each sink ever used.
pub type SlotCounts = BTreeMap<OperatorUid, u32>;

/// A manifest and the hash of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRef {
    /// The name.
    pub name: ManifestName,
    /// The hash of the whole object.
    pub hash: ContentHash,
}

/// The savepoint that a lineage went on from: what makes taking it a second time a plain resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The folder of the savepoint.
    pub savepoint: String,
    /// The hash of its manifest.
    pub hash: ContentHash,
    /// The number under which its state was taken.
    pub taken_as: u64,
}

/// The choice to give a checkpoint up: none of its output was visible when it was made, and none may be published since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivingUp {
    /// The manifest that is given up: the one in `head`.
    pub given_up: ManifestRef,
    /// The checkpoint whose state takes its place.
    pub to: ManifestRef,
}

/// How a job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobEnd {
    /// All input was processed and all output confirmed.
    Finished,
    /// Stopped with its state and all output confirmed.
    Stopped,
}

/// The body of `head`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    format: u32,
    written_by: Box<str>,
    /// The job.
    pub identity: JobIdentity,
    /// The line of checkpoints.
    pub lineage: Lineage,
    /// The current leadership.
    pub epoch: Epoch,
    /// The last completed checkpoint.
    pub number: u64,
    /// Its manifest.
    pub manifest: ManifestRef,
    /// The completed checkpoint before it: where *Going back* leads if the manifest cannot be read. `None` = there is
    /// none that may take its place.
    #[serde(default)]
    pub previous: Option<Box<ManifestRef>>,
    /// The savepoint that was taken last, if any.
    #[serde(default)]
    pub origin: Option<Box<Origin>>,
    /// The number is being given up, whatever its files look like now; ends with the number that takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub giving_up: Option<Box<GivingUp>>,
    /// The job has ended in this epoch: nothing follows but the next leadership, which takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<JobEnd>,
    /// Raised by one with every write.
    pub counter: u64,
    /// The nonce of the transition that wrote this body.
    pub nonce: Nonce,
    /// The highest number of slots that each sink ever used.
    pub slots: SlotCounts,
    /// The newest number whose output is known to be confirmed in every slot.
    pub confirmed: u64,
}

/// One transition of `head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadChange {
    /// A new leader takes the job (R2). Raises `slots` to what its graph uses.
    TakeOver {
        /// The slots that the new leader's graph uses.
        slots: SlotCounts,
    },
    /// Checkpoint `manifest.name.number` is complete (P8).
    Complete {
        /// Its manifest.
        manifest: ManifestRef,
        /// The newest number that is confirmed once this write lands.
        confirmed: u64,
        /// The slots that may be used from it on (L6): empty unless it rescales.
        slots: SlotCounts,
    },
    /// All output of the current number is confirmed (L7).
    Confirm,
    /// The job has ended: everything is confirmed and, if a savepoint was asked for, copied (L7). The last write of an epoch.
    End(JobEnd),
    /// More slots will be used (L6).
    RaiseSlots {
        /// The slots that will be used.
        slots: SlotCounts,
    },
    /// None of the number's output is visible, and none is published from now on: goes before the first void marker.
    GiveUp {
        /// The checkpoint whose state will take its place.
        to: ManifestRef,
    },
    /// The number is given up: the next number has the state of an older one (*Going back*).
    Rebase {
        /// The manifest of the new number, with the older state and no pending output.
        manifest: ManifestRef,
        /// The savepoint that the state is from; `None` = it is an older checkpoint's.
        origin: Option<Box<Origin>>,
    },
    /// Nothing but counter and nonce: makes an undecided older write impossible (L1).
    Touch,
    /// A new lineage takes the identity (`--fresh`, or a fork from a savepoint).
    Restart {
        /// The new lineage.
        lineage: Lineage,
        /// Its checkpoint 0.
        manifest: ManifestRef,
        /// The slots that its graph uses.
        slots: SlotCounts,
        /// The savepoint that it goes on from.
        origin: Option<Box<Origin>>,
    },
}

impl Head {
    /// The first body of a lineage, with checkpoint 0 (the resolved source positions), in the epoch of its manifest.
    pub fn first(
        identity: JobIdentity,
        lineage: Lineage,
        manifest: ManifestRef,
        slots: SlotCounts,
        nonce: Nonce,
    ) -> Self {
        assert_eq!(
            manifest.name.number, 0,
            "a lineage begins with checkpoint 0"
        );
        Self {
            format: FORMAT,
            written_by: Box::from(env!("CARGO_PKG_VERSION")),
            identity,
            lineage,
            epoch: manifest.name.epoch,
            number: 0,
            manifest,
            previous: None,
            origin: None,
            giving_up: None,
            ended: None,
            counter: 1,
            nonce,
            slots,
            confirmed: 0,
        }
    }

    /// The same body for a lineage that goes on from a savepoint.
    #[must_use]
    pub fn from_savepoint(mut self, origin: Option<Box<Origin>>) -> Self {
        self.origin = origin;
        self
    }

    /// The last completed checkpoint: its number and the epoch that took it.
    pub const fn checkpoint(&self) -> CheckpointId {
        self.manifest.name.id()
    }

    /// Whether output of the current number may still be unconfirmed.
    pub const fn has_pending_output(&self) -> bool {
        self.confirmed < self.number
    }

    /// The body that follows by `change`.
    ///
    /// # Panics
    /// If the change breaks a rule of the chain: the machines above never ask for that.
    #[must_use]
    pub fn changed(&self, change: &HeadChange, nonce: Nonce) -> Self {
        assert_ne!(nonce, self.nonce, "a nonce belongs to one transition");
        let mut next = self.successor(nonce);
        match change {
            HeadChange::TakeOver { slots } => {
                next.epoch = self.epoch.next();
                raise(&mut next.slots, slots);
            }
            HeadChange::Complete {
                manifest,
                confirmed,
                slots,
            } => {
                assert_eq!(
                    manifest.name.epoch, self.epoch,
                    "a leader completes its own tries"
                );
                next.number = manifest.name.number;
                next.previous = Some(Box::new(self.manifest));
                next.manifest = *manifest;
                next.giving_up = None;
                next.confirmed = *confirmed;
                raise(&mut next.slots, slots);
            }
            HeadChange::Confirm => next.confirmed = self.number,
            HeadChange::End(end) => next.ended = Some(*end),
            HeadChange::RaiseSlots { slots } => raise(&mut next.slots, slots),
            HeadChange::GiveUp { to } => {
                next.giving_up = Some(Box::new(GivingUp {
                    given_up: self.manifest,
                    to: *to,
                }));
            }
            HeadChange::Rebase { manifest, origin } => {
                next.number = manifest.name.number;
                next.giving_up = None;
                // What was visible before belongs to this state and to no older one.
                next.previous = None;
                next.manifest = *manifest;
                next.confirmed = manifest.name.number;
                if origin.is_some() {
                    next.origin.clone_from(origin);
                }
            }
            HeadChange::Touch => {}
            HeadChange::Restart {
                lineage,
                manifest,
                slots,
                origin,
            } => {
                assert_ne!(
                    *lineage, self.lineage,
                    "a new start has a lineage of its own"
                );
                next.lineage = *lineage;
                next.epoch = self.epoch.next();
                next.number = 0;
                next.previous = None;
                next.giving_up = None;
                next.origin.clone_from(origin);
                next.manifest = *manifest;
                next.slots = slots.clone();
                next.confirmed = 0;
            }
        }
        if let Err(fault) = next.follows(self) {
            let excused = planted(Mutant::NumberReused);
            assert!(excused, "head {self:?} may not become {next:?}: {fault}");
        }
        next
    }

    /// The next body before any change. An end is of its own write, and nothing inherits it.
    fn successor(&self, nonce: Nonce) -> Self {
        Self {
            format: FORMAT,
            written_by: Box::from(env!("CARGO_PKG_VERSION")),
            counter: self.counter + 1,
            nonce,
            ended: None,
            ..self.clone()
        }
    }

    /// Checks that this body may follow `before`; the error names the broken rule.
    pub fn follows(&self, before: &Self) -> Result<(), &'static str> {
        let rule = |holds: bool, name: &'static str| if holds { Ok(()) } else { Err(name) };
        rule(self.identity == before.identity, "the identity changed")?;
        rule(
            self.counter == before.counter + 1,
            "the counter did not rise by one",
        )?;
        rule(self.nonce != before.nonce, "the nonce was used before")?;
        rule(self.epoch >= before.epoch, "the epoch fell")?;
        rule(self.epoch.0 <= before.epoch.0 + 1, "the epoch skipped")?;
        rule(
            self.manifest.name.number == self.number,
            "the manifest is of another number",
        )?;
        rule(
            self.confirmed <= self.number,
            "confirmed is ahead of the number",
        )?;
        self.ends_after(before)?;
        if self.lineage != before.lineage {
            rule(self.epoch > before.epoch, "a lineage began inside an epoch")?;
            return rule(
                self.number == 0,
                "a lineage did not begin with checkpoint 0",
            );
        }
        rule(self.number >= before.number, "the number fell")?;
        rule(self.confirmed >= before.confirmed, "confirmed fell")?;
        let kept = |(sink, count): (&OperatorUid, &u32)| self.slots.get(sink) >= Some(count);
        rule(before.slots.iter().all(kept), "the slots of a sink fell")?;
        let same_number = self.number == before.number;
        let same_manifest = self.manifest == before.manifest;
        rule(
            same_number == same_manifest,
            "a number was used for two manifests",
        )?;
        let moved = !same_number;
        let previous = if moved {
            self.previous
                .as_deref()
                .is_none_or(|previous| *previous == before.manifest)
        } else {
            self.previous == before.previous
        };
        rule(
            previous,
            "the checkpoint before is not the one that was in head",
        )?;
        rule(
            !moved || self.epoch == before.epoch,
            "number and epoch changed in one write",
        )?;
        self.gives_up_after(before)
    }

    /// Checks what this body says of the end of the job against `before`.
    fn ends_after(&self, before: &Self) -> Result<(), &'static str> {
        let rule = |holds: bool, name: &'static str| if holds { Ok(()) } else { Err(name) };
        if self.epoch > before.epoch {
            return rule(
                self.ended.is_none(),
                "a leadership began with the end of the job",
            );
        }
        rule(
            before.ended.is_none(),
            "a leader went on with a job that it had ended",
        )?;
        if self.ended.is_none() {
            return Ok(());
        }
        rule(
            self.ends_soundly(),
            "a job ended with output that is not confirmed",
        )?;
        let is_alone = self.manifest == before.manifest
            && self.confirmed == before.confirmed
            && self.slots == before.slots;
        rule(is_alone, "the end of the job came with something else")
    }

    /// Whether nothing is left to do for a job that has ended.
    fn ends_soundly(&self) -> bool {
        self.ended.is_none() || !self.has_pending_output() && self.giving_up.is_none()
    }

    /// Checks what this body says of giving up against `before`, in the same lineage.
    fn gives_up_after(&self, before: &Self) -> Result<(), &'static str> {
        let rule = |holds: bool, name: &'static str| if holds { Ok(()) } else { Err(name) };
        let was = before.giving_up.is_some();
        if self.number != before.number {
            rule(self.giving_up.is_none(), "a new number is given up already")?;
            let took_its_place = self.previous.is_none() && self.confirmed == self.number;
            return rule(
                !was || took_its_place,
                "a checkpoint completed on one that was being given up",
            );
        }
        rule(
            !was || self.giving_up == before.giving_up,
            "a choice to give up was taken back",
        )?;
        rule(
            !was || self.confirmed == before.confirmed,
            "output that was being given up was confirmed",
        )?;
        rule(
            self.giving_up.is_none() || was || self.epoch == before.epoch,
            "a takeover gave a number up",
        )?;
        rule(
            self.gives_up_soundly(),
            "what is given up is not the number in head",
        )
    }

    fn gives_up_soundly(&self) -> bool {
        self.giving_up.as_deref().is_none_or(|choice| {
            choice.given_up == self.manifest && choice.to.name.number < self.number
        })
    }

    /// The bytes of the object.
    pub fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        let head: Self = unseal(KIND, bytes)?;
        let sound = JobIdentity::parse(head.identity.as_str()).is_ok()
            && head
                .slots
                .keys()
                .all(|sink| OperatorUid::parse(sink.as_str()).is_ok())
            && head.confirmed <= head.number
            && head.manifest.name.number == head.number
            && head
                .previous
                .as_deref()
                .is_none_or(|previous| previous.name.number < head.number)
            && head.gives_up_soundly()
            && head.ends_soundly()
            && head.counter > 0;
        if sound {
            Ok(head)
        } else {
            Err(HeadError::Unsound {
                counter: head.counter,
            })
        }
    }
}

fn raise(slots: &mut SlotCounts, wanted: &SlotCounts) {
    for (sink, &count) in wanted {
        let entry = slots.entry(sink.clone()).or_insert(0);
        *entry = count.max(*entry);
    }
}

/// Why `head` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The bytes are not sound.
    #[error("the head object cannot be read")]
    Seal(#[from] SealError),
    /// The checksum holds but the values contradict each other.
    #[error(
        "the head object with counter {counter} contradicts itself; it was edited by hand, restore it"
    )]
    Unsound {
        /// Its counter.
        counter: u64,
    },
}

impl Classified for HeadError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Seal(error) => error.kind(),
            Self::Unsound { .. } => ErrorKind::Corrupt,
        }
    }
}

#[cfg(test)]
#[path = "head/tests.rs"]
mod tests;
