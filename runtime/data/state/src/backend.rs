//! The keyed state of one operator subtask: opens states, saves and restores them together.
//!
//! Owned by the operator's task on its slot thread. Handles are indices with a type, so states can be borrowed one by
//! one or several at once without a lock. [`KeyedStateBackend::after_chunk`] must be called after every chunk: it is where
//! errors, the byte budget, cleanup and eviction come to bear.

mod relief;
mod snapshot;

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use highwater_types::{
    Key, KeyGroup, KeyGroupRange, KeyHash, MaxParallelism, OperatorUid, ProcessingTime,
    SubtaskIndex,
};

use self::snapshot::Running;
pub use self::snapshot::SnapshotProgress;
use crate::backing::Backing;
use crate::budget::{MemoryBudget, Share};
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::error::{BackingError, StateError, StateName};
use crate::keyed::{
    AggregatingState, Aggregation, ChunkKeys, KeyedState, OpenState, ReducingState, Reduction,
    StateReport,
};
use crate::restore::{OwnFiles, OwnRows, Restored, RestoredSnapshot};
use crate::store::{StateStore, Store, StorePlace, StoreReport};
use crate::table::{Namespace, StoreBehind, TableSetup};

/// The local store of a subtask.
enum LocalStore {
    /// Not needed yet; the files that it will go on from.
    Closed(Option<OwnFiles>),
    Open(Box<dyn StateStore>),
}

/// What a backend is made of.
pub struct BackendSetup {
    /// The operator.
    pub uid: OperatorUid,
    /// The subtask.
    pub subtask: SubtaskIndex,
    /// The key groups of this subtask.
    pub range: KeyGroupRange,
    /// The key groups of the operator.
    pub max_parallelism: MaxParallelism,
    /// What all state of the worker may hold.
    pub budget: MemoryBudget,
    /// Where state rests.
    pub store: Store,
}

/// Names an open state of one backend.
pub struct StateHandle<S> {
    index: usize,
    state: PhantomData<fn() -> S>,
}

impl<S> Clone for StateHandle<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for StateHandle<S> {}

impl<S> fmt::Debug for StateHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateHandle({})", self.index)
    }
}

/// What happens to stored states that nobody opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// Refuses them, except for these names, which are dropped.
    RefuseExcept(BTreeSet<String>),
    /// Keeps them: they can be opened later, and go into every snapshot as they are.
    Keep,
    /// Drops all of them.
    Drop,
}

impl Unmatched {
    /// Refuses any stored state that nobody opened.
    pub const fn refuse() -> Self {
        Self::RefuseExcept(BTreeSet::new())
    }
}

/// The keyed state of one operator subtask.
pub struct KeyedStateBackend {
    setup: BackendSetup,
    local: LocalStore,
    states: Vec<Box<dyn KeyedState>>,
    restored: Restored,
    running: Option<Running>,
    /// What is charged to the budget.
    share: Share,
    /// The state that gives memory back next.
    relieved: usize,
    is_withheld: bool,
}

impl KeyedStateBackend {
    /// A backend without state.
    pub fn new(setup: BackendSetup) -> Self {
        let share = setup.budget.join();
        Self {
            setup,
            share,
            relieved: 0,
            is_withheld: false,
            local: LocalStore::Closed(None),
            states: Vec::new(),
            restored: Restored::default(),
            running: None,
        }
    }

    /// A backend that opens its states from the snapshots of a checkpoint, taken at any parallelism.
    ///
    /// `snapshots` are those whose ranges meet the own range, or all. `now` is the last access of values stored without
    /// one. Rows are read and checked when their state is opened; end with [`KeyedStateBackend::finish_restore`].
    ///
    /// # Errors
    /// `Invalid` when the maximum parallelism changed, or when a store wrote it that cannot be read here; `Corrupt` when files
    /// are missing or overlap; of the store's kind when it cannot read its files.
    pub fn restore(
        setup: BackendSetup,
        snapshots: Vec<RestoredSnapshot>,
        now: ProcessingTime,
    ) -> Result<Self, StateError> {
        let groups = (setup.range, setup.max_parallelism);
        let stores = match &setup.store {
            Store::Heap { reads } => (reads.as_deref(), None),
            Store::Local { factory } => (Some(factory.as_ref()), Some(factory.name())),
        };
        let (restored, files) = Restored::collect(&setup.uid, groups, snapshots, stores, now)?;
        let mut backend = Self::new(setup);
        backend.restored = restored;
        backend.local = LocalStore::Closed(files);
        Ok(backend)
    }

