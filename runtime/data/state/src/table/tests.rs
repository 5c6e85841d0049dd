//! The table beside a plain map: chunk-wise access, and snapshots of a table that changes and grows meanwhile.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::keyed::OpenState;
use crate::snapshot::SavedRows;
use crate::snapshot::UnsealedState;
use crate::snapshot::rows::next_row;
use crate::{MemoryBudget, SnapshotProgress};

type Counts = StateTable<i64, (), u64>;

fn table() -> Counts {
    Counts::new(TableSetup {
        uid: OperatorUid::parse("count").unwrap(),
        descriptor: Counts::describe("counts"),
        range: KeyGroupRange { start: 0, end: 720 },
        max_parallelism: MaxParallelism::DEFAULT,
        backing: None,
    })
}

fn set(table: &mut Counts, key: i64, value: u64) {
    table.insert(key.key_hash(), &key, &(), value);
}

/// The keys and values of a taken snapshot.
fn content(taken: UnsealedState) -> BTreeMap<i64, u64> {
    let SavedRows::Rows(saved) = taken.rows else {
        panic!("a table without a store saves into memory");
    };
    let mut content = BTreeMap::new();
    for (group, buffer) in saved.range.groups().zip(&saved.groups) {
        let mut rows = buffer.bytes.as_slice();
        while !rows.is_empty() {
            let (mut key, mut value) = next_row(&mut rows).unwrap();
            let (key, value) = (
                i64::decode(&mut key).unwrap(),
                u64::decode(&mut value).unwrap(),
            );
            assert_eq!(key.key_hash().group(MaxParallelism::DEFAULT), group);
            assert_eq!(content.insert(key, value), None, "{key} was saved twice");
        }
    }
    content
}

#[test]
fn st20_a_snapshot_holds_the_barrier_while_the_table_grows_tenfold() {
    let mut table = table();
    let mut model = BTreeMap::new();
    for key in 0..20_000 {
        set(&mut table, key, 1);
        model.insert(key, 1);
    }
    table.begin_snapshot(ProcessingTime(0));
    let splits = table.directory.tables.len();
    let mut next = 20_000;
    while table.advance_snapshot(20).is_none() {
        for _ in 0..1_000 {
            set(&mut table, next, 2);
            set(&mut table, next % 20_000, 3);
            let removed = next * 7 % 20_000;
            table.take(removed.key_hash(), &removed, &());
            next += 1;
        }
    }
    assert!(
        table.directory.tables.len() > splits * 4,
        "{} sub-tables of {splits}",
        table.directory.tables.len()
    );
    assert_eq!(content(table.take_snapshot().unwrap()), model);
}

#[test]
fn st20_a_snapshot_is_saved_in_pieces_of_the_budget() {
    let mut table = table();
    for key in 0..10_000 {
        set(&mut table, key, 1);
    }
    table.begin_snapshot(ProcessingTime(0));
    let mut pieces = 1;
    while table.advance_snapshot(64).is_none() {
        pieces += 1;
    }
    let least = 10_000usize.div_ceil(64);
    assert!((least..least * 5 / 4).contains(&pieces), "{pieces} pieces");
    assert_eq!(
        table.advance_snapshot(64),
        Some(64),
        "nothing is left to look at"
    );
}

#[test]
fn st20_a_table_that_is_emptied_is_still_saved() {
    let mut table = table();
    for key in 0..5_000 {
        set(&mut table, key, key as u64);
    }
    table.begin_snapshot(ProcessingTime(0));
    assert_eq!(table.advance_snapshot(1_000), None);
    let mut drained = 0;
    while !table.is_empty() {
        table.drain_without_trace(700, |_, key, value| {
            assert_eq!(key as u64, value);
            drained += 1;
        });
    }
    assert_eq!(drained, 5_000);
    assert_eq!(table.used_bytes(), 0);
    let saved = content(table.take_snapshot().unwrap());
    assert_eq!(saved, (0..5_000).map(|key| (key, key as u64)).collect());
    table.begin_snapshot(ProcessingTime(0));
    assert!(content(table.take_snapshot().unwrap()).is_empty());
}

#[test]
fn an_aborted_snapshot_leaves_the_next_one_whole() {
    let mut table = table();
    for key in 0..1_000 {
        set(&mut table, key, 1);
    }
    table.begin_snapshot(ProcessingTime(0));
    assert_eq!(table.advance_snapshot(400), None);
    table.abort_snapshot();
    set(&mut table, 0, 2);
    table.begin_snapshot(ProcessingTime(0));
    set(&mut table, 1, 3);
    let mut expected: BTreeMap<_, _> = (0..1_000).map(|key| (key, 1)).collect();
    expected.insert(0, 2);
    assert_eq!(content(table.take_snapshot().unwrap()), expected);
}

