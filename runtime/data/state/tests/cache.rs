//! State that outgrows memory: what a table over a local store keeps, drops and reads, and what the budget promises of it.

#![allow(clippy::unwrap_used, reason = "helpers of a test unwrap as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_state::contract::{SlowMissFactory, copied};
use highwater_state::{
    BackendSetup, KeyedSnapshot, KeyedStateBackend, MemoryBudget, OpenState, RestoredSnapshot,
    SnapshotProgress, StateHandle, StateReport, StateTable, Store, Unmatched, canonical_digest,
};
use highwater_types::{
    CheckpointId, Classified, ErrorKind, Key, KeyGroupRange, KeyHash, MaxParallelism, OperatorUid,
    ProcessingTime, SubtaskIndex,
};
use proptest::prelude::*;

type Counts = StateTable<i64, (), u64>;

const NOW: ProcessingTime = ProcessingTime(0);

fn setup(factory: &SlowMissFactory, budget: &MemoryBudget) -> BackendSetup {
    BackendSetup {
        uid: OperatorUid::parse("count").unwrap(),
        subtask: SubtaskIndex(0),
        range: KeyGroupRange { start: 0, end: 720 },
        max_parallelism: MaxParallelism::DEFAULT,
        budget: budget.clone(),
        store: Store::Local {
            factory: Arc::new(factory.clone()),
        },
    }
}

/// An operator that counts by key.
struct Counting {
    backend: KeyedStateBackend,
    counts: StateHandle<Counts>,
}

impl Counting {
    fn open(mut backend: KeyedStateBackend) -> Self {
        let counts = backend.open::<Counts>(Counts::describe("counts")).unwrap();
        backend.finish_restore(&Unmatched::refuse()).unwrap();
        Self { backend, counts }
    }

    fn new(factory: &SlowMissFactory, budget: &MemoryBudget) -> Self {
        Self::open(KeyedStateBackend::new(setup(factory, budget)))
    }

    /// Adds one for each key. Returns the counts, row by row.
    fn count(&mut self, keys: &[i64]) -> Vec<u64> {
        let hashes: Vec<KeyHash> = keys.iter().map(Key::key_hash).collect();
        let state = self.backend.get(self.counts);
        state.prepare_chunk(&hashes, &(), |row| keys[row]).unwrap();
        let mut seen = Vec::new();
        state.update_chunk(
            &hashes,
            &(),
            |row| keys[row],
            || 0,
            |_, count| {
                *count += 1;
                seen.push(*count);
            },
        );
        self.backend.after_chunk(NOW).unwrap();
        seen
    }

    fn report(&self) -> StateReport {
        self.backend.reports().remove(0)
    }
}

/// Bytes that `entries` counts take.
fn bytes_of(entries: usize) -> u64 {
    let budget = MemoryBudget::unlimited();
    let mut one = Counting::new(&SlowMissFactory::default(), &budget);
    let state = one.backend.get(one.counts);
    state.insert(1i64.key_hash(), &1, &(), 1);
    one.report().bytes * entries as u64
}

#[test]
fn a_scan_of_cold_keys_does_not_push_out_what_is_used_between() {
    let factory = SlowMissFactory::default();
    let mut counting = Counting::new(&factory, &MemoryBudget::new(bytes_of(20_000)));
    let hot: Vec<i64> = (0..2_000).collect();
    let mut expected = 0;
    for chunk in 0..200 {
        let cold: Vec<i64> = (0..1_000)
            .map(|at| 1_000_000 + chunk * 1_000 + at)
            .collect();
        counting.count(&cold);
        if chunk % 5 == 0 {
            let before = counting.report().misses;
            expected += 1;
            assert_eq!(counting.count(&hot), vec![expected; 2_000]);
            let misses = counting.report().misses - before;
            assert!(
                misses < 20,
                "{misses} hot keys were dropped before chunk {chunk}"
            );
        }
    }
    assert!(
        counting.report().evicted > 150_000,
        "{:?}",
        counting.report()
    );
}

