//! Compares what was put out with what the log says, rule by rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Expected, Observed, Pair};

/// The count that raises an alert.
pub(super) const ALERT_AT: u64 = 6;
/// How many violations of one rule are shown.
const SHOWN_MAX: usize = 10;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// Where and how it is broken.
    pub what: String,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The payments in the log.
    pub payments: u64,
    /// The pairs of user and window with a decline.
    pub pairs: u64,
    /// The pairs that must have an alert.
    pub hits: u64,
    /// The pairs whose alert depends on the reader's pace.
    pub undecided: u64,
    /// The alerts that were put out.
    pub alerts: u64,
    /// The late declines that were put out.
    pub late: u64,
    /// The lines that were no payments.
    pub malformed: u64,
    /// How many alerts, declines and dead letters are expected and missing.
    pub lost: u64,
    /// How many alerts, counts, declines and dead letters are there more than once.
    pub doubled: u64,
    /// What is wrong, by rule.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Judges `observed` by `expected`. The job must have read the whole log and been drained.
    pub fn new(expected: &Expected, observed: &Observed) -> Self {
        let mut report = Self {
            payments: expected.payments,
            pairs: expected.declines.len() as u64,
            hits: expected.hits().count() as u64,
            alerts: observed
                .alerts
                .values()
                .map(|alerts| alerts.len() as u64)
                .sum(),
            late: observed.late.values().sum(),
            malformed: expected.malformed,
            ..Self::default()
        };
        report.undecided = expected
            .declines
            .values()
            .filter(|declines| declines.in_time < ALERT_AT && declines.total >= ALERT_AT)
            .count() as u64;
        report.check_alerts_are_single(observed);
        let pairs: BTreeSet<&Pair> = expected
            .declines
            .keys()
            .chain(observed.alerts.keys())
            .chain(observed.counts.keys())
            .chain(observed.late.keys())
            .collect();
        for pair in pairs {
            report.check_pair(pair, expected, observed);
        }
        report.check_dead_letters(expected, observed);
        report.violations.sort();
        report
    }

    /// Whether every rule holds.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    fn violate(&mut self, rule: &'static str, what: String) {
        self.violations.push(Violation { rule, what });
    }

    fn check_alerts_are_single(&mut self, observed: &Observed) {
        let mut pairs_of_id: BTreeMap<&str, BTreeSet<&Pair>> = BTreeMap::new();
        for (pair, alerts) in &observed.alerts {
            if alerts.len() > 1 {
                self.doubled += alerts.len() as u64 - 1;
                self.violate("HB-32", format!("{pair} has {} alerts", alerts.len()));
            }
            for (id, count) in alerts {
                pairs_of_id.entry(id).or_default().insert(pair);
                if *count != ALERT_AT {
                    self.violate("HB-31", format!("{pair}: the alert was raised at {count}"));
                }
            }
        }
        for (id, pairs) in pairs_of_id {
            if pairs.len() > 1 {
                self.violate(
                    "HB-32",
                    format!("{} pairs share the alert id {id}", pairs.len()),
                );
            }
        }
    }

    fn check_pair(&mut self, pair: &Pair, expected: &Expected, observed: &Observed) {
        let declines = expected.declines.get(pair).copied().unwrap_or_default();
        let alerted = observed.alerts.contains_key(pair);
        let last = observed.counts.get(pair).copied().unwrap_or_default();
        let late = observed.late.get(pair).copied().unwrap_or_default();
        self.lost += declines.total.saturating_sub(last + late);
        self.doubled += (last + late).saturating_sub(declines.total);
        if let Some(repeated) = observed.repeated_counts.get(pair) {
            self.doubled += repeated;
            self.violate(
                "HB-12",
                format!("{pair}: {repeated} counts were put out again"),
            );
        }
        if alerted != (last >= ALERT_AT) {
            let has = if alerted { "an alert" } else { "no alert" };
            self.violate(
                "HB-33",
                format!("{pair} has {has}, and the last count is {last}"),
            );
        }
        if declines.in_time >= ALERT_AT && !alerted {
            self.lost += 1;
            let in_time = declines.in_time;
            self.violate(
                "HB-34",
                format!("{pair} has no alert, and {in_time} declines in time"),
            );
        }
        if declines.total < ALERT_AT && alerted {
            let total = declines.total;
            self.violate(
                "HB-34",
                format!("{pair} has an alert, and {total} declines in all"),
            );
        }
        if last + late != declines.total {
            let total = declines.total;
            self.violate(
                "HB-80",
                format!("{pair}: last count {last} + late {late}, and the log has {total}"),
            );
        }
        if last < declines.in_time {
            let in_time = declines.in_time;
            self.violate(
                "HB-24",
                format!("{pair}: last count {last}, and {in_time} declines were in time"),
            );
        }
    }

    fn check_dead_letters(&mut self, expected: &Expected, observed: &Observed) {
        self.lost += expected.malformed.saturating_sub(observed.dead_letters);
        self.doubled += observed.dead_letters.saturating_sub(expected.malformed);
        if observed.dead_letters != expected.malformed {
            self.violate(
                "HB-11",
                format!(
                    "{} dead letters, and the log has {} malformed lines",
                    observed.dead_letters, expected.malformed
                ),
            );
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "payments {}, malformed {}",
            self.payments, self.malformed
        )?;
        writeln!(
            f,
            "pairs of user and window: {} with declines, {} must alert, {} depend on lateness",
            self.pairs, self.hits, self.undecided
        )?;
        writeln!(
            f,
            "put out: {} alerts, {} late declines",
            self.alerts, self.late
        )?;
        if self.is_clean() {
            return write!(f, "every rule holds");
        }
        let mut by_rule: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for violation in &self.violations {
            by_rule
                .entry(violation.rule)
                .or_default()
                .push(&violation.what);
        }
        write!(f, "{} violations", self.violations.len())?;
        for (rule, all) in by_rule {
            write!(f, "\n  {rule}: {}", all.len())?;
            for what in all.iter().take(SHOWN_MAX) {
                write!(f, "\n    {what}")?;
            }
            if all.len() > SHOWN_MAX {
                write!(f, "\n    and {} more", all.len() - SHOWN_MAX)?;
            }
        }
        Ok(())
    }
}
