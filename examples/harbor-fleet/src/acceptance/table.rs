//! The table at the end: one row a drill.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::args::Drill;
use super::lanes::Ended;

/// HD-01 on the CI profile: from the kill until all subtasks run, in 95 of 100 runs (B.14).
const RECOVERY_LIMIT: Duration = Duration::from_secs(10);
const RECOVERED_PERCENT: usize = 95;

/// What the runs of one drill have shown.
#[derive(Clone, Debug, Default)]
struct Row {
    runs: u64,
    passed: u64,
    repeated: usize,
    steps: BTreeSet<String>,
    kills: usize,
    pending: u64,
    discarded: u64,
    lost: u64,
    doubled: u64,
    recoveries: Vec<Duration>,
}

/// All rows.
#[derive(Clone, Debug)]
pub(super) struct Table(BTreeMap<Drill, Row>);

impl Table {
    /// An empty row for each of these drills.
    pub(super) fn new(drills: Vec<Drill>) -> Self {
        let rows = drills.into_iter().map(|drill| (drill, Row::default()));
        Self(rows.collect())
    }

    /// Adds a run.
    pub(super) fn add(&mut self, ended: &Ended) {
        let row = self.0.entry(ended.order.drill).or_default();
        row.runs += 1;
        row.passed += u64::from(ended.is_passed());
        row.repeated += ended.repeated.len();
        let Ok(shown) = &ended.result else { return };
        row.kills += shown.kills.len();
        row.steps
            .extend(shown.kills.iter().map(|(step, _)| step.clone()));
        row.recoveries
            .extend(shown.kills.iter().filter_map(|(_, recovery)| *recovery));
        row.pending += shown.verdict.pending;
        row.discarded += shown.verdict.discarded;
        row.lost += shown.verdict.lost;
        row.doubled += shown.verdict.doubled;
    }

    fn sum(&self, of: impl Fn(&Row) -> u64) -> u64 {
        self.0.values().map(of).sum()
    }

    /// Whether every run passed, and recovery was fast enough often enough.
    pub(super) fn is_clean(&self) -> bool {
        let all_passed = self.0.values().all(|row| row.passed == row.runs);
        all_passed && self.is_fast()
    }

    fn is_fast(&self) -> bool {
        self.0.get(&Drill::RandomKill).is_none_or(|row| {
            let fast = row.recoveries.iter().filter(|one| **one <= RECOVERY_LIMIT);
            fast.count() * 100 >= row.recoveries.len() * RECOVERED_PERCENT
        })
    }

    /// The whole in a line.
    pub(super) fn summary(&self) -> String {
        let slow = if self.is_fast() {
            String::new()
        } else {
            format!(
                ", HD-01 recovered within {} s too seldom",
                RECOVERY_LIMIT.as_secs()
            )
        };
        format!(
            "{} of {} runs passed, lost {}, doubled {}, {} kills, {} records pending, {} of them discarded{slow}",
            self.sum(|row| row.passed),
            self.sum(|row| row.runs),
            self.sum(|row| row.lost),
            self.sum(|row| row.doubled),
            self.sum(|row| row.kills as u64),
            self.sum(|row| row.pending),
            self.sum(|row| row.discarded),
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<6} {:>4} {:>6} {:>8} {:>5} {:>8} {:>9} {:>4} {:>7} {:>15}  ended at",
            "drill",
            "runs",
            "passed",
            "repeated",
            "kills",
            "pending",
            "discarded",
            "lost",
            "doubled",
            "recovery (most)"
        )?;
        for (drill, row) in &self.0 {
            let mut recoveries = row.recoveries.clone();
            recoveries.sort_unstable();
            let median = recoveries.get(recoveries.len() / 2);
            let recovery = match (median, recoveries.last()) {
                (Some(median), Some(most)) => {
                    format!(
                        "{:.1} s ({:.1} s)",
                        median.as_secs_f64(),
                        most.as_secs_f64()
                    )
                }
                _ => "-".to_owned(),
            };
            let steps: Vec<_> = row.steps.iter().map(String::as_str).collect();
            writeln!(
                f,
                "{:<6} {:>4} {:>6} {:>8} {:>5} {:>8} {:>9} {:>4} {:>7} {recovery:>15}  {}",
                drill.name(),
                row.runs,
                row.passed,
                row.repeated,
                row.kills,
                row.pending,
                row.discarded,
                row.lost,
                row.doubled,
                steps.join(" "),
            )?;
        }
        Ok(())
    }
}
