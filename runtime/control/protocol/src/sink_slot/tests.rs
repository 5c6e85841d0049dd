//! Tests of the slot machine: the whole table of moves, the rules S1 to S6, and random lives against a broker.

use highwater_types::{Classified, Epoch, Nonce, OperatorUid};

use super::*;
use crate::hash::ContentHash;
use crate::head_write::Authority;
use crate::manifest::FileEntry;
use crate::paths::sink_log;
use crate::stop::NamedStop;

#[path = "tests/exhaustive.rs"]
mod exhaustive;
#[path = "tests/table.rs"]
mod table;

pub(super) const fn id(number: u64) -> CheckpointId {
    CheckpointId {
        number,
        epoch: Epoch(1),
    }
}

pub(super) fn config() -> SlotConfig {
    SlotConfig {
        key: SlotKey {
            sink: OperatorUid::parse("out").unwrap(),
            slot: 0,
        },
        markers: MarkerTopic {
            id: "topic-1".to_owned(),
            from: 5,
        },
        spool_bytes_max: 1000,
    }
}

pub(super) fn log(number: u64) -> Vec<LogObject> {
    let path = sink_log(id(number), Nonce(1), &config().key, 0);
    vec![LogObject {
        path,
        file: FileEntry {
            length: 1,
            checksum: ContentHash(1),
        },
        records: 1,
    }]
}

pub(super) fn open() -> SinkSlot {
    let mut slot = SinkSlot::start(config(), 0);
    assert_eq!(slot.step(SlotEvent::Released), []);
    slot
}

pub(super) const OUTPUT: SlotEvent = SlotEvent::Output {
    records: 1,
    bytes: 10,
};

pub(super) fn session(slot: &SinkSlot) -> SessionNumber {
    slot.session
}

pub(super) fn ongoing() -> SinkSlot {
    let mut slot = open();
    slot.step(OUTPUT);
    let session = session(&slot);
    slot.step(SlotEvent::Opened { session });
    slot
}

pub(super) fn preparing() -> SinkSlot {
    let mut slot = ongoing();
    slot.step(SlotEvent::Barrier(id(1)));
    slot
}

pub(super) fn held() -> SinkSlot {
    let mut slot = preparing();
    let session = session(&slot);
    slot.step(SlotEvent::Flushed { session });
    slot.step(SlotEvent::LogStored {
        id: id(1),
        log: log(1),
    });
    slot
}

pub(super) fn committing() -> SinkSlot {
    let mut slot = held();
    slot.step(SlotEvent::Commit { id: id(1) });
    slot
}

pub(super) fn asking() -> SinkSlot {
    let mut slot = committing();
    let session = session(&slot);
    slot.step(SlotEvent::EndTxn {
        session,
        answer: EndAnswer::Unclear,
    });
    slot
}

pub(super) fn reading(markers: &[(u64, MarkerKind)]) -> MarkerReading {
    let markers = markers
        .iter()
        .map(|&(number, kind)| Marker { number, kind })
        .collect();
    MarkerReading {
        topic: "topic-1".to_owned(),
        start: 0,
        end: 9,
        markers,
    }
}

/// Drives a session from its opening to its reading.
pub(super) fn read(slot: &mut SinkSlot, found: MarkerReading) -> Vec<SlotEffect> {
    let session = session(slot);
    let effects = slot.step(SlotEvent::Opened { session });
    assert_eq!(effects, [SlotEffect::WriteSync { session }]);
    let effects = slot.step(SlotEvent::SyncWritten { session });
    assert_eq!(effects, [SlotEffect::ReadMarkers { session, from: 5 }]);
    slot.step(SlotEvent::MarkersRead {
        session,
        reading: found,
    })
}

pub(super) fn in_session() -> SinkSlot {
    let mut slot = asking();
    slot.step(SlotEvent::LeaderSays(Authority::Current));
    slot
}

pub(super) fn claim(purpose: Purpose) -> Claim {
    Claim {
        id: id(1),
        upto: Position::default(),
        from: 5,
        source: LogSource::Stored(log(1)),
        purpose,
    }
}

