//! The figures: checkpoints by size and share, pauses, restores, and the bars over them.

use std::collections::BTreeMap;
use std::fmt;

use crate::bars::{Bar, Bound};
use crate::spread::Spread;

/// What a checkpoint cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    /// Bytes that it added to the store.
    pub(super) bytes: u64,
    /// From the trigger to the write of head.
    pub(super) seconds: f64,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} MB in {:.3} s",
            self.bytes as f64 / 1e6,
            self.seconds
        )
    }
}

/// What a restore cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restore {
    /// From before the start of the process until records could flow.
    pub(super) seconds_to_run: f64,
    /// The longest restore of a task; `None` = not told.
    pub(super) seconds_of_state: Option<f64>,
    /// Bytes of the checkpoint; `None` = not told.
    pub(super) bytes: Option<f64>,
    /// Of these: found on local disk; `None` = not told.
    pub(super) local_bytes: Option<f64>,
    /// Bytes of rows, in 10^9.
    pub(super) gigabytes: f64,
}

impl fmt::Display for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: Option<f64>| match bytes {
            Some(bytes) => format!("{:.1} MB", bytes / 1e6),
            None => "not told".to_owned(),
        };
        let of_state = match self.seconds_of_state {
            Some(seconds) => format!("{seconds:.3} s"),
            None => "not told".to_owned(),
        };
        write!(
            f,
            "{:.2} s for a GB; {:.2} s from process start until records flow, of these the state {of_state}; checkpoint {}, \
             of these from local disk {}",
            self.seconds_to_run / self.gigabytes,
            self.seconds_to_run,
            megabytes(self.bytes),
            megabytes(self.local_bytes)
        )
    }
}

/// Pauses in seconds, each as the upper bound of the bucket in which it lies; not a number where the job does not tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    pub(super) checkpoints: u64,
    pub(super) failed: u64,
    /// Bytes of rows, in 10^9.
    pub(super) gigabytes: f64,
    /// Records a second that the job might read, and that it did.
    pub(super) rate_due: f64,
    pub(super) rate: f64,
    /// p50, p99, p99.9, the longest.
    pub(super) quantiles: [f64; 4],
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// By size in thousandths of a GB and share.
    pub(super) checkpoints: BTreeMap<(u64, String), Vec<Checkpoint>>,
    pub(super) restores: Vec<(f64, &'static str, Restore)>,
    pub(super) pauses: Option<Pauses>,
}

/// The longest pause that is promised for 999 of 1,000 checkpoints.
const PAUSE_MILLIS: f64 = 10.0;
/// A checkpoint of unchanged state writes less than this, in MB.
const UNCHANGED_MB: f64 = 1.0;

impl Table {
    /// The promises that these runs can show.
    pub(super) fn bars(&self) -> impl Iterator<Item = Bar> + '_ {
        let pause = self.pauses.map(|pauses| Bar {
            name: "p99.9 of pauses",
            bound: Bound::AtMost(PAUSE_MILLIS),
            unit: " ms",
            value: pauses.quantiles[2] * 1e3,
        });
        let unchanged = self.checkpoints.iter();
        let unchanged = unchanged
            .filter(|((_, share), _)| share.starts_with("0 %"))
            .flat_map(|(_, rounds)| rounds.iter().map(|one| one.bytes))
            .max();
        let unchanged = unchanged.map(|bytes| Bar {
            name: "written when nothing changed",
            bound: Bound::AtMost(UNCHANGED_MB),
            unit: " MB",
            value: bytes as f64 / 1e6,
        });
        pause.into_iter().chain(unchanged)
    }

    /// Size, share, MB written, seconds.
    pub(super) fn checkpoint_lines(&self) -> Vec<[String; 4]> {
        let lines = self.checkpoints.iter();
        let lines = lines.map(|((size, share), rounds)| {
            let spread = |value: fn(&Checkpoint) -> f64| Spread::of(rounds.iter().map(value));
            [
                format!("{} GB", *size as f64 / 1e3),
                share.clone(),
                spread(|one| one.bytes as f64).shown(1e6),
                spread(|one| one.seconds).shown(1.0),
            ]
        });
        lines.collect()
    }

    /// Pauses and restores.
    pub(super) fn other_lines(&self) -> Vec<[String; 2]> {
        let mut lines = Vec::new();
        if let Some(pauses) = self.pauses {
            let [p50, p99, p999, most] = pauses.quantiles.map(|pause| pause * 1e3);
            lines.push([
                format!(
                    "pauses over {} checkpoints, {:.1} GB: p50, p99, p99.9, most",
                    pauses.checkpoints, pauses.gigabytes
                ),
                format!("{p50:.3}, {p99:.3}, {p999:.3}, {most:.3} ms (upper bounds)"),
            ]);
            lines.push([
                "... checkpoints that failed".to_owned(),
                pauses.failed.to_string(),
            ]);
            lines.push([
                "... records a second".to_owned(),
                format!("{:.0} of {:.0}", pauses.rate, pauses.rate_due),
            ]);
        }
        let restores = self.restores.iter();
        lines.extend(restores.map(|(size, from, one)| {
            [format!("restore of {size} GB from {from}"), one.to_string()]
        }));
        lines
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for [size, share, bytes, seconds] in self.checkpoint_lines() {
            writeln!(f, "{size:<8} {share:<16} {bytes:>32} MB {seconds:>24} s")?;
        }
        for [figure, value] in self.other_lines() {
            writeln!(f, "{figure}: {value}")?;
        }
        writeln!(f)?;
        for bar in self.bars() {
            writeln!(f, "{bar}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_that_the_job_does_not_tell_are_a_missed_bar() {
        let pauses = |p999| Pauses {
            checkpoints: 2_000,
            failed: 0,
            gigabytes: 1.0,
            rate_due: 25_000.0,
            rate: 25_000.0,
            quantiles: [0.001, 0.001, p999, 0.01],
        };
        let missed = |p999| {
            let table = Table {
                pauses: Some(pauses(p999)),
                ..Table::default()
            };
            table.bars().any(|bar| bar.missed().is_some())
        };
        assert!(!missed(0.01) && missed(0.02) && missed(f64::NAN));
    }

    #[test]
    fn a_checkpoint_of_unchanged_state_is_held_to_its_bar_in_every_size() {
        let mut table = Table::default();
        let of = |bytes| {
            vec![Checkpoint {
                bytes,
                seconds: 1.0,
            }]
        };
        table
            .checkpoints
            .insert((1_000, "0 % changed".to_owned()), of(1_000));
        table
            .checkpoints
            .insert((1_000, "10 % changed".to_owned()), of(9_000_000));
        assert!(table.bars().all(|bar| bar.missed().is_none()));
        table
            .checkpoints
            .insert((10_000, "0 % changed".to_owned()), of(2_000_000));
        let missed: Vec<_> = table.bars().filter_map(|bar| bar.missed()).collect();
        assert_eq!(missed, ["written when nothing changed 2.00 MB"]);
    }
}
