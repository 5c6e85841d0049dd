//! Keyed states: the typed handles that operators use, and the face that they show to their backend.
//!
//! A state owns its table, so an access is a direct call. The backend sees every state through [`KeyedState`], a few times
//! per chunk, barrier or restore, never per record.

mod aggregating;
mod list;
mod map;
mod reducing;
mod sliced;
mod timers;
mod value;

use std::any::Any;

use highwater_types::{Key, KeyGroup, KeyGroupRange, KeyHash, ProcessingTime, Record};
use serde::{Deserialize, Serialize};

pub use self::aggregating::{AggregatingState, Aggregation};
pub use self::list::ListState;
pub use self::map::{MapKey, MapState};
pub use self::reducing::{ReducingState, Reduction};
pub use self::sliced::{Drained, SlicedState};
pub use self::timers::{DueTimer, TimerState};
pub use self::value::ValueState;
use crate::budget::{Relief, Relieved};
use crate::cell::{Cell, StoredForm};
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::error::StateError;
use crate::snapshot::{RowOrder, UnsealedState};
use crate::table::{Namespace, StateTable, TableSetup};

/// What one state holds now and did since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// The name of the state.
    pub name: String,
    /// Entries in memory, expired ones that are not removed yet included.
    pub entries: u64,
    /// Bytes of memory.
    pub bytes: u64,
    /// Entries that their time to live removed whole, by a read or a cleanup.
    pub expired: u64,
    /// Keys of chunks that were in memory. This and what follows is 0 without a store behind the state.
    pub hits: u64,
    /// Keys that were asked of the store.
    pub misses: u64,
    /// Keys that were not in memory and known to be absent without asking the store.
    pub known_absent: u64,
    /// Reads of a single key that no chunk announced: each costs as much as many together.
    pub unprepared: u64,
    /// Entries that left memory.
    pub evicted: u64,
    /// Rows that were written because they had to leave memory.
    pub evicted_dirty: u64,
    /// Rows that were written to the store, for a checkpoint or to leave memory.
    pub rows_written: u64,
}

impl StateReport {
    /// Adds what another table of the same state holds and did.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.expired += other.expired;
        self.hits += other.hits;
        self.misses += other.misses;
        self.known_absent += other.known_absent;
        self.unprepared += other.unprepared;
        self.evicted += other.evicted;
        self.evicted_dirty += other.evicted_dirty;
        self.rows_written += other.rows_written;
    }
}

/// What a backend does with a state, whatever its types.
pub trait KeyedState: Any + Send {
    /// What the job declared.
    fn descriptor(&self) -> &StateDescriptor;

    /// Whether rows of the state may lie in a store.
    fn is_paged(&self) -> bool;

    /// While `withheld`, nothing is written to the store: it is being frozen.
    fn withhold_writes(&mut self, withheld: bool);

    /// How its rows are ordered in a store.
    fn row_order(&self) -> RowOrder {
        RowOrder::Key
    }

    /// The store went on from files and holds rows of this state in these key groups already, in the order of the state. Rows
    /// of other key groups may have been loaded before, and may be loaded later.
    ///
    /// # Errors
    /// Of the store's kind when it cannot be asked for them.
    fn adopt_stored(&mut self, _: KeyGroupRange) -> Result<(), StateError> {
        Ok(())
    }

    /// Bytes of memory that the state takes.
    fn used_bytes(&self) -> usize;

    /// The part of them that cannot leave memory.
    fn fixed_bytes(&self) -> usize {
        self.used_bytes()
    }

    /// Gives memory back: entries that lie in a store too, or are written to it first.
    ///
    /// # Errors
    /// The first error since the last call that could not be returned where it happened.
    fn relieve(&mut self, _: &mut Relief) -> Result<Relieved, StateError> {
        Ok(Relieved::All)
    }

    /// What the state holds and did.
    fn report(&self) -> StateReport;

    /// Begins a snapshot of the state as it is now; `now` decides what is expired in it. Copies nothing: what may be written is
    /// one batch of timers, and the range that a firing window has passed.
    fn begin_snapshot(&mut self, now: ProcessingTime);

    /// Goes on for up to `budget` entries. Returns what is left of the budget once all are saved, `None` before.
    fn advance_snapshot(&mut self, budget: usize) -> Option<usize>;

    /// Saves the rest and hands the snapshot over.
    ///
    /// # Errors
    /// The first error since the last call that could return one; of the store's kind when it cannot be written.
    fn take_snapshot(&mut self) -> Result<UnsealedState, StateError>;

