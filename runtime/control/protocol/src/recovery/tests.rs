//! Tests of recovery: start, compatibility, assignment, takeover, regions, going back.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{
    AttemptId, CheckpointId, Classified, Epoch, ErrorKind, JobIdentity, KeyGroup, KeyGroupRange,
    Lineage, MaxParallelism, Nonce, OperatorUid, Parallelism, SubtaskIndex,
};
use proptest::prelude::*;

use super::*;
use crate::hash::ContentHash;
use crate::head::{Head, HeadChange, ManifestRef};
use crate::head_write::{
    HeadKeeper, HeadOutcome, HeadWriteEffect, HeadWriteEvent, PutOutcome, ReadOutcome, VersionTag,
    Versioned,
};
use crate::job::{JobShape, OperatorShape, SinkShape, TaskId, TaskShape};
use crate::manifest::{
    Blob, ExternalSink, FileEntry, FilePart, GroupSlice, HexBytes, KeyedFile, ListMode, ListState,
    LogObject, Manifest, ManifestTitle, OperatorState, SinkState, SlotOutput, SnapshotKind,
    SourceState, StateSchema, StoreParts,
};
use crate::nonce::{NonceStream, TrySource};
use crate::paths::{DataWriter, ManifestName, sink_log};
use crate::sink_slot::{MarkerKind, Purpose, SlotReport};
use crate::stop::{NamedStop, SlotKey};

mod going_back;

fn uid(name: &str) -> OperatorUid {
    OperatorUid::parse(name).unwrap()
}

fn slot(index: u32) -> SlotKey {
    SlotKey {
        sink: uid("out"),
        slot: index,
    }
}

fn task(index: u32) -> TaskId {
    TaskId {
        vertex: uid("agg"),
        subtask: SubtaskIndex(index),
    }
}

fn schema(kind: &str, fingerprint: u64) -> StateSchema {
    StateSchema {
        name: "count".to_owned(),
        kind: kind.to_owned(),
        fingerprint: ContentHash(fingerprint),
        text: format!("schema {fingerprint}"),
    }
}

/// A job of `slots` aggregating tasks, each with one slot of sink `out`.
fn shape(slots: u32) -> JobShape {
    let tasks = (0..slots).map(|at| {
        let slots = vec![slot(at)];
        (
            task(at),
            TaskShape {
                upstream: BTreeSet::new(),
                slots,
            },
        )
    });
    let operator = OperatorShape {
        parallelism: Parallelism(slots),
        max_parallelism: MaxParallelism::try_new(12).unwrap(),
        key: Some(schema("key", 1)),
        states: vec![schema("value", 2)],
        form: "aggregate".to_owned(),
    };
    JobShape {
        identity: JobIdentity::parse("job").unwrap(),
        graph: ContentHash(1),
        tasks: tasks.collect(),
        operators: BTreeMap::from([(uid("agg"), operator)]),
        sources: BTreeSet::from([uid("in")]),
        sinks: BTreeMap::from([(
            uid("out"),
            SinkShape {
                slots,
                external: external("c1"),
            },
        )]),
    }
}

fn external(cluster: &str) -> ExternalSink {
    ExternalSink {
        cluster: cluster.to_owned(),
        marker_topic: "m".to_owned(),
        output: "a".to_owned(),
    }
}

fn id(number: u64) -> CheckpointId {
    CheckpointId {
        number,
        epoch: Epoch(1),
    }
}

/// A manifest with keyed state and output of the given slots.
/// Two files of a local store, in an object that an older checkpoint stored.
fn shared(writer: &DataWriter, manifest: &mut Manifest) -> StoreParts {
    let path = writer.file(0, "state.0");
    let file = FileEntry {
        length: 9,
        checksum: ContentHash(2),
    };
    manifest.files.insert(path.clone(), file);
    let part = |name: &str, offset| FilePart {
        name: name.to_owned(),
        is_immutable: true,
        path: path.clone(),
        offset,
        length: 4,
        checksum: ContentHash(3),
    };
    StoreParts {
        store: "rocksdb".to_owned(),
        parts: vec![part("1.sst", 0), part("2.sst", 5)],
    }
}

