//! Tests of *Going back*: every transition of the machine, every stop, and a return by the user's will.

use super::*;
use crate::rescale::Rescaled;
use crate::source_start::base;

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
    assert_eq!(effects, [choice()], "nothing is void before head says so");
    let effects = machine.step(&GoingBackEvent::ChoiceDurable);
    assert_eq!(effects, [void(0)]);
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
    let head = chosen_head(&[0, 1]).changed(change, Nonce(9));
    assert_eq!((head.number, head.has_pending_output()), (5, false));
    assert_eq!(head.giving_up, None, "the choice was carried out");
}

/// The choice to go back from checkpoint 4 to checkpoint 3.
fn give_up() -> HeadChange {
    let to = reference(&manifest(3, &[0]));
    HeadChange::GiveUp { to }
}

fn choice() -> GoingBackEffect {
    GoingBackEffect::MakeChoice(give_up())
}

fn void(at: u32) -> GoingBackEffect {
    let (slot, id) = (slot(at), id(4));
    GoingBackEffect::WriteVoid { slot, id }
}

/// The head of a leader that died after it had made the choice.
fn chosen_head(logs: &[u32]) -> Head {
    head_at(&manifest(4, logs), 3).changed(&give_up(), Nonce(8))
}

/// What the next leader begins with on a head that has the choice, whether it reads the manifest that is given up or not.
fn going_on(given_up: Option<Manifest>, fault: Fault) -> (GoingBack, Vec<GoingBackEffect>) {
    let head = chosen_head(&[0, 1]).changed(
        &HeadChange::TakeOver {
            slots: BTreeMap::new(),
        },
        Nonce(9),
    );
    let target = manifest(3, &[0]);
    assert_eq!(
        return_of(&head, given_up.as_ref()),
        Some(reference(&target)),
        "the choice leads where it led when it was made"
    );
    let plan = GoingBackPlan {
        head,
        target: (reference(&target), target),
        given_up,
        fault,
    };
    GoingBack::forced(plan, &shape(3), TrySource::new(NonceStream::new(Nonce(6))))
}

#[test]
fn a_leader_that_died_before_the_choice_has_changed_nothing() {
    let (mut machine, _) = going_back(&[0, 1], true);
    machine.step(&examined(0, None));
    let written = machine.step(&examined(1, None));
    assert_eq!(written, [choice()], "not one void marker is ordered");
    for slot in [0, 1] {
        assert_eq!(machine.step(&examined(slot, None)), [], "nor before head");
    }
    let effects = machine.step(&GoingBackEvent::ChoiceDurable);
    assert_eq!(effects, [void(0), void(1)]);
    assert_eq!(machine.step(&GoingBackEvent::ChoiceDurable), [], "once");
}

#[test]
fn a_leader_that_died_after_the_choice_is_followed_by_one_that_carries_it_out() {
    let whole = manifest(4, &[0, 1]);
    // None, one and both slots were void already when it died.
    for voided in 0..3 {
        for readable in [true, false] {
            let (mut machine, effects) = going_on(readable.then(|| whole.clone()), Fault::State);
            let asked = effects.len() as u32;
            assert_eq!(asked, if readable { 2 } else { 3 }, "{effects:?}");
            let mut last = Vec::new();
            for at in 0..asked {
                let found = (at < voided).then_some(MarkerKind::Void);
                last = machine.step(&examined(at, found));
            }
            let voids: Vec<_> = (voided..asked).map(void).collect();
            if voids.is_empty() {
                assert!(matches!(last[..], [GoingBackEffect::WriteManifest { .. }]));
            } else {
                assert_eq!(last, voids, "the choice is not made twice");
            }
        }
    }
}

