//! What comes of runs: one row for each experiment, the verdict over all of them, and the page.
//!
//! The rule: what could not be played has shown nothing. A refused run fails the whole as a failed one does, and says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::catalogue;
use super::spans::{self, Pace};
use crate::acceptance::judge::Verdict;

/// What a run that was played to its end shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) verdict: Verdict,
    /// From each fault until output that was written after it was committed.
    pub(super) recoveries: Vec<Duration>,
    /// Processes that ended by themselves and were started again.
    pub(super) restarts: u32,
    /// What somebody may want to know.
    pub(super) notes: Vec<String>,
}

/// How a run ended that is not tried again.
#[derive(Debug)]
pub(super) enum End {
    Played(Shown),
    /// This host cannot play it, and why.
    Refused(String),
    Failed(anyhow::Error),
}

impl End {
    /// Whether the run shows what it is there to show.
    pub(super) fn is_passed(&self) -> bool {
        match self {
            Self::Played(shown) => shown.verdict.violations.is_empty(),
            Self::Refused(_) | Self::Failed(_) => false,
        }
    }
}

/// What the runs of one experiment have shown.
#[derive(Clone, Debug, Default)]
struct Row {
    runs: u64,
    passed: u64,
    refused: u64,
    /// Tries that were invalid.
    invalid: u64,
    lost: u64,
    doubled: u64,
    restarts: u64,
    recoveries: Vec<Duration>,
    /// What was wrong.
    wrong: Vec<String>,
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome(BTreeMap<&'static str, Row>);

/// Median and most; nothing where there is none.
fn spread(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(most)) => {
            format!(
                "{:.1} s ({:.1} s)",
                median.as_secs_f64(),
                most.as_secs_f64()
            )
        }
        _ => "-".to_owned(),
    }
}

impl Outcome {
    /// Adds a run of the experiment `id`, with the reasons for which earlier tries of it were invalid.
    pub(super) fn add(&mut self, id: &'static str, invalid: &[String], end: &End) {
        let row = self.0.entry(id).or_default();
        row.runs += 1;
        row.passed += u64::from(end.is_passed());
        row.invalid += invalid.len() as u64;
        match end {
            End::Played(shown) => {
                row.lost += shown.verdict.lost;
                row.doubled += shown.verdict.doubled;
                row.restarts += u64::from(shown.restarts);
                row.recoveries.extend(&shown.recoveries);
                row.wrong.extend(shown.verdict.violations.iter().cloned());
            }
            End::Refused(why) => {
                row.refused += 1;
                row.wrong.push(format!("refused: {why}"));
            }
            End::Failed(error) => row.wrong.push(first_line(&format!("{error:#}"))),
        }
    }

    fn sum(&self, of: impl Fn(&Row) -> u64) -> u64 {
        self.0.values().map(of).sum()
    }

    /// Whether every run passed.
    pub(super) fn is_clean(&self) -> bool {
        self.0.values().all(|row| row.passed == row.runs)
    }

    /// The whole in a line.
    pub(super) fn summary(&self) -> String {
        let all: Vec<_> = self
            .0
            .values()
            .flat_map(|row| &row.recoveries)
            .copied()
            .collect();
        format!(
            "{} experiments, {} of {} runs passed, {} refused, lost {}, doubled {}, {} invalid tries were repeated, from a fault to \
             new committed output {}",
            self.0.len(),
            self.sum(|row| row.passed),
            self.sum(|row| row.runs),
            self.sum(|row| row.refused),
            self.sum(|row| row.lost),
            self.sum(|row| row.doubled),
            self.sum(|row| row.invalid),
            spread(&all),
        )
    }

    /// The table in Markdown.
    pub(super) fn table(&self) -> String {
        let mut text = "| id | runs | passed | invalid tries | refused | lost | doubled | processes that ended by themselves | \
                        fault to new committed output, p50 (max) |\n|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for (id, row) in &self.0 {
            let recovery = spread(&row.recoveries);
            writeln!(
                text,
                "| {id} | {} | {} | {} | {} | {} | {} | {} | {recovery} |",
                row.runs, row.passed, row.invalid, row.refused, row.lost, row.doubled, row.restarts,
            )
            .unwrap_or_default();
        }
        text
    }

    /// The page in Markdown.
    pub(super) fn page(&self, pace: Pace, seed: u64) -> String {
        let wrong = self.0.iter().flat_map(|(id, row)| {
            row.wrong
                .iter()
                .map(move |text| format!("- {id}: {text}\n"))
        });
        let wrong: String = wrong.collect();
        let wrong = if wrong.is_empty() {
            "Nothing.\n".to_owned()
        } else {
            wrong
        };
        let name = pace.name();
        format!(
            "# Experiments on a cluster: what came out\n\n`cargo xtask acceptance cluster --profile {name}`, seed {seed}: {}.\n\n\
             Two coordinators and three workers, each in a network namespace of its own, on a real Kafka and a real S3 server. \
             Times are from the fault, so that its own length is in them where it holds the output up.\n\n{}\n\
             ## What was wrong\n\n{wrong}\n## The experiments\n\n{}\n## How long things last\n\n{}",
            self.summary(),
            self.table(),
            catalogue::table(pace),
            spans::table(),
        )
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn played(lost: u64, seconds: u64) -> End {
        let violations = (lost > 0).then(|| "HB-80: something".to_owned());
        End::Played(Shown {
            verdict: Verdict {
                lost,
                violations: violations.into_iter().collect(),
                ..Verdict::default()
            },
            recoveries: vec![Duration::from_secs(seconds)],
            ..Shown::default()
        })
    }

    #[test]
    fn runs_that_passed_are_clean_and_their_times_are_spread() {
        let mut outcome = Outcome::default();
        for seconds in [1, 9, 3] {
            outcome.add("X09", &[], &played(0, seconds));
        }
        outcome.add("X10", &["too late".to_owned()], &played(0, 4));
        assert!(outcome.is_clean());
        let said = outcome.summary();
        for part in [
            "2 experiments",
            "4 of 4 runs passed",
            "0 refused",
            "lost 0, doubled 0",
            "1 invalid",
            "4.0 s (9.0 s)",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(
            outcome
                .table()
                .contains("| X09 | 3 | 3 | 0 | 0 | 0 | 0 | 0 | 3.0 s (9.0 s) |")
        );
    }

    #[test]
    fn a_loss_a_failure_and_a_refusal_each_fail_the_whole_and_say_why() {
        let ends = [
            played(2, 1),
            End::Failed(anyhow!("it hangs\nwith a log")),
            End::Refused("no control group".to_owned()),
        ];
        for (end, part) in ends
            .into_iter()
            .zip(["HB-80", "it hangs", "no control group"])
        {
            let mut outcome = Outcome::default();
            outcome.add("X64", &[], &end);
            assert!(!outcome.is_clean() && !end.is_passed());
            let page = outcome.page(Pace::Ci, 7);
            assert!(page.contains(part) && page.contains("seed 7"), "{page}");
            assert!(!page.contains("with a log"));
        }
    }

    #[test]
    fn a_page_has_one_title_and_all_tables() {
        let page = Outcome::default().page(Pace::Ci, 1);
        assert_eq!(
            page.lines().filter(|line| line.starts_with("# ")).count(),
            1
        );
        assert!(page.contains("| X16 |") && page.contains("`lease.duration`"));
        assert!(page.contains("Nothing."));
    }
}