fn manifest(number: u64, logs: &[u32]) -> Manifest {
    let mut manifest = Manifest::new(ManifestTitle {
        identity: JobIdentity::parse("job").unwrap(),
        lineage: Lineage(1),
        id: id(number),
        kind: SnapshotKind::Checkpoint,
        parent: None,
        graph: ContentHash(1),
    });
    let writer = DataWriter {
        epoch: Epoch(1),
        attempt: AttemptId(1),
        uid: uid("agg"),
        subtask: SubtaskIndex(0),
    };
    let path = writer.file(number, "state");
    let file = FileEntry {
        length: 12,
        checksum: ContentHash(1),
    };
    manifest.files.insert(path.clone(), file);
    let groups = (0..12).map(|group| GroupSlice {
        group: KeyGroup(group),
        offset: group.into(),
        length: 1,
    });
    let keyed = KeyedFile {
        path,
        range: KeyGroupRange { start: 0, end: 12 },
        groups: groups.collect(),
        store: Some(shared(&writer, &mut manifest)),
    };
    let state = OperatorState {
        parallelism: Parallelism(1),
        max_parallelism: MaxParallelism::try_new(12).unwrap(),
        key: Some(schema("key", 1)),
        states: vec![schema("value", 2)],
        form: "aggregate".to_owned(),
        keyed: vec![keyed],
        lists: Vec::new(),
    };
    manifest.operators.insert(uid("agg"), state);
    let source = SourceState {
        enumerator: HexBytes::default(),
        splits: BTreeMap::from([("s".to_owned(), HexBytes(vec![1]))]),
    };
    manifest.sources.insert(uid("in"), source);
    let outputs = (0..3).map(|at| {
        let path = sink_log(id(number), Nonce(1), &slot(at), 0);
        let log = SlotOutput::Log(vec![LogObject {
            path,
            file,
            records: 1,
        }]);
        (
            at,
            if logs.contains(&at) {
                log
            } else {
                SlotOutput::Empty
            },
        )
    });
    let sink = SinkState {
        external: external("c1"),
        from: 5,
        slots: outputs.collect(),
    };
    manifest.sinks.insert(uid("out"), sink);
    manifest
}

fn reference(manifest: &Manifest) -> ManifestRef {
    let name = ManifestName {
        epoch: manifest.id.epoch,
        number: manifest.id.number,
        nonce: Nonce(1),
    };
    ManifestRef {
        name,
        hash: manifest.encode().1,
    }
}

/// `head` at `manifest`, with three slots ever used.
fn head_at(manifest: &Manifest, confirmed: u64) -> Head {
    let zero = self::manifest(0, &[]);
    let slots = BTreeMap::from([(uid("out"), 3)]);
    let identity = JobIdentity::parse("job").unwrap();
    let first = Head::first(identity, Lineage(1), reference(&zero), slots, Nonce(1));
    let change = HeadChange::Complete {
        manifest: reference(manifest),
        confirmed,
        slots: BTreeMap::new(),
    };
    first.changed(&change, Nonce(2))
}

fn versioned(head: Head) -> Versioned {
    Versioned {
        head,
        tag: VersionTag("t".into()),
    }
}

#[test]
fn schedule_32_manifests_without_head_stop_and_leftovers_of_a_first_start_do_not() {
    let job = JobIdentity::parse("job").unwrap();
    let name = |number| ManifestName {
        epoch: Epoch(4),
        number,
        nonce: Nonce(1),
    };
    let view = |manifests| StoreView {
        head: None,
        manifests,
    };
    let begin = |epoch| {
        Ok(StartDecision::Begin {
            epoch: Epoch(epoch),
        })
    };
    assert_eq!(
        decide_start(&job, view(vec![]), StartWish::Resume),
        begin(1)
    );
    assert_eq!(
        decide_start(&job, view(vec![name(0)]), StartWish::Resume),
        begin(5)
    );
    let lost = view(vec![name(0), name(3)]);
    let error = decide_start(&job, lost.clone(), StartWish::Resume).unwrap_err();
    assert_eq!(
        error,
        NamedStop::HeadMissing {
            manifests: 2,
            newest: 3
        }
        .into()
    );
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(decide_start(&job, lost, StartWish::Fresh), begin(5));
}

#[test]
fn a_claim_that_the_old_leader_outran_is_made_again_and_one_that_was_overtaken_is_not() {
    let at = |epoch| {
        let mut head = head_at(&manifest(4, &[0]), 3);
        head.epoch = Epoch(epoch);
        decide_lost_claim(Epoch(5), &head)
    };
    assert_eq!(at(4), LostClaim::ReadAgain, "a checkpoint completed");
    assert_eq!(at(5), LostClaim::Deposed, "another candidate was faster");
    assert_eq!(at(6), LostClaim::Deposed);
}

