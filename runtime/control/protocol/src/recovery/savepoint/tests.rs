//! Tests of the start from a savepoint: every word on every job, and the names of what is taken.

use highwater_types::OperatorUid;

use super::*;
use crate::head::{Head, HeadChange, ManifestRef};
use crate::head_write::VersionTag;
use crate::manifest::{
    FileEntry, FilePart, KeyedFile, ManifestTitle, OperatorState, SnapshotKind, StoreParts,
};
use crate::paths::ManifestName;
use crate::rescale::Rescaled;
use highwater_types::{KeyGroupRange, MaxParallelism, Parallelism};

const OWN: Lineage = Lineage(1);

fn identity() -> JobIdentity {
    JobIdentity::parse("job").unwrap()
}

fn named(number: u64, nonce: u128) -> ManifestRef {
    let name = ManifestName {
        epoch: Epoch(1),
        number,
        nonce: Nonce(nonce),
    };
    ManifestRef {
        name,
        hash: ContentHash(nonce as u64),
    }
}

/// A job at checkpoint 7, which may have taken a savepoint.
fn head(origin: Option<ContentHash>) -> Head {
    let first = Head::first(identity(), OWN, named(0, 1), BTreeMap::new(), Nonce(1));
    let change = HeadChange::Complete {
        manifest: named(6, 2),
        confirmed: 6,
        slots: BTreeMap::new(),
    };
    let six = first.changed(&change, Nonce(2));
    let origin = origin.map(|hash| {
        Box::new(Origin {
            savepoint: "savepoints/one".to_owned(),
            hash,
            taken_as: 7,
        })
    });
    let manifest = named(7, 3);
    six.changed(&HeadChange::Rebase { manifest, origin }, Nonce(3))
}

fn view(head: Option<Head>) -> StoreView {
    StoreView {
        head: head.map(|head| Versioned {
            head,
            tag: VersionTag("tag".into()),
        }),
        manifests: Vec::new(),
    }
}

fn savepoint(lineage: Lineage, number: u64) -> SavepointFacts {
    SavepointFacts {
        folder: "savepoints/one".to_owned(),
        hash: ContentHash(99),
        lineage,
        id: CheckpointId {
            number,
            epoch: Epoch(1),
        },
    }
}

fn decide(
    head: Option<Head>,
    savepoint: &SavepointFacts,
    word: SavepointWord,
    again: TakeAgain,
) -> Result<SavepointStart, StartError> {
    decide_from_savepoint(&identity(), view(head), savepoint, (word, again))
}

#[test]
fn a_job_that_has_state_needs_a_word_and_says_which() {
    let older = savepoint(OWN, 4);
    let refused = decide(
        Some(head(None)),
        &older,
        SavepointWord::Unsaid,
        TakeAgain::No,
    );
    let text = refused.unwrap_err().to_string();
    for wanted in ["job", "7", "savepoints/one", "--go-back", "--fork"] {
        assert!(text.contains(wanted), "{text}");
    }
    let back = decide(
        Some(head(None)),
        &older,
        SavepointWord::GoBack,
        TakeAgain::No,
    );
    assert!(matches!(back, Ok(SavepointStart::GoBack(_))));
    let fork = decide(Some(head(None)), &older, SavepointWord::Fork, TakeAgain::No);
    let Ok(SavepointStart::Fork { leaves, .. }) = fork else {
        panic!("{fork:?}")
    };
    assert_eq!((leaves.number, leaves.confirmed), (7, 7));
}

#[test]
fn a_savepoint_that_was_taken_is_gone_on_from_unless_asked_for_again() {
    let taken = savepoint(OWN, 4);
    for word in [
        SavepointWord::Unsaid,
        SavepointWord::GoBack,
        SavepointWord::Fork,
    ] {
        let at = head(Some(taken.hash));
        let again = decide(Some(at.clone()), &taken, word, TakeAgain::No);
        assert!(matches!(again, Ok(SavepointStart::Resume(_))), "{word:?}");
    }
    let at = head(Some(taken.hash));
    let anew = decide(Some(at), &taken, SavepointWord::GoBack, TakeAgain::Yes);
    assert!(matches!(anew, Ok(SavepointStart::GoBack(_))));
}

#[test]
fn what_head_has_already_is_gone_on_from() {
    let same = savepoint(OWN, 7);
    let resumed = decide(
        Some(head(None)),
        &same,
        SavepointWord::Unsaid,
        TakeAgain::No,
    );
    assert!(matches!(resumed, Ok(SavepointStart::Resume(_))));
}

