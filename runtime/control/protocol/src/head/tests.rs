//! Tests of the head body: codec and the rules of its chain.

use super::*;

fn manifest(epoch: u64, number: u64) -> ManifestRef {
    ManifestRef {
        name: ManifestName {
            epoch: Epoch(epoch),
            number,
            nonce: Nonce(77),
        },
        hash: ContentHash(u64::MAX - number),
    }
}

fn slots(count: u32) -> SlotCounts {
    SlotCounts::from([(OperatorUid::parse("sink").unwrap(), count)])
}

fn first() -> Head {
    let identity = JobIdentity::parse("fleet").unwrap();
    Head::first(identity, Lineage(5), manifest(1, 0), slots(2), Nonce(1))
}

fn complete(head: &Head, number: u64, nonce: u128) -> Head {
    let change = HeadChange::Complete {
        manifest: manifest(head.epoch.0, number),
        confirmed: head.number,
    };
    head.changed(&change, Nonce(nonce))
}

#[test]
fn a_head_round_trips_and_damage_is_found() {
    let head = complete(&first(), 1, 2);
    let bytes = head.encode();
    assert_eq!(Head::decode(&bytes).unwrap(), head);
    assert_eq!(bytes, head.encode());
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x20;
        assert!(Head::decode(&bad).is_err(), "flip at {at}");
    }
    assert_eq!(Head::decode(b"").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_hand_edited_head_that_contradicts_itself_is_refused() {
    let mut head = first();
    head.confirmed = 9;
    assert!(matches!(
        Head::decode(&head.encode()),
        Err(HeadError::Unsound { counter: 1 })
    ));
}

#[test]
fn every_change_keeps_the_chain() {
    let one = complete(&first(), 1, 2);
    let over = one.changed(&HeadChange::TakeOver { slots: slots(1) }, Nonce(3));
    assert_eq!((over.epoch, over.number, over.counter), (Epoch(2), 1, 3));
    assert_eq!(over.slots, slots(2), "slots never fall");
    let raised = over.changed(&HeadChange::RaiseSlots { slots: slots(4) }, Nonce(4));
    assert_eq!(raised.slots, slots(4));
    assert!(raised.has_pending_output());
    let confirmed = raised.changed(&HeadChange::Confirm, Nonce(5));
    assert!(!confirmed.has_pending_output());
    let touched = confirmed.changed(&HeadChange::Touch, Nonce(6));
    assert_eq!(touched.number, 1);
    let back = touched.changed(
        &HeadChange::Rebase {
            manifest: manifest(2, 2),
            origin: None,
        },
        Nonce(7),
    );
    assert_eq!((back.number, back.confirmed), (2, 2));
    assert_eq!(touched.previous.as_deref(), Some(&first().manifest));
    assert_eq!(
        back.previous, None,
        "what was visible belongs to no older state"
    );
    let restart = HeadChange::Restart {
        lineage: Lineage(6),
        manifest: manifest(3, 0),
        slots: slots(1),
        origin: None,
    };
    let fresh = back.changed(&restart, Nonce(8));
    assert_eq!(
        (fresh.epoch, fresh.number, fresh.confirmed),
        (Epoch(3), 0, 0)
    );
}

#[test]
#[should_panic(expected = "the number fell")]
fn t_schedule_8_the_number_never_falls() {
    let two = complete(&first(), 2, 2);
    let back = two.changed(
        &HeadChange::Rebase {
            manifest: manifest(1, 1),
            origin: None,
        },
        Nonce(3),
    );
    assert_eq!(back.number, 1);
}

#[test]
#[should_panic(expected = "a number was used for two manifests")]
fn a_completed_number_is_never_used_again() {
    let one = complete(&first(), 1, 2);
    let mut other = manifest(1, 1);
    other.name.nonce = Nonce(78);
    let change = HeadChange::Complete {
        manifest: other,
        confirmed: 0,
    };
    assert_eq!(one.changed(&change, Nonce(3)).number, 1);
}

type Edit = (fn(&mut Head), &'static str);

#[test]
fn a_chain_with_a_gap_or_a_fallen_value_is_named() {
    let base = complete(&first(), 1, 2);
    let good = complete(&base, 2, 3);
    let broken: [Edit; 5] = [
        (|h| h.counter += 1, "the counter did not rise by one"),
        (|h| h.nonce = Nonce(2), "the nonce was used before"),
        (|h| h.epoch = Epoch(3), "the epoch skipped"),
        (|h| h.slots.clear(), "the slots of a sink fell"),
        (|h| h.confirmed = 3, "confirmed is ahead of the number"),
    ];
    assert_eq!(good.follows(&base), Ok(()));
    for (edit, fault) in broken {
        let mut bad = good.clone();
        edit(&mut bad);
        assert_eq!(bad.follows(&base), Err(fault));
    }
}

/// Checkpoint 2 is being given up for checkpoint 1.
fn giving_up() -> Head {
    let two = complete(&complete(&first(), 1, 2), 2, 3);
    let to = manifest(1, 1);
    two.changed(&HeadChange::GiveUp { to }, Nonce(4))
}

#[test]
fn a_choice_to_give_up_outlives_its_leader_and_ends_with_the_number_that_takes_its_place() {
    let chosen = giving_up();
    let choice = chosen.giving_up.clone();
    assert_eq!(choice.as_ref().unwrap().given_up, chosen.manifest);
    assert_eq!(Head::decode(&chosen.encode()).unwrap(), chosen);
    let over = chosen.changed(&HeadChange::TakeOver { slots: slots(3) }, Nonce(5));
    let raised = over.changed(&HeadChange::RaiseSlots { slots: slots(4) }, Nonce(6));
    let touched = raised.changed(&HeadChange::Touch, Nonce(7));
    assert_eq!((&over.giving_up, &touched.giving_up), (&choice, &choice));
    let rebase = HeadChange::Rebase {
        manifest: manifest(2, 3),
        origin: None,
    };
    assert_eq!(touched.changed(&rebase, Nonce(8)).giving_up, None);
    let restart = HeadChange::Restart {
        lineage: Lineage(6),
        manifest: manifest(3, 0),
        slots: slots(1),
        origin: None,
    };
    assert_eq!(touched.changed(&restart, Nonce(8)).giving_up, None);
}

#[test]
#[should_panic(expected = "output that was being given up was confirmed")]
fn what_is_given_up_is_never_confirmed() {
    assert!(
        !giving_up()
            .changed(&HeadChange::Confirm, Nonce(5))
            .has_pending_output()
    );
}

#[test]
#[should_panic(expected = "a checkpoint completed on one that was being given up")]
fn no_checkpoint_completes_on_one_that_is_given_up() {
    assert_eq!(complete(&giving_up(), 3, 5).number, 3);
}

#[test]
fn a_choice_is_never_taken_back_and_names_the_number_in_head() {
    let (two, chosen) = (complete(&complete(&first(), 1, 2), 2, 3), giving_up());
    let mut back = chosen.changed(&HeadChange::Touch, Nonce(5));
    back.giving_up = None;
    assert_eq!(
        back.follows(&chosen),
        Err("a choice to give up was taken back")
    );
    let mut other = chosen;
    other.giving_up.as_mut().unwrap().given_up = manifest(1, 1);
    assert_eq!(
        other.follows(&two),
        Err("what is given up is not the number in head")
    );
    assert!(Head::decode(&other.encode()).is_err());
}

#[test]
fn a_head_of_format_2_gives_nothing_up() {
    let mut head = complete(&first(), 1, 2);
    head.format = 2;
    let bytes = head.encode();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(!text.contains("giving_up"), "as format 2 had it: {text}");
    assert_eq!(Head::decode(&bytes).unwrap().giving_up, None);
}
