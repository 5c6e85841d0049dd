//! Performs the effects of one slot machine against its output target, in order, on a thread of its own.
//!
//! The one rule: what the machine asks for is done or its failure is told to the machine. Nothing is retried, skipped or
//! guessed here; the only loop is that an unanswered question and a lost session wait a moment before the next try. A
//! panic, e.g. of a target, is told to the worker like any other failure.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

use highwater_connectors::{
    Marker as TargetMarker, MarkerKind as TargetKind, MarkerPosition, OutputBatch, OutputTarget,
    TargetError,
};
use highwater_operators::SinkReport;
use highwater_protocol::hash::ContentHash;
use highwater_protocol::manifest::{FileEntry, LogObject, SlotOutput};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths;
use highwater_protocol::recovery::SlotDuty;
use highwater_protocol::sink_slot::{
    Claim, EndAnswer, LogSource, Marker, MarkerKind, MarkerReading, Position, RecordRange,
    SessionNumber, SinkSlot, SlotConfig, SlotEffect, SlotEvent, SlotState, Txn,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::NamedStop;
use highwater_types::{AttemptId, CheckpointId, Epoch};

use crate::clock::Clock;
use crate::sink::log::{LogStore, LogStoreError};
use crate::sink::mailbox::{SinkControl, SinkLetter, SinkMailbox};
use crate::sink::spool::SpoolBytes;
use crate::slot::{error_chain as chain, panic_message};
use crate::worker::{StopHook, WorkerInput, give};

/// How long a driver waits for letters before it looks at what is due.
const IDLE_WAIT: Duration = Duration::from_millis(500);
/// How long a lost session waits before the next one is opened, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What a driver tells its worker.
#[derive(Debug)]
pub enum SinkEvent {
    /// The barrier is acknowledged for this slot.
    Ack {
        /// The checkpoint.
        id: CheckpointId,
        /// The output of the slot.
        output: SlotOutput,
        /// A marker position seen before.
        marker_offset: u64,
    },
    /// The slot cannot take part in the checkpoint.
    Decline(CheckpointId),
    /// The output of the checkpoint is visible.
    Confirmed(CheckpointId),
    /// The output of the checkpoint was given up.
    Voided(CheckpointId),
    /// An examination found a marker, or none.
    Examined(CheckpointId, Option<MarkerKind>),
    /// Is this attempt current?
    AskLeader(CheckpointId),
    /// The spool is half full: a checkpoint is wanted.
    RequestCheckpoint,
    /// A newer attempt owns the slot.
    Superseded,
    /// The job must stop.
    Stop(NamedStop),
    /// The driver panicked and is gone.
    Panicked(String),
}

/// How a slot begins.
pub enum SlotStart {
    /// Nothing is to be decided.
    Confirmed(u64),
    /// The output of a completed checkpoint is to be decided first.
    Recover(Claim),
}

impl SlotStart {
    /// How a slot begins that has this duty, or none, when checkpoint `number` is restored.
    pub fn of(duty: Option<&SlotDuty>, number: u64) -> Self {
        let Some(duty) = duty else {
            return Self::Confirmed(number);
        };
        Self::Recover(Claim {
            id: duty.id,
            upto: Position::default(),
            from: duty.from,
            source: LogSource::Stored(duty.log.clone()),
            purpose: duty.purpose,
        })
    }
}

/// What a driver is made of.
pub struct DriverParts {
    /// The slot machine's configuration.
    pub config: SlotConfig,
    /// How it begins.
    pub start: SlotStart,
    /// The door to the outside.
    pub target: Box<dyn OutputTarget>,
    /// Where logs are kept.
    pub log: Box<dyn LogStore>,
    /// Names logs.
    pub nonces: NonceStream,
    /// The leadership and attempt that markers carry.
    pub owner: (Epoch, AttemptId),
    /// Letters.
    pub mailbox: SinkMailbox,
    /// Where events go.
    pub events: SyncSender<WorkerInput>,
    /// Measures, for figures only: no decision looks at it.
    pub clock: Arc<dyn Clock>,
    /// Told of each protocol step right before it is performed.
    pub stop: StopHook,
}

/// Starts the driver thread. It ends after `Close`, after a stop, or when the worker is gone.
///
/// # Errors
/// When the operating system gives no thread.
pub fn spawn(parts: DriverParts) -> std::io::Result<JoinHandle<()>> {
    let name = format!("sink-{}", parts.config.key);
    std::thread::Builder::new()
        .name(name)
        .spawn(move || guarded(parts))
}

/// Runs a driver: the boundary at which a panic becomes a report.
fn guarded(parts: DriverParts) {
    let (events, attempt, slot) = (
        parts.events.clone(),
        parts.owner.1,
        parts.config.key.clone(),
    );
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| Driver::run(parts))) {
        let event = SinkEvent::Panicked(panic_message(panic.as_ref()));
        give(
            &events,
            WorkerInput::Sink {
                attempt,
                slot,
                event,
            },
        );
    }
}

