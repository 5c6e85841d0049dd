//! The suites of local stores and of state backends on RocksDB, and random runs of them.

use std::sync::Arc;

use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::Store;
use highwater_state::contract::{
    StoreStep, check_seeds, check_steps, check_store, check_store_steps, seeded_steps,
};
use proptest::prelude::*;

fn factory(dir: &tempfile::TempDir) -> RocksFactory {
    RocksFactory::new(RocksOptions {
        local_dir: dir.path().to_owned(),
        memory_bytes: 8 << 20,
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
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn rocksdb_agrees_with_sorted_maps_on_random_runs(
        steps in proptest::collection::vec(step(), 0..50),
    ) {
        let dir = tempfile::tempdir().unwrap();
        check_store_steps(&factory(&dir), &steps);
    }
}

/// A backend over RocksDB whose tables hold less than one entry, so that everything leaves memory after every chunk.
fn store(dir: &tempfile::TempDir, cache_bytes: usize) -> Store {
    Store::Local {
        factory: Arc::new(factory(dir)),
        cache_bytes,
    }
}

#[test]
fn the_state_backend_over_rocksdb_keeps_the_contract_of_the_heap() {
    let dir = tempfile::tempdir().unwrap();
    let small = store(&dir, 64);
    check_seeds(&mut || small.clone(), 0..4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]
    #[test]
    fn heap_and_rocksdb_agree_on_random_runs(seed in any::<u64>(), cache_bytes in 64usize..4_096) {
        let dir = tempfile::tempdir().unwrap();
        let steps = seeded_steps(seed, 40);
        let store = store(&dir, cache_bytes);
        let on_disk = check_steps(&mut || store.clone(), &steps);
        let on_heap = check_steps(&mut Store::heap, &steps);
        prop_assert_eq!(on_disk, on_heap);
    }
}
