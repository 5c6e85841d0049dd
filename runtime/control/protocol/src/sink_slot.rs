//! The commit machine of one sink slot: one subtask of one exactly-once sink, with a sink log.
//!
//! Called by the worker's sink driver, which holds the record bytes, the transactional producer and the marker reader.
//! The machine addresses records by [`Position`] only. `Session(n)` decides about n; everything else follows from it:
//!
//! - S1: "marker n is missing" is good only for the session that was opened before the read. Every event of the broker
//!   names its [`SessionNumber`]; one of an older session is ignored. A lost session leads to a new one with a new read.
//! - S2: output, marker and re-publish of a slot use the slot's own id, so opening a session is a sufficient fence.
//! - S3: a barrier is acknowledged only while the last completed checkpoint is confirmed here; until then it waits.
//! - S4: no record of n + 1 is sent before n is confirmed; before the release of a recovery nothing is sent at all.
//! - S5: after an unclear end the leader is asked first; no answer means waiting.
//! - S6: no output means no transaction, no marker and no log: acknowledged as empty, confirmed at once.
//!
//! ```text
//! Open ─barrier─► Preparing ─flushed, logged─► Held ─commit─► Committing ─clear─► Open
//!   │ lost            │ lost                    │ lost            │ unclear
//!   └────────► Dark ◄─┴─────────────────────────┘                 ▼
//!                └─commit─► Asking ─current─► Session ─missing─► Publishing ─clear─► Open
//!                             ▲                  │ lost             │ unclear
//!                             └──────────────────┴──────────────────┘
//! ```

use highwater_types::{CheckpointId, Epoch};

use crate::manifest::{LogObject, SlotOutput};
use crate::mutant::{Mutant, planted};
use crate::stop::SlotKey;

mod ending;
mod events;
mod session;
mod spool;

pub use events::{
    EndAnswer, Marker, MarkerKind, MarkerReading, SessionNumber, SlotEffect, SlotEvent, SlotReport,
};
pub use session::{Claim, LogSource, Purpose, SessionStep};
pub use spool::{Position, RecordRange, Spool};

/// The marker topic of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerTopic {
    /// The id of the topic, as the manifest has it.
    pub id: String,
    /// An offset that no marker which is still of interest lies before.
    pub from: u64,
}

/// What is fixed for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotConfig {
    /// The slot.
    pub key: SlotKey,
    /// The marker topic.
    pub markers: MarkerTopic,
    /// From here on the spool is full: backpressure.
    pub spool_bytes_max: u64,
}

/// A checkpoint and where its output ends in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The checkpoint.
    pub id: CheckpointId,
    /// The first record after its barrier.
    pub at: Position,
    /// A marker offset that was seen before the acknowledgement.
    pub from: u64,
}

/// The transaction of an open slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Txn {
    /// No session: the next transaction needs a new producer epoch.
    Closed,
    /// The session is being opened.
    Opening,
    /// The session is open, no transaction in it.
    Ready,
    /// The transaction holds the spool up to what was sent.
    Ongoing,
}

/// The state of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Records are sent as they come.
    Open {
        /// The transaction.
        txn: Txn,
        /// The first record that was not sent.
        sent: Position,
    },
    /// The barrier has come; the acknowledgement waits for flush and log.
    Preparing {
        /// The checkpoint.
        cut: Cut,
        /// Whether the broker has everything.
        flushed: bool,
        /// The log, once stored.
        log: Option<Vec<LogObject>>,
    },
    /// Acknowledged; the transaction waits for the decision.
    Held {
        /// The checkpoint.
        cut: Cut,
    },
    /// The end of the transaction is on its way.
    Committing {
        /// The checkpoint.
        cut: Cut,
    },
    /// There is no transaction; the log is the only copy outside of this worker.
    Dark {
        /// The checkpoint whose barrier has come, and whether it was acknowledged.
        prepared: Option<(Cut, bool)>,
    },
    /// The leader is asked whether this attempt is current.
    Asking {
        /// What is to be decided.
        claim: Claim,
    },
    /// A session decides whether the output is there.
    Session {
        /// What is to be decided.
        claim: Claim,
        /// How far it is.
        step: SessionStep,
    },
    /// The log is being published in the session that read "missing".
    Publishing {
        /// What is to be decided.
        claim: Claim,
    },
    /// A void marker is being written in the session that read "missing".
    Voiding {
        /// What is to be given up.
        claim: Claim,
    },
    /// The output was given up; the attempt waits to be replaced.
    Voided {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The slot has ended: superseded or stopped by name.
    Ended,
}

/// The machine of one slot.
#[derive(Clone, Debug)]
pub struct SinkSlot {
    config: SlotConfig,
    state: SlotState,
    session: SessionNumber,
    spool: Spool,
    pending: Option<Cut>,
    confirmed: u64,
    seen: u64,
    released: bool,
    newest: Option<Order>,
    given_up: Option<Order>,
}

