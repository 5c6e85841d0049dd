//! A directory of sub-tables: a hash table that grows by splitting one small sub-table at a time.
//!
//! The top bits of the table hash choose the sub-table; one that is full splits in two by its next bit. So the longest
//! pause of growth is the split of one sub-table (about half a megabyte), never a rehash of everything. Sub-tables are
//! full at sizes that differ a little, so that they do not all split within the same chunks.
//!
//! Source: extendible hashing (Fagin and others, 1979).

use std::hash::Hash;

use highwater_types::{Key, KeyHash, ProcessingTime};

use super::sub_table::{Entry, SubTable};
use crate::spread::spread;

/// Where an entry is. Valid until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) table: u32,
    pub(crate) at: u32,
}

/// Bytes of slots that a sub-table has at most, before it splits.
const SPLIT_BYTES: usize = 512 * 1_024;

/// How many times more prefixes than sub-tables there may be: a sub-table deeper than that is full of equal hash bits, so
/// splitting would not help, and it grows on instead.
const SKEW_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Directory<K, N, V> {
    /// The sub-table of each prefix of `depth` bits.
    prefixes: Vec<u32>,
    depth: u8,
    pub(crate) tables: Vec<SubTable<K, N, V>>,
    len: usize,
}

/// The hash by which an entry is placed: of the key alone where there are no namespaces.
#[inline]
pub(crate) fn table_hash<N: Hash>(hash: KeyHash, namespace: &N) -> u64 {
    hash.0 ^ spread(namespace)
}

#[inline]
fn place<K: Key, N: Hash, V>(entry: &Entry<K, N, V>) -> u64 {
    table_hash(entry.hash(), &entry.namespace)
}

impl<K: Key, N: Eq + Hash, V> Directory<K, N, V> {
    /// Slots of a sub-table at which it splits instead of growing.
    const SLOTS_MAX: usize = {
        let fitting = SPLIT_BYTES / size_of::<Option<Entry<K, N, V>>>();
        let fitting = if fitting < 1_024 { 1_024 } else { fitting };
        1 << if fitting > 16_384 {
            14
        } else {
            fitting.ilog2()
        }
    };

