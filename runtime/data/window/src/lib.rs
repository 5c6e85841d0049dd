//! Window assigners and the rules of firing.
//!
//! Pure data and arithmetic: which windows a time falls into, when a window fires, when its state may go. What is kept
//! per window is the business of the window operator.

pub mod assigner;
pub mod time_window;

pub use assigner::{OVERLAP_MAX, Sliding, Tumbling, WindowAssigner, WindowError};
pub use time_window::{AllowedLateness, TimeWindow};
