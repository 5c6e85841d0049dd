//! How a coordinator runs its job.

use std::time::Duration;

use highwater_protocol::checkpoint::CheckpointSettings;
use highwater_protocol::gc::Retention;
use highwater_protocol::recovery::RestoreOptions;

/// When a failed attempt is tried again.
///
/// Source: Flink restart strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartStrategy {
    /// Never: the first failure fails the job.
    Never,
    /// After a delay that doubles with each failure, back to the first after a quiet time.
    Exponential {
        /// The first delay.
        first: Duration,
        /// The largest delay.
        most: Duration,
        /// After this long without failure the delay is the first again.
        reset_after: Duration,
        /// More restarts in a row than this fail the job; `None` = any number.
        restarts_max: Option<u32>,
    },
    /// After the same delay each time.
    Fixed {
        /// The delay.
        delay: Duration,
        /// More restarts than this since the process began fail the job; `None` = any number.
        restarts_max: Option<u32>,
    },
    /// After the same delay each time, as long as failures are rare.
    FailureRate {
        /// The delay.
        delay: Duration,
        /// More restarts than this within the interval fail the job.
        restarts_max: u32,
        /// The interval, which ends with each failure.
        interval: Duration,
    },
}

/// Settings of a coordinator.
#[derive(Clone, Debug)]
pub struct CoordinatorSettings {
    /// How checkpoints are taken.
    pub checkpoint: CheckpointSettings,
    /// How many completed checkpoints are kept.
    pub retention: Retention,
    /// When a failed attempt is tried again.
    pub restart: RestartStrategy,
    /// An attempt that takes longer to end ends the process.
    pub cancellation_timeout: Duration,
    /// What a restore may leave out.
    pub restore: RestoreOptions,
    /// The folder of savepoints inside the store.
    pub savepoints: String,
}
