//! How long checkpoints keep a task from its records: one observation for each checkpoint, the longest stretch.
//!
//! Filled by the task on its slot thread, copied into its figures, read by the metrics page. The rule: a stretch is one call
//! into the chain, at the barrier or for a portion of the snapshot, or the wait of records for the local store to be frozen;
//! between two of them records flow. A look at whether a thread beside has sealed the snapshot is none when it has not: such a
//! look comes with every turn and does no work, and would only count how often the machine had no core for the task.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of the buckets in nanoseconds: 1, 2 and 5 of each power of ten from a microsecond to ten seconds.
const LIMITS: [u64; 22] = {
    let mut limits = [0; 22];
    let (mut at, mut power) = (0, 1_000);
    while at < limits.len() {
        limits[at] = power * [1, 2, 5][at % 3];
        if at % 3 == 2 {
            power *= 10;
        }
        at += 1;
    }
    limits
};

/// The pauses of the checkpoints of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    /// How many fell into each bucket; the last holds what is longer than all limits.
    counts: [u64; LIMITS.len() + 1],
    sum: Duration,
    /// The longest stretch of the open snapshot.
    open: Duration,
}

impl Pauses {
    /// A stretch that the open snapshot took.
    pub fn stretch(&mut self, took: Duration) {
        self.open = self.open.max(took);
    }

    /// The open snapshot is whole: its longest stretch counts.
    pub fn end(&mut self) {
        let longest = std::mem::take(&mut self.open);
        let nanos = longest.as_nanos() as u64;
        self.counts[LIMITS.partition_point(|&limit| limit < nanos)] += 1;
        self.sum += longest;
    }

    /// The open snapshot was given up: it does not count.
    pub const fn give_up(&mut self) {
        self.open = Duration::ZERO;
    }

    /// The buckets that hold any: the limit of each, and how many. Beyond the last limit that of the next bucket stands in.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let limits = LIMITS.iter().copied().chain([u64::MAX >> 1]);
        let filled = limits.zip(self.counts).filter(|(_, count)| *count > 0);
        filled.map(|(limit, count)| (Duration::from_nanos(limit), count))
    }

    /// All of them together.
    pub const fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stretch_of_each_checkpoint_counts_once() {
        let mut pauses = Pauses::default();
        pauses.stretch(Duration::from_micros(40));
        pauses.stretch(Duration::from_millis(10));
        pauses.stretch(Duration::from_micros(7));
        pauses.end();
        pauses.stretch(Duration::from_mins(1));
        pauses.give_up();
        pauses.stretch(Duration::from_nanos(10_000_001));
        pauses.end();
        let buckets: Vec<_> = pauses.buckets().collect();
        let expected = [
            (Duration::from_millis(10), 1),
            (Duration::from_millis(20), 1),
        ];
        assert_eq!(buckets, expected);
        assert_eq!(pauses.sum(), Duration::from_nanos(20_000_001));
    }

    #[test]
    fn the_longest_of_all_have_a_bucket() {
        let mut pauses = Pauses::default();
        pauses.stretch(Duration::from_hours(1));
        pauses.end();
        assert_eq!(pauses.buckets().map(|(_, count)| count).sum::<u64>(), 1);
    }
}
