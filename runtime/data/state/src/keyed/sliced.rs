//! Sliced state: one table for each namespace, for windows that many keys share.
//!
//! A window that fires is one scan and a window that closes is dropped whole, with no timer and no lookup per key. The
//! stored form is that of value state with the same types. Slices live on the heap with every backend, inside the
//! budget. For namespaces that differ from key to key (sessions) use the other states with a namespace.

use std::collections::BTreeMap;

use highwater_types::{DecodeError, Key, KeyGroup, KeyGroupRange, KeyHash, ProcessingTime, Record};

use super::{KeyedState, OpenState, StateReport};
use crate::cell::StoredForm;
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::error::{StateError, StateName};
use crate::snapshot::rows::{GroupRows, next_row};
use crate::snapshot::{SavedRows, StateHeader, UnsealedState};
use crate::table::{Namespace, StateTable, TableSetup};

/// Whether a slice that is drained in pieces holds more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// The slice is empty and gone.
    All,
    /// There are more entries.
    Part,
}

/// One table of values for each namespace.
pub struct SlicedState<K, N, V> {
    slices: BTreeMap<N, StateTable<K, (), V>>,
    /// Dropped, but still owed to the running snapshot.
    retired: Vec<StateTable<K, (), V>>,
    setup: TableSetup,
    is_saving: bool,
}

impl<K: Key, N: Namespace + Ord, V: Record> OpenState for SlicedState<K, N, V> {
    const IS_PAGEABLE: bool = false;
    const KEEPS_TTL: bool = false;

    fn open(setup: TableSetup) -> Self {
        Self {
            slices: BTreeMap::new(),
            retired: Vec::new(),
            setup,
            is_saving: false,
        }
    }

    fn shape() -> (StateKind, StateSchemas) {
        (StateKind::Value, StateSchemas::of::<K, N, V>())
    }
}

impl<K: Key, N: Namespace + Ord, V: Record> SlicedState<K, N, V> {
    /// The table of a namespace, made when absent.
    pub fn slice(&mut self, namespace: &N) -> &mut StateTable<K, (), V> {
        if !self.slices.contains_key(namespace) {
            let table = self.new_slice(namespace);
            self.slices.insert(namespace.clone(), table);
        }
        self.slices
            .get_mut(namespace)
            .expect("the slice is there or was made above")
    }

    /// The table of a namespace, if there is one.
    pub fn find_slice(&mut self, namespace: &N) -> Option<&mut StateTable<K, (), V>> {
        self.slices.get_mut(namespace)
    }

    /// The namespaces that have a table, in order.
    pub fn namespaces(&self) -> impl Iterator<Item = &N> {
        self.slices.keys()
    }

    /// The value of a key in a namespace.
    pub fn get(&mut self, hash: KeyHash, key: &K, namespace: &N) -> Option<&V> {
        self.slices.get_mut(namespace)?.get(hash, key, &())
    }

    /// Calls `visit` with every entry of a namespace, in an order fixed by the history.
    pub fn for_each(&self, namespace: &N, mut visit: impl FnMut(KeyHash, &K, &V)) {
        if let Some(table) = self.slices.get(namespace) {
            table.for_each(|hash, key, (), value| visit(hash, key, value));
        }
    }

    /// Removes up to `limit` entries of a namespace and hands them over, so that a big window fires in pieces.
    pub fn drain(
        &mut self,
        namespace: &N,
        limit: usize,
        take: impl FnMut(KeyHash, K, V),
    ) -> Drained {
        let Some(table) = self.slices.get_mut(namespace) else {
            return Drained::All;
        };
        table.drain_some(limit, take);
        if !table.is_empty() {
            return Drained::Part;
        }
        self.drop_slice(namespace);
        Drained::All
    }

    /// Drops a namespace with all its entries.
    pub fn drop_slice(&mut self, namespace: &N) {
        if let Some(table) = self.slices.remove(namespace)
            && table.is_saving()
        {
            self.retired.push(table);
        }
    }

