//! Who holds the others back. One writer: the page of the leader, from what it saw in the last seconds.

use crate::labels::OperatorLabels;

scope! {
    /// An operator that holds others back.
    CulpritScope, "backpressure", OperatorLabels;
    CULPRIT: Gauge<Ratio> = "highwater_backpressure_culprit_ratio",
        "Share of the last ten seconds, looked at once a second, in which this operator held the others back; absent where it did not.", "";
}
