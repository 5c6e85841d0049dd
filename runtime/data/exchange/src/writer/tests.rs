//! Scatter keeps order per key, flushes in front of control elements and never loses a record to a full channel.

use highwater_connectors::WakeHandle;
use highwater_types::{BarrierKind, Key, SubtaskIndex};

use super::*;
use crate::channel::{ChannelReceiver, channel};

fn edge(
    count: u32,
    partitioner: Partitioner<u64>,
) -> (ExchangeWriter<u64>, Vec<ChannelReceiver<u64>>) {
    let silent = || WakeHandle::new(|| {});
    let (senders, receivers) = (0..count).map(|_| channel(silent(), silent())).unzip();
    (ExchangeWriter::new("next", senders, partitioner), receivers)
}

fn hash() -> Partitioner<u64> {
    Partitioner::Hash {
        rekey: Box::new(|chunk| chunk.rekey(Key::key_hash)),
        max_parallelism: MaxParallelism::DEFAULT,
    }
}

fn chunk(values: impl Iterator<Item = u64>) -> Chunk<u64> {
    let mut chunk = Chunk::new();
    values.for_each(|value| chunk.push(value, EventTime(value as i64)));
    chunk
}

#[test]
fn every_record_reaches_the_owner_of_its_key_group_in_order() {
    let (mut writer, mut receivers) = edge(3, hash());
    for start in (0..60_000).step_by(1_000) {
        writer.push(&mut chunk(start..start + 1_000)).unwrap();
        assert_eq!(writer.turn().unwrap(), Progress::Done);
        if writer.blocked().is_some() {
            break;
        }
    }
    assert_eq!(writer.end().unwrap(), Progress::Done);
    let mut seen = Vec::new();
    for (index, receiver) in receivers.iter_mut().enumerate() {
        let mut last = None;
        loop {
            match receiver.pop().unwrap() {
                Some(Element::Chunk(chunk, bytes)) => {
                    assert!(chunk.is_keyed());
                    for (value, hash) in chunk.records().iter().zip(chunk.hashes()) {
                        let max = MaxParallelism::DEFAULT;
                        let owner = max.owner(hash.group(max), Parallelism(3));
                        assert_eq!(owner, SubtaskIndex(index as u32));
                        assert!(last < Some(*value));
                        last = Some(*value);
                    }
                    seen.extend_from_slice(chunk.records());
                    receiver.release(chunk, bytes);
                }
                Some(Element::End) => break,
                Some(other) => panic!("unexpected {other:?}"),
                None => {
                    assert_eq!(writer.turn().unwrap(), Progress::Done);
                }
            }
        }
    }
    seen.sort_unstable();
    let count = seen.len() as u64;
    assert!(count >= 10_000 && seen == (0..count).collect::<Vec<_>>());
}

#[test]
fn a_barrier_goes_out_behind_what_was_collected_and_the_watermark() {
    let (mut writer, mut receivers) = edge(1, Partitioner::Forward);
    writer.push(&mut chunk(0..3)).unwrap();
    assert_eq!(writer.watermark(Watermark(2)).unwrap(), Progress::Done);
    assert_eq!(writer.watermark(Watermark(7)).unwrap(), Progress::Done);
    let barrier = CheckpointBarrier {
        id: CheckpointId::default(),
        kind: BarrierKind::Checkpoint,
    };
    writer.barrier(&barrier).unwrap();
    let receiver = &mut receivers[0];
    assert!(
        matches!(receiver.pop().unwrap(), Some(Element::Chunk(chunk, _)) if chunk.records() == [0, 1, 2])
    );
    assert!(matches!(
        receiver.pop().unwrap(),
        Some(Element::Watermark(Watermark(7)))
    ));
    assert!(matches!(receiver.pop().unwrap(), Some(Element::Barrier(seen)) if seen == barrier));
    assert!(receiver.pop().unwrap().is_none());
}

#[test]
fn broadcast_copies_and_rebalance_takes_turns() {
    let (mut writer, mut receivers) = edge(2, Partitioner::Broadcast);
    writer.push(&mut chunk(0..2)).unwrap();
    assert_eq!(writer.turn().unwrap(), Progress::Done);
    for receiver in &mut receivers {
        assert!(
            matches!(receiver.pop().unwrap(), Some(Element::Chunk(chunk, _)) if chunk.len() == 2)
        );
    }
    let (mut writer, mut receivers) = edge(2, Partitioner::Rebalance);
    writer.push(&mut chunk(0..2)).unwrap();
    writer.push(&mut chunk(2..4)).unwrap();
    assert_eq!(writer.sent_bytes(), 0, "it is collected");
    assert_eq!(writer.turn().unwrap(), Progress::Done);
    let arrived: u64 = receivers.iter().map(ChannelReceiver::buffered_bytes).sum();
    assert!(arrived > 0 && writer.sent_bytes() == arrived);
    for receiver in &mut receivers {
        assert!(
            matches!(receiver.pop().unwrap(), Some(Element::Chunk(chunk, _)) if chunk.len() == 2)
        );
    }
}
