//! One subtask of one operator, chained or not: what went in and out, late records, timers. One writer: its slot thread.

use crate::labels::SubtaskLabels;

scope! {
    /// An operator.
    OperatorScope, "operator", SubtaskLabels;
    RECORDS_IN: Counter<Count> = "highwater_operator_records_in_total",
        "Records that entered.", "numRecordsIn";
    RECORDS_OUT: Counter<Count> = "highwater_operator_records_out_total",
        "Records that left, side outputs included.", "numRecordsOut";
    CHUNKS_IN: Counter<Count> = "highwater_operator_chunks_in_total",
        "Chunks that entered; records over chunks is the mean chunk size.", "numBuffersIn";
    BYTES_IN: Counter<Bytes> = "highwater_operator_in_bytes_total",
        "Bytes that entered from outside the process or over an exchange.", "numBytesIn";
    BYTES_OUT: Counter<Bytes> = "highwater_operator_out_bytes_total",
        "Bytes that left the process or went over an exchange.", "numBytesOut";
    LATE_DROPPED: Counter<Count> = "highwater_operator_late_records_dropped_total",
        "Records behind the watermark that were dropped.", "numLateRecordsDropped";
    LATE_SIDE: Counter<Count> = "highwater_operator_late_records_side_total",
        "Records behind the watermark that went to the late side output.", "";
    TIMERS: Gauge<Count> = "highwater_operator_timers",
        "Timers that are set now.", "";
    TIMERS_FIRED: Counter<Count> = "highwater_operator_timers_fired_total",
        "Timers that fired.", "numFiredTimers";
}