#[test]
fn bytes_of_values_are_counted_as_they_change() {
    type Texts = StateTable<i64, (), String>;
    let mut table = Texts::new(TableSetup {
        uid: OperatorUid::parse("count").unwrap(),
        descriptor: Texts::describe("texts"),
        range: KeyGroupRange { start: 0, end: 720 },
        max_parallelism: MaxParallelism::DEFAULT,
        backing: None,
    });
    let place = (1i64.key_hash(), &1, &());
    table.upsert(place, String::new, |text| text.push_str(&"x".repeat(1_000)));
    let full = table.used_bytes();
    assert!((1_000..3_000).contains(&full), "{full}");
    table.upsert(place, String::new, |text| *text = String::new());
    assert!(table.used_bytes() + 1_000 <= full);
    table.take(1i64.key_hash(), &1, &());
    assert_eq!(table.used_bytes(), 0);
}

proptest! {
    #[test]
    fn chunk_wise_is_the_same_as_one_by_one(
        chunks in proptest::collection::vec(proptest::collection::vec(0i64..300, 0..200), 0..12),
    ) {
        let mut table = table();
        let mut model: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        let mut seen: BTreeMap<i64, u64> = BTreeMap::new();
        for keys in chunks {
            let hashes: Vec<_> = keys.iter().map(Key::key_hash).collect();
            let mut rows = Vec::new();
            table.update_chunk(&hashes, &(), |row| &keys[row], || 0, |row, count| {
                *count += 1;
                rows.push((row, *count));
            });
            for (at, (row, count)) in rows.iter().enumerate() {
                prop_assert_eq!(at, *row, "rows come in order");
                model.entry(keys[*row]).or_default().push(*row);
                let expected = seen.entry(keys[*row]).or_default();
                *expected += 1;
                prop_assert_eq!(*count, *expected);
            }
            prop_assert_eq!(rows.len(), keys.len());
        }
        let mut held = BTreeMap::new();
        table.for_each(|hash, key, (), count| {
            assert_eq!(hash, key.key_hash());
            held.insert(*key, *count);
        });
        prop_assert_eq!(held, seen);
    }
}

#[test]
fn a_backend_saves_several_tables_within_one_budget_of_entries() {
    let mut backend = crate::KeyedStateBackend::new(crate::BackendSetup {
        uid: OperatorUid::parse("count").unwrap(),
        subtask: highwater_types::SubtaskIndex(0),
        range: KeyGroupRange { start: 0, end: 720 },
        max_parallelism: MaxParallelism::DEFAULT,
        budget: MemoryBudget::unlimited(),
        store: crate::Store::heap(),
    });
    let first = backend.open::<Counts>(Counts::describe("first")).unwrap();
    let second = backend.open::<Counts>(Counts::describe("second")).unwrap();
    for key in 0..100 {
        set(backend.get(first), key, 1);
        set(backend.get(second), key, 1);
    }
    let checkpoint = highwater_types::CheckpointId::default();
    backend
        .begin_snapshot(checkpoint, ProcessingTime(0))
        .unwrap();
    assert_eq!(
        backend.advance_snapshot(150).unwrap(),
        SnapshotProgress::Saving
    );
    let mut more = 0;
    while backend.advance_snapshot(1).unwrap() == SnapshotProgress::Saving {
        more += 1;
    }
    assert!(
        (50..80).contains(&more),
        "{more} more than 150 for 200 entries"
    );
}

/// Bytes that the slots of all sub-tables take.
fn slot_bytes(table: &Counts) -> usize {
    let slots = table.directory.tables.iter().map(SubTable::slots);
    slots.sum::<usize>() * (size_of::<Option<Entry<i64, (), u64>>>() + 1)
}

#[test]
fn what_is_charged_covers_the_slots() {
    let mut table = table();
    let mut next = 0;
    for entries in [1_000, 10_000, 50_000, 100_000, 150_000, 200_000, 300_000] {
        while next < entries {
            set(&mut table, next, 1);
            next += 1;
        }
        let (charged, taken) = (table.used_bytes(), slot_bytes(&table));
        let part = taken * 100 / charged;
        assert!((75..=100).contains(&part), "{part} of 100 at {entries}");
    }
}
