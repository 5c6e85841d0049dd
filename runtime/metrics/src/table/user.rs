//! Metrics that job authors make: one family for each kind, told apart by the label `name`. One writer: the slot thread.
//!
//! They share families because a metric name must stand in a table to be documented; the label keeps them apart, and the
//! registry bounds how many there are.

/// Counters of the job author.
pub mod counter {
    use crate::labels::UserLabels;

    scope! {
        /// A counter of the job author.
        CounterScope, "user counter", UserLabels;
        EVENTS: Counter<Count> = "highwater_user_events_total",
            "What a counter of the job author counted.", "Counter, Meter";
    }
}

/// Gauges of the job author.
pub mod gauge {
    use crate::labels::UserLabels;

    scope! {
        /// A gauge of the job author.
        GaugeScope, "user gauge", UserLabels;
        VALUE: Gauge<Number> = "highwater_user_value",
            "What a gauge of the job author was set to.", "Gauge";
    }
}

/// Spans of time that the job author observes.
pub mod duration {
    use super::super::SHORT_NANOS;
    use crate::labels::UserLabels;

    scope! {
        /// A histogram of the job author.
        DurationScope, "user duration", UserLabels;
        OBSERVED: Histogram<Nanos> [SHORT_NANOS] = "highwater_user_duration_seconds",
            "Spans of time that the job author observed.", "Histogram";
    }
}