#[test]
fn a_new_job_begins_and_a_lost_head_is_no_new_job() {
    let any = savepoint(Lineage(5), 4);
    let begun = decide(None, &any, SavepointWord::Unsaid, TakeAgain::No);
    assert_eq!(begun, Ok(SavepointStart::Begin { epoch: Epoch(1) }));
    let lost = StoreView {
        head: None,
        manifests: vec![named(3, 1).name],
    };
    let words = (SavepointWord::Fork, TakeAgain::No);
    let refused = decide_from_savepoint(&identity(), lost, &any, words).unwrap_err();
    assert!(refused.to_string().starts_with("HeadMissing"));
}

#[test]
fn going_back_stays_in_the_lineage_and_never_goes_ahead() {
    let go = |savepoint: &SavepointFacts| {
        let back = decide(
            Some(head(None)),
            savepoint,
            SavepointWord::GoBack,
            TakeAgain::No,
        );
        back.unwrap_err().to_string()
    };
    let foreign = go(&savepoint(Lineage(5), 4));
    assert!(foreign.contains("--fork"), "{foreign}");
    let ahead = go(&savepoint(OWN, 9));
    assert!(ahead.contains('9') && ahead.contains('7'), "{ahead}");
}

fn packed() -> RelativePath {
    RelativePath::parse("data/1-1/agg.0/2-keyed.0.0").unwrap()
}

/// Two files of a local store in one object.
fn two_in_one(files: &mut BTreeMap<RelativePath, FileEntry>) -> StoreParts {
    let entry = FileEntry {
        length: 5,
        checksum: ContentHash(8),
    };
    files.insert(packed(), entry);
    let part = |name: &str, offset| FilePart {
        name: name.to_owned(),
        is_immutable: true,
        path: packed(),
        offset,
        length: 2,
        checksum: ContentHash(9),
    };
    StoreParts {
        store: "rocksdb".to_owned(),
        parts: vec![part("1.sst", 0), part("2.sst", 2)],
    }
}

#[test]
fn what_is_taken_has_names_of_its_own_and_the_bytes_of_the_savepoint() {
    let mut export = Manifest::new(ManifestTitle {
        identity: JobIdentity::parse("other").unwrap(),
        lineage: Lineage(5),
        id: savepoint(Lineage(5), 4).id,
        kind: SnapshotKind::Export,
        parent: None,
        graph: ContentHash(1),
    });
    let old = RelativePath::parse("data/1-2/agg.0/4-keyed.0").unwrap();
    let entry = FileEntry {
        length: 5,
        checksum: ContentHash(8),
    };
    export.files.insert(old.clone(), entry);
    let keyed = KeyedFile {
        path: old.clone(),
        range: KeyGroupRange { start: 0, end: 8 },
        groups: Vec::new(),
        store: Some(two_in_one(&mut export.files)),
    };
    let operator = OperatorState {
        parallelism: Parallelism(1),
        max_parallelism: MaxParallelism::try_new(8).unwrap(),
        key: None,
        states: Vec::new(),
        form: "aggregate".to_owned(),
        keyed: vec![keyed],
        lists: Vec::new(),
    };
    let uid = OperatorUid::parse("agg").unwrap();
    export.operators.insert(uid.clone(), operator);
    let at = |parallelism| BTreeMap::from([(uid.clone(), Parallelism(parallelism))]);
    export.rescaled = Some(Rescaled {
        configured: at(1),
        to: at(2),
    });
    let job = identity();
    let of_try = |nonce| Taker {
        identity: &job,
        lineage: OWN,
        epoch: Epoch(3),
        attempt: AttemptId(9),
        number: 8,
        nonce: Nonce(nonce),
    };
    let (taken, copies) = take(&export, of_try(1));
    let [(object, renamed), (from, to)] = &copies[..] else {
        panic!("{copies:?}")
    };
    assert_eq!(
        (object, from),
        (&packed(), &old),
        "an object of two files is copied once"
    );
    assert_eq!(taken.files.get(to), Some(&entry));
    let file = &taken.operators[&uid].keyed[0];
    assert_eq!(file.path, *to);
    let parts: Vec<_> = file
        .parts()
        .iter()
        .map(|part| (&part.path, part.offset))
        .collect();
    assert_eq!(parts, [(renamed, 0), (renamed, 2)]);
    assert_eq!((taken.lineage, taken.identity.as_str()), (OWN, "job"));
    assert_eq!(taken.check(), Ok(()));
    assert_eq!(taken.rescaled, None, "it begins as it is configured");
    let (_, other) = take(&export, of_try(2));
    assert_ne!(other[0].1, *to, "two tries never share a name");
}
