//! Keyed operators whose state outgrows memory: the same output as on the heap, with a cache of a few entries, barriers in
//! the middle and a restore from the files of the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_operators::testing::{Harness, HarnessSetup};
use highwater_operators::{
    Count, FiredTimer, KeyedContext, KeyedProcess, KeyedProcessFunction, OpenContext,
    OperatorReport, RollingAggregate, RollingReduce, UserError,
};
use highwater_state::contract::{SlowMissFactory, on_heap, over};
use highwater_state::{
    Backing, BackingError, Freezing, FrozenStore, MemoryBudget, StateDescriptor, StateHandle,
    StateStore, Store, StoreFactory, StoreFiles, StorePlace, StoreReport, TtlConfig, ValueState,
};
use highwater_types::{Classified, ErrorKind, EventTime, ProcessingTime, Record};

type Pair = (i64, i64);

const CHUNKS: i64 = 60;

const fn key_of(record: &Pair) -> i64 {
    record.0
}

fn setup((store, budget): (Store, MemoryBudget)) -> HarnessSetup {
    HarnessSetup {
        store,
        budget,
        ..HarnessSetup::default()
    }
}

/// What a run gave.
struct Ran<Out> {
    output: Vec<(Out, EventTime)>,
    report: OperatorReport,
}

/// Pushes chunks of keys that come again, with barriers between; restores where `restored_at` says.
fn run<Out: Record>(
    place: impl Fn() -> (Store, MemoryBudget),
    open: impl Fn(HarnessSetup) -> Harness<Pair, Out>,
    restored_at: Option<i64>,
) -> Ran<Out> {
    let mut harness = open(setup(place()));
    let mut output = Vec::new();
    for chunk in 0..CHUNKS {
        let pairs = (0..200).map(|row| {
            let key = (chunk * 37 + row * row) % 1_500;
            ((key, row), EventTime(chunk * 10 + row % 10))
        });
        harness.push_keyed(pairs, key_of);
        harness.processing_time(chunk);
        harness.watermark(chunk * 10 - 20);
        match chunk % 7 {
            3 => harness.barrier(),
            5 => drop(harness.collect()),
            _ => {}
        }
        if restored_at == Some(chunk) {
            let restored = harness.snapshot();
            output.extend(harness.take_output());
            harness = open(HarnessSetup {
                restored: Some(restored.into()),
                now: harness.now(),
                ..setup(place())
            });
        }
        output.extend(harness.take_output());
    }
    Ran {
        output,
        report: harness.report(),
    }
}

/// Compares an operator on the heap with the same over a store.
fn compare<Out: Record + PartialEq + std::fmt::Debug>(
    open: impl Fn(HarnessSetup) -> Harness<Pair, Out>,
    restored_at: Option<i64>,
) {
    let expected = run(on_heap, &open, restored_at);
    assert!(expected.output.len() > 1_000, "the run gives output");
    for cache in [64, 8_000, u64::MAX] {
        let factory = Arc::new(SlowMissFactory::default());
        let ran = run(
            || over(Arc::clone(&factory) as Arc<_>, cache),
            &open,
            restored_at,
        );
        assert_eq!(ran.output, expected.output, "with {cache} bytes of cache");
        if cache < 10_000 {
            assert!(ran.report.state_entries < 300, "{:?}", ran.report);
            let calls = factory.calls();
            assert!(
                calls.fetched() > 20 * calls.fetches(),
                "misses of a chunk are read at once: {calls:?}"
            );
        }
    }
}

#[test]
fn rolling_count_is_the_same_with_a_cache_of_a_few_entries() {
    let open = |setup| {
        Harness::new(setup, |context| {
            RollingAggregate::open(&context, key_of, Count, None)
        })
    };
    compare(open, Some(30));
}

#[test]
fn rolling_reduction_with_ttl_is_the_same_with_a_cache_of_a_few_entries() {
    let sum = |into: &mut Pair, pair: Pair| into.1 += pair.1;
    let open = move |setup| {
        Harness::new(setup, move |context| {
            RollingReduce::open(&context, key_of, sum, Some(TtlConfig::after_write(9)))
        })
    };
    compare(open, Some(37));
}

type Value<V> = StateHandle<ValueState<i64, (), V>>;

/// Sums, notes every seventh key in a second state, and tells the sum when a timer fires.
#[derive(Default)]
struct Summing {
    sum: Option<Value<i64>>,
    rare: Option<Value<String>>,
    has_timers: bool,
}

