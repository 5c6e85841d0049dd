//! The timers of a keyed operator in one time domain, kept in keyed state.
//!
//! On the heap an ordered index says which timer is next; a state table holds the same timers, so that a barrier costs nothing
//! and a rescale moves timers with their keys. The rule: a timer is in both or in neither. With a local store the timers are rows
//! of it in order of firing, and only the near future is in memory. Both fire in the same order, and store the same.

use highwater_state::keyed::OpenState;
use highwater_state::{KeyedStateBackend, StateHandle, StateTable, TimerState};
use highwater_time::{Timer, Timers};
use highwater_types::{Key, KeyHash};

use crate::error::OperatorError;

/// The timers of one time domain. A time is the namespace of its timer in state.
pub(crate) enum StoredTimers<K> {
    /// All in memory.
    Heap {
        index: Timers<K, ()>,
        table: StateHandle<StateTable<K, i64, ()>>,
    },
    /// Over a local store.
    Local {
        state: StateHandle<TimerState<K>>,
        /// The time of the first timer.
        next: Option<i64>,
        /// How many are in memory.
        near: usize,
    },
}

impl<K: Key> StoredTimers<K> {
    /// Opens the timers that are stored under `name`.
    pub(crate) fn open(backend: &mut KeyedStateBackend, name: &str) -> Result<Self, OperatorError> {
        if backend.is_local() {
            let state = backend.open::<TimerState<K>>(TimerState::<K>::describe(name))?;
            let timers = backend.get(state);
            return Ok(Self::Local {
                next: timers.peek_time(),
                near: timers.len(),
                state,
            });
        }
        let described = StateTable::<K, i64, ()>::describe(name);
        let table: StateHandle<StateTable<K, i64, ()>> = backend.open(described)?;
        let mut index = Timers::new();
        backend.get(table).for_each(|hash, key, &time, ()| {
            index.register(hash, key, &(), time);
        });
        Ok(Self::Heap { index, table })
    }

    /// Sets a timer, unless it is set already.
    pub(crate) fn register(
        &mut self,
        backend: &mut KeyedStateBackend,
        hash: KeyHash,
        key: &K,
        time: i64,
    ) {
        match self {
            Self::Heap { index, table } => {
                let table = backend.get(*table);
                // Most registrations repeat one; the table knows that sooner than the index.
                if table.get(hash, key, &time).is_none() {
                    table.insert(hash, key, &time, ());
                    index.register(hash, key, &(), time);
                }
            }
            Self::Local { state, next, near } => {
                let timers = backend.get(*state);
                timers.register(hash, key, time);
                (*next, *near) = (timers.peek_time(), timers.len());
            }
        }
    }

    /// Takes a timer back, if it is set.
    pub(crate) fn delete(
        &mut self,
        backend: &mut KeyedStateBackend,
        hash: KeyHash,
        key: &K,
        time: i64,
    ) {
        match self {
            Self::Heap { index, table } => {
                if backend.get(*table).take(hash, key, &time).is_some() {
                    index.delete(hash, key, &(), time);
                }
            }
            Self::Local { state, next, near } => {
                let timers = backend.get(*state);
                timers.delete(hash, key, time);
                (*next, *near) = (timers.peek_time(), timers.len());
            }
        }
    }

    /// Calls `visit` with the keys of up to `limit` of the timers that are due at `upto`. With a local store only: elsewhere
    /// there is nothing to bring near.
    pub(crate) fn visit_due(
        &self,
        backend: &mut KeyedStateBackend,
        (upto, limit): (i64, usize),
        visit: impl FnMut(KeyHash, K),
    ) {
        if let Self::Local { state, .. } = self {
            backend.get(*state).visit_due(upto, limit, visit);
        }
    }

    /// Takes the first timer that is due at `upto`. An error of the store is that of the end of the chunk.
    pub(crate) fn pop_due(
        &mut self,
        backend: &mut KeyedStateBackend,
        upto: i64,
    ) -> Option<Timer<K, ()>> {
        match self {
            Self::Heap { index, table } => {
                let timer = index.pop_due(upto)?;
                backend
                    .get(*table)
                    .take(timer.hash, &timer.key, &timer.time);
                Some(timer)
            }
            Self::Local { state, next, near } => {
                let timers = backend.get(*state);
                let popped = timers.pop_due(upto);
                (*next, *near) = (timers.peek_time(), timers.len());
                let (time, hash, key) = popped?;
                Some(Timer {
                    time,
                    hash,
                    key,
                    namespace: (),
                })
            }
        }
    }

    /// The time of the first timer.
    pub(crate) fn peek_time(&self) -> Option<i64> {
        match self {
            Self::Heap { index, .. } => index.peek_time(),
            Self::Local { next, .. } => *next,
        }
    }

    /// How many timers wait: on the heap all, with a local store those that are in memory, at least one if there is one.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Heap { index, .. } => index.len(),
            Self::Local { near, .. } => *near,
        }
    }
}
