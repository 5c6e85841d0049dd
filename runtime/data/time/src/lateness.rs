//! How late late records are: a histogram in fixed memory, and the bound that would have caught them.
//!
//! Called by sources and windows once per chunk. A record that is on time costs one comparison. Buckets grow by powers
//! of two from 1 ms, so the answer is exact within a factor of two: enough to choose an out-of-orderness bound.

use highwater_types::{EventTime, Watermark};

const BUCKETS: usize = 40;

/// Counts late records by how far behind the watermark they were.
#[derive(Clone, Debug)]
pub struct LatenessHistogram {
    counts: [u64; BUCKETS],
    total: u64,
}

impl Default for LatenessHistogram {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
        }
    }
}

impl LatenessHistogram {
    /// Looks at a chunk of records that arrived while the event time was `watermark`.
    pub fn on_chunk(&mut self, times: &[EventTime], watermark: Watermark) {
        self.total += times.len() as u64;
        for time in times {
            if watermark.is_late(*time) && time.is_some() {
                self.counts[bucket(watermark.0.saturating_sub(time.0))] += 1;
            }
        }
    }

    /// A copy for the outside.
    pub fn snapshot(&self) -> LatenessSnapshot {
        LatenessSnapshot {
            counts: self.counts.to_vec(),
            total: self.total,
        }
    }
}

/// The bucket of a lateness: 0 for 0 ms, else one more than the floor of its binary logarithm.
const fn bucket(late_ms: i64) -> usize {
    let bits = (i64::BITS - late_ms.leading_zeros()) as usize;
    if bits < BUCKETS { bits } else { BUCKETS - 1 }
}

/// The largest lateness that falls into a bucket, in milliseconds.
const fn bucket_limit_ms(bucket: usize) -> i64 {
    (1i64 << bucket) - 1
}

/// Late records by how late they were; merges across subtasks.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LatenessSnapshot {
    counts: Vec<u64>,
    total: u64,
}

impl LatenessSnapshot {
    /// Adds the counts of another subtask.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        self.counts
            .resize(self.counts.len().max(other.counts.len()), 0);
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
    }

    /// How many records were looked at.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many were late.
    pub fn late(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper limits in milliseconds with the number of late records up to each, for a metric.
    pub fn cumulative(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        let mut sum = 0;
        self.counts.iter().enumerate().map(move |(at, count)| {
            sum += count;
            (bucket_limit_ms(at), sum)
        })
    }

    /// The out-of-orderness bound with which a share of at least `quantile` of all records would have been on time,
    /// given that they were judged with `current_bound_ms`. `None` = the current bound is enough.
    pub fn suggested_bound_ms(&self, quantile: f64, current_bound_ms: i64) -> Option<i64> {
        let late_allowed = (self.total as f64 * (1.0 - quantile)).round() as u64;
        let mut late = self.late();
        if late <= late_allowed {
            return None;
        }
        for (at, count) in self.counts.iter().enumerate() {
            late -= count;
            if late <= late_allowed {
                return Some(current_bound_ms.saturating_add(bucket_limit_ms(at) + 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggested_bound_catches_the_share_that_was_asked_for() {
        let mut histogram = LatenessHistogram::default();
        let times: Vec<_> = (0..1_000).map(EventTime).collect();
        histogram.on_chunk(&times, Watermark(99));
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.total(), snapshot.late()), (1_000, 100));
        assert_eq!(snapshot.suggested_bound_ms(0.90, 0), None);
        let bound = snapshot.suggested_bound_ms(0.99, 0).unwrap();
        let still_late = times.iter().filter(|time| time.0 <= 99 - bound).count();
        assert!(
            still_late <= 10,
            "{still_late} of 1,000 are late with {bound} ms"
        );
        assert!(bound <= 128);
    }

    #[test]
    fn records_on_time_and_without_time_do_not_count_as_late() {
        let mut histogram = LatenessHistogram::default();
        histogram.on_chunk(
            &[EventTime(101), EventTime::NONE, EventTime(100)],
            Watermark(100),
        );
        assert_eq!(histogram.snapshot().late(), 1);
    }

    #[test]
    fn snapshots_of_subtasks_merge() {
        let mut histogram = LatenessHistogram::default();
        histogram.on_chunk(&[EventTime(0)], Watermark(10));
        let mut merged = LatenessSnapshot::default();
        merged.merge(&histogram.snapshot());
        merged.merge(&histogram.snapshot());
        assert_eq!(merged.cumulative().last().map(|(_, count)| count), Some(2));
    }
}
