//! `run`: wires store, worker, coordinator and status server, and waits for the end.
//!
//! The first Ctrl-C or SIGTERM stops with everything confirmed and state kept; the second ends at once. SIGTERM of a `coordinator` hands the
//! job over to another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_coordinator::fleet::{self, WorkerSeen};
use highwater_coordinator::shape::{execution_fingerprint, fleet_shape};
use highwater_coordinator::{
    CoordinatorHandle, CoordinatorSetup, EndBoard, GoesPast, JobOutcome, JobRequest, RequestAnswer,
    RequestRefused, SavepointWish, SnapshotWish, Wish, Workers,
};
use highwater_protocol::election::AboutOthers;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::{JobPaths, SavepointPaths};
use highwater_protocol::recovery::{SavepointWord, StartWish, TakeAgain};
use highwater_rpc::{ControlServer, Identity};
use highwater_state::Store;
use highwater_storage::{Location, ObjectStorage, StorageError, open, probe};
use highwater_types::{Classified as _, ErrorKind, Nonce, StopMode};
use highwater_web::config::follow;
use highwater_web::listening::Listening;
use highwater_web::{Config, JobView, OperationIds, RateBoard, TasksRun, room_to_wait};
use highwater_worker::files::JobFiles;
use highwater_worker::slot::error_chain;
use highwater_worker::{Clock, FigureBoard, StopHook, SystemClock, WorkerEvent, WorkerSetup};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::children::Children;
use crate::exit::{Code, Failure};
use crate::local_store::LocalState;
use crate::remote::{RunNote, refuse_second};
use crate::server::Server;
use crate::settings::{JobSettings, LiveConfig, RunArgs, RunSettings, SAVEPOINTS};
use crate::signals::{Interrupt, Interrupts};
use crate::standby::{Lease, ReleasedLease, Standby, note_end};
use crate::summary::Summary;
use crate::view::{Screen, View};
use crate::{logs, stop_point};

/// Events of the worker that may wait for the coordinator.
const EVENT_QUEUE: usize = 1_024;
/// How long workers have to hear that they are to end with a job that is over.
const WORKERS_LEAVE_MAX: Duration = Duration::from_secs(3);

/// A store that refuses is a setting to be corrected: the place, the keys, the bucket.
fn store_failure(error: &StorageError) -> Failure {
    let mut failure = Failure::of(error);
    if error.kind() == ErrorKind::Invalid {
        failure.code = Code::Usage;
    }
    failure
}

/// Opens the store of a job.
pub(crate) fn storage(job: &JobSettings) -> Result<Arc<dyn ObjectStorage>, Failure> {
    open(&job.state_dir, &job.s3).map_err(|error| {
        let mut failure = store_failure(&error);
        // A directory that cannot be made or written is named wrongly; an outage is a matter of other stores.
        if matches!(job.state_dir, Location::Local(_)) {
            failure.code = Code::Usage;
        }
        failure
    })
}

/// The runtime at the rim.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("rim")
        .enable_all()
        .build();
    built.map_err(|error| Failure::new(Code::Other, format!("no threads: {error}")))
}

/// Runs the job to its end.
pub fn run(
    job: JobSettings,
    settings: RunSettings,
    args: &RunArgs,
    (program, crew): (JobProgram, Crew),
) -> Result<(), Failure> {
    let screen = Screen::of_stderr(args.quiet);
    let levels = logs::start(&settings, &job.identity, &screen)?;
    let config = LiveConfig::new(settings.given.clone(), levels);
    for warning in &program.plan().warnings {
        tracing::warn!("{warning}");
    }
    let wish = wish(args)?;
    let setup = Setup {
        job,
        settings,
        program,
        crew,
        wish,
        // Whoever starts a process that takes no turn in leading wants the job to run.
        goes_past: GoesPast::AnyEnd,
        end_board: None,
        screen,
        config: Arc::new(config),
        take_over: args.take_over,
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(setup.run());
    // After the second Ctrl-C a call to the outside may still be on its way: nobody waits for it any more.
    runtime.shutdown_background();
    ended
}

/// How the job is to start.
fn wish(args: &RunArgs) -> Result<Wish, Failure> {
    let of = &args.savepoint;
    let Some(place) = &of.from_savepoint else {
        return Ok(Wish::Own(if args.fresh {
            StartWish::Fresh
        } else {
            StartWish::Resume
        }));
    };
    let place = SavepointPaths::at(SAVEPOINTS, place);
    let place = place.map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
    let word = match (of.go_back, of.fork) {
        (true, _) => SavepointWord::GoBack,
        (false, true) => SavepointWord::Fork,
        (false, false) => SavepointWord::Unsaid,
    };
    let again = if of.again {
        TakeAgain::Yes
    } else {
        TakeAgain::No
    };
    Ok(Wish::Savepoint(SavepointWish { place, word, again }))
}

/// Who runs the tasks of the job that this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crew {
    /// A worker in this process.
    Own,
    /// Workers that come by themselves.
    Fleet,
    /// So many worker processes that this one starts.
    Children(u32),
}

