//! The harness: drives one operator with elements, watermarks and a clock that the test moves. Used by the tests of this
//! crate and of jobs (feature `test-util`).
//!
//! One [`Harness`] is one subtask; [`ParallelHarness`] runs several and routes records by key group, so that a snapshot can be
//! restored at another parallelism. Rule: everything is single-threaded and decided by the calls of the test, the rim
//! included, whose clock stands still until the test moves it.

mod deal;
mod harness;
mod parallel;
mod receiver;
mod stores;

pub use deal::deal;
pub use harness::{Harness, HarnessSetup};
pub use parallel::ParallelHarness;
pub use receiver::{HarnessElement, SideReceiver};
pub use stores::over_a_store;
#[cfg(test)]
pub(crate) use stores::{also_over_a_store, is_over_a_store};
