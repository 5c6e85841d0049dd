//! One subtask of a chain: what it does with its time, its watermark, its part in checkpoints. One writer: its slot thread.
//!
//! The label `operator` is the first operator of the chain.

use super::SHORT_NANOS;
use crate::labels::SubtaskLabels;

scope! {
    /// A task.
    TaskScope, "task", SubtaskLabels;
    BUSY: Counter<Nanos> = "highwater_task_busy_seconds_total",
        "Time spent on records, timers and barriers.", "accumulateBusyTimeMs";
    IDLE: Counter<Nanos> = "highwater_task_idle_seconds_total",
        "Time with nothing to do.", "accumulateIdleTimeMs";
    BACKPRESSURED: Counter<Nanos> = "highwater_task_backpressured_seconds_total",
        "Time spent waiting for credit of an output.", "accumulateBackPressuredTimeMs";
    BUSY_RATIO: Gauge<Ratio> = "highwater_task_busy_ratio",
        "Share of the last window spent busy; the three shares add up to one.", "busyTimeMsPerSecond";
    IDLE_RATIO: Gauge<Ratio> = "highwater_task_idle_ratio",
        "Share of the last window spent idle; the three shares add up to one.", "idleTimeMsPerSecond";
    BACKPRESSURED_RATIO: Gauge<Ratio> = "highwater_task_backpressured_ratio",
        "Share of the last window spent backpressured; the three shares add up to one.", "backPressuredTimeMsPerSecond";
    WAITING_OUTPUT: Gauge<Count> = "highwater_task_waiting_output",
        "The index of the output whose credit is waited for; absent while none is.", "isBackPressured";
    WATERMARK: Gauge<Millis> = "highwater_task_watermark_timestamp_seconds",
        "The watermark of the task, in seconds since the Unix epoch; absent before the first.", "currentInputWatermark";
    WATERMARK_LAG: Gauge<Millis> = "highwater_task_watermark_lag_seconds",
        "Processing time minus watermark.", "watermarkLag";
    INPUTS_IDLE: Gauge<Count> = "highwater_task_inputs_idle",
        "Input channels that do not hold the watermark back because they are idle.", "";
    LETTERS: Counter<Count> = "highwater_task_letters_total",
        "Letters taken from the mailbox: barriers to send, splits to read, how checkpoints ended.", "mailboxMailsPerSecond";
    MAILBOX_WAIT: Histogram<Nanos> [SHORT_NANOS] = "highwater_task_mailbox_wait_seconds",
        "Time that a letter waited in the mailbox.", "mailboxLatencyMs";
    BUFFERED: Gauge<Bytes> = "highwater_task_input_buffered_bytes",
        "Bytes that wait in the input channels: in memory as far as can be estimated, from other workers as they came.", "inputQueueLength";
    ALIGNMENT: Histogram<Nanos> [SHORT_NANOS] = "highwater_task_checkpoint_alignment_seconds",
        "Time between the first and the last barrier of a checkpoint.", "checkpointAlignmentTime";
    START_DELAY: Histogram<Nanos> [SHORT_NANOS] = "highwater_task_checkpoint_start_delay_seconds",
        "Time from the moment at which the worker heard of a checkpoint to its first barrier here.", "checkpointStartDelayNanos";
    PAUSE: Histogram<Nanos> [SHORT_NANOS] = "highwater_task_checkpoint_pause_seconds",
        "The longest stretch in which a checkpoint kept the task from its records, one for each checkpoint.", "";
    RESTORE: Gauge<Nanos> = "highwater_task_restore_seconds",
        "How long the restore of the state of this attempt took, from the order to fetch it until every task had opened its own.", "initializationTime";
}
