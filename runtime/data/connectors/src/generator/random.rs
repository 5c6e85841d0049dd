//! Random numbers that depend on a seed and an index only.
//!
//! SplitMix64 over a mixed starting point: two multiplications a number, and a new stream for every record costs two
//! mixes. Not for secrets.
//!
//! Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self {
            state: mix(seed.wrapping_add(GAMMA)),
        }
    }

    /// The stream of record `index` under `seed`: independent of every other record.
    #[inline]
    pub const fn for_record(seed: u64, index: u64) -> Self {
        Self {
            state: mix(mix(seed.wrapping_add(GAMMA)) ^ index.wrapping_mul(GAMMA)),
        }
    }

    /// The next 64 random bits.
    #[inline]
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number from 0 up to, not including, `bound`; 0 when `bound` is 0. The bias is below `bound / 2^64`.
    #[inline]
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.bits() as u128 * bound as u128) >> 64) as u64
    }

    /// A number from 0 up to, not including, 1.
    #[inline]
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    #[inline]
    pub const fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number of the standard normal distribution.
    ///
    /// Source: Box and Muller 1958.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_same_numbers_wherever_it_is_made() {
        let mut first = Random::for_record(42, 7);
        let mut again = Random::for_record(42, 7);
        assert_eq!(first.bits(), again.bits());
        assert_ne!(
            Random::for_record(42, 8).bits(),
            Random::for_record(42, 7).bits()
        );
        assert_ne!(
            Random::for_record(43, 7).bits(),
            Random::for_record(42, 7).bits()
        );
    }

    #[test]
    fn first_numbers_of_neighbouring_records_spread_evenly() {
        let mut buckets = [0u32; 16];
        for index in 0..160_000 {
            buckets[Random::for_record(1, index).below(16) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| count.abs_diff(10_000) < 500));
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_deviation_one() {
        let mut random = Random::new(3);
        let numbers: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 1e5;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02);
    }
}