    fn new_slice(&self, namespace: &N) -> StateTable<K, (), V> {
        let mut table = StateTable::new(TableSetup {
            uid: self.setup.uid.clone(),
            descriptor: self.setup.descriptor.clone(),
            range: self.setup.range,
            max_parallelism: self.setup.max_parallelism,
            backing: None,
        });
        let mut suffix = Vec::new();
        namespace.encode(&mut suffix);
        table.set_suffix(suffix);
        table
    }

    fn tables_mut(&mut self) -> impl Iterator<Item = &mut StateTable<K, (), V>> {
        self.slices.values_mut().chain(self.retired.iter_mut())
    }

    fn load_row(
        &mut self,
        group: KeyGroup,
        rows: &mut &[u8],
        form: &StoredForm,
    ) -> Result<(), DecodeError> {
        let (mut key, mut value) = next_row(rows)?;
        let (key, namespace) = (K::decode(&mut key)?, N::decode(&mut key)?);
        self.slice(&namespace)
            .load_entry((group, &key, &()), &mut value, form)
    }

    fn range(&self) -> KeyGroupRange {
        self.setup.range
    }
}

impl<K: Key, N: Namespace + Ord, V: Record> KeyedState for SlicedState<K, N, V> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.setup.descriptor
    }

    fn is_paged(&self) -> bool {
        false
    }

    fn withhold_writes(&mut self, _: bool) {
        // Slices live on the heap.
    }

    fn used_bytes(&self) -> usize {
        self.slices
            .values()
            .chain(&self.retired)
            .map(StateTable::used_bytes)
            .sum()
    }

    fn report(&self) -> StateReport {
        let tables = || self.slices.values().chain(&self.retired);
        StateReport {
            name: self.setup.descriptor.name.clone(),
            entries: tables().map(|table| table.len() as u64).sum(),
            bytes: self.used_bytes() as u64,
            ..StateReport::default()
        }
    }

    fn begin_snapshot(&mut self, now: ProcessingTime) {
        self.is_saving = true;
        self.slices
            .values_mut()
            .for_each(|table| table.begin_snapshot(now));
    }

    fn advance_snapshot(&mut self, mut budget: usize) -> Option<usize> {
        for table in self.tables_mut() {
            budget = table.advance_snapshot(budget)?;
        }
        Some(budget)
    }

    fn take_snapshot(&mut self) -> Result<UnsealedState, StateError> {
        if !std::mem::take(&mut self.is_saving) {
            return Err(StateError::NoSnapshot {
                uid: self.setup.uid.clone(),
            });
        }
        let mut all = GroupRows::new(self.range());
        let mut refused = Ok(());
        for table in self.tables_mut().filter(|table| table.is_saving()) {
            match table.take_snapshot().map(|saved| saved.rows) {
                Ok(SavedRows::Rows(rows)) => all.append(rows),
                Ok(SavedRows::Blocks(_) | SavedRows::InStore(_)) => {}
                Err(error) => refused = Err(error),
            }
        }
        self.retired.clear();
        refused.map(|()| UnsealedState {
            header: StateHeader::of(&self.setup.descriptor),
            rows: SavedRows::Rows(all),
        })
    }

    fn abort_snapshot(&mut self) {
        self.is_saving = false;
        self.slices
            .values_mut()
            .for_each(StateTable::abort_snapshot);
        self.retired.clear();
    }

    fn load(
        &mut self,
        group: KeyGroup,
        mut rows: &[u8],
        form: &StoredForm,
    ) -> Result<(), StateError> {
        while !rows.is_empty() {
            self.load_row(group, &mut rows, form).map_err(|source| {
                let name = StateName {
                    uid: self.setup.uid.clone(),
                    state: self.setup.descriptor.name.clone(),
                };
                StateError::Decode {
                    what: format!("a row of {name} in key group {group}"),
                    source,
                }
            })?;
        }
        Ok(())
    }

    fn after_chunk(&mut self, now: ProcessingTime) -> Result<(), StateError> {
        self.slices
            .retain(|_, table| !table.is_empty() || table.is_saving());
        self.slices
            .values_mut()
            .try_for_each(|table| table.after_chunk(now))
    }

    fn warm_keys(&self, _: &[KeyHash]) {
        // Which slices a chunk is for is known to the operator alone, and it prepares them itself.
    }
}
