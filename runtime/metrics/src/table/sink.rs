//! One writer of a sink: transactions, commits, what is held back. One writer: its slot thread.
//!
//! Records and bytes written are those of the operator of the same name.

use super::LONG_NANOS;
use crate::labels::SubtaskLabels;

scope! {
    /// A sink.
    SinkScope, "sink", SubtaskLabels;
    SEND_ERRORS: Counter<Count> = "highwater_sink_send_errors_total",
        "Sends that the other system refused or did not answer.", "numRecordsSendErrors";
    SEND_TIME: Histogram<Nanos> [LONG_NANOS] = "highwater_sink_flush_seconds",
        "Time that the flush before an acknowledged barrier took.", "currentSendTime";
    OPEN_TRANSACTIONS: Gauge<Count> = "highwater_sink_open_transactions",
        "Transactions that are open in the other system.", "";
    COMMITS: Counter<Count> = "highwater_sink_commits_total",
        "Commits that were confirmed.", "successfulCommittables";
    COMMITS_RETRIED: Counter<Count> = "highwater_sink_commits_retried_total",
        "Commits that had no clear answer and were decided by reading back.", "retriedCommittables";
    COMMITS_FAILED: Counter<Count> = "highwater_sink_commits_failed_total",
        "Commits that stopped the job because they could not be confirmed.", "failedCommittables";
    REPUBLISHED: Counter<Count> = "highwater_sink_republished_total",
        "Outputs of a checkpoint that were sent again from the sink log.", "";
    COMMIT_TIME: Histogram<Nanos> [LONG_NANOS] = "highwater_sink_commit_seconds",
        "Time from the commit order to the confirmed commit.", "";
    PENDING_RECORDS: Gauge<Count> = "highwater_sink_pending_records",
        "Records that were written and are not yet committed.", "pendingCommittables";
    SPOOL: Gauge<Bytes> = "highwater_sink_spool_bytes",
        "Bytes in the local spool; a full spool is backpressure.", "";
    DARK: Gauge<Count> = "highwater_sink_dark",
        "Whether the writer has no usable transaction and writes to spool and log only.", "";
}
