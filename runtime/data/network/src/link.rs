//! The two sides of a link, as drivers over any connection.
//!
//! The sending side writes frames of all its channels in turn and reads credit; the receiving side reads frames, hands each to its channel and
//! writes credit. Each side says that it lives when it has nothing else to say, and gives the link up when it heard nothing, or
//! could write nothing, for too long: a peer that is frozen or cut off looks the same as one that died.
//!
//! Called by [`crate::plane`], and by tests over connections in memory. The rule: when a driver returns, every channel that had not ended
//! was told why.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use highwater_exchange::remote::credit::{WINDOW_FIRST, next_window};
use highwater_exchange::remote::{
    ChannelIndex, Compression, Credit, Frame, FrameError, FrameKind, InboundHandle, InboundPort,
    LinkBell as _, LinkLoss, OutboundHandle, OutboundPort, Overrun, WireFrame,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, interval, timeout};

use crate::bell::Bell;

/// Bytes that are gathered for one write.
const BATCH_BYTES: usize = 256 << 10;
/// Frames that are gathered for one write: two slices each, below what one call of the system takes.
const BATCH_FRAMES: usize = 256;
/// Room that a read has at least.
const READ_BYTES: usize = 64 << 10;
/// How often windows follow the rates of their channels.
const WINDOW_EVERY: Duration = Duration::from_millis(100);

/// How a link notices that its peer is gone, and what it does to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// A side that has nothing to say for so long says that it lives.
    pub alive_every: Duration,
    /// A peer that says or takes nothing for so long is given up.
    pub silent_max: Duration,
    /// What is done to rows that are sent.
    pub compression: Compression,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            alive_every: Duration::from_secs(1),
            silent_max: Duration::from_secs(10),
            compression: Compression::Off,
        }
    }
}

/// Why a driver returned.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The peer closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    /// What came is no frame.
    #[error("what came is no frame")]
    Frame(#[source] FrameError),
    /// A frame that does not belong here.
    #[error("a frame {kind:?} of channel {channel} does not belong here")]
    Misplaced {
        /// Its kind.
        kind: FrameKind,
        /// Its channel.
        channel: u32,
    },
    /// The peer breaks the rule of credit.
    #[error("channel {channel} sent more than its credit")]
    Overrun {
        /// The channel.
        channel: u32,
        /// What the channel says.
        #[source]
        source: Overrun,
    },
    /// Nothing was heard of the peer.
    #[error("nothing was heard of it for {0:?}")]
    Silent(Duration),
    /// The peer took nothing.
    #[error("it took nothing for {0:?}")]
    Stuck(Duration),
}

/// Drives the sending side of a link until it ends; dropping it ends it without a word to the channels.
pub async fn send_side(
    stream: impl AsyncRead + AsyncWrite,
    bell: &Bell,
    ports: &mut [OutboundPort],
    peer: &str,
    settings: LinkSettings,
) -> LinkEnd {
    let handles: Vec<_> = ports.iter().map(OutboundPort::handle).collect();
    let (read, write) = tokio::io::split(stream);
    let end = tokio::select! {
        end = read_credit(read, &handles, settings) => end,
        end = write_frames(write, bell, ports, settings) => end,
    };
    let loss = loss(peer, &end);
    for handle in &handles {
        handle.lose(loss.clone());
    }
    end
}

/// Drives the receiving side of a link until it ends; dropping it ends it without a word to the channels.
pub async fn receive_side(
    stream: impl AsyncRead + AsyncWrite,
    bell: &Bell,
    ports: &mut [InboundPort],
    peer: &str,
    settings: LinkSettings,
) -> LinkEnd {
    let handles: Vec<_> = ports.iter().map(InboundPort::handle).collect();
    let (read, write) = tokio::io::split(stream);
    let end = tokio::select! {
        end = read_frames(read, ports, settings) => end,
        end = write_credit(write, bell, &handles, settings) => end,
    };
    let loss = loss(peer, &end);
    for handle in &handles {
        handle.lose(loss.clone());
    }
    end
}