/// The rest between failed rounds of one slot: longer after each, until a transaction is committed.
struct Pace {
    next: Duration,
    due: Duration,
}

impl Pace {
    const fn new() -> Self {
        Self {
            next: BACKOFF.0,
            due: Duration::ZERO,
        }
    }

    /// The round has failed; the next session waits. Once per round, however many of its calls fail.
    fn failed(&mut self) {
        if self.due.is_zero() {
            self.due = self.next;
            self.next = (self.next * 2).min(BACKOFF.1);
        }
    }

    /// Waits what is due before a new round, or until the attempt is over.
    fn rest(&mut self, mailbox: &SinkMailbox) {
        let due = std::mem::take(&mut self.due);
        if !due.is_zero() {
            mailbox.rest(due);
        }
    }
}

struct Driver {
    slot: SinkSlot,
    target: Box<dyn OutputTarget>,
    log: Box<dyn LogStore>,
    nonces: NonceStream,
    owner: (Epoch, AttemptId),
    mailbox: SinkMailbox,
    events: SyncSender<WorkerInput>,
    spool: SpoolBytes,
    effects: VecDeque<SlotEffect>,
    marker: Option<TargetMarker>,
    asking: Option<CheckpointId>,
    pace: Pace,
    clock: Arc<dyn Clock>,
    counted: SinkReport,
    /// The checkpoint whose commit was ordered and is not confirmed, and when.
    ordered: Option<(CheckpointId, Duration)>,
    stop: StopHook,
    life: Life,
}

/// Whether the driver goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    On,
    Over,
}

impl Driver {
    fn run(parts: DriverParts) {
        let (slot, first) = match parts.start {
            SlotStart::Confirmed(number) => (SinkSlot::start(parts.config, number), Vec::new()),
            SlotStart::Recover(claim) => SinkSlot::recover(parts.config, claim),
        };
        let mut driver = Self {
            slot,
            target: parts.target,
            log: parts.log,
            nonces: parts.nonces,
            owner: parts.owner,
            mailbox: parts.mailbox,
            events: parts.events,
            spool: SpoolBytes::default(),
            effects: first.into(),
            marker: None,
            asking: None,
            pace: Pace::new(),
            clock: parts.clock,
            counted: SinkReport::default(),
            ordered: None,
            stop: parts.stop,
            life: Life::On,
        };
        driver.perform();
        while driver.life == Life::On {
            match driver.mailbox.receive(IDLE_WAIT, &driver.figures()) {
                Some(letter) => driver.letter(letter),
                None => driver.ask_again(),
            }
        }
    }

    fn letter(&mut self, letter: SinkLetter) {
        let event = match letter {
            SinkLetter::Output(batch) => {
                let (records, bytes) = (batch.count() as u32, batch.bytes().len() as u64);
                self.spool.append(batch);
                SlotEvent::Output { records, bytes }
            }
            SinkLetter::Barrier(id) => {
                // The pre-commit of this slot; the snapshot of its chain is announced by the task.
                (self.stop)(Step::P4);
                SlotEvent::Barrier(id)
            }
            SinkLetter::Control(control) => match self.control(control) {
                Some(event) => event,
                None => return,
            },
        };
        self.tell(event);
        self.perform();
    }

    /// What a letter says to the machine; `None` = nothing any more.
    fn control(&mut self, control: SinkControl) -> Option<SlotEvent> {
        Some(match control {
            SinkControl::Close => {
                self.life = Life::Over;
                return None;
            }
            SinkControl::Expected => SlotEvent::Expected,
            SinkControl::Declined(id) => SlotEvent::Declined { id },
            SinkControl::Adopted(epoch, head) => SlotEvent::Adopted { epoch, head },
            SinkControl::Unled => SlotEvent::Unled,
            SinkControl::Commit(id) => {
                self.commit_ordered(id);
                SlotEvent::Commit { id }
            }
            SinkControl::LeaderSays(authority) => {
                self.asking = None;
                SlotEvent::LeaderSays(authority)
            }
            SinkControl::Released => SlotEvent::Released,
            SinkControl::WriteVoid(id) => SlotEvent::WriteVoid { id },
        })
    }