#[test]
fn reads_alone_keep_an_entry_in_memory() {
    let factory = SlowMissFactory::default();
    let mut counting = Counting::new(&factory, &MemoryBudget::new(bytes_of(5_000)));
    counting.count(&[7]);
    for chunk in 0..100 {
        let cold: Vec<i64> = (0..500).map(|at| 1_000 + chunk * 500 + at).collect();
        counting.count(&cold);
        let state = counting.backend.get(counting.counts);
        assert_eq!(state.get(7i64.key_hash(), &7, &()), Some(&1));
    }
    assert_eq!(counting.report().unprepared, 0, "{:?}", counting.report());
}

#[test]
fn large_rows_go_to_the_store_in_small_batches() {
    type Texts = StateTable<i64, (), String>;
    const TEXT: usize = 50_000;
    let factory = SlowMissFactory::default();
    let setup = setup(&factory, &MemoryBudget::new(15_000_000));
    let mut backend = KeyedStateBackend::new(setup);
    let texts = backend.open::<Texts>(Texts::describe("texts")).unwrap();
    backend.finish_restore(&Unmatched::refuse()).unwrap();
    let insert = |backend: &mut KeyedStateBackend, keys: std::ops::Range<i64>| {
        for key in keys {
            let state = backend.get(texts);
            state.insert(key.key_hash(), &key, &(), "x".repeat(TEXT));
        }
        backend.after_chunk(NOW).unwrap();
    };
    // Fits into memory: all of it is written for the snapshot.
    insert(&mut backend, 0..200);
    backend
        .begin_snapshot(CheckpointId::default(), NOW)
        .unwrap();
    while backend.advance_snapshot(1_000).unwrap() == SnapshotProgress::Saving {}
    let mut unsealed = backend.take_snapshot().unwrap();
    unsealed.freeze().unwrap();
    backend.resume_writes();
    assert_eq!(factory.calls().written(), 200);
    // Does not: it is written to leave memory.
    insert(&mut backend, 200..600);
    assert!(factory.calls().written() > 300);
    let largest = factory.calls().largest_write() as usize;
    assert!(largest <= (1 << 20) + 2 * TEXT, "{largest} bytes");
}

#[test]
fn a_new_key_costs_no_read() {
    let factory = SlowMissFactory::default();
    let mut counting = Counting::new(&factory, &MemoryBudget::new(bytes_of(40_000)));
    for chunk in 0..100 {
        let keys: Vec<i64> = (chunk * 1_000..(chunk + 1) * 1_000).collect();
        assert_eq!(counting.count(&keys), vec![1; 1_000]);
    }
    let report = counting.report();
    assert!(report.misses < 3_000, "{report:?}");
    assert!(report.known_absent > 97_000, "{report:?}");
    assert_eq!(counting.count(&[0, 50_000, 99_999]), [2, 2, 2]);
}

#[test]
fn what_is_dirty_leaves_memory_in_large_sorted_batches() {
    let factory = SlowMissFactory::default();
    let mut counting = Counting::new(&factory, &MemoryBudget::new(bytes_of(20_000)));
    for chunk in 0..100 {
        let keys: Vec<i64> = (chunk * 1_000..(chunk + 1) * 1_000).collect();
        counting.count(&keys);
    }
    let calls = factory.calls();
    assert!(calls.written() > 75_000, "{calls:?}");
    assert!(calls.written() / calls.writes() > 700, "{calls:?}");
}

#[test]
fn what_was_saved_and_not_written_since_is_dropped_for_nothing() {
    let factory = SlowMissFactory::default();
    let mut counting = Counting::new(&factory, &MemoryBudget::new(bytes_of(12_000)));
    for chunk in 0..10 {
        let keys: Vec<i64> = (chunk * 1_000..(chunk + 1) * 1_000).collect();
        counting.count(&keys);
    }
    let saved = counting
        .backend
        .snapshot_now(CheckpointId::default(), NOW, Vec::new());
    assert_eq!(saved.unwrap().states[0].groups.len(), 720);
    let written = counting.report().rows_written;
    assert_eq!(written, 10_000);
    for chunk in 10..14 {
        let keys: Vec<i64> = (chunk * 1_000..(chunk + 1) * 1_000).collect();
        counting.count(&keys);
    }
    let report = counting.report();
    assert!(report.evicted > 1_000, "{report:?}");
    assert_eq!((report.evicted_dirty, report.rows_written), (0, written));
}