    /// The operator.
    pub const fn uid(&self) -> &OperatorUid {
        &self.setup.uid
    }

    /// The key groups of this subtask.
    pub const fn range(&self) -> KeyGroupRange {
        self.setup.range
    }

    /// The key groups of the operator.
    pub const fn max_parallelism(&self) -> MaxParallelism {
        self.setup.max_parallelism
    }

    /// Opens a state, with what the restored snapshot holds of it.
    ///
    /// # Errors
    /// `Invalid` when the stored schemas do not fit, `Corrupt` when stored bytes are damaged, `Exhausted` when it does not
    /// fit the budget, `Bug` when the name is open or the descriptor is of another type.
    pub fn open<S: OpenState>(
        &mut self,
        descriptor: StateDescriptor,
    ) -> Result<StateHandle<S>, StateError> {
        let (kind, schemas) = S::shape();
        let is_timed = descriptor.ttl.is_some();
        self.check_shape(&descriptor, kind, &schemas)?;
        if is_timed && !S::KEEPS_TTL {
            return Err(StateError::Descriptor {
                name: self.name(&descriptor.name),
                described: "state with a time to live".to_owned(),
                opened: "a table that keeps none".to_owned(),
            });
        }
        let setup = self.table_setup(descriptor, S::IS_PAGEABLE)?;
        self.add(S::open(setup))
    }

    /// Opens a reducing state.
    ///
    /// # Errors
    /// As [`KeyedStateBackend::open`].
    pub fn open_reducing<K, N, V, F>(
        &mut self,
        descriptor: StateDescriptor,
        reduction: F,
    ) -> Result<StateHandle<ReducingState<K, N, V, F>>, StateError>
    where
        K: Key,
        N: Namespace,
        V: highwater_types::Record,
        F: Reduction<V>,
    {
        let schemas = StateSchemas::of::<K, N, V>();
        self.check_shape(&descriptor, StateKind::Reducing, &schemas)?;
        let setup = self.table_setup(descriptor, true)?;
        self.add(ReducingState::new(setup, reduction))
    }

    /// Opens an aggregating state.
    ///
    /// # Errors
    /// As [`KeyedStateBackend::open`].
    pub fn open_aggregating<K, N, A>(
        &mut self,
        descriptor: StateDescriptor,
        aggregation: A,
    ) -> Result<StateHandle<AggregatingState<K, N, A>>, StateError>
    where
        K: Key,
        N: Namespace,
        A: Aggregation,
    {
        let schemas = StateSchemas::of::<K, N, A::Accumulator>();
        self.check_shape(&descriptor, StateKind::Aggregating, &schemas)?;
        let setup = self.table_setup(descriptor, true)?;
        self.add(AggregatingState::new(setup, aggregation))
    }

    /// An open state. Outside the loop over a chunk, an access costs nothing more than a direct call.
    ///
    /// # Panics
    /// If the handle was made by another backend.
    #[inline]
    pub fn get<S: KeyedState>(&mut self, handle: StateHandle<S>) -> &mut S {
        downcast(&mut *self.states[handle.index])
    }

    /// Two open states at once.
    ///
    /// # Panics
    /// If the handles are the same or were made by another backend.
    pub fn get_two<S: KeyedState, T: KeyedState>(
        &mut self,
        handles: (StateHandle<S>, StateHandle<T>),
    ) -> (&mut S, &mut T) {
        let [first, second] = self
            .states
            .get_disjoint_mut([handles.0.index, handles.1.index])
            .expect("two different handles of this backend");
        (downcast(&mut **first), downcast(&mut **second))
    }

    /// Takes the raw bytes that were saved under `name`, by key group in order; none when there are none.
    ///
    /// # Errors
    /// `Corrupt` when they are damaged; `Invalid` when the name is that of a typed state.
    pub fn take_raw(&mut self, name: &str) -> Result<Vec<(KeyGroup, Vec<u8>)>, StateError> {
        self.restored.take_raw(&self.setup.uid, name)
    }

    /// The stored states that nobody has opened, with the rows of each where that is known without reading them.
    pub fn unmatched(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        self.restored.unmatched()
    }