    /// Entries at which a sub-table splits: 70 to 80 of 100 slots, fixed by its number.
    const fn split_at(table: usize) -> usize {
        let share = (table as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
        Self::SLOTS_MAX * (896 + share as usize) / 1_280
    }

    pub(crate) fn new() -> Self {
        Self {
            prefixes: vec![0],
            depth: 0,
            tables: vec![SubTable::new(0)],
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The number of the sub-table that holds `placed`.
    #[inline]
    pub(crate) fn table_of(&self, placed: u64) -> u32 {
        // Two shifts, because a shift by 64 is none.
        self.prefixes[((placed >> 1) >> (63 - self.depth)) as usize]
    }

    #[inline]
    pub(crate) fn find(&self, hash: KeyHash, key: &K, namespace: &N) -> Option<Position> {
        let placed = table_hash(hash, namespace);
        let table = self.table_of(placed);
        let at = self.tables[table as usize].find(placed, |entry| {
            entry.may_have(hash) && entry.key == *key && entry.namespace == *namespace
        })?;
        Some(Position {
            table,
            at: at as u32,
        })
    }

    /// The entry at a position.
    ///
    /// # Panics
    /// If there is none: positions do not outlive insertions and removals.
    #[inline]
    pub(crate) fn entry(&self, position: Position) -> &Entry<K, N, V> {
        self.tables[position.table as usize]
            .get(position.at as usize)
            .expect("a position names an entry until the next insertion or removal")
    }

    /// The entry at a position.
    ///
    /// # Panics
    /// If there is none: positions do not outlive insertions and removals.
    #[inline]
    pub(crate) fn entry_mut(&mut self, position: Position) -> &mut Entry<K, N, V> {
        self.tables[position.table as usize]
            .get_mut(position.at as usize)
            .expect("a position names an entry until the next insertion or removal")
    }

    /// The last access of an entry; meaningless when the table is not timed.
    #[inline]
    pub(crate) fn stamp(&self, position: Position) -> ProcessingTime {
        self.tables[position.table as usize].stamp(position.at as usize)
    }

    #[inline]
    pub(crate) fn set_stamp(&mut self, position: Position, stamp: ProcessingTime) {
        self.tables[position.table as usize].set_stamp(position.at as usize, stamp);
    }

    /// Adds an entry that is absent; `stamp` when the table is timed.
    pub(crate) fn insert(
        &mut self,
        entry: Entry<K, N, V>,
        stamp: Option<ProcessingTime>,
    ) -> Position {
        let placed = place(&entry);
        let mut table = self.table_of(placed);
        while self.is_full(table as usize) {
            self.split(table);
            table = self.table_of(placed);
        }
        self.len += 1;
        let at = self.tables[table as usize].insert(entry, stamp, place) as u32;
        Position { table, at }
    }

    fn is_full(&self, table: usize) -> bool {
        let sub = &self.tables[table];
        let even = 1usize << sub.depth <= self.tables.len() * SKEW_MAX;
        sub.len() >= Self::split_at(table) && even
    }

    /// Removes the entry at a position.
    ///
    /// # Panics
    /// If there is none: positions do not outlive insertions and removals.
    pub(crate) fn remove(&mut self, position: Position) -> Entry<K, N, V> {
        self.len -= 1;
        let (entry, _) = self.tables[position.table as usize]
            .remove(position.at as usize, place)
            .expect("a position names an entry until the next insertion or removal");
        entry
    }

    /// Gives back the memory of empty slots of a sub-table, when they are most. Changes the positions in it.
    pub(crate) fn shrink(&mut self, table: u32) {
        self.tables[table as usize].shrink(place);
    }

    fn split(&mut self, table: u32) {
        let sub = &mut self.tables[table as usize];
        if sub.depth == self.depth {
            let doubled = self.prefixes.iter().flat_map(|&table| [table, table]);
            self.prefixes = doubled.collect();
            self.depth += 1;
        }
        let bit = 63 - sub.depth;
        let other = sub.split(|entry| place(entry) >> bit & 1 == 1, place);
        let shift = self.depth - other.depth;
        let number = self.tables.len() as u32;
        self.tables.push(other);
        for (prefix, held) in self.prefixes.iter_mut().enumerate() {
            if *held == table && prefix >> shift & 1 == 1 {
                *held = number;
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry<K, N, V>> {
        self.tables.iter().flat_map(SubTable::iter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use highwater_types::Key;
    use proptest::prelude::*;

    use super::*;
    use crate::table::marks::Marks;

    fn entry(key: i64, value: u64) -> Entry<i64, (), u64> {
        Entry::new(key.key_hash(), Marks::new().written(), (key, ()), value)
    }

    #[test]
    fn growth_splits_and_loses_nothing() {
        let mut directory = Directory::new();
        for key in 0..200_000i64 {
            directory.insert(entry(key, key as u64), None);
        }
        assert!(directory.tables.len() > 8);
        let largest = directory.tables.iter().map(SubTable::slots).max();
        assert!(largest.unwrap() < 25_000);
        for key in 0..200_000i64 {
            let found = directory.find(key.key_hash(), &key, &()).unwrap();
            assert_eq!(directory.entry(found).value, key as u64);
        }
        assert_eq!(
            directory.find((-1i64).key_hash(), &-1, &()),
            None,
            "an absent key is absent"
        );
    }

    #[test]
    fn empty_slots_take_no_more_than_their_entries() {
        assert_eq!(size_of::<Option<Entry<u64, (), u64>>>(), 24);
    }

    /// Hashed as if it were nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Alike(usize);

    impl Hash for Alike {
        fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
    }

    #[test]
    fn equal_hashes_do_not_split_for_ever() {
        let mut directory = Directory::new();
        let count = Directory::<i64, Alike, u64>::split_at(0) + 8;
        let (hash, mark) = (7i64.key_hash(), Marks::new().written());
        for at in 0..count {
            directory.insert(Entry::new(hash, mark, (7, Alike(at)), 0u64), None);
        }
        assert!(directory.prefixes.len() <= 256);
        assert!(directory.find(hash, &7, &Alike(count - 1)).is_some());
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(ops in proptest::collection::vec((0i64..40, any::<bool>()), 0..400)) {
            let mut directory = Directory::new();
            let mut model = BTreeMap::new();
            for (step, (key, remove)) in ops.into_iter().enumerate() {
                let found = directory.find(key.key_hash(), &key, &());
                prop_assert_eq!(found.is_some(), model.contains_key(&key));
                match (found, remove) {
                    (Some(position), true) => {
                        let removed = directory.remove(position);
                        prop_assert_eq!(Some(removed.value), model.remove(&key));
                    }
                    (Some(position), false) => {
                        directory.entry_mut(position).value = step as u64;
                        model.insert(key, step as u64);
                    }
                    (None, _) => {
                        directory.insert(entry(key, step as u64), None);
                        model.insert(key, step as u64);
                    }
                }
                prop_assert_eq!(directory.len(), model.len());
            }
            let held: BTreeMap<_, _> = directory.iter().map(|e| (e.key, e.value)).collect();
            prop_assert_eq!(held, model);
        }
    }
}
