//! The whole table of moves: every event in every state, compared with the table of the design as text.

use std::fmt::Write as _;

use super::*;

fn name(slot: &SinkSlot) -> &'static str {
    match slot.state() {
        SlotState::Open {
            txn: Txn::Ongoing, ..
        } => "Open",
        SlotState::Open { .. } => "Idle",
        SlotState::Preparing { .. } => "Prep",
        SlotState::Held { .. } => "Held",
        SlotState::Committing { .. } => "Comm",
        SlotState::Dark {
            prepared: Some((_, true)),
        } => "DkAc",
        SlotState::Dark { .. } => "Dark",
        SlotState::Asking { .. } => "Ask",
        SlotState::Session {
            step: SessionStep::Opening,
            ..
        } => "SOpn",
        SlotState::Session {
            step: SessionStep::Syncing,
            ..
        } => "SSyn",
        SlotState::Session {
            step: SessionStep::Reading,
            ..
        } => "SRd",
        SlotState::Session { .. } => "SExm",
        SlotState::Publishing { .. } => "Pub",
        SlotState::Voiding { .. } => "Vdng",
        SlotState::Voided { .. } => "Void",
        SlotState::Ended => "End",
    }
}

fn states() -> Vec<SinkSlot> {
    let mut dark = ongoing();
    dark.step(SlotEvent::TxnLost {
        session: dark.session,
    });
    let mut dark_acked = held();
    dark_acked.step(SlotEvent::TxnLost {
        session: dark_acked.session,
    });
    let mut syncing = in_session();
    syncing.step(SlotEvent::Opened {
        session: syncing.session,
    });
    let mut reading_now = syncing.clone();
    reading_now.step(SlotEvent::SyncWritten {
        session: reading_now.session,
    });
    let mut examined = recovered(Purpose::Examine);
    read(&mut examined, reading(&[]));
    let mut publishing = in_session();
    read(&mut publishing, reading(&[]));
    let mut voiding = examined.clone();
    voiding.step(SlotEvent::WriteVoid { id: id(1) });
    let mut voided = recovered(Purpose::Confirm);
    read(&mut voided, reading(&[(1, MarkerKind::Void)]));
    let mut ended = asking();
    ended.step(SlotEvent::LeaderSays(Authority::Superseded));
    vec![
        open(),
        ongoing(),
        preparing(),
        held(),
        committing(),
        dark,
        dark_acked,
        asking(),
        in_session(),
        syncing,
        reading_now,
        publishing,
        examined,
        voiding,
        voided,
        ended,
    ]
}

fn events(session: SessionNumber) -> Vec<(&'static str, SlotEvent)> {
    let committed = EndAnswer::Committed { marker_offset: 9 };
    let found = |markers: &[(u64, MarkerKind)]| SlotEvent::MarkersRead {
        session,
        reading: reading(markers),
    };
    vec![
        ("record", OUTPUT),
        ("barrier 2", SlotEvent::Barrier(id(2))),
        ("flushed", SlotEvent::Flushed { session }),
        (
            "log stored",
            SlotEvent::LogStored {
                id: id(1),
                log: log(1),
            },
        ),
        ("log failed", SlotEvent::LogFailed { id: id(1) }),
        ("declined", SlotEvent::Declined { id: id(1) }),
        ("commit", SlotEvent::Commit { id: id(1) }),
        ("lost", SlotEvent::TxnLost { session }),
        (
            "committed",
            SlotEvent::EndTxn {
                session,
                answer: committed,
            },
        ),
        (
            "unclear",
            SlotEvent::EndTxn {
                session,
                answer: EndAnswer::Unclear,
            },
        ),
        ("current", SlotEvent::LeaderSays(Authority::Current)),
        ("superseded", SlotEvent::LeaderSays(Authority::Superseded)),
        ("opened", SlotEvent::Opened { session }),
        ("synced", SlotEvent::SyncWritten { session }),
        ("no marker", found(&[])),
        ("output marker", found(&[(1, MarkerKind::Output)])),
        ("void marker", found(&[(1, MarkerKind::Void)])),
        (
            "markers lost",
            SlotEvent::MarkersLost {
                session,
                reason: "it does not exist".to_owned(),
            },
        ),
        ("write void", SlotEvent::WriteVoid { id: id(1) }),
        ("unreadable", SlotEvent::LogUnreadable),
        (
            "no session",
            SlotEvent::SessionRefused {
                session,
                reason: "access is denied".to_owned(),
            },
        ),
        (
            "refused",
            SlotEvent::RecordRefused {
                reason: "too large".to_owned(),
            },
        ),
    ]
}

fn table() -> String {
    let mut text = format!("{:14}", "");
    for state in states() {
        write!(text, "{:5}", name(&state)).unwrap();
    }
    for at in 0..events(SessionNumber(0)).len() {
        write!(text, "\n{:14}", events(SessionNumber(0))[at].0).unwrap();
        for mut state in states() {
            let before = name(&state);
            let (_, event) = events(state.session).swap_remove(at);
            let effects = state.step(event);
            let after = name(&state);
            let cell = match (before == after, effects.is_empty()) {
                (true, true) => ".",
                (true, false) => "*",
                _ => after,
            };
            write!(text, "{cell:5}").unwrap();
        }
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// `.` = nothing happens, `*` = something is done in the same state. "Idle" is an open slot without a transaction.
const TABLE: &str = include_str!("table.txt");

#[test]
fn every_event_in_every_state_moves_as_the_design_says() {
    let found = table();
    assert_eq!(found, TABLE.trim_end(), "\n{found}\n");
}

#[test]
fn events_of_another_session_change_nothing_in_any_state() {
    for state in states() {
        let other = SessionNumber(state.session.0 + 1);
        for (event_name, event) in events(other) {
            let of_session = matches!(
                event,
                SlotEvent::Flushed { .. }
                    | SlotEvent::TxnLost { .. }
                    | SlotEvent::EndTxn { .. }
                    | SlotEvent::Opened { .. }
                    | SlotEvent::SyncWritten { .. }
                    | SlotEvent::MarkersRead { .. }
                    | SlotEvent::MarkersLost { .. }
                    | SlotEvent::SessionRefused { .. }
            );
            if of_session {
                let mut slot = state.clone();
                assert_eq!(slot.step(event), [], "{event_name} in {}", name(&state));
                assert_eq!(slot.state(), state.state());
            }
        }
    }
}
