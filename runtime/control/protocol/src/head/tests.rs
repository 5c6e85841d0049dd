//! Tests of the head body: codec and the rules of its chain.

use proptest::prelude::*;

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
        slots: SlotCounts::new(),
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
fn l6_the_write_that_completes_a_rescale_raises_the_slots_and_never_lowers_them() {
    let rescaled = |number, count| HeadChange::Complete {
        manifest: manifest(1, number),
        confirmed: 0,
        slots: slots(count),
    };
    let up = first().changed(&rescaled(1, 4), Nonce(2));
    assert_eq!((up.number, &up.slots), (1, &slots(4)), "in one write");
    assert_eq!(up.follows(&first()), Ok(()));
    assert_eq!(Head::decode(&up.encode()).unwrap(), up);
    let down = up.changed(&rescaled(2, 1), Nonce(3));
    assert_eq!((down.number, &down.slots), (2, &slots(4)));
    let mut fallen = down;
    fallen.slots = slots(1);
    assert_eq!(fallen.follows(&up), Err("the slots of a sink fell"));
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
        slots: SlotCounts::new(),
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

#[test]
fn a_head_of_format_3_has_not_ended() {
    let mut head = complete(&first(), 1, 2);
    head.format = 3;
    let bytes = head.encode();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(!text.contains("ended"), "as format 3 had it: {text}");
    assert_eq!(Head::decode(&bytes).unwrap().ended, None);
    let next = head.changed(&HeadChange::Confirm, Nonce(3)).encode();
    let text = String::from_utf8(next).unwrap();
    assert!(text.contains("\"format\":4"), "it is written anew: {text}");
}

/// Checkpoint 1 with all of its output confirmed.
fn confirmed() -> Head {
    complete(&first(), 1, 2).changed(&HeadChange::Confirm, Nonce(3))
}

#[test]
fn the_end_of_a_job_outlives_its_leader_and_ends_with_the_next_leadership() {
    for (end, word) in [(JobEnd::Finished, "finished"), (JobEnd::Stopped, "stopped")] {
        let ended = confirmed().changed(&HeadChange::End(end), Nonce(4));
        assert_eq!(ended.ended, Some(end));
        let bytes = ended.encode();
        assert_eq!(Head::decode(&bytes).unwrap(), ended);
        let text = String::from_utf8(bytes).unwrap();
        let member = format!("\"ended\":\"{word}\"");
        assert!(text.contains(&member), "{text}");
        let over = ended.changed(&HeadChange::TakeOver { slots: slots(2) }, Nonce(5));
        assert_eq!((over.epoch, over.ended), (Epoch(2), None));
        let restart = HeadChange::Restart {
            lineage: Lineage(6),
            manifest: manifest(2, 0),
            slots: slots(1),
            origin: None,
        };
        assert_eq!(ended.changed(&restart, Nonce(5)).ended, None);
    }
}

#[test]
#[should_panic(expected = "a job ended with output that is not confirmed")]
fn a_job_does_not_end_with_output_that_is_not_confirmed() {
    let pending = complete(&first(), 1, 2);
    let ended = pending.changed(&HeadChange::End(JobEnd::Stopped), Nonce(3));
    assert!(!ended.has_pending_output());
}

#[test]
#[should_panic(expected = "a leader went on with a job that it had ended")]
fn no_checkpoint_completes_after_the_end() {
    let ended = confirmed().changed(&HeadChange::End(JobEnd::Stopped), Nonce(4));
    assert_eq!(complete(&ended, 2, 5).number, 2);
}

#[test]
fn an_end_stands_alone_and_is_taken_back_by_the_next_leadership_only() {
    let before = confirmed();
    let ended = before.changed(&HeadChange::End(JobEnd::Stopped), Nonce(4));
    let mut back = ended.clone();
    (back.counter, back.nonce, back.ended) = (ended.counter + 1, Nonce(5), None);
    assert_eq!(
        back.follows(&ended),
        Err("a leader went on with a job that it had ended")
    );
    let mut over = ended.changed(&HeadChange::TakeOver { slots: slots(2) }, Nonce(5));
    over.ended = Some(JobEnd::Stopped);
    assert_eq!(
        over.follows(&ended),
        Err("a leadership began with the end of the job")
    );
    let mut raised = ended;
    raised.slots = slots(3);
    assert_eq!(
        raised.follows(&before),
        Err("the end of the job came with something else")
    );
    let mut pending = complete(&first(), 1, 2);
    pending.ended = Some(JobEnd::Finished);
    assert!(Head::decode(&pending.encode()).is_err());
    let mut given_up = giving_up();
    given_up.confirmed = given_up.number;
    given_up.ended = Some(JobEnd::Finished);
    assert!(Head::decode(&given_up.encode()).is_err());
}

proptest! {
    /// Whatever leaders ask for in whatever order: an end is the last word of its epoch and has nothing pending.
    #[test]
    fn random_chains_end_once_in_an_epoch(choices in prop::collection::vec(0u8..6, 1..60)) {
        let mut head = first();
        for (choice, nonce) in choices.into_iter().zip(10u128..) {
            let change = match choice {
                _ if head.ended.is_some() => HeadChange::TakeOver { slots: slots(2) },
                0 => HeadChange::Complete {
                    manifest: manifest(head.epoch.0, head.number + 1),
                    confirmed: head.number,
                    slots: slots(1 + (nonce % 4) as u32),
                },
                1 => HeadChange::Confirm,
                2 => HeadChange::RaiseSlots { slots: slots(3) },
                3 => HeadChange::Touch,
                4 if !head.has_pending_output() => HeadChange::End(JobEnd::Finished),
                _ => HeadChange::TakeOver { slots: slots(1) },
            };
            let next = head.changed(&change, Nonce(nonce));
            prop_assert_eq!(&Head::decode(&next.encode()).unwrap(), &next);
            prop_assert!(next.ended.is_none() || !next.has_pending_output());
            prop_assert!(next.slots >= head.slots, "slots never fall");
            prop_assert!(head.ended.is_none() || next.epoch > head.epoch && next.ended.is_none());
            head = next;
        }
    }
}
