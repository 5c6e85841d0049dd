//! What the job has put out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::parse::{payment, time_ms};
use super::{OracleError, Pair};

/// The committed output of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The alerts of each user and window: their ids and counts.
    pub alerts: BTreeMap<Pair, Vec<(String, u64)>>,
    /// The last count of each user and window.
    pub counts: BTreeMap<Pair, u64>,
    /// How often a count of a user and window was put out again: a count only ever rises.
    pub repeated_counts: BTreeMap<Pair, u64>,
    seen_counts: BTreeSet<(Pair, u64)>,
    /// How many declines of each user and window came too late.
    pub late: BTreeMap<Pair, u64>,
    /// How many payments came too late, whatever their status.
    pub late_payments: u64,
    /// How many lines were no payments.
    pub dead_letters: u64,
}

const WINDOW_MS: i64 = 600_000;

impl Observed {
    /// Adds lines of the alert topic. Only alerts of the decline rule are judged: those of the spend rule depend on when
    /// payments were handled.
    ///
    /// # Errors
    /// When a line is no alert.
    pub fn add_alerts<L: AsRef<[u8]>>(
        &mut self,
        lines: impl IntoIterator<Item = L>,
    ) -> Result<(), OracleError> {
        each("alerts", lines, |line| {
            let value: Value = serde_json::from_slice(line).ok()?;
            if value.get("rule")?.as_str()? != "R1" {
                return Some(());
            }
            let id = value.get("alert_id")?.as_str()?.to_owned();
            let count = value.get("count_at_alert")?.as_u64()?;
            self.alerts
                .entry(pair(&value)?)
                .or_default()
                .push((id, count));
            Some(())
        })
    }

    /// Adds lines of the count topic, in the order in which they were committed.
    ///
    /// # Errors
    /// When a line is no count.
    pub fn add_counts<L: AsRef<[u8]>>(
        &mut self,
        lines: impl IntoIterator<Item = L>,
    ) -> Result<(), OracleError> {
        each("decline counts", lines, |line| {
            let value: Value = serde_json::from_slice(line).ok()?;
            let count = value.get("count")?.as_u64()?;
            let pair = pair(&value)?;
            if !self.seen_counts.insert((pair.clone(), count)) {
                *self.repeated_counts.entry(pair.clone()).or_default() += 1;
            }
            self.counts.insert(pair, count);
            Some(())
        })
    }

    /// Adds lines of the topic of late payments.
    ///
    /// # Errors
    /// When a line is no payment.
    pub fn add_late<L: AsRef<[u8]>>(
        &mut self,
        lines: impl IntoIterator<Item = L>,
    ) -> Result<(), OracleError> {
        each("late payments", lines, |line| {
            let seen = payment(line)?;
            self.late_payments += 1;
            if seen.status == "DECLINED" {
                let window_start_ms = seen.event_time_ms.div_euclid(WINDOW_MS) * WINDOW_MS;
                let user_id = seen.user_id;
                let pair = Pair {
                    user_id,
                    window_start_ms,
                };
                *self.late.entry(pair).or_default() += 1;
            }
            Some(())
        })
    }

    /// Adds dead letters, whatever they look like.
    pub fn add_dead_letters<L>(&mut self, lines: impl IntoIterator<Item = L>) {
        self.dead_letters += lines.into_iter().count() as u64;
    }
}

fn pair(value: &Value) -> Option<Pair> {
    Some(Pair {
        user_id: value.get("user_id")?.as_str()?.to_owned(),
        window_start_ms: time_ms(value.get("window_start")?)?,
    })
}

fn each<L: AsRef<[u8]>>(
    topic: &'static str,
    lines: impl IntoIterator<Item = L>,
    mut add: impl FnMut(&[u8]) -> Option<()>,
) -> Result<(), OracleError> {
    for (line, bytes) in (1..).zip(lines) {
        let bytes = bytes.as_ref();
        add(bytes).ok_or_else(|| OracleError::OutputLine {
            topic,
            line,
            text: bytes.escape_ascii().to_string(),
        })?;
    }
    Ok(())
}
