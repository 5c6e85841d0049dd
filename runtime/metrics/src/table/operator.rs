//! One subtask of one operator, chained or not: what went in and out, late records, timers. One writer: its slot thread.

use crate::labels::SubtaskLabels;

/// What the lateness histogram of an operator counts by: powers of two less 1, up to 37 hours, in milliseconds.
const LATENESS_MILLIS: &[u64] = &{
    let mut bounds = [0; 28];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = (1 << at) - 1;
        at += 1;
    }
    bounds
};

scope! {
    /// An operator.
    OperatorScope, "operator", SubtaskLabels;
    RECORDS_IN: Counter<Count> = "highwater_operator_records_in_total",
        "Records that entered.", "numRecordsIn";
    RECORDS_OUT: Counter<Count> = "highwater_operator_records_out_total",
        "Records that left by the main output.", "numRecordsOut";
    CHUNKS_IN: Counter<Count> = "highwater_operator_chunks_in_total",
        "Chunks that entered; records over chunks is the mean chunk size.", "numBuffersIn";
    BYTES_IN: Counter<Bytes> = "highwater_operator_in_bytes_total",
        "Bytes that entered over an exchange, or from outside where the source counts them: file log and Kafka.", "numBytesIn";
    BYTES_OUT: Counter<Bytes> = "highwater_operator_out_bytes_total",
        "Bytes that left over an exchange, or into an exactly-once sink.", "numBytesOut";
    LATE_DROPPED: Counter<Count> = "highwater_operator_late_records_dropped_total",
        "Records behind the watermark that were dropped.", "numLateRecordsDropped";
    LATE_SIDE: Counter<Count> = "highwater_operator_late_records_side_total",
        "Records behind the watermark that went to the late side output.", "";
    LATE_ACCEPTED: Counter<Count> = "highwater_operator_late_records_accepted_total",
        "Records behind the watermark that were counted all the same: their window was open or takes corrections.", "";
    LATENESS: Histogram<Millis> [LATENESS_MILLIS] = "highwater_operator_lateness_seconds",
        "How far late records were behind the watermark that judged them; records on time are not in it.", "";
    SUGGESTED_BOUND: Gauge<Millis> = "highwater_operator_suggested_bound_seconds",
        "The out-of-orderness bound that would have let at most 1 of 1,000 records be late; the present one where it is enough.", "";
    TIMERS: Gauge<Count> = "highwater_operator_timers",
        "Timers that are set now; with a local store those of them that are in memory.", "";
    TIMERS_FIRED: Counter<Count> = "highwater_operator_timers_fired_total",
        "Timers that fired, and keys whose window fired on time.", "numFiredTimers";
}
