//! Barrier alignment of one task: which channels are held, and when the snapshot is due.
//!
//! Called by a task's mailbox loop for every barrier, end of channel and cancellation. The rule: the snapshot sees
//! exactly the records before the barrier of every channel that has not ended. A channel that has ended counts as
//! aligned; a newer barrier cancels an older alignment; barriers of a cancelled or finished checkpoint are ignored.
//!
//! Source: Chandy and Lamport 1985; Carbone et al. 2015; Flink `CheckpointBarrierHandler`.

use highwater_types::{CheckpointBarrier, CheckpointId, Epoch};

use crate::mutant::{Mutant, planted};

/// An input channel of the task, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelIndex(pub u32);

/// What wakes an alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignmentEvent {
    /// A barrier is next in a channel.
    Barrier {
        /// The channel.
        channel: ChannelIndex,
        /// The barrier.
        barrier: CheckpointBarrier,
    },
    /// A channel has ended.
    Ended {
        /// The channel.
        channel: ChannelIndex,
    },
    /// The leader triggers a task without running inputs: a source, or a task whose inputs have all ended.
    Triggered {
        /// The barrier.
        barrier: CheckpointBarrier,
    },
    /// The leader has given a checkpoint up.
    Cancelled {
        /// The checkpoint.
        id: CheckpointId,
    },
}

/// What the task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignmentEffect {
    /// Takes nothing more from this channel.
    Hold(ChannelIndex),
    /// Takes the snapshot and passes the barrier on, before anything else.
    Snapshot(CheckpointBarrier),
    /// Takes from all channels again.
    ResumeAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Open,
    Arrived,
    Ended,
}

/// The alignment of one task over its input channels.
#[derive(Clone, Debug)]
pub struct Alignment {
    channels: Vec<Channel>,
    current: Option<CheckpointBarrier>,
    newest: Option<(Epoch, u64)>,
}

/// The order of tries: a newer leader's come after all of an older one, whatever their numbers.
fn order(id: CheckpointId) -> (Epoch, u64) {
    (id.epoch, id.number)
}

impl Alignment {
    /// An alignment over `channels` open channels; 0 for a source.
    pub fn new(channels: u32) -> Self {
        Self {
            channels: vec![Channel::Open; channels as usize],
            current: None,
            newest: None,
        }
    }

    /// The barrier that is being aligned.
    pub const fn current(&self) -> Option<CheckpointBarrier> {
        self.current
    }

    /// Whether the channel is held.
    pub fn is_held(&self, channel: ChannelIndex) -> bool {
        self.channels[channel.0 as usize] == Channel::Arrived
    }

    /// Handles one event.
    ///
    /// # Panics
    /// If a channel is not an input, delivers after its end, or delivers a barrier while it is held.
    pub fn step(&mut self, event: AlignmentEvent) -> Vec<AlignmentEffect> {
        let mut effects = Vec::new();
        match event {
            AlignmentEvent::Barrier { channel, barrier } => {
                let found = self.channels[channel.0 as usize];
                assert_ne!(
                    found,
                    Channel::Ended,
                    "channel {channel:?} delivers after its end"
                );
                if self.begin(barrier, &mut effects) {
                    let state = &mut self.channels[channel.0 as usize];
                    assert_eq!(
                        *state,
                        Channel::Open,
                        "held channel {channel:?} delivers {barrier:?}"
                    );
                    *state = Channel::Arrived;
                    if !self.is_complete() && !planted(Mutant::AlignmentDropsHold) {
                        effects.push(AlignmentEffect::Hold(channel));
                    }
                }
            }
            AlignmentEvent::Ended { channel } => {
                let state = &mut self.channels[channel.0 as usize];
                assert_ne!(*state, Channel::Ended, "channel {channel:?} ends twice");
                *state = Channel::Ended;
            }
            AlignmentEvent::Triggered { barrier } => {
                self.begin(barrier, &mut effects);
            }
            AlignmentEvent::Cancelled { id } => {
                self.newest = self.newest.max(Some(order(id)));
                if self
                    .current
                    .is_some_and(|barrier| order(barrier.id) <= order(id))
                {
                    self.release(&mut effects);
                }
            }
        }
        self.finish(&mut effects);
        effects
    }

    /// Whether `barrier` takes part in the current alignment; starts it if it is newer than all before.
    fn begin(&mut self, barrier: CheckpointBarrier, effects: &mut Vec<AlignmentEffect>) -> bool {
        if self.current == Some(barrier) {
            return true;
        }
        if self.newest >= Some(order(barrier.id)) {
            return false;
        }
        if self.current.is_some() {
            self.release(effects);
        }
        self.newest = Some(order(barrier.id));
        self.current = Some(barrier);
        true
    }

    fn is_complete(&self) -> bool {
        self.channels
            .iter()
            .all(|&channel| channel != Channel::Open)
    }

    fn finish(&mut self, effects: &mut Vec<AlignmentEffect>) {
        if let Some(barrier) = self.current
            && self.is_complete()
        {
            effects.push(AlignmentEffect::Snapshot(barrier));
            self.release(effects);
        }
    }

    fn release(&mut self, effects: &mut Vec<AlignmentEffect>) {
        self.current = None;
        for channel in &mut self.channels {
            if *channel == Channel::Arrived {
                *channel = Channel::Open;
            }
        }
        effects.push(AlignmentEffect::ResumeAll);
    }
}

#[cfg(test)]
#[path = "alignment/tests.rs"]
mod tests;