#[test]
fn a_head_is_resumed_and_fresh_says_what_it_leaves() {
    let job = JobIdentity::parse("job").unwrap();
    let head = versioned(head_at(&manifest(4, &[0]), 3));
    let view = StoreView {
        head: Some(head.clone()),
        manifests: vec![],
    };
    let found = decide_start(&job, view.clone(), StartWish::Resume);
    assert_eq!(found, Ok(StartDecision::TakeOver(head.clone())));
    let leaves = LeftBehind {
        number: 4,
        confirmed: 3,
    };
    let found = decide_start(&job, view.clone(), StartWish::Fresh);
    assert_eq!(found, Ok(StartDecision::BeginAgain { head, leaves }));
    let other = JobIdentity::parse("other").unwrap();
    let error = decide_start(&other, view, StartWish::Resume).unwrap_err();
    assert!(error.to_string().contains("`job`"));
}

fn options() -> RestoreOptions {
    RestoreOptions {
        unmatched: UnmatchedState::Refuse,
        readable: BTreeSet::new(),
    }
}

fn refusals(edit: impl FnOnce(&mut JobShape), confirmed: u64) -> Vec<Refusal> {
    let mut shape = shape(2);
    edit(&mut shape);
    check_restore(&manifest(4, &[0]), confirmed, &shape, &options())
        .err()
        .unwrap_or_default()
}

fn agg(shape: &mut JobShape) -> &mut OperatorShape {
    shape.operators.get_mut(&uid("agg")).unwrap()
}

#[test]
fn every_unfit_graph_is_refused_by_name() {
    assert_eq!(refusals(|_| {}, 4), []);
    let missing = refusals(|shape| shape.operators.clear(), 4);
    assert!(
        matches!(&missing[..], [Refusal::MissingOperator { .. }]),
        "{missing:?}"
    );
    let key = refusals(|shape| agg(shape).key = Some(schema("key", 9)), 4);
    let [refusal @ Refusal::KeyChanged { .. }] = &key[..] else {
        panic!("{key:?}")
    };
    assert!(
        refusal
            .to_string()
            .contains("agg is keyed by schema 9, its state by schema 1")
    );
    let max =
        |shape: &mut JobShape| agg(shape).max_parallelism = MaxParallelism::try_new(16).unwrap();
    assert!(matches!(
        &refusals(max, 4)[..],
        [Refusal::MaxParallelismChanged {
            old: 12,
            new: 16,
            ..
        }]
    ));
    let many = refusals(|shape| agg(shape).parallelism = Parallelism(13), 4);
    assert!(matches!(&many[..], [Refusal::TooParallel { max: 12, .. }]));
    let kind = refusals(|shape| agg(shape).states = vec![schema("list", 2)], 4);
    assert!(matches!(&kind[..], [Refusal::StateChanged { .. }]));
    let form = refusals(|shape| agg(shape).form = "window, sliding".to_owned(), 4);
    let [refusal @ Refusal::FormChanged { .. }] = &form[..] else {
        panic!("{form:?}")
    };
    let text = refusal.to_string();
    assert!(
        text.contains("operator agg is `window, sliding`, its state was written by `aggregate`"),
        "{text}"
    );
    let gone = refusals(|shape| agg(shape).states.clear(), 4);
    assert!(matches!(&gone[..], [Refusal::MissingState { .. }]));
    let source = refusals(|shape| shape.sources.clear(), 4);
    assert!(matches!(&source[..], [Refusal::MissingOperator { .. }]));
}

#[test]
fn l8_a_sink_with_pending_output_may_not_be_removed_or_moved() {
    let removed = refusals(|shape| shape.sinks.clear(), 3);
    assert!(matches!(
        &removed[..],
        [Refusal::Stop(NamedStop::PendingOutput { .. })]
    ));
    assert_eq!(
        refusals(|shape| shape.sinks.clear(), 4),
        [],
        "confirmed output binds nobody"
    );
    let moved = refusals(
        |shape| shape.sinks.get_mut(&uid("out")).unwrap().external = external("c2"),
        3,
    );
    assert!(moved[0].to_string().contains("PendingOutput"), "{moved:?}");
    let topic = |shape: &mut JobShape| {
        let out = shape.sinks.get_mut(&uid("out")).unwrap();
        out.external.output = "b".to_owned();
    };
    let moved = refusals(topic, 3)[0].to_string();
    let named = moved.contains("PendingOutput") && moved.contains("from `a` to `b`");
    assert!(named, "{moved}");
    assert_eq!(refusals(topic, 4), [], "confirmed output binds nobody");
    // Manifests that do not say where the output goes are restored, and their markers are read from where they were.
    let mut old = manifest(4, &[0, 1]);
    let unsaid = &mut old.sinks.get_mut(&uid("out")).unwrap().external;
    unsaid.output.clear();
    assert!(unsaid.has_markers_of(&external("c1")));
    assert!(!unsaid.has_markers_of(&external("c2")));
    assert_eq!(check_pending(&old, 3, &shape(2)), Ok(()));
    let anew = |shape: &mut JobShape| {
        let out = shape.sinks.get_mut(&uid("out")).unwrap();
        out.external.marker_topic = "n".to_owned();
    };
    let lost = refusals(anew, 3);
    assert!(lost[0].to_string().contains("MarkerLost"), "{lost:?}");
    assert_eq!(refusals(anew, 4), [], "confirmed output needs no markers");
}

