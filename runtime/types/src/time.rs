//! Event time, processing time and watermarks: distinct types over milliseconds since the Unix epoch.
//!
//! Times before 1970 are valid, so all arithmetic saturates and all flooring is mathematical. The one rule of a
//! watermark: `t` promises that no record with event time `<= t` is expected.

use std::fmt;

use serde::{Deserialize, Serialize};

/// When a record happened. Milliseconds since the Unix epoch, may be negative.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Marks a record that carries no event time. Event-time operators refuse it with a message.
    pub const NONE: Self = Self(i64::MIN);
    /// The largest event time.
    pub const MAX: Self = Self(i64::MAX);

    /// The instant `ms` milliseconds after the Unix epoch.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whether the record carries a time at all.
    pub const fn is_some(self) -> bool {
        self.0 != i64::MIN
    }

    /// Later by `ms`, saturating at the ends of the range.
    pub const fn saturating_add(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The time on the machine. Milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct ProcessingTime(pub i64);

impl ProcessingTime {
    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Later by `ms`, saturating at the ends of the range.
    pub const fn saturating_add(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for ProcessingTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Promise that no record with event time `<=` this value is expected. Never goes back on one channel.
///
/// Source: Dataflow Model paper, watermark section; Flink `Watermark`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Nothing is promised yet.
    pub const MIN: Self = Self(i64::MIN);
    /// No further record at all: the end of a bounded input.
    pub const MAX: Self = Self(i64::MAX);

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whether a record of this event time arrives behind the promise.
    pub const fn is_late(self, time: EventTime) -> bool {
        time.0 <= self.0
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            i64::MIN => f.write_str("none"),
            i64::MAX => f.write_str("end"),
            ms => write!(f, "{ms}"),
        }
    }
}
