//! A savepoint whose state the job cannot open is refused before `head` changes, whatever word is said.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_connectors::clock::SystemClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{CollectSink, Source};
use highwater_coordinator::store::JobStore;
use highwater_coordinator::{
    JobFailure, JobOutcome, JobRequest, JobStatus, SavepointWish, SnapshotWish, Wish,
};
use highwater_operators::{KeyedContext, KeyedProcessFunction, OpenContext, UserError};
use highwater_protocol::head::Head;
use highwater_protocol::paths::{JobPaths, SavepointPaths};
use highwater_protocol::recovery::{SavepointWord, TakeAgain};
use highwater_state::{StateHandle, ValueState};
use highwater_storage::{MemoryStorage, ObjectPath, ObjectStorage};
use highwater_types::{ErrorKind, EventTime, JobIdentity, Record};
use highwater_worker::StopHook;
use tokio::sync::oneshot;

use crate::detour_waits::until;
use crate::job::{RESUME, end_of, program_of, settings, start_as, start_wishing, suspend};

fn numbers() -> impl Source<Record = u64> {
    let number = |index: u64, _: &mut Random| (index, EventTime(index as i64));
    let clock = Arc::new(SystemClock::start().unwrap());
    let source = GeneratorSource::builder("numbers", 7, number)
        .count(600)
        .splits(2)
        .paced(RecordsPerSecond::try_new(2_000.0).unwrap(), clock);
    source.build().unwrap()
}

/// The last record of each key, as a `V`.
fn program<V: Record>(value: fn(u64) -> V, sink: CollectSink<(u64, V)>) -> JobProgram {
    program_of(2, |env| {
        env.source("numbers", numbers())
            .map(move |number: u64| (number % 5, value(number)))
            .key_by(|record| record.0)
            .reduce("last", |into, more| *into = more.clone())
            .sink("lasts", sink);
    })
}

fn as_text() -> JobProgram {
    program(|number| number.to_string(), CollectSink::exactly_once().0)
}

struct Place {
    storage: Arc<dyn ObjectStorage>,
    lasts: CollectSink<(u64, u64)>,
    seeds: AtomicU64,
}

impl Place {
    fn empty() -> Self {
        Self {
            storage: Arc::new(MemoryStorage::default()),
            lasts: CollectSink::exactly_once().0,
            seeds: AtomicU64::new(1),
        }
    }

    /// A job of numbers that was stopped behind its savepoint `one`.
    async fn with_savepoint() -> Self {
        let place = Self::empty();
        place.stop_behind_savepoint(place.as_number()).await;
        place
    }

    async fn stop_behind_savepoint(&self, program: JobProgram) {
        let on: StopHook = Arc::new(|_| {});
        let handle = start_wishing(program, &self.storage, (self.seed(), on), RESUME);
        let mut status = handle.status.clone();
        let two = |status: &JobStatus| status.checkpoints.completed_count >= 2;
        status.wait_for(two).await.unwrap();
        let (answer, answered) = oneshot::channel();
        let name = "one".to_owned();
        let request = SnapshotWish::Savepoint { name }.asked(answer);
        handle.requests.send(request).await.unwrap();
        answered.await.unwrap().unwrap();
        suspend(handle).await;
    }

    fn as_number(&self) -> JobProgram {
        program(|number| number, self.lasts.clone())
    }

    fn seed(&self) -> u128 {
        u128::from(self.seeds.fetch_add(1, Ordering::Relaxed)) * 1_000
    }

    async fn run(&self, program: JobProgram, wish: Wish) -> Result<JobOutcome, JobFailure> {
        let on: StopHook = Arc::new(|_| {});
        end_of(start_wishing(
            program,
            &self.storage,
            (self.seed(), on),
            wish,
        ))
        .await
    }

    async fn head(&self) -> Option<Head> {
        let job = JobIdentity::parse("test-job").unwrap();
        let store = JobStore::new(Arc::clone(&self.storage), JobPaths::new(job));
        store.read_head().await.unwrap().map(|found| found.head)
    }

    async fn objects(&self) -> Vec<String> {
        let listed = self.storage.list(None).await.unwrap();
        listed.iter().map(|entry| entry.path.to_string()).collect()
    }

    /// Leaves nothing of the job but its savepoint.
    async fn forget_the_job(&self) {
        let all = self.objects().await;
        let own = all.iter().filter(|path| !path.starts_with("savepoints/"));
        let own: Vec<_> = own.map(|path| ObjectPath::parse(path).unwrap()).collect();
        self.storage.delete_many(&own).await.unwrap();
    }
}

fn from(word: SavepointWord) -> Wish {
    let place = SavepointPaths::parse("savepoints", "one").unwrap();
    let again = TakeAgain::No;
    Wish::Savepoint(SavepointWish { place, word, again })
}

