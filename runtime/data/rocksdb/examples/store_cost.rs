//! Measures what a store costs: run with `cargo run --release -p highwater-rocksdb --example store_cost [DIR]`.
//!
//! Rows are 16 + 24 bytes. Prints nanoseconds for a row that is written in batches, found and not found in batches, the
//! milliseconds of a freeze by what was written since the last one, and the nanoseconds of a row that is written as a
//! table of its own and ingested, which the store does not do.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program prints what its clock says"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::{
    Backing, BackingError, RowKey, RowWrite, StateDescriptor, StateKind, StateSchemas, StateStore,
    StoreFactory, StorePlace,
};
use highwater_types::{KeyGroup, KeyGroupRange, OperatorUid, SubtaskIndex};
use rocksdb::{DB, IngestExternalFileOptions, Options, SstFileWriter, WriteBatch, WriteOptions};

const RANGE: KeyGroupRange = KeyGroupRange { start: 0, end: 720 };
const ROWS: u64 = 2_000_000;
const MEMORY: u64 = 64 << 20;

/// Source: SplitMix64.
fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn key(number: u64) -> RowKey {
    let (first, second) = (mixed(number), mixed(number ^ 0x55));
    RowKey {
        group: KeyGroup((first % u64::from(RANGE.end)) as u16),
        bytes: [first.to_be_bytes(), second.to_be_bytes()].concat(),
    }
}

/// Half of a value compresses.
fn value(number: u64) -> Vec<u8> {
    [number.to_be_bytes(), [0; 8], mixed(!number).to_be_bytes()].concat()
}

fn batch(first: u64, rows: u64) -> Vec<RowWrite> {
    let mut batch = (first..first + rows)
        .map(|number| RowWrite {
            key: key(number),
            value: Some(value(number)),
        })
        .collect::<Vec<_>>();
    batch.sort_by(|a, b| a.key.cmp(&b.key));
    batch
}

fn nanos(took: Duration, rows: u64) -> u128 {
    took.as_nanos() / u128::from(rows)
}

type Opened = (Box<dyn StateStore>, Box<dyn Backing>);

fn open(factory: &RocksFactory) -> Result<Opened, BackingError> {
    let mut store = factory.create(&StorePlace {
        uid: OperatorUid::parse("measured").expect("a good uid"),
        subtask: SubtaskIndex(0),
        range: RANGE,
        held: RANGE,
    })?;
    let schemas = StateSchemas::of::<i64, (), i64>();
    let rows = store.open(&StateDescriptor::new("rows", StateKind::Value, schemas))?;
    Ok((store, rows))
}

/// Writes all rows in batches. Returns what the writer waited, without making the batches.
fn fill(rows: &mut dyn Backing, size: u64) -> Result<Duration, BackingError> {
    let mut took = Duration::ZERO;
    for at in 0..ROWS / size {
        let batch = batch(at * size, size);
        let start = Instant::now();
        rows.write(&batch)?;
        took += start.elapsed();
    }
    Ok(took)
}

fn fetch(rows: &mut dyn Backing, size: u64, base: u64) -> Result<(Duration, usize), BackingError> {
    let (mut took, mut hits) = (Duration::ZERO, 0);
    for at in 0..200_000 / size {
        let numbers = (at * size..(at + 1) * size).map(|number| base + mixed(number) % ROWS);
        let mut keys = numbers.map(key).collect::<Vec<_>>();
        keys.sort();
        keys.dedup();
        let mut found = Vec::new();
        let start = Instant::now();
        rows.fetch(&keys, &mut found)?;
        took += start.elapsed();
        hits += found.iter().flatten().count();
    }
    Ok((took, hits))
}

fn measure_rows(factory: &RocksFactory) -> Result<(), BackingError> {
    for size in [256, 1_024, 4_096, 32_768] {
        let (mut store, mut rows) = open(factory)?;
        let took = fill(&mut *rows, size)?;
        drop(store.freeze().freeze()?);
        println!("write, {size} rows a batch: {} ns a row", nanos(took, ROWS));
        for size in [64, 1_024] {
            for (what, base) in [("there", 0), ("absent", ROWS * 10)] {
                fetch(&mut *rows, size, base)?;
                let (took, hits) = fetch(&mut *rows, size, base)?;
                let each = nanos(took, 200_000);
                println!("  fetch, {size} keys, {what}: {each} ns a row, {hits} found");
            }
        }
        println!(
            "  {:?}, {} bytes of memory",
            store.report(),
            factory.used_bytes()
        );
    }
    Ok(())
}

fn measure_freeze(factory: &RocksFactory) -> Result<(), BackingError> {
    let (mut store, mut rows) = open(factory)?;
    fill(&mut *rows, 1_024)?;
    drop(store.freeze().freeze()?);
    for written in [0, 100, 1_000, 10_000, 25_000, 50_000] {
        let mut took = Duration::ZERO;
        for round in 0..5 {
            if written > 0 {
                rows.write(&batch(round * 100_000, written))?;
            }
            let freezing = store.freeze();
            let start = Instant::now();
            let frozen = freezing.freeze()?;
            took += start.elapsed();
            drop(frozen);
        }
        println!(
            "freeze after {written} rows: {:.1} ms",
            took.as_secs_f64() * 200.0
        );
    }
    Ok(())
}

/// What the store does not do: compares by hand.
fn measure_ingest(dir: &Path) -> Result<(), rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(4 << 20);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    for size in [1_024, 4_096, 32_768] {
        for is_ingested in [false, true] {
            let path = dir.join(format!("by-hand-{size}-{is_ingested}"));
            let db = DB::open(&options, &path)?;
            let mut took = Duration::ZERO;
            let batches = (262_144 / size).max(8);
            for at in 0..batches {
                let batch = batch(at * size, size);
                let rows = batch.iter().map(|row| {
                    let group = row.key.group.0.to_be_bytes();
                    (
                        [&group[..], &row.key.bytes].concat(),
                        row.value.as_deref().unwrap_or(b""),
                    )
                });
                let start = Instant::now();
                if is_ingested {
                    let file = path.join(format!("new-{at}"));
                    let mut writer = SstFileWriter::create(&options);
                    writer.open(&file)?;
                    rows.into_iter()
                        .try_for_each(|(key, value)| writer.put(key, value))?;
                    writer.finish()?;
                    drop(writer);
                    let mut moved = IngestExternalFileOptions::default();
                    moved.set_move_files(true);
                    db.ingest_external_file_opts(&moved, vec![file])?;
                } else {
                    let mut written = WriteBatch::default();
                    rows.for_each(|(key, value)| written.put(key, value));
                    db.write_opt(written, &unlogged)?;
                }
                took += start.elapsed();
            }
            let how = if is_ingested { "ingested" } else { "written" };
            println!(
                "by hand, {size} rows {how}: {} ns a row",
                nanos(took, batches * size)
            );
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let above = std::env::args()
        .nth(1)
        .map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let local_dir = above.join("store-cost");
    std::fs::create_dir_all(&local_dir)?;
    let factory = RocksFactory::new(RocksOptions {
        local_dir: local_dir.clone(),
        memory_bytes: MEMORY,
        background_threads: 1,
    })?;
    let said = |error: BackingError| error.to_string();
    measure_rows(&factory).map_err(said)?;
    measure_freeze(&factory).map_err(said)?;
    measure_ingest(&local_dir)?;
    std::fs::remove_dir_all(local_dir)?;
    Ok(())
}
