//! Channels: between two slot threads of one process a bounded ring one way and spent buffers the other way, between
//! workers the ends of [`crate::remote`]. Who sends and who receives does not see which.
//!
//! The sender never blocks and never drops: what the ring or the credit does not admit waits in an overflow queue of
//! the sender, and its task takes no input and fires no timers until that queue is empty. So the overflow holds at most
//! what one input chunk or one portion of timers produced.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use highwater_connectors::WakeHandle;
use highwater_operators::OperatorError;
use highwater_types::{CheckpointBarrier, Chunk, Record, StreamStatus, Watermark};

use crate::remote::{RemoteReceiver, RemoteSender};

/// Elements that a ring holds. Small, since credit in bytes is the bound that counts.
const RING_ELEMENTS: usize = 64;
/// Bytes in flight that a channel admits; one chunk always passes.
const CREDIT_BYTES: usize = 256 * 1_024;
/// Records of a chunk that are looked at to estimate what it holds outside itself.
const SAMPLED_RECORDS: usize = 4;

/// What rides in a channel, in order.
#[derive(Debug)]
pub enum Element<T> {
    /// Records, with the credit that they took.
    Chunk(Chunk<T>, usize),
    /// The event time of the channel.
    Watermark(Watermark),
    /// Idleness.
    Status(StreamStatus),
    /// A barrier.
    Barrier(CheckpointBarrier),
    /// Nothing more will come.
    End,
}

#[derive(Debug, Default)]
struct Credit {
    in_flight_bytes: AtomicUsize,
    sender_waits: AtomicBool,
}

/// Makes a channel within a process. `wake_receiver` is called when something arrives, `wake_sender` when credit returns to a sender
/// that waits.
pub fn channel<T: Record>(
    wake_sender: WakeHandle,
    wake_receiver: WakeHandle,
) -> (ChannelSender<T>, ChannelReceiver<T>) {
    let (elements_in, elements_out) = rtrb::RingBuffer::new(RING_ELEMENTS);
    let (spent_in, spent_out) = rtrb::RingBuffer::new(RING_ELEMENTS);
    let credit = Arc::new(Credit::default());
    let sender = RingSender {
        ring: elements_in,
        spent: spent_out,
        credit: Arc::clone(&credit),
        wake: wake_receiver,
        overflow: VecDeque::new(),
        sent_bytes: 0,
    };
    let receiver = RingReceiver {
        ring: elements_out,
        spent: spent_in,
        credit,
        wake: wake_sender,
    };
    (
        ChannelSender(SenderEnd::Ring(sender)),
        ChannelReceiver(ReceiverEnd::Ring(receiver)),
    )
}

/// The sending end of a channel.
pub struct ChannelSender<T>(SenderEnd<T>);

enum SenderEnd<T> {
    Ring(RingSender<T>),
    Remote(RemoteSender<T>),
}

impl<T> From<RemoteSender<T>> for ChannelSender<T> {
    fn from(remote: RemoteSender<T>) -> Self {
        Self(SenderEnd::Remote(remote))
    }
}

impl<T: Record> ChannelSender<T> {
    /// A buffer to fill: one that came back, or a new one.
    pub fn buffer(&mut self) -> Chunk<T> {
        match &mut self.0 {
            SenderEnd::Ring(ring) => ring.spent.pop().unwrap_or_default(),
            SenderEnd::Remote(remote) => remote.buffer(),
        }
    }

    /// Sends a chunk.
    ///
    /// # Errors
    /// As [`ChannelSender::send`]; `TooLarge` for a record that cannot be sent to another worker.
    pub fn send_chunk(&mut self, chunk: Chunk<T>) -> Result<(), OperatorError> {
        match &mut self.0 {
            SenderEnd::Ring(ring) => {
                let bytes = estimate_bytes(&chunk);
                ring.sent_bytes += bytes as u64;
                ring.send(Element::Chunk(chunk, bytes))
            }
            SenderEnd::Remote(remote) => remote.send_chunk(chunk),
        }
    }

    /// Sends an element behind everything sent before.
    ///
    /// # Errors
    /// `Cancelled` when the receiver is gone: its attempt has ended. `LinkLost` when the connection to its worker is.
    pub fn send(&mut self, element: Element<T>) -> Result<(), OperatorError> {
        match &mut self.0 {
            SenderEnd::Ring(ring) => ring.send(element),
            SenderEnd::Remote(remote) => remote.send(element),
        }
    }

    /// Bytes that were sent: of chunks as they are estimated, to another worker as they go over the link.
    pub const fn sent_bytes(&self) -> u64 {
        match &self.0 {
            SenderEnd::Ring(ring) => ring.sent_bytes,
            SenderEnd::Remote(remote) => remote.sent_bytes(),
        }
    }

