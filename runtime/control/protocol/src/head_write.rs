//! Head writes: one conditional write at a time, decided only by its own nonce or by a newer value (rule L1), or, when it
//! was sent once, by the store's word that it was not applied.
//!
//! Called by the leader's driver, which puts and reads the object. [`HeadWrite`] is the machine of one transition;
//! [`HeadKeeper`] holds the settled value and hands it out only while no write is undecided, so that nothing can be
//! derived from an undecided head. One nonce per transition: a retry sends the same body.

use std::fmt;
use std::sync::Arc;

use highwater_types::{ErrorKind, Nonce};
use serde::{Deserialize, Serialize};

use crate::head::{Head, HeadChange};
use crate::mutant::{Mutant, planted};

/// The version tag that the store gave to an object (its ETag).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionTag(pub Arc<str>);

impl fmt::Display for VersionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A body of `head` and the tag under which the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The body.
    pub head: Head,
    /// The tag.
    pub tag: VersionTag,
}

/// The answer to a conditional put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// A clear success.
    Applied(VersionTag),
    /// The condition does not hold: 412, or "exists" for a create. May be the echo of an own retry.
    Precondition,
    /// Timeout, connection lost, 5xx, 409: it may have been applied or may be applied later.
    Ambiguous,
    /// This put was certainly not applied. Of the transition that decides only if it was never sent before: an earlier
    /// put of it may land yet.
    Refused(Refusal),
}

/// What the store says to a request that it did not fulfil and never will as things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What helps: `Transient` = to wait, everything else = to mend something.
    pub kind: ErrorKind,
    /// The object, the operation and the store's words.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The object.
    Value(Box<Versioned>),
    /// There is no object.
    Absent,
    /// There is an object, and it is no head: damaged at rest.
    Corrupt(String),
    /// No answer, or a refusal to answer.
    Failed,
}

/// What wakes a head write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadWriteEvent {
    /// The answer to the put.
    Put(PutOutcome),
    /// The answer to the read.
    Read(ReadOutcome),
    /// The leader no longer wants the transition: win with another body, then decline.
    Contest {
        /// The nonce of the other body. Ignored when a contest runs already.
        nonce: Nonce,
    },
}

/// What the driver does for a head write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadWriteEffect {
    /// Puts `body`, if the object still has `if_match` (`None` = if there is no object). The driver backs off by
    /// `tries`, which counts from 1.
    Put {
        /// The body.
        body: Box<Head>,
        /// The condition.
        if_match: Option<VersionTag>,
        /// How often this transition was sent, this one included.
        tries: u32,
    },
    /// Reads the object. The driver backs off by `tries`.
    Read {
        /// How often it was read since the last answer, this time included: counts from 1.
        tries: u32,
    },
    /// The write is decided.
    Decided(HeadOutcome),
}

/// How a head write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadOutcome {
    /// The transition is in `head`.
    Won(Box<Versioned>),
    /// The transition can never land any more; `head` has the same number under a higher counter.
    Declined(Box<Versioned>),
    /// Somebody else has written: this leader is deposed.
    Superseded(Box<Versioned>),
    /// The transition was sent once and the store refused it for good, without applying it: it can never land, and
    /// `head` is what it was before.
    Refused(Refusal),
    /// The object is gone: somebody deleted it.
    Vanished,
    /// The object is damaged: whether the transition has landed cannot be known. Says what is wrong.
    Corrupt(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    Putting,
    Reading,
    Decided,
}

/// One transition of `head` on its way.
#[derive(Clone, Debug)]
pub struct HeadWrite {
    base: Option<Versioned>,
    body: Head,
    rival: Option<Head>,
    state: WriteState,
    sending_rival: bool,
    tries: u32,
    reads: u32,
}

impl HeadWrite {
    /// Starts a transition from `base` (`None` = creates the object).
    pub fn start(base: Option<Versioned>, body: Head) -> (Self, Vec<HeadWriteEffect>) {
        if let Some(base) = &base {
            assert!(
                body.follows(&base.head).is_ok() || planted(Mutant::NumberReused),
                "a head write follows the settled value"
            );
        }
        let mut write = Self {
            base,
            body,
            rival: None,
            state: WriteState::Putting,
            sending_rival: false,
            tries: 0,
            reads: 0,
        };
        let effects = vec![write.put()];
        (write, effects)
    }

