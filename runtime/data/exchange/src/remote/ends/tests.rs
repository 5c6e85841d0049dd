//! The two ends over a link that a test moves by hand.

use std::sync::Mutex;

use highwater_types::{EventTime, KeyHash, Watermark};

use super::*;

/// Notes which channels rang.
#[derive(Default)]
struct Rung(Mutex<Vec<ChannelIndex>>);

impl LinkBell for Rung {
    fn ring(&self, channel: ChannelIndex) {
        self.0.lock().unwrap().push(channel);
    }
}

impl Rung {
    fn take(&self) -> usize {
        std::mem::take(&mut *self.0.lock().unwrap()).len()
    }
}

struct Pair<T> {
    sender: RemoteSender<T>,
    out: OutboundPort,
    inn: InboundPort,
    receiver: RemoteReceiver<T>,
    at_sender: Arc<Rung>,
    at_receiver: Arc<Rung>,
    woken: Arc<AtomicU64>,
}

impl<T: Record> Pair<T> {
    fn new() -> Self {
        let channel = ChannelIndex(3);
        let [at_sender, at_receiver] = [(); 2].map(|()| Arc::new(Rung::default()));
        let woken = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&woken);
        let wake = WakeHandle::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let silent = WakeHandle::new(|| {});
        let (sender, out) = outbound(
            channel,
            Arc::<Rung>::clone(&at_sender),
            wake,
            Compression::Off,
        );
        let (receiver, inn) = inbound(channel, Arc::<Rung>::clone(&at_receiver), silent);
        Self {
            sender,
            out,
            inn,
            receiver,
            at_sender,
            at_receiver,
            woken,
        }
    }

    /// Moves all frames over, as the link does. How many.
    fn carry(&mut self) -> usize {
        let mut count = 0;
        while let Some(wire) = self.out.next_frame() {
            let mut bytes = bytes::BytesMut::new();
            bytes.extend_from_slice(&wire.header);
            bytes.extend_from_slice(&wire.payload);
            let (frame, bytes) = Frame::take(&mut bytes).unwrap().unwrap();
            self.inn.deliver(frame, bytes).unwrap();
            count += 1;
        }
        count
    }
}

fn chunk(values: std::ops::Range<u64>) -> Chunk<u64> {
    let mut chunk = Chunk::new();
    for value in values {
        chunk.push_keyed(value, EventTime(value as i64), KeyHash(value));
    }
    chunk
}

#[test]
fn elements_arrive_in_order_with_records_and_headers() {
    let mut pair = Pair::<u64>::new();
    pair.sender.send_chunk(chunk(0..1_024)).unwrap();
    pair.sender.send(Element::Watermark(Watermark(9))).unwrap();
    pair.sender.send(Element::End).unwrap();
    assert_eq!(pair.at_sender.take(), 3);
    assert_eq!(pair.carry(), 3);
    let (sent, buffered) = (pair.sender.sent_bytes(), pair.receiver.buffered_bytes());
    assert!(sent > 0 && sent == buffered, "{sent} {buffered}");
    let Some(Element::Chunk(got, bytes)) = pair.receiver.pop().unwrap() else {
        panic!("a chunk was sent")
    };
    assert_eq!(got.records(), chunk(0..1_024).records());
    assert!(got.is_keyed() && got.times()[1_023] == EventTime(1_023));
    pair.receiver.release(got, bytes);
    let next = pair.receiver.pop().unwrap();
    assert!(matches!(next, Some(Element::Watermark(Watermark(9)))));
    assert!(matches!(pair.receiver.pop().unwrap(), Some(Element::End)));
    assert!(pair.receiver.pop().unwrap().is_none());
    assert_eq!(pair.receiver.buffered_bytes(), 0);
}

#[test]
fn what_is_on_its_way_is_bounded_until_credit_comes_back() {
    let mut pair = Pair::<u64>::new();
    while !pair.sender.is_blocked() {
        pair.sender.send_chunk(chunk(0..1_024)).unwrap();
    }
    pair.carry();
    let mut taken = 0;
    let mut held = Vec::new();
    while let Some(Element::Chunk(got, bytes)) = pair.receiver.pop().unwrap() {
        taken += bytes as u64;
        held.push((got, bytes));
    }
    assert!(taken <= Credit::FIRST.window, "{taken}");
    pair.sender.drain().unwrap();
    assert!(pair.sender.is_blocked(), "nothing was given back yet");
    assert_eq!(pair.woken.load(Ordering::SeqCst), 0);
    for (got, bytes) in held {
        pair.receiver.release(got, bytes);
    }
    assert!(pair.at_receiver.take() > 0);
    pair.out.handle().credit(pair.inn.handle().credit());
    assert_eq!(pair.woken.load(Ordering::SeqCst), 1);
    pair.sender.drain().unwrap();
    assert!(!pair.sender.is_blocked());
}

