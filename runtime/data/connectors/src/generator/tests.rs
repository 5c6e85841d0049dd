//! Tests of the generator source: the contract, the division of indices, and the rate of the job.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::clock::ManualClock;
use crate::contract::{Planted, bad_input_suite, read_all, reader_context, source_suite};
use crate::source::{ReaderPoll, SourceOutput, WakeHandle};

fn number(index: u64, random: &mut Random) -> ((u64, u64), EventTime) {
    ((index, random.bits()), EventTime(index as i64))
}

fn numbers(count: u64, splits: u32) -> GeneratorSource<(u64, u64), impl Generate<(u64, u64)>> {
    let builder = GeneratorSource::builder("numbers", 42, number);
    builder.count(count).splits(splits).build().unwrap()
}

#[test]
fn generators_keep_the_source_contract() {
    for (count, splits) in [(0, 1), (1, 3), (5_000, 1), (10_000, 3), (7, 8)] {
        source_suite(|| numbers(count, splits));
    }
}

#[test]
fn records_of_the_far_future_keep_the_law_of_bad_input() {
    let source = |policy| {
        let record = |index: u64, _: &mut Random| (index, EventTime(0));
        let source = GeneratorSource::builder("numbers", 7, record).count(4_000);
        let source = source.splits(1).bad_records(policy);
        source
            .future_limit(Duration::from_hours(24))
            .build()
            .unwrap()
    };
    let planted: Vec<_> = (0..4_000_u64)
        .map(|index| {
            if index % 1_500 == 7 {
                Planted::Future(encoded(index))
            } else {
                Planted::Good(index)
            }
        })
        .collect();
    let time_of = |index: &u64| EventTime(if index % 1_500 == 7 { i64::MAX } else { 1_000 });
    bad_input_suite(source, &planted, (time_of, EventTime(1_000)));
}

#[test]
fn every_record_is_made_once_and_is_the_same_in_any_division() {
    let mut divided = [1, 3, 32].map(|splits| read_all(&numbers(5_000, splits)));
    for records in &mut divided {
        records.sort_unstable();
        assert_eq!(records.len(), 5_000);
    }
    assert_eq!(divided[0], divided[1]);
    assert_eq!(divided[0], divided[2]);
    assert!(
        divided[0]
            .iter()
            .zip(0..)
            .all(|(((index, _), _), at)| *index == at)
    );
}

#[test]
fn what_is_left_of_a_bounded_generator_is_told() {
    let source = numbers(10, 2);
    let splits = source.enumerator().unwrap().discover().unwrap().splits;
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    assert_eq!(reader.figures().pending_records, Some(10));
    reader.poll(&mut SourceOutput::default()).unwrap();
    assert_eq!(reader.figures().pending_records, Some(5));
}

#[test]
fn a_saved_split_is_read_on_after_the_number_of_splits_was_changed() {
    let old = numbers(10, 2);
    let splits = old.enumerator().unwrap().discover().unwrap().splits;
    let new = numbers(10, 5);
    let mut reader = new.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    let mut out = SourceOutput::default();
    while !matches!(reader.poll(&mut out).unwrap(), ReaderPoll::Nothing) {}
    let mut indices: Vec<u64> = out
        .records
        .records()
        .iter()
        .map(|record| record.0)
        .collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_strangers_split_is_refused() {
    let mut reader = numbers(10, 2).reader(&reader_context()).unwrap();
    for id in ["2-of-2", "payments/0", "x-of-2"] {
        let split = crate::source::Split {
            id: id.into(),
            position: vec![0; 8],
        };
        assert!(reader.add_splits(vec![split]).is_err(), "{id}");
    }
    assert!(
        GeneratorSource::builder("n", 1, number)
            .splits(0)
            .build()
            .is_err()
    );
}

#[test]
fn the_rate_of_the_job_is_kept_and_the_reader_is_woken_for_each_portion() {
    let clock = Arc::new(ManualClock::new());
    let wakes = Arc::new(AtomicU32::new(0));
    let rate = RecordsPerSecond::try_new(4_000.0).unwrap();
    let builder = GeneratorSource::builder("paced", 1, number).splits(4);
    let seam: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let source = builder.paced(rate, seam).build().unwrap();
    let splits = source.enumerator().unwrap().discover().unwrap().splits;

    let mut context = reader_context();
    let counted = Arc::clone(&wakes);
    context.wake = WakeHandle::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let mut readers: Vec<_> = (0..2).map(|_| source.reader(&context).unwrap()).collect();
    let mut halves = splits.chunks(2);
    for reader in &mut readers {
        reader.add_splits(halves.next().unwrap().to_vec()).unwrap();
    }
    let mut delivered = 0;
    let mut out = SourceOutput::default();
    for _ in 0..=1_000 {
        for reader in &mut readers {
            while reader.poll(&mut out).unwrap() != ReaderPoll::Nothing {
                delivered += out.records.drain().count();
            }
        }
        clock.advance(Duration::from_millis(1));
    }
    assert_eq!(delivered, 4_000);
    let wakes = wakes.load(Ordering::Relaxed);
    assert!(
        (1_900..=2_100).contains(&wakes),
        "each reader is woken once a portion: {wakes}"
    );
}

/// A generator makes no bytes: a dead letter of its records holds them in the engine's encoding.
fn encoded(index: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.encode(&mut bytes);
    bytes
}
