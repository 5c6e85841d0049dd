//! A backend over a local store: what is saved in its files and what is read of the files of others.

use std::sync::Arc;

use highwater_types::{
    CheckpointId, Classified, DataType, DecodeError, Epoch, ErrorKind, Field, Key, Parallelism,
    Record, SubtaskIndex,
};

use super::*;
use crate::context::KeyContext;
use crate::contract::{SlowMissFactory, copied};
use crate::keyed::{SlicedState, ValueState};
use crate::snapshot::{
    KeyedSnapshot, RawKeyGroupState, SealedInStore, UnsealedSnapshot, canonical_digest,
};
use crate::store::StoreFactory as _;
use crate::ttl::TtlConfig;

type Names = ValueState<i64, (), String>;

/// A store whose tables hold almost nothing.
fn local() -> Store {
    Store::Local {
        factory: Arc::new(SlowMissFactory::default()),
    }
}

fn heap() -> Store {
    Store::Heap {
        reads: Some(Arc::new(SlowMissFactory::default())),
    }
}

fn setup(index: u32, parallelism: u32, store: Store) -> BackendSetup {
    let max_parallelism = MaxParallelism::try_new(16).unwrap();
    BackendSetup {
        uid: OperatorUid::parse("r1-count").unwrap(),
        subtask: SubtaskIndex(index),
        range: max_parallelism.range(SubtaskIndex(index), Parallelism(parallelism)),
        max_parallelism,
        budget: MemoryBudget::with_cache(u64::MAX, 512),
        store,
    }
}

fn checkpoint() -> CheckpointId {
    CheckpointId {
        number: 7,
        epoch: Epoch(1),
    }
}

fn at(key: &i64, now: i64) -> KeyContext<'_, i64> {
    KeyContext::new(key.key_hash(), key, ProcessingTime(now))
}

fn restore(store: Store, from: Vec<RestoredSnapshot>) -> KeyedStateBackend {
    KeyedStateBackend::restore(setup(0, 1, store), from, ProcessingTime(500)).unwrap()
}

/// Names of the keys 0 to 199, saved by a backend over a local store.
fn names_saved() -> UnsealedSnapshot {
    let mut backend = KeyedStateBackend::new(setup(0, 1, local()));
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    for key in 0..200 {
        backend.get(names).set(at(&key, 0), format!("name {key}"));
        backend.after_chunk(ProcessingTime(0)).unwrap();
    }
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(0))
        .unwrap();
    let raw = RawKeyGroupState {
        name: "raw".to_owned(),
        groups: vec![(KeyGroup(3), vec![1, 2, 3])],
    };
    backend.add_raw(raw).unwrap();
    backend.take_snapshot().unwrap()
}

/// The same, as a checkpoint keeps it.
fn in_store() -> RestoredSnapshot {
    let SealedInStore { head, files } = names_saved().seal_in_store().unwrap();
    let head = KeyedSnapshot::from_bytes(head.to_bytes()).unwrap();
    RestoredSnapshot {
        snapshot: head,
        files: Some(copied(&files)),
    }
}

fn check_names(backend: &mut KeyedStateBackend, names: StateHandle<Names>) {
    for key in (0..200).step_by(7) {
        let found = backend.get(names).get(at(&key, 0)).cloned();
        assert_eq!(found, Some(format!("name {key}")), "key {key}");
    }
}

fn digest(backend: &mut KeyedStateBackend) -> u64 {
    let raw = backend.take_raw("raw").unwrap();
    let raw = RawKeyGroupState {
        name: "raw".to_owned(),
        groups: raw,
    };
    let saved = backend
        .snapshot_now(checkpoint(), ProcessingTime(0), vec![raw])
        .unwrap();
    canonical_digest(&[saved])
}

#[test]
fn st32_files_of_a_store_come_back_into_it_and_into_the_heap_with_one_digest() {
    let expected = canonical_digest(&[names_saved().seal().unwrap()]);
    for store in [local(), heap()] {
        let mut backend = restore(store, vec![in_store()]);
        let names = backend.open::<Names>(Names::describe("names")).unwrap();
        check_names(&mut backend, names);
        assert_eq!(digest(&mut backend), expected);
    }
}