#[test]
fn an_idle_operator_gives_back_and_a_small_hot_one_keeps_what_it_uses() {
    let factory = SlowMissFactory::default();
    let budget = MemoryBudget::new(bytes_of(30_000));
    let mut idle = Counting::new(&factory, &budget);
    let mut small = Counting::new(&factory, &budget);
    let mut large = Counting::new(&factory, &budget);
    let woken = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&woken);
    idle.backend.on_pressure(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    for chunk in 0..20 {
        let keys: Vec<i64> = (chunk * 1_000..(chunk + 1) * 1_000).collect();
        idle.count(&keys);
    }
    let hot: Vec<i64> = (0..1_000).collect();
    small.count(&hot);
    let (mut heard, mut dropped) = (0, 0);
    for chunk in 0..300 {
        let keys: Vec<i64> = (chunk * 1_000..(chunk + 1) * 1_000).collect();
        large.count(&keys);
        small.count(&hot);
        dropped = small.report().evicted;
        let calls = woken.load(std::sync::atomic::Ordering::Relaxed);
        if calls > heard {
            heard = calls;
            idle.backend.relieve_others().unwrap();
        }
    }
    assert!(idle.report().entries < 2_000, "{:?}", idle.report());
    assert!(dropped < 2_000, "{:?}", small.report());
    assert!(large.report().entries > 15_000, "{:?}", large.report());
}

#[test]
fn state_that_cannot_leave_memory_is_refused_by_name() {
    let budget = MemoryBudget::new(bytes_of(2_000));
    let mut backend = KeyedStateBackend::new(setup(&SlowMissFactory::default(), &budget));
    let counts = backend.open::<Counts>(Counts::describe("counts")).unwrap();
    let id = CheckpointId::default();
    backend.begin_snapshot(id, NOW).unwrap();
    let _being_frozen = backend.take_snapshot().unwrap();
    let mut refused = None;
    for key in 0i64..10_000 {
        // Removals wait until the store may be written again.
        let place = (key.key_hash(), &key, &());
        backend.get(counts).upsert(place, || 0, |count| *count += 1);
        backend.get(counts).take(place.0, place.1, place.2);
        if let Err(error) = backend.after_chunk(NOW) {
            refused = Some((key, error));
            break;
        }
    }
    let (key, error) = refused.unwrap();
    assert!((1_500..4_500).contains(&key), "refused at {key}");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("state `counts`"), "{error}");
}

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// Counts keys: how many, from where, how far apart.
    Count(u16, u16, u8),
    Remove(u16),
    Barrier,
    Advance(u16),
    Take,
    Abort,
    Crash {
        in_store: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1u16..400, 0u16..4_000, 1u8..8).prop_map(|(n, from, by)| Step::Count(n, from, by)),
        2 => (0u16..4_000).prop_map(Step::Remove),
        2 => Just(Step::Barrier),
        2 => (0u16..2_000).prop_map(Step::Advance),
        2 => Just(Step::Take),
        1 => Just(Step::Abort),
        1 => any::<bool>().prop_map(|in_store| Step::Crash { in_store }),
    ]
}

/// A run beside a plain map, inside a budget of few entries.
struct Run {
    factory: SlowMissFactory,
    budget: MemoryBudget,
    counting: Counting,
    live: BTreeMap<i64, u64>,
    barrier: Option<BTreeMap<i64, u64>>,
    saved: BTreeMap<i64, u64>,
    restored: Option<(KeyedSnapshot, RestoredBytes)>,
    /// Bytes by which the run grew while nothing could leave memory.
    slack: u64,
}

type RestoredBytes = (Vec<u8>, highwater_state::StoreFiles);

