//! The timers of a keyed operator in both time domains, kept in keyed state.
//!
//! An ordered index says which timer is next; a state table holds the same timers, so that a barrier costs nothing and
//! a rescale moves timers with their keys. The rule: a timer is in both or in neither.

use highwater_state::keyed::OpenState;
use highwater_state::{KeyedStateBackend, StateHandle, StateTable};
use highwater_time::{Timer, Timers};
use highwater_types::{Key, KeyHash};

use crate::error::OperatorError;

/// The timers of one time domain. A time is the namespace of its timer in the table.
pub(crate) struct StoredTimers<K> {
    index: Timers<K, ()>,
    table: StateHandle<StateTable<K, i64, ()>>,
}

impl<K: Key> StoredTimers<K> {
    /// Opens the timers that are stored under `name`.
    pub(crate) fn open(backend: &mut KeyedStateBackend, name: &str) -> Result<Self, OperatorError> {
        let described = StateTable::<K, i64, ()>::describe(name);
        let table: StateHandle<StateTable<K, i64, ()>> = backend.open(described)?;
        let mut index = Timers::new();
        backend.get(table).for_each(|hash, key, &time, ()| {
            index.register(hash, key, &(), time);
        });
        Ok(Self { index, table })
    }

    /// Sets a timer, unless it is set already.
    pub(crate) fn register(
        &mut self,
        backend: &mut KeyedStateBackend,
        hash: KeyHash,
        key: &K,
        time: i64,
    ) {
        let table = backend.get(self.table);
        // Most registrations repeat one; the table knows that sooner than the index.
        if table.get(hash, key, &time).is_none() {
            table.insert(hash, key, &time, ());
            self.index.register(hash, key, &(), time);
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
        if backend.get(self.table).take(hash, key, &time).is_some() {
            self.index.delete(hash, key, &(), time);
        }
    }

    /// Takes the first timer that is due at `upto`.
    pub(crate) fn pop_due(
        &mut self,
        backend: &mut KeyedStateBackend,
        upto: i64,
    ) -> Option<Timer<K, ()>> {
        let timer = self.index.pop_due(upto)?;
        backend
            .get(self.table)
            .take(timer.hash, &timer.key, &timer.time);
        Some(timer)
    }

    /// The keys of the timers that are due at `upto`, in order of firing.
    pub(crate) fn due(&self, upto: i64) -> impl Iterator<Item = (KeyHash, &K)> {
        self.index.due(upto)
    }

    /// The time of the first timer.
    pub(crate) fn peek_time(&self) -> Option<i64> {
        self.index.peek_time()
    }

    /// How many timers wait.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}
