//! Sources on the OpenMetrics page.

use highwater_metrics::table::operator::{self, OperatorScope};
use highwater_metrics::table::source::{self, SourceScope};
use highwater_metrics::{MetricsRegistry, SubtaskLabels};
use highwater_operators::SourceReport;
use highwater_protocol::job::TaskId;

/// Puts what one reader tells on the page: its records as those of an operator, everything else as that of a source.
pub(super) fn publish(registry: &MetricsRegistry, id: &TaskId, report: &SourceReport) {
    let labels = SubtaskLabels {
        operator: id.vertex.clone(),
        subtask: id.subtask,
    };
    let cells = registry.cells::<OperatorScope>(&labels);
    let refused = report.dropped + report.dead_letters;
    cells.raise(operator::RECORDS_IN, report.records + refused);
    cells.raise(operator::RECORDS_OUT, report.records);
    cells.raise(operator::CHUNKS_IN, report.chunks);
    cells.raise(operator::BYTES_IN, report.read_bytes);
    cells.raise(operator::BYTES_OUT, report.sent_bytes);
    let cells = registry.cells::<SourceScope>(&labels);
    cells.set(source::SPLITS, report.splits);
    cells.set(source::SPLITS_IDLE, report.splits_idle);
    cells.set(source::SPLITS_HELD, report.held);
    if let Some(records) = report.pending_records {
        cells.set(source::PENDING_RECORDS, records);
    }
    if let Some(bytes) = report.pending_bytes {
        cells.set(source::PENDING_BYTES, bytes);
    }
    if let Some(lag) = report.emit_lag_ms {
        cells.set(source::EMIT_LAG, lag);
    }
    if let Some(idle) = report.idle_ms {
        cells.set(source::IDLE, idle);
    }
    cells.raise(source::DEAD_LETTERS, report.dead_letters);
    cells.raise(source::DROPPED, report.dropped);
    cells.raise(source::FUTURE, report.future);
    cells.raise(source::COMMITS, report.group_commits);
    cells.raise(source::COMMITS_FAILED, report.group_commits_failed);
}
