//! The alert rules for Prometheus, `deploy/observability/alerts.yaml`, printed by the example `alerts-yaml`.
//!
//! Each rule names its metrics by their handles, so one that is renamed is renamed here too, and one that is dropped does not compile. The
//! rules of the list: a rule says what is wrong, for how long that must last, and what to do next.

use std::fmt::Write as _;

use crate::json::quoted;
use crate::table::backpressure::CULPRIT;
use crate::table::exposition::HIDDEN;
use crate::table::hot_keys::SHARE;
use crate::table::operator::{LATE_DROPPED, RECORDS_IN};
use crate::table::process::{STATE_BUDGET, STATE_USED, STORE_BUDGET, STORE_USED};
use crate::table::sink::DARK;
use crate::table::source::{DEAD_LETTERS, DROPPED};
use crate::table::task::{BACKPRESSURED_RATIO, WATERMARK_LAG};
use crate::table::{checkpoint, job};

/// Whom an alert wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Somebody, now: the job does not work or does not keep its promises.
    Critical,
    /// Somebody in their working hours.
    Warning,
    /// Nobody: it is there for those who look.
    Info,
}

impl Severity {
    /// The word of the label.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// What an alert is about: which labels its expression leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Job,
    Operator,
    Process,
}

impl Subject {
    const fn named(self) -> &'static str {
        match self {
            Self::Job => "Job {{ $labels.identity }}",
            Self::Operator => "Job {{ $labels.identity }}, operator {{ $labels.operator }}",
            Self::Process => "Job {{ $labels.identity }}, process {{ $labels.instance }}",
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    pub(crate) name: &'static str,
    pub(crate) severity: Severity,
    /// For how long it must last.
    pub(crate) lasts: &'static str,
    subject: Subject,
    expression: String,
    /// What is wrong.
    pub(crate) wrong: &'static str,
    /// What follows from it, and what to do.
    next: &'static str,
}

/// All rules, in the order of the file.
pub(crate) fn all() -> Vec<Alert> {
    let groups = [
        leadership(),
        checkpoints(),
        flow(),
        output(),
        memory(),
        hints(),
    ];
    groups.into_iter().flatten().collect()
}

fn leadership() -> Vec<Alert> {
    let (leads, restarts) = (job::LEADS.metric().name, job::RESTARTS.metric().name);
    let (slots, needed) = (job::SLOTS.metric().name, job::SLOTS_NEEDED.metric().name);
    let (subtasks, running) = (
        job::SUBTASKS.metric().name,
        job::SUBTASKS_RUNNING.metric().name,
    );
    vec![
        Alert {
            name: "HighwaterNoLeader",
            severity: Severity::Critical,
            lasts: "1m",
            subject: Subject::Job,
            expression: format!("max by (identity) ({leads}) == 0"),
            wrong: "coordinators stand by and none leads",
            next: "Nothing is checkpointed and nothing committed; workers go on for takeover.timeout only. Ask a coordinator for \
                   `GET /v1/status`: its reason says what it waits for. Look whether it reaches the object store, where the lease and head lie.",
        },
        Alert {
            name: "HighwaterGone",
            severity: Severity::Critical,
            lasts: "2m",
            subject: Subject::Job,
            expression: format!(
                "(max by (identity) (max_over_time({leads}[1h])) == 1) unless on (identity) (max by (identity) ({leads}))"
            ),
            wrong: "it led within the last hour, and no process of it answers now",
            next: "If it was stopped or has finished, silence this. Else start it again: it goes on from the last checkpoint. The log of \
                   its last process ends with the reason and the exit code.",
        },
        Alert {
            name: "HighwaterSlotsMissing",
            severity: Severity::Critical,
            lasts: "2m",
            subject: Subject::Job,
            expression: format!("{slots} < {needed}"),
            wrong: "its workers have fewer slots than it needs",
            next: "It waits and processes nothing. `GET /v1/workers` says who is there; start the missing workers, or lower the parallelism.",
        },
        Alert {
            name: "HighwaterNotRunning",
            severity: Severity::Critical,
            lasts: "5m",
            subject: Subject::Job,
            expression: format!("{running} < {subtasks}"),
            wrong: "some of its subtasks do not run",
            next: "`GET /v1/status` says its phase and what it waits for, `GET /v1/exceptions` what failed last.",
        },
        Alert {
            name: "HighwaterRestarts",
            severity: Severity::Critical,
            lasts: "1m",
            subject: Subject::Job,
            expression: format!("increase({restarts}[15m]) >= 3"),
            wrong: "it has restarted three times within a quarter of an hour",
            next: "`GET /v1/exceptions` has the failures with task, worker and position. The same failure each time is one of the program or \
                   its input; others are of the outside: a worker, a sink, the store.",
        },
    ]
}

fn checkpoints() -> Vec<Alert> {
    let (last, interval) = (
        checkpoint::LAST_TIME.metric().name,
        checkpoint::INTERVAL.metric().name,
    );
    let (completed, running) = (
        checkpoint::COMPLETED.metric().name,
        job::RUNNING.metric().name,
    );
    let (in_a_row, took) = (
        checkpoint::FAILED_IN_A_ROW.metric().name,
        checkpoint::LAST_DURATION.metric().name,
    );
    vec![
        Alert {
            name: "HighwaterNoCheckpoint",
            severity: Severity::Critical,
            lasts: "1m",
            subject: Subject::Job,
            expression: format!(
                "(time() - {last} > 5 * {interval} + 60) or (({completed} == 0) and ({running} > 5 * {interval} + 60))"
            ),
            wrong: "no checkpoint has completed for five intervals and a minute",
            next: "After a failure it goes back that far, and output waits as long. `GET /v1/checkpoints` says why the last ones were given \
                   up, or which task has not answered. Barriers wait behind records: look for backpressure, then at the object store.",
        },
        Alert {
            name: "HighwaterCheckpointsFail",
            severity: Severity::Warning,
            lasts: "1m",
            subject: Subject::Job,
            expression: format!("{in_a_row} >= 3"),
            wrong: "three checkpoints in a row were given up",
            next: "`GET /v1/checkpoints` has the reason of each. With checkpoint.failures-max the job ends when there are more.",
        },
        Alert {
            name: "HighwaterCheckpointsSlow",
            severity: Severity::Warning,
            lasts: "15m",
            subject: Subject::Job,
            expression: format!("{took} > {interval}"),
            wrong: "a checkpoint takes longer than the interval",
            next: "It is checkpointed less often than it was told to. `GET /v1/checkpoints/NUMBER` has the slowest subtask of each task and what \
                   it stored. Raise checkpoint.interval, or use `rocksdb`, whose checkpoints hold what has changed.",
        },
    ]
}

fn flow() -> Vec<Alert> {
    let (lag, culprit) = (WATERMARK_LAG.metric().name, CULPRIT.metric().name);
    let held = BACKPRESSURED_RATIO.metric().name;
    vec![
        Alert {
            name: "HighwaterWatermarkLag",
            severity: Severity::Warning,
            lasts: "10m",
            subject: Subject::Operator,
            expression: format!("max by (identity, operator) ({lag}) > 300"),
            wrong: "its event time is more than five minutes behind the clock",
            next: "Windows fire that late. A job that reads old input is behind until it has caught up. Else `GET /v1/watermarks` says which \
                   subtask holds event time back: a split without records (set idle_after), a slow source, or backpressure.",
        },
        Alert {
            name: "HighwaterBackpressure",
            severity: Severity::Warning,
            lasts: "10m",
            subject: Subject::Operator,
            expression: format!(
                "({culprit} > 0.5) and on (identity) (max by (identity) ({held}) > 0.5)"
            ),
            wrong: "it holds the tasks before it back for more than half of the time",
            next: "The operator named here is the culprit, not one that waits. Busy: give it more parallelism, or look at its hot keys and its \
                   state. Not busy: it waits for the outside, such as a sink that commits slowly or a lookup.",
        },
    ]
}

fn output() -> Vec<Alert> {
    let (last, confirmed) = (
        checkpoint::LAST_NUMBER.metric().name,
        checkpoint::CONFIRMED_NUMBER.metric().name,
    );
    let (dark, letters) = (DARK.metric().name, DEAD_LETTERS.metric().name);
    let dropped = DROPPED.metric().name;
    vec![
        Alert {
            name: "HighwaterCommitsWait",
            severity: Severity::Critical,
            lasts: "5m",
            subject: Subject::Job,
            expression: format!("({last} > {confirmed}) and (changes({confirmed}[5m]) == 0)"),
            wrong: "the output of its last checkpoint is not confirmed",
            next: "No reader sees it, and no further checkpoint completes. `GET /v1/status` says what is waited for; look whether the system \
                   behind the sink answers. Nothing is lost: it is committed once it does.",
        },
        Alert {
            name: "HighwaterSinkDark",
            severity: Severity::Warning,
            lasts: "5m",
            subject: Subject::Operator,
            expression: format!("max by (identity, operator) ({dark}) > 0"),
            wrong: "a sink has no transaction and writes into its spool and log only",
            next: "Output is delayed, and a full spool (sink.spool) holds the job back. The log names why its session was lost; look at the \
                   system behind the sink.",
        },
        Alert {
            name: "HighwaterRecordsRefused",
            severity: Severity::Warning,
            lasts: "10m",
            subject: Subject::Operator,
            expression: format!(
                "sum by (identity, operator) (increase({letters}[10m]) + increase({dropped}[10m])) > 0"
            ),
            wrong: "dead letters, or records that are dropped as bad, keep coming",
            next: "Read the dead-letter output: each letter has split, position, reason and payload. Who writes the input has changed it, or the \
                   job's decoder is older than the input.",
        },
    ]
}

fn memory() -> Vec<Alert> {
    let (used, budget) = (STATE_USED.metric().name, STATE_BUDGET.metric().name);
    let (store, store_budget) = (STORE_USED.metric().name, STORE_BUDGET.metric().name);
    vec![
        Alert {
            name: "HighwaterStateNearBudget",
            severity: Severity::Warning,
            lasts: "5m",
            subject: Subject::Process,
            expression: format!("({used} > 0.9 * {budget}) unless ({store_budget} > 0)"),
            wrong: "its state takes more than nine tenths of the memory that it may",
            next: "With the backend `heap` the job fails when it is full. Raise state.memory, let state expire, spread it over more workers, or \
                   go on with the backend `rocksdb`, which reads the same checkpoints.",
        },
        Alert {
            name: "HighwaterStateOverBudget",
            severity: Severity::Critical,
            lasts: "5m",
            subject: Subject::Process,
            expression: format!("({used} > {budget}) or ({store} > 1.1 * ({store_budget} > 0))"),
            wrong: "its state takes more memory than it may",
            next: "The process may be killed for it. Give it more memory or lower state.memory, so that its caches are smaller; look at the \
                   metrics of its states and local stores for what grows.",
        },
    ]
}

fn hints() -> Vec<Alert> {
    let (late, records) = (LATE_DROPPED.metric().name, RECORDS_IN.metric().name);
    let (hot, hidden) = (SHARE.metric().name, HIDDEN.metric().name);
    vec![
        Alert {
            name: "HighwaterLateRecords",
            severity: Severity::Warning,
            lasts: "15m",
            subject: Subject::Operator,
            expression: format!(
                "sum by (identity, operator) (rate({late}[15m])) > 0.01 * sum by (identity, operator) (rate({records}[15m]))"
            ),
            wrong: "it drops more than one of a hundred records as too late",
            next: "The dashboard has how late they are, and the bound of the watermarks that would have caught them. Raise that bound, allow \
                   lateness, or take late records with a side output.",
        },
        Alert {
            name: "HighwaterHotKey",
            severity: Severity::Info,
            lasts: "15m",
            subject: Subject::Operator,
            expression: format!("max by (identity, operator, subtask) ({hot}) > 0.5"),
            wrong: "one key has more than half of the records of a subtask",
            next: "`GET /v1/hot-keys` has the hash of the key. More parallelism does not help that subtask. Aggregate before the key_by, or split \
                   the key in two steps.",
        },
        Alert {
            name: "HighwaterMetricsHidden",
            severity: Severity::Info,
            lasts: "10m",
            subject: Subject::Process,
            expression: format!("{hidden} > 0"),
            wrong: "some of its metrics are not shown, because there are too many of one kind",
            next: "Sums over subtasks are too low. Lower the number of user metrics, or look at the subtasks with `GET /v1/tasks`.",
        },
    ]
}

/// The file.
pub fn alerts() -> String {
    let mut file = HEAD.to_owned();
    for alert in all() {
        rule(&mut file, &alert).expect("writing into a string does not fail");
    }
    file
}

const HEAD: &str = "\
# generated by `cargo xtask tidy --write` from runtime/metrics/src/alerts.rs: edit there
groups:
  - name: highwater
    rules:
";

fn rule(file: &mut String, alert: &Alert) -> std::fmt::Result {
    let summary = format!("{}: {}.", alert.subject.named(), alert.wrong);
    writeln!(file, "      - alert: {}", alert.name)?;
    writeln!(file, "        expr: {}", quoted(&alert.expression))?;
    writeln!(file, "        for: {}", alert.lasts)?;
    writeln!(file, "        labels:")?;
    writeln!(file, "          severity: {}", alert.severity.word())?;
    writeln!(file, "        annotations:")?;
    writeln!(file, "          summary: {}", quoted(&summary))?;
    writeln!(file, "          description: {}", quoted(alert.next))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every word of an expression that would be a metric of Highwater, without what a histogram appends.
    pub(crate) fn metrics_in(expression: &str) -> Vec<&str> {
        let words = expression.split(|sign: char| !(sign.is_ascii_alphanumeric() || sign == '_'));
        let words = words.filter(|word| word.starts_with("highwater_"));
        words
            .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
            .collect()
    }

    /// Every name of the table.
    pub(crate) fn known() -> BTreeSet<&'static str> {
        let metrics = crate::table::ALL.iter().flat_map(|table| table.metrics);
        metrics.map(|metric| metric.name).collect()
    }

