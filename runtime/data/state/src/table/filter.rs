//! Which keys the store may hold that memory does not: so that a new key costs no read.
//!
//! Kept by a table over a store that was empty when the table was opened; asked for each key that is not in memory. It never
//! says no wrongly. It grows by layers, each as large as all before, so that growth needs neither a pause nor the keys
//! that are in already. A key takes 11 bits and is wrongly thought to be there in 1 of 100 cases for each layer, of which
//! there are seven at most while the room stays the same. The rule: it stays inside the room that it is given, or gives up.
//!
//! Source: split block Bloom filter (Putze and others, 2007, as Apache Parquet has it).

use std::ops::Range;

/// The part of the room that the first layer takes.
const FIRST_SHARE: usize = 64;

/// The part of what it holds by which a filter grows at least: else it gives up.
const LEAST_GROWTH: usize = 4;

/// Bytes that are always granted.
const GRANTED_BYTES: usize = 4_096;

/// Words of a block: a cache line. A key sets one bit in each.
const BLOCK_WORDS: usize = 8;

/// Keys of a block.
const BLOCK_KEYS: usize = 48;

#[derive(Debug)]
struct Layer {
    /// Zeros that the allocator has or makes when they are touched: a large layer is there at once.
    words: Vec<u64>,
    /// The first word that begins a cache line.
    first: usize,
    blocks: usize,
    keys: usize,
}

/// A set of hashes that may only be asked.
#[derive(Debug, Default)]
pub(super) struct Filter {
    layers: Vec<Layer>,
}

/// Mixes a hash whose low bits say little, because they choose the key group.
const fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

impl Layer {
    fn new(blocks: usize) -> Self {
        let words = vec![0; (blocks + 1) * BLOCK_WORDS];
        let first = words.as_ptr().align_offset(64).min(BLOCK_WORDS);
        Self {
            words,
            first,
            blocks,
            keys: 0,
        }
    }

    const fn is_full(&self) -> bool {
        self.keys >= self.blocks * BLOCK_KEYS
    }

    /// The words of the block of a hash.
    const fn block_of(&self, mixed: u64) -> Range<usize> {
        let block = (((mixed >> 32) * self.blocks as u64) >> 32) as usize;
        let from = self.first + block * BLOCK_WORDS;
        from..from + BLOCK_WORDS
    }

    fn holds(&self, mixed: u64) -> bool {
        let words = self.words[self.block_of(mixed)].iter().zip(bits_of(mixed));
        // No branch for each word: the line is here or it is not.
        let missing = words.fold(0, |missing, (word, bit)| missing | (bit & !word));
        missing == 0
    }

    fn insert(&mut self, mixed: u64) {
        let block = self.block_of(mixed);
        let words = self.words[block].iter_mut().zip(bits_of(mixed));
        words.for_each(|(word, bit)| *word |= bit);
        self.keys += 1;
    }
}

/// The bit of each word: six bits of a product each.
fn bits_of(mixed: u64) -> [u64; BLOCK_WORDS] {
    let spread = (mixed & 0xffff_ffff).wrapping_mul(0xd6e8_feb8_6659_fd93);
    std::array::from_fn(|word| 1 << ((spread >> (8 + 7 * word)) & 63))
}

impl Filter {
    /// Notes a hash. `room` is how many bytes the filter may take; when they are too few it notes nothing and returns false,
    /// and is of no use any more.
    pub(super) fn insert(&mut self, hash: u64, room: usize) -> bool {
        if self.may_hold(hash) {
            return true;
        }
        if self.layers.last().is_none_or(Layer::is_full) && !self.grow(room) {
            return false;
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.insert(mixed(hash));
        }
        true
    }

    fn grow(&mut self, room: usize) -> bool {
        let (room, held) = (room.max(GRANTED_BYTES), self.bytes());
        let left = room.saturating_sub(held);
        if left < held / LEAST_GROWTH {
            return false;
        }
        let more = held.max(room / FIRST_SHARE).min(left);
        let block = BLOCK_WORDS * size_of::<u64>();
        // One more for the alignment.
        self.layers.push(Layer::new((more / block).max(2) - 1));
        true
    }

    /// Whether the hash may have been noted.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let mixed = mixed(hash);
        self.layers.iter().rev().any(|layer| layer.holds(mixed))
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.iter();
        layers
            .map(|layer| layer.words.len() * size_of::<u64>())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::Key;

    use super::*;

    #[test]
    fn what_is_in_is_found_and_few_others_are() {
        let mut filter = Filter::default();
        // Keys of few key groups, as a subtask has them.
        let hash_of = |key: i64| key.key_hash();
        let own = (0..i64::MAX).map(hash_of).filter(|hash| hash.0 % 720 < 90);
        let hashes: Vec<u64> = own.take(400_000).map(|hash| hash.0).collect();
        let (held, others) = hashes.split_at(200_000);
        assert!(held.iter().all(|&hash| filter.insert(hash, 1 << 20)));
        assert!(held.iter().all(|&hash| filter.may_hold(hash)));
        let wrong = others.iter().filter(|&&hash| filter.may_hold(hash)).count();
        assert!(wrong < 10_000, "{wrong} of 200,000");
        assert!(filter.bytes() < 600_000, "{} bytes", filter.bytes());
    }

    #[test]
    fn keys_that_come_again_do_not_fill_it() {
        let mut filter = Filter::default();
        for _ in 0..100 {
            let hashes = (0..10_000u64).map(|key| key.key_hash().0);
            assert!(hashes.into_iter().all(|hash| filter.insert(hash, 1 << 20)));
        }
        assert_eq!(filter.layers.len(), 1);
    }

    #[test]
    fn it_gives_up_when_there_is_no_room() {
        let mut filter = Filter::default();
        let hashes = (0..1_000_000u64).map(|key| key.key_hash().0);
        let taken = hashes
            .take_while(|&hash| filter.insert(hash, 100_000))
            .count();
        assert!((50_000..80_000).contains(&taken), "{taken} keys");
        assert!(filter.bytes() <= 100_000);
    }
}
