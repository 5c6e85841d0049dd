//! The end of a job in `head`: written before anybody hears of it, and gone on from only where somebody wants that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_api::JobProgram;
use highwater_connectors::clock::SystemClock as SourceClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{CollectSink, Collected};
use highwater_coordinator::store::JobStore;
use highwater_coordinator::{CoordinatorHandle, JobOutcome, JobStatus};
use highwater_protocol::head::{Head, JobEnd};
use highwater_protocol::paths::JobPaths;
use highwater_storage::{MemoryStorage, ObjectStorage};
use highwater_types::{EventTime, JobIdentity};
use highwater_worker::SystemClock;

use crate::job::{Manner, end_of, program_of, start_in, suspend};

const RECORDS: u64 = 2_000;

struct World {
    storage: Arc<dyn ObjectStorage>,
    sink: CollectSink<u64>,
    found: Collected<u64>,
    started: AtomicU64,
}

impl World {
    fn new() -> Self {
        let (sink, found) = CollectSink::exactly_once();
        Self {
            storage: Arc::new(MemoryStorage::default()),
            sink,
            found,
            started: AtomicU64::new(0),
        }
    }

    fn program(&self, rate: f64) -> JobProgram {
        let number = |index: u64, _: &mut Random| (index, EventTime(index as i64));
        let clock = Arc::new(SourceClock::start().unwrap());
        let source = GeneratorSource::builder("numbers", 7, number)
            .count(RECORDS)
            .paced(RecordsPerSecond::try_new(rate).unwrap(), clock);
        let sink = self.sink.clone();
        program_of(1, |env| {
            env.source("numbers", source.build().unwrap())
                .sink("found", sink);
        })
    }

    /// Starts a coordinator; `goes_on` = somebody wants a job that has ended to go on.
    fn start(&self, rate: f64, goes_on: bool) -> CoordinatorHandle {
        let manner = Manner {
            goes_on_after_end: goes_on,
            ..Manner::by(Arc::new(SystemClock::new()))
        };
        let seed = 1 + u128::from(self.started.fetch_add(1, Ordering::SeqCst));
        start_in(self.program(rate), &self.storage, seed, manner)
    }

    async fn head(&self) -> Head {
        let job = JobIdentity::parse("test-job").unwrap();
        let store = JobStore::new(Arc::clone(&self.storage), JobPaths::new(job));
        store.read_head().await.unwrap().unwrap().head
    }
}

/// Slow enough not to end before it is stopped.
const SLOW: f64 = 500.0;
const FAST: f64 = 1e6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_stopped_goes_on_only_where_somebody_wants_it() {
    let world = World::new();
    let handle = world.start(SLOW, true);
    let mut status = handle.status.clone();
    let some = |status: &JobStatus| status.checkpoints.completed_count > 0;
    status.wait_for(some).await.unwrap();
    assert_eq!(world.head().await.ended, None);
    suspend(handle).await;
    let head = world.head().await;
    assert_eq!(head.ended, Some(JobEnd::Stopped));
    assert!(!head.has_pending_output());
    let handle = world.start(FAST, false);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
    assert_eq!(world.head().await, head, "nothing of it was touched");
    let handle = world.start(FAST, true);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    let head = world.head().await;
    assert_eq!(head.ended, Some(JobEnd::Finished));
    let handle = world.start(FAST, false);
    let status = handle.status.clone();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    assert_eq!(status.borrow().phase.word(), "finished");
    let mut found = world.found.records().unwrap();
    found.sort_unstable();
    assert_eq!(found, (0..RECORDS).collect::<Vec<_>>());
}
