//! Measures what a count by key costs when its state outgrows memory: run with
//! `cargo run --release --example cache_cost -- rocksdb 10000000 25`.
//!
//! Arguments: the store (`heap`, `fake` or `rocksdb`), how many keys, which part of their state fits memory (in percent).
//! Prints for each phase nanoseconds of processor time per record, that of the longest chunks, what the cache did, and the
//! memory of the process beside what the budget was charged. Threads of the store come on top.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program prints what its clock says"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::contract::SlowMissFactory;
use highwater_state::{
    BackendSetup, KeyedStateBackend, MemoryBudget, OpenState, SnapshotProgress, StateHandle,
    StateReport, StateTable, Store, StoreFactory,
};
use highwater_types::{
    CheckpointId, Key, KeyGroupRange, KeyHash, MaxParallelism, OperatorUid, ProcessingTime,
    SubtaskIndex,
};

const CHUNK: usize = 1_024;
const NOW: ProcessingTime = ProcessingTime(0);

type Counts = StateTable<u64, (), u64>;

/// Numbers that no cache guesses. Source: SplitMix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// From 0 up to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

const fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

struct Job {
    backend: KeyedStateBackend,
    counts: StateHandle<Counts>,
    budget: MemoryBudget,
}

impl Job {
    fn open(store: Store, cache: u64) -> Self {
        let budget = MemoryBudget::with_cache(u64::MAX, cache);
        let mut backend = KeyedStateBackend::new(BackendSetup {
            uid: OperatorUid::parse("count").expect("the uid is well formed"),
            subtask: SubtaskIndex(0),
            range: KeyGroupRange { start: 0, end: 720 },
            max_parallelism: MaxParallelism::DEFAULT,
            budget: budget.clone(),
            store,
        });
        let described = Counts::describe("counts");
        let counts = backend.open::<Counts>(described).expect("the table opens");
        Self {
            backend,
            counts,
            budget,
        }
    }

    fn chunk(&mut self, keys: &[u64], hashes: &[KeyHash]) {
        let state = self.backend.get(self.counts);
        let prepared = state.prepare_chunk(hashes, &(), |row| keys[row]);
        prepared.expect("the store reads");
        state.update_chunk(hashes, &(), |row| keys[row], || 0, |_, count| *count += 1);
        self.backend.after_chunk(NOW).expect("the chunk ends well");
    }

    fn report(&self) -> StateReport {
        self.backend.reports().remove(0)
    }

    /// Runs `records` with the keys that `key` gives, in order of records.
    fn phase(&mut self, name: &str, records: u64, mut key: impl FnMut(u64) -> u64) {
        let before = self.report();
        let (mut keys, mut hashes) = (vec![0; CHUNK], vec![KeyHash(0); CHUNK]);
        let (mut spent, mut longest) = (Duration::ZERO, Duration::ZERO);
        let mut late = 0;
        for chunk in 0..records / CHUNK as u64 {
            for (row, (held, hash)) in keys.iter_mut().zip(&mut hashes).enumerate() {
                *held = key(chunk * CHUNK as u64 + row as u64);
                *hash = held.key_hash();
            }
            let begun = processor_time();
            self.chunk(&keys, &hashes);
            let took = processor_time().saturating_sub(begun);
            late += u64::from(took > Duration::from_millis(4));
            longest = longest.max(took);
            spent += took;
        }
        let after = self.report();
        let each = |count: u64| count as f64 / records as f64;
        println!(
            "{name}: {:.0} ns per record, longest chunk {longest:.1?}, {late} of {} above 4 ms; per record: {:.3} misses, \
             {:.3} known absent, {:.3} evicted, {:.3} written; charged {} MiB, resident {} MiB",
            spent.as_nanos() as f64 / records as f64,
            records / CHUNK as u64,
            each(after.misses - before.misses),
            each(after.known_absent - before.known_absent),
            each(after.evicted - before.evicted),
            each(after.rows_written - before.rows_written),
            self.budget.used() >> 20,
            resident_bytes() >> 20,
        );
    }

    fn checkpoint(&mut self) {
        let begun = processor_time();
        let started = self.backend.begin_snapshot(CheckpointId::default(), NOW);
        started.expect("no other snapshot runs");
        let progress = loop {
            match self.backend.advance_snapshot(CHUNK) {
                Ok(SnapshotProgress::Saving) => {}
                other => break other,
            }
        };
        progress.expect("the snapshot goes on");
        let saved = processor_time().saturating_sub(begun);
        let mut taken = self.backend.take_snapshot().expect("the snapshot is taken");
        let begun = std::time::Instant::now();
        taken.freeze().expect("the store freezes");
        self.backend.resume_writes();
        println!(
            "checkpoint: saved in {saved:.1?}, frozen in {:.1?}",
            begun.elapsed()
        );
    }
}

/// What this thread had of a processor.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes of memory of this process.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0u64) * 4_096
}

fn store(name: &str, dir: &Path, memory: u64) -> Store {
    let factory: Arc<dyn StoreFactory> = match name {
        "heap" => return Store::heap(),
        "fake" => Arc::new(SlowMissFactory::default()),
        _ => Arc::new(
            RocksFactory::new(RocksOptions {
                local_dir: dir.to_owned(),
                memory_bytes: memory,
                background_threads: 1,
            })
            .expect("the store starts"),
        ),
    };
    Store::Local { factory }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize, usual: u64| {
        let given = arguments.get(at).and_then(|text| text.parse().ok());
        given.unwrap_or(usual)
    };
    let name = arguments.get(1).map_or("rocksdb", String::as_str);
    let (keys, percent) = (number(2, 2_000_000), number(3, 25));
    let records = number(4, 4_000_000);
    let dir = tempfile::tempdir().expect("a directory is made");
    let cache = keys * 38 * percent / 100;
    println!("{name}, {keys} keys, cache of {} MiB", cache >> 20);
    let mut job = Job::open(store(name, dir.path(), (cache / 2).max(64 << 20)), cache);
    let mut draw = Draw(42);
    job.phase("new keys", keys, |record| record);
    job.phase("hot keys", records, |record| mixed(record) % (keys / 50));
    job.checkpoint();
    job.phase("uniform", records, |_| draw.next() % keys);
    job.phase("uniform", records, |_| draw.next() % keys);
    job.checkpoint();
    let ranks = (keys as f64).ln();
    let zipf = move |draw: &mut Draw| mixed((draw.share() * ranks).exp() as u64) % keys;
    job.phase("zipf", records, |_| zipf(&mut draw));
    job.phase("zipf", records, |_| zipf(&mut draw));
    job.checkpoint();
    job.phase("new keys", records / 4, |record| keys + record);
}
