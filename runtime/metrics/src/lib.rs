//! Every metric of Highwater: name, unit, type, labels and help in one table, and cells to write them without locks.
//!
//! Slot threads, connectors and the coordinator take a [`Cells`] for what they do (a task, an operator, a sink, ...)
//! and write into it: a plain load and a plain store of an atomic, since a cell has one writer by type. The scraper reads
//! the same atomics through [`MetricsRegistry`], which also serves the terminal view and the status pages.
//!
//! The rule: a metric exists once, in [`table`]; the name, the page `docs/metrics.md` and the OpenMetrics text all come
//! from there. Nothing here looks at a clock, opens a socket or decides anything.

mod cells;
mod encode;
mod labels;
mod metric;
mod page;
mod registry;
mod shares;
mod spans;
pub mod table;

pub use cells::{Cells, Counter, Gauge, Histogram};
pub use labels::{Label, LabelSet, NoLabels, StateLabels, SubtaskLabels, UserLabels};
pub use metric::{Bytes, Count, Kind, Measure, Metric, Millis, Nanos, Number, Ratio, Scope, Unit};
pub use page::page;
pub use registry::{MetricsRegistry, Sample, SampleValue};
pub use shares::{Activity, TimeShares};
pub use spans::{SharedSpans, Spans};