/// The order of tries: a newer leader's come after all of an older one, whatever their numbers.
type Order = (Epoch, u64);

const fn order(id: CheckpointId) -> Order {
    (id.epoch, id.number)
}

impl SinkSlot {
    /// A slot without output to decide: everything up to `confirmed` is confirmed. Sends nothing before
    /// [`SlotEvent::Released`].
    pub fn start(config: SlotConfig, confirmed: u64) -> Self {
        let state = SlotState::Open {
            txn: Txn::Closed,
            sent: Position::default(),
        };
        Self::with(config, state, confirmed)
    }

    /// A slot whose output of a completed checkpoint is to be decided: begins with `Session(n)` (L5).
    pub fn recover(config: SlotConfig, claim: Claim) -> (Self, Vec<SlotEffect>) {
        let confirmed = claim.id.number.saturating_sub(1);
        let mut slot = Self::with(config, SlotState::Ended, confirmed);
        let mut effects = Vec::new();
        slot.enter_session(claim, &mut effects);
        (slot, effects)
    }

    fn with(config: SlotConfig, state: SlotState, confirmed: u64) -> Self {
        let spool = Spool::new(config.spool_bytes_max);
        let seen = config.markers.from;
        Self {
            config,
            state,
            session: SessionNumber(0),
            spool,
            pending: None,
            confirmed,
            seen,
            released: false,
            newest: None,
            given_up: None,
        }
    }

    /// The state.
    pub const fn state(&self) -> &SlotState {
        &self.state
    }

    /// The slot.
    pub const fn key(&self) -> &SlotKey {
        &self.config.key
    }

    /// The session that effects without a number of their own belong to.
    pub const fn session(&self) -> SessionNumber {
        self.session
    }

    /// The spool's account.
    pub const fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Whether everything that was emitted is confirmed: a sink subtask is finished only then (S6).
    pub fn is_drained(&self) -> bool {
        matches!(self.state, SlotState::Open { .. }) && self.spool.is_empty()
    }

    /// What a new leader asks for (L4).
    pub fn report(&self) -> SlotReport {
        let acked = match &self.state {
            SlotState::Held { cut }
            | SlotState::Committing { cut }
            | SlotState::Dark {
                prepared: Some((cut, true)),
            } => Some(cut.id),
            SlotState::Asking { claim }
            | SlotState::Session { claim, .. }
            | SlotState::Publishing { claim }
            | SlotState::Voiding { claim } => Some(claim.id),
            SlotState::Voided { id } => Some(*id),
            _ => None,
        };
        SlotReport {
            acked,
            confirmed: self.confirmed,
        }
    }

    /// Handles one event. An event that does not belong to the state, the session or the checkpoint at hand is late or
    /// repeated and changes nothing.
    ///
    /// # Panics
    /// If an invariant of the slot does not hold.
    pub fn step(&mut self, event: SlotEvent) -> Vec<SlotEffect> {
        let mut effects = Vec::new();
        if self.state == SlotState::Ended {
            return effects;
        }
        match event {
            SlotEvent::Output { records, bytes } => self.output(records, bytes, &mut effects),
            SlotEvent::Expected => self.spool.expect_barrier(self.newest),
            SlotEvent::Barrier(id) => self.barrier(id, &mut effects),
            SlotEvent::Declined { id } => self.given_up(id),
            SlotEvent::Adopted { epoch, head } => self.adopted(epoch, head),
            SlotEvent::Unled => self.spool.expect_nothing(),
            SlotEvent::Commit { id } => self.commit(id, &mut effects),
            SlotEvent::Flushed { session } => self.flushed(session, &mut effects),
            SlotEvent::LogStored { id, log } => self.log_stored(id, log, &mut effects),
            SlotEvent::LogFailed { id } => self.log_failed(id, &mut effects),
            SlotEvent::TxnLost { session } => self.lost(session, &mut effects),
            SlotEvent::EndTxn { session, answer } => self.ended(session, answer, &mut effects),
            SlotEvent::LeaderSays(authority) => self.leader_says(authority, &mut effects),
            SlotEvent::Released => self.released = true,
            other => self.session_event(other, &mut effects),
        }
        self.pump(&mut effects);
        self.spool.balance(&mut effects);
        self.assert_invariants();
        effects
    }

    fn output(&mut self, records: u32, bytes: u64, effects: &mut Vec<SlotEffect>) {
        let from = self.spool.end();
        self.spool.append(records, bytes);
        if planted(Mutant::SendBeforeConfirmed) && matches!(self.state, SlotState::Held { .. }) {
            effects.push(SlotEffect::Send(RecordRange {
                start: from,
                end: self.spool.end(),
            }));
        }
    }

