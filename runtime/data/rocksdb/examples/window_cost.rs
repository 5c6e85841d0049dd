//! Measures what windows and timers cost when they outgrow memory: run with
//! `cargo run --release --example window_cost -- rocksdb 5000000 25`.
//!
//! Arguments: the store (`heap`, `fake` or `rocksdb`), how many keys, which part of their state fits memory (in percent).
//! Prints for each phase nanoseconds of wall time per record, key or timer, and the longest call.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program prints what its clock says"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::contract::SlowMissFactory;
use highwater_state::{
    BackendSetup, Drained, KeyedStateBackend, MemoryBudget, OpenState, SlicedState, Store,
    TimerState,
};
use highwater_types::{
    CheckpointId, Key, KeyGroupRange, MaxParallelism, OperatorUid, ProcessingTime, SubtaskIndex,
};

const CHUNK: u64 = 1_024;
const NOW: ProcessingTime = ProcessingTime(0);

type Windows = SlicedState<u64, i64, u64>;

/// Time of a phase and its longest call.
struct Phase {
    begun: Instant,
    longest: Duration,
}

impl Phase {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let begun = Instant::now();
        let result = call();
        self.longest = self.longest.max(begun.elapsed());
        result
    }

    fn end(self, what: &str, count: u64) {
        let each = self.begun.elapsed().as_nanos() / u128::from(count.max(1));
        println!("{what:<44} {each:>7} ns   longest call {:?}", self.longest);
    }
}

fn backend(store: Store, cache: u64) -> KeyedStateBackend {
    KeyedStateBackend::new(BackendSetup {
        uid: OperatorUid::parse("windows").expect("the uid is well formed"),
        subtask: SubtaskIndex(0),
        range: KeyGroupRange { start: 0, end: 720 },
        max_parallelism: MaxParallelism::DEFAULT,
        budget: MemoryBudget::with_cache(u64::MAX, cache),
        store,
    })
}

fn windows(backend: &mut KeyedStateBackend, keys: u64) {
    let handle = backend.open::<Windows>(Windows::describe("windows"));
    let handle = handle.expect("the state opens");
    for window in 0..3i64 {
        let mut phase = Phase::begin();
        for chunk in 0..2 * keys / CHUNK {
            let at = |row: usize| (chunk * CHUNK + row as u64) % keys;
            let hashes: Vec<_> = (0..CHUNK as usize).map(|row| at(row).key_hash()).collect();
            phase.call(|| {
                let slice = backend.get(handle).slice(&window);
                slice
                    .prepare_chunk(&hashes, &(), at)
                    .expect("rows are read");
                slice.update_chunk(&hashes, &(), at, || 0, |_, count| *count += 1);
                backend.after_chunk(NOW).expect("the chunk ends");
            });
        }
        phase.end("a record of a window", 2 * keys);
        if window == 1 {
            let begun = Instant::now();
            let id = CheckpointId::default();
            backend.begin_snapshot(id, NOW).expect("none is running");
            let mut taken = backend.take_snapshot().expect("it is taken");
            taken.freeze().expect("the store freezes");
            backend.resume_writes();
            println!("a checkpoint {:?}", begun.elapsed());
        }
        let (mut phase, mut fired, mut end) = (Phase::begin(), 0, Drained::Part);
        while end == Drained::Part {
            let drained = phase.call(|| {
                backend
                    .get(handle)
                    .drain(&window, 1_024, |_, _, _| fired += 1)
            });
            end = drained.expect("the window is drained");
            backend.after_chunk(NOW).expect("the portion ends");
        }
        phase.end("a key of a window that fires", fired);
    }
}

fn timers(backend: &mut KeyedStateBackend, keys: u64) {
    let handle = backend.open::<TimerState<u64>>(TimerState::<u64>::describe("timers"));
    let handle = handle.expect("the state opens");
    let mut phase = Phase::begin();
    for chunk in 0..keys / CHUNK {
        phase.call(|| {
            for row in 0..CHUNK {
                let key = (chunk * CHUNK + row) * 7_919 % keys;
                let timers = backend.get(handle);
                timers.register(key.key_hash(), &key, key as i64);
            }
            backend.after_chunk(NOW).expect("the chunk ends");
        });
    }
    phase.end("a timer that is set", keys);
    let (mut phase, mut fired) = (Phase::begin(), 0);
    loop {
        let before = fired;
        phase.call(|| {
            while fired < before + CHUNK && backend.get(handle).pop_due(i64::MAX).is_some() {
                fired += 1;
            }
            backend.after_chunk(NOW).expect("the portion ends");
        });
        if fired == before {
            break;
        }
    }
    phase.end("a timer that fires", fired);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: u64| {
        let given = arguments.get(at).and_then(|given| given.parse().ok());
        given.unwrap_or(usual)
    };
    let (keys, percent) = (number(1, 5_000_000), number(2, 25));
    let dir = tempfile::tempdir().expect("a directory is made");
    let cache = keys * 32 * percent / 100;
    let kind = arguments.first().map_or("rocksdb", String::as_str);
    let store = || match kind {
        "heap" => Store::heap(),
        "fake" => Store::Local {
            factory: Arc::new(SlowMissFactory::default()),
        },
        _ => {
            let factory = RocksFactory::new(RocksOptions {
                local_dir: dir.path().to_owned(),
                memory_bytes: 256 << 20,
                background_threads: 2,
            });
            Store::Local {
                factory: Arc::new(factory.expect("the directory is writable")),
            }
        }
    };
    windows(&mut backend(store(), cache), keys);
    if kind != "heap" {
        timers(&mut backend(store(), cache), keys);
    }
}
