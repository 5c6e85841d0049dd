//! The table of all metrics, one module for each scope.
//!
//! `docs/metrics.md` is printed from here. A metric is added by one entry; its constant, its cell, its line on the page
//! and its OpenMetrics text follow. Bucket bounds are shared constants, so that dashboards can lay histograms over each
//! other.

use crate::metric::{Metric, Scope};

/// Makes a scope and the handles of its metrics from the entries of a table.
macro_rules! scope {
    (
        $(#[$doc:meta])* $scope:ident, $name:literal, $labels:ty;
        $($constant:ident: $kind:ident<$measure:ident> $([$bounds:expr])? = $metric:literal, $help:literal, $flink:literal;)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $scope {}

        impl $crate::metric::Scope for $scope {
            type Labels = $labels;
            const NAME: &'static str = $name;
            const METRICS: &'static [$crate::metric::Metric] = &[$(
                $crate::metric::Metric {
                    name: $metric,
                    kind: $crate::metric::Kind::$kind $(($bounds))?,
                    unit: <$crate::metric::$measure as $crate::metric::Measure>::UNIT,
                    help: $help,
                    flink: $flink,
                },
            )+];
        }

        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "the names of the constants, to count them")]
        enum Position { $($constant),+ }

        $(
            #[doc = $help]
            pub const $constant: $crate::cells::$kind<$scope, $crate::metric::$measure> =
                $crate::cells::$kind::at(Position::$constant as usize);
        )+
    };
}

pub mod backpressure;
pub mod checkpoint;
pub mod exposition;
pub mod hot_keys;
pub mod job;
pub mod link;
pub mod lookup;
pub mod operator;
pub mod process;
pub mod sink;
pub mod source;
pub mod state;
pub mod store;
pub mod task;
pub mod user;

/// A table with its heading, for the page and for the encoder.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// What the metrics are about.
    pub scope: &'static str,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The metrics.
    pub metrics: &'static [Metric],
}

const fn table<S: Scope>() -> Table {
    Table {
        scope: S::NAME,
        labels: <S::Labels as crate::labels::LabelSet>::NAMES,
        metrics: S::METRICS,
    }
}

/// All tables, in the order of the page.
pub const ALL: &[Table] = &[
    table::<job::JobScope>(),
    table::<checkpoint::CheckpointScope>(),
    table::<task::TaskScope>(),
    table::<backpressure::CulpritScope>(),
    table::<operator::OperatorScope>(),
    table::<hot_keys::HotKeyScope>(),
    table::<source::SourceScope>(),
    table::<sink::SinkScope>(),
    table::<lookup::LookupScope>(),
    table::<state::StateScope>(),
    table::<store::StoreScope>(),
    table::<user::counter::CounterScope>(),
    table::<user::gauge::GaugeScope>(),
    table::<user::duration::DurationScope>(),
    table::<process::ProcessScope>(),
    table::<link::LinkScope>(),
    table::<exposition::ExpositionScope>(),
];

/// Bounds for spans of time: 10 µs to 10 minutes, in nanoseconds.
pub(crate) const NANOS: &[u64; 16] = &[
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    600_000_000_000,
];

/// Bounds for waits inside the process: up to 10 s.
pub(crate) const SHORT_NANOS: &[u64] = NANOS.split_at(13).0;

/// Bounds for waits on other systems: from 1 ms on.
pub(crate) const LONG_NANOS: &[u64] = NANOS.split_at(4).1;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metric::{Kind, Unit};

    fn metrics() -> impl Iterator<Item = (&'static Table, &'static Metric)> {
        ALL.iter()
            .flat_map(|table| table.metrics.iter().map(move |metric| (table, metric)))
    }

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut seen = BTreeSet::new();
        for (_, metric) in metrics() {
            assert!(seen.insert(metric.name), "{} stands twice", metric.name);
            let family = metric.name.trim_end_matches("_total");
            assert!(
                family == metric.name || seen.insert(family),
                "{family} is a family already"
            );
            assert!(metric.name.starts_with("highwater_"), "{}", metric.name);
            let plain = metric
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            assert!(plain && !metric.name.contains("__"), "{}", metric.name);
        }
    }

    #[test]
    fn suffixes_say_unit_and_kind() {
        for (_, metric) in metrics() {
            let counter = metric.kind == Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counter, "{}", metric.name);
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            for suffix in ["bytes", "seconds", "ratio"] {
                let wanted = metric.unit.suffix() == suffix;
                assert_eq!(
                    name.ends_with(suffix),
                    wanted,
                    "{} measured in {:?}",
                    metric.name,
                    metric.unit
                );
            }
            let whole = ["_ms", "_millis", "_nanos", "_percent"]
                .iter()
                .all(|end| !name.ends_with(end));
            assert!(whole, "{} does not use a base unit", metric.name);
        }
    }

    #[test]
    fn every_metric_is_explained_in_one_sentence() {
        for (_, metric) in metrics() {
            let help = metric.help;
            assert!(
                help.len() > 15 && help.ends_with('.'),
                "{}: {help}",
                metric.name
            );
            assert!(
                help.starts_with(|first: char| first.is_ascii_uppercase()),
                "{}: {help}",
                metric.name
            );
            assert!(
                !help.contains(['\n', '\\', '"', '|']),
                "{} would need escaping",
                metric.name
            );
        }
    }

    #[test]
    fn waits_inside_end_at_ten_seconds_and_those_on_others_begin_at_a_millisecond() {
        let ends = |bounds: &[u64]| bounds.first().copied().zip(bounds.last().copied());
        assert_eq!(ends(SHORT_NANOS), Some((10_000, 10_000_000_000)));
        assert_eq!(ends(LONG_NANOS), Some((1_000_000, 600_000_000_000)));
    }

    #[test]
    fn buckets_rise_and_shares_are_gauges() {
        for (_, metric) in metrics() {
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(
                    bounds.is_sorted_by(|a, b| a < b) && !bounds.is_empty(),
                    "{}",
                    metric.name
                );
            }
            if metric.unit == Unit::Ratio {
                assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
            }
        }
    }
}
