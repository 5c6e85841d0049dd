//! The end of a job in `head`: written before anybody hears of it, and gone on from only where somebody wants that.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use highwater_api::JobProgram;
use highwater_connectors::clock::SystemClock as SourceClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{CollectSink, Collected};
use highwater_coordinator::store::JobStore;
use highwater_coordinator::{
    CoordinatorHandle, EndBoard, JobOutcome, JobStatus, RequestAnswer, SnapshotWish, Wish,
};
use highwater_operators::{ProcessContext, ProcessFunction, UserError};
use highwater_protocol::head::{Head, JobEnd};
use highwater_protocol::paths::JobPaths;
use highwater_protocol::recovery::SavepointWord;
use highwater_storage::{
    MemoryStorage, Object, ObjectEntry, ObjectPath, ObjectStorage, PutOutcome, StorageError,
    Version,
};
use highwater_types::{EventTime, JobIdentity, StopMode};
use highwater_worker::SystemClock;
use tokio::sync::{Semaphore, oneshot};

use crate::detour_waits::until;
use crate::job::{Manner, RESUME, end_of, program_of, start_in, suspend};
use crate::savepoint::from;

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
        self.program_with(rate, None)
    }

    /// The same, with a function that does not end.
    fn program_with(&self, rate: f64, holds: Option<Holds>) -> JobProgram {
        let number = |index: u64, _: &mut Random| (index, EventTime(index as i64));
        let clock = Arc::new(SourceClock::start().unwrap());
        let source = GeneratorSource::builder("numbers", 7, number)
            .count(RECORDS)
            .paced(RecordsPerSecond::try_new(rate).unwrap(), clock);
        let sink = self.sink.clone();
        program_of(1, |env| {
            let numbers = env.source("numbers", source.build().unwrap());
            match holds {
                None => numbers.sink("found", sink),
                Some(holds) => numbers.process(holds).sink("found", sink),
            };
        })
    }

    /// Starts a coordinator; `goes_on` = somebody wants a job that has ended to go on.
    fn start(&self, rate: f64, goes_on: bool) -> CoordinatorHandle {
        self.start_from(rate, RESUME, goes_on)
    }

    /// The same, from where the wish says.
    fn start_from(&self, rate: f64, wish: Wish, goes_on: bool) -> CoordinatorHandle {
        let manner = Manner {
            wish,
            goes_on_after_end: goes_on,
            ..Manner::by(Arc::new(SystemClock::new()))
        };
        let seed = 1 + u128::from(self.started.fetch_add(1, Ordering::SeqCst));
        start_in(self.program(rate), &self.storage, seed, manner)
    }

    /// A job that runs slowly and has completed a checkpoint.
    async fn running(&self) -> CoordinatorHandle {
        let handle = self.start(SLOW, true);
        let mut status = handle.status.clone();
        let some = |status: &JobStatus| status.checkpoints.completed_count > 0;
        status.wait_for(some).await.unwrap();
        handle
    }

    /// Every record came out once.
    fn assert_exact(&self) {
        let mut found = self.found.records().unwrap();
        found.sort_unstable();
        assert_eq!(found, (0..RECORDS).collect::<Vec<_>>());
    }

    async fn head(&self) -> Head {
        let job = JobIdentity::parse("test-job").unwrap();
        let store = JobStore::new(Arc::clone(&self.storage), JobPaths::new(job));
        store.read_head().await.unwrap().unwrap().head
    }
}

/// Hands numbers on, and does not return from its end before the test does.
#[derive(Clone)]
struct Holds {
    told: SyncSender<()>,
    gate: Arc<Mutex<Receiver<()>>>,
}

impl ProcessFunction<u64, u64> for Holds {
    fn on_record(
        &mut self,
        number: u64,
        context: &mut ProcessContext<'_, u64>,
    ) -> Result<(), UserError> {
        context.emit(number);
        Ok(())
    }

    fn close(&mut self) {
        self.told.send(()).unwrap();
        self.gate.lock().unwrap().recv().unwrap_err();
    }
}

