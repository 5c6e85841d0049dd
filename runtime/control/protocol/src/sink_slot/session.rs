//! `Session(n)`: decides in one producer session whether the output of n is there, and publishes it if it is not.
//!
//! Called by [`super::SinkSlot`]. The rule S1 is the order of the steps: open the session, write a sync record, read up
//! to it, then act in this same session. A session that is lost on the way decides nothing.

use highwater_types::CheckpointId;
use serde::{Deserialize, Serialize};

use super::events::{MarkerKind, MarkerReading, SessionNumber, SlotEffect, SlotEvent};
use super::spool::{Position, RecordRange};
use super::{SinkSlot, SlotState, Txn};
use crate::manifest::LogObject;
use crate::mutant::{Mutant, planted};
use crate::stop::{MarkerFault, NamedStop, RefusedPart};

/// Where the bytes of a log are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// In the spool of this attempt.
    Spool(RecordRange),
    /// In the store, in order.
    Stored(Vec<LogObject>),
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The output is to be visible.
    Confirm,
    /// *Going back*: find out whether the output is visible, without publishing it.
    Examine,
}

/// The output that is to be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The completed checkpoint.
    pub id: CheckpointId,
    /// Where its output ends in the spool of this attempt; zero after a recovery.
    pub upto: Position,
    /// The offset from which markers are read.
    pub from: u64,
    /// Its log.
    pub source: LogSource,
    /// What the session is for.
    pub purpose: Purpose,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStep {
    /// The session is being opened.
    Opening,
    /// The sync record is on its way.
    Syncing,
    /// The markers are being read.
    Reading,
    /// Examined: the marker is missing, the leader decides.
    Missing,
    /// Examined: the output is visible, the leader decides.
    Visible,
}

impl SinkSlot {
    pub(super) fn enter_session(&mut self, claim: Claim, effects: &mut Vec<SlotEffect>) {
        self.session = SessionNumber(self.session.0 + 1);
        let session = self.session;
        if planted(Mutant::ReadBeforeSession) && claim.purpose == Purpose::Confirm {
            effects.push(SlotEffect::WriteSync { session });
            self.state = SlotState::Session {
                claim,
                step: SessionStep::Syncing,
            };
            return;
        }
        effects.push(SlotEffect::OpenSession { session });
        self.state = SlotState::Session {
            claim,
            step: SessionStep::Opening,
        };
    }

    pub(super) fn session_event(&mut self, event: SlotEvent, effects: &mut Vec<SlotEffect>) {
        match event {
            SlotEvent::Opened { session } if session == self.session => self.opened(effects),
            SlotEvent::SyncWritten { session } if session == self.session => {
                if let SlotState::Session {
                    claim,
                    step: step @ SessionStep::Syncing,
                } = &mut self.state
                {
                    *step = SessionStep::Reading;
                    effects.push(SlotEffect::ReadMarkers {
                        session,
                        from: claim.from,
                    });
                }
            }
            SlotEvent::MarkersRead { session, reading } if session == self.session => {
                self.markers_read(&reading, effects);
            }
            SlotEvent::MarkersLost { session, reason } if session == self.session => {
                self.markers_lost(reason, effects);
            }
            SlotEvent::WriteVoid { id } => self.write_void(id, effects),
            SlotEvent::LogUnreadable => {
                if let SlotState::Publishing { claim } = &self.state {
                    let (slot, number) = (self.config.key.clone(), claim.id.number);
                    self.stop(NamedStop::SinkLogDamaged { slot, number }, effects);
                }
            }
            SlotEvent::RecordRefused { reason } => self.refused(reason, effects),
            SlotEvent::SessionRefused { session, reason } if session == self.session => {
                let opening = matches!(
                    &self.state,
                    SlotState::Open {
                        txn: Txn::Opening,
                        ..
                    } | SlotState::Session {
                        step: SessionStep::Opening,
                        ..
                    }
                );
                if opening {
                    let slot = self.config.key.clone();
                    self.stop(NamedStop::SessionRefused { slot, reason }, effects);
                }
            }
            _ => {}
        }
    }

    /// The outside refuses for good. Before the checkpoint is acknowledged the job stops with the state before it, which
    /// a corrected program can go on from; once the output is in the log of a completed checkpoint only the sink can be
    /// corrected, and a stop decides nothing about it. In between, with the checkpoint undecided or its commit unclear,
    /// nothing is concluded: a session decides.
    fn refused(&mut self, reason: String, effects: &mut Vec<SlotEffect>) {
        let slot = self.config.key.clone();
        let published = |number, part, reason| NamedStop::SinkRefused {
            slot: slot.clone(),
            number,
            part,
            reason,
        };
        match &self.state {
            SlotState::Session { .. } => {
                self.stop(NamedStop::SessionRefused { slot, reason }, effects);
            }
            SlotState::Publishing { claim } => {
                let stop = published(claim.id.number, RefusedPart::Record, reason);
                self.stop(stop, effects);
            }
            SlotState::Voiding { claim } => {
                let stop = published(claim.id.number, RefusedPart::VoidMarker, reason);
                self.stop(stop, effects);
            }
            SlotState::Open { txn, .. } if *txn == Txn::Closed => {}
            SlotState::Open { .. } | SlotState::Preparing { .. } => {
                let session = self.session;
                effects.push(SlotEffect::Abort { session });
                self.stop(NamedStop::RecordRefused { slot, reason }, effects);
            }
            SlotState::Dark {
                prepared: None | Some((_, false)),
            } => self.stop(NamedStop::RecordRefused { slot, reason }, effects),
            _ => {}
        }
    }

