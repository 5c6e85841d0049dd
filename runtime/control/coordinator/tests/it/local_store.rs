//! Whole jobs whose keyed state lies in a local store: exact through failures and cuts, at any parallelism, with checkpoints
//! that refer to files of older ones, and with savepoints that either backend reads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_api::JobProgram;
use highwater_connectors::clock::SystemClock as Clock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{CollectSink, Collected};
use highwater_coordinator::store::JobStore;
use highwater_coordinator::{CoordinatorHandle, JobOutcome, JobRequest, JobStatus, SnapshotWish};
use highwater_operators::{KeyedContext, KeyedProcessFunction, OpenContext, UserError};
use highwater_protocol::manifest::{KeyedFile, Manifest};
use highwater_protocol::paths::{JobPaths, ObjectName, RelativePath, SavepointPaths};
use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::{StateHandle, Store, StoreFactory, ValueState};
use highwater_storage::{MemoryStorage, ObjectPath, ObjectStorage};
use highwater_types::{ErrorKind, EventTime, JobIdentity, Nonce, StopMode};
use highwater_worker::{LocalDirs, SystemClock};
use tokio::sync::oneshot;

use crate::job::{Manner, Rest, end_of, program_of, start_over, suspend};

const RECORDS: u64 = 20_000;
const KEYS: u64 = 2_003;
/// Little, so that most rows are in the store and not in the table before it.
const TABLE_BYTES: u64 = 256 << 10;

/// Counts the records of each key.
#[derive(Clone, Default)]
struct Tally(Option<StateHandle<ValueState<u64, (), u64>>>);

