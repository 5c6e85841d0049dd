//! Checkpoints as the coordinator completes them. One writer: the coordinator's loop.

use super::LONG_NANOS;
use crate::labels::NoLabels;

scope! {
    /// The checkpoints of the job.
    CheckpointScope, "checkpoint", NoLabels;
    COMPLETED: Counter<Count> = "highwater_checkpoints_completed_total",
        "Checkpoints that head names or named.", "numberOfCompletedCheckpoints";
    FAILED: Counter<Count> = "highwater_checkpoints_failed_total",
        "Checkpoints that were given up before head named them.", "numberOfFailedCheckpoints";
    FAILED_IN_A_ROW: Gauge<Count> = "highwater_checkpoints_failed_in_a_row",
        "Checkpoints that were given up since the last one that completed.", "";
    IN_PROGRESS: Gauge<Count> = "highwater_checkpoints_in_progress",
        "Checkpoints that are being taken now.", "numberOfInProgressCheckpoints";
    INTERVAL: Gauge<Nanos> = "highwater_checkpoint_interval_seconds",
        "From the start of one checkpoint to the start of the next, as the settings have it now.", "";
    DURATION: Histogram<Nanos> [LONG_NANOS] = "highwater_checkpoint_duration_seconds",
        "Time from the trigger to the write of head, for completed checkpoints.", "lastCheckpointDuration";
    LAST_NUMBER: Gauge<Count> = "highwater_checkpoint_last_number",
        "The number of the last completed checkpoint.", "lastCompletedCheckpointId";
    LAST_TIME: Gauge<Millis> = "highwater_checkpoint_last_completed_timestamp_seconds",
        "When the last checkpoint completed, in seconds since the Unix epoch.", "lastCheckpointCompletedTimestamp";
    LAST_DURATION: Gauge<Nanos> = "highwater_checkpoint_last_duration_seconds",
        "How long the last completed checkpoint took.", "lastCheckpointDuration";
    LAST_BYTES: Gauge<Bytes> = "highwater_checkpoint_last_written_bytes",
        "Bytes that the last completed checkpoint wrote.", "lastCheckpointSize";
    LAST_FULL_BYTES: Gauge<Bytes> = "highwater_checkpoint_last_full_bytes",
        "Bytes that a restore of the last completed checkpoint reads.", "lastCheckpointFullSize";
    CONFIRMED_NUMBER: Gauge<Count> = "highwater_checkpoint_confirmed_number",
        "The last checkpoint whose output is known to be committed in every sink.", "";
    HEAD_CONFLICTS: Counter<Count> = "highwater_checkpoint_head_conflicts_total",
        "Writes of head whose answer was unclear or refused and had to be read back.", "";
    SAVEPOINTS: Counter<Count> = "highwater_savepoints_completed_total",
        "Savepoints that this coordinator copied whole while the job ran.", "";
    RESTORED_FETCHED: Gauge<Bytes> = "highwater_checkpoint_restored_fetched_bytes",
        "Bytes of state that the attempt fetched from the store.", "";
    RESTORED_LOCAL: Gauge<Bytes> = "highwater_checkpoint_restored_local_bytes",
        "Bytes of state that the attempt found on local disk.", "";
    RESTORE: Gauge<Millis> = "highwater_checkpoint_last_restore_timestamp_seconds",
        "When state was last restored, in seconds since the Unix epoch.", "lastCheckpointRestoreTimestamp";
}
