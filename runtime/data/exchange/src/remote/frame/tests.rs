//! Frames against cuts, flips and lies.

use super::*;

fn frame(payload: &[u8]) -> Frame {
    Frame {
        channel: ChannelIndex(7),
        kind: FrameKind::Records,
        format: Format::Rows,
        payload: Bytes::copy_from_slice(payload),
    }
}

fn wire(frames: &[WireFrame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend_from_slice(&frame.header);
        bytes.extend_from_slice(&frame.payload);
        assert_eq!(frame.bytes(), HEADER_BYTES + frame.payload.len());
    }
    bytes
}

#[test]
fn frames_come_back_in_order_however_the_bytes_arrive() {
    for compression in [Compression::Off, Compression::Lz4] {
        let sent = [
            frame(&[5; 3_000]),
            frame(b""),
            frame(b"abc"),
            Frame::of(ChannelIndex(0), FrameKind::Alive, Bytes::new()),
        ];
        let bytes = wire(&sent.clone().map(|frame| frame.seal(compression)));
        for step in [1, 7, 16, 17, bytes.len()] {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in bytes.chunks(step) {
                buffer.extend_from_slice(part);
                while let Some((frame, _)) = Frame::take(&mut buffer).unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, sent, "{compression:?}, {step} bytes at a time");
            assert!(buffer.is_empty());
        }
    }
}

#[test]
fn of_a_frame_that_is_cut_nothing_is_taken() {
    let bytes = wire(&[frame(b"twelve bytes").seal(Compression::Off)]);
    for end in 0..bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..end]);
        assert_eq!(Frame::take(&mut buffer).unwrap(), None, "{end}");
        assert_eq!(buffer.len(), end);
    }
}

#[test]
fn every_flipped_bit_is_found_or_asks_for_more_bytes_than_there_are() {
    let bytes = wire(&[frame(b"a payload").seal(Compression::Off)]);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let found = Frame::take(&mut BytesMut::from(flipped.as_slice()));
            assert!(
                matches!(found, Err(_) | Ok(None)),
                "byte {at}, bit {bit}: {found:?}"
            );
        }
    }
}

#[test]
fn a_length_beyond_all_bounds_is_refused_before_memory_is_taken() {
    let mut header = frame(b"").seal(Compression::Off).header;
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = Frame::take(&mut BytesMut::from(&header[..])).unwrap_err();
    assert!(matches!(refused, FrameError::TooLong { channel: 7, .. }));
    assert_eq!(refused.kind(), ErrorKind::Transient);
}

#[test]
fn what_a_newer_version_sends_is_refused_by_name() {
    for (at, name) in [(8, "kind"), (9, "format"), (10, "flags")] {
        let mut sealed = frame(b"x").seal(Compression::Off);
        sealed.header[at] = 99;
        let sum = checksum(&sealed.header[..COVERED], &sealed.payload);
        sealed.header[COVERED..].copy_from_slice(&sum.to_le_bytes());
        let refused = Frame::take(&mut BytesMut::from(wire(&[sealed]).as_slice())).unwrap_err();
        assert_eq!(
            refused,
            FrameError::Unknown {
                field: name,
                value: 99
            }
        );
    }
}

#[test]
fn a_compressed_frame_that_lies_about_its_length_is_refused() {
    let whole = frame(&[1; 500]).seal(Compression::Lz4);
    assert!(whole.payload.len() < 500);
    for (length, refused_as_long) in [(499u32, false), (501, false), (u32::MAX, true)] {
        let mut payload = whole.payload.to_vec();
        payload[..4].copy_from_slice(&length.to_le_bytes());
        let mut lying = whole.clone();
        lying.payload = Bytes::from(payload);
        let sum = checksum(&lying.header[..COVERED], &lying.payload);
        lying.header[COVERED..].copy_from_slice(&sum.to_le_bytes());
        let refused = Frame::take(&mut BytesMut::from(wire(&[lying]).as_slice()));
        let is_long = matches!(refused, Err(FrameError::TooLong { .. }));
        assert!(refused.is_err(), "{length}");
        assert_eq!(is_long, refused_as_long);
    }
}

#[test]
fn what_does_not_get_smaller_is_sent_as_it_is() {
    let sealed = frame(b"ab").seal(Compression::Lz4);
    assert_eq!(sealed.payload.as_ref(), b"ab");
}

#[test]
fn what_a_frame_took_of_the_wire_is_what_was_sent() {
    for compression in [Compression::Off, Compression::Lz4] {
        let sealed = frame(&[0; 1_000]).seal(compression);
        let mut buffer = BytesMut::from(wire(std::slice::from_ref(&sealed)).as_slice());
        let (_, bytes) = Frame::take(&mut buffer).unwrap().unwrap();
        assert_eq!(bytes, sealed.bytes(), "{compression:?}");
    }
}
