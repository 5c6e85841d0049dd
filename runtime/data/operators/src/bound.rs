//! A keyed state bound to the key of the record or timer that is being handled: what user functions read and write.

use highwater_state::keyed::MapKey;
use highwater_state::{
    AggregatingState, Aggregation, KeyContext, ListState, MapState, ReducingState, Reduction,
    ValueState,
};
use highwater_types::{Key, Record};

/// One state of one key.
pub struct Bound<'a, K, S> {
    state: &'a mut S,
    at: KeyContext<'a, K>,
}

impl<'a, K, S> Bound<'a, K, S> {
    pub(crate) const fn new(state: &'a mut S, at: KeyContext<'a, K>) -> Self {
        Self { state, at }
    }

    /// The state and the key, for calls that are not here.
    pub fn parts(&mut self) -> (&mut S, KeyContext<'a, K>) {
        (self.state, self.at)
    }
}

impl<K: Key, V: Record> Bound<'_, K, ValueState<K, (), V>> {
    /// The value, or `None` when absent or expired.
    #[inline]
    pub fn get(&mut self) -> Option<&V> {
        self.state.get(self.at)
    }

    /// Sets the value.
    #[inline]
    pub fn set(&mut self, value: V) {
        self.state.set(self.at, value);
    }

    /// Changes the value in place, made by `init` when absent or expired.
    #[inline]
    pub fn update<R>(&mut self, init: impl FnOnce() -> V, change: impl FnOnce(&mut V) -> R) -> R {
        self.state.update(self.at, init, change)
    }

    /// Removes the value. Returns it unless it was absent or expired.
    pub fn take(&mut self) -> Option<V> {
        self.state.take(self.at)
    }

    /// Removes the value.
    pub fn clear(&mut self) {
        self.state.clear(self.at);
    }
}

impl<K: Key, T: Record> Bound<'_, K, ListState<K, (), T>> {
    /// The elements in order of addition.
    pub fn get(&mut self) -> &[T] {
        self.state.get(self.at)
    }

    /// Adds an element.
    pub fn add(&mut self, item: T) {
        self.state.add(self.at, item);
    }

    /// Adds elements in order.
    pub fn add_all(&mut self, items: impl IntoIterator<Item = T>) {
        self.state.add_all(self.at, items);
    }

    /// Replaces the list.
    pub fn update(&mut self, items: impl IntoIterator<Item = T>) {
        self.state.update(self.at, items);
    }

    /// Removes the list. Returns its elements.
    pub fn take(&mut self) -> Vec<T> {
        self.state.take(self.at)
    }

    /// Removes the list.
    pub fn clear(&mut self) {
        self.state.clear(self.at);
    }
}

impl<K: Key, M: MapKey, V: Record> Bound<'_, K, MapState<K, (), M, V>> {
    /// The value of an entry, or `None` when absent or expired.
    pub fn get(&mut self, map_key: &M) -> Option<&V> {
        self.state.get(self.at, map_key)
    }

    /// Whether the entry is there.
    pub fn contains(&mut self, map_key: &M) -> bool {
        self.state.contains(self.at, map_key)
    }

    /// Sets the value of an entry.
    pub fn put(&mut self, map_key: M, value: V) {
        self.state.put(self.at, map_key, value);
    }

    /// Changes the value of an entry in place, made by `init` when absent or expired.
    pub fn update<R>(
        &mut self,
        map_key: &M,
        init: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        self.state.update(self.at, map_key, init, change)
    }

    /// Removes an entry. Returns its value unless it was absent or expired.
    pub fn remove(&mut self, map_key: &M) -> Option<V> {
        self.state.remove(self.at, map_key)
    }

    /// The entries, in no specified order.
    pub fn iter(&mut self) -> impl Iterator<Item = (&M, &V)> {
        self.state.iter(self.at)
    }

    /// Whether there is no entry.
    pub fn is_empty(&mut self) -> bool {
        self.state.is_empty(self.at)
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.state.clear(self.at);
    }
}

impl<K: Key, V: Record, F: Reduction<V>> Bound<'_, K, ReducingState<K, (), V, F>> {
    /// The merged value, or `None` when nothing was added or it is expired.
    pub fn get(&mut self) -> Option<&V> {
        self.state.get(self.at)
    }

    /// Merges a value in. Returns the merged value.
    pub fn add(&mut self, value: V) -> &V {
        self.state.add(self.at, value)
    }

    /// Removes the value.
    pub fn clear(&mut self) {
        self.state.clear(self.at);
    }
}

impl<K: Key, A: Aggregation> Bound<'_, K, AggregatingState<K, (), A>> {
    /// What was added so far comes to, or `None` when nothing was added or it is expired.
    pub fn get(&mut self) -> Option<A::Output> {
        self.state.get(self.at)
    }

    /// Adds one input.
    pub fn add(&mut self, input: &A::Input) {
        self.state.add(self.at, input);
    }

    /// Removes the accumulator.
    pub fn clear(&mut self) {
        self.state.clear(self.at);
    }
}