impl KeyedProcessFunction<u64, u64, (u64, u64)> for Tally {
    fn open(&mut self, context: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.0 = Some(context.value("count", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        number: u64,
        context: &mut KeyedContext<'_, u64, (u64, u64)>,
    ) -> Result<(), UserError> {
        let handle = self.0.ok_or("opened before the first record")?;
        let count = context.state(handle).update(
            || 0,
            |held| {
                *held += 1;
                *held
            },
        );
        context.emit((number % KEYS, count));
        Ok(())
    }
}

/// Panics at chosen records, each once.
#[derive(Default)]
struct Faults {
    next: AtomicU64,
    every: u64,
}

impl Faults {
    fn pass(&self, index: u64) {
        let next = self.next.load(Ordering::Relaxed);
        let then = next + self.every;
        let taken = self.every > 0
            && index >= next
            && self
                .next
                .compare_exchange(next, then, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        assert!(!taken, "planted fault at {index}");
    }
}

struct World {
    sink: CollectSink<(u64, u64)>,
    counts: Collected<(u64, u64)>,
    storage: Arc<dyn ObjectStorage>,
}

impl World {
    fn new() -> Self {
        let (sink, counts) = CollectSink::exactly_once();
        Self {
            sink,
            counts,
            storage: Arc::new(MemoryStorage::default()),
        }
    }

    fn program(&self, parallelism: u32, faults: &Arc<Faults>, rate: f64) -> JobProgram {
        let number = |index: u64, _: &mut Random| (index, EventTime(index as i64));
        let clock = Arc::new(Clock::start().unwrap());
        let source = GeneratorSource::builder("numbers", 7, number)
            .count(RECORDS)
            .splits(5)
            .paced(RecordsPerSecond::try_new(rate).unwrap(), clock);
        let (sink, faults) = (self.sink.clone(), Arc::clone(faults));
        program_of(parallelism, |env| {
            env.source("numbers", source.build().unwrap())
                .map(move |number| {
                    faults.pass(number);
                    number
                })
                .key_by(|number| number % KEYS)
                .process("tally", Tally::default())
                .sink("counts", sink);
        })
    }

    /// The committed output is that of a run without faults.
    fn assert_exact(&self) {
        let mut found = self.counts.records().unwrap();
        found.sort_unstable();
        let of_key = |key: u64| (1..=(RECORDS - key).div_ceil(KEYS)).map(move |count| (key, count));
        let wanted: Vec<_> = (0..KEYS).flat_map(of_key).collect();
        let differs = found
            .iter()
            .zip(&wanted)
            .find(|(found, wanted)| found != wanted);
        assert_eq!((differs, found.len()), (None, wanted.len()));
    }
}

/// Where a process keeps its state.
#[derive(Clone, Copy)]
enum Backend {
    /// In memory; local disk serves to read what the other one wrote.
    Heap,
    RocksDb,
}

fn start(
    world: &World,
    (parallelism, faults, rate): (u32, &Arc<Faults>, f64),
    (root, seed, backend): (&Path, u128, Backend),
) -> CoordinatorHandle {
    let manner = Manner::by(Arc::new(SystemClock::new()));
    let job = JobIdentity::parse("test-job").unwrap();
    let dirs = LocalDirs::open(root, &job, Nonce(seed)).unwrap();
    let options = RocksOptions {
        local_dir: dirs.path().to_owned(),
        memory_bytes: 8 << 20,
        background_threads: 2,
    };
    let factory: Arc<dyn StoreFactory> = Arc::new(RocksFactory::new(options).unwrap());
    let (store, table_bytes) = match backend {
        Backend::Heap => {
            let reads = Some(factory);
            (Store::Heap { reads }, 1 << 30)
        }
        Backend::RocksDb => (Store::Local { factory }, TABLE_BYTES),
    };
    let rest = Rest {
        local: Some(dirs),
        store,
        table_bytes,
    };
    let program = world.program(parallelism, faults, rate);
    start_over(program, &world.storage, seed, (manner, rest))
}

/// The checkpoint in `head`.
async fn last(storage: &Arc<dyn ObjectStorage>) -> Manifest {
    let job = JobIdentity::parse("test-job").unwrap();
    let store = JobStore::new(Arc::clone(storage), JobPaths::new(job));
    let head = store.read_head().await.unwrap().unwrap().head;
    store.manifest(&head.manifest).await.unwrap()
}

fn keyed(manifest: &Manifest) -> Vec<&KeyedFile> {
    let operators = manifest.operators.values();
    operators.flat_map(|operator| &operator.keyed).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_failures_and_any_parallelism_lose_nothing_of_a_local_store() {
    let (world, root) = (World::new(), tempfile::tempdir().unwrap());
    let faults = Arc::new(Faults {
        next: AtomicU64::new(900),
        every: 1_100,
    });
    let backends = [
        Backend::RocksDb,
        Backend::RocksDb,
        Backend::Heap,
        Backend::RocksDb,
        Backend::RocksDb,
    ];
    for (run, (parallelism, backend)) in [2, 3, 1, 4, 2].into_iter().zip(backends).enumerate() {
        let place = (root.path(), 100 + run as u128 * 10, backend);
        let handle = start(&world, (parallelism, &faults, 30_000.0), place);
        let mut status = handle.status.clone();
        let wanted = 1 + run as u64 % 3;
        let completed = |status: &JobStatus| {
            status.checkpoints.completed_count >= wanted || status.phase.word() == "finished"
        };
        let went_on = status.wait_for(completed).await.map(|_| ());
        let now = format!("{:?}", status.borrow());
        assert!(went_on.is_ok(), "the job ended early: {now}");
        drop(handle.requests.send(JobRequest::Cancel).await);
        end_of(handle).await.unwrap();
    }
    let place = (root.path(), 900, Backend::RocksDb);
    let handle = start(&world, (2, &Arc::default(), 30_000.0), place);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_refers_to_older_files_and_a_failed_attempt_finds_them_on_local_disk() {
    let (world, root) = (World::new(), tempfile::tempdir().unwrap());
    let faults = Arc::new(Faults {
        next: AtomicU64::new(5_000),
        every: 5_000,
    });
    let place = (root.path(), 10, Backend::RocksDb);
    let handle = start(&world, (2, &faults, 20_000.0), place);
    let mut status = handle.status.clone();
    let (mut shared, mut found) = (0, 0);
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        shared = shared.max(now.checkpoints.full_bytes - now.checkpoints.bytes);
        found = found.max(now.restored.map_or(0, |bytes| bytes.local));
    }
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    assert!(shared > 0, "no checkpoint referred to an older file");
    assert!(found > 0, "no restore found a file on local disk");
    world.assert_exact();
    let left: Vec<_> = std::fs::read_dir(root.path().join("test-job"))
        .unwrap()
        .collect();
    assert!(
        left.is_empty(),
        "a process that ends leaves nothing: {left:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_of_a_local_store_needs_none_and_the_other_backend_goes_on_from_it() {
    let (world, root) = (World::new(), tempfile::tempdir().unwrap());
    let faults = Arc::default();
    let place = (root.path(), 10, Backend::RocksDb);
    let handle = start(&world, (2, &faults, 2_000.0), place);
    let mut status = handle.status.clone();
    let some = |status: &JobStatus| status.checkpoints.completed_count > 3;
    status.wait_for(some).await.unwrap();
    let manifest = last(&world.storage).await;
    assert!(
        keyed(&manifest).iter().any(|file| !file.parts().is_empty()),
        "{manifest:?}"
    );
    let (answer, answered) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode: StopMode::Suspend,
        savepoint: Some("moved".to_owned()),
    }
    .asked(answer);
    handle.requests.send(stop).await.unwrap();
    answered.await.unwrap().unwrap();
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Stopped);
    let place = SavepointPaths::parse("savepoints", "moved").unwrap();
    let read = async |path: &str| {
        let path = ObjectPath::parse(path).unwrap();
        world.storage.get(&path).await.unwrap()
    };
    let savepoint = Manifest::decode(&read(&place.manifest()).await.unwrap().bytes).unwrap();
    assert!(keyed(&savepoint).iter().all(|file| file.store.is_none()));
    for path in savepoint.files.keys() {
        assert!(read(&place.object(path)).await.is_some(), "{path}");
    }
    let place = (root.path(), 20, Backend::Heap);
    let handle = start(&world, (3, &faults, 30_000.0), place);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_without_a_savepoint_is_a_checkpoint_that_refers_to_older_files() {
    let (world, root) = (World::new(), tempfile::tempdir().unwrap());
    let faults = Arc::default();
    let place = (root.path(), 10, Backend::RocksDb);
    let handle = start(&world, (2, &faults, 2_000.0), place);
    let mut status = handle.status.clone();
    let some = |status: &JobStatus| status.checkpoints.completed_count > 3;
    status.wait_for(some).await.unwrap();
    suspend(handle).await;
    let manifest = last(&world.storage).await;
    let files = keyed(&manifest);
    assert!(files.iter().all(|file| file.store.is_some()), "{files:?}");
    let parts = files.iter().flat_map(|file| file.parts());
    let older = parts
        .map(|part| ObjectName::parse(&part.path).and_then(|name| name.id()))
        .filter(|written_by| *written_by != Some(manifest.id));
    assert!(older.count() > 0, "{files:?}");
    let place = (root.path(), 20, Backend::RocksDb);
    let handle = start(&world, (2, &faults, 30_000.0), place);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x36_a_damaged_object_of_an_older_checkpoint_stops_the_job_by_its_name() {
    let (world, root) = (World::new(), tempfile::tempdir().unwrap());
    let faults = Arc::default();
    let handle = start(
        &world,
        (2, &faults, 2_000.0),
        (root.path(), 10, Backend::RocksDb),
    );
    let mut status = handle.status.clone();
    let some = |status: &JobStatus| status.checkpoints.completed_count > 6;
    status.wait_for(some).await.unwrap();
    drop(handle.requests.send(JobRequest::Cancel).await);
    end_of(handle).await.unwrap();
    let manifest = last(&world.storage).await;
    let numbers = |path: &RelativePath| ObjectName::parse(path).and_then(|name| name.id());
    let oldest = keyed(&manifest)
        .iter()
        .flat_map(|file| file.parts())
        .map(|part| part.path.clone())
        .min_by_key(numbers)
        .unwrap();
    assert!(
        numbers(&oldest).unwrap().number + 1 < manifest.id.number,
        "{oldest} is not shared"
    );
    let object = ObjectPath::parse(&format!("test-job/{oldest}")).unwrap();
    let mut bytes = world
        .storage
        .get(&object)
        .await
        .unwrap()
        .unwrap()
        .bytes
        .to_vec();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    world.storage.put(&object, bytes.into()).await.unwrap();
    // Another machine: nothing lies on its disk.
    let other = tempfile::tempdir().unwrap();
    let handle = start(
        &world,
        (2, &faults, 30_000.0),
        (other.path(), 20, Backend::RocksDb),
    );
    let status = handle.status.clone();
    let failure = end_of(handle).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Corrupt);
    let told = status.borrow().failures.last().cloned().unwrap();
    let told = told.report.message;
    assert!(told.contains(oldest.as_str()), "{told}");
}
