//! The contract suite: what every backend keeps, checked against a plain model.
//!
//! Called by the tests of each backend with a function that makes its stores. The suite panics with what differs. It
//! checks through the public face only: reads after every write, no leak between keys and namespaces, TTL, snapshots
//! taken while writes go on, aborted snapshots, crashes with rescale, chains of rescales, and that all backends agree on the
//! canonical digest.

mod model;
mod slow_miss;
mod steps;
mod store_steps;
mod stores;
mod subtask;

use std::ops::Range;

use self::model::Model;
pub use self::slow_miss::{SlowMissFactory, StoreCalls, copied};
pub use self::steps::{Access, Step, seeded_steps};
use self::steps::{Numbers, seeded_accesses};
pub use self::store_steps::{StoreStep, check_store_steps, seeded_store_steps};
pub use self::stores::check_store;
use self::subtask::{Cluster, Crash, RestoreFrom, every_read};
use std::sync::Arc;

use crate::budget::MemoryBudget;
use crate::store::Store;
use crate::store::StoreFactory;

/// Makes the store of one subtask of one attempt, and the budget of its memory.
pub type MakeStore<'a> = &'a mut dyn FnMut() -> (Store, MemoryBudget);

/// State in memory only, as much as there is.
pub fn on_heap() -> (Store, MemoryBudget) {
    (Store::heap(), MemoryBudget::unlimited())
}

/// State in a local store, of which memory holds up to `cache` bytes.
pub fn over(factory: Arc<dyn StoreFactory>, cache: u64) -> (Store, MemoryBudget) {
    let budget = MemoryBudget::with_cache(u64::MAX, cache);
    (Store::Local { factory }, budget)
}

/// Runs `steps` on the backend and on the model. Returns the canonical digest of every snapshot taken.
///
/// # Panics
/// At the first step where the two differ.
pub fn check_steps(make_store: MakeStore<'_>, steps: &[Step]) -> Vec<u64> {
    let mut model = Model::default();
    let mut cluster = Cluster::start(make_store, 2);
    let mut digests = Vec::new();
    for step in steps {
        match step {
            Step::Chunk(accesses) => cluster.chunk(&mut model, accesses),
            Step::Wait(ms) => model.now.0 += i64::from(*ms),
            Step::Barrier => cluster.barrier(&mut model),
            Step::Advance(entries) => cluster.advance(&model, usize::from(*entries)),
            Step::Take => digests.extend(cluster.take(&mut model)),
            Step::Abort => cluster.abort(&mut model),
            Step::Crash(how) => cluster.crash(&mut model, make_store, Crash::of(*how)),
        }
    }
    cluster.barrier(&mut model);
    digests.extend(cluster.take(&mut model));
    for from in [RestoreFrom::Files, RestoreFrom::Canonical] {
        cluster.crash(
            &mut model,
            make_store,
            Crash {
                parallelism: 3,
                from,
            },
        );
    }
    cluster.check_everything(&model);
    digests
}

/// The parallelisms that a job runs at, one after another.
const RESCALES: [&[u32]; 6] = [
    &[1, 2, 4],
    &[4, 2, 1],
    &[2, 3, 2],
    &[3, 2, 5, 3],
    &[5, 1, 3, 1],
    &[1, 4, 4, 2, 4],
];

/// Takes state of every kind through changes of the parallelism on the backend and on the heap, whose digests must agree.
///
/// # Panics
/// At the first difference.
pub fn check_rescales(make_store: MakeStore<'_>) {
    for (parallelisms, seed) in RESCALES.into_iter().zip(0..) {
        let digests = rescaled(make_store, parallelisms, seed);
        let on_heap = rescaled(&mut on_heap, parallelisms, seed);
        assert_eq!(
            digests, on_heap,
            "digests at the parallelisms {parallelisms:?} differ from those of the heap"
        );
    }
}

/// Goes on at each parallelism from the checkpoint of the one before, and once more at the last: from the files of a store, where
/// there is one. Entries of every state come, change and go before and behind each checkpoint.
fn rescaled(make_store: MakeStore<'_>, parallelisms: &[u32], seed: u64) -> Vec<u64> {
    let mut numbers = Numbers(seed);
    let mut model = Model::default();
    let mut cluster = Cluster::start(make_store, parallelisms[0]);
    let mut digests = Vec::new();
    for &parallelism in parallelisms[1..].iter().chain(parallelisms.last()) {
        for _ in 0..4 {
            cluster.chunk(&mut model, &seeded_accesses(&mut numbers, 120));
            model.now.0 += 10;
        }
        cluster.barrier(&mut model);
        digests.extend(cluster.take(&mut model));
        // What comes behind the checkpoint is lost.
        cluster.chunk(&mut model, &seeded_accesses(&mut numbers, 60));
        let from = RestoreFrom::Files;
        cluster.crash(&mut model, make_store, Crash { parallelism, from });
        cluster.chunk(&mut model, &every_read());
    }
    cluster.barrier(&mut model);
    digests.extend(cluster.take(&mut model));
    cluster.check_everything(&model);
    digests
}

/// Runs the whole suite: rescales and fixed seeds, each on the backend and on the heap, whose digests must agree.
///
/// # Panics
/// At the first difference.
pub fn check_backend(make_store: MakeStore<'_>) {
    check_rescales(make_store);
    check_seeds(make_store, 0..40);
}

/// Runs some seeds of the suite: for a store on disk, which takes seconds for each.
///
/// # Panics
/// At the first difference.
pub fn check_seeds(make_store: MakeStore<'_>, seeds: Range<u64>) {
    for seed in seeds {
        let steps = seeded_steps(seed, 60);
        let digests = check_steps(make_store, &steps);
        let on_heap = check_steps(&mut on_heap, &steps);
        assert_eq!(
            digests, on_heap,
            "digests of seed {seed} differ from those of the heap"
        );
    }
}
