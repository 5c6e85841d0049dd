//! Watermarks, idleness, timers and lateness: the rules of event time, without a clock.
//!
//! In reading order: the strategy a job author chooses, the watermark of a source over its splits, the watermark of a
//! task over its channels, timers, and the histogram of what came too late. Processing time is always passed in.

pub mod lateness;
pub mod split;
pub mod strategy;
pub mod timers;
pub mod valve;

pub use lateness::{LatenessHistogram, LatenessSnapshot};
pub use split::{SourceSignal, SplitWatermarks};
pub use strategy::{StrategyError, WatermarkStrategy};
pub use timers::{Timer, Timers};
pub use valve::{StatusValve, ValveOutput};
