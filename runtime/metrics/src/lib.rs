//! Every metric of Highwater: name, unit, type, labels and help in one table, and the cells that a page is made of.
//!
//! Slot threads, connectors and the coordinator count in plain numbers of their own, by chunk, frame or letter and never by record; spans of
//! time go into [`Spans`]. Whoever is asked for a page puts what they tell into the [`Cells`] of a [`MetricsRegistry`], one for each thing
//! that is measured (a task, an operator, a sink, ...), and the registry writes them as OpenMetrics text.
//!
//! The rule: a metric exists once, in [`table`]; the name, the page `docs/metrics.md`, the dashboard, the alerts and the OpenMetrics text all
//! come from there. Nothing here looks at a clock, opens a socket or decides anything.

mod alerts;
mod cells;
mod dashboard;
mod encode;
mod json;
mod labels;
mod metric;
mod page;
mod registry;
mod spans;
pub mod table;

pub use alerts::alerts;
pub use cells::{Cells, Counter, Gauge, Histogram};
pub use dashboard::dashboard;
pub use labels::{
    Label, LabelSet, NoLabels, OperatorLabels, PeerLabels, RankLabels, StateLabels, SubtaskLabels,
    UserLabels,
};
pub use metric::{Bytes, Count, Kind, Measure, Metric, Millis, Nanos, Number, Ratio, Scope, Unit};
pub use page::page;
pub use registry::{MetricsRegistry, Sample, SampleValue};
pub use spans::{SharedSpans, Spans};
