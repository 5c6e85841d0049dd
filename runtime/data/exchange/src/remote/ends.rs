//! The two ends of a channel between workers, and their ports, which a link holds.
//!
//! ```text
//! slot thread            link at the rim                         link at the rim            slot thread
//! RemoteSender ─ring─► OutboundPort ─── frames, one connection ──► InboundPort ─ring─► RemoteReceiver
//!              ◄credit─             ◄── credit ───────────────────             ◄counts─
//! ```
//!
//! The ends work on slot threads: they encode and decode rows, so that this costs the processor of the slot whose records they are.
//! The ports only move bytes. The rule: a port never waits. What a sender puts into its ring the receiver has room
//! for, so a channel that is slow holds back no other on the same connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use highwater_connectors::WakeHandle;
use highwater_operators::OperatorError;
use highwater_types::{Chunk, Record};

use super::codec::{decode, encode_control, encode_records};
use super::credit::{Credit, FRAMES_MAX, is_due};
use super::frame::{ChannelIndex, Compression, Format, Frame, FrameKind, WireFrame};
use crate::channel::Element;

/// Buffers that an end keeps for its next chunks.
const SPARE_CHUNKS: usize = 2;

/// What an end tells its link. Called once for each frame, from slot threads.
pub trait LinkBell: Send + Sync {
    /// The channel has a frame to send, or credit to tell.
    fn ring(&self, channel: ChannelIndex);
}

/// Why a link ended before its channels did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkLoss {
    /// The other worker.
    pub peer: String,
    /// What happened to the connection.
    pub reason: String,
}