pub(super) fn recovered(purpose: Purpose) -> SinkSlot {
    let (slot, effects) = SinkSlot::recover(config(), claim(purpose));
    assert_eq!(
        effects,
        [SlotEffect::OpenSession {
            session: SessionNumber(1)
        }]
    );
    slot
}

fn at(record: u64) -> Position {
    Position {
        record,
        byte: record * 10,
    }
}

fn range(start: u64, end: u64) -> RecordRange {
    RecordRange {
        start: at(start),
        end: at(end),
    }
}

#[test]
fn the_normal_life_of_a_checkpoint() {
    let mut slot = open();
    let first = SessionNumber(1);
    assert_eq!(
        slot.step(OUTPUT),
        [SlotEffect::OpenSession { session: first }]
    );
    assert_eq!(slot.step(OUTPUT), [], "waits for the session");
    let effects = slot.step(SlotEvent::Opened { session: first });
    assert_eq!(
        effects,
        [
            SlotEffect::Begin { session: first },
            SlotEffect::Send(range(0, 2))
        ]
    );
    assert_eq!(slot.step(OUTPUT), [SlotEffect::Send(range(2, 3))]);
    let effects = slot.step(SlotEvent::Barrier(id(1)));
    let store = SlotEffect::StoreLog {
        id: id(1),
        range: range(0, 3),
    };
    assert_eq!(effects, [SlotEffect::Flush { session: first }, store]);
    assert_eq!(slot.step(OUTPUT), [], "n + 1 goes to the spool only");
    assert_eq!(slot.step(SlotEvent::Flushed { session: first }), []);
    let effects = slot.step(SlotEvent::LogStored {
        id: id(1),
        log: log(1),
    });
    let ack = SlotEffect::Ack {
        id: id(1),
        output: SlotOutput::Log(log(1)),
        marker_offset: 5,
    };
    assert_eq!(effects, [ack]);
    let effects = slot.step(SlotEvent::Commit { id: id(1) });
    let marker = SlotEffect::WriteMarker {
        number: 1,
        kind: MarkerKind::Output,
    };
    assert_eq!(effects, [marker, SlotEffect::EndTxn { session: first }]);
    let answer = EndAnswer::Committed { marker_offset: 7 };
    let effects = slot.step(SlotEvent::EndTxn {
        session: first,
        answer,
    });
    let next = SlotEffect::OpenSession {
        session: SessionNumber(2),
    };
    let confirmed = SlotEffect::ReportConfirmed { id: id(1) };
    assert_eq!(
        effects,
        [confirmed, SlotEffect::ReleaseSpool { upto: at(3) }, next]
    );
    let effects = slot.step(SlotEvent::Opened {
        session: SessionNumber(2),
    });
    let begin = SlotEffect::Begin {
        session: SessionNumber(2),
    };
    assert_eq!(
        effects,
        [begin, SlotEffect::Send(range(3, 4))],
        "a new epoch starts with the spool"
    );
}

#[test]
fn schedule_23_declines_go_on_in_the_same_transaction() {
    let mut slot = held();
    slot.step(OUTPUT);
    let effects = slot.step(SlotEvent::Declined { id: id(1) });
    assert_eq!(effects, [SlotEffect::Send(range(1, 2))]);
    let effects = slot.step(SlotEvent::Barrier(id(2)));
    let store = SlotEffect::StoreLog {
        id: id(2),
        range: range(0, 2),
    };
    assert_eq!(
        effects,
        [
            SlotEffect::Flush {
                session: session(&slot)
            },
            store
        ],
        "log holds both"
    );
}

#[test]
fn schedule_24_a_lost_transaction_goes_dark_and_still_acknowledges() {
    let mut slot = held();
    let lost = session(&slot);
    let effects = slot.step(SlotEvent::TxnLost { session: lost });
    assert_eq!(effects, [SlotEffect::Abort { session: lost }]);
    slot.step(OUTPUT);
    slot.step(SlotEvent::Declined { id: id(1) });
    let effects = slot.step(SlotEvent::Barrier(id(2)));
    assert_eq!(
        effects,
        [SlotEffect::StoreLog {
            id: id(2),
            range: range(0, 2)
        }]
    );
    let effects = slot.step(SlotEvent::LogStored {
        id: id(2),
        log: log(2),
    });
    assert!(matches!(&effects[..], [SlotEffect::Ack { .. }]));
    let effects = slot.step(SlotEvent::Commit { id: id(2) });
    assert_eq!(effects, [SlotEffect::AskLeader { id: id(2) }]);
}

