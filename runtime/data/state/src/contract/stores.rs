//! The suite of local stores: what every [`StoreFactory`] keeps, checked against sorted maps.
//!
//! Called by the tests of each store with its factory. Each law has a function of its own; the suite panics with what
//! differs. Files go from one store to the next by copy, as they do through a checkpoint.

use highwater_types::{ErrorKind, KeyGroup, KeyGroupRange, OperatorUid, SubtaskIndex};

use super::slow_miss::copied;
use super::store_steps::{Rows, check_store_steps, seeded_store_steps};
use crate::backing::{Backing, RowKey, RowWrite};
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::error::BackingError;
use crate::store::{FrozenStore, StateStore, StoreFactory, StoreFile, StoreFiles, StorePlace};

/// The groups of the store under test.
pub(super) const RANGE: KeyGroupRange = KeyGroupRange { start: 2, end: 12 };

/// Runs the whole suite.
///
/// # Panics
/// At the first difference.
pub fn check_store(factory: &dyn StoreFactory) {
    reads_see_every_batch_before_them(factory);
    scans_go_in_order_within_their_bounds(factory);
    a_dropped_range_is_gone_and_its_neighbours_are_not(factory);
    states_are_apart(factory);
    a_freeze_captures_all_before_it_and_nothing_after(factory);
    an_immutable_file_stands_for_the_same_bytes(factory);
    a_store_goes_on_from_its_files(factory);
    a_store_goes_on_with_a_part_of_its_key_groups(factory);
    rows_that_went_to_others_do_not_come_back(factory);
    a_dropped_state_is_gone_for_good(factory);
    files_that_are_not_its_own_are_corrupt(factory);
    for seed in 0..12 {
        check_store_steps(factory, &seeded_store_steps(seed, 60));
    }
}

/// A row key of `group`.
pub(super) fn key(group: u16, bytes: &[u8]) -> RowKey {
    RowKey {
        group: KeyGroup(group),
        bytes: bytes.to_vec(),
    }
}

/// The place of the store under test.
pub(super) fn place() -> StorePlace {
    place_of(RANGE, RANGE)
}

/// The place of a store with the key groups `range` that goes on from files with rows of `held`.
pub(super) fn place_of(range: KeyGroupRange, held: KeyGroupRange) -> StorePlace {
    StorePlace {
        uid: OperatorUid::parse("store-under-test").expect("a good uid"),
        subtask: SubtaskIndex(1),
        range,
        held,
    }
}

/// A state of bytes by name.
pub(super) fn state(name: &str) -> StateDescriptor {
    StateDescriptor::new(
        name,
        StateKind::Value,
        StateSchemas::of::<i64, (), String>(),
    )
}

pub(super) fn good<T>(result: Result<T, BackingError>) -> T {
    result.unwrap_or_else(|error| panic!("the store failed: {error}"))
}

pub(super) fn freeze(store: &mut dyn StateStore) -> Box<dyn FrozenStore> {
    let freezing = store.freeze();
    // As the worker does: on another thread.
    std::thread::scope(|scope| {
        let frozen = scope.spawn(move || freezing.freeze()).join();
        good(frozen.expect("a freeze does not panic"))
    })
}

/// All rows of a state of a frozen store, which must come in order.
pub(super) fn frozen_rows(
    frozen: &mut dyn FrozenStore,
    state: &str,
    groups: KeyGroupRange,
) -> Vec<(RowKey, Vec<u8>)> {
    let mut rows = Vec::new();
    good(frozen.visit(state, groups, &mut |key, value| {
        rows.push((key.clone(), value.to_vec()));
    }));
    assert!(
        rows.is_sorted_by(|a, b| a.0 < b.0),
        "frozen rows are not in order"
    );
    rows
}

/// The first `limit` rows of a range.
pub(super) fn scanned(
    rows: &mut dyn Backing,
    range: (&RowKey, &RowKey),
    limit: usize,
) -> Vec<(RowKey, Vec<u8>)> {
    let mut found = Vec::new();
    good(rows.scan(range, limit, &mut |key, value| {
        found.push((key.clone(), value.to_vec()));
    }));
    found
}