fn loss(peer: &str, end: &LinkEnd) -> LinkLoss {
    let mut reason = end.to_string();
    let mut cause = std::error::Error::source(end);
    while let Some(error) = cause {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    LinkLoss {
        peer: peer.to_owned(),
        reason,
    }
}

/// Reads frames one after another.
struct FrameReader<R> {
    read: R,
    buffer: BytesMut,
    silent_max: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    fn new(read: R, settings: LinkSettings) -> Self {
        Self {
            read,
            buffer: BytesMut::with_capacity(READ_BYTES),
            silent_max: settings.silent_max,
        }
    }

    /// The next frame and its bytes on the wire.
    async fn next(&mut self) -> Result<(Frame, usize), LinkEnd> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer).map_err(LinkEnd::Frame)? {
                return Ok(frame);
            }
            self.buffer.reserve(READ_BYTES);
            let read = timeout(self.silent_max, self.read.read_buf(&mut self.buffer)).await;
            match read {
                Err(_) => return Err(LinkEnd::Silent(self.silent_max)),
                Ok(Err(error)) => return Err(LinkEnd::Broken(error)),
                Ok(Ok(0)) => return Err(LinkEnd::Closed),
                Ok(Ok(_)) => {}
            }
        }
    }
}

async fn read_credit(
    read: impl AsyncRead + Unpin,
    handles: &[OutboundHandle],
    settings: LinkSettings,
) -> LinkEnd {
    let mut frames = FrameReader::new(read, settings);
    loop {
        let (frame, _) = match frames.next().await {
            Ok(found) => found,
            Err(end) => return end,
        };
        let handle = handles.get(frame.channel.0 as usize);
        match (frame.kind, Credit::decode(&frame.payload), handle) {
            (FrameKind::Alive, ..) => {}
            (FrameKind::Credit, Some(credit), Some(handle)) => handle.credit(credit),
            _ => return misplaced(&frame),
        }
    }
}

const fn misplaced(frame: &Frame) -> LinkEnd {
    LinkEnd::Misplaced {
        kind: frame.kind,
        channel: frame.channel.0,
    }
}

async fn read_frames(
    read: impl AsyncRead + Unpin,
    ports: &mut [InboundPort],
    settings: LinkSettings,
) -> LinkEnd {
    let mut frames = FrameReader::new(read, settings);
    loop {
        let (frame, bytes) = match frames.next().await {
            Ok(found) => found,
            Err(end) => return end,
        };
        if frame.kind == FrameKind::Alive {
            continue;
        }
        let channel = frame.channel.0;
        match ports.get_mut(channel as usize) {
            Some(port) if frame.kind != FrameKind::Credit => {
                if let Err(source) = port.deliver(frame, bytes) {
                    return LinkEnd::Overrun { channel, source };
                }
            }
            _ => return misplaced(&frame),
        }
    }
}

async fn write_frames(
    mut write: impl AsyncWrite + Unpin,
    bell: &Bell,
    ports: &mut [OutboundPort],
    settings: LinkSettings,
) -> LinkEnd {
    loop {
        let mut batch = Batch::default();
        while batch.has_room() {
            let Some(channel) = bell.answer() else { break };
            let port = &mut ports[channel.0 as usize];
            if let Some(frame) = port.next_frame() {
                batch.push(frame);
            }
            if port.has_frames() {
                // Behind the others.
                bell.ring(channel);
            }
        }
        if batch.is_empty() && !heard(bell, settings.alive_every).await {
            batch.push(alive());
        }
        if let Err(end) = batch.write(&mut write, settings).await {
            return end;
        }
    }
}

/// Waits for the bell; `false` = it did not ring in time.
async fn heard(bell: &Bell, most: Duration) -> bool {
    timeout(most, bell.hear()).await.is_ok()
}

fn alive() -> WireFrame {
    Frame::of(ChannelIndex(0), FrameKind::Alive, Bytes::new()).seal(Compression::Off)
}

