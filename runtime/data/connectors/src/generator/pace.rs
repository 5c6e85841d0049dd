//! How many records of a split are due: the rate of the job, divided evenly over the splits.
//!
//! The division is by split, not by subtask, so that the rate of the job stays the same when splits are spread
//! unevenly and event time moves evenly in all of them.

use std::time::Duration;

use highwater_types::{Classified, ErrorKind};

/// A rate of the whole job.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct RecordsPerSecond(f64);

/// A rate that no clock can keep.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0} records per second is no rate; use a number above 0 and at most 1e9")]
pub struct RateError(pub f64);

impl Classified for RateError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl RecordsPerSecond {
    /// Checks and takes a rate above 0, up to a thousand million.
    pub fn try_new(records: f64) -> Result<Self, RateError> {
        if records > 0.0 && records <= 1e9 {
            Ok(Self(records))
        } else {
            Err(RateError(records))
        }
    }

    /// The number of records.
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// A reader that was held up makes good at most this much of its time.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Records are delivered in portions of this much time, so that a fast generator does not wake for each record.
const PORTION: Duration = Duration::from_millis(1);

/// The pace of one split.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    per_second: f64,
    start: Option<Duration>,
    delivered: u64,
}

impl Pace {
    pub(crate) const fn new(rate: RecordsPerSecond, splits: u32) -> Self {
        Self {
            per_second: rate.0 / splits as f64,
            start: None,
            delivered: 0,
        }
    }

    /// How many records are due at `now`; 0 while less than a portion is.
    pub(crate) fn due(&mut self, now: Duration) -> u64 {
        let start = *self.start.get_or_insert(now);
        // A nanosecond more than has passed: an alarm is exact to the nanosecond, and the portion is due when it rings.
        let due = self.scheduled(now.saturating_sub(start) + Duration::from_nanos(1));
        let behind = due.saturating_sub(self.delivered);
        if behind < self.portion() {
            return 0;
        }
        let most = self.scheduled(CATCH_UP).max(1);
        if behind > most {
            self.start = Some(now.saturating_sub(CATCH_UP));
            self.delivered = 0;
        }
        behind.min(most)
    }

    pub(crate) const fn deliver(&mut self, count: u64) {
        self.delivered += count;
    }

    /// When the next portion is due.
    pub(crate) fn next(&self) -> Duration {
        let records = (self.delivered + self.portion()) as f64;
        self.start.unwrap_or_default() + Duration::from_secs_f64(records / self.per_second)
    }

    fn portion(&self) -> u64 {
        self.scheduled(PORTION).max(1)
    }

    fn scheduled(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.per_second) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(rate: f64) -> Pace {
        Pace::new(RecordsPerSecond::try_new(rate).unwrap(), 2)
    }

    #[test]
    fn a_second_brings_the_share_of_the_split() {
        let mut pace = pace(1_000.0);
        assert_eq!(pace.due(SECOND), 0);
        assert_eq!(pace.due(SECOND * 3 / 2), 250);
        pace.deliver(250);
        assert_eq!(pace.due(SECOND * 2), 250);
    }

    #[test]
    fn at_the_next_instant_a_portion_is_due() {
        for rate in [0.3, 7.0, 999.0, 123_456.7, 1e9] {
            let mut pace = pace(rate);
            assert_eq!(pace.due(Duration::ZERO), 0);
            for _ in 0..1_000 {
                let due = pace.due(pace.next());
                assert!(due >= pace.portion(), "rate {rate}");
                pace.deliver(due);
            }
        }
    }

    #[test]
    fn a_long_hold_up_is_made_good_for_one_second_only() {
        let mut pace = pace(200.0);
        assert_eq!(pace.due(Duration::ZERO), 0);
        assert_eq!(pace.due(SECOND * 60), 100);
        pace.deliver(100);
        assert_eq!(pace.due(SECOND * 60), 0);
        assert_eq!(pace.due(SECOND * 61), 100);
    }

    #[test]
    fn impossible_rates_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 2e9] {
            assert!(RecordsPerSecond::try_new(rate).is_err());
        }
    }
}