/// Writes `value` for each key, in order.
fn put(rows: &mut dyn Backing, keys: &[RowKey], value: &[u8]) {
    let mut batch = keys
        .iter()
        .map(|key| RowWrite {
            key: key.clone(),
            value: Some(value.to_vec()),
        })
        .collect::<Vec<_>>();
    batch.sort_by(|a, b| a.key.cmp(&b.key));
    good(rows.write(&batch));
}

fn fetched(rows: &mut dyn Backing, keys: &[RowKey]) -> Vec<Option<Vec<u8>>> {
    // Answers are appended.
    let mut found = vec![Some(b"before".to_vec())];
    good(rows.fetch(keys, &mut found));
    assert_eq!(found.remove(0).as_deref(), Some(&b"before"[..]));
    assert_eq!(found.len(), keys.len(), "one answer for each key");
    found
}

fn many_keys() -> Vec<RowKey> {
    let mut keys = (RANGE.start..RANGE.end)
        .flat_map(|group| (0..40u8).map(move |at| key(group, &[at, 0, at])))
        .collect::<Vec<_>>();
    // A key may be a prefix of another, empty, and hold any byte.
    keys.extend([key(3, b""), key(3, &[0]), key(3, &[255, 255]), key(3, &[5])]);
    keys.sort();
    keys
}

/// Opens an empty store with one state.
fn open_one(factory: &dyn StoreFactory) -> (Box<dyn StateStore>, Box<dyn Backing>) {
    let mut store = good(factory.create(&place()));
    let rows = good(store.open(&state("a")));
    (store, rows)
}

fn reads_see_every_batch_before_them(factory: &dyn StoreFactory) {
    let (_store, mut rows) = open_one(factory);
    let keys = many_keys();
    assert!(fetched(&mut *rows, &keys).iter().all(Option::is_none));
    put(&mut *rows, &keys, b"one");
    let (first, rest) = keys.split_at(keys.len() / 2);
    put(&mut *rows, first, b"");
    let deleted = RowWrite {
        key: rest[0].clone(),
        value: None,
    };
    good(rows.write(&[deleted]));
    let found = fetched(&mut *rows, &keys);
    assert!(
        found[..first.len()]
            .iter()
            .all(|value| value.as_deref() == Some(b""))
    );
    assert_eq!(found[first.len()], None);
    let rest = &found[first.len() + 1..];
    assert!(rest.iter().all(|value| value.as_deref() == Some(b"one")));
}

fn scans_go_in_order_within_their_bounds(factory: &dyn StoreFactory) {
    let (_store, mut rows) = open_one(factory);
    let keys = many_keys();
    put(&mut *rows, &keys, b"v");
    let cases = [
        (0, keys.len() - 1),
        (1, 2),
        (17, 90),
        (40, 41),
        (9, 9),
        (12, 3),
    ];
    for (from, until) in cases {
        for limit in [0, 1, 7, usize::MAX] {
            let found = scanned(&mut *rows, (&keys[from], &keys[until]), limit);
            let expected = keys.get(from..until).unwrap_or_default();
            let expected = &expected[..expected.len().min(limit)];
            let found = found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
            assert_eq!(found, expected, "rows {from} to {until}, at most {limit}");
        }
    }
    let end = key(RANGE.end, b"");
    let found = scanned(&mut *rows, (&key(RANGE.start, b""), &end), usize::MAX);
    assert_eq!(found.len(), keys.len());
}

