//! The table at the end: one row a drill.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::args::Drill;
use super::lanes::Ended;

/// HD-01 on the CI profile: from the kill until all subtasks run.
const RECOVERY_LIMIT: Duration = Duration::from_secs(10);
/// HC-02 on the CI profile: from the barrier of a rescale until records flow again.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// Both are kept in so many of 100 cases (B.14).
const IN_TIME_PERCENT: usize = 95;

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
    pauses: Vec<Duration>,
}

/// What is wrong with times that are above a limit too often.
fn too_slow(what: &str, times: &[Duration], limit: Duration) -> Option<String> {
    let in_time = times.iter().filter(|one| **one <= limit);
    let is_fast = in_time.count() * 100 >= times.len() * IN_TIME_PERCENT;
    (!is_fast).then(|| format!("{what} within {} s too seldom", limit.as_secs()))
}

/// Median and most.
fn spread(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(most)) => {
            let (median, most) = (median.as_secs_f64(), most.as_secs_f64());
            format!("{median:.1} s ({most:.1} s)")
        }
        _ => "-".to_owned(),
    }
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
        row.pauses.extend(&shown.pauses);
        row.pending += shown.verdict.pending;
        row.discarded += shown.verdict.discarded;
        row.lost += shown.verdict.lost;
        row.doubled += shown.verdict.doubled;
    }

    fn sum(&self, of: impl Fn(&Row) -> u64) -> u64 {
        self.0.values().map(of).sum()
    }

    /// Whether every run passed, and recoveries and rescales were fast enough often enough.
    pub(super) fn is_clean(&self) -> bool {
        let all_passed = self.0.values().all(|row| row.passed == row.runs);
        all_passed && self.slow().is_empty()
    }

    /// What was too slow too often.
    fn slow(&self) -> Vec<String> {
        let recovered = self.0.get(&Drill::RandomKill);
        let recovered =
            recovered.and_then(|row| too_slow("HD-01 recovered", &row.recoveries, RECOVERY_LIMIT));
        let went_on = self.0.get(&Drill::LiveRescale);
        let went_on = went_on.and_then(|row| too_slow("HC-02 went on", &row.pauses, PAUSE_LIMIT));
        recovered.into_iter().chain(went_on).collect()
    }

    /// The whole in a line.
    pub(super) fn summary(&self) -> String {
        let counted = format!(
            "{} of {} runs passed, lost {}, doubled {}, {} kills, {} records pending, {} of them discarded",
            self.sum(|row| row.passed),
            self.sum(|row| row.runs),
            self.sum(|row| row.lost),
            self.sum(|row| row.doubled),
            self.sum(|row| row.kills as u64),
            self.sum(|row| row.pending),
            self.sum(|row| row.discarded),
        );
        [vec![counted], self.slow()].concat().join(", ")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<6} {:>4} {:>6} {:>8} {:>5} {:>8} {:>9} {:>4} {:>7} {:>15} {:>15}  ended at",
            "drill",
            "runs",
            "passed",
            "repeated",
            "kills",
            "pending",
            "discarded",
            "lost",
            "doubled",
            "recovery (most)",
            "pause (most)"
        )?;
        for (drill, row) in &self.0 {
            let (recovery, pause) = (spread(&row.recoveries), spread(&row.pauses));
            let steps: Vec<_> = row.steps.iter().map(String::as_str).collect();
            writeln!(
                f,
                "{:<6} {:>4} {:>6} {:>8} {:>5} {:>8} {:>9} {:>4} {:>7} {recovery:>15} {pause:>15}  {}",
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
