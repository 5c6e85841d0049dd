//! Measures what a keyed upsert and a snapshot cost: run with `cargo run --release --example upsert_cost`.
//!
//! Prints nanoseconds per record for a count by key over one million integer keys, chunk-wise and one by one, and the
//! longest pause of a chunk while the table grows and while a snapshot is taken.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program prints what its clock says"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use highwater_state::{
    BackendSetup, KeyContext, KeyedStateBackend, MemoryBudget, OpenState, SnapshotProgress,
    StateTable, Store, ValueState,
};
use highwater_types::{
    CheckpointId, Key, KeyGroupRange, KeyHash, MaxParallelism, OperatorUid, ProcessingTime,
    SubtaskIndex,
};

const KEYS: u64 = 1_000_000;
const CHUNK: usize = 1_024;
const RECORDS: usize = 20_000_000;

/// Keys in an order that no cache guesses. Source: SplitMix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

struct Batch {
    keys: Vec<u64>,
    hashes: Vec<KeyHash>,
}

fn draw_batches(draw: &mut Draw, count: usize) -> Vec<Batch> {
    (0..count)
        .map(|_| {
            let keys: Vec<u64> = (0..CHUNK).map(|_| draw.next() % KEYS).collect();
            let hashes = keys.iter().map(Key::key_hash).collect();
            Batch { keys, hashes }
        })
        .collect()
}

fn backend() -> KeyedStateBackend {
    let max_parallelism = MaxParallelism::DEFAULT;
    KeyedStateBackend::new(BackendSetup {
        uid: OperatorUid::parse("count").expect("the uid is well formed"),
        subtask: SubtaskIndex(0),
        range: KeyGroupRange { start: 0, end: 720 },
        max_parallelism,
        budget: MemoryBudget::unlimited(),
        store: Store::heap(),
    })
}

/// The median and the longest of the chunks that `run` does, so that a busy neighbour does not count.
fn measure(name: &str, batches: &[Batch], rounds: usize, mut run: impl FnMut(&Batch)) {
    let mut spent: Vec<Duration> = batches
        .iter()
        .cycle()
        .take(rounds)
        .map(|batch| {
            let begun = Instant::now();
            run(batch);
            begun.elapsed()
        })
        .collect();
    spent.sort_unstable();
    let quantile = |share: usize| spent[(spent.len() - 1) * share / 1_000];
    println!(
        "{name}: {:.1} ns per record; chunks of {CHUNK}: p99 {:?}, p99.9 {:?}, longest {:?}",
        quantile(500).as_nanos() as f64 / CHUNK as f64,
        quantile(990),
        quantile(999),
        quantile(1_000)
    );
}

fn main() {
    let mut draw = Draw(42);
    let rounds = RECORDS / CHUNK;
    let batches = draw_batches(&mut draw, 4_096);
    let now = ProcessingTime(0);
    let mut backend = backend();
    let table = StateTable::<u64, (), u64>::describe("counts");
    let table = backend
        .open::<StateTable<u64, (), u64>>(table)
        .expect("the table opens");

    measure(
        "growing to a million keys",
        &batches,
        batches.len(),
        |batch| {
            count(backend.get(table), batch);
        },
    );
    for _ in 0..3 {
        measure("count by key, chunk-wise", &batches, rounds, |batch| {
            count(backend.get(table), batch);
        });
    }
    let mut map = HashTable::<(u64, u64)>::new();
    for _ in 0..2 {
        measure(
            "for comparison, a bare hash map",
            &batches,
            rounds,
            |batch| {
                for (key, &hash) in batch.keys.iter().zip(&batch.hashes) {
                    map.entry(
                        hash.0,
                        |entry| entry.0 == *key,
                        |entry| entry.0.key_hash().0,
                    )
                    .and_modify(|entry| entry.1 += 1)
                    .or_insert((*key, 1));
                }
            },
        );
    }
    measure("count by key, one by one", &batches, rounds, |batch| {
        let state = backend.get(table);
        for (key, &hash) in batch.keys.iter().zip(&batch.hashes) {
            state.upsert((hash, key, &()), || 0, |count| *count += 1);
        }
    });
    snapshot(&mut backend, table, &batches, now);
    value_state(&batches, now);
}

fn count(state: &mut StateTable<u64, (), u64>, batch: &Batch) {
    let keys = black_box(&batch.keys);
    state.update_chunk(
        &batch.hashes,
        &(),
        |row| &keys[row],
        || 0,
        |_, count| *count += 1,
    );
}

/// Counts on while a snapshot is taken in pieces.
fn snapshot(
    backend: &mut KeyedStateBackend,
    table: highwater_state::StateHandle<StateTable<u64, (), u64>>,
    batches: &[Batch],
    now: ProcessingTime,
) {
    let begun = Instant::now();
    backend
        .begin_snapshot(CheckpointId::default(), now)
        .expect("no snapshot is running");
    let barrier = begun.elapsed();
    let mut saved_after = 0;
    measure(
        "count by key while a snapshot is taken",
        batches,
        1_024,
        |batch| {
            count(backend.get(table), batch);
            if backend
                .advance_snapshot(CHUNK)
                .expect("a snapshot is running")
                == SnapshotProgress::Saving
            {
                saved_after += 1;
            }
        },
    );
    let unsealed = backend.take_snapshot().expect("the snapshot is taken");
    let begun = Instant::now();
    let sealed = unsealed.seal().expect("the snapshot is sealed");
    println!(
        "snapshot: barrier {barrier:?}, saved after {saved_after} chunks, sealed elsewhere in {:?}, {} bytes",
        begun.elapsed(),
        black_box(sealed.to_bytes()).len()
    );
}

fn value_state(batches: &[Batch], now: ProcessingTime) {
    let mut backend = backend();
    let descriptor = ValueState::<u64, (), u64>::describe("value");
    let handle = backend
        .open::<ValueState<u64, (), u64>>(descriptor)
        .expect("the state opens");
    for _ in 0..2 {
        measure(
            "value state through its handle, prepared",
            batches,
            batches.len(),
            |batch| {
                update_values(&mut backend, handle, batch, now);
            },
        );
    }
}

fn update_values(
    backend: &mut KeyedStateBackend,
    handle: highwater_state::StateHandle<ValueState<u64, (), u64>>,
    batch: &Batch,
    now: ProcessingTime,
) {
    let rows = batch
        .keys
        .iter()
        .zip(&batch.hashes)
        .map(|(key, &hash)| (hash, key, &()));
    backend
        .get(handle)
        .prepare(rows)
        .expect("the heap reads nothing");
    for (key, &hash) in batch.keys.iter().zip(&batch.hashes) {
        let at = KeyContext::new(hash, key, now);
        backend.get(handle).update(at, || 0, |count| *count += 1);
    }
}