fn a_dropped_range_is_gone_and_its_neighbours_are_not(factory: &dyn StoreFactory) {
    let (mut store, mut rows) = open_one(factory);
    let keys = many_keys();
    put(&mut *rows, &keys, b"old");
    // So that the store has them in files, too.
    drop(freeze(&mut *store));
    put(&mut *rows, &keys[10..30], b"new");
    let bounds = [
        (key(4, b""), key(7, b"")),
        (key(8, &[3, 0, 3]), key(8, &[9, 0, 9])),
        (key(9, &[30]), key(10, &[2])),
        (key(3, &[5]), key(3, &[5])),
        (key(11, &[5]), key(11, &[1])),
    ];
    for (from, until) in &bounds {
        good(rows.drop_range(from, until));
    }
    let mut again = key(5, b"after the drop");
    put(&mut *rows, std::slice::from_ref(&again), b"v");
    let is_kept = |key: &RowKey| {
        !bounds
            .iter()
            .any(|(from, until)| from <= key && key < until)
    };
    let found = fetched(&mut *rows, &keys);
    for (key, value) in keys.iter().zip(found) {
        assert_eq!(value.is_some(), is_kept(key), "{key:?}");
    }
    let mut expected = keys
        .iter()
        .filter(|key| is_kept(key))
        .cloned()
        .collect::<Vec<_>>();
    expected.push(std::mem::replace(&mut again, key(0, b"")));
    expected.sort();
    let range = (&key(RANGE.start, b""), &key(RANGE.end, b""));
    let found = scanned(&mut *rows, range, usize::MAX)
        .into_iter()
        .map(|(key, _)| key);
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let frozen = frozen_rows(&mut *freeze(&mut *store), "a", RANGE);
    assert_eq!(frozen.len(), expected.len());
}

fn states_are_apart(factory: &dyn StoreFactory) {
    let mut store = good(factory.create(&place()));
    let mut a = good(store.open(&state("a")));
    // Names are free text.
    let mut b = good(store.open(&state("default")));
    let keys = many_keys();
    put(&mut *a, &keys, b"a");
    put(&mut *b, &keys[5..9], b"b");
    good(a.drop_range(&keys[0], &keys[7]));
    let found = fetched(&mut *b, &keys[5..9]);
    assert!(found.iter().all(|value| value.as_deref() == Some(b"b")));
    let mut frozen = freeze(&mut *store);
    assert_eq!(frozen_rows(&mut *frozen, "a", RANGE).len(), keys.len() - 7);
    assert_eq!(frozen_rows(&mut *frozen, "default", RANGE).len(), 4);
}

fn a_freeze_captures_all_before_it_and_nothing_after(factory: &dyn StoreFactory) {
    let (mut store, mut rows) = open_one(factory);
    let keys = many_keys();
    put(&mut *rows, &keys, b"one");
    let mut first = freeze(&mut *store);
    for round in 0..20u8 {
        put(&mut *rows, &keys[usize::from(round)..], &[round; 100]);
        drop(freeze(&mut *store));
    }
    let mut second = freeze(&mut *store);
    good(rows.drop_range(&key(0, b""), &key(u16::MAX, b"")));
    let mut third = freeze(&mut *store);
    drop((rows, store));
    let expected = keys.iter().map(|key| (key.clone(), b"one".to_vec()));
    assert_eq!(
        frozen_rows(&mut *first, "a", RANGE),
        expected.collect::<Vec<_>>()
    );
    let later = frozen_rows(&mut *second, "a", RANGE);
    let value_at = |at: usize| vec![at.min(19) as u8; 100];
    let expected = keys
        .iter()
        .enumerate()
        .map(|(at, key)| (key.clone(), value_at(at)));
    assert_eq!(later, expected.collect::<Vec<_>>());
    assert!(frozen_rows(&mut *third, "a", RANGE).is_empty());
    // A part of the groups, and once more the same.
    let part = KeyGroupRange { start: 4, end: 6 };
    for _ in 0..2 {
        let found = frozen_rows(&mut *second, "a", part);
        let expected = later.iter().filter(|(key, _)| part.contains(key.group));
        assert!(found.iter().eq(expected));
    }
}