#[test]
fn s1_a_reading_of_an_older_session_decides_nothing() {
    let mut slot = in_session();
    let old = session(&slot);
    slot.step(SlotEvent::Opened { session: old });
    slot.step(SlotEvent::SyncWritten { session: old });
    slot.step(SlotEvent::TxnLost { session: old });
    slot.step(SlotEvent::LeaderSays(Authority::Current));
    assert!(session(&slot) > old);
    let stale = SlotEvent::MarkersRead {
        session: old,
        reading: reading(&[]),
    };
    assert_eq!(slot.step(stale), []);
    let opening = matches!(
        slot.state(),
        SlotState::Session {
            step: SessionStep::Opening,
            ..
        }
    );
    assert!(opening, "the new session reads anew");
}

#[test]
fn s1_a_missing_marker_publishes_in_the_same_session() {
    let mut slot = in_session();
    let same = session(&slot);
    let effects = read(&mut slot, reading(&[]));
    let expected = [
        SlotEffect::Begin { session: same },
        SlotEffect::Publish(LogSource::Spool(range(0, 1))),
        SlotEffect::WriteMarker {
            number: 1,
            kind: MarkerKind::Output,
        },
        SlotEffect::EndTxn { session: same },
    ];
    assert_eq!(effects, expected);
}

#[test]
fn s3_a_barrier_waits_until_the_last_completed_checkpoint_is_confirmed() {
    for mut slot in [held(), committing(), asking(), in_session()] {
        slot.step(OUTPUT);
        let effects = slot.step(SlotEvent::Barrier(id(2)));
        assert_eq!(effects, [], "no acknowledgement in {:?}", slot.state());
    }
    let mut slot = in_session();
    slot.step(OUTPUT);
    slot.step(SlotEvent::Barrier(id(2)));
    slot.step(OUTPUT);
    read(&mut slot, reading(&[(1, MarkerKind::Output)]));
    let opened = session(&slot);
    let effects = slot.step(SlotEvent::Opened { session: opened });
    let expected = [
        SlotEffect::Begin { session: opened },
        SlotEffect::Send(range(1, 2)),
        SlotEffect::Flush { session: opened },
        SlotEffect::StoreLog {
            id: id(2),
            range: range(1, 2),
        },
    ];
    assert_eq!(
        effects, expected,
        "then it is prepared with exactly its own records"
    );
}

#[test]
fn s4_nothing_is_sent_before_the_release() {
    let mut slot = SinkSlot::start(config(), 3);
    assert_eq!(slot.step(OUTPUT), []);
    let effects = slot.step(SlotEvent::Released);
    assert_eq!(
        effects,
        [SlotEffect::OpenSession {
            session: SessionNumber(1)
        }]
    );
}

#[test]
fn s6_no_output_means_no_transaction_no_marker_no_log() {
    let mut slot = open();
    let effects = slot.step(SlotEvent::Barrier(id(1)));
    let ack = SlotEffect::Ack {
        id: id(1),
        output: SlotOutput::Empty,
        marker_offset: 5,
    };
    assert_eq!(effects, [ack]);
    assert!(slot.is_drained());
    slot.step(OUTPUT);
    assert!(!slot.is_drained());
}

#[test]
fn t19_l3_repeated_and_late_orders_are_harmless() {
    let mut slot = committing();
    assert_eq!(slot.step(SlotEvent::Commit { id: id(1) }), []);
    let answer = EndAnswer::Committed { marker_offset: 7 };
    let session = session(&slot);
    slot.step(SlotEvent::EndTxn { session, answer });
    let effects = slot.step(SlotEvent::Commit { id: id(1) });
    assert_eq!(effects, [SlotEffect::ReportConfirmed { id: id(1) }]);
    let mut other = held();
    let foreign = CheckpointId {
        number: 1,
        epoch: Epoch(2),
    };
    assert_eq!(
        other.step(SlotEvent::Commit { id: foreign }),
        [],
        "another try of number 1"
    );
    assert_eq!(other.step(SlotEvent::Declined { id: foreign }), []);
}

