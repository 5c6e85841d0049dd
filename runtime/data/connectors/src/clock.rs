//! The clock seam of sources that wait: paced generators and followed files.
//!
//! A reader never blocks its slot thread. When it has nothing to deliver before some instant, it asks the clock to wake
//! the thread then. Jobs get a [`SystemClock`]; tests move a [`ManualClock`] by hand.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::ConnectorError;
use crate::source::WakeHandle;

/// Tells the time and wakes slot threads.
pub trait Clock: Send + Sync + 'static {
    /// The time since a start of the clock's own. Never goes back.
    fn now(&self) -> Duration;

    /// Calls `wake` once, as soon as `now() >= at`.
    fn wake_at(&self, at: Duration, wake: &WakeHandle);
}

/// One reason to wake somebody, ordered by instant and then by arrival.
struct Alarm {
    at: Duration,
    arrival: u64,
    wake: WakeHandle,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.arrival) == (other.at, other.arrival)
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.arrival).cmp(&(other.at, other.arrival))
    }
}

/// The alarms that are set, earliest first. Every reader keeps at most one, so readers bound the length.
#[derive(Default)]
struct Alarms {
    waiting: BinaryHeap<Reverse<Alarm>>,
    arrivals: u64,
}

impl Alarms {
    fn set(&mut self, at: Duration, wake: WakeHandle) {
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.waiting.push(Reverse(Alarm { at, arrival, wake }));
    }

    fn next_at(&self) -> Option<Duration> {
        self.waiting.peek().map(|Reverse(alarm)| alarm.at)
    }

    fn take_due(&mut self, now: Duration) -> Vec<WakeHandle> {
        let mut due = Vec::new();
        while self.next_at().is_some_and(|at| at <= now) {
            due.extend(self.waiting.pop().map(|Reverse(alarm)| alarm.wake));
        }
        due
    }
}

#[derive(Default)]
struct Bell {
    alarms: Alarms,
    closing: bool,
}

struct Shared {
    start: Instant,
    bell: Mutex<Bell>,
    changed: Condvar,
}

impl Shared {
    fn bell(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let mut bell = self.bell();
        while !bell.closing {
            let due = bell.alarms.take_due(self.start.elapsed());
            if !due.is_empty() {
                drop(bell);
                due.iter().for_each(WakeHandle::wake);
                bell = self.bell();
                continue;
            }
            let sleep = bell.alarms.next_at();
            bell = match sleep.map(|at| at.saturating_sub(self.start.elapsed())) {
                None => self
                    .changed
                    .wait(bell)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(time) => {
                    let waited = self.changed.wait_timeout(bell, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// The clock of the machine, with one thread that wakes; the thread ends with the clock.
pub struct SystemClock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl SystemClock {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Transient` when the machine gives no further thread.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the clock that readers are given in place of the machine's"
    )]
    pub fn start() -> Result<Self, ConnectorError> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            bell: Mutex::new(Bell::default()),
            changed: Condvar::new(),
        });
        let ringer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("source-clock".to_owned())
            .spawn(move || ringer.ring())
            .map_err(ConnectorError::io("source clock", "start of the thread"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl fmt::Debug for SystemClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemClock")
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    fn wake_at(&self, at: Duration, wake: &WakeHandle) {
        self.shared.bell().alarms.set(at, wake.clone());
        self.shared.changed.notify_one();
    }
}

impl Drop for SystemClock {
    fn drop(&mut self) {
        self.shared.bell().closing = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A wake handle that panics has ended the thread; there is nothing left to stop.
            drop(thread.join());
        }
    }
}

/// A clock that stands still until a test moves it.
#[derive(Default)]
pub struct ManualClock {
    state: Mutex<(Duration, Alarms)>,
}

impl ManualClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock on and wakes whoever is due, on the calling thread.
    pub fn advance(&self, time: Duration) {
        let due = {
            let mut state = self.state();
            state.0 += time;
            let now = state.0;
            state.1.take_due(now)
        };
        due.iter().for_each(WakeHandle::wake);
    }

    /// When the next wake is due.
    pub fn next_wake(&self) -> Option<Duration> {
        self.state().1.next_at()
    }

    fn state(&self) -> MutexGuard<'_, (Duration, Alarms)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({:?})", self.now())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        self.state().0
    }

    fn wake_at(&self, at: Duration, wake: &WakeHandle) {
        let due_now = {
            let mut state = self.state();
            let due_now = at <= state.0;
            if !due_now {
                state.1.set(at, wake.clone());
            }
            due_now
        };
        if due_now {
            wake.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn manual_clock_wakes_in_order_and_once() {
        let clock = ManualClock::new();
        let (sender, woken) = sync_channel(8);
        for name in [3u64, 1, 2] {
            let sender = sender.clone();
            let wake = WakeHandle::new(move || sender.send(name).unwrap());
            clock.wake_at(Duration::from_millis(name), &wake);
        }
        assert_eq!(clock.next_wake(), Some(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(2));
        clock.advance(Duration::from_millis(5));
        assert_eq!(woken.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(clock.next_wake(), None);
    }

    #[test]
    fn system_clock_wakes_at_the_instant_and_not_before() {
        let clock = SystemClock::start().unwrap();
        let (sender, woken) = sync_channel(8);
        let wake = WakeHandle::new(move || sender.send(()).unwrap());
        let at = clock.now() + Duration::from_millis(5);
        clock.wake_at(at + Duration::from_hours(1), &wake);
        clock.wake_at(at, &wake);
        woken.recv().unwrap();
        assert!(clock.now() >= at);
        assert!(woken.try_recv().is_err());
    }
}
