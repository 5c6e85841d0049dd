//! Tests of the driver against targets that fail in one way each: what reaches the worker, and how often it is tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use highwater_connectors::{
    ConnectorError, ExternalIdentity, KnownMarkers, MarkerReading as TargetReading, OutputRecord,
    WakeHandle,
};
use highwater_protocol::head_write::Authority;
use highwater_protocol::paths::RelativePath;
use highwater_protocol::sink_slot::MarkerTopic;
use highwater_protocol::stop::SlotKey;
use highwater_types::{BarrierKind, CheckpointBarrier, Nonce, OperatorUid};

use super::*;
use crate::clock::ManualClock;

const LONG: Duration = Duration::from_secs(20);
/// No test here needs more rounds.
const QUESTIONS_MAX: u32 = 8;
const ATTEMPT: AttemptId = AttemptId(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Everything succeeds.
    Nothing,
    /// The first commit is unclear, then every record is refused.
    SendRefused,
    /// Every record is refused, from the first one on.
    FirstSendRefused,
    /// Every commit is refused.
    CommitRefused,
    /// The first commit is unclear, then no session opens: the markers are lost.
    OpenMarkerLost,
    /// The first commit is unclear, then every session is refused: access is denied.
    OpenRefused,
    /// As before, when the sync record is written.
    SyncMarkerLost,
    /// The first commit is unclear, then every record loses the session.
    SendLost,
    /// The first call panics.
    Panic,
}

struct Faulty {
    fault: Fault,
    commits: u32,
    opened: Arc<AtomicUsize>,
}

fn cause() -> ConnectorError {
    ConnectorError::Unavailable {
        object: "the outside".to_owned(),
        reason: "it was told to".to_owned(),
    }
}

impl Faulty {
    fn fail(
        &self,
        fault: Fault,
        error: fn(ConnectorError) -> TargetError,
    ) -> Result<(), TargetError> {
        if self.fault == fault && self.commits > 0 {
            return Err(error(cause()));
        }
        Ok(())
    }
}

impl OutputTarget for Faulty {
    fn expect_markers(&mut self, _: KnownMarkers) {}

    fn identity(&mut self) -> Result<ExternalIdentity, TargetError> {
        Err(TargetError::Unclear(cause()))
    }

    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError> {
        Ok(MarkerPosition(0))
    }

    fn open_session(&mut self) -> Result<(), TargetError> {
        assert!(self.fault != Fault::Panic, "the target has a bug");
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.fail(Fault::OpenRefused, TargetError::Refused)?;
        self.fail(Fault::OpenMarkerLost, TargetError::MarkerLost)
    }

    fn write_sync(&mut self) -> Result<(), TargetError> {
        self.fail(Fault::SyncMarkerLost, TargetError::MarkerLost)
    }

    fn read_markers(&mut self, from: MarkerPosition) -> Result<TargetReading, TargetError> {
        Ok(TargetReading {
            place: "markers".to_owned(),
            start: MarkerPosition(0),
            end: from,
            markers: Vec::new(),
        })
    }

    fn begin(&mut self) -> Result<(), TargetError> {
        Ok(())
    }

    fn send(&mut self, _: &OutputBatch) -> Result<(), TargetError> {
        if self.fault == Fault::FirstSendRefused {
            return Err(TargetError::Refused(cause()));
        }
        self.fail(Fault::SendLost, TargetError::SessionLost)?;
        self.fail(Fault::SendRefused, TargetError::Refused)
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        Ok(())
    }

    fn commit(&mut self, _: TargetMarker) -> Result<MarkerPosition, TargetError> {
        self.commits += 1;
        if self.fault == Fault::Nothing {
            return Ok(MarkerPosition(1));
        }
        self.fail(Fault::CommitRefused, TargetError::Refused)?;
        Err(TargetError::Unclear(cause()))
    }

    fn abort(&mut self) -> Result<(), TargetError> {
        Ok(())
    }
}

struct Kept;

impl LogStore for Kept {
    fn store(&self, _: &RelativePath, _: Vec<u8>) -> Result<(), LogStoreError> {
        Ok(())
    }

