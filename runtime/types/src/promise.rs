//! What sources and sinks promise: words that plans, connectors and status share.

use std::fmt;

/// Whether a source ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundedness {
    /// It ends: the job ends with a final watermark and a final checkpoint.
    Bounded,
    /// It never ends.
    Unbounded,
}

impl fmt::Display for Boundedness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bounded => "bounded",
            Self::Unbounded => "unbounded",
        })
    }
}

/// What the outside sees of a sink's output after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// Output may be lost.
    AtMostOnce,
    /// Output may be repeated.
    AtLeastOnce,
    /// Output appears exactly once.
    ExactlyOnce,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtMostOnce => "at-most-once",
            Self::AtLeastOnce => "at-least-once",
            Self::ExactlyOnce => "exactly-once",
        })
    }
}
