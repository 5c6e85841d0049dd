//! The distributions that payments are drawn from.

use highwater_connectors::Random;

/// Users by popularity: user k is drawn with a weight of `(k + 1)^-1.1`.
pub(super) struct Popularity {
    /// The sum of the weights up to and including each user.
    sums: Vec<f64>,
}

impl Popularity {
    const EXPONENT: f64 = -1.1;

    pub(super) fn new(users: u32) -> Self {
        let mut sum = 0.0;
        let weights = (1..=users).map(|rank| f64::from(rank).powf(Self::EXPONENT));
        Self {
            sums: weights
                .map(|weight| {
                    sum += weight;
                    sum
                })
                .collect(),
        }
    }

    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        let total = self.sums.last().copied().unwrap_or_default();
        let point = random.unit() * total;
        let user = self.sums.partition_point(|&sum| sum <= point);
        user.min(self.sums.len().saturating_sub(1)) as u32
    }
}

/// How much later than it happens a payment arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delays {
    /// Log-normal with median 1.2 s and p99 38 s; then 0.6 % from 45 s to 5 min and 0.1 % from 6 to 30 min.
    WithLate,
    /// The first part alone: every payment arrives within 45 s.
    InTime,
}

/// A payment within this time is never behind the watermark of its partition.
pub(super) const IN_TIME_MS: i64 = 45_000;

/// `ln(38 / 1.2) / 2.326`: the 99th percentile lies 2.326 deviations above the median.
const DEVIATION: f64 = 1.485;

impl Delays {
    pub(super) fn draw(self, random: &mut Random) -> i64 {
        let kind = random.unit();
        if self == Self::WithLate && kind < 0.001 {
            return between(6 * 60_000, 30 * 60_000, random);
        }
        if self == Self::WithLate && kind < 0.007 {
            return between(IN_TIME_MS, 5 * 60_000, random);
        }
        loop {
            let delay = (1_200.0 * (DEVIATION * random.normal()).exp()) as i64;
            if delay < IN_TIME_MS {
                return delay;
            }
        }
    }
}

/// A number from `low` up to, not including, `high`.
pub(super) const fn between(low: i64, high: i64, random: &mut Random) -> i64 {
    low + random.below((high - low) as u64) as i64
}

/// An amount in cents: half of them below 25, few above 1,000.
pub(super) fn amount(random: &mut Random) -> i64 {
    let cents = 2_500.0 * (1.3 * random.normal()).exp();
    (cents as i64).clamp(1, 5_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_the_median_the_percentile_and_the_tails_of_the_profile() {
        let mut random = Random::new(1);
        let mut delays: Vec<i64> = (0..200_000)
            .map(|_| Delays::WithLate.draw(&mut random))
            .collect();
        delays.sort_unstable();
        assert!(
            (1_150..1_250).contains(&delays[100_000]),
            "median {}",
            delays[100_000]
        );
        assert!(
            (34_000..42_000).contains(&delays[198_000]),
            "p99 {}",
            delays[198_000]
        );
        let share = |low: i64, high: i64| {
            delays
                .iter()
                .filter(|&&delay| low <= delay && delay < high)
                .count()
        };
        assert!((1_100..1_300).contains(&share(45_000, 300_000)));
        assert_eq!(share(300_000, 360_000), 0);
        assert!((150..250).contains(&share(360_000, 1_800_000)));
        assert!((0..50_000).all(|_| Delays::InTime.draw(&mut random) < IN_TIME_MS));
    }

    #[test]
    fn the_most_popular_user_is_drawn_as_often_as_its_weight_says() {
        let popularity = Popularity::new(100);
        let mut random = Random::new(2);
        let mut drawn = [0u32; 100];
        for _ in 0..100_000 {
            drawn[popularity.draw(&mut random) as usize] += 1;
        }
        let ratio = f64::from(drawn[0]) / f64::from(drawn[1]);
        assert!((ratio - 2f64.powf(1.1)).abs() < 0.1, "{ratio}");
        assert!(drawn.iter().all(|&count| count > 0));
    }
}
