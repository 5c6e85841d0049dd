//! A fixed hasher for what rests in memory only: namespaces and map keys.
//!
//! Nothing computed here is stored, so it may change between versions; it is fixed so that equal histories lay out
//! equal tables. Hashing nothing gives 0, so a table without namespaces pays nothing.

use std::hash::{Hash, Hasher};

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of `value`; 0 for `()`.
#[inline]
pub(crate) fn spread<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = SpreadHasher(0);
    value.hash(&mut hasher);
    hasher.finish()
}

struct SpreadHasher(u64);

impl SpreadHasher {
    #[inline]
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word ^ FACTOR).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
}

impl Hasher for SpreadHasher {
    #[inline]
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut whole = [0; 8];
            whole.copy_from_slice(word);
            self.mix(u64::from_le_bytes(whole));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut whole = [0; 8];
            whole[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(whole) ^ rest.len() as u64);
        }
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_spreads_to_zero_and_neighbours_far_apart() {
        assert_eq!(spread(&()), 0);
        let (a, b) = (spread(&1_000i64), spread(&1_001i64));
        assert!((a ^ b).count_ones() > 16, "{a:x} {b:x}");
        assert_ne!(spread("ab"), spread("abc"));
    }
}