    fn barrier(&mut self, id: CheckpointId, effects: &mut Vec<SlotEffect>) {
        if self.given_up >= Some(order(id)) {
            // It was on its way when the leader gave it up: nobody would ever decide what is prepared for it.
            return;
        }
        self.newest = self.newest.max(Some(order(id)));
        self.spool.settle(order(id));
        if planted(Mutant::AckUnconfirmed)
            && !matches!(self.state, SlotState::Open { .. } | SlotState::Dark { .. })
        {
            effects.push(SlotEffect::Ack {
                id,
                output: SlotOutput::Empty,
                marker_offset: self.seen,
            });
            return;
        }
        if let SlotState::Preparing { cut, .. } = &self.state {
            // The leader has one checkpoint on its way, and this slot has not acknowledged: it is given up.
            self.declined(cut.id);
        }
        if let SlotState::Dark {
            prepared: prepared @ Some((_, false)),
        } = &mut self.state
        {
            *prepared = None;
        }
        self.pending = Some(Cut {
            id,
            at: self.spool.end(),
            from: self.seen,
        });
    }

    /// The leader has given `id` up: its barrier, and any older one, is not to be prepared if it comes later.
    fn given_up(&mut self, id: CheckpointId) {
        self.newest = self.newest.max(Some(order(id)));
        self.given_up = self.given_up.max(Some(order(id)));
        self.spool.settle(order(id));
        self.declined(id);
    }

    /// A leader of `epoch` goes on with the attempt. Nobody decides any more what older leaders began, except for what is in `head`:
    /// a slot that heard less than others would hold it for ever.
    fn adopted(&mut self, epoch: Epoch, head: CheckpointId) {
        if let Some(before) = epoch.0.checked_sub(1) {
            let last = (Epoch(before), u64::MAX);
            self.newest = self.newest.max(Some(last));
            self.given_up = self.given_up.max(Some(last));
            self.spool.settle(last);
        }
        let cut = match &self.state {
            SlotState::Preparing { cut, .. } | SlotState::Held { cut } => Some(*cut),
            SlotState::Dark { prepared } => prepared.map(|(cut, _)| cut),
            _ => None,
        };
        let cuts = [self.pending, cut].into_iter().flatten();
        let over: Vec<_> = cuts
            .map(|cut| cut.id)
            .filter(|id| id.epoch < epoch && *id != head)
            .collect();
        for id in over {
            self.declined(id);
        }
    }

    fn declined(&mut self, id: CheckpointId) {
        if self.pending.is_some_and(|cut| cut.id == id) {
            self.pending = None;
        }
        match &mut self.state {
            SlotState::Preparing { cut, .. } | SlotState::Held { cut } if cut.id == id => {
                let lost = planted(Mutant::DeclineDropsSpool);
                let sent = if lost { self.spool.end() } else { cut.at };
                self.state = SlotState::Open {
                    txn: Txn::Ongoing,
                    sent,
                };
            }
            SlotState::Dark { prepared } if prepared.is_some_and(|(cut, _)| cut.id == id) => {
                *prepared = None;
            }
            _ => {}
        }
    }

    fn commit(&mut self, id: CheckpointId, effects: &mut Vec<SlotEffect>) {
        if id.number <= self.confirmed {
            effects.push(SlotEffect::ReportConfirmed { id });
            return;
        }
        match self.state.clone() {
            SlotState::Held { cut } if cut.id == id => {
                effects.push(SlotEffect::WriteMarker {
                    number: id.number,
                    kind: MarkerKind::Output,
                });
                effects.push(SlotEffect::EndTxn {
                    session: self.session,
                });
                self.state = SlotState::Committing { cut };
            }
            SlotState::Dark {
                prepared: Some((cut, true)),
            } if cut.id == id => {
                self.ask(self.claim(cut), effects);
            }
            SlotState::Asking { claim } if claim.id == id => {
                effects.push(SlotEffect::AskLeader { id });
            }
            SlotState::Voided { id: voided } if voided == id => {
                effects.push(SlotEffect::ReportVoid { id });
            }
            _ => {}
        }
    }

    fn flushed(&mut self, session: SessionNumber, effects: &mut Vec<SlotEffect>) {
        if session != self.session {
            return;
        }
        if let SlotState::Preparing { flushed, .. } = &mut self.state {
            *flushed = true;
            self.prepared(effects);
        }
    }

    fn log_stored(
        &mut self,
        id: CheckpointId,
        stored: Vec<LogObject>,
        effects: &mut Vec<SlotEffect>,
    ) {
        assert!(
            !stored.is_empty(),
            "output is stored in at least one object"
        );
        match &mut self.state {
            SlotState::Preparing { cut, log, .. } if cut.id == id => {
                *log = Some(stored);
                self.prepared(effects);
            }
            SlotState::Dark {
                prepared: Some((cut, acked)),
            } if cut.id == id && !*acked => {
                *acked = true;
                let marker_offset = cut.from;
                effects.push(SlotEffect::Ack {
                    id,
                    output: SlotOutput::Log(stored),
                    marker_offset,
                });
            }
            _ => {}
        }
    }