    #[test]
    fn the_file_is_up_to_date() {
        let file = include_str!("../../../deploy/observability/alerts.yaml");
        assert_eq!(file, alerts(), "run `cargo xtask tidy --write`");
    }

    #[test]
    fn every_rule_is_whole_and_of_metrics_that_there_are() {
        let (known, mut names) = (known(), BTreeSet::new());
        for alert in all() {
            assert!(names.insert(alert.name), "{} stands twice", alert.name);
            assert!(alert.name.starts_with("Highwater"), "{}", alert.name);
            let metrics = metrics_in(&alert.expression);
            assert!(!metrics.is_empty(), "{}", alert.expression);
            for metric in metrics {
                assert!(known.contains(metric), "{}: {metric}", alert.name);
            }
            let minutes = alert.lasts.strip_suffix('m').map(str::parse::<u32>);
            assert!(matches!(minutes, Some(Ok(1..=60))), "{}", alert.lasts);
            assert!(
                alert.next.ends_with('.') && alert.next.len() > 60,
                "{}",
                alert.next
            );
            assert!(!alert.wrong.ends_with('.'), "{}", alert.wrong);
            let left = alert.expression.matches('(').count();
            assert_eq!(
                left,
                alert.expression.matches(')').count(),
                "{}",
                alert.name
            );
        }
    }

    #[test]
    fn what_is_written_is_a_file_of_rules() {
        let file: serde_json::Value = serde_yaml::from_str(&alerts()).unwrap();
        let rules = file["groups"][0]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), all().len());
        for (rule, alert) in rules.iter().zip(all()) {
            assert_eq!(rule["alert"], alert.name);
            assert_eq!(rule["expr"], alert.expression);
            assert_eq!(rule["for"], alert.lasts);
            assert_eq!(rule["labels"]["severity"], alert.severity.word());
            assert_eq!(rule["annotations"]["description"], alert.next);
            let summary = rule["annotations"]["summary"].as_str().unwrap();
            assert!(summary.contains("{{ $labels.identity }}"), "{summary}");
        }
    }
}