    /// Ends the restore: all states of the job are open now.
    ///
    /// # Errors
    /// `Invalid`, with the names, when stored states were not opened and `unmatched` refuses them.
    pub fn finish_restore(&mut self, unmatched: &Unmatched) -> Result<(), StateError> {
        match unmatched {
            Unmatched::RefuseExcept(dropped) => {
                let own = self.restored.finish(&self.setup.uid, dropped)?;
                self.drop_own(&own)
            }
            Unmatched::Keep => {
                self.restored.keep_unmatched(&self.setup.uid)?;
                if self.restored.holds_own() {
                    self.local_store()?;
                }
                Ok(())
            }
            Unmatched::Drop => {
                let own = self.restored.drop_unmatched();
                self.drop_own(&own)
            }
        }
    }

    /// Removes states that nobody opens from the own store.
    fn drop_own(&mut self, names: &[String]) -> Result<(), StateError> {
        for name in names {
            let dropped = self.local_store()?.drop_state(name);
            dropped.map_err(|source| store_error(&self.setup.uid, "drop a state of", source))?;
        }
        Ok(())
    }

    /// The local store, opened when it is first needed.
    fn local_store(&mut self) -> Result<&mut dyn StateStore, StateError> {
        if let LocalStore::Closed(files) = &mut self.local {
            let Store::Local { factory } = &self.setup.store else {
                unreachable!("only a backend with a local store opens one");
            };
            let range = self.setup.range;
            let files = files.take();
            let place = StorePlace {
                uid: self.setup.uid.clone(),
                subtask: self.setup.subtask,
                range,
                held: files.as_ref().map_or(range, |own| own.held),
            };
            let opened = match files {
                Some(own) => factory.reopen(&place, own.files),
                None => factory.create(&place),
            };
            let opened = opened.map_err(|source| store_error(&place.uid, "open", source))?;
            self.local = LocalStore::Open(opened);
        }
        match &mut self.local {
            LocalStore::Open(store) => Ok(store.as_mut()),
            LocalStore::Closed(_) => unreachable!("it was opened above"),
        }
    }

    /// Ends a chunk: reports errors of accesses, cleans and evicts in pieces, charges the budget.
    ///
    /// # Errors
    /// The first error of an access since the last call, or of eviction; `Exhausted` when what cannot leave memory is above
    /// the budget. The attempt must fail: what was emitted since the last checkpoint may be wrong.
    pub fn after_chunk(&mut self, now: ProcessingTime) -> Result<(), StateError> {
        if let LocalStore::Open(store) = &mut self.local {
            store.set_time(now);
        }
        for state in &mut self.states {
            state.after_chunk(now)?;
        }
        self.charge()?;
        self.relieve()
    }

    /// Whether a local store lies behind the states: memory is then a cache.
    pub const fn is_local(&self) -> bool {
        matches!(self.setup.store, Store::Local { .. })
    }

    /// Brings what the states hold of the keys of a chunk into memory, with one read of the store for each state that is
    /// likely to be asked: for operators whose function decides which state it asks. Which are likely is learned from what
    /// was asked before.
    ///
    /// # Errors
    /// Of the kind of the store's error; `Corrupt` when a row cannot be decoded.
    pub fn prepare_keys<K: Key>(&mut self, keys: &ChunkKeys<K>) -> Result<(), StateError> {
        let mut states = self.states.iter_mut();
        states.try_for_each(|state| state.prepare_keys(keys))
    }

    /// Brings what the states hold of the keys of a chunk into the cache of the processor: for operators whose function
    /// decides which state it asks. Changes nothing but the time of the accesses that follow.
    pub fn warm_keys(&self, hashes: &[KeyHash]) {
        self.states.iter().for_each(|state| state.warm_keys(hashes));
    }

    /// Bytes of memory that the states take.
    pub fn used_bytes(&self) -> u64 {
        self.states
            .iter()
            .map(|state| state.used_bytes() as u64)
            .sum()
    }

    /// What each state holds and did, in order of opening.
    pub fn reports(&self) -> Vec<StateReport> {
        self.states.iter().map(|state| state.report()).collect()
    }

    /// What the local store takes and did; `None` when there is none.
    pub fn store_report(&self) -> Option<StoreReport> {
        match &self.local {
            LocalStore::Open(store) => Some(store.report()),
            LocalStore::Closed(_) => None,
        }
    }

