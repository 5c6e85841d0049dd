//! Spans of time, counted by size where the work is done: what a histogram of the table is filled from.
//!
//! Whoever measures keeps one beside its other counts, and it travels with the figures of a task. The rule: its limits are the bounds of
//! the table, so that nothing is counted into a bucket where it does not belong.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::table::NANOS;

/// Spans of time by size.
///
/// ```
/// use std::time::Duration;
///
/// use highwater_metrics::Spans;
///
/// let mut spans = Spans::default();
/// spans.observe(Duration::from_millis(7));
/// assert_eq!(spans.count(), 1);
/// assert_eq!(spans.buckets().next(), Some((Duration::from_millis(10), 1)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// How many fell into each bucket; the last holds what is longer than all limits.
    counts: [u64; NANOS.len() + 1],
    sum: Duration,
}

impl Spans {
    /// Counts a span.
    pub fn observe(&mut self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.counts[NANOS.partition_point(|&limit| limit < nanos)] += 1;
        self.sum = self.sum.saturating_add(span);
    }

    /// Adds those that were counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The buckets that hold any: the limit of each, and how many. Beyond the last limit a very long span stands in.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let limits = NANOS.iter().copied().chain([u64::MAX >> 1]);
        let filled = limits.zip(self.counts).filter(|(_, count)| *count > 0);
        filled.map(|(limit, count)| (Duration::from_nanos(limit), count))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub const fn sum(&self) -> Duration {
        self.sum
    }
}

/// The same for spans that several threads observe, or one observes and another reads. No lock.
#[derive(Debug, Default)]
pub struct SharedSpans {
    counts: [AtomicU64; NANOS.len() + 1],
    sum_nanos: AtomicU64,
}

impl SharedSpans {
    /// Counts a span.
    pub fn observe(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let bucket = NANOS.partition_point(|&limit| limit < nanos);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was observed so far.
    pub fn read(&self) -> Spans {
        let mut spans = Spans {
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)),
            ..Spans::default()
        };
        for (count, shared) in spans.counts.iter_mut().zip(&self.counts) {
            *count = shared.load(Ordering::Relaxed);
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Cells;
    use crate::labels::NoLabels;
    use crate::table::checkpoint::{self, CheckpointScope};

    #[test]
    fn a_span_is_counted_where_its_limit_is_the_first_that_it_does_not_exceed() {
        let mut spans = Spans::default();
        for nanos in [10_000, 10_001, 3_600_000_000_000] {
            spans.observe(Duration::from_nanos(nanos));
        }
        let mut more = Spans::default();
        more.observe(Duration::from_micros(10));
        spans.merge(&more);
        let buckets: Vec<_> = spans.buckets().collect();
        let expected = [
            (Duration::from_micros(10), 2),
            (Duration::from_micros(50), 1),
            (Duration::from_nanos(u64::MAX >> 1), 1),
        ];
        assert_eq!(buckets, expected);
        assert_eq!(spans.count(), 4);
        assert_eq!(spans.sum(), Duration::from_nanos(3_600_000_030_001));
    }

    #[test]
    fn shared_spans_are_read_as_they_were_observed() {
        let (shared, mut spans) = (SharedSpans::default(), Spans::default());
        for millis in [1, 40, 40, 900_000] {
            shared.observe(Duration::from_millis(millis));
            spans.observe(Duration::from_millis(millis));
        }
        assert_eq!(shared.read(), spans);
    }

    #[test]
    fn what_is_counted_by_size_reaches_the_buckets_of_the_table() {
        let mut spans = Spans::default();
        spans.observe(Duration::from_millis(7));
        spans.observe(Duration::from_hours(1));
        let registry =
            crate::MetricsRegistry::new(&highwater_types::JobIdentity::parse("fleet").unwrap());
        let cells: Cells<CheckpointScope> = registry.cells(&NoLabels);
        cells.observe_all(checkpoint::DURATION, spans.buckets(), spans.sum());
        let text = registry.open_metrics();
        for line in [
            "highwater_checkpoint_duration_seconds_bucket{identity=\"fleet\",le=\"0.005\"} 0",
            "highwater_checkpoint_duration_seconds_bucket{identity=\"fleet\",le=\"0.01\"} 1",
            "highwater_checkpoint_duration_seconds_bucket{identity=\"fleet\",le=\"600.0\"} 1",
            "highwater_checkpoint_duration_seconds_bucket{identity=\"fleet\",le=\"+Inf\"} 2",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "`{line}` in\n{text}"
            );
        }
    }
}
