//! One subtask of an async lookup: requests in flight, retries, time. One writer: its slot thread.

use super::LONG_NANOS;
use crate::labels::SubtaskLabels;

scope! {
    /// An async lookup.
    LookupScope, "lookup", SubtaskLabels;
    IN_FLIGHT: Gauge<Count> = "highwater_lookup_in_flight",
        "Records whose answer is not emitted yet.", "";
    REQUESTS: Counter<Count> = "highwater_lookup_requests_total",
        "Requests that were sent, tries after the first included.", "";
    RETRIES: Counter<Count> = "highwater_lookup_retries_total",
        "Requests that were sent again after a failure.", "";
    RETRIES_REFUSED: Counter<Count> = "highwater_lookup_retries_refused_total",
        "Retries that the retry budget did not allow.", "";
    TIMEOUTS: Counter<Count> = "highwater_lookup_timeouts_total",
        "Records whose lookup ran out of time.", "";
    FAILURES: Counter<Count> = "highwater_lookup_failures_total",
        "Records whose lookup failed for good.", "numLoadFailures";
    DURATION: Histogram<Nanos> [LONG_NANOS] = "highwater_lookup_duration_seconds",
        "Time from the first request for a record to its answer, retries included.", "latestLoadTime";
}