    fn fetch(&self, object: &LogObject) -> Result<Vec<u8>, LogStoreError> {
        Err(LogStoreError::Damaged {
            path: object.path.to_string(),
            reason: "nothing is kept".to_owned(),
        })
    }
}

struct Run {
    mailbox: SinkMailbox,
    events: Receiver<WorkerInput>,
    opened: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

const ID: CheckpointId = CheckpointId {
    number: 1,
    epoch: Epoch(1),
};

/// Starts a driver and brings it one record and its barrier.
fn start(fault: Fault) -> Run {
    let (sender, events) = sync_channel(64);
    let opened = Arc::new(AtomicUsize::new(0));
    let mailbox = SinkMailbox::new();
    let parts = DriverParts {
        stop: Arc::new(|_| {}),
        config: SlotConfig {
            key: SlotKey {
                sink: OperatorUid::parse("out").unwrap(),
                slot: 0,
            },
            markers: MarkerTopic {
                id: "markers".to_owned(),
                from: 0,
            },
            spool_bytes_max: 1 << 20,
        },
        start: SlotStart::Confirmed(0),
        target: Box::new(Faulty {
            fault,
            commits: 0,
            opened: Arc::clone(&opened),
        }),
        log: Box::new(Kept),
        nonces: NonceStream::new(Nonce(1)),
        owner: (Epoch(1), ATTEMPT),
        mailbox: mailbox.clone(),
        events: sender,
        clock: Arc::new(ManualClock::default()),
    };
    let thread = spawn(parts).unwrap();
    mailbox.control(SinkControl::Released);
    let mut queue = mailbox.queue(WakeHandle::new(|| {}));
    let mut batch = OutputBatch::default();
    batch.push(&OutputRecord::of_value(b"v"));
    queue.offer(&mut batch).unwrap();
    let kind = BarrierKind::Checkpoint;
    queue.barrier(&CheckpointBarrier { id: ID, kind }).unwrap();
    Run {
        mailbox,
        events,
        opened,
        thread,
    }
}

impl Run {
    /// Plays the leader until the driver tells something else than acknowledgements and questions, asks too often, or is
    /// silent.
    fn lead(&self, limit: Duration) -> Option<SinkEvent> {
        let mut questions = 0;
        while let Ok(input) = self.events.recv_timeout(limit) {
            let WorkerInput::Sink { attempt, event, .. } = input else {
                panic!("{input:?}")
            };
            assert_eq!(attempt, ATTEMPT);
            match event {
                SinkEvent::Ack { id, .. } => self.mailbox.control(SinkControl::Commit(id)),
                SinkEvent::AskLeader(_) if questions == QUESTIONS_MAX => break,
                SinkEvent::AskLeader(_) => {
                    questions += 1;
                    let current = SinkControl::LeaderSays(Authority::Current);
                    self.mailbox.control(current);
                }
                event => return Some(event),
            }
        }
        None
    }
}

fn stop_of(fault: Fault) -> NamedStop {
    let run = start(fault);
    let event = run.lead(LONG);
    let Some(SinkEvent::Stop(stop)) = event else {
        panic!("{event:?}")
    };
    run.thread.join().unwrap();
    stop
}

#[test]
fn what_is_refused_while_it_is_published_stops_by_name() {
    for fault in [Fault::SendRefused, Fault::CommitRefused] {
        let stop = stop_of(fault);
        let NamedStop::SinkRefused { number, reason, .. } = stop else {
            panic!("{stop}")
        };
        assert_eq!(number, 1);
        assert!(reason.contains("it was told to"), "{reason}");
    }
}

#[test]
fn a_session_that_is_refused_for_good_stops_by_name() {
    let stop = stop_of(Fault::OpenRefused);
    let NamedStop::SessionRefused { reason, .. } = stop else {
        panic!("{stop}")
    };
    assert!(reason.contains("it was told to"), "{reason}");
}

#[test]
fn what_is_refused_before_it_is_acknowledged_stops_without_an_acknowledgement() {
    let run = start(Fault::FirstSendRefused);
    let told: Vec<_> = run.events.iter().collect();
    run.thread.join().unwrap();
    let [WorkerInput::Sink { event, .. }] = &told[..] else {
        panic!("{told:?}")
    };
    let SinkEvent::Stop(NamedStop::RecordRefused { slot, reason }) = event else {
        panic!("{event:?}")
    };
    assert_eq!(slot.to_string(), "out/0");
    assert!(reason.contains("it was told to"), "{reason}");
}

#[test]
fn markers_that_are_lost_before_they_are_read_stop_by_name() {
    for fault in [Fault::OpenMarkerLost, Fault::SyncMarkerLost] {
        let stop = stop_of(fault);
        assert!(matches!(stop, NamedStop::MarkerLost { .. }), "{stop}");
    }
}

#[test]
fn rounds_that_open_and_then_fail_come_slower_and_slower() {
    let run = start(Fault::SendLost);
    let deadline = Duration::from_millis(700);
    let mailbox = run.mailbox.clone();
    let opened = Arc::clone(&run.opened);
    let watch = std::thread::spawn(move || {
        std::thread::park_timeout(deadline);
        mailbox.control(SinkControl::Close);
        opened.load(Ordering::SeqCst)
    });
    let event = run.lead(deadline * 3);
    assert!(event.is_none(), "{event:?}");
    let rounds = watch.join().unwrap();
    run.thread.join().unwrap();
    assert!((2..=5).contains(&rounds), "{rounds} sessions were opened");
    let report = last_report(&run.mailbox);
    assert_eq!((report.commits, report.commits_retried), (0, 1));
    assert!(
        report.send_errors > 0 && report.republished > 0,
        "{report:?}"
    );
    assert_eq!(report.pending_records, 1);
}

/// What a driver that has ended told of itself.
fn last_report(mailbox: &SinkMailbox) -> SinkReport {
    let queue = mailbox.queue(WakeHandle::new(|| {}));
    queue.report().unwrap()
}

#[test]
fn a_confirmed_commit_is_counted_and_nothing_waits_for_it_any_more() {
    let run = start(Fault::Nothing);
    let event = run.lead(LONG);
    assert!(
        matches!(event, Some(SinkEvent::Confirmed(id)) if id == ID),
        "{event:?}"
    );
    run.mailbox.control(SinkControl::Close);
    run.thread.join().unwrap();
    let report = last_report(&run.mailbox);
    assert_eq!((report.commits, report.commits_retried), (1, 0));
    assert_eq!((report.send_errors, report.republished), (0, 0));
    assert_eq!(report.flushes.count(), 1);
    assert_eq!(report.commit_times.count(), 1);
    assert_eq!((report.pending_records, report.spool_bytes), (0, 0));
    assert_eq!((report.open_transactions, report.is_dark), (0, false));
}

#[test]
fn the_pace_doubles_once_per_round_up_to_its_bound() {
    let (mut pace, mailbox) = (Pace::new(), SinkMailbox::new());
    pace.rest(&mailbox);
    pace.failed();
    pace.failed();
    assert_eq!((pace.due, pace.next), (BACKOFF.0, BACKOFF.0 * 2));
    pace.rest(&mailbox);
    assert_eq!(pace.due, Duration::ZERO);
    for _ in 0..20 {
        pace.due = Duration::ZERO;
        pace.failed();
    }
    assert_eq!(pace.due, BACKOFF.1);
}

#[test]
fn the_end_of_the_attempt_ends_the_rest_of_its_driver() {
    let mut pace = Pace::new();
    pace.next = LONG * 1_000;
    pace.failed();
    let mailbox = SinkMailbox::new();
    mailbox.control(SinkControl::Close);
    // With the mailbox closed this returns; otherwise the test would hang for hours.
    pace.rest(&mailbox);
    assert!(mailbox.is_closed());
}

#[test]
fn a_driver_that_panics_tells_its_worker() {
    let run = start(Fault::Panic);
    let event = run.lead(LONG);
    let Some(SinkEvent::Panicked(message)) = event else {
        panic!("{event:?}")
    };
    assert!(message.contains("the target has a bug"), "{message}");
    run.thread.join().unwrap();
}