#[test]
fn a_snapshot_of_a_store_reads_on_at_another_parallelism() {
    let mut found = 0;
    for index in 0..3 {
        let setup = setup(index, 3, local());
        let range = setup.range;
        let snapshots = vec![in_store()];
        let mut backend = KeyedStateBackend::restore(setup, snapshots, ProcessingTime(0)).unwrap();
        let names = backend.open::<Names>(Names::describe("names")).unwrap();
        let max = backend.max_parallelism();
        for key in (0..200i64).filter(|key| range.contains(key.key_hash().group(max))) {
            let held = backend.get(names).get(at(&key, 0)).cloned();
            assert_eq!(held, Some(format!("name {key}")));
            found += 1;
        }
    }
    assert_eq!(found, 200);
}

#[test]
fn a_program_without_the_store_refuses_its_files_by_name() {
    let refused = KeyedStateBackend::restore(
        setup(0, 1, Store::heap()),
        vec![in_store()],
        ProcessingTime(0),
    );
    let error = refused.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let message = error.to_string();
    assert!(message.contains("`slow-miss`"), "{message}");
    assert!(message.contains("operator `r1-count`"), "{message}");
}

#[test]
fn a_head_without_its_files_is_damage() {
    for store in [local(), heap(), Store::heap()] {
        let from = vec![in_store().snapshot.into()];
        let refused = KeyedStateBackend::restore(setup(0, 1, store), from, ProcessingTime(0));
        let error = refused.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("state `names`"), "{error}");
    }
}

#[test]
fn pieces_cover_every_key_group_once_and_make_the_whole() {
    let whole = names_saved().seal().unwrap();
    let mut pieces = names_saved().into_pieces(500).unwrap();
    let mut all = Vec::new();
    while let Some(piece) = pieces.next_piece().unwrap() {
        all.push(KeyedSnapshot::from_bytes(piece.to_bytes()).unwrap());
    }
    assert!(all.len() > 3, "{} pieces", all.len());
    let mut next = 0;
    for piece in &all {
        assert_eq!(piece.range.start, next);
        next = piece.range.end;
    }
    assert_eq!(next, 16);
    assert_eq!(canonical_digest(&all), canonical_digest(&[whole]));
    let pieces = all.into_iter().map(RestoredSnapshot::from).collect();
    let mut backend = restore(Store::heap(), pieces);
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    check_names(&mut backend, names);
}

#[test]
fn t44_states_of_the_store_that_nobody_opens_are_kept_or_dropped_by_rule() {
    for store in [local, heap] {
        for (rule, is_there) in [(Unmatched::Keep, true), (Unmatched::Drop, false)] {
            let mut backend = restore(store(), vec![in_store()]);
            let left: Vec<_> = backend.unmatched().collect();
            assert_eq!(left, [("names", None), ("raw", Some(1))]);
            backend.finish_restore(&rule).unwrap();
            let next = backend
                .snapshot_now(checkpoint(), ProcessingTime(0), Vec::new())
                .unwrap();
            let mut backend = restore(local(), vec![next.into()]);
            let names = backend.open::<Names>(Names::describe("names")).unwrap();
            let found = backend.get(names).get(at(&5, 0)).is_some();
            assert_eq!(found, is_there, "{rule:?}");
        }
    }
}

#[test]
fn a_dropped_state_is_gone_from_the_files_of_the_next_checkpoint() {
    let mut backend = restore(local(), vec![in_store()]);
    // Opens the store, so that the files go on.
    backend.open::<Names>(Names::describe("other")).unwrap();
    backend.finish_restore(&Unmatched::Drop).unwrap();
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(0))
        .unwrap();
    let sealed = backend.take_snapshot().unwrap().seal_in_store().unwrap();
    let names: Vec<_> = sealed
        .head
        .states
        .iter()
        .map(|state| &state.header.name)
        .collect();
    assert_eq!(names, ["other"]);
    let mut frozen = SlowMissFactory::default().read(sealed.files).unwrap();
    let (mut rows, groups) = (0, KeyGroupRange { start: 0, end: 16 });
    frozen
        .visit("names", groups, &mut |_, _| rows += 1)
        .unwrap();
    assert_eq!(rows, 0);
}

