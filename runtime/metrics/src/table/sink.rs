//! One writer of an exactly-once sink: transactions, commits, what is held back. One writer: the thread that drives it.
//!
//! Records and bytes written are those of the operator of the same name.

use super::LONG_NANOS;
use crate::labels::SubtaskLabels;

scope! {
    /// A sink.
    SinkScope, "sink", SubtaskLabels;
    SEND_ERRORS: Counter<Count> = "highwater_sink_send_errors_total",
        "Sends and flushes that the other system refused or did not answer.", "numRecordsSendErrors";
    SEND_TIME: Histogram<Nanos> [LONG_NANOS] = "highwater_sink_flush_seconds",
        "Time that the flush before an acknowledged barrier took.", "currentSendTime";
    OPEN_TRANSACTIONS: Gauge<Count> = "highwater_sink_open_transactions",
        "Transactions that are open in the other system.", "";
    COMMITS: Counter<Count> = "highwater_sink_commits_total",
        "Checkpoints whose output was confirmed to be visible after the order to commit it.", "successfulCommittables";
    COMMITS_RETRIED: Counter<Count> = "highwater_sink_commits_retried_total",
        "Commits that had no clear answer; reading back decides.", "retriedCommittables";
    REPUBLISHED: Counter<Count> = "highwater_sink_republished_total",
        "Outputs of a checkpoint that were sent again, from the spool or the sink log.", "";
    COMMIT_TIME: Histogram<Nanos> [LONG_NANOS] = "highwater_sink_commit_seconds",
        "Time from the commit order to the confirmed commit.", "";
    PENDING_RECORDS: Gauge<Count> = "highwater_sink_pending_records",
        "Records that were written and are not yet committed.", "pendingCommittables";
    SPOOL: Gauge<Bytes> = "highwater_sink_spool_bytes",
        "Bytes in the spool; a full spool is backpressure.", "";
    DARK: Gauge<Count> = "highwater_sink_dark",
        "Whether the writer has no usable transaction and writes to spool and log only.", "";
}