#[test]
fn a_choice_beside_visible_output_stops_whatever_was_damaged() {
    for fault in [Fault::State, Fault::Log] {
        let (mut machine, _) = going_on(Some(manifest(4, &[0, 1])), fault);
        machine.step(&examined(0, Some(MarkerKind::Void)));
        let effects = machine.step(&examined(1, Some(MarkerKind::Output)));
        let [GoingBackEffect::Stop(NamedStop::PartlyCommitted { slot: at, .. })] = &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!(*at, slot(1));
        let text = effects_stop(&effects);
        assert!(!text.contains("repair checkpoint"), "void is void: {text}");
        for way_on in ["`--fork`", "`--fresh`"] {
            assert!(text.contains(way_on), "{text}");
        }
    }
}

fn effects_stop(effects: &[GoingBackEffect]) -> String {
    let [GoingBackEffect::Stop(stop)] = effects else {
        panic!("{effects:?}")
    };
    stop.to_string()
}

/// A savepoint in the place of checkpoint 4, which is being given up.
fn replaced(given_up: &Manifest) -> (GoingBack, Vec<GoingBackEffect>) {
    let savepoint = SavepointFacts {
        folder: "savepoints/one".to_owned(),
        hash: ContentHash(9),
        lineage: Lineage(1),
        id: id(2),
    };
    let head = chosen_head(&[0, 1]);
    let mut state = manifest(2, &[]);
    state.id = id(5);
    let tries = TrySource::new(NonceStream::new(Nonce(6)));
    GoingBack::replaced((head, given_up), state, &savepoint, &shape(3), tries)
}