#[test]
fn st10_a_ttl_can_be_switched_on_and_off_over_rows_that_stay_in_the_store() {
    let ttl = TtlConfig::after_write(10);
    let mut timed = restore(local(), vec![in_store()]);
    let names = timed
        .open::<Names>(Names::describe("names").with_ttl(ttl))
        .unwrap();
    let lives = timed.get(names).get(at(&5, 509)).is_some();
    assert!(lives, "from the restore on");
    assert!(timed.get(names).get(at(&5, 510)).is_none());
    timed.finish_restore(&Unmatched::Drop).unwrap();
    timed
        .begin_snapshot(checkpoint(), ProcessingTime(509))
        .unwrap();
    let sealed = timed.take_snapshot().unwrap().seal_in_store().unwrap();
    assert!(sealed.head.states[0].header.timed);
    let again = RestoredSnapshot {
        snapshot: sealed.head,
        files: Some(copied(&sealed.files)),
    };
    let mut plain = restore(local(), vec![again]);
    let names = plain.open::<Names>(Names::describe("names")).unwrap();
    let found = plain.get(names).get(at(&6, 99_999)).cloned();
    assert_eq!(found.as_deref(), Some("name 6"));
}

type Flat = ValueState<i64, i64, u64>;
type Sliced = SlicedState<i64, i64, u64>;

/// A checkpoint in files, and the same as a savepoint.
fn saved(backend: &mut KeyedStateBackend) -> (RestoredSnapshot, KeyedSnapshot) {
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(0))
        .unwrap();
    let mut taken = backend.take_snapshot().unwrap();
    let sealed = taken.seal_in_store().unwrap();
    let again = RestoredSnapshot {
        snapshot: KeyedSnapshot::from_bytes(sealed.head.to_bytes()).unwrap(),
        files: Some(copied(&sealed.files)),
    };
    (again, taken.seal().unwrap())
}

/// A checkpoint in files, and the digest of the same as a savepoint.
fn saved_in_store(backend: &mut KeyedStateBackend) -> (RestoredSnapshot, u64) {
    let (again, whole) = saved(backend);
    (again, canonical_digest(&[whole]))
}

#[test]
fn a_state_that_is_opened_with_its_rows_in_another_order_keeps_all_of_them() {
    let mut backend = KeyedStateBackend::new(setup(0, 1, local()));
    let flat = backend.open::<Flat>(Flat::describe("counts")).unwrap();
    for key in 0..50i64 {
        let at = KeyContext::new(key.key_hash(), &key, ProcessingTime(0));
        backend.get(flat).set(at.in_namespace(&(key % 3)), 7);
    }
    let (flat, digest) = saved_in_store(&mut backend);
    let mut backend = restore(local(), vec![flat]);
    let counts = backend.open::<Sliced>(Sliced::describe("counts")).unwrap();
    for key in 0..50i64 {
        let found = backend.get(counts).get(key.key_hash(), &key, &(key % 3));
        assert_eq!(found.copied(), Some(7), "key {key}");
    }
    let (sliced, of_sliced) = saved_in_store(&mut backend);
    assert_eq!(of_sliced, digest, "by namespace");
    let mut backend = restore(local(), vec![sliced]);
    let flat = backend.open::<Flat>(Flat::describe("counts")).unwrap();
    for key in 0..50i64 {
        let at = KeyContext::new(key.key_hash(), &key, ProcessingTime(0));
        let found = backend.get(flat).get(at.in_namespace(&(key % 3)));
        assert_eq!(found.copied(), Some(7), "key {key}");
    }
    assert_eq!(saved_in_store(&mut backend).1, digest, "by key again");
}

