//! The clock that all processes of a machine have in common: the monotonic one, counted from the same moment everywhere.
//!
//! For what begins in one process and ends in another: a record that crosses to another worker, a kill that is felt elsewhere.
//! The rule: no moment is carried to another machine.

use std::time::Duration;

use highwater::connectors::source::WakeHandle;
use highwater::connectors::{Clock, ConnectorError, SystemClock};
use rustix::time::{ClockId, clock_gettime};

/// Now, since a moment that is the same for all processes.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The same, in seconds.
pub(crate) fn seconds() -> f64 {
    now().as_secs_f64()
}

/// The clock for sources and sinks.
pub(crate) struct MachineClock {
    /// Wakes.
    own: SystemClock,
}

impl MachineClock {
    /// Starts the thread that wakes.
    pub(crate) fn start() -> Result<Self, ConnectorError> {
        Ok(Self {
            own: SystemClock::start()?,
        })
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Duration {
        now()
    }

    fn wake_at(&self, at: Duration, wake: &WakeHandle) {
        let left = at.saturating_sub(now());
        self.own.wake_at(self.own.now() + left, wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn it_wakes_when_it_is_time_and_not_before() {
        let clock = MachineClock::start().unwrap();
        let (sender, woken) = sync_channel(1);
        let wake = WakeHandle::new(move || sender.send(now()).unwrap());
        let at = clock.now() + Duration::from_millis(2);
        clock.wake_at(at, &wake);
        assert!(woken.recv().unwrap() >= at);
    }
}