#[test]
fn unmatched_state_is_dropped_and_evolved_state_read_only_by_name() {
    let mut shape = shape(2);
    agg(&mut shape).states = vec![schema("value", 3)];
    let mut manifest = manifest(4, &[]);
    assert!(check_restore(&manifest, 4, &shape, &options()).is_err());
    let readable = BTreeSet::from([(uid("agg"), "count".to_owned())]);
    let evolved = RestoreOptions {
        unmatched: UnmatchedState::Refuse,
        readable,
    };
    assert_eq!(check_restore(&manifest, 4, &shape, &evolved), Ok(()));
    assert_eq!(unmatched_operators(&manifest, &shape), []);
    shape.operators.clear();
    assert_eq!(unmatched_operators(&manifest, &shape), [(uid("agg"), 12)]);
    // Lists count as well, in the manifest or in a file.
    let elements = vec![
        Blob::Inline(HexBytes(vec![1, 2, 3])),
        Blob::File {
            path: crate::paths::RelativePath::parse("data/lists").unwrap(),
            offset: 7,
            length: 5,
        },
    ];
    let lists = manifest.operators.get_mut(&uid("agg")).unwrap();
    lists.lists = vec![ListState {
        name: "pending".to_owned(),
        mode: ListMode::Split,
        subtask: SubtaskIndex(0),
        elements,
    }];
    assert_eq!(unmatched_operators(&manifest, &shape), [(uid("agg"), 20)]);
    let lists = manifest.operators.get_mut(&uid("agg")).unwrap();
    lists.keyed.clear();
    assert_eq!(unmatched_operators(&manifest, &shape), [(uid("agg"), 8)]);
    let refused = check_restore(&manifest, 4, &shape, &options()).unwrap_err();
    assert!(matches!(&refused[..], [Refusal::MissingOperator { .. }]));
    let drop = RestoreOptions {
        unmatched: UnmatchedState::Drop,
        readable: BTreeSet::new(),
    };
    assert_eq!(check_restore(&manifest, 4, &shape, &drop), Ok(()));
}

#[test]
fn lists_are_dealt_united_or_copied() {
    let list = |mode, subtask, elements: &[u8]| ListState {
        name: "rules".to_owned(),
        mode,
        subtask: SubtaskIndex(subtask),
        elements: elements
            .iter()
            .map(|&byte| Blob::Inline(HexBytes(vec![byte])))
            .collect(),
    };
    let sizes = |mode| {
        let mut operator = manifest(1, &[]).operators[&uid("agg")].clone();
        operator.parallelism = Parallelism(2);
        operator.lists = vec![list(mode, 1, &[3]), list(mode, 0, &[1, 2])];
        let shares = assign::lists(&operator, Parallelism(3));
        shares
            .iter()
            .map(|share| share["rules"].len())
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(ListMode::Split), [1, 1, 1]);
    assert_eq!(sizes(ListMode::Union), [3, 3, 3]);
    assert_eq!(sizes(ListMode::Broadcast), [2, 1, 2]);
    let mut operator = manifest(1, &[]).operators[&uid("agg")].clone();
    operator.parallelism = Parallelism(2);
    operator.lists = vec![
        list(ListMode::Split, 1, &[]),
        list(ListMode::Split, 0, &[1, 2]),
    ];
    let same = assign::lists(&operator, Parallelism(2));
    assert_eq!(same[0]["rules"], operator.lists[1].elements);
    assert_eq!(same[1]["rules"], []);
}

