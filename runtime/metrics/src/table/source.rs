//! One reader of a source: lag, idleness and what it refused. One writer: its slot thread.
//!
//! Records and bytes read are those of the operator of the same name. How late records come is told by the operators that
//! judge event time, see [`super::operator`].

use crate::labels::SubtaskLabels;

scope! {
    /// A source.
    SourceScope, "source", SubtaskLabels;
    SPLITS: Gauge<Count> = "highwater_source_splits",
        "Splits that the reader holds and has not read to their end.", "";
    SPLITS_IDLE: Gauge<Count> = "highwater_source_splits_idle",
        "Splits that are idle and do not hold the watermark back.", "";
    SPLITS_HELD: Gauge<Count> = "highwater_source_splits_held",
        "Splits that wait behind an open transaction of somebody; they are not idle and hold the watermark back.", "";
    PENDING_RECORDS: Gauge<Count> = "highwater_source_pending_records",
        "Records between the position of the reader and the end of its splits, where the system can tell; of Kafka offsets, those of markers included.", "pendingRecords";
    PENDING_BYTES: Gauge<Bytes> = "highwater_source_pending_bytes",
        "Bytes between the position of the reader and the end of its splits, where the system can tell.", "pendingBytes";
    EMIT_LAG: Gauge<Millis> = "highwater_source_emit_lag_seconds",
        "Processing time minus event time of the record emitted last, when it was.", "currentEmitEventTimeLag";
    IDLE: Gauge<Millis> = "highwater_source_idle_seconds",
        "Time since the last record.", "sourceIdleTime";
    DEAD_LETTERS: Counter<Count> = "highwater_source_dead_letters_total",
        "Refused records that went to the dead-letter output.", "";
    DROPPED: Counter<Count> = "highwater_source_dropped_records_total",
        "Refused records that were dropped because the job says so.", "";
    FUTURE: Counter<Count> = "highwater_source_future_records_total",
        "Records whose event time was too far ahead of the clock to move the watermark, refused ones included.", "";
    COMMITS: Counter<Count> = "highwater_source_group_commits_total",
        "Positions that were written back to the consumer group after a checkpoint.", "commitsSucceeded";
    COMMITS_FAILED: Counter<Count> = "highwater_source_group_commits_failed_total",
        "Positions that could not be written back; state does not depend on them.", "commitsFailed";
}
