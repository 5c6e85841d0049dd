//! The codec of a channel between workers: elements to frames, and frames to elements.
//!
//! Called by the two ends of a remote channel on their slot threads, once for each element. Rows lie one behind another:
//!
//! ```text
//! count u32 | keyed u8 | count times: time (signed varint, as a difference to the one before) | hash u64 if keyed | record
//! ```
//!
//! The rule: what was encoded comes back as the same records, times and hashes, and a payload is used up to its last byte or
//! refused as a whole.

use bytes::Bytes;
use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::{
    BarrierKind, CheckpointBarrier, CheckpointId, Chunk, DecodeError, Epoch, EventTime, KeyHash,
    Record, StopMode, StreamStatus, Watermark,
};

use super::frame::ChannelIndex;
use super::frame::{Format, Frame, FrameKind, PAYLOAD_BYTES_MAX};
use crate::channel::Element;

/// A frame of records ends behind the record with which it has this many bytes: large records do not pile up in one.
const RECORDS_BYTES: usize = 256 << 10;
/// Bytes before the first row: count and whether it is keyed.
const PREFIX: usize = 5;

/// A record that is too large to be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a record of {bytes} bytes cannot be sent to another worker, {PAYLOAD_BYTES_MAX} is the most; split it before the exchange"
)]
pub struct TooLarge {
    /// Its encoded size.
    pub bytes: usize,
}

/// Encodes the records of a chunk from `first` on into one payload: all of them, or as many as fill a frame. Returns the payload
/// and the index of the record that comes next.
///
/// # Errors
/// When a single record is larger than a frame may be.
pub fn encode_records<T: Record>(
    chunk: &Chunk<T>,
    first: usize,
) -> Result<(Bytes, usize), TooLarge> {
    let (records, times, hashes) = (chunk.records(), chunk.times(), chunk.hashes());
    let left = records.len() - first;
    // A guess that is right for small rows without memory of their own; others grow it a few times.
    let guess = PREFIX + left * (size_of::<T>() + 2 + 8 * usize::from(!hashes.is_empty()));
    let mut out = Vec::with_capacity(guess.min(RECORDS_BYTES + PREFIX));
    out.extend_from_slice(&[0; PREFIX]);
    out[4] = u8::from(!hashes.is_empty());
    let (mut at, mut before) = (first, 0);
    while at < records.len() {
        let begun = out.len();
        encode_time(times[at], &mut before, &mut out);
        if let Some(hash) = hashes.get(at) {
            out.extend_from_slice(&hash.0.to_le_bytes());
        }
        records[at].encode(&mut out);
        if out.len() > PAYLOAD_BYTES_MAX {
            let bytes = out.len() - begun;
            if at > first {
                // It may still fit into a frame of its own.
                out.truncate(begun);
                break;
            }
            return Err(TooLarge { bytes });
        }
        at += 1;
        if out.len() >= RECORDS_BYTES {
            break;
        }
    }
    out[..4].copy_from_slice(&((at - first) as u32).to_le_bytes());
    Ok((Bytes::from(out), at))
}

/// Adds the records of a payload to an empty `chunk`.
///
/// # Errors
/// `Corrupt` when the payload is not what [`encode_records`] writes for this type. The chunk is empty then.
pub fn decode_records<T: Record>(payload: &[u8], chunk: &mut Chunk<T>) -> Result<(), DecodeError> {
    let decoded = decode_all(payload, chunk);
    if decoded.is_err() {
        chunk.clear();
    }
    decoded
}

fn decode_all<T: Record>(payload: &[u8], chunk: &mut Chunk<T>) -> Result<(), DecodeError> {
    let mut input = payload;
    let count = u32::decode(&mut input)?;
    let is_keyed = match take(&mut input, 1, "keyed mark")?[0] {
        0 => false,
        1 => true,
        other => return Err(value("keyed mark", u64::from(other))),
    };
    let mut before = 0;
    for _ in 0..count {
        let time = decode_time(&mut input, &mut before)?;
        if is_keyed {
            let hash = KeyHash(u64::decode(&mut input)?);
            chunk.push_keyed(T::decode(&mut input)?, time, hash);
        } else {
            chunk.push(T::decode(&mut input)?, time);
        }
    }
    if input.is_empty() {
        Ok(())
    } else {
        Err(value("end of the records", input.len() as u64))
    }
}

