//! The hot path allocates nothing: keyed count, rolling reduction and window count over integer keys, once the tables and
//! buffers have their size; with a local store behind the tables too, as long as the keys are in memory. Alone in its binary, because it counts the allocations of the whole process.

use std::alloc::System;
use std::sync::Arc;

use highwater_connectors::WakeHandle;
use highwater_operators::{
    Aggregated, Count, Link, Operator, OperatorContext, Outputs, Port, Push, RollingAggregate,
    RollingReduce, TaskClock, Window, WindowOptions, WindowParts, emit_result,
};
use highwater_state::contract::SlowMissFactory;
use highwater_state::{MemoryBudget, Store};
use highwater_types::chunk::CHUNK_RECORDS_MAX;
use highwater_types::{
    Chunk, EventTime, JobIdentity, Key, MaxParallelism, OperatorUid, Parallelism, Record,
    SubtaskIndex,
};
use highwater_window::Tumbling;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEYS: i64 = 5_000;
const CHUNKS: i64 = 64;

type Pair = (i64, i64);

const fn key_of(record: &Pair) -> i64 {
    record.0
}

fn context(rim: &tokio::runtime::Handle, store: Store) -> OperatorContext {
    OperatorContext {
        job: JobIdentity::parse("steady").expect("a valid name"),
        uid: OperatorUid::parse("count").expect("a valid name"),
        subtask: SubtaskIndex(0),
        parallelism: Parallelism(1),
        max_parallelism: MaxParallelism::DEFAULT,
        clock: TaskClock::default(),
        wake: WakeHandle::new(|| {}),
        budget: MemoryBudget::unlimited(),
        store,
        rim: rim.clone(),
        restored: None,
        unmatched: highwater_operators::OnUnmatched::Refuse,
    }
}

/// Fills the chunk with the next records: keys in a scattered order, times that walk through two windows.
fn fill(chunk: &mut Chunk<Pair>, next: &mut i64) {
    while chunk.len() < CHUNK_RECORDS_MAX {
        let key = (*next * 7_919) % KEYS;
        chunk.push_keyed((key, *next), EventTime(*next % 2_000), key.key_hash());
        *next += 1;
    }
}

/// How often the steady state allocates.
fn allocations<Out: Record>(operator: impl Operator<Pair, Out>) -> usize {
    let uid = OperatorUid::parse("count").expect("a valid name");
    let outputs = Outputs::new(Port::new(Vec::new()), Vec::new());
    let mut link = Link::new(uid, operator, outputs);
    let (mut chunk, mut next) = (Chunk::new(), 0);
    for _ in 0..CHUNKS {
        fill(&mut chunk, &mut next);
        link.push(&mut chunk).expect("nothing fails");
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..CHUNKS {
        fill(&mut chunk, &mut next);
        link.push(&mut chunk).expect("nothing fails");
    }
    region.change().allocations + region.change().reallocations
}

/// Keys that are in memory cost no allocation, whatever lies behind it.
fn over_a_store(rim: &tokio::runtime::Handle) {
    let store = Store::Local {
        factory: Arc::new(SlowMissFactory::default()),
    };
    let context = context(rim, store);
    let count = RollingAggregate::open(&context, key_of, Count, None).expect("the operator opens");
    assert_eq!(allocations(count), 0, "rolling count over a store");
    let sum = |into: &mut Pair, value: Pair| into.1 += value.1;
    let reduce = RollingReduce::open(&context, key_of, sum, None).expect("the operator opens");
    assert_eq!(allocations(reduce), 0, "rolling reduction over a store");
}

#[test]
fn keyed_aggregation_allocates_nothing_in_the_steady_state() {
    let rim = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let context = context(rim.handle(), Store::heap());
    let count = RollingAggregate::open(&context, key_of, Count, None).unwrap();
    assert_eq!(allocations(count), 0, "rolling count");
    let sum = |into: &mut Pair, value: Pair| into.1 += value.1;
    let reduce = RollingReduce::open(&context, key_of, sum, None).unwrap();
    assert_eq!(allocations(reduce), 0, "rolling reduction");
    let parts = WindowParts {
        assigner: Tumbling::try_new(1_000).unwrap(),
        contents: Aggregated(Count),
        function: emit_result::<i64, u64>,
        key_of,
    };
    let window = Window::open(&context, parts, WindowOptions::event_time()).unwrap();
    assert_eq!(allocations(window), 0, "window count");
    over_a_store(rim.handle());
    let seen = Region::new(ALLOCATOR);
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(seen.change().allocations, 1, "the counter counts");
}
