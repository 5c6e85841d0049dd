//! What the oracle of rescales finds, and what it lets pass.

use highwater_protocol::hash::ContentHash;
use highwater_protocol::head::{HeadChange, ManifestRef, SlotCounts};
use highwater_protocol::manifest::ManifestTitle;
use highwater_protocol::paths::ManifestName;
use highwater_types::{Lineage, Nonce};

use super::*;
use crate::job::identity;

const EPOCH: Epoch = Epoch(1);

fn scale(parallelism: u32) -> Scale {
    Scale {
        parallelism,
        readers: 1,
    }
}

/// A rescale of a job that is configured to run at 1.
fn rescaled(to: u32) -> Rescaled {
    Rescaled {
        configured: scale(1).operators(),
        to: scale(to).operators(),
    }
}

fn id(number: u64) -> CheckpointId {
    CheckpointId {
        number,
        epoch: EPOCH,
    }
}

fn reference(number: u64) -> ManifestRef {
    let name = ManifestName {
        epoch: EPOCH,
        number,
        nonce: Nonce(u128::from(number)),
    };
    ManifestRef {
        name,
        hash: ContentHash(number),
    }
}

fn manifest(number: u64, says: Option<Rescaled>) -> Manifest {
    let mut manifest = Manifest::new(ManifestTitle {
        identity: identity(),
        lineage: Lineage(1),
        id: id(number),
        kind: SnapshotKind::Checkpoint,
        parent: number.checked_sub(1).map(reference),
        graph: ContentHash(1),
    });
    manifest.rescaled = says;
    manifest
}

/// `head` at checkpoint 1, confirmed up to `confirmed`.
fn head(confirmed: u64) -> Head {
    let first = Head::first(
        identity(),
        Lineage(1),
        reference(0),
        SlotCounts::new(),
        Nonce(1),
    );
    let change = HeadChange::Complete {
        manifest: reference(1),
        confirmed,
        slots: SlotCounts::new(),
    };
    first.changed(&change, Nonce(2))
}

/// Checkpoint 0 is in `head`, and its leader runs the job at 1.
fn begun() -> Rescales {
    let mut rescales = Rescales::default();
    rescales.landed(&manifest(0, None), None).unwrap();
    begins(&mut rescales, 1, 1).unwrap();
    rescales
}

fn begins(rescales: &mut Rescales, configured: u32, at: u32) -> Result<(), String> {
    let act = Act::Begins {
        configured: scale(configured),
        scale: scale(at),
    };
    rescales.hears(EPOCH, act, Some(&head(1)))
}

/// A rescale to 2 is asked for as request 7, and checkpoint 1 has it.
fn decided() -> Rescales {
    let mut rescales = begun();
    let asks = Act::Asks(7, rescaled(2));
    rescales.hears(EPOCH, asks, None).unwrap();
    let checkpoint = manifest(1, Some(rescaled(2)));
    rescales.landed(&checkpoint, Some(id(0))).unwrap();
    rescales
}

#[test]
fn what_nobody_asked_for_is_found() {
    let mut rescales = begun();
    let says = manifest(1, Some(rescaled(2)));
    assert!(rescales.landed(&says, Some(id(0))).is_err());
}

#[test]
fn what_has_failed_never_comes_into_head() {
    let mut rescales = begun();
    let asks = Act::Asks(7, rescaled(2));
    rescales.hears(EPOCH, asks, None).unwrap();
    rescales.hears(EPOCH, Act::Refuses(7), None).unwrap();
    let says = manifest(1, Some(rescaled(2)));
    assert!(rescales.landed(&says, Some(id(0))).is_err());
    let refuses = Act::Refuses(7);
    assert!(decided().hears(EPOCH, refuses, None).is_err(), "too late");
}

#[test]
fn a_later_checkpoint_says_it_again() {
    let again = manifest(2, Some(rescaled(2)));
    assert!(decided().landed(&again, Some(id(1))).is_ok());
    assert!(decided().landed(&manifest(2, None), Some(id(1))).is_err());
}

#[test]
fn other_settings_forget_it() {
    let mut rescales = decided();
    begins(&mut rescales, 3, 3).unwrap();
    let again = manifest(2, Some(rescaled(2)));
    assert!(rescales.landed(&again, Some(id(1))).is_err());
    let forgotten = manifest(3, None);
    assert!(rescales.landed(&forgotten, Some(id(1))).is_ok());
}

#[test]
fn going_back_takes_what_the_older_checkpoint_says() {
    let mut back = manifest(2, None);
    back.kind = SnapshotKind::Rebased;
    back.parent = Some(reference(0));
    assert!(decided().landed(&back, Some(id(1))).is_ok());
    back.rescaled = Some(rescaled(2));
    assert!(decided().landed(&back, Some(id(1))).is_err());
}

#[test]
fn an_attempt_begins_as_head_says() {
    assert!(begins(&mut decided(), 1, 2).is_ok());
    assert!(begins(&mut decided(), 1, 1).is_err());
    assert!(begins(&mut decided(), 3, 2).is_err(), "settings hold");
}

#[test]
fn whoever_is_answered_finds_the_job_so() {
    let answers = || Act::Answers(7, scale(2));
    let mut rescales = decided();
    assert!(rescales.hears(EPOCH, answers(), None).is_err(), "not yet");
    begins(&mut rescales, 1, 2).unwrap();
    assert!(rescales.hears(EPOCH, answers(), None).is_ok());
}

#[test]
fn an_attempt_ends_once_behind_confirmed_output() {
    let ends = |rescales: &mut Rescales, confirmed| {
        rescales.hears(EPOCH, Act::Redeploys(id(1)), Some(&head(confirmed)))
    };
    assert!(ends(&mut decided(), 0).is_err(), "it is pending");
    let mut rescales = decided();
    assert!(ends(&mut rescales, 1).is_ok());
    assert!(ends(&mut rescales, 1).is_err(), "a second time");
}
