//! How a transaction of a slot ends: lost, clear, unclear, and what the leader says to it.
//!
//! Called by [`super::SinkSlot`]. Only a clear success confirms. Everything else asks the leader first (S5) and then
//! decides in a new session.

use highwater_types::CheckpointId;

use super::events::{EndAnswer, SessionNumber, SlotEffect};
use super::session::{Claim, LogSource, Purpose};
use super::spool::RecordRange;
use super::{Cut, SinkSlot, SlotState, Txn};
use crate::head_write::Authority;
use crate::mutant::{Mutant, planted};
use crate::stop::NamedStop;

impl SinkSlot {
    /// The transaction or the session is lost: a send error, fencing, a timeout, or older than half its timeout.
    pub(super) fn lost(&mut self, session: SessionNumber, effects: &mut Vec<SlotEffect>) {
        if session != self.session {
            return;
        }
        match self.state.clone() {
            SlotState::Open { txn, .. } if txn != Txn::Closed => {
                if txn == Txn::Ongoing {
                    effects.push(SlotEffect::Abort { session });
                }
                self.state = SlotState::Dark { prepared: None };
            }
            SlotState::Preparing { cut, log, .. } => {
                effects.push(SlotEffect::Abort { session });
                self.state = SlotState::Dark {
                    prepared: Some((cut, false)),
                };
                if let Some(log) = log {
                    self.log_stored(cut.id, log, effects);
                }
            }
            SlotState::Held { cut } => {
                effects.push(SlotEffect::Abort { session });
                self.state = SlotState::Dark {
                    prepared: Some((cut, true)),
                };
            }
            SlotState::Committing { cut } => self.unclear(self.claim(cut), effects),
            SlotState::Session { claim, .. }
            | SlotState::Publishing { claim }
            | SlotState::Voiding { claim } => self.ask(claim, effects),
            SlotState::Open { .. }
            | SlotState::Dark { .. }
            | SlotState::Asking { .. }
            | SlotState::Voided { .. }
            | SlotState::Ended => {}
        }
    }

    pub(super) fn ended(
        &mut self,
        session: SessionNumber,
        answer: EndAnswer,
        effects: &mut Vec<SlotEffect>,
    ) {
        if session != self.session {
            return;
        }
        let success = match answer {
            EndAnswer::Committed { marker_offset } => {
                self.seen = self.seen.max(marker_offset);
                true
            }
            EndAnswer::Unclear => planted(Mutant::UnclearIsSuccess),
        };
        match (self.state.clone(), success) {
            (SlotState::Committing { cut }, true) => self.confirm(&self.claim(cut), effects),
            (SlotState::Committing { cut }, false) => self.unclear(self.claim(cut), effects),
            (SlotState::Publishing { claim }, true) => self.confirm(&claim, effects),
            (SlotState::Voiding { claim }, true) => self.voided(claim.id, effects),
            (SlotState::Publishing { claim } | SlotState::Voiding { claim }, false) => {
                self.ask(claim, effects);
            }
            _ => {}
        }
    }

    fn unclear(&mut self, claim: Claim, effects: &mut Vec<SlotEffect>) {
        if planted(Mutant::FencedIsDropped) {
            self.confirm(&claim, effects);
        } else {
            self.ask(claim, effects);
        }
    }

    pub(super) fn claim(&self, cut: Cut) -> Claim {
        let range = RecordRange {
            start: self.spool.base(),
            end: cut.at,
        };
        Claim {
            id: cut.id,
            upto: cut.at,
            from: cut.from,
            source: LogSource::Spool(range),
            purpose: Purpose::Confirm,
        }
    }

    pub(super) fn ask(&mut self, claim: Claim, effects: &mut Vec<SlotEffect>) {
        effects.push(SlotEffect::AskLeader { id: claim.id });
        self.state = SlotState::Asking { claim };
    }

    pub(super) fn leader_says(&mut self, authority: Authority, effects: &mut Vec<SlotEffect>) {
        let SlotState::Asking { claim } = &self.state else {
            return;
        };
        match authority {
            Authority::Current => self.enter_session(claim.clone(), effects),
            Authority::Superseded => {
                effects.push(SlotEffect::EndAttempt);
                self.state = SlotState::Ended;
            }
        }
    }

    pub(super) fn confirm(&mut self, claim: &Claim, effects: &mut Vec<SlotEffect>) {
        assert!(
            claim.id.number > self.confirmed,
            "checkpoint {} is confirmed twice",
            claim.id
        );
        self.confirmed = claim.id.number;
        self.spool.release(claim.upto);
        effects.push(SlotEffect::ReportConfirmed { id: claim.id });
        effects.push(SlotEffect::ReleaseSpool { upto: claim.upto });
        let same_epoch = planted(Mutant::SameProducerEpoch);
        let txn = if same_epoch { Txn::Ready } else { Txn::Closed };
        let early = planted(Mutant::SendBeforeConfirmed);
        let sent = if early {
            self.spool.end()
        } else {
            self.spool.base()
        };
        self.state = SlotState::Open { txn, sent };
    }

    pub(super) fn voided(&mut self, id: CheckpointId, effects: &mut Vec<SlotEffect>) {
        effects.push(SlotEffect::ReportVoid { id });
        self.state = SlotState::Voided { id };
    }

    pub(super) fn stop(&mut self, stop: NamedStop, effects: &mut Vec<SlotEffect>) {
        effects.push(SlotEffect::Stop(stop));
        self.state = SlotState::Ended;
    }
}