#[test]
fn slices_that_nobody_opens_are_carried_as_they_are() {
    let mut backend = KeyedStateBackend::new(setup(0, 1, local()));
    let sliced = backend.open::<Sliced>(Sliced::describe("counts")).unwrap();
    for key in 0..50i64 {
        let slice = backend.get(sliced).slice(&(key % 3));
        slice.put(key.key_hash(), &key, &(), 7);
    }
    let (mut saved, digest) = saved_in_store(&mut backend);
    for store in [local(), local(), heap()] {
        let is_local = matches!(store, Store::Local { .. });
        let mut backend = restore(store, vec![saved]);
        backend.finish_restore(&Unmatched::Keep).unwrap();
        if is_local {
            let (again, carried) = saved_in_store(&mut backend);
            assert_eq!(carried, digest, "in the store");
            saved = again;
        } else {
            let carried = backend.snapshot_now(checkpoint(), ProcessingTime(0), Vec::new());
            assert_eq!(canonical_digest(&[carried.unwrap()]), digest, "in memory");
            return;
        }
    }
}

#[test]
fn while_a_store_is_frozen_nothing_leaves_memory_and_reads_go_on() {
    let mut backend = restore(local(), vec![in_store()]);
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(0))
        .unwrap();
    let mut taken = backend.take_snapshot().unwrap();
    for key in 0..200 {
        backend.get(names).set(at(&key, 0), "after".to_owned());
        backend.after_chunk(ProcessingTime(0)).unwrap();
    }
    let held = backend.reports()[0].entries;
    assert_eq!(held, 200, "all of what was written waits in memory");
    taken.freeze().unwrap();
    backend.resume_writes();
    backend.after_chunk(ProcessingTime(0)).unwrap();
    assert!(backend.reports()[0].entries < 50);
    let mut before = restore(heap(), vec![taken.seal().unwrap().into()]);
    let names = before.open::<Names>(Names::describe("names")).unwrap();
    check_names(&mut before, names);
}

#[test]
fn a_snapshot_that_is_given_up_while_it_freezes_lets_writes_go_on() {
    let mut backend = restore(local(), vec![in_store()]);
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(0))
        .unwrap();
    let taken = backend.take_snapshot().unwrap();
    backend.abort_snapshot();
    for key in 0..200 {
        backend.get(names).set(at(&key, 0), "after".to_owned());
        backend.after_chunk(ProcessingTime(0)).unwrap();
    }
    assert!(backend.reports()[0].entries < 50);
    drop(taken);
}

#[test]
fn a_snapshot_file_on_disk_is_read_when_it_is_wanted_and_its_damage_is_found() {
    let bytes = names_saved().seal().unwrap().to_bytes();
    let open = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let snapshot = KeyedSnapshot::from_file(file)?;
        let from = vec![snapshot.into()];
        let mut backend =
            KeyedStateBackend::restore(setup(0, 1, local()), from, ProcessingTime(0))?;
        backend.take_raw("raw")?;
        let names = backend.open::<Names>(Names::describe("names"))?;
        check_names(&mut backend, names);
        Ok(())
    };
    let refused = |result: Result<(), StateError>| result.unwrap_err().kind();
    open(&bytes).unwrap();
    for at in (0..bytes.len()).step_by(11) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        assert_eq!(refused(open(&damaged)), ErrorKind::Corrupt, "byte {at}");
    }
    for at in (0..bytes.len()).step_by(97) {
        assert_eq!(
            refused(open(&bytes[..at])),
            ErrorKind::Corrupt,
            "cut at {at}"
        );
    }
}