fn an_immutable_file_stands_for_the_same_bytes(factory: &dyn StoreFactory) {
    let (mut store, mut rows) = open_one(factory);
    let keys = many_keys();
    let mut known = std::collections::BTreeMap::<String, Vec<u8>>::new();
    let (mut has_immutable, mut has_shared) = (false, false);
    for round in 0..12u8 {
        put(&mut *rows, &keys[usize::from(round) * 8..], &[round; 50]);
        let files = good(freeze(&mut *store).files());
        assert!(files.files.is_sorted(), "files are not in order of names");
        for file in &files.files {
            let bytes = std::fs::read(files.dir.path().join(&file.name)).expect("a listed file");
            assert_eq!(bytes.len() as u64, file.length, "length of `{}`", file.name);
            assert!(!file.is_restored, "`{}` is of this store", file.name);
            if file.is_immutable {
                let before = known.insert(file.name.clone(), bytes.clone());
                has_immutable = true;
                has_shared |= before.is_some();
                assert!(
                    before.is_none_or(|before| before == bytes),
                    "`{}` changed",
                    file.name
                );
            }
        }
    }
    assert!(
        has_shared || !has_immutable,
        "no file was in two freezes: nothing could be incremental"
    );
}

fn a_store_goes_on_from_its_files(factory: &dyn StoreFactory) {
    let (mut store, mut rows) = open_one(factory);
    let mut other = good(store.open(&state("b")));
    let keys = many_keys();
    put(&mut *rows, &keys, b"one");
    put(&mut *other, &keys[..3], b"other");
    let frozen = freeze(&mut *store);
    put(&mut *rows, &keys, b"lost");
    let files = good(frozen.files());
    assert_eq!(files.store, factory.name());
    let read_only = copied(&files);
    let (first, second) = (copied(&files), copied(&files));
    drop((frozen, rows, other, store, files));

    let mut read = good(factory.read(read_only));
    assert_eq!(frozen_rows(&mut *read, "a", RANGE).len(), keys.len());
    // Two stores of the same files do not touch each other.
    for files in [first, second] {
        let dir = files.dir.path().to_owned();
        let mut came = files.files.clone();
        came.retain(|file| file.is_immutable);
        let mut store = good(factory.reopen(&place(), files));
        let mut rows = good(store.open(&state("a")));
        let found = fetched(&mut *rows, &keys);
        assert!(found.iter().all(|value| value.as_deref() == Some(b"one")));
        put(&mut *rows, &keys[..9], b"two");
        let mut added = good(store.open(&state("added")));
        put(&mut *added, &keys[..1], b"x");
        let mut frozen = freeze(&mut *store);
        let twos = frozen_rows(&mut *frozen, "a", RANGE);
        assert_eq!(twos.iter().filter(|(_, value)| value == b"two").count(), 9);
        assert_eq!(frozen_rows(&mut *frozen, "b", RANGE).len(), 3);
        assert_eq!(frozen_rows(&mut *frozen, "added", RANGE).len(), 1);
        for file in good(frozen.files()).files {
            let is_restored = came.iter().any(|of_before| of_before.name == file.name);
            assert_eq!(file.is_restored, is_restored, "`{}`", file.name);
        }
        drop((rows, added, store));
        assert!(!dir.exists(), "the files were its own, and are left behind");
    }
    let ones = frozen_rows(&mut *read, "a", RANGE);
    assert!(ones.iter().all(|(_, value)| value == b"one"));
}

/// The files of a store as of now, where the next one finds them.
fn files_of(store: &mut dyn StateStore) -> StoreFiles {
    copied(&good(freeze(store).files()))
}

/// Removes rows, in order.
fn remove(rows: &mut dyn Backing, keys: &[RowKey]) {
    let batch = keys.iter().map(|key| RowWrite {
        key: key.clone(),
        value: None,
    });
    good(rows.write(&batch.collect::<Vec<_>>()));
}

/// Compares a state with the model by scan, and each of `keys` by fetch.
fn assert_holds(rows: &mut dyn Backing, keys: &[RowKey], model: &Rows, at: &str) {
    assert_rows(rows, model, at);
    let expected = keys.iter().map(|key| model.get(key).cloned());
    assert_eq!(fetched(rows, keys), expected.collect::<Vec<_>>(), "{at}");
}

