//! Tests of head writes: every answer in every state, and an exhaustive walk with a store that applies late.

use std::collections::BTreeSet;

use highwater_types::{Epoch, JobIdentity, Lineage};

use super::*;
use crate::hash::ContentHash;
use crate::head::{ManifestRef, SlotCounts};
use crate::paths::ManifestName;

fn manifest(epoch: u64, number: u64) -> ManifestRef {
    ManifestRef {
        name: ManifestName {
            epoch: Epoch(epoch),
            number,
            nonce: Nonce(0),
        },
        hash: ContentHash(number),
    }
}

fn base() -> Versioned {
    let identity = JobIdentity::parse("job").unwrap();
    let head = Head::first(
        identity,
        Lineage(1),
        manifest(1, 0),
        SlotCounts::new(),
        Nonce(1),
    );
    Versioned { head, tag: tag(1) }
}

fn tag(counter: u64) -> VersionTag {
    VersionTag(Arc::from(format!("v{counter}")))
}

fn complete(number: u64) -> HeadChange {
    HeadChange::Complete {
        manifest: manifest(1, number),
        confirmed: 0,
        slots: SlotCounts::new(),
    }
}

fn writing() -> HeadKeeper {
    let mut keeper = HeadKeeper::new(Some(base()));
    let effects = keeper.begin(&complete(1), Nonce(2));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Put { tries: 1, .. }]
    ));
    keeper
}

fn ambiguous(keeper: &mut HeadKeeper) {
    let effects = keeper.step(HeadWriteEvent::Put(PutOutcome::Ambiguous));
    assert_eq!(effects, [HeadWriteEffect::Read { tries: 1 }]);
}

fn read(value: Head) -> HeadWriteEvent {
    let tag = tag(value.counter);
    HeadWriteEvent::Read(ReadOutcome::Value(Box::new(Versioned { head: value, tag })))
}

#[test]
fn a_clear_success_settles() {
    let mut keeper = writing();
    assert!(
        keeper.settled().is_none(),
        "nothing is derived while undecided"
    );
    let effects = keeper.step(HeadWriteEvent::Put(PutOutcome::Applied(tag(2))));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Decided(HeadOutcome::Won(_))]
    ));
    assert_eq!(keeper.settled().unwrap().head.number, 1);
}

fn refusal(kind: ErrorKind) -> Refusal {
    Refusal {
        kind,
        reason: "write of `head` is refused: 403".to_owned(),
    }
}

#[test]
fn a_refusal_of_the_first_put_decides_and_the_value_before_stands() {
    let mut keeper = writing();
    let refused = refusal(ErrorKind::Invalid);
    let effects = keeper.step(HeadWriteEvent::Put(PutOutcome::Refused(refused.clone())));
    let decided = HeadWriteEffect::Decided(HeadOutcome::Refused(refused));
    assert_eq!(effects, [decided]);
    assert_eq!(keeper.settled(), Some(&base()), "nothing has landed");
    keeper.begin(&complete(2), Nonce(3));
}

#[test]
fn l1_a_refusal_of_a_later_put_decides_nothing_because_an_earlier_one_may_land() {
    let mut keeper = writing();
    ambiguous(&mut keeper);
    let effects = keeper.step(read(base().head));
    assert!(matches!(
        effects[..],
        [HeadWriteEffect::Put { tries: 2, .. }]
    ));
    let refused = PutOutcome::Refused(refusal(ErrorKind::Invalid));
    let effects = keeper.step(HeadWriteEvent::Put(refused));
    assert!(matches!(effects[..], [HeadWriteEffect::Read { .. }]));
    assert!(
        keeper.settled().is_none(),
        "the first put is still on its way"
    );
    let own = base().head.changed(&complete(1), Nonce(2));
    let effects = keeper.step(read(own));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Decided(HeadOutcome::Won(_))]
    ));
}

#[test]
fn a_refusal_that_may_pass_is_not_final() {
    let mut keeper = writing();
    let refused = PutOutcome::Refused(refusal(ErrorKind::Transient));
    let effects = keeper.step(HeadWriteEvent::Put(refused));
    assert_eq!(effects, [HeadWriteEffect::Read { tries: 1 }]);
}

#[test]
fn reads_that_fail_are_counted_so_that_the_driver_can_back_off() {
    let mut keeper = writing();
    ambiguous(&mut keeper);
    for tries in 2..6 {
        let effects = keeper.step(HeadWriteEvent::Read(ReadOutcome::Failed));
        assert_eq!(effects, [HeadWriteEffect::Read { tries }]);
    }
    keeper.step(read(base().head));
    let effects = keeper.step(HeadWriteEvent::Put(PutOutcome::Ambiguous));
    assert_eq!(
        effects,
        [HeadWriteEffect::Read { tries: 1 }],
        "an answer begins anew"
    );
}

