//! The clock seam of slot threads. The real one reads the machine; the simulator and tests pass their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater_types::ProcessingTime;

/// Tells processing time and measures durations.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> ProcessingTime;
    /// Time since some fixed instant; never goes back.
    fn elapsed(&self) -> Duration;
}

/// The clock of the machine.
#[derive(Clone, Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// Starts measuring.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that the seam leads to"
    )]
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that the seam leads to"
    )]
    fn now(&self) -> ProcessingTime {
        let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        };
        ProcessingTime(ms)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that a test moves.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Sets the time, in milliseconds since the Unix epoch.
    pub fn set(&self, now: ProcessingTime) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> ProcessingTime {
        ProcessingTime(self.0.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst).max(0) as u64)
    }
}
