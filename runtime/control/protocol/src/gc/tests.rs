//! Tests of garbage collection: closure, order of deletes, and every way to end early.

use highwater_types::{JobIdentity, Lineage, Nonce};

use super::*;
use crate::hash::ContentHash;
use crate::head::{HeadChange, SlotCounts};

fn path(text: &str) -> RelativePath {
    RelativePath::parse(text).unwrap()
}

fn reference(number: u64) -> ManifestRef {
    let name = ManifestName {
        epoch: Epoch(1),
        number,
        nonce: Nonce(1),
    };
    ManifestRef {
        name,
        hash: ContentHash(0),
    }
}

fn head(number: u64, confirmed: u64) -> Head {
    let identity = JobIdentity::parse("job").unwrap();
    let first = Head::first(
        identity,
        Lineage(1),
        reference(0),
        SlotCounts::new(),
        Nonce(1),
    );
    if number == 0 {
        return first;
    }
    first.changed(
        &HeadChange::Complete {
            manifest: reference(number),
            confirmed,
            slots: SlotCounts::new(),
        },
        Nonce(2),
    )
}

fn data(epoch: u64, number: u64) -> RelativePath {
    path(&format!("data/{epoch}-1/agg.0/{number}-state"))
}

fn log(number: u64) -> RelativePath {
    path(&format!("sinklog/1-{number}-{:032x}/out/0", 5))
}

fn reach(number: u64, parent: Option<u64>) -> Reach {
    Reach {
        parent: parent.map(reference),
        starts: None,
        files: BTreeSet::from([data(1, number)]),
        logs: BTreeSet::from([log(number)]),
    }
}

fn manifest_of(number: u64) -> RelativePath {
    manifest_path(&reference(number).name)
}

/// Numbers 1 to 5 with data and log, of which 4 was declined, and things that are not ours.
fn listing() -> Vec<RelativePath> {
    let mut listed = vec![path("head"), path("notes.txt"), data(1, 6), data(2, 9)];
    for number in 1..=5 {
        listed.extend([manifest_of(number), data(1, number), log(number)]);
    }
    listed
}

fn checking(retained: u32, confirmed: u64) -> Gc {
    let retention = Retention::try_new(retained).unwrap();
    let (mut gc, effects) = Gc::start(&head(5, confirmed), retention, 6);
    assert_eq!(effects, [GcEffect::List]);
    gc.step(GcEvent::Listed(listing()));
    let mut effects = gc.step(GcEvent::ManifestRead(
        reference(5).name,
        Some(Box::new(reach(5, Some(3)))),
    ));
    if let [GcEffect::ReadManifest(next)] = &effects[..] {
        assert_eq!(*next, reference(3));
        effects = gc.step(GcEvent::ManifestRead(
            next.name,
            Some(Box::new(reach(3, Some(2)))),
        ));
    }
    assert_eq!(effects, [GcEffect::ReadHead]);
    gc
}

#[test]
fn t16_o8_what_is_left_is_the_closure_of_the_retained_manifests() {
    let mut gc = checking(2, 5);
    let effects = gc.step(GcEvent::HeadRead(Some(Box::new(head(5, 5)))));
    let manifests = vec![manifest_of(1), manifest_of(2), manifest_of(4)];
    assert_eq!(effects, [GcEffect::Delete(manifests)], "manifests go first");
    let effects = gc.step(GcEvent::Deleted);
    let others = vec![
        data(1, 1),
        log(1),
        data(1, 2),
        log(2),
        log(3),
        data(1, 4),
        log(4),
    ];
    assert_eq!(effects, [GcEffect::Delete(others)]);
    let effects = gc.step(GcEvent::Deleted);
    assert_eq!(effects, [GcEffect::Done(GcEnd::Clean { deleted: 10 })]);
}