    /// Whether the write is decided.
    pub fn is_decided(&self) -> bool {
        self.state == WriteState::Decided
    }

    /// Handles one event.
    ///
    /// # Panics
    /// If an answer comes that was not asked for, or a create is contested: a driver has one request on its way.
    pub fn step(&mut self, event: HeadWriteEvent) -> Vec<HeadWriteEffect> {
        match (self.state, event) {
            (WriteState::Putting, HeadWriteEvent::Put(PutOutcome::Applied(tag))) => {
                let (head, rival) = self.sent();
                let won = Box::new(Versioned {
                    head: head.clone(),
                    tag,
                });
                self.decide(if rival {
                    HeadOutcome::Declined(won)
                } else {
                    HeadOutcome::Won(won)
                })
            }
            // L1 stands: what was never applied and never sent before can never land.
            (WriteState::Putting, HeadWriteEvent::Put(PutOutcome::Refused(refusal)))
                if self.is_decided_by(&refusal) =>
            {
                self.decide(HeadOutcome::Refused(refusal))
            }
            (WriteState::Putting, HeadWriteEvent::Put(_)) => {
                self.state = WriteState::Reading;
                vec![self.look()]
            }
            (WriteState::Reading, HeadWriteEvent::Read(outcome)) => self.read(outcome),
            (WriteState::Decided, HeadWriteEvent::Contest { .. }) => Vec::new(),
            (_, HeadWriteEvent::Contest { nonce }) => {
                self.contest(nonce);
                Vec::new()
            }
            (state, event) => panic!("head write in {state:?} was not waiting for {event:?}"),
        }
    }

    fn sent(&self) -> (&Head, bool) {
        match &self.rival {
            Some(rival) if self.sending_rival => (rival, true),
            _ => (&self.body, false),
        }
    }

    /// Whether a refusal of the put that was just sent decides the transition.
    fn is_decided_by(&self, refusal: &Refusal) -> bool {
        let first = self.tries == 1 || planted(Mutant::RefusalDecides);
        first && refusal.kind != ErrorKind::Transient
    }

    fn look(&mut self) -> HeadWriteEffect {
        self.reads += 1;
        HeadWriteEffect::Read { tries: self.reads }
    }

    fn put(&mut self) -> HeadWriteEffect {
        self.state = WriteState::Putting;
        self.tries += 1;
        self.sending_rival = self.rival.is_some();
        if planted(Mutant::NoncePerRetry) && self.tries > 1 && !self.sending_rival {
            self.body.nonce = Nonce(self.body.nonce.0 ^ u128::from(self.tries) << 64);
        }
        HeadWriteEffect::Put {
            body: Box::new(self.sent().0.clone()),
            if_match: self.base.as_ref().map(|base| base.tag.clone()),
            tries: self.tries,
        }
    }

    fn read(&mut self, outcome: ReadOutcome) -> Vec<HeadWriteEffect> {
        if outcome != ReadOutcome::Failed {
            self.reads = 0;
        }
        match outcome {
            ReadOutcome::Failed => vec![self.look()],
            ReadOutcome::Corrupt(reason) => self.decide(HeadOutcome::Corrupt(reason)),
            ReadOutcome::Absent if self.base.is_none() => vec![self.put()],
            ReadOutcome::Absent => self.decide(HeadOutcome::Vanished),
            ReadOutcome::Value(found) => {
                if found.head.nonce == self.body.nonce {
                    return self.decide(HeadOutcome::Won(found));
                }
                if self
                    .rival
                    .as_ref()
                    .is_some_and(|rival| rival.nonce == found.head.nonce)
                {
                    return self.decide(HeadOutcome::Declined(found));
                }
                let old = self
                    .base
                    .as_ref()
                    .is_some_and(|base| base.head.nonce == found.head.nonce);
                if old && self.rival.is_some() && planted(Mutant::OldValueDecides) {
                    return self.decide(HeadOutcome::Declined(found));
                }
                if old {
                    vec![self.put()]
                } else {
                    self.decide(HeadOutcome::Superseded(found))
                }
            }
        }
    }

