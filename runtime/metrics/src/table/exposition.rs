//! The metrics about the metrics. One writer: the registry itself.

use crate::labels::NoLabels;

scope! {
    /// What the registry knows of itself.
    ExpositionScope, "exposition", NoLabels;
    HIDDEN: Gauge<Count> = "highwater_metrics_hidden",
        "Label sets that are counted but not shown, because their scope is full.", "";
}
