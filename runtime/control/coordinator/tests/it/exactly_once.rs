//! A bounded job's committed output is that of a fault-free run: without faults, with failing attempts, with processes
//! that end anywhere, and at another parallelism after each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_api::{JobProgram, StreamEnvironment};
use highwater_connectors::clock::SystemClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{CollectSink, Collected};
use highwater_coordinator::{JobOutcome, JobRequest, JobStatus, RequestAnswer, SnapshotWish};
use highwater_operators::{Count, WindowContext};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::SavepointPaths;
use highwater_storage::{MemoryStorage, ObjectPath, ObjectStorage};
use highwater_time::WatermarkStrategy;
use highwater_types::{EventTime, StopMode};
use highwater_window::Tumbling;
use tokio::sync::oneshot;

use crate::job::{end_of, program_of, start};

const RECORDS: u64 = 20_000;
const KEYS: u64 = 37;
const WINDOW_MS: i64 = 1_000;

type Counted = (u64, i64, u64);

/// Record `i` has key `i mod 37` and event time `i`.
fn record_of(index: u64, _: &mut Random) -> (u64, EventTime) {
    (index, EventTime(index as i64))
}

/// Counts records per key in windows of a second, and passes every record to a second sink.
fn build(
    env: &mut StreamEnvironment,
    sinks: (CollectSink<Counted>, CollectSink<u64>),
    faults: &Arc<Faults>,
    rate: RecordsPerSecond,
) {
    let clock = Arc::new(SystemClock::start().unwrap());
    let source = GeneratorSource::builder("numbers", 7, record_of)
        .count(RECORDS)
        .splits(5)
        .paced(rate, clock);
    let faults = Arc::clone(faults);
    let numbers = env
        .source("numbers", source.build().unwrap())
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(100), |index| {
            EventTime(*index as i64)
        });
    let checked = numbers.map(move |index| {
        faults.pass(index);
        index
    });
    checked
        .key_by(|index| index % KEYS)
        .window_of(Tumbling::try_new(WINDOW_MS))
        .aggregate(
            "count",
            Count,
            |count, context: &mut WindowContext<'_, u64, Counted>| {
                let (key, start) = (*context.key(), context.window().start);
                context.emit((key, start, count));
                Ok(())
            },
        )
        .sink("counts", sinks.0);
    checked.rebalance().sink("all", sinks.1);
}

/// Panics at chosen records, each once.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) next: AtomicU64,
    pub(crate) every: u64,
}