#[test]
fn a_savepoint_takes_the_place_of_what_is_given_up_and_nobody_needs_the_checkpoint_before() {
    let given_up = manifest(4, &[0, 1]);
    let (mut machine, effects) = replaced(&given_up);
    assert_eq!(effects.len(), 2, "each slot with a log: {effects:?}");
    assert_eq!(machine.step(&examined(0, Some(MarkerKind::Void))), []);
    let effects = machine.step(&examined(1, None));
    assert_eq!(effects, [void(1)], "head has chosen already");
    let effects = machine.step(&GoingBackEvent::Voided(slot(1)));
    let [GoingBackEffect::WriteManifest { name, bytes, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let state = Manifest::decode(bytes).unwrap();
    assert_eq!(
        (state.id.number, state.parent, state.starts),
        (5, None, None)
    );
    assert_eq!(state.operators, manifest(2, &[]).operators);
    let effects = machine.step(&GoingBackEvent::ManifestWritten(*name));
    let [GoingBackEffect::WriteHead(change)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let head = chosen_head(&[0, 1]).changed(change, Nonce(9));
    assert_eq!((head.number, head.giving_up.is_none()), (5, true));
    assert_eq!(head.origin.unwrap().savepoint, "savepoints/one");
}

#[test]
fn a_savepoint_does_not_take_the_place_of_visible_output() {
    let given_up = manifest(4, &[0, 1]);
    let (mut machine, _) = replaced(&given_up);
    machine.step(&examined(0, None));
    let effects = machine.step(&examined(1, Some(MarkerKind::Output)));
    assert!(effects_stop(&effects).starts_with("PartlyCommitted"));
}

#[test]
#[should_panic(expected = "nothing is void before head says that it is given up")]
fn a_savepoint_makes_no_choice() {
    let given_up = manifest(4, &[0, 1]);
    let savepoint = SavepointFacts {
        folder: "savepoints/one".to_owned(),
        hash: ContentHash(9),
        lineage: Lineage(1),
        id: id(2),
    };
    let tries = TrySource::new(NonceStream::new(Nonce(6)));
    let head = head_at(&given_up, 3);
    GoingBack::replaced(
        (head, &given_up),
        manifest(2, &[]),
        &savepoint,
        &shape(3),
        tries,
    );
}

#[test]
fn output_that_appears_while_the_choice_is_written_stops_once_it_is_decided() {
    let (mut machine, _) = going_back(&[0, 1], true);
    machine.step(&examined(0, None));
    machine.step(&examined(1, None));
    let output = examined(0, Some(MarkerKind::Output));
    assert_eq!(machine.step(&output), [], "head is undecided (L1)");
    let effects = machine.step(&GoingBackEvent::ChoiceDurable);
    assert!(matches!(
        &effects[..],
        [GoingBackEffect::Stop(NamedStop::PartlyCommitted { .. })]
    ));
}

#[test]
fn a_void_marker_that_appears_while_the_choice_is_written_is_not_written_again() {
    let (mut machine, _) = going_back(&[0, 1], true);
    machine.step(&examined(0, None));
    machine.step(&examined(1, None));
    assert_eq!(machine.step(&GoingBackEvent::Voided(slot(1))), []);
    let effects = machine.step(&GoingBackEvent::ChoiceDurable);
    assert_eq!(effects, [void(0)]);
}

#[test]
fn where_all_is_void_already_there_is_nothing_to_choose() {
    let (mut machine, _) = going_back(&[0, 1], true);
    machine.step(&examined(0, Some(MarkerKind::Void)));
    let effects = machine.step(&examined(1, Some(MarkerKind::Void)));
    assert!(matches!(
        effects[..],
        [GoingBackEffect::WriteManifest { .. }]
    ));
}

#[test]
fn a_region_on_a_number_that_is_given_up_publishes_nothing_and_goes_back() {
    let (head, manifest) = (chosen_head(&[0, 1]), manifest(4, &[0, 1]));
    let (mut region, effects) =
        RegionRecovery::start(&head, &manifest, &shape(3), &BTreeSet::new());
    assert_eq!(effects, [RegionEffect::GoBack]);
    for at in 0..3 {
        assert_eq!(region.step(RegionEvent::Freed(slot(at))), []);
        assert_eq!(region.step(RegionEvent::Verified(task(at))), []);
    }
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
fn a_state_that_came_back_goes_on_at_the_parallelism_that_it_had() {
    let at = |parallelism| BTreeMap::from([(uid("agg"), Parallelism(parallelism))]);
    let rescaled = |parallelism| {
        Some(Rescaled {
            configured: at(1),
            to: at(parallelism),
        })
    };
    for (older, newer) in [
        (None, rescaled(3)),
        (rescaled(2), rescaled(3)),
        (rescaled(2), None),
    ] {
        let (mut broken, mut target) = (manifest(4, &[]), manifest(3, &[]));
        broken.rescaled = newer;
        target.rescaled.clone_from(&older);
        let plan = GoingBackPlan {
            head: head_at(&broken, 4),
            target: (reference(&target), target),
            given_up: Some(broken),
            fault: Fault::State,
        };
        let tries = TrySource::new(NonceStream::new(Nonce(5)));
        let (_, effects) = GoingBack::forced(plan, &shape(3), tries);
        let [GoingBackEffect::WriteManifest { bytes, .. }] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(Manifest::decode(bytes).unwrap().rescaled, older);
    }
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
    machine.step(&GoingBackEvent::ChoiceDurable);
    assert_eq!(machine.step(&examined(0, None)), [void(0)]);
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

#[test]
fn nothing_is_adopted_on_a_number_that_is_given_up() {
    let manifest = manifest(4, &[0, 1]);
    let mut takeover = Takeover::start(&chosen_head(&[0, 1]), &manifest, &shape(2));
    takeover.report(report(0, 7, Some(id(4)), 3));
    assert_eq!(
        takeover.report(report(1, 7, Some(id(4)), 3)),
        Some(TakeoverDecision::Restart)
    );
}

#[test]
fn of_two_leaders_the_deposed_one_cannot_make_the_choice() {
    let head = head_at(&manifest(4, &[0, 1]), 3);
    let take = |of: &Head| {
        let slots = BTreeMap::new();
        of.changed(&HeadChange::TakeOver { slots }, Nonce(20))
    };
    let mut old = HeadKeeper::new(Some(versioned(head.clone())));
    let first = old.begin(&give_up(), Nonce(10));
    assert!(matches!(first[..], [HeadWriteEffect::Put { .. }]));
    old.step(HeadWriteEvent::Put(PutOutcome::Precondition));
    let newer = ReadOutcome::Value(Box::new(versioned(take(&head))));
    let effects = old.step(HeadWriteEvent::Read(newer));
    assert!(
        matches!(
            effects[..],
            [HeadWriteEffect::Decided(HeadOutcome::Superseded(_))]
        ),
        "so it never orders a void marker: {effects:?}"
    );
    let newer = take(&chosen_head(&[0, 1]));
    assert!(
        newer.giving_up.is_some(),
        "one that was made in time is taken over with the job"
    );
}

/// Runs a going back on which no slot has published, up to its manifest.
fn rebased(mut machine: GoingBack, first: Vec<GoingBackEffect>) -> (Manifest, ManifestRef) {
    let mut effects = std::collections::VecDeque::from(first);
    while let Some(effect) = effects.pop_front() {
        let event = match effect {
            GoingBackEffect::Examine(duty) => GoingBackEvent::Examined {
                slot: duty.slot,
                found: None,
            },
            GoingBackEffect::MakeChoice(_) => GoingBackEvent::ChoiceDurable,
            GoingBackEffect::WriteVoid { slot, .. } => GoingBackEvent::Voided(slot),
            GoingBackEffect::WriteManifest { name, bytes, hash } => {
                let manifest = Manifest::decode(&bytes).unwrap();
                return (manifest, ManifestRef { name, hash });
            }
            other => panic!("{other:?}"),
        };
        effects.extend(machine.step(&event));
    }
    panic!("no manifest was written")
}

#[test]
fn the_start_of_an_added_source_is_looked_for_in_one_place_however_often_a_state_comes_back() {
    let started = reference(&manifest(3, &[0])).name;
    // Checkpoint 4 is given up: 5 has the state of 3. So is 6, the first that knows the source: 7 has the state of 5.
    let (machine, effects) = going_back(&[0, 1], true);
    let (mut state, mut name) = rebased(machine, effects);
    assert_eq!(base(&state, name.name), started);
    for number in [6, 8] {
        let mut broken = manifest(number, &[0, 1]);
        broken.parent = Some(name);
        let plan = GoingBackPlan {
            head: head_at(&broken, number - 1),
            target: (name, state),
            given_up: Some(broken),
            fault: Fault::State,
        };
        let tries = TrySource::new(NonceStream::new(Nonce(u128::from(number))));
        let (machine, effects) = GoingBack::forced(plan, &shape(3), tries);
        (state, name) = rebased(machine, effects);
        assert_eq!(state.id.number, number + 1);
        assert_eq!(base(&state, name.name), started);
        assert_eq!(
            crate::gc::Reach::of(&state).starts,
            Some(started),
            "a collection keeps it"
        );
    }
}

#[test]
fn a_state_that_came_back_before_format_4_hands_on_the_base_that_it_had() {
    let (machine, effects) = going_back(&[0, 1], true);
    let (mut old, name) = rebased(machine, effects);
    old.starts = None;
    let started = base(&old, name.name);
    assert_eq!(started, old.parent.unwrap().name);
    let mut broken = manifest(6, &[0, 1]);
    broken.parent = Some(name);
    let plan = GoingBackPlan {
        head: head_at(&broken, 5),
        target: (name, old),
        given_up: Some(broken),
        fault: Fault::State,
    };
    let (machine, effects) =
        GoingBack::forced(plan, &shape(3), TrySource::new(NonceStream::new(Nonce(6))));
    let (state, name) = rebased(machine, effects);
    assert_eq!(base(&state, name.name), started);
}

#[test]
fn the_files_of_local_stores_come_back_with_the_state_whoever_stored_them() {
    let old = manifest(3, &[0]);
    let head = head_at(&manifest(4, &[]), 4);
    let tries = TrySource::new(NonceStream::new(Nonce(5)));
    let (machine, first) = GoingBack::voluntary(head, old.clone(), &savepoint(), tries);
    let (back, _) = rebased(machine, first);
    assert_eq!((&back.operators, &back.files), (&old.operators, &old.files));
    assert_eq!(back.state_bytes().new, 0, "nothing is copied");
}
