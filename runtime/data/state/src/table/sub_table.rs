//! One sub-table: open addressing over a row of slots, with one byte of each entry's hash beside them.
//!
//! A lookup compares the bytes of [`WINDOW`] slots at once and then touches one entry: two cache lines, of which the
//! bytes are few enough to stay near. Probing goes up and never wraps: behind the homes lies a tail that grows when a run
//! reaches it, so a window can be read at every home.
//!
//! Invariant: between the home of an entry and its slot no slot is empty. Removal keeps it by moving later entries of the
//! run down, never up: a scan that goes downwards meets every entry that was there when it began.

use highwater_types::{Key, KeyHash, ProcessingTime};
use prefetch_index::prefetch_index;

use super::marks::Mark;
use super::slots::Slots;

/// One key and namespace with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry<K, N, V> {
    /// The upper half of the stable hash of the key. The whole of it would cost eight bytes with the mark beside it, and
    /// an entry of two words and a key would no longer fill half a cache line.
    half_hash: u32,
    /// When it was last written or saved: see [`Mark`](super::marks::Mark).
    pub(crate) mark: Mark,
    pub(crate) key: K,
    pub(crate) namespace: N,
    pub(crate) value: V,
}

impl<K: Key, N, V> Entry<K, N, V> {
    /// The entry of a key, whose stable hash is `hash`.
    #[inline]
    pub(crate) fn new(hash: KeyHash, mark: Mark, (key, namespace): (K, N), value: V) -> Self {
        debug_assert_eq!(hash, key.key_hash(), "an entry is placed by its key");
        Self {
            half_hash: (hash.0 >> 32) as u32,
            mark,
            key,
            namespace,
            value,
        }
    }

    /// Whether the key may have this hash: what is compared before the keys.
    #[inline]
    pub(crate) const fn may_have(&self, hash: KeyHash) -> bool {
        self.half_hash == (hash.0 >> 32) as u32
    }

    /// The stable hash of the key, which also gives the key group. Computed.
    pub(crate) fn hash(&self) -> KeyHash {
        self.key.key_hash()
    }
}

/// Homes of an empty sub-table.
const HOMES_MIN: usize = 8;

/// Slots that a guess looks at.
const WINDOW: usize = 8;

/// One in each byte of a window.
const EACH_BYTE: u64 = u64::from_le_bytes([1; WINDOW]);

/// Empty slots behind the homes, at least.
const TAIL: usize = 4 * WINDOW;

/// No entry is suggested.
pub(crate) const NO_GUESS: u32 = u32::MAX;

/// Where an entry belongs among `homes`: a share of them, by bits of the table hash above the low ones, which correlate
/// with the key group, and below those that choose the sub-table.
#[inline]
const fn home(placed: u64, homes: usize) -> usize {
    (((placed >> 16) as u32 as u64 * homes as u64) >> 32) as usize
}

/// The byte beside the slot; never 0, which marks an empty slot. Its bits hardly choose the home.
#[inline]
const fn tag(placed: u64) -> u8 {
    let byte = (placed >> 12) as u8;
    if byte == 0 { 1 } else { byte }
}

#[derive(Debug)]
pub(crate) struct SubTable<K, N, V> {
    /// One byte for each slot, up to the last that may hold an entry.
    tags: Vec<u8>,
    slots: Slots<K, N, V>,
    /// The last access of the entry in each slot when the table is timed, else none.
    stamps: Vec<ProcessingTime>,
    /// How many slots are homes; those behind them are the tail.
    homes: usize,
    len: usize,
    /// How many top bits of the table hash all entries share.
    pub(crate) depth: u8,
    /// Whether no entry has left for a store: with a store behind the table, what is not here is nowhere.
    pub(crate) is_complete: bool,
    /// The generation for which `scan_left` counts.
    pub(crate) scan_mark: Option<Mark>,
    /// Slots from here on are scanned.
    pub(crate) scan_left: usize,
}

impl<K: Key, N, V> SubTable<K, N, V> {
    /// Bytes of memory per entry: what the budget charges. An entry takes 1.6 slots at the usual load, and what the allocator
    /// loses between sub-tables that grow makes it 1.9: ten million entries of two words took 47.5 bytes each of the
    /// process.
    pub(crate) const ENTRY_BYTES: usize = (Slots::<K, N, V>::SLOT_BYTES + 1) * 19 / 10;

