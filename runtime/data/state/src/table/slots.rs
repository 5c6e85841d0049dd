//! The slots of one sub-table: a row of places for entries, laid out by cache lines.
//!
//! Called by the sub-table only. A lookup in a large table waits for one cache line, so no more of them may be touched
//! than an entry fills: slots come in groups whose memory begins at a line, and an entry of a size that divides a line
//! never lies across two.

use prefetch_index::prefetch_index;

use super::sub_table::Entry;

/// Slots of a group: of eight entries of whole words no byte is lost to the alignment.
const GROUP: usize = 8;

/// Eight slots, from the beginning of a cache line on.
#[derive(Debug)]
#[repr(align(64))]
struct Group<K, N, V>([Option<Entry<K, N, V>>; GROUP]);

impl<K, N, V> Default for Group<K, N, V> {
    fn default() -> Self {
        Self([const { None }; GROUP])
    }
}

#[derive(Debug)]
pub(super) struct Slots<K, N, V>(Vec<Group<K, N, V>>);

impl<K, N, V> Slots<K, N, V> {
    /// Bytes of memory that a slot takes, the alignment of its group included.
    pub(super) const SLOT_BYTES: usize = size_of::<Group<K, N, V>>() / GROUP;

    /// No slots, and no memory.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// At least `count` empty slots.
    pub(super) fn with_room(count: usize) -> Self {
        let groups = count.div_ceil(GROUP);
        let mut slots = Vec::with_capacity(groups);
        slots.resize_with(groups, Group::default);
        Self(slots)
    }

    /// Adds empty slots until there are `count`.
    pub(super) fn grow(&mut self, count: usize) {
        let groups = count.div_ceil(GROUP).max(self.0.len());
        // Not the double, which a vector would take.
        self.0.reserve_exact(groups - self.0.len());
        self.0.resize_with(groups, Group::default);
    }

    /// How many slots, empty ones included.
    pub(super) const fn len(&self) -> usize {
        self.0.len() * GROUP
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<&Entry<K, N, V>> {
        self.0.get(at / GROUP)?.0[at % GROUP].as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Entry<K, N, V>> {
        self.0.get_mut(at / GROUP)?.0[at % GROUP].as_mut()
    }

    /// Asks memory for a slot, without waiting for it.
    #[inline]
    pub(super) fn ask(&self, at: usize) {
        if let Some(group) = self.0.get(at / GROUP) {
            prefetch_index(&group.0, at % GROUP);
        }
    }

    /// Puts an entry into a slot.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    pub(super) fn put(&mut self, at: usize, entry: Entry<K, N, V>) {
        self.0[at / GROUP].0[at % GROUP] = Some(entry);
    }

    /// Takes the entry out of a slot.
    pub(super) fn take(&mut self, at: usize) -> Option<Entry<K, N, V>> {
        self.0.get_mut(at / GROUP)?.0[at % GROUP].take()
    }

    /// Moves the entry of slot `from` to slot `to`, which is empty.
    pub(super) fn shift(&mut self, from: usize, to: usize) {
        if let Some(entry) = self.take(from) {
            self.put(to, entry);
        }
    }

    /// Every entry, upwards.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<K, N, V>> {
        self.0.iter().flat_map(|group| group.0.iter().flatten())
    }

    /// Every entry with its slot, upwards.
    pub(super) fn into_entries(self) -> impl Iterator<Item = (usize, Entry<K, N, V>)> {
        let slots = self.0.into_iter().flat_map(|group| group.0);
        slots
            .enumerate()
            .filter_map(|(at, entry)| entry.map(|entry| (at, entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_half_a_line_lies_in_one_line() {
        assert_eq!(size_of::<Group<u64, (), (u64, u64)>>(), GROUP * 32);
        assert_eq!(align_of::<Group<u64, (), (u64, u64)>>(), 64);
    }
}
