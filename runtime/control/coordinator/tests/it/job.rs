//! Runs a job as `run` does, with everything in memory.

use std::sync::Arc;
use std::time::Duration;

use highwater_api::{JobProgram, StreamEnvironment};
use highwater_coordinator::{
    CoordinatorHandle, CoordinatorSettings, CoordinatorSetup, EndBoard, GoesPast, JobFailure,
    JobOutcome, RestartStrategy, SnapshotWish, Wish, Workers,
};
use highwater_graph::PlanDefaults;
use highwater_graph::check::Checkpoints;
use highwater_protocol::checkpoint::CheckpointSettings;
use highwater_protocol::gc::Retention;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::JobPaths;
use highwater_protocol::recovery::{RestoreOptions, StartWish, UnmatchedState};
use highwater_state::Store;
use highwater_storage::ObjectStorage;
use highwater_types::{JobIdentity, MaxParallelism, Nonce, Parallelism, StopMode};
use highwater_worker::files::JobFiles;
use highwater_worker::{Clock, LocalDirs, StopHook, SystemClock, WorkerSettings, WorkerSetup};
use tokio::sync::{mpsc, oneshot};

/// Compiles what `build` builds, for `parallelism` subtasks each.
pub(crate) fn program_of(
    parallelism: u32,
    build: impl FnOnce(&mut StreamEnvironment),
) -> JobProgram {
    let mut env = StreamEnvironment::new();
    build(&mut env);
    let defaults = PlanDefaults {
        parallelism: Parallelism(parallelism),
        max_parallelism: MaxParallelism::DEFAULT,
        checkpoints: Checkpoints::On,
    };
    env.compile(defaults).unwrap()
}

/// Starts a job with a checkpoint every 20 ms and quick restarts. `seed` tells processes apart.
pub(crate) fn start(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    seed: u128,
) -> CoordinatorHandle {
    start_by(program, storage, seed, Arc::new(SystemClock::new()))
}

/// How a job begins or goes on.
pub(crate) const RESUME: Wish = Wish::Own(StartWish::Resume);

/// The same, with a hook that is told of each step of the coordinator.
pub(crate) fn start_with(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    seed: u128,
    hook: StopHook,
) -> CoordinatorHandle {
    start_wishing(program, storage, (seed, hook), RESUME)
}

/// The same, from where the wish says.
pub(crate) fn start_wishing(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    owner: (u128, StopHook),
    wish: Wish,
) -> CoordinatorHandle {
    start_as(program, storage, owner, wish, settings())
}

/// A checkpoint every 20 ms and quick restarts.
pub(crate) fn settings() -> CoordinatorSettings {
    CoordinatorSettings {
        checkpoint: CheckpointSettings {
            interval_ms: 20,
            min_pause_ms: 0,
            timeout_ms: 10_000,
            commit_retry_ms: 1_000,
            failures_max: None,
        },
        retention: Retention::DEFAULT,
        restart: RestartStrategy::Exponential {
            first: Duration::from_millis(1),
            most: Duration::from_millis(20),
            reset_after: Duration::from_mins(1),
            restarts_max: Some(200),
        },
        cancellation_timeout: Duration::from_mins(1),
        restore: RestoreOptions {
            unmatched: UnmatchedState::Refuse,
            readable: std::collections::BTreeSet::new(),
        },
        savepoints: "savepoints".to_owned(),
    }
}

/// The same, with these settings.
pub(crate) fn start_as(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    (seed, hook): (u128, StopHook),
    wish: Wish,
    settings: CoordinatorSettings,
) -> CoordinatorHandle {
    let manner = Manner {
        hook,
        wish,
        clock: Arc::new(SystemClock::new()),
        settings,
        inside: Arc::new(|_| {}),
        goes_on_after_end: true,
        end_board: None,
    };
    start_in(program, storage, seed, manner)
}

/// The same by another clock.
pub(crate) fn start_by(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    seed: u128,
    clock: Arc<dyn Clock>,
) -> CoordinatorHandle {
    start_in(program, storage, seed, Manner::by(clock))
}

impl Manner {
    /// As always, by this clock.
    pub(crate) fn by(clock: Arc<dyn Clock>) -> Self {
        Self {
            hook: Arc::new(|_| {}),
            wish: RESUME,
            clock,
            settings: settings(),
            inside: Arc::new(|_| {}),
            goes_on_after_end: true,
            end_board: None,
        }
    }
}

/// What is not the same for every start.
pub(crate) struct Manner {
    pub(crate) hook: StopHook,
    pub(crate) wish: Wish,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: CoordinatorSettings,
    /// The hook of the worker.
    pub(crate) inside: StopHook,
    /// Whether somebody wants a job that has ended to go on, as whoever starts `run` does.
    pub(crate) goes_on_after_end: bool,
    /// Where the end of the job is noted.
    pub(crate) end_board: Option<Arc<dyn EndBoard>>,
}

pub(crate) fn start_in(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    seed: u128,
    manner: Manner,
) -> CoordinatorHandle {
    let rest = Rest {
        local: None,
        store: Store::heap(),
        table_bytes: 1 << 30,
    };
    start_over(program, storage, seed, (manner, rest))
}

/// Where keyed state rests.
pub(crate) struct Rest {
    pub(crate) local: Option<LocalDirs>,
    pub(crate) store: Store,
    /// Bytes that the tables of the worker may hold.
    pub(crate) table_bytes: u64,
}

/// The same, with keyed state that rests elsewhere than on the heap.
pub(crate) fn start_over(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    seed: u128,
    (manner, rest): (Manner, Rest),
) -> CoordinatorHandle {
    let job = JobIdentity::parse("test-job").unwrap();
    let rim = tokio::runtime::Handle::current();
    let (events, incoming) = mpsc::channel(1_024);
    let worker = highwater_worker::start(WorkerSetup {
        program: program.clone(),
        job: job.clone(),
        settings: WorkerSettings {
            slots: 2,
            state_bytes_max: rest.table_bytes,
            store_bytes_max: 0,
            spool_bytes_max: 1 << 24,
        },
        clock: Arc::clone(&manner.clock),
        files: JobFiles::new(Arc::clone(storage), JobPaths::new(job.clone())),
        rim,
        local: rest.local,
        store: rest.store,
        nonces: NonceStream::new(Nonce(seed)),
        plane: None,
        events,
        stop: manner.inside,
    });
    highwater_coordinator::start(CoordinatorSetup {
        program,
        job,
        settings: manner.settings,
        storage: Arc::clone(storage),
        wish: manner.wish,
        goes_past: if manner.goes_on_after_end {
            GoesPast::AnyEnd
        } else {
            GoesPast::NoEnd
        },
        worker: Workers::Own(worker.unwrap()),
        events: incoming,
        end_board: manner.end_board,
        outlived_max: None,
        clock: manner.clock,
        seed: Nonce(seed + 1),
        stop: manner.hook,
    })
}

/// Waits for a job to end, at most a minute.
pub(crate) async fn end_of(handle: CoordinatorHandle) -> Result<JobOutcome, JobFailure> {
    let ended = tokio::time::timeout(Duration::from_mins(1), handle.ended).await;
    ended.expect("the job ends within a minute").unwrap()
}

/// Stops the job with its state kept, and waits for its end.
pub(crate) async fn suspend(handle: CoordinatorHandle) {
    let (answer, answered) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode: StopMode::Suspend,
        savepoint: None,
    }
    .asked(answer);
    handle.requests.send(stop).await.unwrap();
    answered.await.unwrap().unwrap();
    end_of(handle).await.unwrap();
}