impl Crew {
    /// What the process is to the job, in one word.
    const fn role(self) -> &'static str {
        match self {
            Self::Own | Self::Children(_) => "run",
            Self::Fleet => "coordinator",
        }
    }

    /// Where the tasks run.
    const fn tasks(self) -> TasksRun {
        match self {
            Self::Own => TasksRun::Here,
            Self::Fleet | Self::Children(_) => TasksRun::OnWorkers,
        }
    }
}

struct Setup {
    job: JobSettings,
    settings: RunSettings,
    program: JobProgram,
    crew: Crew,
    wish: Wish,
    goes_past: GoesPast,
    end_board: Option<Arc<dyn EndBoard>>,
    screen: Screen,
    config: Arc<dyn Config>,
    take_over: bool,
}

/// What runs.
struct Started {
    handle: CoordinatorHandle,
    figures: FigureBoard,
    store: Store,
    clock: Arc<dyn Clock>,
    /// What is shown of the workers of a fleet.
    workers: watch::Receiver<Vec<WorkerSeen>>,
    /// Where workers come to, and those that this process started.
    fleet: Option<(ControlServer, Children)>,
}

/// What this process and its peers must have in common.
pub(crate) fn identity(
    job: &JobSettings,
    settings: &RunSettings,
    program: &JobProgram,
) -> Identity {
    Identity {
        job: job.identity.clone(),
        graph: execution_fingerprint(program),
        revision: settings.cluster.revision.clone(),
    }
}

/// Random bits that no other process has.
pub(crate) fn random() -> Nonce {
    Nonce(rand::random())
}

impl Setup {
    async fn run(mut self) -> Result<(), Failure> {
        let mut interrupts = Interrupts::listen()?;
        if !self.take_over {
            refuse_second(&self.job, self.crew.role()).await?;
        }
        let storage = storage(&self.job)?;
        let probed = probe(storage.as_ref(), random()).await;
        probed.map_err(|error| store_failure(&error))?;
        let rest = &self.settings.rest;
        let listening = Listening::bind(rest.address, rest.listen()?).await;
        let listening =
            listening.map_err(|error| Failure::new(Code::Usage, error_chain(&error)))?;
        let base = rest.base(listening.address());
        let began = self.begin(&storage, &listening, &mut interrupts).await?;
        let Some((mut started, lease)) = began else {
            return Ok(());
        };
        let fleet = started.fleet.take();
        tracing::info!(address = base, "status server");
        let note = RunNote::write(&self.job, base)?;
        let view = self.view(&started);
        let mut tasks = JoinSet::new();
        let drawn = View::new(view.clone(), self.screen.clone());
        let at_the_end = view.clone();
        tasks.spawn(
            view.rates
                .clone()
                .run(view.figures.clone(), Arc::clone(&view.clock)),
        );
        tasks.spawn(follow(Arc::clone(&self.config), view.status.clone()));
        let server = Server::start(listening, view);
        if let Some(lease) = &lease {
            tasks.spawn(lease.once_led(started.handle.status.clone()));
        }
        if self.screen.is_on() {
            tasks.spawn(drawn.run());
        }
        let ended = wait(started.handle, &mut interrupts, self.crew).await;
        if ended.is_ok() {
            Summary::of(&at_the_end.current_plan(), &at_the_end.figures.read()).tell();
        }
        match lease {
            Some(lease) => lease.leave(&ended).await,
            None => note_end(&storage, &self.job.identity, &ended).await,
        }
        if let Some((control, children)) = fleet {
            if ended.as_ref().is_ok_and(|outcome| outcome.is_over()) {
                control.until_left(WORKERS_LEAVE_MAX).await;
            }
            children.end().await;
            control.shut_down().await;
        }
        tasks.shutdown().await;
        server.end().await;
        self.screen.leave();
        note.remove();
        ended.map(|_| ())
    }

