//! The contract suite on the heap and on a store that is only good at bulk, and random runs of it.

use std::sync::Arc;

use highwater_state::contract::{
    Access, SlowMissFactory, Step, check_backend, check_steps, check_store, on_heap, over,
    seeded_steps,
};
use highwater_state::{MemoryBudget, Store};
use proptest::prelude::*;

/// Less than one entry fits: everything is evicted after every chunk.
fn paged(factory: &SlowMissFactory) -> (Store, MemoryBudget) {
    over(Arc::new(factory.clone()), 64)
}

#[test]
fn a_store_that_is_only_good_at_bulk_is_a_store() {
    check_store(&SlowMissFactory::default());
}

#[test]
fn heap_keeps_the_contract() {
    check_backend(&mut on_heap);
}

#[test]
fn table_over_a_store_keeps_the_contract_and_reads_in_bulk() {
    let factory = SlowMissFactory::default();
    check_backend(&mut || paged(&factory));
    let calls = factory.calls();
    assert!(calls.fetched() > calls.fetches() * 2, "{calls:?}");
    assert!(calls.written() > calls.writes() * 3 / 2, "{calls:?}");
}

#[test]
fn table_over_a_store_that_never_evicts_keeps_the_contract() {
    let factory = SlowMissFactory::default();
    check_backend(&mut || over(Arc::new(factory.clone()), u64::MAX));
}

fn access() -> impl Strategy<Value = Access> {
    any::<(u8, u8, u8, u8, u8)>().prop_map(|(state, action, key, namespace, value)| Access {
        state,
        action,
        key,
        namespace,
        value,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec(access(), 0..24).prop_map(Step::Chunk),
        2 => any::<u8>().prop_map(|ms| Step::Wait(ms % 40)),
        2 => Just(Step::Barrier),
        1 => any::<u8>().prop_map(|entries| Step::Advance(entries % 16)),
        2 => Just(Step::Take),
        1 => Just(Step::Abort),
        1 => any::<u8>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn backends_agree_on_random_runs(
        steps in proptest::collection::vec(step(), 0..40),
        cache in prop_oneof![Just(64u64), 500u64..20_000],
    ) {
        let factory = SlowMissFactory::default();
        let on_heap = check_steps(&mut on_heap, &steps);
        let in_store = check_steps(&mut || over(Arc::new(factory.clone()), cache), &steps);
        prop_assert_eq!(on_heap, in_store);
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    assert_eq!(seeded_steps(7, 30), seeded_steps(7, 30));
    assert_ne!(seeded_steps(7, 30), seeded_steps(8, 30));
}