impl Run {
    fn new(cache: u64) -> Self {
        let factory = SlowMissFactory::default();
        let budget = MemoryBudget::with_cache(u64::MAX, cache);
        Self {
            counting: Counting::new(&factory, &budget),
            factory,
            budget,
            live: BTreeMap::new(),
            barrier: None,
            saved: BTreeMap::new(),
            restored: None,
            slack: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Count(n, from, by) => self.count(n, from, by),
            Step::Remove(key) => {
                let key = i64::from(key);
                let state = self.counting.backend.get(self.counting.counts);
                let taken = state.take(key.key_hash(), &key, &());
                assert_eq!(taken, self.live.remove(&key));
            }
            Step::Barrier if self.barrier.is_none() => {
                let begun = self
                    .counting
                    .backend
                    .begin_snapshot(CheckpointId::default(), NOW);
                begun.unwrap();
                self.barrier = Some(self.live.clone());
            }
            Step::Advance(entries) if self.barrier.is_some() => {
                let advanced = self.counting.backend.advance_snapshot(usize::from(entries));
                advanced.unwrap();
            }
            Step::Take => self.take(),
            Step::Abort => {
                self.barrier = None;
                self.counting.backend.abort_snapshot();
            }
            Step::Crash { in_store } => self.crash(in_store),
            Step::Barrier | Step::Advance(_) => {}
        }
    }

    fn count(&mut self, n: u16, from: u16, by: u8) {
        let keys: Vec<i64> = (0..i64::from(n))
            .map(|at| (i64::from(from) + at * i64::from(by)) % 4_000)
            .collect();
        let seen = self.counting.count(&keys);
        for (key, seen) in keys.iter().zip(seen) {
            let count = self.live.entry(*key).or_default();
            *count += 1;
            assert_eq!(seen, *count, "count of {key}");
        }
        // The bytes of this chunk's entries, if all were new.
        let growth = bytes_of(1) * u64::from(n);
        let is_held_up = self.counting.backend.is_pressed() || self.barrier.is_some();
        self.slack = if is_held_up { self.slack + growth } else { 0 };
        let fixed = self.budget.fixed();
        let most = self.budget.cache().max(fixed) + self.slack;
        assert!(
            self.budget.used() <= most,
            "{} of {most} with {fixed} fixed",
            self.budget.used()
        );
    }

    fn take(&mut self) {
        let Some(barrier) = self.barrier.take() else {
            return;
        };
        let mut taken = self.counting.backend.take_snapshot().unwrap();
        // Records go on while the store is being frozen.
        self.count(50, 17, 3);
        taken.freeze().unwrap();
        self.counting.backend.resume_writes();
        let in_store = taken.seal_in_store().unwrap();
        let whole = taken.seal().unwrap();
        assert_eq!(
            canonical_digest(std::slice::from_ref(&whole)),
            digest_on_heap(&barrier)
        );
        self.saved = barrier;
        self.restored = Some((whole, (in_store.head.to_bytes(), in_store.files)));
    }

    fn crash(&mut self, in_store: bool) {
        let restored = self.restored.iter().map(|(whole, (head, files))| {
            if in_store {
                RestoredSnapshot {
                    snapshot: KeyedSnapshot::from_bytes(head.clone()).unwrap(),
                    files: Some(copied(files)),
                }
            } else {
                whole.clone().into()
            }
        });
        let setup = setup(&self.factory, &self.budget);
        let backend = KeyedStateBackend::restore(setup, restored.collect(), NOW).unwrap();
        self.counting = Counting::open(backend);
        self.barrier = None;
        self.live = self.saved.clone();
    }
}

/// The canonical digest of these counts, from a table on the heap.
fn digest_on_heap(counts: &BTreeMap<i64, u64>) -> u64 {
    let mut setup = setup(&SlowMissFactory::default(), &MemoryBudget::unlimited());
    setup.store = Store::heap();
    let mut counting = Counting::open(KeyedStateBackend::new(setup));
    let state = counting.backend.get(counting.counts);
    for (key, &count) in counts {
        state.insert(key.key_hash(), key, &(), count);
    }
    let saved = counting
        .backend
        .snapshot_now(CheckpointId::default(), NOW, Vec::new());
    canonical_digest(&[saved.unwrap()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_run_inside_any_budget_is_right_and_stays_inside(
        entries in prop_oneof![Just(0usize), 1usize..50, 50usize..3_000],
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new(bytes_of(entries));
        for step in &steps {
            run.step(step);
        }
        run.step(&Step::Barrier);
        run.step(&Step::Take);
        run.step(&Step::Crash { in_store: true });
        let keys: Vec<i64> = (0..4_000).collect();
        let expected: Vec<u64> = keys.iter().map(|key| run.live.get(key).copied().unwrap_or(0) + 1).collect();
        prop_assert_eq!(run.counting.count(&keys), expected);
    }
}