    fn prepared(&mut self, effects: &mut Vec<SlotEffect>) {
        let SlotState::Preparing {
            cut,
            flushed: true,
            log,
        } = &mut self.state
        else {
            return;
        };
        let (cut, Some(log)) = (*cut, log.take()) else {
            return;
        };
        let output = SlotOutput::Log(log);
        effects.push(SlotEffect::Ack {
            id: cut.id,
            output,
            marker_offset: cut.from,
        });
        self.state = SlotState::Held { cut };
    }

    fn log_failed(&mut self, id: CheckpointId, effects: &mut Vec<SlotEffect>) {
        let waits = match &self.state {
            SlotState::Preparing { cut, .. }
            | SlotState::Dark {
                prepared: Some((cut, false)),
            } => cut.id == id,
            _ => false,
        };
        if waits {
            effects.push(SlotEffect::Decline { id });
            self.declined(id);
        }
    }

    /// Sends what may be sent and prepares the barrier that waits, as far as the state allows.
    fn pump(&mut self, effects: &mut Vec<SlotEffect>) {
        if !self.released {
            return;
        }
        if let SlotState::Dark { prepared: None } = self.state {
            self.pump_dark(effects);
            return;
        }
        loop {
            let SlotState::Open { txn, sent } = &mut self.state else {
                return;
            };
            let target = self.pending.map_or_else(|| self.spool.end(), |cut| cut.at);
            if *sent < target {
                match *txn {
                    Txn::Closed => {
                        self.session = SessionNumber(self.session.0 + 1);
                        effects.push(SlotEffect::OpenSession {
                            session: self.session,
                        });
                        *txn = Txn::Opening;
                        return;
                    }
                    Txn::Opening => return,
                    Txn::Ready => effects.push(SlotEffect::Begin {
                        session: self.session,
                    }),
                    Txn::Ongoing => {}
                }
                effects.push(SlotEffect::Send(RecordRange {
                    start: *sent,
                    end: target,
                }));
                (*txn, *sent) = (Txn::Ongoing, target);
            }
            let Some(cut) = self.pending.take() else {
                return;
            };
            if self.spool.base() == cut.at {
                effects.push(empty_ack(cut));
                continue;
            }
            let range = RecordRange {
                start: self.spool.base(),
                end: cut.at,
            };
            effects.push(SlotEffect::Flush {
                session: self.session,
            });
            effects.push(SlotEffect::StoreLog { id: cut.id, range });
            self.state = SlotState::Preparing {
                cut,
                flushed: false,
                log: None,
            };
        }
    }

    fn pump_dark(&mut self, effects: &mut Vec<SlotEffect>) {
        let Some(cut) = self.pending.take() else {
            return;
        };
        if self.spool.base() == cut.at {
            effects.push(empty_ack(cut));
            return;
        }
        let range = RecordRange {
            start: self.spool.base(),
            end: cut.at,
        };
        effects.push(SlotEffect::StoreLog { id: cut.id, range });
        self.state = SlotState::Dark {
            prepared: Some((cut, false)),
        };
    }

    fn assert_invariants(&self) {
        let (base, end) = (self.spool.base(), self.spool.end());
        assert!(
            base <= end,
            "the spool of {} ends before it begins",
            self.config.key
        );
        match &self.state {
            SlotState::Open { txn, sent } => {
                assert!(
                    base <= *sent && *sent <= end,
                    "sent is outside of the spool"
                );
                let early =
                    planted(Mutant::DeclineDropsSpool) || planted(Mutant::SendBeforeConfirmed);
                assert!(
                    *sent == base || *txn == Txn::Ongoing || early,
                    "sent without a transaction"
                );
            }
            SlotState::Preparing { cut, .. }
            | SlotState::Held { cut }
            | SlotState::Committing { cut }
            | SlotState::Dark {
                prepared: Some((cut, _)),
            } => {
                assert!(
                    base < cut.at && cut.at <= end,
                    "held output is outside of the spool"
                );
                assert!(
                    cut.id.number > self.confirmed,
                    "{} is held but confirmed",
                    cut.id
                );
            }
            _ => {}
        }
    }
}

fn empty_ack(cut: Cut) -> SlotEffect {
    SlotEffect::Ack {
        id: cut.id,
        output: SlotOutput::Empty,
        marker_offset: cut.from,
    }
}

#[cfg(test)]
#[path = "sink_slot/tests.rs"]
mod tests;
