//! What a metric is: its entry in the table, the measure of its values, the scope it belongs to.
//!
//! The tables are made of these, and [`crate::Cells`] is typed by them. The rule of names: prefix `highwater_`, the unit
//! next to last, `_total` last for counters and for nothing else.

use std::time::Duration;

use crate::labels::LabelSet;

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts at 0 with its attempt.
    Counter,
    /// Goes up and down; absent until it was set once.
    Gauge,
    /// Counts observations by size. The bounds are in the unit of the cell (nanoseconds, milliseconds, bytes, ...).
    Histogram(&'static [u64]),
}

impl Kind {
    /// How many cells a metric of this kind takes: a histogram has one for each bucket, one above, and its sum.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Histogram(bounds) => bounds.len() + 2,
        }
    }
}

/// What a cell holds and how it leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds in the cell, seconds outside.
    Nanos,
    /// Signed milliseconds in the cell, seconds outside.
    Millis,
    /// A share between 0 and 1.
    Ratio,
    /// A plain number that may have a fraction or a sign.
    Number,
}

impl Unit {
    /// The part of the name that says the unit; empty for plain numbers.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Count | Self::Number => "",
            Self::Bytes => "bytes",
            Self::Nanos | Self::Millis => "seconds",
            Self::Ratio => "ratio",
        }
    }

    /// Whether values leave the process as whole numbers.
    pub(crate) const fn is_whole(self) -> bool {
        matches!(self, Self::Count | Self::Bytes)
    }

    /// The value of a cell as it leaves the process.
    pub(crate) fn export(self, bits: u64) -> f64 {
        match self {
            Self::Count | Self::Bytes => bits as f64,
            Self::Nanos => bits as f64 / 1e9,
            Self::Millis => bits.cast_signed() as f64 / 1e3,
            Self::Ratio | Self::Number => f64::from_bits(bits),
        }
    }
}

/// The Rust type of the values of a metric, and how it rests in a cell.
pub trait Measure {
    /// What a writer hands over.
    type Value: Copy;
    /// The unit that the table must name.
    const UNIT: Unit;
    /// The bits of the cell.
    fn bits(value: Self::Value) -> u64;
}

macro_rules! measure {
    ($(#[$doc:meta])* $name:ident, $value:ty, $convert:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {}

        impl Measure for $name {
            type Value = $value;
            const UNIT: Unit = Unit::$name;

            #[inline]
            fn bits(value: $value) -> u64 {
                let convert: fn($value) -> u64 = $convert;
                convert(value)
            }
        }
    };
}

measure!(
    /// Plain numbers.
    Count, u64, |value| value
);
measure!(
    /// Bytes.
    Bytes, u64, |value| value
);
measure!(
    /// Spans of time. More than 584 years saturate.
    Nanos, Duration, |value| u64::try_from(value.as_nanos()).unwrap_or(u64::MAX)
);
measure!(
    /// Points in time, event time included, and lags that may be negative: milliseconds.
    Millis, i64, i64::cast_unsigned
);
measure!(
    /// Shares between 0 and 1.
    Ratio, f64, f64::to_bits
);
measure!(
    /// Plain numbers that may have a fraction or a sign.
    Number, f64, f64::to_bits
);

/// One metric: an entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name as a scraper sees it, with unit and `_total`.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What its cells hold.
    pub unit: Unit,
    /// What it says, in one sentence.
    pub help: &'static str,
    /// What Flink calls the nearest thing; empty where Flink has none.
    pub flink: &'static str,
}

impl Metric {
    /// The name without unit and `_total`, as the encoder wants it.
    pub(crate) fn stem(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let stem = name.strip_suffix(self.unit.suffix()).unwrap_or(name);
        stem.strip_suffix('_').unwrap_or(stem)
    }
}

/// The cell of the metric at `position` of a table.
pub(crate) const fn cell_of(metrics: &[Metric], position: usize) -> usize {
    let (mut cell, mut at) = (0, 0);
    while at < position {
        cell += metrics[at].kind.width();
        at += 1;
    }
    cell
}

/// The thing that a table of metrics is about: a task, an operator, a sink, ...
///
/// Law: [`Scope::METRICS`] never changes while a process runs, and every position in it is named by one constant of the
/// module that defines the scope.
pub trait Scope: 'static {
    /// What tells one such thing from another.
    type Labels: LabelSet;
    /// Its word in headings.
    const NAME: &'static str;
    /// What it measures.
    const METRICS: &'static [Metric];
}
