//! How late late records are: a histogram in fixed memory, and the bound that would have caught them.
//!
//! Called by sources and windows once per chunk. A record that is on time costs one comparison. Buckets grow by powers
//! of two from 1 ms, so the answer is exact within a factor of two: enough to choose an out-of-orderness bound.

use highwater_types::{EventTime, Watermark};
use serde::{Deserialize, Serialize};

const BUCKETS: usize = 40;

/// Counts late records by how far behind the watermark they were.
#[derive(Clone, Debug)]
pub struct LatenessHistogram {
    counts: [u64; BUCKETS],
    total: u64,
    sum_ms: u64,
}

impl Default for LatenessHistogram {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
            sum_ms: 0,
        }
    }
}

impl LatenessHistogram {
    /// Looks at a chunk of records that arrived while the event time was `watermark`.
    pub fn on_chunk(&mut self, times: &[EventTime], watermark: Watermark) {
        self.total += times.len() as u64;
        for time in times {
            if watermark.is_late(*time) && time.is_some() {
                let late_ms = watermark.0.saturating_sub(time.0);
                self.counts[bucket(late_ms)] += 1;
                self.sum_ms = self.sum_ms.saturating_add(late_ms.unsigned_abs());
            }
        }
    }

    /// A copy for the outside.
    pub fn snapshot(&self) -> LatenessSnapshot {
        LatenessSnapshot {
            counts: self.counts.to_vec(),
            total: self.total,
            sum_ms: self.sum_ms,
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
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LatenessSnapshot {
    counts: Vec<u64>,
    total: u64,
    sum_ms: u64,
}

impl LatenessSnapshot {
    /// Adds the counts of another subtask.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
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

    /// How late all late records were together, in milliseconds.
    pub const fn sum_ms(&self) -> u64 {
        self.sum_ms
    }

    /// The buckets that hold a record: the largest lateness that falls into each, in milliseconds, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        let filled = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        filled.map(|(at, count)| (bucket_limit_ms(at), *count))
    }

    /// The out-of-orderness bound with which a share of at least `quantile` of all records would have been on time,
    /// given that they were judged with `current_bound_ms`. `None` = the current bound is enough.
    ///
    /// A record that was `d` ms behind the watermark is on time when the watermark stays `d + 1` ms further back. So the
    /// answer is the current bound, plus the limit of the lowest bucket above which at most `1 - quantile` of the
    /// records lie, plus 1: never too small, and less than twice what would be needed beyond the current bound. A
    /// bound that is larger than needed is not noticed: records on time are counted, not measured.
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
        assert_eq!(merged.buckets().collect::<Vec<_>>(), [(15, 2)]);
        assert_eq!((merged.total(), merged.sum_ms()), (2, 20));
    }
}
