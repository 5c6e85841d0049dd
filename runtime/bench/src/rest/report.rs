//! What schemathesis says of a run, read: its report, and the part of its log that a developer acts upon.

use anyhow::{Context, Result};
use serde_json::Value;

/// The codes of answers that are server errors.
const SERVER_ERRORS: [&str; 2] = ["ST101", "ST102"];
/// What is no news where somebody shows too little.
const EXPECTED: &str = "missing_auth";
/// Operations that a warning names.
const NAMED_MAX: usize = 4;

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    code: String,
    title: String,
    count: u64,
    operations: Vec<String>,
}

impl Found {
    fn is_server_error(&self) -> bool {
        SERVER_ERRORS.contains(&self.code.as_str())
    }
}

/// The report of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Operations that were asked for.
    pub(super) operations: u64,
    /// Those that were to be.
    selected: u64,
    /// Requests that were drawn.
    pub(super) cases: u64,
    found: Vec<Found>,
    /// What kept schemathesis from asking or judging.
    errors: Vec<String>,
    warnings: Vec<String>,
    /// Why it ended.
    end: String,
}

impl Report {
    /// Reads a report.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(text).context("the report is no JSON")?;
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
        let known = |pointer: &str| {
            number(pointer).with_context(|| format!("the report has no number at {pointer}"))
        };
        let list = |name: &str| report[name].as_array().into_iter().flatten();
        let found = list("failures").map(|group| Found {
            code: words(&group["code"]),
            title: words(&group["title"]),
            count: group["count"].as_u64().unwrap_or(1),
            operations: group["operations"]
                .as_array()
                .into_iter()
                .flatten()
                .map(words)
                .collect(),
        });
        let errors = list("errors").map(|group| words(&group["title"]));
        Ok(Self {
            // Without operations the document could not be read: the errors say why.
            operations: number("/operations/tested").unwrap_or(0),
            selected: number("/operations/selected").unwrap_or(0),
            cases: known("/test_cases/generated")?,
            found: found.collect(),
            errors: errors.collect(),
            warnings: warnings(&report["warnings"]),
            end: words(&report["stop_reason"]),
        })
    }

    /// Answers that are server errors, each kind of each operation once.
    pub(super) fn server_errors(&self) -> u64 {
        let found = self.found.iter().filter(|found| found.is_server_error());
        found.map(|found| found.count).sum()
    }

    /// Answers that differ from the document in another way.
    pub(super) fn failures(&self) -> u64 {
        let found = self.found.iter().filter(|found| !found.is_server_error());
        found.map(|found| found.count).sum()
    }

    /// What kept schemathesis from asking or judging.
    pub(super) fn errors(&self) -> u64 {
        self.errors.len() as u64
    }

    /// Whether everything was asked for, and each answer is as the document says.
    pub(super) fn is_clean(&self) -> bool {
        self.is_whole() && self.found.is_empty() && self.errors.is_empty()
    }

    /// Whether every operation was asked for.
    fn is_whole(&self) -> bool {
        let asked = self.operations > 0 && self.operations == self.selected;
        asked && self.cases > 0 && self.end == "completed"
    }

    /// What was found, and what a reader should know, one thing a line.
    pub(super) fn lines(&self) -> Vec<String> {
        let found = self.found.iter().map(|found| {
            let Found {
                code,
                title,
                count,
                operations,
            } = found;
            format!("{code} {title}, {count}: {}", operations.join(", "))
        });
        let errors = self.errors.iter().map(|title| format!("error: {title}"));
        let mut lines: Vec<_> = found.chain(errors).collect();
        if !self.is_whole() {
            let (asked, all, cases) = (self.operations, self.selected, self.cases);
            lines.push(format!(
                "{asked} of {all} operations were asked for, {cases} requests; the end: {}",
                self.end
            ));
        }
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("warning: {warning}")),
        );
        lines
    }
}

