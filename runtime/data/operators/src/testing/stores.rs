//! Where the state of operators under test rests: on the heap, unless a test runs again over a local store.
//!
//! Called by the tests of keyed operators. The rule: a test says what an operator does, and that is the same with every store.

use std::cell::Cell;
use std::sync::Arc;

use highwater_state::contract::SlowMissFactory;
use highwater_state::{MemoryBudget, Store};

thread_local! {
    static OVER_A_STORE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test with all state in a local store that is only good at bulk, and caches that keep nothing from one chunk to
/// the next.
pub fn over_a_store(test: impl FnOnce()) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            OVER_A_STORE.set(false);
        }
    }
    OVER_A_STORE.set(true);
    let _reset = Reset;
    test();
}

/// Whether a test runs [over a store](over_a_store).
#[cfg(test)]
pub(crate) fn is_over_a_store() -> bool {
    OVER_A_STORE.get()
}

/// The store and the budget of a harness that names none.
pub(super) fn usual() -> (Store, MemoryBudget) {
    let factory = Arc::new(SlowMissFactory::default());
    if OVER_A_STORE.get() {
        let budget = MemoryBudget::with_cache(u64::MAX, 1);
        return (Store::Local { factory }, budget);
    }
    let store = Store::Heap {
        reads: Some(factory),
    };
    (store, MemoryBudget::unlimited())
}

/// Makes tests run again [over a store](over_a_store), in a module of their own.
#[cfg(test)]
macro_rules! also_over_a_store {
    ($($test:ident),* $(,)?) => {
        mod over_a_store {
            $(
                #[test]
                fn $test() {
                    $crate::testing::over_a_store(super::$test);
                }
            )*
        }
    };
}
#[cfg(test)]
pub(crate) use also_over_a_store;