async fn write_credit(
    mut write: impl AsyncWrite + Unpin,
    bell: &Bell,
    handles: &[InboundHandle],
    settings: LinkSettings,
) -> LinkEnd {
    let mut windows = Windows::new(handles.len());
    let mut ticks = interval(WINDOW_EVERY);
    let mut said = Instant::now();
    loop {
        // Both arms are cancel-safe: a ring and a tick that are not taken now are taken in the next turn.
        tokio::select! {
            () = bell.hear() => {}
            _ = ticks.tick() => windows.follow(handles, bell),
        }
        let mut batch = Batch::default();
        while batch.has_room()
            && let Some(channel) = bell.answer()
        {
            let credit = handles[channel.0 as usize].credit();
            batch.push(
                Frame::of(channel, FrameKind::Credit, credit.encode()).seal(Compression::Off),
            );
        }
        if !batch.has_room() {
            // The rest comes in the next turn.
            bell.again();
        }
        if batch.is_empty() {
            if said.elapsed() < settings.alive_every {
                continue;
            }
            batch.push(alive());
        }
        said = Instant::now();
        if let Err(end) = batch.write(&mut write, settings).await {
            return end;
        }
    }
}

/// What is known of the rates of the channels of a receiving side.
struct Windows {
    seen: Vec<u64>,
    at: Instant,
}

impl Windows {
    fn new(channels: usize) -> Self {
        Self {
            seen: vec![0; channels],
            at: Instant::now(),
        }
    }

    /// Lets every window follow the rate of its channel. A window that grew is told at once.
    fn follow(&mut self, handles: &[InboundHandle], bell: &Bell) {
        let now = Instant::now();
        let elapsed = now - std::mem::replace(&mut self.at, now);
        for (at, handle) in handles.iter().enumerate() {
            let Credit { bytes, window, .. } = handle.credit();
            let taken = bytes - std::mem::replace(&mut self.seen[at], bytes);
            // A channel that carries nothing keeps what its first records will need.
            let next = if taken == 0 {
                window.min(WINDOW_FIRST)
            } else {
                next_window(window, taken, elapsed)
            };
            handle.set_window(next);
            if next > window {
                bell.ring(ChannelIndex(at as u32));
            }
        }
    }
}

/// Frames that are written together, without a copy.
#[derive(Default)]
struct Batch {
    frames: VecDeque<WireFrame>,
    /// Bytes of the first frame that are written.
    written: usize,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, frame: WireFrame) {
        self.bytes += frame.bytes();
        self.frames.push_back(frame);
    }

    fn has_room(&self) -> bool {
        self.bytes < BATCH_BYTES && self.frames.len() < BATCH_FRAMES
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    async fn write(
        mut self,
        write: &mut (impl AsyncWrite + Unpin),
        settings: LinkSettings,
    ) -> Result<(), LinkEnd> {
        while self.has_remaining() {
            // A call that takes some bytes is a sign of life, so each has the whole time.
            let took = timeout(settings.silent_max, write.write_buf(&mut self)).await;
            match took {
                Err(_) => return Err(LinkEnd::Stuck(settings.silent_max)),
                Ok(Err(error)) => return Err(LinkEnd::Broken(error)),
                Ok(Ok(0)) => return Err(LinkEnd::Closed),
                Ok(Ok(_)) => {}
            }
        }
        let flushed = timeout(settings.silent_max, write.flush()).await;
        match flushed {
            Err(_) => Err(LinkEnd::Stuck(settings.silent_max)),
            Ok(flushed) => flushed.map_err(LinkEnd::Broken),
        }
    }

    /// The parts of a frame that are not written, when so many of its bytes are.
    fn rest(frame: &WireFrame, written: usize) -> [&[u8]; 2] {
        let header = &frame.header[written.min(frame.header.len())..];
        let payload = &frame.payload[written.saturating_sub(frame.header.len())..];
        [header, payload]
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.bytes - self.written
    }

    fn chunk(&self) -> &[u8] {
        let Some(first) = self.frames.front() else {
            return &[];
        };
        let [header, payload] = Self::rest(first, self.written);
        if header.is_empty() { payload } else { header }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut written = self.written;
        for frame in &self.frames {
            for part in Self::rest(frame, std::mem::take(&mut written)) {
                if part.is_empty() {
                    continue;
                }
                let Some(slot) = into.get_mut(filled) else {
                    return filled;
                };
                *slot = IoSlice::new(part);
                filled += 1;
            }
        }
        filled
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(first) = self.frames.front()
            && self.written >= first.bytes()
        {
            self.written -= first.bytes();
            self.bytes -= first.bytes();
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
