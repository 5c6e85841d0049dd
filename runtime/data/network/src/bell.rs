//! The bell of a link: which of its channels have something to do.
//!
//! Rung by the ends of channels on slot threads, once for each frame; heard by the driver of the link. A channel stands in the queue once,
//! however often it rings, so the queue is bounded by the number of channels, and channels are served in turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use highwater_exchange::remote::{ChannelIndex, LinkBell};
use tokio::sync::Notify;

/// The bell of one link.
#[derive(Debug)]
pub struct Bell {
    queue: Mutex<VecDeque<ChannelIndex>>,
    queued: Vec<AtomicBool>,
    heard: Notify,
}

impl Bell {
    /// A bell for so many channels.
    pub fn new(channels: usize) -> Self {
        Self {
            queue: Mutex::new(VecDeque::with_capacity(channels)),
            queued: (0..channels).map(|_| AtomicBool::new(false)).collect(),
            heard: Notify::new(),
        }
    }

    /// The channel that rang first of those that were not answered.
    pub fn answer(&self) -> Option<ChannelIndex> {
        let first = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()?;
        // Before the channel is looked at: what comes from now on rings again.
        self.queued[first.0 as usize].store(false, Ordering::SeqCst);
        Some(first)
    }

    /// Lets the next [`Bell::hear`] return at once: not every channel that rang was answered.
    pub fn again(&self) {
        self.heard.notify_one();
    }

    /// Waits until a channel rings. Cancel-safe; may return once without a ring.
    pub async fn hear(&self) {
        self.heard.notified().await;
    }
}

impl LinkBell for Bell {
    fn ring(&self, channel: ChannelIndex) {
        let queued = &self.queued[channel.0 as usize];
        if !queued.swap(true, Ordering::SeqCst) {
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(channel);
            self.heard.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_answered_once_however_often_it_rings_and_in_turn() {
        let bell = Bell::new(3);
        for channel in [2, 0, 2, 0] {
            bell.ring(ChannelIndex(channel));
        }
        assert_eq!(bell.answer(), Some(ChannelIndex(2)));
        bell.ring(ChannelIndex(2));
        assert_eq!(bell.answer(), Some(ChannelIndex(0)));
        assert_eq!(bell.answer(), Some(ChannelIndex(2)));
        assert_eq!(bell.answer(), None);
    }

    #[tokio::test]
    async fn a_ring_before_anybody_listens_is_heard() {
        let bell = Bell::new(1);
        bell.ring(ChannelIndex(0));
        bell.hear().await;
    }
}