#[test]
fn stops_are_named() {
    let cases: [(MarkerReading, &str); 4] = [
        (reading(&[(2, MarkerKind::Output)]), "StateBehindOutput"),
        (
            MarkerReading {
                topic: "topic-2".to_owned(),
                ..reading(&[])
            },
            "MarkerLost",
        ),
        (
            MarkerReading {
                end: 4,
                ..reading(&[])
            },
            "MarkerLost",
        ),
        (
            MarkerReading {
                start: 6,
                ..reading(&[])
            },
            "MarkerLost",
        ),
    ];
    for (found, name) in cases {
        let mut slot = in_session();
        let effects = read(&mut slot, found);
        let [SlotEffect::Stop(stop)] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert!(stop.to_string().starts_with(name), "{stop}");
        assert_eq!(slot.step(OUTPUT), [], "a stopped slot does nothing");
    }
    let mut slot = in_session();
    read(&mut slot, reading(&[]));
    let effects = slot.clone().step(SlotEvent::LogUnreadable);
    assert!(matches!(
        &effects[..],
        [SlotEffect::Stop(NamedStop::SinkLogDamaged { .. })]
    ));
    let effects = slot.step(SlotEvent::RecordRefused {
        reason: "too large".to_owned(),
    });
    assert!(matches!(
        &effects[..],
        [SlotEffect::Stop(NamedStop::SinkRefused { .. })]
    ));
}

#[test]
fn a_record_that_is_refused_before_its_acknowledgement_never_reaches_a_completed_checkpoint() {
    let refused = || SlotEvent::RecordRefused {
        reason: "larger than `max.message.bytes`".to_owned(),
    };
    let mut dark = ongoing();
    dark.step(SlotEvent::TxnLost {
        session: session(&dark),
    });
    dark.step(SlotEvent::Barrier(id(1)));
    for mut slot in [ongoing(), preparing(), dark] {
        let effects = slot.step(refused());
        let Some(SlotEffect::Stop(stop @ NamedStop::RecordRefused { .. })) = effects.last() else {
            panic!("{effects:?}")
        };
        assert_eq!(stop.kind(), highwater_types::ErrorKind::Invalid);
        let text = stop.to_string();
        assert!(
            text.contains("slot out/0") && text.contains("max.message.bytes"),
            "{text}"
        );
        let session = session(&slot);
        assert_eq!(slot.step(SlotEvent::Flushed { session }), []);
        let stored = SlotEvent::LogStored {
            id: id(1),
            log: log(1),
        };
        assert_eq!(slot.step(stored), [], "nothing is acknowledged");
    }
    let mut acked = held();
    assert_eq!(acked.step(refused()), [], "the checkpoint may be complete");
}

#[test]
fn schedule_7_an_examination_voids_in_the_session_that_read_missing() {
    let mut slot = recovered(Purpose::Examine);
    let same = session(&slot);
    let effects = read(&mut slot, reading(&[]));
    assert_eq!(
        effects,
        [SlotEffect::ReportExamined {
            id: id(1),
            found: None
        }]
    );
    let effects = slot.step(SlotEvent::WriteVoid { id: id(1) });
    let expected = [
        SlotEffect::Begin { session: same },
        SlotEffect::WriteMarker {
            number: 1,
            kind: MarkerKind::Void,
        },
        SlotEffect::EndTxn { session: same },
    ];
    assert_eq!(effects, expected);
    let answer = EndAnswer::Committed { marker_offset: 9 };
    let effects = slot.step(SlotEvent::EndTxn {
        session: same,
        answer,
    });
    assert_eq!(effects, [SlotEffect::ReportVoid { id: id(1) }]);
    assert_eq!(
        slot.step(SlotEvent::WriteVoid { id: id(1) }),
        effects,
        "repeated orders are answered"
    );
}