proptest! {
    #[test]
    fn x51_every_split_and_every_key_group_is_restored_exactly_once(
        count in 0u32..40, parallelism in 1u32..12,
    ) {
        let all: BTreeMap<String, HexBytes> =
            (0..count).map(|at| (format!("t-{at}"), HexBytes(vec![at as u8]))).collect();
        let dealt = assign::splits(&all, Parallelism(parallelism));
        prop_assert_eq!(dealt.len(), parallelism as usize);
        let merged: Vec<_> = dealt.into_iter().flatten().collect();
        prop_assert_eq!(merged.len(), all.len());
        prop_assert_eq!(merged.into_iter().collect::<BTreeMap<_, _>>(), all);
        let manifest = manifest(1, &[]);
        let shares = assign::keyed(&manifest.operators[&uid("agg")], Parallelism(parallelism));
        let groups: Vec<u16> = shares
            .iter()
            .flat_map(|share| &share.files)
            .flat_map(|file| file.groups.iter().map(|slice| slice.group.0))
            .collect();
        prop_assert_eq!(groups, (0..12).collect::<Vec<u16>>());
        // Which rows of a local store are whose, only the store knows: everybody gets all its files.
        let stored = &manifest.operators[&uid("agg")].keyed[0].store;
        prop_assert!(shares.iter().flat_map(|share| &share.files).all(|file| file.store == *stored));
    }
}

fn report(at: u32, attempt: u64, acked: Option<CheckpointId>, confirmed: u64) -> AttemptReport {
    AttemptReport {
        task: task(at),
        attempt: AttemptId(attempt),
        epoch: Epoch(1),
        shape: shape(2).fingerprint(),
        running: true,
        history: BTreeSet::from([id(4)]),
        slots: BTreeMap::from([(slot(at), SlotReport { acked, confirmed })]),
        splits: BTreeMap::from([(uid("in"), BTreeSet::from([format!("s{at}")]))]),
        ended: false,
    }
}

fn takeover() -> Takeover {
    let manifest = manifest(4, &[0, 1]);
    Takeover::start(&head_at(&manifest, 3), &manifest, &shape(2))
}

#[test]
fn l4_a_takeover_commits_what_is_in_head_and_declines_the_rest() {
    let mut takeover = takeover();
    assert_eq!(
        takeover.report(report(0, 7, Some(id(4)), 3)),
        None,
        "waits for all"
    );
    let held = CheckpointId {
        number: 5,
        epoch: Epoch(1),
    };
    let ended = AttemptReport {
        ended: true,
        ..report(1, 7, Some(held), 4)
    };
    let decision = takeover.report(ended);
    let Some(TakeoverDecision::Adopt(adoption)) = decision else {
        panic!("{decision:?}")
    };
    assert_eq!(adoption.unconfirmed, BTreeSet::from([slot(0)]));
    assert_eq!(adoption.declines, [(slot(1), held)]);
    assert_eq!(adoption.attempts[&task(1)], AttemptId(7));
    assert_eq!(adoption.ended, BTreeSet::from([task(1)]));
    let splits = &adoption.splits[&uid("in")];
    assert_eq!(
        splits["s1"],
        task(1),
        "schedule 16: reported splits stay assigned"
    );
}

#[test]
fn l4_only_attempts_that_continue_head_are_adopted() {
    let mut zombie = takeover();
    let mut stale = report(0, 7, None, 3);
    stale.history = BTreeSet::from([id(2)]);
    zombie.report(stale);
    assert_eq!(
        zombie.report(report(1, 7, None, 4)),
        Some(TakeoverDecision::Restart)
    );
    let mut recovering = takeover();
    let mut busy = report(0, 7, None, 3);
    busy.running = false;
    recovering.report(busy);
    assert_eq!(
        recovering.report(report(1, 7, None, 4)),
        Some(TakeoverDecision::Restart)
    );
}

#[test]
fn l4_a_report_to_an_older_leader_does_not_count() {
    let mut takeover = takeover();
    takeover.report(report(0, 7, None, 4));
    let mut early = report(1, 7, None, 4);
    early.epoch = Epoch(0);
    assert_eq!(
        takeover.report(early),
        None,
        "it would still take a split from that leader"
    );
    assert!(takeover.report(report(1, 7, None, 4)).is_some());
}

#[test]
fn l4_an_attempt_of_another_parallelism_is_not_adopted() {
    let mut takeover = takeover();
    let mut other = report(0, 7, None, 4);
    other.shape = shape(3).fingerprint();
    takeover.report(other);
    assert_eq!(
        takeover.report(report(1, 7, None, 4)),
        Some(TakeoverDecision::Restart)
    );
}