/// The rows of the model as a frozen store shows them.
fn in_order(model: &Rows) -> Vec<(RowKey, Vec<u8>)> {
    let rows = model.iter();
    rows.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn a_store_goes_on_with_a_part_of_its_key_groups(factory: &dyn StoreFactory) {
    let (mut store, mut rows) = open_one(factory);
    let keys = many_keys();
    put(&mut *rows, &keys, b"old");
    // So that the store has them in files of several times.
    drop(freeze(&mut *store));
    let (first, rest) = keys.split_at(keys.len() / 2);
    put(&mut *rows, first, b"new");
    remove(&mut *rows, &rest[..9]);
    put(&mut *good(store.open(&state("closed"))), &keys, b"c");
    let files = files_of(&mut *store);
    drop((rows, store));
    let value = |at: usize| if at < first.len() { b"new" } else { b"old" };
    for (start, end) in [(2, 12), (2, 7), (7, 12), (5, 8), (2, 3), (11, 12)] {
        let own = KeyGroupRange { start, end };
        let at = format!("key groups {own}");
        let whole = keys.iter().enumerate().map(|(at, key)| (key, value(at)));
        let mut model: Rows = whole
            .filter(|(key, _)| own.contains(key.group) && !rest[..9].contains(key))
            .map(|(key, value)| (key.clone(), value.to_vec()))
            .collect();
        let held = keys.iter().filter(|key| own.contains(key.group));
        let held: Vec<_> = held.cloned().collect();
        let mut store = good(factory.reopen(&place_of(own, RANGE), copied(&files)));
        let mut rows = good(store.open(&state("a")));
        assert_holds(&mut *rows, &keys, &model, &at);
        put(&mut *rows, &held[..3], b"later");
        model.extend(held[..3].iter().map(|key| (key.clone(), b"later".to_vec())));
        remove(&mut *rows, &held[3..5]);
        held[3..5].iter().for_each(|key| drop(model.remove(key)));
        let mut frozen = freeze(&mut *store);
        assert_eq!(
            frozen_rows(&mut *frozen, "a", RANGE),
            in_order(&model),
            "{at}"
        );
        // One that nobody has opened is of the same key groups.
        let closed = frozen_rows(&mut *frozen, "closed", RANGE);
        assert!(closed.iter().map(|(key, _)| key).eq(&held), "{at}");
        let files = copied(&good(frozen.files()));
        drop((rows, store, frozen));
        let mut read = good(factory.read(copied(&files)));
        assert_eq!(
            frozen_rows(&mut *read, "a", RANGE),
            in_order(&model),
            "{at}"
        );
        let mut store = good(factory.reopen(&place_of(own, own), files));
        let mut rows = good(store.open(&state("a")));
        assert_holds(&mut *rows, &keys, &model, &at);
        let mut closed = good(store.open(&state("closed")));
        let found = fetched(&mut *closed, &keys);
        assert_eq!(found.iter().flatten().count(), held.len(), "{at}");
    }
}

fn rows_that_went_to_others_do_not_come_back(factory: &dyn StoreFactory) {
    let left = KeyGroupRange {
        start: RANGE.start,
        end: 7,
    };
    let right = KeyGroupRange {
        start: 7,
        end: RANGE.end,
    };
    let (mut store, mut rows) = open_one(factory);
    let keys = many_keys();
    put(&mut *rows, &keys, b"before");
    let files = files_of(&mut *store);
    drop((rows, store));
    // Those on the right go to another subtask.
    let mut store = good(factory.reopen(&place_of(left, RANGE), files));
    drop(good(store.open(&state("a"))));
    let files = files_of(&mut *store);
    drop(store);
    // Later they come back, as that subtask has left them: without most of the rows.
    let mut store = good(factory.reopen(&place_of(RANGE, left), files));
    let mut rows = good(store.open(&state("a")));
    let of = |groups: KeyGroupRange| keys.iter().filter(move |key| groups.contains(key.group));
    let mut model: Rows = of(left)
        .map(|key| (key.clone(), b"before".to_vec()))
        .collect();
    assert_holds(&mut *rows, &keys, &model, "before any of them came");
    let back: Vec<_> = of(right).step_by(3).cloned().collect();
    put(&mut *rows, &back, b"back");
    model.extend(back.iter().map(|key| (key.clone(), b"back".to_vec())));
    remove(&mut *rows, &back[..5]);
    back[..5].iter().for_each(|key| drop(model.remove(key)));
    assert_holds(&mut *rows, &keys, &model, "with what came");
    let files = files_of(&mut *store);
    drop((rows, store));
    let mut store = good(factory.reopen(&place(), files));
    let mut rows = good(store.open(&state("a")));
    assert_holds(&mut *rows, &keys, &model, "from its files");
    let files = files_of(&mut *store);
    drop((rows, store));
    let mut store = good(factory.reopen(&place_of(right, RANGE), files));
    let mut rows = good(store.open(&state("a")));
    model.retain(|key, _| right.contains(key.group));
    assert_holds(&mut *rows, &keys, &model, "with the others alone");
}

fn a_dropped_state_is_gone_for_good(factory: &dyn StoreFactory) {
    let (mut store, mut rows) = open_one(factory);
    let keys = many_keys();
    put(&mut *rows, &keys, b"one");
    put(&mut *good(store.open(&state("kept"))), &keys[..2], b"k");
    let files = copied(&good(freeze(&mut *store).files()));
    drop((rows, store));
    let mut store = good(factory.reopen(&place(), files));
    good(store.drop_state("a"));
    good(store.drop_state("never there"));
    let files = copied(&good(freeze(&mut *store).files()));
    drop(store);
    let mut store = good(factory.reopen(&place(), files));
    let mut rows = good(store.open(&state("a")));
    assert!(fetched(&mut *rows, &keys).iter().all(Option::is_none));
    let mut frozen = freeze(&mut *store);
    assert!(frozen_rows(&mut *frozen, "a", RANGE).is_empty());
    assert_eq!(frozen_rows(&mut *frozen, "kept", RANGE).len(), 2);
}

fn files_that_are_not_its_own_are_corrupt(factory: &dyn StoreFactory) {
    let (mut store, mut rows) = open_one(factory);
    put(&mut *rows, &many_keys(), &[7; 100]);
    let files = good(freeze(&mut *store).files());
    let mut foreign = vec![(
        "another store",
        StoreFiles {
            store: "another".to_owned(),
            ..copied(&files)
        },
    )];
    for at in 0..files.files.len() {
        let without = copied(&files);
        let path = without.dir.path().join(&files.files[at].name);
        std::fs::remove_file(path).expect("a copied file");
        foreign.push(("a file is missing", without));

        let mut short = copied(&files);
        let file = &mut short.files[at];
        let opened = std::fs::File::options()
            .write(true)
            .open(short.dir.path().join(&file.name));
        let cut = opened.and_then(|opened| opened.set_len(file.length / 2));
        cut.expect("a copied file");
        if file.is_immutable {
            // Files of a checkpoint are verified, so that the store must notice this of what it does not know already.
            file.length /= 2;
        }
        foreign.push(("a file is cut", short));
    }
    let mut nothing = copied(&files);
    for file in std::mem::take(&mut nothing.files) {
        std::fs::remove_file(nothing.dir.path().join(file.name)).expect("a copied file");
    }
    foreign.push(("there are no files", nothing.clone()));
    let mut text = nothing;
    text.dir = copied(&text).dir;
    std::fs::write(text.dir.path().join("text"), b"text").expect("a directory of its own");
    text.files = vec![StoreFile {
        name: "text".to_owned(),
        length: 4,
        is_immutable: true,
        is_restored: true,
    }];
    foreign.push(("files of something else", text));
    for (what, files) in foreign {
        let error = factory.read(files.clone()).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::Corrupt), "read, {what}: {files:?}");
        let reopened = factory.reopen(&place(), files.clone());
        let error = reopened.err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::Corrupt), "reopen, {what}: {files:?}");
    }
}

/// Compares all rows of a state with the model, by scan.
pub(super) fn assert_rows(rows: &mut dyn Backing, model: &Rows, at: &str) {
    let range = (&key(0, b""), &key(u16::MAX, b""));
    let found = scanned(rows, range, usize::MAX);
    let expected = model
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()));
    assert_eq!(found, expected.collect::<Vec<_>>(), "{at}");
}