    /// Forgets the running snapshot.
    fn abort_snapshot(&mut self);

    /// Takes in stored rows of one owned key group.
    ///
    /// # Errors
    /// `Corrupt` when they cannot be decoded.
    fn load(&mut self, group: KeyGroup, rows: &[u8], form: &StoredForm) -> Result<(), StateError>;

    /// Ends a chunk: cleans what is expired in pieces, and writes what waits where that is due.
    ///
    /// # Errors
    /// The first error since the last call that could not be returned where it happened.
    fn after_chunk(&mut self, now: ProcessingTime) -> Result<(), StateError>;

    /// Brings the entries of these keys from the store into memory, if the operator is likely to ask for them. `keys` are
    /// [`ChunkKeys`] of the key type of the operator.
    ///
    /// # Errors
    /// Of the kind of the store's error; `Corrupt` when a row cannot be decoded.
    fn prepare_keys(&mut self, _keys: &dyn Any) -> Result<(), StateError> {
        Ok(())
    }

    /// Brings the entries of these keys into the cache of the processor, where the state has one entry for each key.
    /// Changes nothing but the time of the accesses that follow.
    fn warm_keys(&self, hashes: &[KeyHash]);
}

/// The keys of a chunk, for operators whose function decides which state it asks: see
/// [`KeyedStateBackend::prepare_keys`](crate::KeyedStateBackend::prepare_keys). Used again for each chunk.
#[derive(Clone, Debug)]
pub struct ChunkKeys<K> {
    pub(crate) hashes: Vec<KeyHash>,
    pub(crate) keys: Vec<K>,
}

impl<K> Default for ChunkKeys<K> {
    fn default() -> Self {
        Self {
            hashes: Vec::new(),
            keys: Vec::new(),
        }
    }
}

impl<K: Key> ChunkKeys<K> {
    /// Begins a chunk.
    pub fn clear(&mut self) {
        self.hashes.clear();
        self.keys.clear();
    }

    /// Adds the key of a row; `hash` is that of the key.
    pub fn push(&mut self, hash: KeyHash, key: K) {
        self.hashes.push(hash);
        self.keys.push(key);
    }
}

/// A state that opens from its setup alone.
pub trait OpenState: KeyedState + Sized {
    /// Whether a store may lie behind its table.
    const IS_PAGEABLE: bool = true;
    /// Whether its values may have a time to live.
    const KEEPS_TTL: bool = true;

    /// The empty state.
    fn open(setup: TableSetup) -> Self;

    /// The kind and schemas that a descriptor of this state has.
    fn shape() -> (StateKind, StateSchemas);

    /// A descriptor of this state.
    fn describe(name: &str) -> StateDescriptor {
        let (kind, schemas) = Self::shape();
        StateDescriptor::new(name, kind, schemas)
    }
}

/// The table as a state of its own, for operators that aggregate chunk by chunk.
impl<K: Key, N: Namespace, V: Record> OpenState for StateTable<K, N, V> {
    const KEEPS_TTL: bool = false;

    fn open(setup: TableSetup) -> Self {
        Self::new(setup)
    }

    fn shape() -> (StateKind, StateSchemas) {
        (StateKind::Value, StateSchemas::of::<K, N, V>())
    }
}

impl<K: Key, N: Namespace, C: Cell> KeyedState for StateTable<K, N, C> {
    fn descriptor(&self) -> &StateDescriptor {
        self.descriptor()
    }

    fn is_paged(&self) -> bool {
        self.is_paged()
    }

    fn withhold_writes(&mut self, withheld: bool) {
        self.withhold_writes(withheld);
    }

    fn used_bytes(&self) -> usize {
        self.used_bytes()
    }

    fn fixed_bytes(&self) -> usize {
        self.fixed_bytes()
    }

    fn relieve(&mut self, relief: &mut Relief) -> Result<Relieved, StateError> {
        let relieved = self.relieve(relief);
        self.take_fault().map(|()| relieved)
    }

    fn report(&self) -> StateReport {
        self.report()
    }

    fn begin_snapshot(&mut self, now: ProcessingTime) {
        self.begin_snapshot(now);
    }

    fn advance_snapshot(&mut self, budget: usize) -> Option<usize> {
        self.advance_snapshot(budget)
    }

    fn take_snapshot(&mut self) -> Result<UnsealedState, StateError> {
        self.take_snapshot()
    }

