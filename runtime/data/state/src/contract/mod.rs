//! The contract suite: what every backend keeps, checked against a plain model.
//!
//! Called by the tests of each backend with a function that makes its stores. The suite panics with what differs. It
//! checks through the public face only: reads after every write, no leak between keys and namespaces, TTL, snapshots
//! taken while writes go on, aborted snapshots, crashes with rescale, and that all backends agree on the canonical digest.

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
pub use self::store_steps::{StoreStep, check_store_steps, seeded_store_steps};
pub use self::stores::check_store;
use self::subtask::{Cluster, Crash, RestoreFrom};
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

/// Runs the whole suite: fixed seeds, each on the backend and on the heap, whose digests must agree.
///
/// # Panics
/// At the first difference.
pub fn check_backend(make_store: MakeStore<'_>) {
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