impl LinkLoss {
    fn error(&self) -> OperatorError {
        OperatorError::LinkLost {
            peer: self.peer.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// What a sender and its port share.
#[derive(Debug)]
struct Outbound {
    taken_bytes: AtomicU64,
    taken_frames: AtomicU64,
    window: AtomicU64,
    sender_waits: AtomicBool,
    lost: OnceLock<LinkLoss>,
}

/// What a receiver and its port share.
#[derive(Debug)]
struct Inbound {
    /// Counted by the port.
    arrived_bytes: AtomicU64,
    taken_bytes: AtomicU64,
    taken_frames: AtomicU64,
    window: AtomicU64,
    lost: OnceLock<LinkLoss>,
}

/// Makes the sending end of a channel and its port. `wake` wakes the slot of the sender.
pub fn outbound<T>(
    channel: ChannelIndex,
    bell: Arc<dyn LinkBell>,
    wake: WakeHandle,
    compression: Compression,
) -> (RemoteSender<T>, OutboundPort) {
    let (frames_in, frames_out) = rtrb::RingBuffer::new(FRAMES_MAX as usize);
    let state = Arc::new(Outbound {
        taken_bytes: AtomicU64::new(0),
        taken_frames: AtomicU64::new(0),
        window: AtomicU64::new(Credit::FIRST.window),
        sender_waits: AtomicBool::new(false),
        lost: OnceLock::new(),
    });
    let sender = RemoteSender {
        channel,
        ring: frames_in,
        state: Arc::clone(&state),
        bell,
        compression,
        sent_bytes: 0,
        sent_frames: 0,
        overflow: VecDeque::new(),
        spare: Vec::new(),
    };
    let port = OutboundPort {
        ring: frames_out,
        state,
        wake,
    };
    (sender, port)
}

/// Makes the receiving end of a channel and its port. `wake` wakes the slot of the receiver.
pub fn inbound<T>(
    channel: ChannelIndex,
    bell: Arc<dyn LinkBell>,
    wake: WakeHandle,
) -> (RemoteReceiver<T>, InboundPort) {
    let (frames_in, frames_out) = rtrb::RingBuffer::new(FRAMES_MAX as usize);
    let state = Arc::new(Inbound {
        arrived_bytes: AtomicU64::new(0),
        taken_bytes: AtomicU64::new(0),
        taken_frames: AtomicU64::new(0),
        window: AtomicU64::new(Credit::FIRST.window),
        lost: OnceLock::new(),
    });
    let receiver = RemoteReceiver {
        channel,
        ring: frames_out,
        state: Arc::clone(&state),
        bell,
        untold_bytes: 0,
        untold_frames: 0,
        has_ended: false,
        spare: Vec::new(),
    };
    let port = InboundPort {
        ring: frames_in,
        state,
        wake,
    };
    (receiver, port)
}

/// The sending end.
pub struct RemoteSender<T> {
    channel: ChannelIndex,
    ring: rtrb::Producer<WireFrame>,
    state: Arc<Outbound>,
    bell: Arc<dyn LinkBell>,
    compression: Compression,
    sent_bytes: u64,
    sent_frames: u64,
    /// Frames without credit. At most what one input chunk or one portion of timers produced.
    overflow: VecDeque<WireFrame>,
    spare: Vec<Chunk<T>>,
}

impl<T: Record> RemoteSender<T> {
    /// A buffer to fill.
    pub fn buffer(&mut self) -> Chunk<T> {
        self.spare.pop().unwrap_or_default()
    }

    /// Sends a chunk, as one frame or as several.
    ///
    /// # Errors
    /// `LinkLost` when the connection is gone, `Cancelled` when the link was ended with its attempt, `TooLarge` for a record that no
    /// frame holds.
    pub fn send_chunk(&mut self, mut chunk: Chunk<T>) -> Result<(), OperatorError> {
        let mut at = 0;
        while at < chunk.len() {
            let (payload, next) = encode_records(&chunk, at)
                .map_err(|error| OperatorError::TooLarge { bytes: error.bytes })?;
            at = next;
            let frame = Frame {
                channel: self.channel,
                kind: FrameKind::Records,
                format: Format::Rows,
                payload,
            };
            self.send_frame(frame.seal(self.compression))?;
        }
        chunk.clear();
        if self.spare.len() < SPARE_CHUNKS {
            self.spare.push(chunk);
        }
        Ok(())
    }

    /// Sends an element behind everything sent before.
    ///
    /// # Errors
    /// As [`RemoteSender::send_chunk`].
    pub fn send(&mut self, element: Element<T>) -> Result<(), OperatorError> {
        match element {
            Element::Chunk(chunk, _) => self.send_chunk(chunk),
            control => {
                let frame = encode_control(self.channel, &control);
                self.send_frame(frame.seal(Compression::Off))
            }
        }
    }

    /// Bytes of frames that were sent.
    pub const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Whether something waits for credit.
    pub fn is_blocked(&self) -> bool {
        !self.overflow.is_empty()
    }

    /// Sends what waits, as far as there is credit.
    ///
    /// # Errors
    /// As [`RemoteSender::send_chunk`].
    pub fn drain(&mut self) -> Result<(), OperatorError> {
        self.check()?;
        let before = self.overflow.len();
        while let Some(frame) = self.overflow.pop_front() {
            if let Some(refused) = self.try_send(frame) {
                self.overflow.push_front(refused);
                break;
            }
        }
        if self.overflow.len() < before {
            self.bell.ring(self.channel);
        }
        Ok(())
    }

    fn send_frame(&mut self, frame: WireFrame) -> Result<(), OperatorError> {
        if !self.overflow.is_empty() {
            self.overflow.push_back(frame);
            return self.drain();
        }
        self.check()?;
        match self.try_send(frame) {
            None => self.bell.ring(self.channel),
            Some(refused) => self.overflow.push_back(refused),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), OperatorError> {
        if let Some(loss) = self.state.lost.get() {
            return Err(loss.error());
        }
        if self.ring.is_abandoned() {
            return Err(OperatorError::Cancelled);
        }
        Ok(())
    }

    fn try_send(&mut self, frame: WireFrame) -> Option<WireFrame> {
        let bytes = frame.bytes() as u64;
        if !self.admits(bytes) {
            return Some(frame);
        }
        self.sent_bytes += bytes;
        self.sent_frames += 1;
        match self.ring.push(frame) {
            Ok(()) => None,
            Err(rtrb::PushError::Full(_)) => {
                unreachable!("the ring holds as many frames as may be on their way")
            }
        }
    }

    /// Whether there is credit. Announces the wait first and looks again, so that credit which comes in between wakes
    /// this sender.
    fn admits(&self, bytes: u64) -> bool {
        let has_credit = || {
            let credit = Credit {
                bytes: self.state.taken_bytes.load(Ordering::Acquire),
                frames: self.state.taken_frames.load(Ordering::Acquire),
                window: self.state.window.load(Ordering::Acquire),
            };
            credit.admits(self.sent_bytes, self.sent_frames, bytes)
        };
        if has_credit() {
            return true;
        }
        self.state.sender_waits.store(true, Ordering::SeqCst);
        // Pairs with the fence in `OutboundHandle::credit`: the second look must not happen before the announcement.
        fence(Ordering::SeqCst);
        has_credit()
    }
}

/// The link's side of a sending end.
pub struct OutboundPort {
    ring: rtrb::Consumer<WireFrame>,
    state: Arc<Outbound>,
    wake: WakeHandle,
}

impl OutboundPort {
    /// The next frame to send.
    pub fn next_frame(&mut self) -> Option<WireFrame> {
        self.ring.pop().ok()
    }

    /// Whether a frame waits.
    pub fn has_frames(&self) -> bool {
        !self.ring.is_empty()
    }

    /// For whoever reads what the receiver tells.
    pub fn handle(&self) -> OutboundHandle {
        OutboundHandle {
            state: Arc::clone(&self.state),
            wake: self.wake.clone(),
        }
    }
}

/// What a link tells a sending end.
#[derive(Clone)]
pub struct OutboundHandle {
    state: Arc<Outbound>,
    wake: WakeHandle,
}

impl OutboundHandle {
    /// What the receiver has told.
    pub fn credit(&self, credit: Credit) {
        // Totals only grow, and a later message overtakes none: one connection brings them in order.
        self.state
            .taken_bytes
            .store(credit.bytes, Ordering::Release);
        self.state
            .taken_frames
            .store(credit.frames, Ordering::Release);
        self.state.window.store(credit.window, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.state.sender_waits.load(Ordering::SeqCst)
            && self.state.sender_waits.swap(false, Ordering::SeqCst)
        {
            self.wake.wake();
        }
    }

    /// The link has ended before the channel did.
    pub fn lose(&self, loss: LinkLoss) {
        // The first reason stands.
        drop(self.state.lost.set(loss));
        self.wake.wake();
    }
}

/// A frame in the ring of a receiver, with what it took of the credit.
struct Arrived {
    frame: Frame,
    bytes: u64,
}

/// The receiving end.
pub struct RemoteReceiver<T> {
    channel: ChannelIndex,
    ring: rtrb::Consumer<Arrived>,
    state: Arc<Inbound>,
    bell: Arc<dyn LinkBell>,
    untold_bytes: u64,
    untold_frames: u64,
    has_ended: bool,
    spare: Vec<Chunk<T>>,
}

impl<T: Record> RemoteReceiver<T> {
    /// Takes the next element.
    ///
    /// # Errors
    /// `LinkLost` when the connection is gone and all that came before was taken; `Wire` when the peer sent what is no element.
    pub fn pop(&mut self) -> Result<Option<Element<T>>, OperatorError> {
        let Ok(Arrived { frame, bytes }) = self.ring.pop() else {
            return match self.state.lost.get() {
                // The ring is looked at once more: a frame may have come right before the loss.
                Some(loss) if self.ring.is_empty() && !self.has_ended => Err(loss.error()),
                _ => Ok(None),
            };
        };
        let spare = &mut self.spare;
        let buffer = || spare.pop().unwrap_or_default();
        let element = decode(&frame, buffer, bytes as usize);
        let element = element.map_err(OperatorError::Wire)?;
        match &element {
            // The credit comes back with the buffer.
            Element::Chunk(..) => {}
            Element::End => {
                self.has_ended = true;
                self.took(bytes);
            }
            _ => self.took(bytes),
        }
        Ok(Some(element))
    }

    /// Bytes of frames that have come and were not released.
    pub fn buffered_bytes(&self) -> u64 {
        let arrived = self.state.arrived_bytes.load(Ordering::Relaxed);
        arrived.saturating_sub(self.state.taken_bytes.load(Ordering::Relaxed))
    }

    /// Gives credit and memory of a chunk back.
    pub fn release(&mut self, mut chunk: Chunk<T>, bytes: usize) {
        chunk.clear();
        if self.spare.len() < SPARE_CHUNKS {
            self.spare.push(chunk);
        }
        self.took(bytes as u64);
    }

    fn took(&mut self, bytes: u64) {
        self.untold_bytes += bytes;
        self.untold_frames += 1;
        self.state.taken_bytes.fetch_add(bytes, Ordering::Release);
        self.state.taken_frames.fetch_add(1, Ordering::Release);
        let window = self.state.window.load(Ordering::Acquire);
        if is_due(
            self.untold_bytes,
            self.untold_frames,
            window,
            self.ring.is_empty(),
        ) {
            self.untold_bytes = 0;
            self.untold_frames = 0;
            self.bell.ring(self.channel);
        }
    }
}

/// A peer sends more than the credit that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more frames came than credit was given for")]
pub struct Overrun;

/// The link's side of a receiving end.
pub struct InboundPort {
    ring: rtrb::Producer<Arrived>,
    state: Arc<Inbound>,
    wake: WakeHandle,
}

impl InboundPort {
    /// Hands a frame of `bytes` on the wire to the receiver. One whose attempt has ended takes nothing any more.
    ///
    /// # Errors
    /// When there is no room: the peer breaks the rule of credit.
    pub fn deliver(&mut self, frame: Frame, bytes: usize) -> Result<(), Overrun> {
        let arrived = Arrived {
            frame,
            bytes: bytes as u64,
        };
        self.state
            .arrived_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        match self.ring.push(arrived) {
            Ok(()) => self.wake.wake(),
            Err(_) if self.ring.is_abandoned() => {}
            Err(_) => return Err(Overrun),
        }
        Ok(())
    }

    /// For whoever tells the sender.
    pub fn handle(&self) -> InboundHandle {
        InboundHandle {
            state: Arc::clone(&self.state),
            wake: self.wake.clone(),
        }
    }
}

/// What a link reads of a receiving end, and tells it.
#[derive(Clone)]
pub struct InboundHandle {
    state: Arc<Inbound>,
    wake: WakeHandle,
}

impl InboundHandle {
    /// What the sender is to be told.
    pub fn credit(&self) -> Credit {
        Credit {
            // Frames before bytes: a sender that knows of fewer frames only waits longer.
            frames: self.state.taken_frames.load(Ordering::Acquire),
            bytes: self.state.taken_bytes.load(Ordering::Acquire),
            window: self.state.window.load(Ordering::Acquire),
        }
    }

    /// Sets how much may be on its way, in bytes.
    pub fn set_window(&self, window: u64) {
        self.state.window.store(window, Ordering::Release);
    }

    /// The link has ended before the channel did.
    pub fn lose(&self, loss: LinkLoss) {
        // The first reason stands.
        drop(self.state.lost.set(loss));
        self.wake.wake();
    }
}

#[cfg(test)]
mod tests;
