//! How fast lines are written: at once, or as many per second as a clock allows.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use highwater_connectors::{Clock, RecordsPerSecond, WakeHandle};

/// Releases lines.
pub trait Pace {
    /// Waits until line `number` may be written. Returns the first line that must ask again.
    fn release(&mut self, number: u64) -> u64;
}

/// As fast as possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtOnce;

impl Pace for AtOnce {
    fn release(&mut self, _: u64) -> u64 {
        u64::MAX
    }
}

/// At a steady rate, by a clock.
pub struct Paced {
    clock: Arc<dyn Clock>,
    per_second: f64,
    start: Duration,
    wake: WakeHandle,
    woken: Receiver<()>,
}

/// Lines are released in portions of this much time.
const PORTION: Duration = Duration::from_millis(5);

impl Paced {
    /// Starts now.
    pub fn new(rate: RecordsPerSecond, clock: Arc<dyn Clock>) -> Self {
        let (sender, woken) = sync_channel(1);
        Self {
            start: clock.now(),
            per_second: rate.get(),
            clock,
            wake: WakeHandle::new(move || {
                // A full channel holds a wake already, a closed one has nobody left to wake.
                sender.try_send(()).unwrap_or(());
            }),
            woken,
        }
    }

    fn due(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.per_second) as u64
    }
}

impl Pace for Paced {
    fn release(&mut self, number: u64) -> u64 {
        loop {
            let passed = self.clock.now().saturating_sub(self.start);
            let due = self.due(passed);
            if due > number {
                return due;
            }
            let own = Duration::from_secs_f64((number + 1) as f64 / self.per_second);
            self.clock
                .wake_at(self.start + own.max(passed + PORTION), &self.wake);
            // The handle is part of `self`, so its end of the channel is open.
            self.woken
                .recv()
                .expect("the wake handle lives as long as the pace");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A clock that jumps to every instant that somebody waits for.
    #[derive(Default)]
    struct Jumping(Mutex<Duration>);

    impl Clock for Jumping {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn wake_at(&self, at: Duration, wake: &WakeHandle) {
            let mut now = self.0.lock().unwrap();
            *now = at.max(*now);
            wake.wake();
        }
    }

    #[test]
    fn ten_thousand_lines_take_a_second_at_ten_thousand_a_second() {
        let clock = Arc::new(Jumping::default());
        let rate = RecordsPerSecond::try_new(10_000.0).unwrap();
        let seam: Arc<dyn Clock> = Arc::<Jumping>::clone(&clock);
        let mut pace = Paced::new(rate, seam);
        let (mut released, mut portions) = (0, 0);
        for number in 0..10_000 {
            if number >= released {
                released = pace.release(number);
                portions += 1;
            }
        }
        let took = clock.now();
        assert!(took >= Duration::from_millis(995) && took <= Duration::from_millis(1_005));
        assert!((150..=210).contains(&portions), "{portions}");
    }

    #[test]
    fn a_rate_below_a_portion_is_kept_too() {
        let clock = Arc::new(Jumping::default());
        let seam: Arc<dyn Clock> = Arc::<Jumping>::clone(&clock);
        let mut pace = Paced::new(RecordsPerSecond::try_new(2.0).unwrap(), seam);
        assert_eq!((0..4).map(|number| pace.release(number)).max(), Some(4));
        assert!(clock.now() >= Duration::from_secs(2));
    }
}
