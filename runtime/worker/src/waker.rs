//! Parking and waking of slot threads.
//!
//! Rule: a thread that found nothing to do announces that it sleeps, looks once more, and only then parks. Whoever
//! brings work first brings it and then calls `wake`. So no wake-up is lost, and a thread that is awake costs its
//! neighbours one load.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use highwater_connectors::WakeHandle;

/// Wakes one slot thread.
#[derive(Debug, Default)]
pub struct SlotWaker {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

impl SlotWaker {
    /// A waker for a thread that will call [`SlotWaker::attach`].
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Names the current thread as the one to wake.
    ///
    /// # Panics
    /// If another thread was attached before.
    pub fn attach(&self) {
        let thread = self.thread.get_or_init(std::thread::current);
        assert_eq!(
            thread.id(),
            std::thread::current().id(),
            "a waker belongs to one thread"
        );
    }

    /// Announces sleep; the caller looks for work once more before it parks.
    pub fn announce(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // Pairs with the fence in `wake`: the look for work that follows must not happen before the announcement.
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back: there is work.
    pub fn stay_awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Parks until woken or for `limit`.
    pub fn park(&self, limit: Duration) {
        std::thread::park_timeout(limit);
        self.stay_awake();
    }

    /// Wakes the thread if it sleeps.
    pub fn wake(&self) {
        // Work is brought with plain release stores, e.g. of a ring's index, which the load below may overtake. Each
        // side stores and then loads what the other stored: only with a fence between on both sides does one of them
        // see the other.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst)
            && self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// A handle for connectors and channels.
    pub fn handle(self: &Arc<Self>) -> WakeHandle {
        let waker = Arc::clone(self);
        WakeHandle::new(move || waker.wake())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const ROUNDS: u32 = 20_000;

    /// Waits until the other side has reached the round, so that both act at the same moment.
    fn meet(own: &AtomicU32, other: &AtomicU32, round: u32) {
        own.store(round, Ordering::Release);
        let mut spins = 0u32;
        while other.load(Ordering::Acquire) < round {
            spins += 1;
            if spins.is_multiple_of(1_024) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    #[test]
    fn work_that_a_sleeper_did_not_see_takes_its_announcement_back() {
        let waker = SlotWaker::default();
        let work = AtomicU32::new(0);
        let (bringer, sleeper) = (AtomicU32::new(0), AtomicU32::new(0));
        let mut lost = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    meet(&bringer, &sleeper, 2 * round);
                    work.store(round, Ordering::Release);
                    waker.wake();
                    meet(&bringer, &sleeper, 2 * round + 1);
                }
            });
            for round in 1..=ROUNDS {
                meet(&sleeper, &bringer, 2 * round);
                waker.announce();
                let sleeps = work.load(Ordering::Acquire) < round;
                meet(&sleeper, &bringer, 2 * round + 1);
                // Counted, since the other side would wait for ever behind a panic here.
                lost += u32::from(sleeps && waker.asleep.load(Ordering::SeqCst));
                waker.stay_awake();
            }
        });
        assert_eq!(lost, 0, "wake-ups were lost");
    }
}