const fn value(what: &'static str, value: u64) -> DecodeError {
    DecodeError::Value { what, value }
}

/// Times of neighbours are near each other, so a difference is one to three bytes. Differences wrap around.
fn encode_time(time: EventTime, before: &mut i64, out: &mut Vec<u8>) {
    let difference = time.0.wrapping_sub(*before);
    *before = time.0;
    encode_length(((difference << 1) ^ (difference >> 63)) as u64, out);
}

fn decode_time(input: &mut &[u8], before: &mut i64) -> Result<EventTime, DecodeError> {
    let folded = decode_length(input)?;
    let difference = (folded >> 1) as i64 ^ -((folded & 1) as i64);
    *before = before.wrapping_add(difference);
    Ok(EventTime(*before))
}

/// The frame of an element that is no chunk.
///
/// # Panics
/// If it is a chunk: those become frames by [`encode_records`].
pub fn encode_control<T>(channel: ChannelIndex, element: &Element<T>) -> Frame {
    let (kind, payload) = match element {
        Element::Chunk(..) => unreachable!("chunks are encoded record by record"),
        Element::Watermark(watermark) => (FrameKind::Watermark, watermark.0.to_le_bytes().to_vec()),
        Element::Status(status) => (
            FrameKind::Status,
            vec![u8::from(*status == StreamStatus::Idle)],
        ),
        Element::Barrier(barrier) => (FrameKind::Barrier, encode_barrier(barrier)),
        Element::End => (FrameKind::End, Vec::new()),
    };
    Frame::of(channel, kind, Bytes::from(payload))
}

const KINDS: [BarrierKind; 6] = [
    BarrierKind::Checkpoint,
    BarrierKind::Savepoint,
    stop(StopMode::Suspend, false),
    stop(StopMode::Suspend, true),
    stop(StopMode::Drain, false),
    stop(StopMode::Drain, true),
];

const fn stop(mode: StopMode, is_savepoint: bool) -> BarrierKind {
    BarrierKind::Stop { mode, is_savepoint }
}

fn encode_barrier(barrier: &CheckpointBarrier) -> Vec<u8> {
    let mut out = Vec::with_capacity(17);
    out.extend_from_slice(&barrier.id.number.to_le_bytes());
    out.extend_from_slice(&barrier.id.epoch.0.to_le_bytes());
    let kind = KINDS.iter().position(|kind| *kind == barrier.kind);
    out.push(kind.unwrap_or_else(|| unreachable!("every kind is in the table")) as u8);
    out
}

/// The element of a frame of a channel. Records are put into `buffer`, which comes back in the element, with the credit that
/// they took.
///
/// # Errors
/// `Corrupt` when the payload is not what the peer should have sent.
///
/// # Panics
/// If the frame is none of a channel: the link keeps those.
pub fn decode<T: Record>(
    frame: &Frame,
    buffer: impl FnOnce() -> Chunk<T>,
    credit: usize,
) -> Result<Element<T>, DecodeError> {
    let mut input = frame.payload.as_ref();
    let element = match frame.kind {
        FrameKind::Records => {
            if frame.format != Format::Rows {
                return Err(value("format of the records", frame.format as u64));
            }
            let mut chunk = buffer();
            decode_records(input, &mut chunk)?;
            return Ok(Element::Chunk(chunk, credit));
        }
        FrameKind::Watermark => Element::Watermark(Watermark(i64::decode(&mut input)?)),
        FrameKind::Status => Element::Status(match take(&mut input, 1, "status")?[0] {
            0 => StreamStatus::Active,
            1 => StreamStatus::Idle,
            other => return Err(value("status", u64::from(other))),
        }),
        FrameKind::Barrier => Element::Barrier(decode_barrier(&mut input)?),
        FrameKind::End => Element::End,
        FrameKind::Credit | FrameKind::Alive => unreachable!("the link keeps its own frames"),
    };
    if input.is_empty() {
        Ok(element)
    } else {
        Err(value("end of the element", input.len() as u64))
    }
}

