//! Links over connections in memory, with a clock that stands still unless it is waited for.

use std::sync::Arc;

use highwater_connectors::WakeHandle;
use highwater_exchange::Element;
use highwater_exchange::remote::{RemoteReceiver, RemoteSender, inbound, outbound};
use highwater_operators::OperatorError;
use highwater_types::{Chunk, EventTime, Watermark};
use tokio::io::{DuplexStream, duplex};

use super::*;

const SETTINGS: LinkSettings = LinkSettings {
    alive_every: Duration::from_secs(1),
    silent_max: Duration::from_secs(10),
    compression: Compression::Off,
};

struct Side<P, E> {
    bell: Arc<Bell>,
    ports: Vec<P>,
    ends: Vec<E>,
}

fn silent() -> WakeHandle {
    WakeHandle::new(|| {})
}

fn sending(channels: u32) -> Side<OutboundPort, RemoteSender<String>> {
    let bell = Arc::new(Bell::new(channels as usize));
    let made = (0..channels).map(|channel| {
        let bell = Arc::clone(&bell);
        outbound(ChannelIndex(channel), bell, silent(), Compression::Off)
    });
    let (ends, ports) = made.unzip();
    Side { bell, ports, ends }
}

fn receiving(channels: u32) -> Side<InboundPort, RemoteReceiver<String>> {
    let bell = Arc::new(Bell::new(channels as usize));
    let made = (0..channels).map(|channel| {
        let bell = Arc::clone(&bell);
        inbound(ChannelIndex(channel), bell, silent())
    });
    let (ends, ports) = made.unzip();
    Side { bell, ports, ends }
}

fn chunk(number: usize, bytes: usize) -> Chunk<String> {
    let mut chunk = Chunk::new();
    chunk.push(format!("{number:0bytes$}"), EventTime(number as i64));
    chunk
}

/// Both drivers over a pipe of so many bytes, until `work` is done.
async fn over_a_pipe(
    bytes: usize,
    out: &mut Side<OutboundPort, RemoteSender<String>>,
    inn: &mut Side<InboundPort, RemoteReceiver<String>>,
    work: impl AsyncFnOnce(&mut [RemoteSender<String>], &mut [RemoteReceiver<String>]),
) {
    let (left, right) = duplex(bytes);
    tokio::select! {
        end = send_side(left, &out.bell, &mut out.ports, "the receiver", SETTINGS) => panic!("{end}"),
        end = receive_side(right, &inn.bell, &mut inn.ports, "the sender", SETTINGS) => panic!("{end}"),
        () = work(&mut out.ends, &mut inn.ends) => {}
    }
}