    fn opened(&mut self, effects: &mut Vec<SlotEffect>) {
        let session = self.session;
        match &mut self.state {
            SlotState::Open {
                txn: txn @ Txn::Opening,
                ..
            } => *txn = Txn::Ready,
            SlotState::Session {
                step: step @ SessionStep::Opening,
                ..
            } => {
                *step = SessionStep::Syncing;
                effects.push(SlotEffect::WriteSync { session });
            }
            SlotState::Session {
                claim,
                step: SessionStep::Missing,
            } if claim.purpose == Purpose::Confirm
                && (planted(Mutant::ReadBeforeSession) || planted(Mutant::PublishInNewSession)) =>
            {
                let claim = claim.clone();
                self.publish(claim, effects);
            }
            _ => {}
        }
    }

    /// Only a reading that was asked for decides about the output.
    fn markers_read(&mut self, reading: &MarkerReading, effects: &mut Vec<SlotEffect>) {
        if let SlotState::Session {
            claim,
            step: SessionStep::Reading,
        } = &self.state
        {
            self.judge(claim.clone(), reading, effects);
        }
    }

    /// Without its markers no output of this slot can be decided any more. So nothing that is not acknowledged may be: with
    /// it the checkpoint could complete, and nobody could ever confirm it. What is acknowledged, or whose end is unclear,
    /// waits for its session, which finds the same.
    fn markers_lost(&mut self, reason: String, effects: &mut Vec<SlotEffect>) {
        match &self.state {
            SlotState::Session { .. }
            | SlotState::Publishing { .. }
            | SlotState::Voiding { .. }
            | SlotState::Dark {
                prepared: None | Some((_, false)),
            } => {}
            SlotState::Open { txn, .. } if *txn == Txn::Closed => return,
            SlotState::Open { .. } | SlotState::Preparing { .. } => {
                let session = self.session;
                effects.push(SlotEffect::Abort { session });
            }
            _ => return,
        }
        let (slot, reason) = (self.config.key.clone(), MarkerFault::Unusable { reason });
        self.stop(NamedStop::MarkerLost { slot, reason }, effects);
    }

    fn judge(&mut self, claim: Claim, reading: &MarkerReading, effects: &mut Vec<SlotEffect>) {
        let slot = self.config.key.clone();
        if let Some(reason) = self.fault(claim.from, reading) {
            self.stop(NamedStop::MarkerLost { slot, reason }, effects);
            return;
        }
        let number = claim.id.number;
        if let Some(ahead) = reading.markers.iter().find(|marker| marker.number > number) {
            let marker = ahead.number;
            self.stop(
                NamedStop::StateBehindOutput {
                    slot,
                    marker,
                    head: number,
                },
                effects,
            );
            return;
        }
        self.seen = self.seen.max(reading.end);
        let found = reading
            .markers
            .iter()
            .filter(|marker| marker.number == number);
        let found = found.map(|marker| marker.kind).min();
        match (claim.purpose, found) {
            (Purpose::Confirm, Some(MarkerKind::Output)) => self.confirm(&claim, effects),
            (_, Some(MarkerKind::Void)) => self.voided(claim.id, effects),
            (Purpose::Confirm, None) => self.missing(claim, effects),
            (Purpose::Examine, found) => {
                effects.push(SlotEffect::ReportExamined {
                    id: claim.id,
                    found,
                });
                let visible = found.is_some();
                let step = if visible {
                    SessionStep::Visible
                } else {
                    SessionStep::Missing
                };
                self.state = SlotState::Session { claim, step };
            }
        }
    }

    fn missing(&mut self, claim: Claim, effects: &mut Vec<SlotEffect>) {
        if planted(Mutant::ReadBeforeSession) || planted(Mutant::PublishInNewSession) {
            self.session = SessionNumber(self.session.0 + 1);
            effects.push(SlotEffect::OpenSession {
                session: self.session,
            });
            self.state = SlotState::Session {
                claim,
                step: SessionStep::Missing,
            };
            return;
        }
        self.publish(claim, effects);
    }

    fn fault(&self, from: u64, reading: &MarkerReading) -> Option<MarkerFault> {
        let MarkerReading {
            topic, start, end, ..
        } = reading;
        if *topic != self.config.markers.id {
            let expected = self.config.markers.id.clone();
            return Some(MarkerFault::Replaced {
                expected,
                found: topic.clone(),
            });
        }
        if *end < from {
            return Some(MarkerFault::Cut { from, end: *end });
        }
        (*start > from).then_some(MarkerFault::Truncated {
            from,
            start: *start,
        })
    }

    fn publish(&mut self, claim: Claim, effects: &mut Vec<SlotEffect>) {
        let session = self.session;
        let number = claim.id.number;
        effects.push(SlotEffect::Begin { session });
        effects.push(SlotEffect::Publish(claim.source.clone()));
        effects.push(SlotEffect::WriteMarker {
            number,
            kind: MarkerKind::Output,
        });
        effects.push(SlotEffect::EndTxn { session });
        self.state = SlotState::Publishing { claim };
    }

    fn write_void(&mut self, id: CheckpointId, effects: &mut Vec<SlotEffect>) {
        match &self.state {
            SlotState::Session {
                claim,
                step: SessionStep::Missing,
            } if claim.id == id && claim.purpose == Purpose::Examine => {
                let (session, claim) = (self.session, claim.clone());
                effects.push(SlotEffect::Begin { session });
                effects.push(SlotEffect::WriteMarker {
                    number: id.number,
                    kind: MarkerKind::Void,
                });
                effects.push(SlotEffect::EndTxn { session });
                self.state = SlotState::Voiding { claim };
            }
            SlotState::Voided { id: voided } if *voided == id => {
                effects.push(SlotEffect::ReportVoid { id });
            }
            _ => {}
        }
    }
}