    /// Starts what runs the job; a coordinator of several waits for its turn first. `None` = it never comes.
    async fn begin(
        &mut self,
        storage: &Arc<dyn ObjectStorage>,
        listening: &Listening,
        interrupts: &mut Interrupts,
    ) -> Result<Option<(Started, Option<Lease>)>, Failure> {
        let begins = !matches!(self.wish, Wish::Own(StartWish::Resume) | Wish::Follow);
        let about_others = match (self.take_over, begins) {
            (true, _) => AboutOthers::TakeOver,
            (false, true) => AboutOthers::Refuse,
            (false, false) => AboutOthers::Wait,
        };
        let standby = Standby {
            job: &self.job,
            settings: &self.settings,
            program: &self.program,
            config: &self.config,
            about_others,
            begins,
        };
        if self.crew != Crew::Fleet {
            let lease = standby.of_others(storage, listening).await?;
            self.end_board = Some(match &lease {
                Some(lease) => lease.end_board(),
                None => Arc::new(ReleasedLease {
                    storage: Arc::clone(storage),
                    job: self.job.identity.clone(),
                }),
            });
            let started = match self.crew {
                Crew::Own => self.start(storage)?,
                _ => self.lead(storage, self.listen().await?)?,
            };
            return Ok(Some((started, lease)));
        }
        let control = self.listen().await?;
        let waited = standby.wait(storage, &control, listening, interrupts).await;
        let Some(won) = waited? else {
            control.shut_down().await;
            return Ok(None);
        };
        if won.mandate.only_goes_on {
            self.wish = Wish::Follow;
        }
        if !self.take_over {
            self.goes_past = GoesPast::from(won.mandate.goes_past);
        }
        self.end_board = Some(won.lease.end_board());
        Ok(Some((self.lead(storage, control)?, Some(won.lease))))
    }

    fn start(&self, storage: &Arc<dyn ObjectStorage>) -> Result<Started, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (events, incoming) = mpsc::channel(EVENT_QUEUE);
        let stop = stop_point::hook(self.settings.stop_at.as_deref())?;
        let identity = &self.job.identity;
        let LocalState { store, dirs } = LocalState::open(&self.settings, identity)?;
        let worker = highwater_worker::start(WorkerSetup {
            program: self.program.clone(),
            job: identity.clone(),
            settings: self.settings.worker,
            clock: Arc::clone(&clock),
            files: JobFiles::new(Arc::clone(storage), JobPaths::new(identity.clone()))
                .with_room(self.settings.state.moving_bytes_max),
            rim: tokio::runtime::Handle::current(),
            local: dirs,
            store: store.clone(),
            nonces: NonceStream::new(random()),
            plane: None,
            events,
            stop: Arc::clone(&stop),
        });
        let worker =
            worker.map_err(|error| Failure::new(Code::Other, format!("no threads: {error}")))?;
        let figures = worker.figures().clone();
        let handle = self.coordinate(storage, (Workers::Own(worker), incoming), &clock, stop);
        Ok(Started {
            handle,
            figures,
            store,
            clock,
            workers: watch::channel(Vec::new()).1,
            fleet: None,
        })
    }

    /// Listens where workers come to.
    async fn listen(&self) -> Result<ControlServer, Failure> {
        let listen = match self.crew {
            // Nobody else has to find it.
            Crew::Children(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
            Crew::Own | Crew::Fleet => self.settings.cluster.control_listen,
        };
        let identity = identity(&self.job, &self.settings, &self.program);
        let connections = (
            self.settings.cluster.connection,
            self.settings.cluster.wire()?,
        );
        let control = ControlServer::bind(listen, identity, connections).await;
        control.map_err(|error| {
            let message = format!("control.listen: cannot listen at {listen}: {error}");
            Failure::new(Code::Usage, message)
        })
    }

    /// Starts a coordinator that takes workers.
    fn lead(
        &self,
        storage: &Arc<dyn ObjectStorage>,
        control: ControlServer,
    ) -> Result<Started, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (events, incoming) = mpsc::channel(EVENT_QUEUE);
        let stop = stop_point::hook(self.settings.stop_at.as_deref())?;
        let passes = NonceStream::new(random());
        let fleet = fleet::driver::start(fleet_shape(&self.program), passes, events);
        let fleet =
            fleet.map_err(|error| Failure::new(Code::Other, format!("no threads: {error}")))?;
        let figures = FigureBoard::default();
        let shown = fleet.seen();
        control.lead(fleet.handle(), figures.clone());
        tracing::info!(address = %control.address(), "takes workers");
        let children = match self.crew {
            Crew::Children(count) => Children::start(count, control.address())?,
            Crew::Own | Crew::Fleet => Children::none(),
        };
        let workers = (Workers::Fleet(fleet), incoming);
        let handle = self.coordinate(storage, workers, &clock, stop);
        Ok(Started {
            handle,
            figures,
            store: Store::heap(),
            clock,
            workers: shown,
            fleet: Some((control, children)),
        })
    }

    /// Starts the coordinator over its workers and what they tell.
    fn coordinate(
        &self,
        storage: &Arc<dyn ObjectStorage>,
        (worker, events): (Workers, mpsc::Receiver<WorkerEvent>),
        clock: &Arc<dyn Clock>,
        stop: StopHook,
    ) -> CoordinatorHandle {
        highwater_coordinator::start(CoordinatorSetup {
            program: self.program.clone(),
            job: self.job.identity.clone(),
            settings: self.settings.coordinator.clone(),
            storage: Arc::clone(storage),
            wish: self.wish.clone(),
            goes_past: self.goes_past,
            end_board: self.end_board.clone(),
            worker,
            events,
            // Until they notice that the coordinator before this one is gone, and find this one.
            outlived_max: (self.crew == Crew::Fleet)
                .then(|| 2 * self.settings.cluster.connection.silent_max),
            clock: Arc::clone(clock),
            seed: random(),
            stop,
        })
    }

    fn view(&self, started: &Started) -> JobView {
        JobView {
            job: self.job.identity.clone(),
            role: self.crew.role(),
            plan: started.handle.plan.clone(),
            tasks: self.crew.tasks(),
            worker: self.settings.worker,
            config: Arc::clone(&self.config),
            changing: Arc::default(),
            store: started.store.clone(),
            requests: started.handle.requests.clone(),
            ids: OperationIds::new(random()),
            waiting: room_to_wait(),
            status: started.handle.status.clone(),
            leader: watch::channel(None).1,
            workers: started.workers.clone(),
            figures: started.figures.clone(),
            rates: RateBoard::default(),
            clock: Arc::clone(&started.clock),
        }
    }
}

