//! One reader of a source: lag, idleness and how late its records come. One writer: its slot thread.
//!
//! Records and bytes read are those of the operator of the same name. Lateness is measured against the largest event time
//! seen before in the same split, whatever the watermark strategy says: it shows which bound would have been enough.

use crate::labels::SubtaskLabels;

/// 1 ms to one day, in milliseconds.
const LATENESS_MILLIS: &[u64] = &[
    1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000,
    3_600_000, 86_400_000,
];

scope! {
    /// A source.
    SourceScope, "source", SubtaskLabels;
    SPLITS: Gauge<Count> = "highwater_source_splits",
        "Splits that the reader holds.", "";
    SPLITS_IDLE: Gauge<Count> = "highwater_source_splits_idle",
        "Splits that are idle and do not hold the watermark back.", "";
    PENDING_RECORDS: Gauge<Count> = "highwater_source_pending_records",
        "Records between the position of the reader and the end of its splits, where the system can tell.", "pendingRecords";
    PENDING_BYTES: Gauge<Bytes> = "highwater_source_pending_bytes",
        "Bytes between the position of the reader and the end of its splits, where the system can tell.", "pendingBytes";
    EMIT_LAG: Gauge<Millis> = "highwater_source_emit_lag_seconds",
        "Processing time minus event time of the record emitted last.", "currentEmitEventTimeLag";
    FETCH_LAG: Gauge<Millis> = "highwater_source_fetch_lag_seconds",
        "Processing time minus event time of the record fetched last.", "currentFetchEventTimeLag";
    IDLE: Gauge<Millis> = "highwater_source_idle_seconds",
        "Time since the last record.", "sourceIdleTime";
    LATENESS: Histogram<Millis> [LATENESS_MILLIS] = "highwater_source_lateness_seconds",
        "How far records lie behind the largest event time before them in their split.", "";
    SUGGESTED_BOUND: Gauge<Millis> = "highwater_source_suggested_bound_seconds",
        "The out-of-orderness bound that would have let 1 of 10,000 records be late.", "";
    DEAD_LETTERS: Counter<Count> = "highwater_source_dead_letters_total",
        "Records that could not be decoded and went to the dead-letter topic.", "";
    DECODE_DROPPED: Counter<Count> = "highwater_source_decode_dropped_total",
        "Records that could not be decoded and were dropped because the job says so.", "";
    COMMITS: Counter<Count> = "highwater_source_group_commits_total",
        "Positions that were written back to the consumer group after a checkpoint.", "commitsSucceeded";
    COMMITS_FAILED: Counter<Count> = "highwater_source_group_commits_failed_total",
        "Positions that could not be written back; state does not depend on them.", "commitsFailed";
}
