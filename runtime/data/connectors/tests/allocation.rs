//! Connectors on the path of every record allocate for chunks and files, never for records.

use std::alloc::System;
use std::fs;

use highwater_connectors::{
    ConnectorError, DecodeFailure, Encoder, FileLogSource, FileLogWriter, GeneratorSource,
    OutputBatch, Random, ReaderContext, ReaderPoll, Source, SourceOutput, ValueEncoder, WakeHandle,
};
use highwater_types::{
    Chunk, EventTime, JobIdentity, OperatorUid, Parallelism, Record, SubtaskIndex,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RECORDS: u64 = 200_000;
/// Far below one for a record, above what a buffer needs to reach its size.
const ALLOCATIONS_MAX: usize = 50;

fn reader_context() -> ReaderContext {
    ReaderContext {
        job: JobIdentity::parse("job").expect("the name is valid"),
        uid: OperatorUid::parse("source").expect("the name is valid"),
        subtask: SubtaskIndex(0),
        parallelism: Parallelism(1),
        wake: WakeHandle::new(|| {}),
    }
}

/// Reads everything; returns how many records and allocations it took.
fn drain<S: Source>(source: &S) -> Result<(u64, usize), ConnectorError> {
    let mut reader = source.reader(&reader_context())?;
    reader.add_splits(source.enumerator()?.discover()?.splits)?;
    reader.no_more_splits();
    let mut out = SourceOutput::default();
    let mut count = 0;
    let region = Region::new(ALLOCATOR);
    while reader.poll(&mut out)? != ReaderPoll::EndOfInput {
        count += out.records.len() as u64;
        out.records.clear();
    }
    Ok((count, made(&region)))
}

fn made(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.allocations + change.reallocations
}

// One test: allocations of tests that run at the same time would be counted too.
#[test]
fn a_record_is_generated_read_and_encoded_without_an_allocation() {
    let make = |index: u64, random: &mut Random| (index ^ random.bits(), EventTime(index as i64));
    let generator = GeneratorSource::builder("numbers", 1, make)
        .count(RECORDS)
        .build()
        .unwrap();
    let (count, allocations) = drain(&generator).unwrap();
    assert_eq!(count, RECORDS);
    assert!(allocations < ALLOCATIONS_MAX, "generator: {allocations}");

    let root = tempfile::tempdir().unwrap();
    let mut writer = FileLogWriter::open(root.path(), "numbers", 2).unwrap();
    for number in 0..RECORDS {
        writer
            .append(
                (number % 2) as u32,
                &number.to_le_bytes().map(|byte| byte | 0x80),
            )
            .unwrap();
    }
    writer.finish().unwrap();
    let decode = |line: &[u8]| match line.try_into() {
        Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
        Err(_) => Err(DecodeFailure::new("eight bytes are expected")),
    };
    let log = FileLogSource::bounded(root.path(), "numbers", decode);
    let (count, allocations) = drain(&log).unwrap();
    assert_eq!(count, RECORDS);
    assert!(allocations < ALLOCATIONS_MAX, "file log: {allocations}");
    fs::remove_dir_all(root.path()).unwrap();

    let mut encoder = ValueEncoder::new(|record: &u64, out: &mut Vec<u8>| record.encode(out));
    let (mut chunk, mut batch) = (Chunk::with_room(), OutputBatch::default());
    let region = Region::new(ALLOCATOR);
    for _ in 0..100 {
        for number in 0..1_000 {
            chunk.push(number, EventTime::NONE);
        }
        batch.clear();
        encoder.encode(&mut chunk, &mut batch).unwrap();
    }
    let allocations = made(&region);
    assert!(allocations < ALLOCATIONS_MAX, "encoder: {allocations}");
}