#[test]
fn a_record_larger_than_the_window_passes_alone() {
    let mut pair = Pair::<String>::new();
    for _ in 0..2 {
        let mut one = Chunk::new();
        one.push("x".repeat(3 << 20), EventTime(0));
        pair.sender.send_chunk(one).unwrap();
    }
    assert!(pair.sender.is_blocked());
    for _ in 0..2 {
        assert_eq!(pair.carry(), 1);
        let Some(Element::Chunk(got, bytes)) = pair.receiver.pop().unwrap() else {
            panic!("a chunk was sent")
        };
        pair.receiver.release(got, bytes);
        pair.out.handle().credit(pair.inn.handle().credit());
        pair.sender.drain().unwrap();
    }
    assert!(!pair.sender.is_blocked());
}

#[test]
fn small_elements_are_bounded_by_their_number() {
    let mut pair = Pair::<u64>::new();
    for _ in 0..FRAMES_MAX {
        pair.sender.send(Element::Watermark(Watermark(1))).unwrap();
    }
    assert!(!pair.sender.is_blocked());
    pair.sender.send(Element::Watermark(Watermark(2))).unwrap();
    assert!(pair.sender.is_blocked());
    assert_eq!(pair.carry() as u64, FRAMES_MAX);
}

#[test]
fn a_lost_link_is_told_behind_what_arrived_and_names_the_peer() {
    let mut pair = Pair::<u64>::new();
    pair.sender.send_chunk(chunk(0..3)).unwrap();
    pair.carry();
    let loss = LinkLoss {
        peer: "worker 2".to_owned(),
        reason: "it was reset".to_owned(),
    };
    pair.inn.handle().lose(loss.clone());
    pair.out.handle().lose(loss);
    assert!(matches!(
        pair.receiver.pop().unwrap(),
        Some(Element::Chunk(..))
    ));
    let refused = pair.receiver.pop().unwrap_err();
    assert!(refused.to_string().contains("worker 2"), "{refused}");
    let refused = pair.sender.send(Element::End).unwrap_err();
    assert!(matches!(refused, OperatorError::LinkLost { .. }));
    let refused = pair.sender.drain().unwrap_err();
    assert!(matches!(refused, OperatorError::LinkLost { .. }));
}

#[test]
fn a_channel_that_has_ended_does_not_mind_the_end_of_its_link() {
    let mut pair = Pair::<u64>::new();
    pair.sender.send(Element::End).unwrap();
    pair.carry();
    pair.inn.handle().lose(LinkLoss {
        peer: "worker 2".to_owned(),
        reason: "it was closed".to_owned(),
    });
    assert!(matches!(pair.receiver.pop().unwrap(), Some(Element::End)));
    assert!(pair.receiver.pop().unwrap().is_none());
}

#[test]
fn an_end_without_its_other_half_is_cancelled_or_takes_nothing() {
    let mut pair = Pair::<u64>::new();
    drop(pair.out);
    let refused = pair.sender.send(Element::End).unwrap_err();
    assert!(matches!(refused, OperatorError::Cancelled));
    drop(pair.receiver);
    let end = || Frame::of(ChannelIndex(3), FrameKind::End, bytes::Bytes::new());
    for _ in 0..2 * FRAMES_MAX {
        pair.inn.deliver(end(), 16).unwrap();
    }
}

#[test]
fn a_peer_that_breaks_the_rule_of_credit_is_found() {
    let mut pair = Pair::<u64>::new();
    let end = || Frame::of(ChannelIndex(3), FrameKind::End, bytes::Bytes::new());
    let sent = (0..=FRAMES_MAX).map(|_| pair.inn.deliver(end(), 16));
    let sent: Vec<_> = sent.collect();
    assert_eq!(sent.iter().filter(|one| one.is_err()).count(), 1);
}

#[test]
fn a_payload_of_another_type_is_an_error_and_no_record() {
    let mut pair = Pair::<u64>::new();
    let payload = bytes::Bytes::from_static(&[1, 0, 0, 0, 0, 0, 7]);
    let frame = Frame {
        channel: ChannelIndex(3),
        kind: FrameKind::Records,
        format: Format::Rows,
        payload,
    };
    pair.inn.deliver(frame, 23).unwrap();
    let refused = pair.receiver.pop().unwrap_err();
    assert!(matches!(refused, OperatorError::Wire(_)), "{refused}");
}