/// Waits for the end of the job, and passes on what the person at the keyboard wants.
async fn wait(
    handle: CoordinatorHandle,
    interrupts: &mut Interrupts,
    crew: Crew,
) -> Result<JobOutcome, Failure> {
    let CoordinatorHandle {
        requests,
        mut ended,
        ..
    } = handle;
    let mut stop = Stop::NotAsked;
    loop {
        // Every arm is cancel-safe: a join handle, a signal and a oneshot lose nothing when another arm wins.
        tokio::select! {
            end = &mut ended => return outcome(end),
            refused = stop.refused() => {
                tracing::warn!(reason = %refused, "the stop was refused");
                // A second stop that is under way already, or a job that has ended, needs no further word.
                stop = match refused {
                    RequestRefused::Busy(_) | RequestRefused::Ended(_) => Stop::Ending,
                    _ => Stop::NotAsked,
                };
            }
            interrupt = interrupts.next() => {
                let hands_over = crew == Crew::Fleet && interrupt == Interrupt::Terminate;
                if hands_over && matches!(stop, Stop::NotAsked) {
                    tracing::info!("hands the job over; another coordinator goes on with what the workers run");
                    match requests.try_send(JobRequest::Cancel) {
                        Ok(()) => stop = Stop::Ending,
                        Err(error) => tracing::warn!(%error, "the coordinator takes no request; once more asks again"),
                    }
                    continue;
                }
                if !matches!(stop, Stop::NotAsked) {
                    let message = "ended at once; the next run goes on from the last checkpoint";
                    return Err(Failure::new(Code::Interrupted, message));
                }
                tracing::info!("stopping with state kept; once more ends at once");
                let (answer, answered) = oneshot::channel();
                stop = Stop::Asked(answered);
                let wish = SnapshotWish::Stop { mode: StopMode::Suspend, savepoint: None };
                let request = wish.asked(answer);
                // Does not wait: a coordinator that still starts takes no request, and the second Ctrl-C must be heard.
                if let Err(error) = requests.try_send(request) {
                    tracing::warn!(%error, "the coordinator takes no request");
                }
            }
        }
    }
}

/// How far the stop that the first Ctrl-C asks for has come.
enum Stop {
    NotAsked,
    Asked(oneshot::Receiver<RequestAnswer>),
    /// Granted, or the coordinator is gone: either way the job ends.
    Ending,
}

impl Stop {
    /// Waits for a refusal, and for ever if there is none.
    async fn refused(&mut self) -> RequestRefused {
        if let Self::Asked(answer) = self {
            let answered = answer.await;
            if let Ok(Err(refused)) = answered {
                return refused;
            }
            *self = Self::Ending;
        }
        std::future::pending().await
    }
}

fn outcome(
    end: Result<Result<JobOutcome, highwater_coordinator::JobFailure>, tokio::task::JoinError>,
) -> Result<JobOutcome, Failure> {
    match end {
        Ok(Ok(outcome)) => {
            let words = match outcome {
                JobOutcome::Finished => "all input was processed and all output confirmed",
                JobOutcome::Stopped => "stopped with state kept and all output confirmed",
                JobOutcome::Cancelled => {
                    "ended at once; the next run goes on from the last checkpoint"
                }
            };
            tracing::info!("{words}");
            Ok(outcome)
        }
        Ok(Err(failure)) => Err(Failure::of(&failure)),
        Err(error) => Err(Failure::new(
            Code::Other,
            format!("the coordinator ended: {error}"),
        )),
    }
}