/// Lets the drivers go on.
async fn moment() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn every_channel_arrives_whole_and_in_order() {
    const CHANNELS: u32 = 5;
    const CHUNKS: usize = 300;
    let (mut out, mut inn) = (sending(CHANNELS), receiving(CHANNELS));
    over_a_pipe(1_000, &mut out, &mut inn, async |senders, receivers| {
        let (mut sent, mut seen) = (vec![0; senders.len()], vec![0; senders.len()]);
        while seen.iter().any(|count| *count < CHUNKS) {
            for (sender, sent) in senders.iter_mut().zip(&mut sent) {
                sender.drain().unwrap();
                while !sender.is_blocked() && *sent < CHUNKS {
                    sender.send_chunk(chunk(*sent, 3_000)).unwrap();
                    *sent += 1;
                }
            }
            moment().await;
            for (receiver, seen) in receivers.iter_mut().zip(&mut seen) {
                while let Some(element) = receiver.pop().unwrap() {
                    let Element::Chunk(got, bytes) = element else {
                        panic!("only chunks were sent")
                    };
                    assert_eq!(got.records(), chunk(*seen, 3_000).records());
                    receiver.release(got, bytes);
                    *seen += 1;
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_nobody_reads_holds_back_no_other() {
    let (mut out, mut inn) = (sending(2), receiving(2));
    over_a_pipe(1_000, &mut out, &mut inn, async |senders, receivers| {
        while !senders[0].is_blocked() {
            senders[0].send_chunk(chunk(0, 10_000)).unwrap();
        }
        for number in 0..200 {
            senders[1].send_chunk(chunk(number, 10_000)).unwrap();
            let got = loop {
                senders[1].drain().unwrap();
                moment().await;
                if let Some(Element::Chunk(got, bytes)) = receivers[1].pop().unwrap() {
                    break (got, bytes);
                }
            };
            assert_eq!(got.0.records(), chunk(number, 10_000).records());
            receivers[1].release(got.0, got.1);
        }
        assert!(senders[0].is_blocked());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_link_stays_up_for_hours() {
    let (mut out, mut inn) = (sending(1), receiving(1));
    over_a_pipe(100, &mut out, &mut inn, async |senders, receivers| {
        tokio::time::sleep(Duration::from_hours(3)).await;
        senders[0].send(Element::Watermark(Watermark(1))).unwrap();
        moment().await;
        let got = receivers[0].pop().unwrap();
        assert!(matches!(got, Some(Element::Watermark(Watermark(1)))));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn windows_follow_the_rate() {
    let (mut out, mut inn) = (sending(1), receiving(1));
    let handle = inn.ports[0].handle();
    over_a_pipe(1 << 20, &mut out, &mut inn, async |senders, receivers| {
        // 60 KB in each millisecond.
        for number in 0..2_000 {
            senders[0].send_chunk(chunk(number, 60_000)).unwrap();
            moment().await;
            while let Some(Element::Chunk(got, bytes)) = receivers[0].pop().unwrap() {
                receivers[0].release(got, bytes);
            }
        }
        let window = handle.credit().window;
        let aimed = 50 * (60_000);
        assert!((aimed / 2..=aimed * 2).contains(&window), "{window}");
    })
    .await;
}

async fn sender_against(drive: impl AsyncFnOnce(DuplexStream)) -> (LinkEnd, OperatorError) {
    let mut out = sending(1);
    let (left, right) = duplex(1_000);
    let (end, ()) = tokio::join!(
        send_side(left, &out.bell, &mut out.ports, "worker 9", SETTINGS),
        drive(right)
    );
    (end, out.ends[0].drain().unwrap_err())
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_or_takes_nothing_is_given_up() {
    let (end, error) = sender_against(async |mut peer| {
        let mut buffer = [0; 100];
        // Takes what comes, says nothing.
        while peer.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    })
    .await;
    assert!(matches!(end, LinkEnd::Silent(_)), "{end}");
    assert!(error.to_string().contains("worker 9"), "{error}");

    let mut inn = receiving(1);
    let (left, right) = duplex(16);
    let stuck = async {
        // Says that it lives, takes nothing.
        let mut left = left;
        let alive = alive();
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if left.write_all(&alive.header).await.is_err() {
                break;
            }
        }
    };
    let (end, ()) = tokio::join!(
        receive_side(right, &inn.bell, &mut inn.ports, "worker 9", SETTINGS),
        stuck
    );
    assert!(matches!(end, LinkEnd::Stuck(_)), "{end}");
    assert!(inn.ends[0].pop().is_err());
}

#[tokio::test(start_paused = true)]
async fn of_a_frame_that_is_cut_nothing_is_delivered() {
    let mut out = sending(1);
    out.ends[0].send_chunk(chunk(1, 400)).unwrap();
    let frame = out.ports[0].next_frame().unwrap();
    let whole = [&frame.header[..], &frame.payload[..]].concat();
    for length in [0, 1, 15, 16, 17, whole.len() - 1] {
        let mut inn = receiving(1);
        let (mut left, right) = duplex(1_000);
        left.write_all(&whole[..length]).await.unwrap();
        drop(left);
        let end = receive_side(right, &inn.bell, &mut inn.ports, "worker 9", SETTINGS).await;
        assert!(matches!(end, LinkEnd::Closed), "{length}: {end}");
        let lost = inn.ends[0].pop().unwrap_err();
        assert!(matches!(lost, OperatorError::LinkLost { .. }), "{lost}");
    }
}

#[tokio::test(start_paused = true)]
async fn frames_that_do_not_belong_here_end_the_link() {
    let credit = Credit::FIRST.encode();
    for (channel, kind, payload) in [
        (0, FrameKind::Credit, credit.clone()),
        (1, FrameKind::End, Bytes::new()),
    ] {
        let mut inn = receiving(1);
        let (mut left, right) = duplex(1_000);
        let frame = Frame::of(ChannelIndex(channel), kind, payload).seal(Compression::Off);
        left.write_all(&[&frame.header[..], &frame.payload[..]].concat())
            .await
            .unwrap();
        let end = receive_side(right, &inn.bell, &mut inn.ports, "worker 9", SETTINGS).await;
        assert!(matches!(end, LinkEnd::Misplaced { .. }), "{end}");
    }
    for (channel, kind, payload) in [
        (0, FrameKind::End, Bytes::new()),
        (1, FrameKind::Credit, credit),
        (0, FrameKind::Credit, Bytes::from_static(b"short")),
    ] {
        let (end, _) = sender_against(async |mut peer| {
            let frame = Frame::of(ChannelIndex(channel), kind, payload).seal(Compression::Off);
            peer.write_all(&[&frame.header[..], &frame.payload[..]].concat())
                .await
                .unwrap();
            let mut rest = Vec::new();
            peer.read_to_end(&mut rest).await.unwrap();
        })
        .await;
        assert!(matches!(end, LinkEnd::Misplaced { .. }), "{end}");
    }
}

#[test]
fn a_batch_gives_all_its_bytes_however_they_are_taken() {
    let frames = || {
        (0..4u32).map(|at| {
            let payload = Bytes::from(vec![at as u8; at as usize * 5]);
            Frame::of(ChannelIndex(at), FrameKind::Status, payload).seal(Compression::Off)
        })
    };
    let whole: Vec<u8> = frames()
        .flat_map(|frame| [&frame.header[..], &frame.payload[..]].concat())
        .collect();
    for step in [1, 3, 16, 21, 1_000] {
        let mut batch = Batch::default();
        frames().for_each(|frame| batch.push(frame));
        let mut taken = Vec::new();
        while batch.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = batch.chunks_vectored(&mut slices);
            let seen: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            assert!(seen.starts_with(batch.chunk()) && !batch.chunk().is_empty());
            let count = step.min(seen.len());
            taken.extend_from_slice(&seen[..count]);
            batch.advance(count);
        }
        assert_eq!(taken, whole, "{step} at a time");
        assert!(batch.is_empty());
    }
}
