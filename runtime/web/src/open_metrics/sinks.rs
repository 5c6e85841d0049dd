//! Exactly-once sinks on the OpenMetrics page.

use highwater_metrics::table::sink::{self, SinkScope};
use highwater_metrics::{MetricsRegistry, SubtaskLabels};
use highwater_operators::SinkReport;

/// Puts what the driver of one slot told on the page.
pub(super) fn publish(registry: &MetricsRegistry, labels: &SubtaskLabels, report: &SinkReport) {
    let cells = registry.cells::<SinkScope>(labels);
    cells.raise(sink::SEND_ERRORS, report.send_errors);
    let flushes = &report.flushes;
    cells.observe_all(sink::SEND_TIME, flushes.buckets(), flushes.sum());
    cells.set(sink::OPEN_TRANSACTIONS, report.open_transactions);
    cells.raise(sink::COMMITS, report.commits);
    cells.raise(sink::COMMITS_RETRIED, report.commits_retried);
    cells.raise(sink::REPUBLISHED, report.republished);
    let commits = &report.commit_times;
    cells.observe_all(sink::COMMIT_TIME, commits.buckets(), commits.sum());
    cells.set(sink::PENDING_RECORDS, report.pending_records);
    cells.set(sink::SPOOL, report.spool_bytes);
    cells.set(sink::DARK, u64::from(report.is_dark));
}