    fn table_setup(
        &mut self,
        descriptor: StateDescriptor,
        is_pageable: bool,
    ) -> Result<TableSetup, StateError> {
        let backing = match &self.setup.store {
            Store::Local { .. } if is_pageable => Some(StoreBehind {
                rows: self.open_backing(&descriptor)?,
                is_empty: !self.restored.holds(&descriptor.name),
            }),
            _ => None,
        };
        Ok(TableSetup {
            uid: self.setup.uid.clone(),
            descriptor,
            range: self.setup.range,
            max_parallelism: self.setup.max_parallelism,
            backing,
        })
    }

    fn open_backing(
        &mut self,
        descriptor: &StateDescriptor,
    ) -> Result<Box<dyn Backing>, StateError> {
        let name = self.name(&descriptor.name);
        let opened = self.local_store()?.open(descriptor);
        opened.map_err(|source| StateError::backing(name, "open", source))
    }

    fn check_shape(
        &self,
        descriptor: &StateDescriptor,
        kind: StateKind,
        schemas: &StateSchemas,
    ) -> Result<(), StateError> {
        if self
            .states
            .iter()
            .any(|state| state.descriptor().name == descriptor.name)
        {
            return Err(StateError::AlreadyOpen(self.name(&descriptor.name)));
        }
        if descriptor.kind == kind && descriptor.schemas == *schemas {
            return Ok(());
        }
        let opened = StateDescriptor::new(&descriptor.name, kind, schemas.clone());
        Err(StateError::Descriptor {
            name: self.name(&descriptor.name),
            described: descriptor.shape(),
            opened: opened.shape(),
        })
    }

    fn add<S: KeyedState>(&mut self, mut state: S) -> Result<StateHandle<S>, StateError> {
        let mut restored = std::mem::take(&mut self.restored);
        let (uid, descriptor) = (self.setup.uid.clone(), state.descriptor().clone());
        let mut own = OwnState {
            backend: self,
            descriptor,
        };
        let loaded = restored.load(&uid, &mut state, &mut own);
        self.restored = restored;
        loaded?;
        self.states.push(Box::new(state));
        self.charge()?;
        Ok(StateHandle {
            index: self.states.len() - 1,
            state: PhantomData,
        })
    }

    /// Charges the bytes of all states to the budget.
    fn charge(&mut self) -> Result<(), StateError> {
        let (held, before) = (self.used_bytes(), self.share.held());
        let fixed = |state: &dyn KeyedState| state.fixed_bytes() as u64;
        let all_fixed = self.states.iter().map(|state| fixed(state.as_ref())).sum();
        self.share.charge(held, all_fixed);
        let (in_all, limit) = (self.setup.budget.fixed(), self.setup.budget.limit());
        if in_all <= limit || held <= before {
            return Ok(());
        }
        let largest = self
            .states
            .iter()
            .max_by_key(|state| fixed(state.as_ref()))
            .map_or(("", 0), |state| {
                (&state.descriptor().name, fixed(state.as_ref()))
            });
        Err(StateError::Budget {
            name: self.name(largest.0),
            held: largest.1,
            used: in_all,
            budget: limit,
        })
    }

    fn name(&self, state: &str) -> StateName {
        StateName {
            uid: self.setup.uid.clone(),
            state: state.to_owned(),
        }
    }
}

/// The rows of a state in the own store, for a restore.
struct OwnState<'a> {
    backend: &'a mut KeyedStateBackend,
    descriptor: StateDescriptor,
}

impl OwnRows for OwnState<'_> {
    fn open(&mut self) -> Result<Box<dyn Backing>, StateError> {
        self.backend.open_backing(&self.descriptor)
    }

    fn remove(&mut self) -> Result<(), StateError> {
        let name = self.descriptor.name.clone();
        self.backend.drop_own(&[name])
    }
}

fn store_error(uid: &OperatorUid, operation: &'static str, source: BackingError) -> StateError {
    StateError::Store {
        uid: uid.clone(),
        operation,
        kind: source.kind(),
        source,
    }
}

#[inline]
fn downcast<S: KeyedState>(state: &mut dyn KeyedState) -> &mut S {
    (state as &mut dyn Any)
        .downcast_mut()
        .expect("a handle is used with the backend that made it")
}

#[cfg(test)]
mod local_tests;
#[cfg(test)]
mod tests;