#[test]
fn an_examination_never_publishes_and_a_confirmation_never_voids() {
    let mut slot = recovered(Purpose::Examine);
    let effects = read(&mut slot, reading(&[(1, MarkerKind::Output)]));
    let found = Some(MarkerKind::Output);
    assert_eq!(effects, [SlotEffect::ReportExamined { id: id(1), found }]);
    assert_eq!(slot.step(SlotEvent::WriteVoid { id: id(1) }), []);
    let mut slot = recovered(Purpose::Confirm);
    let effects = read(&mut slot, reading(&[(1, MarkerKind::Void)]));
    assert_eq!(effects, [SlotEffect::ReportVoid { id: id(1) }]);
}

#[test]
fn the_spool_holds_input_back_but_lets_an_expected_barrier_through() {
    let mut slot = open();
    let effects = slot.step(SlotEvent::Output {
        records: 1,
        bytes: 600,
    });
    assert!(effects.contains(&SlotEffect::RequestCheckpoint));
    let effects = slot.step(SlotEvent::Output {
        records: 1,
        bytes: 400,
    });
    assert_eq!(effects, [SlotEffect::HoldInput]);
    assert_eq!(slot.step(SlotEvent::Expected), [SlotEffect::ResumeInput]);
    let past = SlotEvent::Output {
        records: 1,
        bytes: 1000,
    };
    assert_eq!(slot.step(past), [], "what stands before the barrier passes");
    let effects = slot.step(SlotEvent::Barrier(id(1)));
    assert_eq!(effects, [SlotEffect::HoldInput]);
    assert_eq!(slot.spool().bytes(), 2000);
}

#[test]
fn the_report_names_what_was_acknowledged() {
    let report = |acked, confirmed| SlotReport { acked, confirmed };
    assert_eq!(open().report(), report(None, 0));
    assert_eq!(preparing().report(), report(None, 0));
    for slot in [held(), committing(), asking(), in_session()] {
        assert_eq!(slot.report(), report(Some(id(1)), 0));
    }
}

#[test]
fn a_newer_barrier_gives_an_unacknowledged_one_up() {
    let mut slot = preparing();
    slot.step(OUTPUT);
    let effects = slot.step(SlotEvent::Barrier(id(2)));
    let store = SlotEffect::StoreLog {
        id: id(2),
        range: range(0, 2),
    };
    let flush = SlotEffect::Flush {
        session: session(&slot),
    };
    assert_eq!(effects, [SlotEffect::Send(range(1, 2)), flush, store]);
    let late = slot.step(SlotEvent::LogStored {
        id: id(1),
        log: log(1),
    });
    assert_eq!(late, [], "the log of the older one is an orphan");
}

#[test]
fn a_barrier_behind_its_own_decline_is_ignored() {
    let mut slot = ongoing();
    slot.step(SlotEvent::Declined { id: id(1) });
    assert_eq!(slot.step(SlotEvent::Barrier(id(1))), []);
    assert!(matches!(slot.state(), SlotState::Open { .. }));
    let flush = SlotEffect::Flush {
        session: session(&slot),
    };
    let store = SlotEffect::StoreLog {
        id: id(2),
        range: range(0, 1),
    };
    assert_eq!(slot.step(SlotEvent::Barrier(id(2))), [flush, store]);
    let mut dark = ongoing();
    dark.step(SlotEvent::TxnLost {
        session: session(&dark),
    });
    dark.step(SlotEvent::Declined { id: id(2) });
    assert_eq!(dark.step(SlotEvent::Barrier(id(1))), [], "older ones too");
    let mut waiting = held();
    waiting.step(SlotEvent::Declined { id: id(2) });
    waiting.step(SlotEvent::Barrier(id(2)));
    assert_eq!(waiting.pending, None, "also where it would have waited");
}

fn full() -> SinkSlot {
    let mut slot = open();
    let effects = slot.step(SlotEvent::Output {
        records: 1,
        bytes: 1000,
    });
    assert!(effects.contains(&SlotEffect::HoldInput));
    slot
}

#[test]
fn a_decline_takes_the_expected_barrier_back() {
    let mut slot = full();
    assert_eq!(slot.step(SlotEvent::Expected), [SlotEffect::ResumeInput]);
    let declined = SlotEvent::Declined { id: id(1) };
    assert_eq!(slot.step(declined.clone()), [SlotEffect::HoldInput]);
    assert_eq!(slot.step(SlotEvent::Expected), [SlotEffect::ResumeInput]);
    assert_eq!(slot.step(declined), [], "a repeated decline of the older");
    assert_eq!(
        slot.step(SlotEvent::Barrier(id(1))),
        [],
        "a stale barrier is not the expected one"
    );
    let effects = slot.step(SlotEvent::Declined { id: id(2) });
    assert_eq!(effects, [SlotEffect::HoldInput]);
}