    pub(crate) fn new(depth: u8) -> Self {
        Self {
            tags: vec![0; HOMES_MIN + TAIL],
            slots: Slots::new(),
            stamps: Vec::new(),
            homes: HOMES_MIN,
            len: 0,
            depth,
            is_complete: true,
            scan_mark: None,
            scan_left: 0,
        }
    }

    /// How many entries.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// How many slots, empty ones included.
    pub(crate) const fn slots(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<&Entry<K, N, V>> {
        self.slots.get(at)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Entry<K, N, V>> {
        self.slots.get_mut(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry<K, N, V>> {
        self.slots.iter()
    }

    /// The last access of an entry; meaningless when the table is not timed.
    #[inline]
    pub(crate) fn stamp(&self, at: usize) -> ProcessingTime {
        self.stamps.get(at).copied().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn set_stamp(&mut self, at: usize, stamp: ProcessingTime) {
        if let Some(held) = self.stamps.get_mut(at) {
            *held = stamp;
        }
    }

    /// The slot of the entry placed by `placed` for which `is` holds.
    #[inline]
    pub(crate) fn find(&self, placed: u64, is: impl Fn(&Entry<K, N, V>) -> bool) -> Option<usize> {
        let guess = self.guess(self.home_of(placed), placed) as usize;
        if self.get(guess).is_some_and(&is) {
            return Some(guess);
        }
        self.probe(placed, is)
    }

    /// Finds an entry slot by slot.
    fn probe(&self, placed: u64, is: impl Fn(&Entry<K, N, V>) -> bool) -> Option<usize> {
        let (home, tag) = (home(placed, self.homes), tag(placed));
        for (at, &held) in self.tags.iter().enumerate().skip(home) {
            if held == 0 {
                return None;
            }
            if held == tag && self.get(at).is_some_and(&is) {
                return Some(at);
            }
        }
        None
    }

    /// The slot where an entry placed by `placed` belongs.
    #[inline]
    pub(crate) const fn home_of(&self, placed: u64) -> u32 {
        home(placed, self.homes) as u32
    }

    /// Asks memory for the bytes that a guess looks at, without waiting for them.
    #[inline]
    pub(crate) fn ask_tags(&self, home: u32) {
        prefetch_index(&self.tags, home as usize);
    }

    /// Asks memory for an entry, without waiting for it.
    #[inline]
    pub(crate) fn ask_slot(&self, at: u32) {
        self.slots.ask(at as usize);
    }

    /// The slot that the bytes from `home` on suggest for `placed`: right in 96 of 100 cases if the entry is there. Reads no
    /// entry and does not branch on what it reads, because the processor could not predict it.
    #[inline]
    pub(crate) fn guess(&self, home: u32, placed: u64) -> u32 {
        let tags = self.tags.get(home as usize..);
        let Some(window) = tags.and_then(<[u8]>::first_chunk::<WINDOW>) else {
            return NO_GUESS;
        };
        // A byte of `differing` is 0 where a tag is the same; the lowest bit of `same` then marks the first such byte.
        let differing = u64::from_le_bytes(*window) ^ (u64::from(tag(placed)) * EACH_BYTE);
        let same = differing.wrapping_sub(EACH_BYTE) & !differing & (EACH_BYTE << 7);
        home + same.trailing_zeros() / 8
    }

    /// Whether the entry in slot `at` may be the one of a key with this hash.
    #[inline]
    pub(crate) fn may_hold(&self, at: u32, hash: KeyHash) -> bool {
        self.get(at as usize)
            .is_some_and(|entry| entry.may_have(hash))
    }

    /// The slot behind `at` that the bytes suggest next for `placed`; none behind none, or where an insertion has made the
    /// table another one since `at` was guessed.
    #[cold]
    pub(crate) fn guess_behind(&self, at: u32, placed: u64) -> u32 {
        let (tag, behind) = (tag(placed), at as usize + 1);
        let run = self.tags.get(behind..).unwrap_or_default();
        let run = run.iter().take_while(|&&held| held != 0);
        let same = (behind..).zip(run).find(|&(_, &held)| held == tag);
        same.map_or(NO_GUESS, |(at, _)| at as u32)
    }

    /// Adds an entry that is absent. Returns its slot. `place` gives the table hash of an entry.
    pub(crate) fn insert(
        &mut self,
        entry: Entry<K, N, V>,
        stamp: Option<ProcessingTime>,
        place: impl Fn(&Entry<K, N, V>) -> u64,
    ) -> usize {
        if self.slots.is_empty() {
            self.rebuild(HOMES_MIN, &place);
        } else if (self.len + 1) * 5 > self.homes * 4 {
            self.rebuild(self.homes * 3 / 2, &place);
        }
        self.put(place(&entry), entry, stamp)
    }

    fn put(&mut self, placed: u64, entry: Entry<K, N, V>, stamp: Option<ProcessingTime>) -> usize {
        let mut at = home(placed, self.homes);
        while self.tags[at] != 0 {
            at += 1;
        }
        if at + WINDOW >= self.tags.len() {
            self.tags.resize(at + TAIL, 0);
            self.slots.grow(at + TAIL);
        }
        if let Some(stamp) = stamp {
            self.stamps.resize(self.slots.len(), ProcessingTime(0));
            self.stamps[at] = stamp;
        }
        self.tags[at] = tag(placed);
        self.slots.put(at, entry);
        self.len += 1;
        at
    }

    /// Empties the table, for `homes` homes. Returns what it held.
    fn reset(&mut self, homes: usize) -> (Slots<K, N, V>, Vec<ProcessingTime>) {
        self.homes = homes;
        self.len = 0;
        self.tags.clear();
        self.tags.resize(homes + TAIL, 0);
        let slots = std::mem::replace(&mut self.slots, Slots::with_room(homes + TAIL));
        (slots, std::mem::take(&mut self.stamps))
    }

    /// Places all entries anew among `homes` homes.
    fn rebuild(&mut self, homes: usize, place: &impl Fn(&Entry<K, N, V>) -> u64) {
        let (slots, stamps) = self.reset(homes);
        for (at, entry) in slots.into_entries() {
            self.put(place(&entry), entry, stamps.get(at).copied());
        }
        self.rescan();
    }

    /// Scans again what was scanned in part, because entries changed places. Marks keep anything from being saved twice.
    /// A sub-table that was scanned to its end stays so: growth must not undo the work of a snapshot.
    fn rescan(&mut self) {
        if self.scan_left > 0 {
            self.scan_left = self.slots.len();
        }
    }

    /// Removes the entry in slot `at`; later entries of its run move down. `place` gives the table hash of an entry.
    pub(crate) fn remove(
        &mut self,
        at: usize,
        place: impl Fn(&Entry<K, N, V>) -> u64,
    ) -> Option<(Entry<K, N, V>, ProcessingTime)> {
        let stamp = self.stamp(at);
        let removed = self.slots.take(at)?;
        let mut gap = at;
        let mut next = at + 1;
        while let Some(later) = self.get(next) {
            if home(place(later), self.homes) <= gap {
                self.slots.shift(next, gap);
                self.tags[gap] = self.tags[next];
                if !self.stamps.is_empty() {
                    self.stamps[gap] = self.stamps[next];
                }
                gap = next;
            }
            next += 1;
        }
        self.tags[gap] = 0;
        self.len -= 1;
        if self.len == 0 && self.homes >= 64 {
            *self = Self {
                is_complete: self.is_complete,
                ..Self::new(self.depth)
            };
        }
        Some((removed, stamp))
    }

    /// Gives back the memory of slots that are not used, when they are most.
    pub(crate) fn shrink(&mut self, place: impl Fn(&Entry<K, N, V>) -> u64) {
        if self.homes >= 64 && self.len * 5 < self.homes * 2 {
            self.rebuild((self.len * 3 / 2).max(HOMES_MIN), &place);
        }
    }

    /// Moves the entries for which `moves` holds to a new sub-table, one bit deeper, as this one becomes.
    pub(crate) fn split(
        &mut self,
        moves: impl Fn(&Entry<K, N, V>) -> bool,
        place: impl Fn(&Entry<K, N, V>) -> u64,
    ) -> Self {
        self.depth += 1;
        let mut other = Self::new(self.depth);
        let homes = (self.len * 5 / 6).max(HOMES_MIN);
        other.reset(homes);
        let (slots, stamps) = self.reset(homes);
        for (at, entry) in slots.into_entries() {
            let half = if moves(&entry) {
                &mut other
            } else {
                &mut *self
            };
            half.put(place(&entry), entry, stamps.get(at).copied());
        }
        other.is_complete = self.is_complete;
        other.scan_mark = self.scan_mark;
        other.scan_left = self.scan_left;
        self.rescan();
        other.rescan();
        other
    }
}
