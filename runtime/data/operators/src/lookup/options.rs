//! What a job sets of a lookup.

use std::time::Duration;

use super::budget::RetryBudget;

/// In which order answers leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupOrder {
    /// In the order of the inputs.
    Ordered,
    /// As they come, between watermarks.
    Unordered,
}

/// The settings of a lookup.
#[derive(Clone, Debug)]
pub struct LookupOptions {
    /// In which order answers leave.
    pub order: LookupOrder,
    /// How many inputs may be open in one subtask, at least 1. A full lookup holds its input back.
    pub capacity: usize,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How long all attempts and the delays between them may take.
    pub total_timeout: Duration,
    /// The delay before each further attempt: as many retries as delays.
    pub retry_delays: Vec<Duration>,
    /// By how much a delay may grow at random, in percent of it.
    pub jitter_percent: u32,
    /// Limits the retries of a worker; `None` = every delay is used.
    pub budget: Option<RetryBudget>,
}

impl LookupOptions {
    /// One attempt within `timeout`, no retries.
    ///
    /// # Panics
    /// If `capacity` is 0: plan-time checks refuse that.
    pub const fn new(order: LookupOrder, capacity: usize, timeout: Duration) -> Self {
        assert!(capacity > 0, "a lookup needs room for at least one request");
        Self {
            order,
            capacity,
            attempt_timeout: timeout,
            total_timeout: timeout,
            retry_delays: Vec::new(),
            jitter_percent: 0,
            budget: None,
        }
    }

    /// The same with retries after these delays, each longer by up to `jitter_percent`, within `total` in all.
    pub fn with_retries(
        mut self,
        delays: impl IntoIterator<Item = Duration>,
        jitter_percent: u32,
        total: Duration,
    ) -> Self {
        self.retry_delays = delays.into_iter().collect();
        self.jitter_percent = jitter_percent;
        self.total_timeout = total;
        self
    }

    /// The same with the retry budget of the worker.
    pub fn with_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The delay before retry `retry` (from 0), with the jitter that `seed` gives it. `None` = no more retries.
    pub(super) fn delay(&self, retry: usize, seed: u64) -> Option<Duration> {
        let delay = *self.retry_delays.get(retry)?;
        let chance = scramble(seed ^ (retry as u64) << 56) >> 32;
        let share = f64::from(self.jitter_percent) / 100.0 * chance as f64 / f64::from(u32::MAX);
        Some(delay + delay.mul_f64(share))
    }
}

/// Spreads neighbouring numbers over the whole range (the finaliser of SplitMix64).
const fn scramble(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_share_and_differs_between_requests() {
        let delay = Duration::from_millis(100);
        let options = LookupOptions::new(LookupOrder::Ordered, 1, delay).with_retries(
            [delay],
            50,
            Duration::from_secs(1),
        );
        let delays: Vec<_> = (1..100).filter_map(|seed| options.delay(0, seed)).collect();
        assert!(delays.iter().all(|d| (delay..=delay * 3 / 2).contains(d)));
        let mut distinct = delays;
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 90, "{} distinct delays", distinct.len());
        assert_eq!(options.delay(1, 1), None);
    }
}