#[test]
fn l4_the_newest_attempt_wins_and_silence_restarts() {
    let mut mixed = takeover();
    mixed.report(report(0, 7, None, 4));
    assert_eq!(
        mixed.report(report(1, 8, None, 4)),
        None,
        "attempt 7 was replaced"
    );
    assert_eq!(mixed.report(report(0, 7, None, 4)), None);
    assert!(matches!(
        mixed.report(report(0, 8, None, 4)),
        Some(TakeoverDecision::Adopt(_))
    ));
    assert_eq!(mixed.deadline(), None, "decided once");
    assert_eq!(takeover().deadline(), Some(TakeoverDecision::Restart));
}

fn region(slots: u32, logs: &[u32]) -> (RegionRecovery, Vec<RegionEffect>) {
    let manifest = manifest(4, logs);
    RegionRecovery::start(
        &head_at(&manifest, 3),
        &manifest,
        &shape(slots),
        &BTreeSet::new(),
    )
}

#[test]
fn confirmed_output_needs_no_session_and_its_sink_may_be_gone() {
    let manifest = manifest(4, &[0, 2]);
    let mut shape = shape(2);
    shape.sinks.clear();
    let (mut region, _) =
        RegionRecovery::start(&head_at(&manifest, 4), &manifest, &shape, &BTreeSet::new());
    for at in 0..3 {
        region.step(RegionEvent::Freed(slot(at)));
    }
    region.step(RegionEvent::Verified(task(0)));
    let effects = region.step(RegionEvent::Verified(task(1)));
    assert_eq!(effects, [RegionEffect::OpenAll]);
}

#[test]
fn l5_free_verify_confirm_open_release_in_this_order() {
    let (mut region, effects) = region(2, &[0, 2]);
    let free: Vec<_> = (0..3).map(|at| RegionEffect::Free(slot(at))).collect();
    assert_eq!(effects, free, "schedule 26: every slot ever used");
    region.step(RegionEvent::Freed(slot(0)));
    region.step(RegionEvent::Freed(slot(1)));
    let effects = region.step(RegionEvent::Freed(slot(2)));
    assert_eq!(
        effects,
        [RegionEffect::VerifyAll],
        "nothing is published before state is verified"
    );
    region.step(RegionEvent::Verified(task(0)));
    let effects = region.step(RegionEvent::Verified(task(1)));
    assert_eq!(region.open_duties().count(), 2);
    let duties: Vec<(SlotKey, TaskId)> = effects
        .iter()
        .map(|effect| match effect {
            RegionEffect::StartSession(duty) => (duty.slot.clone(), duty.task.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [(slot(0), task(0)), (slot(2), task(0))];
    assert_eq!(
        duties, expected,
        "a slot that no longer exists has one worker too"
    );
    assert_eq!(
        region.step(RegionEvent::Opened(task(0))),
        [],
        "not before all have confirmed"
    );
    assert_eq!(
        region.step(RegionEvent::Confirmed {
            slot: slot(0),
            number: 3
        }),
        []
    );
    assert_eq!(
        region.step(RegionEvent::Confirmed {
            slot: slot(0),
            number: 4
        }),
        []
    );
    let effects = region.step(RegionEvent::Confirmed {
        slot: slot(2),
        number: 4,
    });
    assert_eq!(effects, [RegionEffect::OpenAll]);
    region.step(RegionEvent::Opened(task(0)));
    assert_eq!(
        region.step(RegionEvent::Opened(task(1))),
        [RegionEffect::Release]
    );
    assert!(region.is_running());
}

#[test]
fn damage_and_void_markers_lead_to_going_back() {
    let (mut region, _) = region(2, &[0]);
    for at in 0..3 {
        region.step(RegionEvent::Freed(slot(at)));
    }
    let mut damaged = region.clone();
    let effects = damaged.step(RegionEvent::Damaged(task(0)));
    assert_eq!(
        effects,
        [RegionEffect::GoBack],
        "before anything was published"
    );
    region.step(RegionEvent::Verified(task(0)));
    region.step(RegionEvent::Verified(task(1)));
    assert_eq!(
        region.step(RegionEvent::Void(slot(0))),
        [RegionEffect::GoBack]
    );
    assert_eq!(
        region.step(RegionEvent::Confirmed {
            slot: slot(0),
            number: 4
        }),
        []
    );
}