#[test]
fn a_head_that_is_damaged_decides_nothing_and_ends_the_leader() {
    let mut keeper = writing();
    ambiguous(&mut keeper);
    let reason = "head is no JSON".to_owned();
    let effects = keeper.step(HeadWriteEvent::Read(ReadOutcome::Corrupt(reason.clone())));
    let decided = HeadWriteEffect::Decided(HeadOutcome::Corrupt(reason));
    assert_eq!(effects, [decided]);
    assert!(keeper.is_deposed() && keeper.settled().is_none());
}

#[test]
fn schedule_31_own_nonce_read_back_is_success_after_any_answer() {
    for outcome in [PutOutcome::Ambiguous, PutOutcome::Precondition] {
        let mut keeper = writing();
        keeper.step(HeadWriteEvent::Put(outcome));
        let own = base().head.changed(&complete(1), Nonce(2));
        let effects = keeper.step(read(own));
        assert!(matches!(
            &effects[..],
            [HeadWriteEffect::Decided(HeadOutcome::Won(_))]
        ));
    }
}

#[test]
fn schedule_6_the_old_value_decides_nothing_and_the_same_body_is_sent_again() {
    let mut keeper = writing();
    for tries in 2..6 {
        keeper.step(HeadWriteEvent::Put(PutOutcome::Ambiguous));
        let effects = keeper.step(read(base().head));
        let [
            HeadWriteEffect::Put {
                body, tries: sent, ..
            },
        ] = &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!((body.nonce, *sent), (Nonce(2), tries));
        assert!(keeper.settled().is_none());
    }
}

#[test]
fn a_newer_value_supersedes_for_ever() {
    let mut keeper = writing();
    ambiguous(&mut keeper);
    let newer = base().head.changed(
        &HeadChange::TakeOver {
            slots: SlotCounts::new(),
        },
        Nonce(9),
    );
    let effects = keeper.step(read(newer));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Decided(HeadOutcome::Superseded(_))]
    ));
    assert!(keeper.is_deposed() && keeper.settled().is_none());
}

#[test]
fn a_contest_wins_with_the_same_number_or_loses_to_the_own_put() {
    let mut keeper = writing();
    keeper.step(HeadWriteEvent::Contest { nonce: Nonce(3) });
    ambiguous(&mut keeper);
    let effects = keeper.step(read(base().head));
    let [HeadWriteEffect::Put { body, if_match, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((body.number, body.counter, body.nonce), (0, 2, Nonce(3)));
    assert_eq!(if_match.as_ref(), Some(&tag(1)));
    let mut lost = keeper.clone();
    let effects = keeper.step(HeadWriteEvent::Put(PutOutcome::Applied(tag(2))));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Decided(HeadOutcome::Declined(_))]
    ));
    assert_eq!(keeper.settled().unwrap().head.number, 0);
    lost.step(HeadWriteEvent::Put(PutOutcome::Precondition));
    let effects = lost.step(read(base().head.changed(&complete(1), Nonce(2))));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Decided(HeadOutcome::Won(_))]
    ));
}

#[test]
fn a_contest_after_the_decision_changes_nothing() {
    let mut keeper = writing();
    keeper.step(HeadWriteEvent::Put(PutOutcome::Applied(tag(2))));
    assert_eq!(keeper.step(HeadWriteEvent::Contest { nonce: Nonce(3) }), []);
    assert!(keeper.settled().is_some());
}

#[test]
fn schedule_32_a_deleted_head_is_no_first_start() {
    let mut keeper = writing();
    ambiguous(&mut keeper);
    let effects = keeper.step(HeadWriteEvent::Read(ReadOutcome::Absent));
    assert_eq!(effects, [HeadWriteEffect::Decided(HeadOutcome::Vanished)]);
    assert!(keeper.is_deposed());
}

#[test]
fn a_create_is_repeated_until_something_is_there() {
    let mut keeper = HeadKeeper::new(None);
    keeper.create(base().head);
    ambiguous(&mut keeper);
    let effects = keeper.step(HeadWriteEvent::Read(ReadOutcome::Absent));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Put {
            if_match: None,
            tries: 2,
            ..
        }]
    ));
    keeper.step(HeadWriteEvent::Put(PutOutcome::Precondition));
    let mut other = base().head;
    other.nonce = Nonce(44);
    let effects = keeper.step(read(other));
    assert!(matches!(
        &effects[..],
        [HeadWriteEffect::Decided(HeadOutcome::Superseded(_))]
    ));
}

#[test]
#[should_panic(expected = "one head write at a time")]
fn l1_a_second_write_is_a_bug() {
    writing().begin(&complete(2), Nonce(5));
}

#[test]
#[should_panic(expected = "was not waiting for")]
fn an_answer_that_was_not_asked_for_is_a_bug() {
    writing().step(HeadWriteEvent::Read(ReadOutcome::Failed));
}