    fn tell(&mut self, event: SlotEvent) {
        self.effects.extend(self.slot.step(event));
    }

    /// An order that is repeated is measured from the first; of what is confirmed already there is nothing to measure.
    fn commit_ordered(&mut self, id: CheckpointId) {
        let is_new = self.ordered.is_none_or(|(known, _)| known != id);
        if is_new && id.number > self.slot.report().confirmed {
            self.ordered = Some((id, self.clock.elapsed()));
        }
    }

    /// The output of a checkpoint is visible.
    fn commit_confirmed(&mut self, id: CheckpointId) {
        if let Some((_, at)) = self.ordered.take_if(|(ordered, _)| *ordered == id) {
            self.counted.commits += 1;
            let took = self.clock.elapsed().saturating_sub(at);
            self.counted.commit_times.observe(took);
        }
    }

    /// What the slot thread is told for metrics.
    fn figures(&self) -> SinkReport {
        let (base, end) = (self.slot.spool().base(), self.slot.spool().end());
        let in_transaction = matches!(
            self.slot.state(),
            SlotState::Open {
                txn: Txn::Ongoing,
                ..
            } | SlotState::Preparing { .. }
                | SlotState::Held { .. }
                | SlotState::Committing { .. }
                | SlotState::Publishing { .. }
                | SlotState::Voiding { .. }
        );
        SinkReport {
            open_transactions: u64::from(in_transaction),
            pending_records: end.record - base.record,
            spool_bytes: self.slot.spool().bytes(),
            is_dark: matches!(self.slot.state(), SlotState::Dark { .. }),
            ..self.counted
        }
    }

    fn ask_again(&mut self) {
        if let Some(id) = self.asking {
            self.send(SinkEvent::AskLeader(id));
        }
    }

    fn send(&mut self, event: SinkEvent) {
        let (attempt, slot) = (self.owner.1, self.slot.key().clone());
        if self
            .events
            .send(WorkerInput::Sink {
                attempt,
                slot,
                event,
            })
            .is_err()
        {
            // The worker is gone, and with it the attempt: nobody may commit for it any more.
            self.life = Life::Over;
        }
    }

