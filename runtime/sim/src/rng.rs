//! Chance from one seed: a SplitMix64 stream that forks into sub-streams.
//!
//! Each node, the network, the store and the broker draw from a stream of their own, so that one more draw in one place
//! does not reshuffle all others. Nothing else in the simulator is random.
//!
//! Source: Steele, Lea and Flood 2014.

/// A stream of pseudo-random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    #[cfg(test)]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream that depends on the seed and the label only, not on what was drawn before.
    pub(crate) fn fork(seed: u64, label: u64) -> Self {
        let mut mixed = Self(seed ^ label.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self(mixed.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` up to and including `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        debug_assert!(low <= high, "an interval is not empty");
        low + self.next() % (high - low + 1)
    }

    /// True once in `10_000 / per_myriad` times.
    pub(crate) fn chance(&mut self, per_myriad: u32) -> bool {
        per_myriad > 0 && self.next() % 10_000 < u64::from(per_myriad)
    }

    pub(crate) fn nonce(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_differ_by_label() {
        let draw = |label| {
            let mut rng = Rng::fork(7, label);
            (0..4).map(|_| rng.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn bounds_are_kept() {
        let mut rng = Rng::new(1);
        assert!((0..1000).all(|_| (3..=5).contains(&rng.between(3, 5))));
        assert!((0..1000).all(|_| !rng.chance(0)));
        assert!((0..1000).all(|_| rng.chance(10_000)));
    }
}