/// Slow enough not to end before it is stopped.
const SLOW: f64 = 500.0;
const FAST: f64 = 1e6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_stopped_goes_on_only_where_somebody_wants_it() {
    let world = World::new();
    let handle = world.running().await;
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
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_stopped_has_ended_though_its_attempt_does_not_end() {
    let world = World::new();
    let (told, arrival) = sync_channel(1);
    let (go, gate) = sync_channel::<()>(0);
    let holds = Holds {
        told,
        gate: Arc::new(Mutex::new(gate)),
    };
    let mut manner = Manner::by(Arc::new(SystemClock::new()));
    manner.settings.cancellation_timeout = Duration::from_millis(100);
    let seed = 1 + u128::from(world.started.fetch_add(1, Ordering::SeqCst));
    let program = world.program_with(SLOW, Some(holds));
    let handle = start_in(program, &world.storage, seed, manner);
    let mut status = handle.status.clone();
    let some = |status: &JobStatus| status.checkpoints.completed_count > 0;
    status.wait_for(some).await.unwrap();
    let answered = ask(&handle, stop(StopMode::Suspend, None)).await;
    answered.await.unwrap().unwrap();
    let arrival = until(arrival).await;
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
    assert_eq!(world.head().await.ended, Some(JobEnd::Stopped));
    drop((go, arrival));
    let handle = world.start(FAST, true);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

/// Notes the end of the job once the test lets it.
struct Board {
    told: Semaphore,
    go: Semaphore,
}

#[async_trait]
impl EndBoard for Board {
    async fn ended(&self, outcome: JobOutcome) {
        assert_eq!(outcome, JobOutcome::Stopped);
        self.told.add_permits(1);
        self.go.acquire().await.unwrap().forget();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asked_for_the_end_is_answered_once_it_is_noted_for_the_next_leader() {
    let world = World::new();
    let board = Arc::new(Board {
        told: Semaphore::new(0),
        go: Semaphore::new(0),
    });
    let shown: Arc<Board> = Arc::clone(&board);
    let manner = Manner {
        end_board: Some(shown),
        ..Manner::by(Arc::new(SystemClock::new()))
    };
    let handle = start_in(world.program(SLOW), &world.storage, 1, manner);
    let mut status = handle.status.clone();
    let some = |status: &JobStatus| status.checkpoints.completed_count > 0;
    status.wait_for(some).await.unwrap();
    let mut answered = ask(&handle, stop(StopMode::Suspend, None)).await;
    board.told.acquire().await.unwrap().forget();
    assert_eq!(world.head().await.ended, Some(JobEnd::Stopped));
    assert!(answered.try_recv().is_err(), "it is not noted yet");
    assert!(!handle.ended.is_finished());
    board.go.add_permits(1);
    answered.await.unwrap().unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
}

/// Asks a job for something. The answer.
pub(crate) async fn ask(
    handle: &CoordinatorHandle,
    wish: SnapshotWish,
) -> oneshot::Receiver<RequestAnswer> {
    let (answer, answered) = oneshot::channel();
    handle.requests.send(wish.asked(answer)).await.unwrap();
    answered
}

pub(crate) fn stop(mode: StopMode, savepoint: Option<&str>) -> SnapshotWish {
    SnapshotWish::Stop {
        mode,
        savepoint: savepoint.map(str::to_owned),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_drained_says_so_at_each_start() {
    let world = World::new();
    let handle = world.running().await;
    let answered = ask(&handle, stop(StopMode::Drain, None)).await;
    answered.await.unwrap().unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
    let before = world.head().await;
    assert_eq!(before.ended, Some(JobEnd::Stopped));
    let handle = world.start(FAST, true);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
    let head = world.head().await;
    assert_eq!(head.ended, Some(JobEnd::Stopped));
    assert_eq!(
        (head.epoch, head.number),
        (before.epoch.next(), before.number)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back_to_a_savepoint_is_a_wish_to_go_past_the_end_until_it_is_taken() {
    let world = World::new();
    let handle = world.running().await;
    let savepoint = SnapshotWish::Savepoint {
        name: "one".to_owned(),
    };
    let at = ask(&handle, savepoint).await.await.unwrap().unwrap();
    let mut status = handle.status.clone();
    let newer = |status: &JobStatus| {
        let completed = status.checkpoints.completed;
        completed.is_some_and(|completed| completed.number > at.number)
    };
    status.wait_for(newer).await.unwrap();
    suspend(handle).await;
    let back = from("one", SavepointWord::GoBack);
    let handle = world.start_from(FAST, back.clone(), false);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    let head = world.head().await;
    assert_eq!(head.ended, Some(JobEnd::Finished));
    assert!(head.origin.is_some());
    let handle = world.start_from(FAST, back, false);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    assert_eq!(
        world.head().await,
        head,
        "it is taken, and the job has ended"
    );
}

/// What becomes of the first write that says the end of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FirstEnd {
    /// It is refused once `answer` has a permit.
    Refused,
    /// It lands, and is never answered.
    Unanswered,
}

/// A store in which the test decides when savepoint `one` is complete and what becomes of the first write of the end.
#[derive(Debug)]
pub(crate) struct Gated {
    inner: Arc<dyn ObjectStorage>,
    first: Mutex<Option<FirstEnd>>,
    /// Gets a permit when the manifest of the savepoint is about to be written.
    pub(crate) copying: Semaphore,
    /// It is written with a permit of this.
    pub(crate) copy: Semaphore,
    /// Told when it is written.
    pub(crate) copied: Mutex<Option<SyncSender<()>>>,
    /// The first write of the end is refused with a permit of this.
    pub(crate) answer: Semaphore,
    /// Gets a permit when it has landed.
    landed: Semaphore,
}

impl Gated {
    /// Puts itself before a store.
    pub(crate) fn before(storage: &mut Arc<dyn ObjectStorage>, first: FirstEnd) -> Arc<Self> {
        let gated = Arc::new(Self {
            inner: Arc::clone(storage),
            first: Mutex::new(Some(first)),
            copying: Semaphore::new(0),
            copy: Semaphore::new(0),
            copied: Mutex::new(None),
            answer: Semaphore::new(0),
            landed: Semaphore::new(0),
        });
        let outer: Arc<Self> = Arc::clone(&gated);
        *storage = outer;
        gated
    }

    /// What becomes of a write, if it is the first one that says the end.
    fn first_end(&self, path: &ObjectPath, bytes: &Bytes) -> Option<FirstEnd> {
        let member = b"\"ended\":";
        let is_end = bytes.windows(member.len()).any(|part| part == member);
        let is_head = path.as_str().ends_with("/head");
        if is_head && is_end {
            self.first.lock().unwrap().take()
        } else {
            None
        }
    }
}

#[async_trait]
impl ObjectStorage for Gated {
    fn location(&self) -> &str {
        self.inner.location()
    }

    async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        if !path.as_str().ends_with("one/manifest") {
            return self.inner.put_new(path, bytes).await;
        }
        self.copying.add_permits(1);
        self.copy.acquire().await.unwrap().forget();
        let written = self.inner.put_new(path, bytes).await;
        if let Some(copied) = self.copied.lock().unwrap().take() {
            copied.send(()).unwrap();
        }
        written
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        version: &Version,
    ) -> Result<PutOutcome, StorageError> {
        match self.first_end(path, &bytes) {
            None => self.inner.put_if(path, bytes, version).await,
            Some(FirstEnd::Refused) => {
                self.answer.acquire().await.unwrap().forget();
                Err(StorageError::Refused {
                    operation: "write",
                    object: path.to_string(),
                    reason: "403".to_owned(),
                })
            }
            Some(FirstEnd::Unanswered) => {
                let written = self.inner.put_if(path, bytes, version).await?;
                assert!(matches!(written, PutOutcome::Written(_)), "{written:?}");
                self.landed.add_permits(1);
                std::future::pending().await
            }
        }
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StorageError> {
        self.inner.put(path, bytes).await
    }

    async fn get(&self, path: &ObjectPath) -> Result<Option<Object>, StorageError> {
        self.inner.get(path).await
    }

    async fn get_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        self.inner.get_range(path, range).await
    }

    async fn stat(&self, path: &ObjectPath) -> Result<Option<ObjectEntry>, StorageError> {
        self.inner.stat(path).await
    }

    async fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<ObjectEntry>, StorageError> {
        self.inner.list(folder).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.inner.delete(path).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_landed_stands_though_its_leader_dies_before_it_knows() {
    let mut world = World::new();
    let store = Gated::before(&mut world.storage, FirstEnd::Unanswered);
    let handle = world.running().await;
    let answered = ask(&handle, stop(StopMode::Suspend, None)).await;
    store.landed.acquire().await.unwrap().forget();
    handle.ended.abort();
    assert!(handle.ended.await.unwrap_err().is_cancelled());
    assert!(answered.await.is_err(), "nobody was told");
    let head = world.head().await;
    assert_eq!(head.ended, Some(JobEnd::Stopped));
    let handle = world.start(FAST, false);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
    assert_eq!(world.head().await, head, "nothing of it was touched");
    let handle = world.start(FAST, true);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}