    /// Performs effects until none is left; what they bring about may ask for more.
    fn perform(&mut self) {
        while let Some(effect) = self.effects.pop_front() {
            if self.life == Life::Over {
                return;
            }
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: SlotEffect) {
        match effect {
            SlotEffect::OpenSession { session } => self.open_session(session),
            SlotEffect::Begin { session } => {
                let begun = self.target.begin();
                self.or_lost(session, begun);
            }
            SlotEffect::Send(range) => self.send_range(range),
            SlotEffect::Flush { session } => self.flush(session),
            SlotEffect::StoreLog { id, range } => self.store_log(id, range),
            SlotEffect::WriteMarker { number, kind } => self.marker = Some(self.mark(number, kind)),
            SlotEffect::EndTxn { session } => self.end_transaction(session),
            SlotEffect::Abort { session } => {
                if let Err(error) = self.target.abort() {
                    tracing::debug!(slot = %self.slot.key(), session = session.0, %error, "abort");
                }
            }
            SlotEffect::WriteSync { session } => match self.target.write_sync() {
                Ok(()) => self.tell(SlotEvent::SyncWritten { session }),
                Err(error) => self.lost(session, &error),
            },
            SlotEffect::ReadMarkers { session, from } => self.read_markers(session, from),
            SlotEffect::Publish(source) => self.publish(source),
            SlotEffect::ReleaseSpool { upto } => {
                for batch in self.spool.release(upto) {
                    self.mailbox.recycle(batch);
                }
            }
            SlotEffect::HoldInput => self.mailbox.hold(true),
            SlotEffect::ResumeInput => self.mailbox.hold(false),
            other => self.report(other),
        }
    }

    fn report(&mut self, effect: SlotEffect) {
        let event = match effect {
            SlotEffect::Ack {
                id,
                output,
                marker_offset,
            } => SinkEvent::Ack {
                id,
                output,
                marker_offset,
            },
            SlotEffect::Decline { id } => SinkEvent::Decline(id),
            SlotEffect::AskLeader { id } => {
                self.asking = Some(id);
                SinkEvent::AskLeader(id)
            }
            SlotEffect::ReportConfirmed { id } => {
                self.commit_confirmed(id);
                SinkEvent::Confirmed(id)
            }
            SlotEffect::ReportVoid { id } => SinkEvent::Voided(id),
            SlotEffect::ReportExamined { id, found } => SinkEvent::Examined(id, found),
            SlotEffect::RequestCheckpoint => SinkEvent::RequestCheckpoint,
            SlotEffect::EndAttempt => SinkEvent::Superseded,
            SlotEffect::Stop(stop) => SinkEvent::Stop(stop),
            performed => unreachable!("{performed:?} is performed, not reported"),
        };
        let last = matches!(event, SinkEvent::Superseded | SinkEvent::Stop(_));
        self.send(event);
        if last {
            self.life = Life::Over;
        }
    }

    fn open_session(&mut self, session: SessionNumber) {
        self.pace.rest(&self.mailbox);
        if self.mailbox.is_closed() {
            // Whoever comes next opens a session of its own; this one would fence it.
            return;
        }
        match self.target.open_session() {
            Ok(()) => self.tell(SlotEvent::Opened { session }),
            Err(error) => {
                if let TargetError::Refused(cause) = &error {
                    let reason = chain(cause);
                    self.tell(SlotEvent::SessionRefused { session, reason });
                }
                self.lost(session, &error);
            }
        }
    }

    fn or_lost(&mut self, session: SessionNumber, result: Result<(), TargetError>) {
        if let Err(error) = result {
            self.lost(session, &error);
        }
    }

    fn lost(&mut self, session: SessionNumber, error: &TargetError) {
        self.drop_pending();
        self.pace.failed();
        let reason = chain(error);
        tracing::warn!(slot = %self.slot.key(), session = session.0, reason, "session lost");
        self.named(session, error);
        self.tell(SlotEvent::TxnLost { session });
        self.mailbox.show(&self.figures());
    }

    /// Tells what no further try can help against. The machine stops for it where the record is in no acknowledged
    /// checkpoint, where the markers were read and the output was missing, or where the markers are to be read;
    /// everywhere else a new session decides first.
    fn named(&mut self, session: SessionNumber, error: &TargetError) {
        match error {
            TargetError::Refused(cause) => {
                let reason = chain(cause);
                self.tell(SlotEvent::RecordRefused { reason });
            }
            TargetError::MarkerLost(cause) => {
                let reason = chain(cause);
                self.tell(SlotEvent::MarkersLost { session, reason });
            }
            TargetError::SessionLost(_) | TargetError::Unclear(_) => {}
        }
    }

    fn send_range(&mut self, range: RecordRange) {
        let session = self.session();
        let sent = self
            .spool
            .range(range)
            .try_for_each(|batch| self.target.send(batch));
        self.counted.send_errors += u64::from(sent.is_err());
        self.or_lost(session, sent);
    }

    fn flush(&mut self, session: SessionNumber) {
        let start = self.clock.elapsed();
        let flushed = self.target.flush();
        let took = self.clock.elapsed().saturating_sub(start);
        match flushed {
            Ok(()) => {
                self.counted.flushes.observe(took);
                self.tell(SlotEvent::Flushed { session });
            }
            Err(error) => {
                self.counted.send_errors += 1;
                self.lost(session, &error);
            }
        }
    }

    fn session(&self) -> SessionNumber {
        self.slot.session()
    }

    fn store_log(&mut self, id: CheckpointId, range: RecordRange) {
        let mut bytes = Vec::with_capacity((range.end.byte - range.start.byte) as usize);
        for batch in self.spool.range(range) {
            bytes.extend_from_slice(batch.bytes());
        }
        let path = paths::sink_log(id, self.nonces.draw(), self.slot.key(), 0);
        let file = FileEntry {
            length: bytes.len() as u64,
            checksum: ContentHash::of(&bytes),
        };
        (self.stop)(Step::P5);
        let event = match self.log.store(&path, bytes) {
            Ok(()) => {
                let object = LogObject {
                    path,
                    file,
                    records: range.records(),
                };
                SlotEvent::LogStored {
                    id,
                    log: vec![object],
                }
            }
            Err(error) => {
                tracing::warn!(slot = %self.slot.key(), checkpoint = %id, %error, "sink log");
                SlotEvent::LogFailed { id }
            }
        };
        self.tell(event);
    }

    const fn mark(&self, number: u64, kind: MarkerKind) -> TargetMarker {
        let kind = match kind {
            MarkerKind::Output => TargetKind::Output,
            MarkerKind::Void => TargetKind::Void,
        };
        TargetMarker {
            number,
            kind,
            epoch: self.owner.0.0,
            attempt: self.owner.1.0,
        }
    }

    fn end_transaction(&mut self, session: SessionNumber) {
        let Some(marker) = self.marker.take() else {
            unreachable!("the machine writes a marker before it ends a transaction")
        };
        (self.stop)(Step::P10);
        let answer = match self.target.commit(marker) {
            Ok(position) => {
                (self.stop)(Step::P11);
                self.pace = Pace::new();
                EndAnswer::Committed {
                    marker_offset: position.0,
                }
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(slot = %self.slot.key(), number = marker.number, reason, "unclear commit");
                self.counted.commits_retried += 1;
                self.pace.failed();
                // The contract does not promise that a refused commit left nothing behind. A named stop decides nothing
                // about the output either, so it may be told; the first refusal still goes through a session.
                self.named(session, &error);
                EndAnswer::Unclear
            }
        };
        self.tell(SlotEvent::EndTxn { session, answer });
    }

    fn read_markers(&mut self, session: SessionNumber, from: u64) {
        match self.target.read_markers(MarkerPosition(from)) {
            Ok(reading) => {
                let kind = |kind| match kind {
                    TargetKind::Output => MarkerKind::Output,
                    TargetKind::Void => MarkerKind::Void,
                };
                let markers = reading.markers.iter();
                let markers = markers
                    .map(|&(number, found)| Marker {
                        number,
                        kind: kind(found),
                    })
                    .collect();
                let (start, end) = (reading.start.0, reading.end.0);
                let reading = MarkerReading {
                    topic: reading.place,
                    start,
                    end,
                    markers,
                };
                self.tell(SlotEvent::MarkersRead { session, reading });
            }
            Err(error) => self.lost(session, &error),
        }
    }

    fn publish(&mut self, source: LogSource) {
        self.counted.republished += 1;
        match source {
            LogSource::Spool(range) => self.send_range(range),
            LogSource::Stored(objects) => {
                for object in objects {
                    if !self.publish_object(&object) {
                        return;
                    }
                }
            }
        }
    }

    /// Sends one stored log object; `false` = it failed and the machine was told.
    fn publish_object(&mut self, object: &LogObject) -> bool {
        let session = self.session();
        let bytes = match self.log.fetch(object) {
            Ok(bytes) => bytes,
            Err(LogStoreError::Damaged { path, reason }) => {
                tracing::error!(slot = %self.slot.key(), path, reason, "sink log damaged");
                self.drop_pending();
                self.tell(SlotEvent::LogUnreadable);
                return false;
            }
            Err(error) => {
                tracing::warn!(slot = %self.slot.key(), %error, "sink log not readable now");
                self.drop_pending();
                self.pace.failed();
                self.tell(SlotEvent::TxnLost { session });
                return false;
            }
        };
        let sent = match OutputBatch::from_bytes(bytes) {
            Ok(batch) => self.target.send(&batch),
            Err(error) => {
                tracing::error!(slot = %self.slot.key(), %error, "sink log damaged");
                self.drop_pending();
                self.tell(SlotEvent::LogUnreadable);
                return false;
            }
        };
        let arrived = sent.is_ok();
        self.counted.send_errors += u64::from(!arrived);
        self.or_lost(session, sent);
        arrived
    }

    /// Drops what the same step still asked of a session that is lost: above all, its end. Logs, acknowledgements and
    /// reports stay.
    fn drop_pending(&mut self) {
        self.marker = None;
        self.effects.retain(|effect| {
            !matches!(
                effect,
                SlotEffect::Begin { .. }
                    | SlotEffect::Send(_)
                    | SlotEffect::Flush { .. }
                    | SlotEffect::Publish(_)
                    | SlotEffect::WriteMarker { .. }
                    | SlotEffect::EndTxn { .. }
                    | SlotEffect::WriteSync { .. }
                    | SlotEffect::ReadMarkers { .. }
            )
        });
    }
}

#[cfg(test)]
mod tests;