    fn contest(&mut self, nonce: Nonce) {
        let base = self
            .base
            .as_ref()
            .expect("a create is never contested: there is nothing to keep");
        if self.rival.is_none() {
            self.rival = Some(base.head.changed(&HeadChange::Touch, nonce));
        }
    }

    fn decide(&mut self, outcome: HeadOutcome) -> Vec<HeadWriteEffect> {
        self.state = WriteState::Decided;
        vec![HeadWriteEffect::Decided(outcome)]
    }
}

/// The leader's hold on `head`: the settled value, or one write on its way.
#[derive(Clone, Debug)]
pub struct HeadKeeper {
    settled: Option<Versioned>,
    write: Option<HeadWrite>,
    deposed: bool,
}

impl HeadKeeper {
    /// A keeper that has read `head` (`None` = there is none).
    pub const fn new(read: Option<Versioned>) -> Self {
        Self {
            settled: read,
            write: None,
            deposed: false,
        }
    }

    /// The settled value. `None` while a write is undecided, before the first one, and once deposed: then nothing may
    /// be derived from head.
    pub fn settled(&self) -> Option<&Versioned> {
        if self.write.is_some() || self.deposed {
            None
        } else {
            self.settled.as_ref()
        }
    }

    /// Whether somebody newer owns the job.
    pub const fn is_deposed(&self) -> bool {
        self.deposed
    }

    /// Whether a write is on its way.
    pub const fn is_writing(&self) -> bool {
        self.write.is_some()
    }

    /// Starts to create the object.
    ///
    /// # Panics
    /// If there is an object or a write on its way.
    pub fn create(&mut self, first: Head) -> Vec<HeadWriteEffect> {
        assert!(
            self.settled.is_none() && self.write.is_none(),
            "head is created once"
        );
        let (write, effects) = HeadWrite::start(None, first);
        self.write = Some(write);
        effects
    }

    /// Starts a transition.
    ///
    /// # Panics
    /// If another one is on its way (L1), or there is no settled value.
    pub fn begin(&mut self, change: &HeadChange, nonce: Nonce) -> Vec<HeadWriteEffect> {
        assert!(self.write.is_none(), "one head write at a time");
        assert!(!self.deposed, "a deposed leader writes nothing");
        let base = self
            .settled
            .clone()
            .expect("a change has a settled value to follow");
        let body = base.head.changed(change, nonce);
        let (write, effects) = HeadWrite::start(Some(base), body);
        self.write = Some(write);
        effects
    }

    /// Handles one event. The effects hold at most one [`HeadWriteEffect::Decided`], after which
    /// [`HeadKeeper::settled`] answers again, unless deposed.
    pub fn step(&mut self, event: HeadWriteEvent) -> Vec<HeadWriteEffect> {
        let Some(write) = &mut self.write else {
            let contest = matches!(event, HeadWriteEvent::Contest { .. });
            assert!(contest, "no head write is on its way, yet {event:?} came");
            return Vec::new();
        };
        let effects = write.step(event);
        if let Some(HeadWriteEffect::Decided(outcome)) = effects.last() {
            self.write = None;
            match outcome {
                HeadOutcome::Won(value) | HeadOutcome::Declined(value) => {
                    self.settled = Some(value.as_ref().clone());
                }
                // The value before the transition is settled again.
                HeadOutcome::Refused(_) => {}
                HeadOutcome::Superseded(_) | HeadOutcome::Vanished | HeadOutcome::Corrupt(_) => {
                    self.deposed = true;
                }
            }
        }
        effects
    }
}

/// The answer of a leader to a worker that asks whether its attempt is current (S5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Authority {
    /// The leader has just read its own epoch in `head`, and the attempt is one of its own.
    Current,
    /// A newer leader or a newer attempt owns the slot: end, touch nothing.
    Superseded,
}

/// What a leader of `epoch` may say after it has read `found` in `head`; `None` = it must not answer (deposed, its
/// successor will).
pub fn authority(
    found: &Head,
    epoch: highwater_types::Epoch,
    is_current: bool,
) -> Option<Authority> {
    (found.epoch == epoch).then_some(if is_current {
        Authority::Current
    } else {
        Authority::Superseded
    })
}

#[cfg(test)]
#[path = "head_write/tests.rs"]
mod tests;