/// A snapshot of format version 1: names of the keys 0 to 2 with a time to live, and raw bytes of group 3.
const VERSION_1: &str = "48574b530100ec0000000872312d636f756e7410000000000010000700000000000000010000000000000002056e616d65730101069490\
    7c480947be7f019edcc40908315fb8010d11a6e8601cfd69470303000100000000000000000000000000000019000000000000008458ce\
    f926b4246d09000100000000000000190000000000000019000000000000000f491e9eed83d26a0e000100000000000000320000000000\
    000019000000000000006e27fb1cae2953fd0674696d6572730600019edcc40908315fb8019edcc40908315fb800010300010000000000\
    00004b0000000000000003000000000000003b73ae32769bceeb9fc896b1d02a8aba0802000000000000000f0500000000000000066e61\
    6d6520320800000000000000000f0500000000000000066e616d6520300801000000000000000f0500000000000000066e616d65203101\
    0203";

#[test]
fn a_snapshot_of_version_1_is_still_read() {
    let digits = VERSION_1.as_bytes().as_chunks::<2>().0.iter();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = digits.map(byte).collect();
    assert_eq!(u16::from_le_bytes([bytes[4], bytes[5]]), 1);
    for store in [local(), heap()] {
        let snapshot = KeyedSnapshot::from_bytes(bytes.clone()).unwrap();
        let mut backend = restore(store, vec![snapshot.into()]);
        let ttl = TtlConfig::after_write(1_000);
        let names = Names::describe("names").with_ttl(ttl);
        let names = backend.open::<Names>(names).unwrap();
        for key in 0..3 {
            let found = backend.get(names).get(at(&key, 1_004)).cloned();
            assert_eq!(found, Some(format!("name {key}")));
        }
        assert!(backend.get(names).get(at(&0, 1_005)).is_none());
        let raw = backend.take_raw("timers").unwrap();
        assert_eq!(raw, [(KeyGroup(3), vec![1, 2, 3])]);
    }
}

/// An account as version 1 of a job had it: an amount; `WITH_CURRENCY` = as version 2 has it.
#[derive(Clone, Debug, PartialEq)]
struct Account<const WITH_CURRENCY: bool>(u64, String);