#[test]
fn s5_only_the_owner_of_the_epoch_answers() {
    let head = base().head;
    assert_eq!(authority(&head, Epoch(1), true), Some(Authority::Current));
    assert_eq!(
        authority(&head, Epoch(1), false),
        Some(Authority::Superseded)
    );
    assert_eq!(authority(&head, Epoch(2), true), None);
}

/// A store that may apply a put at once, later or never, and a second writer that may take over at any time.
#[derive(Clone)]
struct World {
    stored: Head,
    late: Vec<(u64, Head)>,
    keeper: HeadKeeper,
    pending: Option<HeadWriteEffect>,
    contested: bool,
    taken: bool,
    outcome: Option<HeadOutcome>,
}

impl World {
    fn take(&mut self, effects: Vec<HeadWriteEffect>) {
        for effect in effects {
            match effect {
                HeadWriteEffect::Decided(outcome) => self.outcome = Some(outcome),
                other => self.pending = Some(other),
            }
        }
    }

    fn land(&mut self, at: usize) {
        let (counter, body) = self.late.remove(at);
        if self.stored.counter == counter {
            self.stored = body;
        }
    }

    fn answered(mut self, event: HeadWriteEvent) -> Self {
        self.pending = None;
        let effects = self.keeper.step(event);
        self.take(effects);
        self
    }

    fn successors(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for at in 0..self.late.len() {
            let mut world = self.clone();
            world.land(at);
            next.push(world);
        }
        if !self.taken {
            let mut world = self.clone();
            world.taken = true;
            let change = HeadChange::TakeOver {
                slots: SlotCounts::new(),
            };
            world.stored = self.stored.changed(&change, Nonce(99));
            next.push(world);
        }
        if !self.contested {
            let mut world = self.clone();
            world.contested = true;
            let effects = world
                .keeper
                .step(HeadWriteEvent::Contest { nonce: Nonce(3) });
            world.take(effects);
            next.push(world);
        }
        match &self.pending {
            Some(HeadWriteEffect::Put {
                body,
                if_match,
                tries,
            }) if *tries < 5 => {
                let expected: u64 = if_match.as_ref().unwrap().0[1..].parse().unwrap();
                let mut late = self.clone();
                late.late.push((expected, (**body).clone()));
                next.push(
                    late.clone()
                        .answered(HeadWriteEvent::Put(PutOutcome::Ambiguous)),
                );
                if self.stored.counter == expected {
                    late.land(late.late.len() - 1);
                    let clear = HeadWriteEvent::Put(PutOutcome::Applied(tag(expected + 1)));
                    next.push(late.answered(clear));
                } else {
                    let clear = HeadWriteEvent::Put(PutOutcome::Precondition);
                    next.push(self.clone().answered(clear));
                }
            }
            Some(HeadWriteEffect::Read { .. }) => {
                next.push(self.clone().answered(read(self.stored.clone())));
            }
            _ => {}
        }
        next
    }

    fn key(&self) -> String {
        format!(
            "{:?}|{:?}|{:?}|{:?}|{:?}|{}|{}",
            self.stored.nonce,
            self.late
                .iter()
                .map(|(c, h)| (*c, h.nonce))
                .collect::<Vec<_>>(),
            self.keeper,
            self.pending,
            self.outcome,
            self.contested,
            self.taken
        )
    }

    fn check(&self) {
        let landed = self.stored.number == 1;
        match &self.outcome {
            Some(HeadOutcome::Won(_)) => assert!(landed, "won but not in head"),
            Some(HeadOutcome::Declined(_)) => assert!(!landed, "declined but landed"),
            Some(HeadOutcome::Superseded(_)) => assert!(self.taken, "superseded by nobody"),
            Some(HeadOutcome::Vanished) => panic!("nothing was deleted"),
            Some(HeadOutcome::Refused(_) | HeadOutcome::Corrupt(_)) => {
                unreachable!("this store neither refuses nor rots")
            }
            None => {}
        }
    }
}

#[test]
fn every_interleaving_with_late_puts_contests_and_takeovers_decides_rightly() {
    let keeper = HeadKeeper::new(Some(base()));
    let mut first = World {
        stored: base().head,
        late: Vec::new(),
        keeper,
        pending: None,
        contested: false,
        taken: false,
        outcome: None,
    };
    let effects = first.keeper.begin(&complete(1), Nonce(2));
    first.take(effects);
    let (mut seen, mut stack) = (BTreeSet::from([first.key()]), vec![first]);
    let mut outcomes = BTreeSet::new();
    while let Some(world) = stack.pop() {
        world.check();
        if let Some(outcome) = &world.outcome {
            outcomes.insert(format!("{outcome:?}").chars().take(4).collect::<String>());
        }
        for next in world.successors() {
            if seen.insert(next.key()) {
                stack.push(next);
            }
        }
    }
    assert!(seen.len() > 200, "only {} states", seen.len());
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}
