//! Map state: a map for each key and namespace; entries expire one by one.
//!
//! The order of iteration is fixed by the history but not specified; no output may rely on it.
//!
//! Source: Flink `MapState`, `TtlMapState`.

use std::hash::Hash;

use highwater_types::{Key, Record};

use super::{OpenState, keyed_state_by_table, prepare_by_table};
use crate::cell::MapCell;
use crate::context::KeyContext;
use crate::descriptor::{StateKind, StateSchemas};
use crate::table::{Namespace, Position, StateTable, TableSetup};
use crate::ttl::TtlConfig;

/// A map for each key and namespace. Absent and empty are the same.
pub struct MapState<K, N, M, V> {
    table: StateTable<K, N, MapCell<M, V>>,
}

/// What may key an entry of map state.
pub trait MapKey: Record + Eq + Hash {}

impl<M: Record + Eq + Hash> MapKey for M {}

impl<K: Key, N: Namespace, M: MapKey, V: Record> OpenState for MapState<K, N, M, V> {
    fn open(setup: TableSetup) -> Self {
        Self {
            table: StateTable::new(setup),
        }
    }

    fn shape() -> (StateKind, StateSchemas) {
        let schemas = StateSchemas {
            key: K::schema(),
            namespace: N::schema(),
            values: vec![M::schema(), V::schema()],
        };
        (StateKind::Map, schemas)
    }
}

impl<K: Key, N: Namespace, M: MapKey, V: Record> MapState<K, N, M, V> {
    prepare_by_table!(K, N);

    /// The value of an entry, or `None` when absent or expired.
    pub fn get(&mut self, at: KeyContext<'_, K, N>, map_key: &M) -> Option<&V> {
        let (position, entry) = self.find(&at, map_key)?;
        if !self.is_visible(position, entry, &at) {
            self.remove_entry(position, entry);
            return None;
        }
        if self.ttl().is_some_and(|ttl| ttl.refreshes_on_read()) {
            self.table
                .modify(position, |map| map.restamp(entry, at.now));
        }
        Some(&self.table.cell(position).entries()[entry].1)
    }

    /// Whether the entry is there and not expired.
    pub fn contains(&mut self, at: KeyContext<'_, K, N>, map_key: &M) -> bool {
        self.get(at, map_key).is_some()
    }

    /// Sets the value of an entry.
    pub fn put(&mut self, at: KeyContext<'_, K, N>, map_key: M, value: V) {
        self.table.note_access();
        let position = self.find_or_insert(&at);
        let stamp = self.table.is_timed().then_some(at.now);
        self.table.modify(position, |map| match map.find(&map_key) {
            Some(entry) => {
                map.replace(entry, value);
                map.restamp(entry, at.now);
            }
            None => {
                map.push(map_key, value, stamp);
            }
        });
    }

    /// Changes the value of an entry in place, made by `init` when absent or expired.
    pub fn update<R>(
        &mut self,
        at: KeyContext<'_, K, N>,
        map_key: &M,
        init: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        if self.get(at, map_key).is_none() {
            self.put(at, map_key.clone(), init());
        }
        let position = self.find_or_insert(&at);
        self.table.modify(position, |map| {
            let entry = map.find(map_key).expect("the entry was found or put above");
            map.restamp(entry, at.now);
            map.modify(entry, change)
        })
    }

    /// Removes an entry. Returns its value unless it was absent or expired.
    pub fn remove(&mut self, at: KeyContext<'_, K, N>, map_key: &M) -> Option<V> {
        let (position, entry) = self.find(&at, map_key)?;
        let is_visible = self.is_visible(position, entry, &at);
        let value = self.remove_entry(position, entry);
        is_visible.then_some(value)
    }

    /// The entries that are not expired.
    pub fn iter(&mut self, at: KeyContext<'_, K, N>) -> impl Iterator<Item = (&M, &V)> {
        let ttl = self.ttl();
        let position = self.table.find(at.hash, at.key, at.namespace);
        if let Some(position) = position {
            self.table.note_access();
            if ttl.is_some_and(|ttl| ttl.refreshes_on_read()) {
                let visible = |map: &MapCell<M, V>, entry| is_seen(ttl, map, entry, &at);
                self.table.modify(position, |map| {
                    for entry in 0..map.entries().len() {
                        if visible(map, entry) {
                            map.restamp(entry, at.now);
                        }
                    }
                });
            }
        }
        let map = position.map(|position| self.table.cell(position));
        let now = at.now;
        map.into_iter().flat_map(move |map| {
            let seen = move |entry: usize| {
                let stamp = map.stamp(entry);
                ttl.zip(stamp)
                    .is_none_or(|(ttl, stamp)| ttl.is_visible(stamp, now))
            };
            let entries = map.entries().iter().enumerate();
            entries
                .filter(move |&(entry, _)| seen(entry))
                .map(|(_, (key, value))| (key, value))
        })
    }

    /// Whether no entry is visible.
    pub fn is_empty(&mut self, at: KeyContext<'_, K, N>) -> bool {
        let ttl = self.ttl();
        let Some(position) = self.table.find(at.hash, at.key, at.namespace) else {
            return true;
        };
        let map = self.table.cell(position);
        !(0..map.entries().len()).any(|entry| is_seen(ttl, map, entry, &at))
    }

    /// Removes the map.
    pub fn clear(&mut self, at: KeyContext<'_, K, N>) {
        if let Some(position) = self.table.find(at.hash, at.key, at.namespace) {
            self.table.remove(position);
        }
    }

    fn ttl(&self) -> Option<TtlConfig> {
        self.table.descriptor().ttl
    }

    fn find(&mut self, at: &KeyContext<'_, K, N>, map_key: &M) -> Option<(Position, usize)> {
        let position = self.table.find(at.hash, at.key, at.namespace)?;
        self.table.note_access();
        let entry = self.table.cell(position).find(map_key)?;
        Some((position, entry))
    }

    fn find_or_insert(&mut self, at: &KeyContext<'_, K, N>) -> Position {
        let place = (at.hash, at.key, at.namespace);
        self.table
            .find(at.hash, at.key, at.namespace)
            .unwrap_or_else(|| self.table.insert_new(place, MapCell::new(), at.now))
    }

    fn is_visible(&self, position: Position, entry: usize, at: &KeyContext<'_, K, N>) -> bool {
        is_seen(self.ttl(), self.table.cell(position), entry, at)
    }

    /// Removes an entry, and the map with its last one.
    fn remove_entry(&mut self, position: Position, entry: usize) -> V {
        if self.table.cell(position).entries().len() == 1 {
            return self.table.remove(position).remove(entry).1;
        }
        self.table.modify(position, |map| map.remove(entry).1)
    }
}

fn is_seen<K, N, M: MapKey, V: Record>(
    ttl: Option<TtlConfig>,
    map: &MapCell<M, V>,
    entry: usize,
    at: &KeyContext<'_, K, N>,
) -> bool {
    ttl.zip(map.stamp(entry))
        .is_none_or(|(ttl, stamp)| ttl.is_visible(stamp, at.now))
}

keyed_state_by_table!(
    impl [K: Key, N: Namespace, M: MapKey, V: Record] for MapState<K, N, M, V>
);