fn markers_lost(slot: &mut SinkSlot) -> Vec<SlotEffect> {
    slot.step(SlotEvent::MarkersLost {
        session: session(slot),
        reason: "it does not exist".to_owned(),
    })
}

#[test]
fn a_marker_topic_that_is_lost_stops_in_any_step_of_a_session() {
    let mut syncing = in_session();
    syncing.step(SlotEvent::Opened {
        session: session(&syncing),
    });
    let mut publishing = in_session();
    read(&mut publishing, reading(&[]));
    for mut slot in [in_session(), syncing, publishing] {
        let effects = markers_lost(&mut slot);
        assert!(
            matches!(
                &effects[..],
                [SlotEffect::Stop(NamedStop::MarkerLost { .. })]
            ),
            "{effects:?}"
        );
    }
}

/// An acknowledgement would let a checkpoint complete whose output nobody could ever confirm.
#[test]
fn a_marker_topic_that_is_lost_stops_before_anything_is_acknowledged() {
    let mut dark = ongoing();
    dark.step(SlotEvent::TxnLost {
        session: session(&dark),
    });
    for mut slot in [ongoing(), preparing(), dark] {
        let effects = markers_lost(&mut slot);
        assert!(
            matches!(
                &effects[..],
                [.., SlotEffect::Stop(NamedStop::MarkerLost { .. })]
            ),
            "{effects:?}"
        );
        assert_eq!(slot.step(SlotEvent::Barrier(id(2))), []);
    }
    // What is acknowledged is decided by a session of its own, and by nothing else.
    for mut slot in [held(), committing(), asking()] {
        assert_eq!(markers_lost(&mut slot), []);
    }
}

/// A leader of epoch 2 goes on with the attempt, from this checkpoint in `head`.
const fn adopted(number: u64) -> SlotEvent {
    SlotEvent::Adopted {
        epoch: Epoch(2),
        head: id(number),
    }
}

#[test]
fn l4_what_an_older_leader_began_is_given_up_at_an_adoption_unless_it_is_in_head() {
    let mut slot = held();
    assert_eq!(slot.report().acked, Some(id(1)));
    slot.step(adopted(1));
    assert_eq!(slot.report().acked, Some(id(1)), "it is in head");
    let effects = slot.step(SlotEvent::Commit { id: id(1) });
    assert!(!effects.is_empty(), "and can be committed");
    for mut slot in [held(), preparing()] {
        slot.step(adopted(0));
        assert!(matches!(slot.state(), SlotState::Open { .. }));
        assert_eq!(slot.report().acked, None);
        // The next barrier is that of the new leader, and finds the slot free.
        slot.step(SlotEvent::Barrier(CheckpointId {
            number: 1,
            epoch: Epoch(2),
        }));
        assert!(matches!(slot.state(), SlotState::Preparing { .. }));
    }
}

#[test]
fn l4_a_barrier_of_an_older_leader_that_comes_after_the_adoption_is_ignored() {
    let mut slot = ongoing();
    slot.step(adopted(0));
    slot.step(SlotEvent::Barrier(id(1)));
    assert!(matches!(slot.state(), SlotState::Open { .. }));
}

#[test]
fn a_full_spool_holds_input_where_nobody_leads_though_a_barrier_was_announced() {
    let full = SlotEvent::Output {
        records: 1,
        bytes: 1_000,
    };
    let mut slot = ongoing();
    slot.step(SlotEvent::Expected);
    let effects = slot.step(full);
    assert!(!effects.contains(&SlotEffect::HoldInput));
    let effects = slot.step(SlotEvent::Unled);
    assert!(effects.contains(&SlotEffect::HoldInput), "{effects:?}");
    slot.step(adopted(0));
    let effects = slot.step(SlotEvent::Expected);
    assert!(effects.contains(&SlotEffect::ResumeInput), "{effects:?}");
}
