//! Tests of *Going back*: every transition of the machine, every stop, and a return by the user's will.

use super::*;

fn going_back(logs: &[u32], readable: bool) -> (GoingBack, Vec<GoingBackEffect>) {
    let broken = manifest(4, logs);
    let target = manifest(3, &[0]);
    let plan = GoingBackPlan {
        head: head_at(&broken, 3),
        target: (reference(&target), target),
        given_up: readable.then_some(broken),
        fault: Fault::State,
    };
    GoingBack::forced(plan, &shape(3), TrySource::new(NonceStream::new(Nonce(5))))
}

fn examined(at: u32, found: Option<MarkerKind>) -> GoingBackEvent {
    GoingBackEvent::Examined {
        slot: slot(at),
        found,
    }
}

#[test]
fn going_back_voids_then_takes_a_new_number_with_the_older_state() {
    let (mut machine, effects) = going_back(&[0, 1], true);
    assert_eq!(effects.len(), 2, "only slots with a log: {effects:?}");
    assert_eq!(machine.step(&examined(0, None)), [], "waits for all");
    let effects = machine.step(&examined(1, Some(MarkerKind::Void)));
    assert_eq!(
        effects,
        [GoingBackEffect::WriteVoid {
            slot: slot(0),
            id: id(4)
        }]
    );
    let effects = machine.step(&GoingBackEvent::Voided(slot(0)));
    let [GoingBackEffect::WriteManifest { name, bytes, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let rebased = Manifest::decode(bytes).unwrap();
    assert_eq!(rebased.id.number, 5, "schedule 8: the number never falls");
    assert!(!rebased.has_output());
    assert_eq!(rebased.operators, manifest(3, &[]).operators);
    assert_eq!(rebased.kind, SnapshotKind::Rebased);
    let effects = machine.step(&GoingBackEvent::ManifestWritten(*name));
    let [GoingBackEffect::WriteHead(change)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let head = head_at(&manifest(4, &[0, 1]), 3).changed(change, Nonce(9));
    assert_eq!((head.number, head.has_pending_output()), (5, false));
}

#[test]
fn a_number_that_was_taken_by_going_back_is_not_given_up_again() {
    let mut broken = manifest(4, &[]);
    broken.kind = SnapshotKind::Rebased;
    let target = manifest(3, &[]);
    let plan = GoingBackPlan {
        head: head_at(&broken, 4),
        target: (reference(&target), target),
        given_up: Some(broken),
        fault: Fault::State,
    };
    let tries = TrySource::new(NonceStream::new(Nonce(5)));
    let (_, effects) = GoingBack::forced(plan, &shape(3), tries);
    let [GoingBackEffect::Stop(stop)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(
        stop.to_string().starts_with("StateDamaged"),
        "its interval is visible"
    );
}

#[test]
fn schedule_21_visible_output_is_never_rewound() {
    let (mut machine, _) = going_back(&[0, 1], true);
    let effects = machine.step(&examined(0, Some(MarkerKind::Output)));
    let [GoingBackEffect::Stop(stop)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(stop.to_string().starts_with("PartlyCommitted"));
    assert_eq!(machine.step(&examined(1, None)), []);
}

#[test]
fn a_lost_session_on_the_way_to_void_reads_again() {
    let (mut machine, _) = going_back(&[0], true);
    machine.step(&examined(0, None));
    let effects = machine.step(&examined(0, None));
    assert_eq!(
        effects,
        [GoingBackEffect::WriteVoid {
            slot: slot(0),
            id: id(4)
        }]
    );
    let effects = machine.step(&examined(0, Some(MarkerKind::Output)));
    assert!(
        matches!(&effects[..], [GoingBackEffect::Stop(_)]),
        "somebody else published"
    );
}

#[test]
fn an_unreadable_manifest_examines_every_slot_ever_used() {
    let (_, effects) = going_back(&[0], false);
    let slots: Vec<SlotKey> = effects
        .into_iter()
        .map(|effect| match effect {
            GoingBackEffect::Examine(duty) => {
                assert_eq!((duty.from, duty.purpose), (5, Purpose::Examine));
                duty.slot
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(slots, [slot(0), slot(1), slot(2)]);
}

#[test]
fn an_unreadable_manifest_needs_every_sink_that_may_have_output() {
    let broken = manifest(4, &[]);
    let target = manifest(3, &[]);
    let plan = GoingBackPlan {
        head: head_at(&broken, 3),
        target: (reference(&target), target),
        given_up: None,
        fault: Fault::State,
    };
    let mut shape = shape(3);
    shape.sinks.clear();
    let tries = TrySource::new(NonceStream::new(Nonce(5)));
    let (_, effects) = GoingBack::forced(plan, &shape, tries);
    let [GoingBackEffect::Stop(stop)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(stop.to_string().starts_with("PendingOutput"), "{stop}");
}

/// Going back from checkpoint 4, of which `head` says that all output is confirmed.
fn going_back_confirmed(logs: &[u32], slots: u32) -> Vec<GoingBackEffect> {
    let broken = manifest(4, logs);
    let target = manifest(3, &[]);
    let plan = GoingBackPlan {
        head: head_at(&broken, 4),
        target: (reference(&target), target),
        given_up: Some(broken),
        fault: Fault::State,
    };
    let mut shape = shape(slots.max(1));
    if slots == 0 {
        shape.sinks.clear();
    }
    GoingBack::forced(plan, &shape, TrySource::new(NonceStream::new(Nonce(5)))).1
}

#[test]
fn confirmed_output_is_never_given_up_and_needs_no_session_to_say_so() {
    let effects = going_back_confirmed(&[0], 0);
    let [GoingBackEffect::Stop(stop)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(stop.to_string().starts_with("PartlyCommitted"), "{stop}");
    let silent = going_back_confirmed(&[], 0);
    assert!(
        matches!(&silent[..], [GoingBackEffect::WriteManifest { .. }]),
        "nothing was emitted, nothing is asked: {silent:?}"
    );
}

#[test]
fn a_damaged_log_beside_visible_output_recovers_as_always() {
    let broken = manifest(4, &[0, 1]);
    let target = manifest(3, &[]);
    let plan = GoingBackPlan {
        head: head_at(&broken, 3),
        target: (reference(&target), target),
        given_up: Some(broken),
        fault: Fault::Log,
    };
    let tries = TrySource::new(NonceStream::new(Nonce(5)));
    let (mut machine, _) = GoingBack::forced(plan, &shape(3), tries);
    let effects = machine.step(&examined(1, Some(MarkerKind::Output)));
    assert_eq!(effects, [GoingBackEffect::Recover]);
    assert_eq!(machine.step(&examined(0, None)), [], "nothing is voided");
}

fn savepoint() -> SavepointFacts {
    SavepointFacts {
        folder: "savepoints/one".to_owned(),
        hash: ContentHash(7),
        lineage: Lineage(1),
        id: id(3),
    }
}

#[test]
fn a_voluntary_return_says_in_head_what_was_taken() {
    let head = head_at(&manifest(4, &[]), 4);
    let tries = TrySource::new(NonceStream::new(Nonce(5)));
    let (mut machine, effects) =
        GoingBack::voluntary(head.clone(), manifest(3, &[0]), &savepoint(), tries);
    let [GoingBackEffect::WriteManifest { name, bytes, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let rebased = Manifest::decode(bytes).unwrap();
    assert_eq!((rebased.id.number, rebased.parent), (5, None));
    assert!(!rebased.has_output());
    let effects = machine.step(&GoingBackEvent::ManifestWritten(*name));
    let [GoingBackEffect::WriteHead(change)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let head = head.changed(change, Nonce(9));
    let origin = head.origin.unwrap();
    assert_eq!(origin.hash, savepoint().hash);
    assert_eq!(origin.taken_as, head.number);
}

#[test]
#[should_panic(expected = "pending output is confirmed")]
fn a_voluntary_return_with_pending_output_is_a_bug() {
    let head = head_at(&manifest(4, &[0]), 3);
    let tries = TrySource::new(NonceStream::new(Nonce(5)));
    GoingBack::voluntary(head, manifest(3, &[0]), &savepoint(), tries);
}