fn assert_names_the_state(refused: &JobFailure) {
    assert_eq!(refused.kind, ErrorKind::Invalid, "{refused}");
    let (stored, declared) = ("u64", "text");
    for part in ["`last`", stored, declared, "new name"] {
        assert!(refused.message.contains(part), "{part}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_whose_state_does_not_open_changes_nothing() {
    let place = Place::with_savepoint().await;
    let (head, objects) = (place.head().await, place.objects().await);
    let fork = from(SavepointWord::Fork);
    let refused = place.run(as_text(), fork.clone()).await.unwrap_err();
    assert_names_the_state(&refused);
    assert!(refused.message.contains("savepoints/one"), "{refused}");
    assert_eq!(place.head().await, head, "head was changed");
    assert_eq!(place.objects().await, objects, "something was left behind");
    assert_eq!(
        place.run(place.as_number(), RESUME).await,
        Ok(JobOutcome::Finished)
    );
    assert_eq!(
        place.run(place.as_number(), fork).await,
        Ok(JobOutcome::Finished)
    );
    let lineage = |head: Option<Head>| head.map(|head| head.lineage);
    assert_ne!(lineage(place.head().await), lineage(head));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_job_whose_state_does_not_open_is_not_begun() {
    let place = Place::with_savepoint().await;
    place.forget_the_job().await;
    let objects = place.objects().await;
    let wish = from(SavepointWord::Unsaid);
    let refused = place.run(as_text(), wish.clone()).await.unwrap_err();
    assert_names_the_state(&refused);
    assert_eq!(place.head().await, None);
    assert_eq!(place.objects().await, objects);
    assert_eq!(
        place.run(place.as_number(), wish).await,
        Ok(JobOutcome::Finished)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_whose_state_does_not_open_leaves_the_checkpoint() {
    let place = Place::with_savepoint().await;
    let before = place.head().await.unwrap();
    let back = from(SavepointWord::GoBack);
    let refused = place.run(as_text(), back).await.unwrap_err();
    assert_names_the_state(&refused);
    let after = place.head().await.unwrap();
    assert_eq!(
        (after.lineage, after.manifest, after.origin),
        (before.lineage, before.manifest, before.origin)
    );
    assert_eq!(
        place.run(place.as_number(), RESUME).await,
        Ok(JobOutcome::Finished)
    );
}

/// The process dies right before its first, second, ... step of a fork.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_at_any_step_forks_once() {
    let place = Place::with_savepoint().await;
    let mut lineages = vec![place.head().await.unwrap().lineage];
    for fatal in 1.. {
        let reached = AtomicU64::new(0);
        let hook = move |step| {
            let due = reached.fetch_add(1, Ordering::Relaxed) + 1 == fatal;
            assert!(!due, "the process is killed at {step}, step {fatal}");
        };
        let owner: (u128, StopHook) = (place.seed(), Arc::new(hook));
        let wish = from(SavepointWord::Fork);
        let ended = start_wishing(place.as_number(), &place.storage, owner, wish);
        let ended = ended.ended.await;
        lineages.push(place.head().await.unwrap().lineage);
        if let Ok(ended) = ended {
            assert_eq!(ended, Ok(JobOutcome::Finished));
            assert!(fatal > 5, "invalid run: it ended at step {fatal}");
            break;
        }
    }
    lineages.dedup();
    assert_eq!(lineages.len(), 2, "{lineages:?}");
}

/// The last number of each key. Where `stands` is given, the first subtask that opens tells of it and never returns, and
/// any other one `fails` or opens.
#[derive(Clone, Default)]
struct Last {
    held: Option<Number>,
    stands: Option<Arc<Stands>>,
}

type Number = StateHandle<ValueState<u64, (), u64>>;

struct Stands {
    told: SyncSender<()>,
    gate: Mutex<Receiver<()>>,
    is_taken: AtomicBool,
    fails: bool,
}

impl KeyedProcessFunction<u64, u64, (u64, u64)> for Last {
    fn open(&mut self, context: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.held = Some(context.value("held", None)?);
        match &self.stands {
            Some(stands) if !stands.is_taken.swap(true, Ordering::SeqCst) => {
                stands.told.send(())?;
                stands.gate.lock().unwrap().recv().unwrap_err();
                Ok(())
            }
            Some(stands) if stands.fails => Err("this subtask does not open".into()),
            _ => Ok(()),
        }
    }

    fn on_record(
        &mut self,
        number: u64,
        context: &mut KeyedContext<'_, u64, (u64, u64)>,
    ) -> Result<(), UserError> {
        let held = self.held.ok_or("opened before the first record")?;
        context.state(held).set(number);
        context.emit((number % 5, number));
        Ok(())
    }
}

/// Starts a fork whose first subtask never opens.
async fn stands(fails: bool, is_stopped: bool) {
    let place = Place::empty();
    let program = |stands| {
        program_of(2, |env| {
            let held = None;
            env.source("numbers", numbers())
                .key_by(|number| number % 5)
                .process("last", Last { held, stands })
                .sink("lasts", place.lasts.clone());
        })
    };
    place.stop_behind_savepoint(program(None)).await;
    let head = place.head().await;
    let (told, arrival) = sync_channel(1);
    let (go, gate) = sync_channel::<()>(0);
    let stands = Stands {
        told,
        gate: Mutex::new(gate),
        is_taken: AtomicBool::new(false),
        fails,
    };
    let mut settings = settings();
    settings.cancellation_timeout = Duration::from_millis(100);
    let on: StopHook = Arc::new(|_| {});
    let owner = (place.seed(), on);
    let wish = from(SavepointWord::Fork);
    let standing = program(Some(Arc::new(stands)));
    let handle = start_as(standing, &place.storage, owner, wish.clone(), settings);
    let arrival = until(arrival).await;
    if is_stopped {
        handle.requests.send(JobRequest::Cancel).await.unwrap();
    }
    let failure = end_of(handle).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Bug, "{failure}");
    for part in [
        "did not end within 100 ms",
        "does not return",
        "start again",
    ] {
        assert!(failure.message.contains(part), "{part}: {failure}");
    }
    assert_eq!(place.head().await, head, "head was changed");
    assert_eq!(
        place.run(program(None), wish).await,
        Ok(JobOutcome::Finished)
    );
    drop((go, arrival));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_not_held_up_for_ever_by_an_operator_that_does_not_open() {
    stands(false, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_savepoint_is_not_held_up_for_ever_by_an_operator_that_does_not_open() {
    stands(true, false).await;
}