    fn abort_snapshot(&mut self) {
        self.abort_snapshot();
    }

    fn load(&mut self, group: KeyGroup, rows: &[u8], form: &StoredForm) -> Result<(), StateError> {
        self.load(group, rows, form)
    }

    fn after_chunk(&mut self, now: ProcessingTime) -> Result<(), StateError> {
        self.after_chunk(now)
    }

    fn prepare_keys(&mut self, keys: &dyn Any) -> Result<(), StateError> {
        self.prepare_keys(keys)
    }

    fn warm_keys(&self, hashes: &[KeyHash]) {
        self.warm_keys(hashes);
    }
}

/// Implements [`KeyedState`] for a state by the one field that holds its table.
macro_rules! keyed_state_by_table {
    (impl [$($params:tt)*] for $state:ty) => {
        impl<$($params)*> $crate::keyed::KeyedState for $state {
            fn descriptor(&self) -> &$crate::StateDescriptor {
                self.table.descriptor()
            }

            fn is_paged(&self) -> bool {
                self.table.is_paged()
            }

            fn withhold_writes(&mut self, withheld: bool) {
                self.table.withhold_writes(withheld);
            }

            fn used_bytes(&self) -> usize {
                self.table.used_bytes()
            }

            fn fixed_bytes(&self) -> usize {
                self.table.fixed_bytes()
            }

            fn relieve(
                &mut self,
                relief: &mut $crate::Relief,
            ) -> Result<$crate::Relieved, $crate::StateError> {
                $crate::keyed::KeyedState::relieve(&mut self.table, relief)
            }

            fn report(&self) -> $crate::StateReport {
                self.table.report()
            }

            fn begin_snapshot(&mut self, now: highwater_types::ProcessingTime) {
                self.table.begin_snapshot(now);
            }

            fn advance_snapshot(&mut self, budget: usize) -> Option<usize> {
                self.table.advance_snapshot(budget)
            }

            fn take_snapshot(&mut self) -> Result<$crate::UnsealedState, $crate::StateError> {
                self.table.take_snapshot()
            }

            fn abort_snapshot(&mut self) {
                self.table.abort_snapshot();
            }

            fn load(
                &mut self,
                group: highwater_types::KeyGroup,
                rows: &[u8],
                form: &$crate::cell::StoredForm,
            ) -> Result<(), $crate::StateError> {
                self.table.load(group, rows, form)
            }

            fn after_chunk(
                &mut self,
                now: highwater_types::ProcessingTime,
            ) -> Result<(), $crate::StateError> {
                self.table.after_chunk(now)
            }

            fn prepare_keys(
                &mut self,
                keys: &dyn std::any::Any,
            ) -> Result<(), $crate::StateError> {
                self.table.prepare_keys(keys)
            }

            fn warm_keys(&self, hashes: &[highwater_types::KeyHash]) {
                self.table.warm_keys(hashes);
            }
        }
    };
}
pub(crate) use keyed_state_by_table;

/// The part of every keyed state that is the same: bringing a chunk's keys into memory.
macro_rules! prepare_by_table {
    ($key:ident, $namespace:ident) => {
        /// Brings the keys of a chunk near: into memory, with at most one read of the store, or on the heap into the cache
        /// of the processor, which makes the accesses of a large table that follow several times cheaper.
        ///
        /// # Errors
        /// Of the kind of the store's error; `Corrupt` when a row cannot be decoded.
        #[inline]
        pub fn prepare<'a>(
            &mut self,
            rows: impl IntoIterator<Item = (highwater_types::KeyHash, &'a $key, &'a $namespace)>,
        ) -> Result<(), $crate::StateError> {
            self.table.prepare(rows)
        }

        /// Brings the keys of a chunk, all with one namespace, into memory with at most one read of the store. Does
        /// nothing on the heap, where the chunk-wise accesses look ahead themselves.
        ///
        /// # Errors
        /// Of the kind of the store's error; `Corrupt` when a row cannot be decoded.
        #[inline]
        pub fn prepare_chunk<Q: std::borrow::Borrow<$key>>(
            &mut self,
            hashes: &[highwater_types::KeyHash],
            namespace: &$namespace,
            key: impl Fn(usize) -> Q,
        ) -> Result<(), $crate::StateError> {
            self.table.prepare_chunk(hashes, namespace, key)
        }
    };
}
pub(crate) use prepare_by_table;
