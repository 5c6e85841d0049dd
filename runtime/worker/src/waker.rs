//! Parking and waking of slot threads.
//!
//! Rule: a thread that found nothing to do announces that it sleeps, looks once more, and only then parks. Whoever
//! brings work first brings it and then calls `wake`. So no wake-up is lost, and a thread that is awake costs its
//! neighbours one load.

use std::sync::atomic::{AtomicBool, Ordering};
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