fn words(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Warnings with the first operations of each.
fn warnings(all: &Value) -> Vec<String> {
    let kinds = all.as_object().into_iter().flatten();
    let kinds = kinds.filter(|(kind, _)| *kind != EXPECTED);
    kinds
        .filter_map(|(kind, labels)| {
            let labels = labels.as_array().filter(|labels| !labels.is_empty())?;
            let named = labels.iter().take(NAMED_MAX).filter_map(Value::as_str);
            let named = named.collect::<Vec<_>>().join(", ");
            let more = if labels.len() > NAMED_MAX {
                ", ..."
            } else {
                ""
            };
            Some(format!("{kind}: {named}{more}"))
        })
        .collect()
}

/// The sections of a log that tell of failures and errors, each with a command that repeats its request.
pub(super) fn findings(log: &str) -> &str {
    let is_section = |line: &str| line.starts_with("==") && line.trim_end().ends_with("==");
    let offset = |wanted: &dyn Fn(&str) -> bool| {
        let mut at = 0;
        for line in log.split_inclusive('\n') {
            if is_section(line) && wanted(line) {
                return Some(at);
            }
            at += line.len();
        }
        None
    };
    let begin = offset(&|line: &str| line.contains(" ERRORS ") || line.contains(" FAILURES "));
    let end = offset(&|line: &str| line.contains(" WARNINGS ") || line.contains(" SUMMARY "));
    match (begin, end) {
        (Some(begin), Some(end)) if begin < end => log[begin..end].trim_end(),
        (Some(begin), _) => log[begin..].trim_end(),
        (None, _) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = r#"{
        "stop_reason": "completed", "complete": true, "exit_code": 0,
        "operations": {"total": 17, "selected": 17, "tested": 17, "errored": 0, "skipped": 0},
        "test_cases": {"generated": 900, "with_failures": 0},
        "failures": [], "errors": [],
        "warnings": {"missing_auth": ["GET /v1/status"], "missing_test_data": ["a", "b", "c", "d", "e"], "rate_limited": []}
    }"#;

    #[test]
    fn a_report_without_findings_is_clean_and_keeps_its_warnings() {
        let report = Report::parse(CLEAN).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.operations, report.cases), (17, 900));
        assert_eq!(
            report.lines(),
            ["warning: missing_test_data: a, b, c, d, ..."]
        );
    }

    #[test]
    fn server_errors_are_counted_apart_and_every_finding_has_a_line() {
        let groups = r#""failures": [
            {"code": "ST101", "title": "Server error", "count": 2, "operations": ["POST /v1/stop", "GET /metrics"]},
            {"code": "ST103", "title": "Undocumented HTTP status code", "count": 3, "operations": ["GET /v1/tasks"]}
        ], "errors": [{"title": "Network Error", "count": 1}]"#;
        let text = CLEAN.replace(r#""failures": [], "errors": []"#, groups);
        let report = Report::parse(&text).unwrap();
        assert_eq!(
            (report.server_errors(), report.failures(), report.errors()),
            (2, 3, 1)
        );
        assert!(!report.is_clean());
        let lines = report.lines().join("\n");
        assert!(
            lines.contains("ST101 Server error, 2: POST /v1/stop, GET /metrics"),
            "{lines}"
        );
        assert!(lines.contains("error: Network Error"), "{lines}");
    }

    #[test]
    fn a_run_that_did_not_ask_for_everything_is_not_clean() {
        for (from, to) in [
            ("\"tested\": 17", "\"tested\": 16"),
            ("\"completed\"", "\"server_unavailable\""),
            ("\"generated\": 900", "\"generated\": 0"),
        ] {
            let report = Report::parse(&CLEAN.replace(from, to)).unwrap();
            assert!(!report.is_clean(), "{to}");
        }
        assert!(Report::parse("{}").is_err());
        let unread = CLEAN.replace("\"operations\": {", "\"none\": {");
        assert!(!Report::parse(&unread).unwrap().is_clean());
    }

    #[test]
    fn the_findings_of_a_log_are_between_its_progress_and_its_summary() {
        let log = "Schemathesis\n  fuzzing\n===== FAILURES =====\n__ POST /v1/stop __\n    curl -X POST\n\n\
                   ===== WARNINGS =====\nlow\n===== SUMMARY =====\nend\n";
        assert_eq!(
            findings(log),
            "===== FAILURES =====\n__ POST /v1/stop __\n    curl -X POST"
        );
        assert_eq!(findings("all is well\n===== SUMMARY =====\n"), "");
        assert_eq!(findings("===== ERRORS =====\nx\n"), "===== ERRORS =====\nx");
    }
}
