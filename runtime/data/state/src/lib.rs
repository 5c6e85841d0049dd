//! Keyed and operator state: the backend of an operator subtask, its typed states, the seam of local stores, the contract
//! suite.
//!
//! State belongs to (operator, name, key group, key, namespace) and lives in typed tables on one slot thread. There is no
//! current key, no lock and no clock: each access names its key, namespace and processing time in a [`KeyContext`].
//!
//! # What an operator does
//!
//! ```
//! use highwater_state::{BackendSetup, KeyContext, KeyedStateBackend, MemoryBudget, OpenState, Store};
//! use highwater_state::{SnapshotProgress, StateError, StateTable, Unmatched, ValueState};
//! use highwater_types::{CheckpointId, Key, KeyGroupRange, KeyHash, MaxParallelism, OperatorUid, ProcessingTime, SubtaskIndex};
//!
//! # fn main() -> Result<(), StateError> {
//! // Open: once, from the snapshots of a checkpoint or empty. Handles are kept by the operator.
//! let setup = BackendSetup {
//!     uid: OperatorUid::parse("count").expect("a good uid"),
//!     subtask: SubtaskIndex(0),
//!     range: KeyGroupRange { start: 0, end: 720 },
//!     max_parallelism: MaxParallelism::DEFAULT,
//!     budget: MemoryBudget::new(1 << 30),
//!     store: Store::heap(),
//! };
//! let mut backend = KeyedStateBackend::restore(setup, Vec::new(), ProcessingTime(0))?;
//! let counts = backend.open::<StateTable<i64, (), u64>>(StateTable::<i64, (), u64>::describe("counts"))?;
//! let last = backend.open::<ValueState<i64, (), String>>(ValueState::<i64, (), String>::describe("last"))?;
//! backend.finish_restore(&Unmatched::refuse())?;
//!
//! // Each chunk: borrow, prepare (one bulk read with a store, a prefetch on the heap), access, end.
//! let (keys, now) = ([7i64, 8, 7], ProcessingTime(1_000));
//! let hashes: Vec<KeyHash> = keys.iter().map(Key::key_hash).collect();
//! let (count, text) = backend.get_two((counts, last));
//! text.prepare(hashes.iter().zip(&keys).map(|(&hash, key)| (hash, key, &())))?;
//! count.update_chunk(&hashes, &(), |row| &keys[row], || 0, |_row, count| *count += 1);
//! for (&hash, key) in hashes.iter().zip(&keys) {
//!     text.set(KeyContext::new(hash, key, now), format!("seen {key}"));
//! }
//! backend.after_chunk(now)?;
//!
//! // Barrier: cheap. Then a piece between chunks until all is saved; sealing may happen on another thread.
//! backend.begin_snapshot(CheckpointId::default(), now)?;
//! while backend.advance_snapshot(1_024)? == SnapshotProgress::Saving {}
//! let snapshot = backend.take_snapshot()?.seal()?;
//! assert_eq!(snapshot.states.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Which state: [`StateTable`] or [`ReducingState`] / [`AggregatingState`] for chunk-wise aggregation by key;
//! [`SlicedState`] for windows that many keys share (one table per window, fired by a scan, dropped whole);
//! [`ValueState`], [`ListState`], [`MapState`] for process functions and for session windows, with the window as
//! namespace. Timers and other bytes of their owner go along as [`RawKeyGroupState`].
//!
//! # Rules
//!
//! - Accesses return no errors. What goes wrong in one (a foreign key group, a failing store) comes out of
//!   [`KeyedStateBackend::after_chunk`], and a snapshot cannot be taken past it. Call it after every chunk.
//! - The hash of a key is computed once for each record, upstream, and rides in the chunk; it must be `key.key_hash()`.
//!   A table keeps half of it, and computes it again when it grows, shrinks or saves.
//! - Order of iteration is fixed by the history, and no output may rely on it.
//! - Every backend passes the suite in `contract` (feature `test-util`), and equal content has an equal
//!   [`canonical_digest`].

mod backend;
mod backing;
mod budget;
pub mod cell;
mod context;
#[cfg(any(test, feature = "test-util"))]
pub mod contract;
mod descriptor;
mod error;
pub mod keyed;
mod operator_state;
mod restore;
mod snapshot;
mod spread;
mod store;
mod table;
mod ttl;

pub use backend::{BackendSetup, KeyedStateBackend, SnapshotProgress, StateHandle, Unmatched};
pub use backing::{Backing, RowKey, RowWrite, VisitRow};
pub use budget::{MemoryBudget, Relief, Relieved};
pub use context::KeyContext;
pub use descriptor::{StateDescriptor, StateKind, StateSchemas};
pub use error::{BackingError, StateError, StateName};
pub use keyed::{
    AggregatingState, Aggregation, ChunkKeys, Drained, KeyedState, ListState, MapState, OpenState,
    ReducingState, Reduction, SlicedState, StateReport, TimerState, ValueState,
};
pub use operator_state::{OperatorRestore, OperatorSnapshot, Redistribution};
pub use restore::RestoredSnapshot;
pub use snapshot::{
    GroupBlock, KeyedSnapshot, RawKeyGroupState, RowOrder, RowsPlace, SealedInStore, SealedPieces,
    StateBlock, StateHeader, UnsealedSnapshot, UnsealedState, canonical_digest,
};
pub use store::{
    Freezing, FrozenStore, LocalDir, StateStore, Store, StoreFactory, StoreFile, StoreFiles,
    StorePlace, StoreReport,
};
pub use table::{Namespace, StateTable, TableSetup};
pub use ttl::{Expiry, TtlCleanup, TtlConfig, TtlUpdate, TtlVisibility};