impl<const WITH_CURRENCY: bool> Record for Account<WITH_CURRENCY> {
    fn data_type() -> DataType {
        let field = |name: &str, data_type, default| Field {
            name: name.to_owned(),
            data_type,
            default,
        };
        let mut fields = vec![field("amount", DataType::U64, None)];
        if WITH_CURRENCY {
            let mut default = Vec::new();
            "EUR".to_owned().encode(&mut default);
            fields.push(field("currency", DataType::Utf8, Some(default)));
        }
        DataType::Struct {
            name: "Account".to_owned(),
            fields,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        if WITH_CURRENCY {
            self.1.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let amount = u64::decode(input)?;
        let currency = if WITH_CURRENCY {
            String::decode(input)?
        } else {
            String::new()
        };
        Ok(Self(amount, currency))
    }
}

#[test]
fn a_window_that_is_dropped_before_its_migrated_rows_are_written_leaves_nothing_behind() {
    type Old = SlicedState<i64, i64, Account<false>>;
    type New = SlicedState<i64, i64, Account<true>>;
    let mut backend = KeyedStateBackend::new(setup(0, 1, local()));
    let counts = backend.open::<Old>(Old::describe("counts")).unwrap();
    for key in 0..50i64 {
        let slice = backend.get(counts).slice(&(key % 3));
        slice.put(key.key_hash(), &key, &(), Account(7, String::new()));
    }
    let (saved, _) = saved_in_store(&mut backend);
    let mut backend = restore(local(), vec![saved]);
    let counts = backend.open::<New>(New::describe("counts")).unwrap();
    backend.finish_restore(&Unmatched::refuse()).unwrap();
    backend.get(counts).drop_slice(&0);
    backend.after_chunk(ProcessingTime(0)).unwrap();
    let (saved, digest) = saved_in_store(&mut backend);
    let mut again = restore(heap(), vec![saved]);
    let counts = again.open::<New>(New::describe("counts")).unwrap();
    let left: Vec<_> = again.get(counts).namespaces().copied().collect();
    assert_eq!(left, [1, 2]);
    let held = again.get(counts).get(1i64.key_hash(), &1, &1).cloned();
    assert_eq!(held, Some(Account(7, "EUR".to_owned())));
    let saved = again.snapshot_now(checkpoint(), ProcessingTime(0), Vec::new());
    assert_eq!(canonical_digest(&[saved.unwrap()]), digest);
}

/// Those of the keys 0 to 199 that are of the key groups of a subtask.
fn own_keys(backend: &KeyedStateBackend) -> impl Iterator<Item = i64> + use<> {
    let (range, groups) = (backend.range(), backend.max_parallelism());
    (0..200i64).filter(move |key| range.contains(key.key_hash().group(groups)))
}

/// A checkpoint of `parallelism` subtasks, each with a store and one state, and its digest.
fn in_stores<S: OpenState>(
    parallelism: u32,
    fill: impl Fn(&mut S, i64),
) -> (Vec<RestoredSnapshot>, u64) {
    let parts = (0..parallelism).map(|index| {
        let mut backend = KeyedStateBackend::new(setup(index, parallelism, local()));
        let state = backend.open::<S>(S::describe("state")).unwrap();
        for key in own_keys(&backend) {
            fill(backend.get(state), key);
            backend.after_chunk(ProcessingTime(0)).unwrap();
        }
        saved(&mut backend)
    });
    let (parts, whole): (Vec<_>, Vec<_>) = parts.unzip();
    (parts, canonical_digest(&whole))
}

/// A subtask of `parallelism` that is restored from a checkpoint in files, each in a directory of its own.
fn restore_at((index, parallelism): (u32, u32), parts: &[RestoredSnapshot]) -> KeyedStateBackend {
    let setup = setup(index, parallelism, local());
    let held = parts.iter();
    let held = held.filter(|part| part.snapshot.range.intersects(setup.range));
    let held = held.map(|part| RestoredSnapshot {
        snapshot: part.snapshot.clone(),
        files: part.files.as_ref().map(copied),
    });
    let held = held.collect();
    KeyedStateBackend::restore(setup, held, ProcessingTime(500)).unwrap()
}

/// Opens the state at another parallelism and looks at each key. Returns the digest of what is there then.
fn reopened<S: OpenState>(
    parts: &[RestoredSnapshot],
    parallelism: u32,
    described: &StateDescriptor,
    look: impl Fn(&mut S, i64),
) -> u64 {
    let whole = (0..parallelism).map(|index| {
        let mut backend = restore_at((index, parallelism), parts);
        let state = backend.open::<S>(described.clone()).unwrap();
        backend.finish_restore(&Unmatched::refuse()).unwrap();
        for key in own_keys(&backend) {
            look(backend.get(state), key);
            backend.after_chunk(ProcessingTime(500)).unwrap();
        }
        saved(&mut backend).1
    });
    canonical_digest(&whole.collect::<Vec<_>>())
}

/// From what to what the parallelism changes: inside one store, from several, and both.
const CHANGES: [(u32, u32); 6] = [(1, 2), (2, 1), (3, 2), (2, 3), (4, 3), (3, 1)];

#[test]
fn rows_of_several_stores_come_into_one_in_any_order_of_them() {
    for (from, to) in CHANGES {
        let (mut parts, digest) = in_stores::<Names>(from, |names, key| {
            names.set(at(&key, 0), format!("name {key}"));
        });
        let look = |names: &mut Names, key: i64| {
            let found = names.get(at(&key, 509)).cloned();
            assert_eq!(found, Some(format!("name {key}")), "{from} to {to}");
        };
        let plain = Names::describe("state");
        // With a time to live all of them are rewritten.
        let timed = Names::describe("state").with_ttl(TtlConfig::after_write(10));
        for _ in 0..2 {
            parts.reverse();
            let found = reopened::<Names>(&parts, to, &plain, look);
            assert_eq!(found, digest, "{from} to {to}");
            reopened::<Names>(&parts, to, &timed, look);
        }
    }
}

#[test]
fn slices_of_several_stores_come_into_one_in_any_order_of_them_and_of_their_rows() {
    for (from, to) in CHANGES {
        let sliced = in_stores::<Sliced>(from, |sliced, key| {
            let slice = sliced.slice(&(key % 3));
            slice.put(key.key_hash(), &key, &(), 7);
        });
        let flat = in_stores::<Flat>(from, |flat, key| {
            let at = KeyContext::new(key.key_hash(), &key, ProcessingTime(0));
            flat.set(at.in_namespace(&(key % 3)), 7);
        });
        for (mut parts, digest) in [sliced, flat] {
            for _ in 0..2 {
                parts.reverse();
                let found =
                    reopened::<Sliced>(&parts, to, &Sliced::describe("state"), |sliced, key| {
                        let found = sliced.get(key.key_hash(), &key, &(key % 3));
                        assert_eq!(found.copied(), Some(7), "key {key}, {from} to {to}");
                    });
                assert_eq!(found, digest, "{from} to {to}");
            }
        }
    }
}

#[test]
fn rows_of_several_stores_are_migrated_once() {
    type Old = ValueState<i64, (), Account<false>>;
    type New = ValueState<i64, (), Account<true>>;
    for (from, to) in CHANGES {
        let (mut parts, _) = in_stores::<Old>(from, |accounts, key| {
            accounts.set(at(&key, 0), Account(7, String::new()));
        });
        for _ in 0..2 {
            parts.reverse();
            reopened::<New>(&parts, to, &New::describe("state"), |accounts, key| {
                let found = accounts.get(at(&key, 500)).cloned();
                assert_eq!(found, Some(Account(7, "EUR".to_owned())), "{from} to {to}");
            });
        }
    }
}

#[test]
fn states_of_several_stores_that_nobody_opens_are_kept_or_dropped() {
    for (from, to) in CHANGES {
        let (parts, digest) = in_stores::<Names>(from, |names, key| {
            names.set(at(&key, 0), format!("name {key}"));
        });
        let keep = |rule: &Unmatched| {
            let kept = (0..to).map(|index| {
                let mut backend = restore_at((index, to), &parts);
                // Opens the store also where nothing is kept.
                backend.open::<Names>(Names::describe("other")).unwrap();
                backend.finish_restore(rule).unwrap();
                saved(&mut backend).0
            });
            kept.collect::<Vec<_>>()
        };
        let look = |names: &mut Names, key: i64| {
            let found = names.get(at(&key, 0)).cloned();
            assert_eq!(found, Some(format!("name {key}")), "{from} to {to}");
        };
        let kept = keep(&Unmatched::Keep);
        let mut whole = Vec::new();
        for index in 0..from {
            let mut backend = restore_at((index, from), &kept);
            let names = backend.open::<Names>(Names::describe("state")).unwrap();
            backend.finish_restore(&Unmatched::Drop).unwrap();
            own_keys(&backend).for_each(|key| look(backend.get(names), key));
            whole.push(saved(&mut backend).1);
        }
        assert_eq!(canonical_digest(&whole), digest, "{from} to {to}");
        for part in keep(&Unmatched::Drop) {
            let states = part.snapshot.states.iter();
            assert!(states.map(|state| &state.header.name).eq(["other"]));
            let files = part.files.unwrap();
            let mut frozen = SlowMissFactory::default().read(files).unwrap();
            let groups = KeyGroupRange { start: 0, end: 16 };
            let visited = frozen.visit("state", groups, &mut |key, _| panic!("{key:?} is left"));
            visited.unwrap();
        }
    }
}

/// A store whose rows cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a block has another checksum")]
struct Rotten;

impl Classified for Rotten {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

#[test]
fn damage_of_local_disk_ends_the_attempt_and_is_no_damage_of_the_checkpoint() {
    let source: BackingError = Box::new(Rotten);
    let error = store_error(&setup(0, 1, local()).uid, "read", source);
    assert_eq!(error.kind(), ErrorKind::Transient);
}