#[test]
fn schedule_17_the_start_of_an_added_source_stays_while_a_checkpoint_or_its_child_is_retained() {
    let uid = highwater_types::OperatorUid::parse("late").unwrap();
    let start = |number| crate::paths::source_start(&reference(number).name, &uid);
    let (mut gc, _) = Gc::start(&head(5, 5), Retention::try_new(1).unwrap(), 6);
    let mut listed = listing();
    listed.extend([start(1), start(2), start(3), start(5)]);
    gc.step(GcEvent::Listed(listed));
    for (number, parent) in [(5, 3), (3, 2)] {
        let reach = Some(Box::new(reach(number, Some(parent))));
        gc.step(GcEvent::ManifestRead(reference(number).name, reach));
    }
    let mut deleted = Vec::new();
    let mut effects = gc.step(GcEvent::HeadRead(Some(Box::new(head(5, 5)))));
    while let [GcEffect::Delete(batch)] = &effects[..] {
        deleted.extend(batch.clone());
        effects = gc.step(GcEvent::Deleted);
    }
    let gone = |number| deleted.contains(&start(number));
    assert_eq!([1, 2, 3, 5].map(gone), [true, false, false, false]);
}

#[test]
fn schedule_17_the_start_of_an_added_source_stays_while_a_state_that_came_back_twice_is_retained() {
    let uid = highwater_types::OperatorUid::parse("late").unwrap();
    let start = |number| crate::paths::source_start(&reference(number).name, &uid);
    let (mut gc, _) = Gc::start(&head(5, 5), Retention::try_new(1).unwrap(), 6);
    let mut listed = listing();
    listed.extend([start(0), start(1), start(2)]);
    gc.step(GcEvent::Listed(listed));
    // The state of 1 came back as 3 and once more as 5: the manifests of 1 and 2 may go.
    for (number, parent) in [(5, 3), (3, 2)] {
        let starts = Some(reference(1).name);
        let reach = Reach {
            starts,
            ..reach(number, Some(parent))
        };
        gc.step(GcEvent::ManifestRead(
            reference(number).name,
            Some(Box::new(reach)),
        ));
    }
    let kept = gc.kept();
    assert!(!kept.contains(&manifest_of(1)));
    assert!(kept.contains(&start(1)));
    assert!(!kept.contains(&start(0)));
}

#[test]
fn the_checkpoint_before_the_last_is_kept_confirmed_or_not() {
    let mut gc = checking(1, 3);
    gc.step(GcEvent::HeadRead(Some(Box::new(head(5, 3)))));
    assert!(gc.kept().contains(&data(1, 3)));
    let mut gc = checking(1, 5);
    gc.step(GcEvent::HeadRead(Some(Box::new(head(5, 5)))));
    assert!(gc.kept().contains(&data(1, 3)), "a successor may go back");
    assert!(!gc.kept().contains(&data(1, 2)));
}

#[test]
fn x15_another_epoch_in_head_ends_the_collection_before_the_first_delete() {
    let mut gc = checking(2, 5);
    let over = HeadChange::TakeOver {
        slots: SlotCounts::new(),
    };
    let newer = head(5, 5).changed(&over, Nonce(7));
    let effects = gc.step(GcEvent::HeadRead(Some(Box::new(newer))));
    assert_eq!(effects, [GcEffect::Done(GcEnd::Deposed)]);
    assert_eq!(gc.step(GcEvent::Deleted), []);
}

#[test]
fn an_unreadable_retained_manifest_deletes_nothing() {
    let (mut gc, _) = Gc::start(&head(5, 5), Retention::DEFAULT, 6);
    gc.step(GcEvent::Listed(listing()));
    let effects = gc.step(GcEvent::ManifestRead(reference(5).name, None));
    assert_eq!(effects, [GcEffect::Done(GcEnd::Unfinished)]);
}

#[test]
fn tries_on_their_way_and_newer_epochs_are_left_alone() {
    let mut gc = checking(2, 5);
    let mut deleted = Vec::new();
    let mut effects = gc.step(GcEvent::HeadRead(Some(Box::new(head(5, 5)))));
    while let [GcEffect::Delete(batch)] = &effects[..] {
        deleted.extend(batch.clone());
        effects = gc.step(GcEvent::Deleted);
    }
    for kept in [
        path("head"),
        path("notes.txt"),
        data(1, 6),
        data(2, 9),
        data(1, 5),
        log(5),
    ] {
        assert!(!deleted.contains(&kept), "{kept}");
    }
}

#[test]
fn retained_zero_is_refused() {
    assert!(
        Retention::try_new(0)
            .unwrap_err()
            .to_string()
            .contains("keep at least 1")
    );
}