impl Faults {
    fn pass(&self, index: u64) {
        let next = self.next.load(Ordering::Relaxed);
        let due = self.every > 0 && index >= next && next < RECORDS;
        let taken = due
            && self
                .next
                .compare_exchange(next, next + self.every, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        assert!(!taken, "planted fault at {index}");
    }
}

pub(crate) struct World {
    counts: (CollectSink<Counted>, Collected<Counted>),
    all: (CollectSink<u64>, Collected<u64>),
    pub(crate) storage: Arc<dyn ObjectStorage>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            counts: CollectSink::exactly_once(),
            all: CollectSink::exactly_once(),
            storage: Arc::new(MemoryStorage::default()),
        }
    }

    pub(crate) fn program(&self, parallelism: u32, faults: &Arc<Faults>) -> JobProgram {
        self.paced(parallelism, faults, 30_000.0)
    }

    pub(crate) fn paced(&self, parallelism: u32, faults: &Arc<Faults>, rate: f64) -> JobProgram {
        let sinks = (self.counts.0.clone(), self.all.0.clone());
        let rate = RecordsPerSecond::try_new(rate).unwrap();
        program_of(parallelism, |env| build(env, sinks, faults, rate))
    }

    /// The committed output is that of a run without faults.
    pub(crate) fn assert_exact(&self) {
        let mut all = self.all.1.records().unwrap();
        all.sort_unstable();
        let first_wrong = all
            .iter()
            .zip(0..)
            .find(|(found, wanted)| **found != *wanted);
        assert_eq!((first_wrong, all.len() as u64), (None, RECORDS));
        let mut expected = BTreeMap::<(u64, i64), u64>::new();
        for index in 0..RECORDS {
            let start = index as i64 / WINDOW_MS * WINDOW_MS;
            *expected.entry((index % KEYS, start)).or_default() += 1;
        }
        let counted = self.counts.1.records().unwrap();
        let found: BTreeMap<_, _> = counted
            .iter()
            .map(|&(key, start, count)| ((key, start), count))
            .collect();
        assert_eq!(counted.len(), found.len(), "a window was counted twice");
        assert_eq!(found, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_job_ends_by_itself_with_all_output_committed() {
    let world = World::new();
    let handle = start(world.program(2, &Arc::default()), &world.storage, 10);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_attempts_lose_nothing_and_double_nothing() {
    let world = World::new();
    let faults = Arc::new(Faults {
        next: AtomicU64::new(1_500),
        every: 1_500,
    });
    let handle = start(world.program(2, &faults), &world.storage, 20);
    let status = handle.status.clone();
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    let ended = status.borrow().clone();
    assert!(
        ended.restarts >= 5 && ended.checkpoints.completed_count >= 3,
        "invalid run: {ended:?}"
    );
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t21_runs_that_are_cut_off_go_on_at_any_parallelism() {
    let world = World::new();
    let faults = Arc::new(Faults {
        next: AtomicU64::new(900),
        every: 1_100,
    });
    for (run, parallelism) in [2, 3, 1, 4, 2].into_iter().enumerate() {
        let program = world.program(parallelism, &faults);
        let handle = start(program, &world.storage, 100 + run as u128 * 10);
        let mut status = handle.status.clone();
        let wanted = 1 + run as u64 % 3;
        let completed = status
            .wait_for(|status| {
                status.checkpoints.completed_count >= wanted || status.phase.word() == "finished"
            })
            .await
            .map(|status| status.checkpoints.completed_count);
        let now = format!("{:?}", status.borrow());
        assert!(completed.is_ok(), "the job ended early: {now}");
        drop(handle.requests.send(JobRequest::Cancel).await);
        let outcome = end_of(handle).await.unwrap();
        assert!(matches!(
            outcome,
            JobOutcome::Cancelled | JobOutcome::Finished
        ));
    }
    let handle = start(world.program(2, &Arc::default()), &world.storage, 900);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn savepoints_and_stops_keep_the_output_exact_and_bad_names_stop_nothing() {
    let world = World::new();
    // Slow enough not to end by itself while it is asked.
    let slow = world.paced(2, &Arc::default(), 500.0);
    let handle = start(slow, &world.storage, 40);
    let mut status = handle.status.clone();
    let running = |status: &JobStatus| status.checkpoints.completed_count > 0;
    status.wait_for(running).await.unwrap();
    let ask = async |request: JobRequest, answer: oneshot::Receiver<RequestAnswer>| {
        handle.requests.send(request).await.unwrap();
        answer.await.unwrap()
    };
    let (sender, answer) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode: StopMode::Drain,
        savepoint: Some("No Name".to_owned()),
    }
    .asked(sender);
    let refused = ask(stop, answer).await.unwrap_err();
    assert!(refused.to_string().contains("No Name"), "{refused}");
    assert_eq!(status.borrow().phase.word(), "running");
    let (sender, answer) = oneshot::channel();
    let savepoint = SnapshotWish::Savepoint {
        name: "before".to_owned(),
    }
    .asked(sender);
    let id = ask(savepoint, answer).await.unwrap();
    let path = SavepointPaths::parse("savepoints", "before").unwrap();
    let path = ObjectPath::parse(&path.manifest()).unwrap();
    let written = world.storage.get(&path).await.unwrap().unwrap();
    assert_eq!(Manifest::decode(&written.bytes).unwrap().id, id);
    let (sender, answer) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode: StopMode::Suspend,
        savepoint: None,
    }
    .asked(sender);
    ask(stop, answer).await.unwrap();
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Stopped);
    let handle = start(world.program(3, &Arc::default()), &world.storage, 50);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}
