//! Frames: how elements and credit lie on a connection between two workers.
//!
//! Written by the sending ends of channels and by the links that carry them; read by links. A frame is a header of
//! [`HEADER_BYTES`] bytes and a payload. Integers are little-endian:
//!
//! ```text
//! length u32 | channel u32 | kind u8 | format u8 | flags u8 | 0 u8 | checksum u32 | payload
//! ```
//!
//! The rule: nothing of a frame is used before all of it is there and its checksum, which covers header and payload, is
//! right. So a connection that breaks in the middle of a frame, or a byte that flips on the way, ends the link and never
//! becomes a record.

use bytes::{Buf, Bytes, BytesMut};
use highwater_types::{Classified, ErrorKind};
use twox_hash::XxHash3_64;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the header that its checksum covers.
const COVERED: usize = 12;
/// No payload is larger. One record may be as large; what is larger is refused by name before it is sent.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// Memory that is taken at once for a frame that is announced: the rest is taken as its bytes come, so that a length that
/// flipped on the way costs no more.
const RESERVED_BYTES: usize = 1 << 20;
/// The payload is compressed by LZ4, behind its plain length (u32).
const FLAG_LZ4: u8 = 1;

/// Which channel of a connection, from 0. Both ends count them in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelIndex(pub u32);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Records of a channel.
    Records = 1,
    /// Event time of a channel.
    Watermark = 2,
    /// Idleness of a channel.
    Status = 3,
    /// A barrier.
    Barrier = 4,
    /// Nothing more will come in a channel.
    End = 5,
    /// To the sender: how much of a channel was taken in, and how much may be on its way.
    Credit = 6,
    /// Of no channel: the peer lives.
    Alive = 7,
}

impl FrameKind {
    const ALL: [Self; 7] = [
        Self::Records,
        Self::Watermark,
        Self::Status,
        Self::Barrier,
        Self::End,
        Self::Credit,
        Self::Alive,
    ];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// How the records of a payload are encoded. Room for others: columns as Arrow lays them out would be 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// There are none.
    None = 0,
    /// Row by row, in the codec of `Record`.
    Rows = 1,
}

impl Format {
    fn of(byte: u8) -> Option<Self> {
        [Self::None, Self::Rows]
            .into_iter()
            .find(|format| *format as u8 == byte)
    }
}

/// Whether payloads are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// They are sent as they are: right where the network is faster than a processor compresses.
    #[default]
    Off,
    /// By LZ4, where that makes them smaller.
    Lz4,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Header or payload were changed on the way.
    #[error("a frame of channel {channel} has checksum {found:08x}, its bytes have {right:08x}")]
    Checksum {
        /// The channel that the header names.
        channel: u32,
        /// What the header says.
        found: u32,
        /// What is right.
        right: u32,
    },
    /// The checksum is right and a field has a value that this version does not know.
    #[error("a frame has {field} {value}, which this version does not know")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u8,
    },
    /// The length is beyond all bounds. It is refused before memory is taken for it.
    #[error("a frame of channel {channel} announces {bytes} bytes, more than {PAYLOAD_BYTES_MAX}")]
    TooLong {
        /// The channel.
        channel: u32,
        /// The length.
        bytes: u32,
    },
    /// What was compressed cannot be read back.
    #[error("a compressed frame of channel {channel} cannot be read back: {reason}")]
    Compressed {
        /// The channel.
        channel: u32,
        /// What is wrong.
        reason: String,
    },
}

impl Classified for FrameError {
    fn kind(&self) -> ErrorKind {
        // The connection is at fault, and another one may be better. What is lost with it is sent again by the next attempt.
        ErrorKind::Transient
    }
}

/// A whole frame whose checksum was right, or one that is made to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The channel; 0 where the kind has none.
    pub channel: ChannelIndex,
    /// What it is.
    pub kind: FrameKind,
    /// How its records are encoded.
    pub format: Format,
    /// The payload, plain.
    pub payload: Bytes,
}

/// A frame as it lies on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireFrame {
    /// The header.
    pub header: [u8; HEADER_BYTES],
    /// The payload, compressed or plain.
    pub payload: Bytes,
}

