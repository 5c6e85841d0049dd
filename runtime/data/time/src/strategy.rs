//! Watermark strategies: how the event time of one split follows from its records.
//!
//! Chosen by the job author at the source, applied per split. A strategy is plain data; the generator that follows it
//! is in [`crate::split`].

use highwater_types::{Classified, ErrorKind};

/// A strategy that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// A duration below zero.
    #[error("{what} of {ms} ms is negative; use 0 or more")]
    Negative {
        /// Which setting.
        what: &'static str,
        /// Its value.
        ms: i64,
    },
    /// Idleness after no time at all.
    #[error("idleness after 0 ms would leave every split out at once; use 1 ms or more, or none")]
    ZeroIdleness,
}

impl Classified for StrategyError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// How watermarks follow from records.
///
/// Source: Flink `WatermarkStrategy`, `BoundedOutOfOrdernessWatermarks`, `WatermarksWithIdleness`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatermarkStrategy {
    bound: Option<i64>,
    idle_after: Option<i64>,
    future_limit: Option<i64>,
}

impl WatermarkStrategy {
    /// No watermarks before the end of input.
    pub const fn none() -> Self {
        Self {
            bound: None,
            idle_after: None,
            future_limit: None,
        }
    }

    /// Records are out of order by at most `bound_ms` milliseconds: the watermark is the highest event time seen, less
    /// the bound, less 1 ms.
    pub const fn bounded_out_of_orderness(bound_ms: i64) -> Self {
        Self {
            bound: Some(bound_ms),
            idle_after: None,
            future_limit: None,
        }
    }

    /// Records of a split are in order: a bound of 0, so the watermark is 1 ms behind the newest record.
    pub const fn monotonous() -> Self {
        Self::bounded_out_of_orderness(0)
    }

    /// Leaves a split out of the watermark when it brought nothing for `ms` milliseconds.
    pub const fn idle_after(mut self, ms: i64) -> Self {
        self.idle_after = Some(ms);
        self
    }

    /// Records more than `ms` milliseconds ahead of processing time do not advance the watermark.
    pub const fn ignore_future_beyond(mut self, ms: i64) -> Self {
        self.future_limit = Some(ms);
        self
    }

    /// The bound in milliseconds; `None` = no watermarks.
    pub const fn bound_ms(&self) -> Option<i64> {
        self.bound
    }

    /// The idleness timeout in milliseconds.
    pub const fn idle_after_ms(&self) -> Option<i64> {
        self.idle_after
    }

    /// How far ahead of processing time a record may advance the watermark, in milliseconds.
    pub const fn future_limit_ms(&self) -> Option<i64> {
        self.future_limit
    }

    /// Checks the durations; called when the plan is made.
    pub fn check(&self) -> Result<(), StrategyError> {
        let settings = [
            ("out-of-orderness bound", self.bound),
            ("idleness timeout", self.idle_after),
            ("future limit", self.future_limit),
        ];
        for (what, ms) in settings {
            if let Some(ms) = ms.filter(|ms| *ms < 0) {
                return Err(StrategyError::Negative { what, ms });
            }
        }
        if self.idle_after == Some(0) {
            return Err(StrategyError::ZeroIdleness);
        }
        Ok(())
    }
}