impl KeyedProcessFunction<i64, Pair, Pair> for Summing {
    fn open(&mut self, context: &mut OpenContext<'_, i64>) -> Result<(), UserError> {
        self.sum = Some(context.value("sum", None)?);
        self.rare = Some(context.value("rare", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        (key, value): Pair,
        context: &mut KeyedContext<'_, i64, Pair>,
    ) -> Result<(), UserError> {
        let (sum, rare) = (self.sum.ok_or("opened")?, self.rare.ok_or("opened")?);
        let sum = context.state(sum).update(
            || 0,
            |sum| {
                *sum += value;
                *sum
            },
        );
        if key % 700 == 0 {
            let text = context.state(rare).get().cloned().unwrap_or_default();
            context.state(rare).set(text + "x");
        }
        context.emit((key, sum));
        if self.has_timers {
            context.register_event_timer(EventTime(context.time().0 + 35));
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: FiredTimer,
        context: &mut KeyedContext<'_, i64, Pair>,
    ) -> Result<(), UserError> {
        let sum = self.sum.ok_or("opened")?;
        let held = context.state(sum).get().copied().unwrap_or(-1);
        let key = *context.key();
        context.emit((key, held));
        Ok(())
    }
}

#[test]
fn a_process_function_is_the_same_with_a_cache_of_a_few_entries() {
    let open = |setup| {
        Harness::new(setup, |context| {
            KeyedProcess::open(&context, key_of, Summing::default())
        })
    };
    compare(open, Some(30));
}

#[test]
fn the_keys_of_timers_that_fire_are_read_at_once() {
    let open = |setup| {
        Harness::new(setup, |context| {
            let function = Summing {
                has_timers: true,
                ..Summing::default()
            };
            KeyedProcess::open(&context, key_of, function)
        })
    };
    let factory = Arc::new(SlowMissFactory::default());
    let expected = run(on_heap, open, None);
    let ran = run(|| over(Arc::clone(&factory) as Arc<_>, 64), open, None);
    assert_eq!(ran.output, expected.output);
    let calls = factory.calls();
    assert!(calls.fetched() > calls.fetches() * 4, "{calls:?}");
}

#[test]
fn memory_stays_inside_its_budget_while_snapshots_run() {
    const CACHE: u64 = 100_000;
    let (store, budget) = over(Arc::new(SlowMissFactory::default()), CACHE);
    let mut harness: Harness<Pair, u64> = Harness::new(setup((store, budget.clone())), |context| {
        RollingAggregate::open(&context, key_of, Count, None)
    });
    let (mut next, mut most, mut snapshots, mut is_open) = (0, 0, 0, false);
    for chunk in 0..300 {
        if chunk % 20 == 10 && !is_open {
            harness.barrier();
            is_open = true;
        }
        let keys = next..next + 200;
        next += 200;
        harness.push_keyed(keys.map(|key| ((key, 0), EventTime(0))), key_of);
        if is_open && harness.collect_portion().is_some() {
            snapshots += 1;
            is_open = false;
        }
        most = most.max(budget.used());
    }
    assert!(snapshots > 3, "{snapshots} snapshots");
    // What two chunks bring, entries of about 50 bytes with a place in the filter of what was evicted.
    let bound = CACHE + 2 * 200 * 60;
    assert!(most <= bound, "{most} bytes of {bound}");
    assert!(
        next * 47 > 20 * CACHE as i64,
        "the state is many times the cache"
    );
}

/// Makes stores that take rows and are frozen when the test lets them.
#[derive(Debug)]
struct Held {
    below: SlowMissFactory,
    freezes: Freezes,
}

#[derive(Clone, Debug)]
struct Freezes {
    /// A freeze begins when something came: whether there is room on the disk.
    begin: Arc<Mutex<Receiver<bool>>>,
    /// How many were asked for.
    asked: Arc<AtomicU64>,
}

struct HeldStore(Box<dyn StateStore>, Freezes);

struct HeldFreezing(Box<dyn Freezing>, Arc<Mutex<Receiver<bool>>>);

#[derive(Debug, thiserror::Error)]
#[error("no space left on device")]
struct NoSpace;

impl Classified for NoSpace {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Exhausted
    }
}

impl Freezing for HeldFreezing {
    fn freeze(self: Box<Self>) -> Result<Box<dyn FrozenStore>, BackingError> {
        let begin = self.1.lock().expect("nobody panics with it");
        if begin.recv().expect("the test lets it begin") {
            self.0.freeze()
        } else {
            Err(Box::new(NoSpace))
        }
    }
}

impl StateStore for HeldStore {
    fn open(&mut self, state: &StateDescriptor) -> Result<Box<dyn Backing>, BackingError> {
        self.0.open(state)
    }

    fn drop_state(&mut self, name: &str) -> Result<(), BackingError> {
        self.0.drop_state(name)
    }

    fn set_time(&mut self, now: ProcessingTime) {
        self.0.set_time(now);
    }

    fn freeze(&mut self) -> Box<dyn Freezing> {
        self.1.asked.fetch_add(1, Ordering::Relaxed);
        Box::new(HeldFreezing(self.0.freeze(), Arc::clone(&self.1.begin)))
    }

    fn report(&self) -> StoreReport {
        self.0.report()
    }
}

impl StoreFactory for Held {
    fn name(&self) -> &'static str {
        self.below.name()
    }

    fn create(&self, place: &StorePlace) -> Result<Box<dyn StateStore>, BackingError> {
        let freezes = self.freezes.clone();
        Ok(Box::new(HeldStore(self.below.create(place)?, freezes)))
    }

    fn reopen(
        &self,
        place: &StorePlace,
        files: StoreFiles,
    ) -> Result<Box<dyn StateStore>, BackingError> {
        self.below.reopen(place, files)
    }

    fn used_bytes(&self) -> u64 {
        self.below.used_bytes()
    }

    fn read(&self, files: StoreFiles) -> Result<Box<dyn FrozenStore>, BackingError> {
        self.below.read(files)
    }
}

fn pairs(from: i64) -> impl Iterator<Item = (Pair, EventTime)> {
    (from..from + 200).map(|key| ((key, 0), EventTime(0)))
}

/// A count behind a small cache whose store is about to be frozen, what lets that begin, and how many freezes were asked for.
fn being_frozen() -> (Harness<Pair, u64>, SyncSender<bool>, Arc<AtomicU64>) {
    let (begin, waits) = sync_channel(1);
    let freezes = Freezes {
        begin: Arc::new(Mutex::new(waits)),
        asked: Arc::default(),
    };
    let asked = Arc::clone(&freezes.asked);
    let factory = Held {
        below: SlowMissFactory::default(),
        freezes,
    };
    let place = over(Arc::new(factory), 20_000);
    let mut harness: Harness<Pair, u64> = Harness::new(setup(place), |context| {
        RollingAggregate::open(&context, key_of, Count, None)
    });
    harness.push_keyed(pairs(0), key_of);
    harness.barrier();
    assert!(harness.collect_portion().is_none(), "it is being frozen");
    (harness, begin, asked)
}

#[test]
fn a_snapshot_tells_how_long_records_waited_for_the_store_to_be_frozen() {
    let (mut harness, begin, _) = being_frozen();
    begin.send(true).unwrap();
    assert_eq!(harness.collect().waited, Duration::ZERO);

    harness.barrier();
    assert!(harness.collect_portion().is_none(), "it is being frozen");
    begin.send(true).unwrap();
    for number in 1..20 {
        harness.push_keyed(pairs(number * 200), key_of);
    }
    // The harness lets a millisecond pass from one look at its clock to the next.
    assert_eq!(harness.collect().waited, Duration::from_millis(1));
}

#[test]
fn x38_a_disk_that_is_full_at_a_freeze_is_named_also_to_records_that_wait_for_it() {
    let (mut harness, begin, _) = being_frozen();
    begin.send(false).unwrap();
    let mut push = |number: i64| harness.try_push_keyed(pairs(number * 200), key_of);
    let failed = (1..50).find_map(|number| push(number).err());
    assert_eq!(failed.unwrap().kind(), ErrorKind::Exhausted);
}

#[test]
fn a_snapshot_waits_for_the_thread_of_one_that_was_given_up() {
    let (mut harness, begin, asked) = being_frozen();
    harness.abort();
    harness.barrier();
    for _ in 0..3 {
        assert!(harness.collect_portion().is_none(), "it waits");
    }
    let before = harness.wakes();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "no second one beside it");
    begin.send(true).unwrap();
    while harness.wakes() == before {
        // The thread wakes the task when it ends, also if nobody wants what it has.
        std::thread::yield_now();
    }
    assert!(harness.collect_portion().is_none(), "it is being frozen");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    begin.send(true).unwrap();
    assert_eq!(harness.collect().keyed.len(), 1);
}

#[test]
fn records_wait_for_a_freeze_that_was_given_up_where_memory_has_no_room() {
    let (mut harness, begin, asked) = being_frozen();
    harness.abort();
    harness.barrier();
    assert!(harness.collect_portion().is_none(), "it waits");
    begin.send(true).unwrap();
    for number in 1..20 {
        harness.push_keyed(pairs(number * 200), key_of);
    }
    assert!(harness.collect_portion().is_none(), "it is being frozen");
    assert_eq!(asked.load(Ordering::Relaxed), 2, "the first one has ended");
    begin.send(true).unwrap();
    assert_eq!(harness.collect().waited, Duration::from_millis(1));
}