    /// Whether something waits for room.
    pub fn is_blocked(&self) -> bool {
        match &self.0 {
            SenderEnd::Ring(ring) => !ring.overflow.is_empty(),
            SenderEnd::Remote(remote) => remote.is_blocked(),
        }
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// As [`ChannelSender::send`].
    pub fn drain(&mut self) -> Result<(), OperatorError> {
        match &mut self.0 {
            SenderEnd::Ring(ring) => ring.drain(),
            SenderEnd::Remote(remote) => remote.drain(),
        }
    }
}

/// The sending end within a process.
struct RingSender<T> {
    ring: rtrb::Producer<Element<T>>,
    spent: rtrb::Consumer<Chunk<T>>,
    credit: Arc<Credit>,
    wake: WakeHandle,
    overflow: VecDeque<Element<T>>,
    sent_bytes: u64,
}

impl<T: Record> RingSender<T> {
    fn send(&mut self, element: Element<T>) -> Result<(), OperatorError> {
        if !self.overflow.is_empty() {
            self.overflow.push_back(element);
            return self.drain();
        }
        match self.try_send(element)? {
            None => self.wake.wake(),
            Some(refused) => self.overflow.push_back(refused),
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), OperatorError> {
        let before = self.overflow.len();
        while let Some(element) = self.overflow.pop_front() {
            if let Some(refused) = self.try_send(element)? {
                self.overflow.push_front(refused);
                break;
            }
        }
        if self.overflow.len() < before {
            self.wake.wake();
        }
        Ok(())
    }

    fn try_send(&mut self, element: Element<T>) -> Result<Option<Element<T>>, OperatorError> {
        if self.ring.is_abandoned() {
            return Err(OperatorError::Cancelled);
        }
        if !self.admits(&element) {
            return Ok(Some(element));
        }
        if let Element::Chunk(_, bytes) = &element {
            self.credit
                .in_flight_bytes
                .fetch_add(*bytes, Ordering::AcqRel);
        }
        match self.ring.push(element) {
            Ok(()) => Ok(None),
            Err(rtrb::PushError::Full(element)) => {
                unreachable!(
                    "admits() saw a free place in the ring, got back {:?}",
                    kind(&element)
                )
            }
        }
    }

    /// Whether ring and credit have room. Announces the wait first and looks again, so that a receiver that makes room
    /// in between wakes this sender.
    fn admits(&self, element: &Element<T>) -> bool {
        let has_room = || {
            let in_flight = self.credit.in_flight_bytes.load(Ordering::Acquire);
            let credit = match element {
                Element::Chunk(_, bytes) => in_flight == 0 || in_flight + bytes <= CREDIT_BYTES,
                _ => true,
            };
            credit && !self.ring.is_full()
        };
        if has_room() {
            return true;
        }
        self.credit.sender_waits.store(true, Ordering::SeqCst);
        // Pairs with the fence in `room_made`: the second look must not happen before the announcement.
        fence(Ordering::SeqCst);
        has_room()
    }
}

fn kind<T>(element: &Element<T>) -> &'static str {
    match element {
        Element::Chunk(..) => "chunk",
        Element::Watermark(_) => "watermark",
        Element::Status(_) => "status",
        Element::Barrier(_) => "barrier",
        Element::End => "end",
    }
}

fn estimate_bytes<T: Record>(chunk: &Chunk<T>) -> usize {
    let sampled = chunk.len().min(SAMPLED_RECORDS);
    let outside: usize = chunk.records()[..sampled]
        .iter()
        .map(Record::heap_bytes)
        .sum();
    chunk.len() * (size_of::<T>() + 16) + outside * chunk.len() / sampled.max(1)
}

/// The receiving end of a channel.
pub struct ChannelReceiver<T>(ReceiverEnd<T>);

enum ReceiverEnd<T> {
    Ring(RingReceiver<T>),
    Remote(RemoteReceiver<T>),
}

impl<T> From<RemoteReceiver<T>> for ChannelReceiver<T> {
    fn from(remote: RemoteReceiver<T>) -> Self {
        Self(ReceiverEnd::Remote(remote))
    }
}

impl<T: Record> ChannelReceiver<T> {
    /// Takes the next element.
    ///
    /// # Errors
    /// Of a channel between workers: `LinkLost` when the connection is gone, `Wire` when what came is no element.
    pub fn pop(&mut self) -> Result<Option<Element<T>>, OperatorError> {
        match &mut self.0 {
            ReceiverEnd::Ring(ring) => Ok(ring.pop()),
            ReceiverEnd::Remote(remote) => remote.pop(),
        }
    }

    /// Bytes that have come and were not released: what waits, and what is being worked on.
    pub fn buffered_bytes(&self) -> u64 {
        match &self.0 {
            ReceiverEnd::Ring(ring) => ring.credit.in_flight_bytes.load(Ordering::Relaxed) as u64,
            ReceiverEnd::Remote(remote) => remote.buffered_bytes(),
        }
    }

    /// Gives credit and memory of a chunk back.
    pub fn release(&mut self, chunk: Chunk<T>, bytes: usize) {
        match &mut self.0 {
            ReceiverEnd::Ring(ring) => ring.release(chunk, bytes),
            ReceiverEnd::Remote(remote) => remote.release(chunk, bytes),
        }
    }
}

/// The receiving end within a process.
struct RingReceiver<T> {
    ring: rtrb::Consumer<Element<T>>,
    spent: rtrb::Producer<Chunk<T>>,
    credit: Arc<Credit>,
    wake: WakeHandle,
}

impl<T> RingReceiver<T> {
    fn pop(&mut self) -> Option<Element<T>> {
        let element = self.ring.pop().ok()?;
        self.room_made();
        Some(element)
    }