fn decode_barrier(input: &mut &[u8]) -> Result<CheckpointBarrier, DecodeError> {
    let (number, epoch) = (u64::decode(input)?, Epoch(u64::decode(input)?));
    let kind = take(input, 1, "kind of a barrier")?[0];
    let known = KINDS.get(usize::from(kind)).copied();
    Ok(CheckpointBarrier {
        id: CheckpointId { number, epoch },
        kind: known.ok_or_else(|| value("kind of a barrier", u64::from(kind)))?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::Compression;
    use super::*;

    fn all<T: Record>(chunk: &Chunk<T>) -> Vec<Bytes> {
        let (mut payloads, mut at) = (Vec::new(), 0);
        while at < chunk.len() {
            let (payload, next) = encode_records(chunk, at).unwrap();
            assert!(next > at);
            payloads.push(payload);
            at = next;
        }
        payloads
    }

    proptest! {
        #[test]
        fn records_come_back_with_times_and_hashes(
            rows in prop::collection::vec((any::<i64>(), any::<u64>(), ".{0,9}"), 1..80),
            is_keyed: bool,
        ) {
            let mut chunk = Chunk::new();
            for (time, hash, text) in &rows {
                let record = (*hash, text.clone());
                if is_keyed {
                    chunk.push_keyed(record, EventTime(*time), KeyHash(*hash));
                } else {
                    chunk.push(record, EventTime(*time));
                }
            }
            let mut back = Chunk::new();
            for payload in all(&chunk) {
                decode_records::<(u64, String)>(&payload, &mut back).unwrap();
            }
            prop_assert_eq!(back.records(), chunk.records());
            prop_assert_eq!(back.times(), chunk.times());
            prop_assert_eq!(back.hashes(), chunk.hashes());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut chunk = Chunk::<(u64, String)>::new();
            if decode_records(&bytes, &mut chunk).is_err() {
                prop_assert!(chunk.is_empty());
            }
        }
    }

    #[test]
    fn large_records_get_frames_of_their_own_and_neighbours_share() {
        let mut chunk = Chunk::new();
        for bytes in [10usize, 300_000, 10, 10, 600_000] {
            chunk.push("x".repeat(bytes), EventTime(1));
        }
        let sizes: Vec<_> = all(&chunk)
            .iter()
            .map(|payload| u32::from_le_bytes(payload[..4].try_into().unwrap()))
            .collect();
        assert_eq!(sizes, [2, 3]);
    }

    #[test]
    fn neighbours_in_time_take_a_byte_each() {
        let mut chunk = Chunk::new();
        for at in 0..100 {
            chunk.push(0u8, EventTime(1_700_000_000_000 + at));
        }
        let (payload, _) = encode_records(&chunk, 0).unwrap();
        assert!(payload.len() < PREFIX + 100 * 2 + 8, "{}", payload.len());
    }

    #[test]
    fn control_elements_come_back() {
        let id = CheckpointId {
            number: 9,
            epoch: Epoch(3),
        };
        let mut elements = vec![
            Element::Watermark(Watermark::MIN),
            Element::Watermark(Watermark(-5)),
            Element::Status(StreamStatus::Idle),
            Element::Status(StreamStatus::Active),
            Element::End,
        ];
        elements.extend(KINDS.map(|kind| Element::Barrier(CheckpointBarrier { id, kind })));
        for element in elements {
            let frame = encode_control::<u64>(ChannelIndex(1), &element);
            let mut wire = bytes::BytesMut::new();
            let sealed = frame.seal(Compression::Off);
            wire.extend_from_slice(&sealed.header);
            wire.extend_from_slice(&sealed.payload);
            let (frame, _) = Frame::take(&mut wire).unwrap().unwrap();
            let back = decode::<u64>(&frame, Chunk::new, 0).unwrap();
            assert_eq!(format!("{back:?}"), format!("{element:?}"));
        }
    }

    #[test]
    fn what_is_left_over_is_refused() {
        let mut chunk = Chunk::new();
        chunk.push(7u64, EventTime(0));
        let (payload, _) = encode_records(&chunk, 0).unwrap();
        let mut longer = payload.to_vec();
        longer.push(0);
        let mut back = Chunk::<u64>::new();
        assert!(decode_records(&longer, &mut back).is_err());
        assert!(back.is_empty());
        let frame = Frame::of(ChannelIndex(0), FrameKind::End, Bytes::from_static(b"x"));
        assert!(decode::<u64>(&frame, Chunk::new, 0).is_err());
    }
}
