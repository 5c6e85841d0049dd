//! The suite of local stores on RocksDB, and random runs of it.

#![allow(clippy::unwrap_used, reason = "helpers of a test unwrap as tests do")]

use std::sync::Arc;

use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::contract::{
    StoreStep, check_rescales, check_steps, check_store, check_store_steps, on_heap, over,
    seeded_steps, seeded_store_steps,
};
use proptest::prelude::*;

fn factory(dir: &tempfile::TempDir) -> RocksFactory {
    factory_of(dir, 8 << 20)
}

fn factory_of(dir: &tempfile::TempDir, memory_bytes: u64) -> RocksFactory {
    RocksFactory::new(RocksOptions {
        local_dir: dir.path().to_owned(),
        memory_bytes,
        background_threads: 1,
    })
    .unwrap()
}

#[test]
fn rocksdb_keeps_the_contract_and_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    check_store(&factory(&dir));
    let left = std::fs::read_dir(dir.path()).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_store_of_many_times_its_memory_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory_of(&dir, 64);
    for seed in 100..104 {
        check_store_steps(&factory, &seeded_store_steps(seed, 60));
    }
}

fn step() -> impl Strategy<Value = StoreStep> {
    let rows = proptest::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..60);
    let keys = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        8 => (any::<u8>(), rows).prop_map(|(state, rows)| StoreStep::Write(state, rows)),
        2 => any::<(u8, u8, u8)>().prop_map(|(s, from, until)| StoreStep::DropRange(s, from, until)),
        3 => (any::<u8>(), keys).prop_map(|(state, keys)| StoreStep::Fetch(state, keys)),
        2 => any::<(u8, u8, u8, u8)>().prop_map(|(s, from, until, limit)| {
            StoreStep::Scan(s, from, until, limit)
        }),
        1 => Just(StoreStep::Freeze),
        1 => Just(StoreStep::Reopen),
        1 => any::<(u8, u8)>().prop_map(|(a, b)| StoreStep::Rescale(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn rocksdb_agrees_with_sorted_maps_on_random_runs(
        steps in proptest::collection::vec(step(), 0..50),
    ) {
        let dir = tempfile::tempdir().unwrap();
        check_store_steps(&factory(&dir), &steps);
    }
}

#[test]
fn tables_over_rocksdb_keep_the_contract_and_agree_with_the_heap() {
    let dir = tempfile::tempdir().unwrap();
    let factory = Arc::new(factory(&dir));
    // Less than one entry, so that everything is evicted after every chunk; and room for all.
    for cache_bytes in [64, u64::MAX] {
        let mut make = || over(Arc::<RocksFactory>::clone(&factory), cache_bytes);
        for seed in 0..3 {
            let steps = seeded_steps(seed, 60);
            let digests = check_steps(&mut make, &steps);
            assert_eq!(digests, check_steps(&mut on_heap, &steps), "seed {seed}");
        }
        check_rescales(&mut make);
    }
}
