//! The gate: takes elements out of the input channels of one task, fairly, and feeds chunks to the head of its chain.
//!
//! Control elements are handed to the task, which knows alignment and watermarks of all channels; the gate only obeys
//! which channels are blocked. It is generic over its records and used through the untyped [`InputGate`].

use highwater_operators::{Downstream, OperatorError, Push};
use highwater_types::{CheckpointBarrier, Chunk, Record, StreamStatus, Watermark};

use crate::channel::{ChannelReceiver, Element};

/// What one step of a gate brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No unblocked channel holds anything.
    Nothing,
    /// The head takes nothing more for now.
    NoRoom,
    /// This many records went to the head.
    Records(usize),
    /// The event time of a channel.
    Watermark(usize, Watermark),
    /// Idleness of a channel.
    Status(usize, StreamStatus),
    /// A barrier in a channel.
    Barrier(usize, CheckpointBarrier),
    /// A channel has ended.
    End(usize),
}

/// What a gate counts, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateFigures {
    /// Bytes of the chunks that were taken.
    pub taken_bytes: u64,
    /// Bytes that wait in the channels. Now.
    pub buffered_bytes: u64,
}

/// The untyped side of a gate.
pub trait InputGate {
    /// How many channels.
    fn channel_count(&self) -> usize;
    /// Takes one element; chunks go to the head of the chain.
    fn step(&mut self) -> Result<Step, OperatorError>;
    /// Stops taking from a channel: it waits for the barriers of the others.
    fn block(&mut self, channel: usize);
    /// Takes from all channels again.
    fn unblock_all(&mut self);
    /// The head of the chain.
    fn head(&mut self) -> &mut dyn Downstream;
    /// The head of the chain, to ask.
    fn head_ref(&self) -> &dyn Downstream;
    /// What it counts.
    fn figures(&self) -> GateFigures {
        GateFigures::default()
    }
}

/// Input channels joined to the head of a chain.
pub struct Gate<T> {
    channels: Vec<ChannelReceiver<T>>,
    blocked: Vec<bool>,
    head: Box<dyn Push<T>>,
    next: usize,
    rest: Option<Rest<T>>,
    taken_bytes: u64,
}

/// The part of a chunk that the head had no room for.
struct Rest<T> {
    channel: usize,
    chunk: Chunk<T>,
    bytes: usize,
}

impl<T: Record> Gate<T> {
    /// A gate over `channels` in front of `head`.
    pub fn new(channels: Vec<ChannelReceiver<T>>, head: Box<dyn Push<T>>) -> Self {
        let blocked = vec![false; channels.len()];
        Self {
            channels,
            blocked,
            head,
            next: 0,
            rest: None,
            taken_bytes: 0,
        }
    }

    /// Pushes as much of a chunk as the head takes and keeps the rest.
    fn feed(
        &mut self,
        channel: usize,
        mut chunk: Chunk<T>,
        bytes: usize,
    ) -> Result<Step, OperatorError> {
        let room = self.head.room();
        if room == 0 {
            self.rest = Some(Rest {
                channel,
                chunk,
                bytes,
            });
            return Ok(Step::NoRoom);
        }
        let count = chunk.len();
        if room < count {
            let mut later = Chunk::new();
            chunk.split_off_into(room, &mut later);
            self.head.push(&mut chunk)?;
            self.rest = Some(Rest {
                channel,
                chunk: later,
                bytes,
            });
            return Ok(Step::Records(room));
        }
        self.head.push(&mut chunk)?;
        self.channels[channel].release(chunk, bytes);
        Ok(Step::Records(count))
    }
}

impl<T: Record> InputGate for Gate<T> {
    fn channel_count(&self) -> usize {
        self.channels.len()
    }

    fn step(&mut self) -> Result<Step, OperatorError> {
        if let Some(Rest {
            channel,
            chunk,
            bytes,
        }) = self.rest.take()
        {
            return self.feed(channel, chunk, bytes);
        }
        let count = self.channels.len();
        for turn in 0..count {
            let channel = (self.next + turn) % count;
            if self.blocked[channel] {
                continue;
            }
            let Some(element) = self.channels[channel].pop()? else {
                continue;
            };
            self.next = (channel + 1) % count;
            return match element {
                Element::Chunk(chunk, bytes) => {
                    self.taken_bytes += bytes as u64;
                    self.feed(channel, chunk, bytes)
                }
                Element::Watermark(watermark) => Ok(Step::Watermark(channel, watermark)),
                Element::Status(status) => Ok(Step::Status(channel, status)),
                Element::Barrier(barrier) => Ok(Step::Barrier(channel, barrier)),
                Element::End => Ok(Step::End(channel)),
            };
        }
        Ok(Step::Nothing)
    }

    fn block(&mut self, channel: usize) {
        self.blocked[channel] = true;
    }

    fn unblock_all(&mut self) {
        self.blocked.fill(false);
    }

    fn head(&mut self) -> &mut dyn Downstream {
        self.head.as_mut()
    }

    fn head_ref(&self) -> &dyn Downstream {
        self.head.as_ref()
    }

    fn figures(&self) -> GateFigures {
        let buffered = self.channels.iter().map(ChannelReceiver::buffered_bytes);
        GateFigures {
            taken_bytes: self.taken_bytes,
            buffered_bytes: buffered.sum(),
        }
    }
}