impl WireFrame {
    /// Bytes on the wire: what credit counts.
    pub const fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

impl Frame {
    /// A frame without records.
    pub const fn of(channel: ChannelIndex, kind: FrameKind, payload: Bytes) -> Self {
        Self {
            channel,
            kind,
            format: Format::None,
            payload,
        }
    }

    /// Seals the frame for the wire.
    ///
    /// # Panics
    /// If the payload is longer than [`PAYLOAD_BYTES_MAX`]: whoever makes payloads refuses those.
    pub fn seal(self, compression: Compression) -> WireFrame {
        let (payload, flags) = match compression {
            Compression::Lz4 if !self.payload.is_empty() => compress(self.payload),
            _ => (self.payload, 0),
        };
        assert!(
            payload.len() <= PAYLOAD_BYTES_MAX,
            "payloads are bounded before they are sealed"
        );
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&self.channel.0.to_le_bytes());
        header[8] = self.kind as u8;
        header[9] = self.format as u8;
        header[10] = flags;
        let sum = checksum(&header[..COVERED], &payload);
        header[COVERED..].copy_from_slice(&sum.to_le_bytes());
        WireFrame { header, payload }
    }

    /// Takes a whole frame from the front of `buffer`, and says how many bytes it had on the wire; `None` = more bytes are needed,
    /// and nothing was taken.
    ///
    /// # Errors
    /// When the bytes are no frame: the connection cannot be read any further.
    pub fn take(buffer: &mut BytesMut) -> Result<Option<(Self, usize)>, FrameError> {
        if buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let field = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| buffer[at + byte]));
        let (bytes, channel) = (field(0), field(4));
        if bytes as usize > PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLong { channel, bytes });
        }
        let end = HEADER_BYTES + bytes as usize;
        if buffer.len() < end {
            let missing = end - buffer.len();
            buffer.reserve(missing.min(RESERVED_BYTES));
            return Ok(None);
        }
        let found = field(COVERED);
        let right = checksum(&buffer[..COVERED], &buffer[HEADER_BYTES..end]);
        if found != right {
            return Err(FrameError::Checksum {
                channel,
                found,
                right,
            });
        }
        let [kind, format, flags, _] = [8, 9, 10, 11].map(|at| buffer[at]);
        let mut payload = buffer.split_to(end);
        payload.advance(HEADER_BYTES);
        let unknown = |field, value| FrameError::Unknown { field, value };
        let plain = match flags {
            0 => payload.freeze(),
            FLAG_LZ4 => decompress(channel, &payload)?,
            other => return Err(unknown("flags", other)),
        };
        let frame = Self {
            channel: ChannelIndex(channel),
            kind: FrameKind::of(kind).ok_or_else(|| unknown("kind", kind))?,
            format: Format::of(format).ok_or_else(|| unknown("format", format))?,
            payload: plain,
        };
        Ok(Some((frame, end)))
    }
}

/// The checksum of a frame: the lower half of XXH3 over the covered header, folded with that over the payload.
fn checksum(covered: &[u8], payload: &[u8]) -> u32 {
    let header = XxHash3_64::oneshot(covered);
    XxHash3_64::oneshot_with_seed(header, payload) as u32
}

/// A smaller payload and its flag, or the same where LZ4 gains nothing.
fn compress(plain: Bytes) -> (Bytes, u8) {
    let packed = lz4_flex::block::compress_prepend_size(&plain);
    if packed.len() < plain.len() {
        (Bytes::from(packed), FLAG_LZ4)
    } else {
        (plain, 0)
    }
}

fn decompress(channel: u32, packed: &[u8]) -> Result<Bytes, FrameError> {
    let refused = |reason: String| FrameError::Compressed { channel, reason };
    let Some((length, block)) = packed.split_first_chunk::<4>() else {
        return Err(refused("it has no length".to_owned()));
    };
    let length = u32::from_le_bytes(*length);
    if length as usize > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong {
            channel,
            bytes: length,
        });
    }
    let plain = lz4_flex::block::decompress(block, length as usize);
    let plain = plain.map_err(|error| refused(error.to_string()))?;
    if plain.len() != length as usize {
        return Err(refused(format!(
            "{} bytes came out of {length}",
            plain.len()
        )));
    }
    Ok(Bytes::from(plain))
}

#[cfg(test)]
mod tests;