    fn release(&mut self, mut chunk: Chunk<T>, bytes: usize) {
        chunk.clear();
        // A full return ring only means that the sender has buffers enough.
        drop(self.spent.push(chunk));
        self.credit
            .in_flight_bytes
            .fetch_sub(bytes, Ordering::AcqRel);
        self.room_made();
    }

    fn room_made(&self) {
        // The ring's index is a plain release store, which the load below may overtake: without a fence on both sides
        // the sender could miss the room and this end the announcement.
        fence(Ordering::SeqCst);
        if self.credit.sender_waits.load(Ordering::SeqCst)
            && self.credit.sender_waits.swap(false, Ordering::SeqCst)
        {
            self.wake.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::EventTime;

    use super::*;

    fn silent() -> WakeHandle {
        WakeHandle::new(|| {})
    }

    fn ring_of<T>(sender: &ChannelSender<T>) -> &RingSender<T> {
        match &sender.0 {
            SenderEnd::Ring(ring) => ring,
            SenderEnd::Remote(_) => panic!("the channel is within a process"),
        }
    }

    fn full_chunk() -> Chunk<u64> {
        let mut chunk = Chunk::with_room();
        (0..1_024).for_each(|value| chunk.push(value, EventTime(0)));
        chunk
    }

    #[test]
    fn credit_bounds_what_is_in_flight_and_comes_back_with_the_buffer() {
        let (mut sender, mut receiver) = channel::<u64>(silent(), silent());
        while !sender.is_blocked() {
            sender.send_chunk(full_chunk()).unwrap();
        }
        let in_flight = receiver.buffered_bytes();
        assert!(in_flight > 0 && in_flight <= CREDIT_BYTES as u64);
        assert!(sender.sent_bytes() > in_flight, "one chunk waits");
        sender.send(Element::End).unwrap();
        let mut count = 0;
        let mut ended = false;
        while !ended {
            match receiver.pop().unwrap() {
                Some(Element::Chunk(chunk, bytes)) => {
                    count += chunk.len();
                    receiver.release(chunk, bytes);
                }
                Some(Element::End) => ended = true,
                Some(other) => panic!("unexpected {other:?}"),
                None => sender.drain().unwrap(),
            }
        }
        assert!(count <= CREDIT_BYTES / 24 + 2 * 1_024);
        assert!(!sender.is_blocked());
        assert!(sender.buffer().is_empty());
        assert_eq!(receiver.buffered_bytes(), 0);
        assert_eq!(sender.sent_bytes(), count as u64 * 24);
    }

    #[test]
    fn a_sender_whose_receiver_is_gone_is_cancelled() {
        let (mut sender, receiver) = channel::<u64>(silent(), silent());
        drop(receiver);
        assert!(matches!(
            sender.send(Element::End),
            Err(OperatorError::Cancelled)
        ));
    }

    #[test]
    fn a_waiting_sender_is_woken_when_credit_returns() {
        let woken = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&woken);
        let wake = WakeHandle::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let (mut sender, mut receiver) = channel::<u64>(wake, silent());
        while !sender.is_blocked() {
            sender.send_chunk(full_chunk()).unwrap();
        }
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        let Some(Element::Chunk(chunk, bytes)) = receiver.pop().unwrap() else {
            panic!("a chunk was sent")
        };
        receiver.release(chunk, bytes);
        assert!(woken.load(Ordering::SeqCst) >= 1);
    }

    /// Waits until the other side has reached the round, so that both act at the same moment.
    fn meet(own: &AtomicUsize, other: &AtomicUsize, round: usize) {
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
    fn a_sender_that_did_not_see_the_room_is_told_of_it() {
        const ROUNDS: usize = 20_000;
        let woken = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&woken);
        let wake = WakeHandle::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let (mut sender, mut receiver) = channel::<u64>(wake, silent());
        for _ in 0..RING_ELEMENTS {
            sender.send(Element::Watermark(Watermark::MIN)).unwrap();
        }
        let (sending, receiving) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut lost = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    meet(&receiving, &sending, 2 * round);
                    drop(receiver.pop().unwrap());
                    meet(&receiving, &sending, 2 * round + 1);
                }
            });
            for round in 1..=ROUNDS {
                meet(&sending, &receiving, 2 * round);
                sender.send(Element::Watermark(Watermark::MIN)).unwrap();
                meet(&sending, &receiving, 2 * round + 1);
                // Counted, since the other side would wait for ever behind a panic here.
                lost += usize::from(sender.is_blocked() && woken.load(Ordering::SeqCst) == 0);
                woken.store(0, Ordering::SeqCst);
                ring_of(&sender)
                    .credit
                    .sender_waits
                    .store(false, Ordering::SeqCst);
                sender.drain().unwrap();
            }
        });
        assert_eq!(lost, 0, "the sender was not woken");
    }
}
