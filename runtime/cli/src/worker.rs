//! `worker`: runs tasks for a coordinator, and looks for one as long as none answers.
//!
//! One process, one worker. When its coordinator is lost it goes on with an attempt whose records flow, and tells the next coordinator of it
//! ([`Holding`]); any other attempt is ended before the next coordinator is asked for work, so that nobody takes this worker for free while it
//! is not. One that is told to end while it has a coordinator leaves by plan ([`Leave`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_network::DataPlane;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::JobPaths;
use highwater_rpc::{ConnectionEnd, ConnectionSettings, Passing, Registration, WorkerConnection};
use highwater_tls::Wire;
use highwater_types::AttemptId;
use highwater_web::WorkerView;
use highwater_worker::files::JobFiles;
use highwater_worker::{Clock, SystemClock, WorkerCommand, WorkerEvent, WorkerHandle, WorkerSetup};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::exit::{Code, Failure};
use crate::holding::Holding;
use crate::local_store::LocalState;
use crate::own_metrics::OwnMetrics;
use crate::run::{identity, random, runtime, storage};
use crate::settings::{JobSettings, RunArgs, RunSettings};
use crate::signals::Interrupts;
use crate::view::Screen;
use crate::{logs, stop_point};

mod leave;

use leave::{Keeper, Leave};

/// Events of the worker that may wait.
const EVENT_QUEUE: usize = 1_024;
/// Between two looks for a coordinator.
const AGAIN_EVERY: Duration = Duration::from_millis(500);

/// Runs a worker until it is told to end.
pub(crate) fn run(
    job: JobSettings,
    settings: RunSettings,
    args: &RunArgs,
    program: JobProgram,
) -> Result<(), Failure> {
    logs::start(&settings, &job.identity, &Screen::of_stderr(true))?;
    let runtime = runtime()?;
    let ended = runtime.block_on(serve(job, settings, (program, args.child.with_parent)));
    runtime.shutdown_background();
    ended
}

async fn serve(
    job: JobSettings,
    settings: RunSettings,
    (program, with_parent): (JobProgram, bool),
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let storage = storage(&job)?;
    let wire = settings.cluster.wire()?;
    let plane = data_plane(&settings, wire.clone()).await?;
    let advertised = settings.cluster.data_advertised.clone();
    let registration = Registration {
        identity: identity(&job, &settings, &program),
        name: name(&settings),
        slots: settings.worker.slots,
        data_address: advertised.unwrap_or_else(|| plane.address().to_string()),
        held: None,
    };
    let LocalState { store, dirs } = LocalState::open(&settings, &job.identity)?;
    // Children of one process would all want the same address.
    let address = settings.metrics_address.filter(|_| !with_parent);
    let mut page = OwnMetrics::bind(address, &settings.rest).await?;
    let (events, told) = mpsc::channel(EVENT_QUEUE);
    let (links, of_store) = (plane.board().clone(), store.clone());
    let worker = highwater_worker::start(WorkerSetup {
        program,
        job: job.identity.clone(),
        settings: settings.worker,
        clock: Arc::new(SystemClock::new()) as Arc<dyn Clock>,
        files: JobFiles::new(storage, JobPaths::new(job.identity.clone()))
            .with_room(settings.state.moving_bytes_max),
        rim: tokio::runtime::Handle::current(),
        local: dirs,
        store,
        nonces: NonceStream::new(random()),
        plane: Some(Arc::new(plane)),
        events,
        stop: stop_point::hook(settings.stop_at.as_deref())?,
    });
    let worker =
        worker.map_err(|error| Failure::new(Code::Other, format!("no threads: {error}")))?;
    page.serve(WorkerView {
        job: job.identity.clone(),
        worker: settings.worker,
        figures: worker.figures().clone(),
        store: of_store,
        links,
    });
    let (leave, within) = (Leave::new(), settings.cluster.leave_max);
    let mut service = Service {
        coordinators: settings.cluster.control_addresses.iter().cloned().collect(),
        refusals: 0,
        registration,
        worker,
        told,
        connection: settings.cluster.connection,
        wire,
        cancellation_max: settings.coordinator.cancellation_timeout,
        takeover_max: settings.cluster.takeover_max,
        leave: leave.clone(),
        holding: None,
    };
    // What is cut off is a wait, or a connection whose end the coordinator notices.
    let ended = tokio::select! {
        ended = service.attend() => ended,
        () = leave.until_end(&mut interrupts, Keeper::of(with_parent), within) => Ok(()),
        () = parent_ended(), if with_parent => Ok(()),
    };
    page.end().await;
    shut_down(service.worker).await;
    ended
}

/// Ends the threads of the worker.
async fn shut_down(worker: WorkerHandle) {
    if tokio::task::spawn_blocking(move || worker.shut_down())
        .await
        .is_err()
    {
        tracing::error!("the worker did not end");
    }
}

/// Listens where other workers bring records to.
async fn data_plane(settings: &RunSettings, wire: Wire) -> Result<DataPlane, Failure> {
    let listen = settings.cluster.data_listen;
    let plane = DataPlane::bind(listen, settings.cluster.link, wire).await;
    plane.map_err(|error| {
        let message = format!("data.listen: cannot listen at {listen}: {error}");
        Failure::new(Code::Usage, message)
    })
}

/// The name of this worker.
fn name(settings: &RunSettings) -> String {
    let host = || {
        let system = rustix::system::uname();
        format!(
            "{}-{}",
            system.nodename().to_string_lossy(),
            std::process::id()
        )
    };
    settings.cluster.worker_name.clone().unwrap_or_else(host)
}

/// Waits for the end of the process that started this one and holds the other end of its standard input.
async fn parent_ended() {
    let (mut input, mut buffer) = (tokio::io::stdin(), [0; 64]);
    while input.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

struct Service {
    /// Where coordinators may be. The first is asked next.
    coordinators: VecDeque<String>,
    /// Coordinators in a row that refused this worker.
    refusals: usize,
    registration: Registration,
    worker: WorkerHandle,
    told: mpsc::Receiver<WorkerEvent>,
    connection: ConnectionSettings,
    wire: Wire,
    cancellation_max: Duration,
    takeover_max: Duration,
    leave: Leave,
    holding: Option<Holding>,
}

impl Service {
    /// Works for one coordinator after another, until one ends the worker or refuses it for good, or the worker leaves.
    async fn attend(&mut self) -> Result<(), Failure> {
        let mut said = BTreeSet::new();
        loop {
            self.let_go_if_due().await?;
            let coordinator = self.coordinators[0].clone();
            let (settings, wire) = (self.connection, self.wire.clone());
            let registration = Registration {
                held: self.holding.as_ref().map(|held| held.part),
                ..self.registration.clone()
            };
            let opening = async {
                WorkerConnection::open(&coordinator, registration, (settings, &wire)).await
            };
            let connection = match self.meanwhile(opening).await {
                Ok(connection) => connection,
                // Of several another may lead: one that stands by may be of another revision.
                Err(refused @ ConnectionEnd::Refused { .. }) if self.is_refused_by_all() => {
                    return Err(Failure::new(Code::Usage, refused.to_string()));
                }
                Err(waits) => {
                    let text = waits.to_string();
                    if said.insert(text.clone()) {
                        tracing::warn!(reason = text, "waits for a coordinator");
                    }
                    self.turn_to(match waits {
                        ConnectionEnd::Standby { leader, .. } => leader,
                        _ => None,
                    });
                    let pause = tokio::time::sleep(self.look_again());
                    self.meanwhile(pause).await;
                    continue;
                }
            };
            said.clear();
            self.refusals = 0;
            tracing::info!(coordinator, worker = %connection.worker(), "works for a coordinator");
            self.leave.led();
            if self.work(connection).await? == Afterwards::End {
                if self.leave.is_asked() {
                    tracing::info!("has left: no task runs here any more");
                }
                return Ok(());
            }
            if !self.leave.looks_on() {
                tracing::warn!(
                    "nobody moves the tasks of this worker any more: ends at once; the job begins again from its last checkpoint"
                );
                return Ok(());
            }
            self.turn_to(None);
        }
    }

    /// One more coordinator in a row has refused this worker: whether all have.
    fn is_refused_by_all(&mut self) -> bool {
        self.refusals += 1;
        self.refusals >= self.coordinators.len()
    }

    /// The next coordinator is asked: the leader, if it is one of those that are known.
    fn turn_to(&mut self, leader: Option<String>) {
        self.coordinators.rotate_left(1);
        let known =
            leader.and_then(|leader| self.coordinators.iter().position(|one| *one == leader));
        self.coordinators.rotate_left(known.unwrap_or(0));
    }

    /// How long to wait for the next look: each coordinator is asked once in [`AGAIN_EVERY`].
    fn look_again(&self) -> Duration {
        AGAIN_EVERY / u32::try_from(self.coordinators.len()).unwrap_or(u32::MAX)
    }

    /// Awaits `work` and hears what the worker tells, for which there is no coordinator: it may not be held up by a full queue.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            // Cancel-safe: an event that is not taken now is taken in the next turn.
            tokio::select! {
                done = &mut work => return done,
                Some(event) = self.told.recv() => {
                    if let WorkerEvent::Failed(attempt, report) = &event {
                        let reason = &report.message;
                        tracing::error!(attempt = attempt.0, task = report.task, reason, "attempt failed");
                    }
                    Holding::see(&mut self.holding, &event);
                }
            }
        }
    }

    async fn work(&mut self, connection: WorkerConnection) -> Result<Afterwards, Failure> {
        let mut afterwards = Afterwards::Again;
        let (worker, figures, max) = (
            &self.worker,
            self.worker.figures().clone(),
            self.cancellation_max,
        );
        let (number, holding) = (connection.worker(), &mut self.holding);
        // By when the attempt of an older leader has to be adopted, or to have ended.
        let by = holding
            .as_ref()
            .and_then(|held| held.until(self.takeover_max));
        let (sets, mut due) = watch::channel(by);
        let pass = |passing: Passing<'_>| match passing {
            Passing::Event(event) => {
                Holding::see(holding, event);
                if holding.is_none() {
                    sets.send_replace(None);
                }
            }
            // The process ends the worker itself, and waits for its threads.
            Passing::Command(WorkerCommand::Shutdown) => afterwards = Afterwards::End,
            Passing::Command(command) => {
                let ends = Holding::is_end_of_older(holding.as_ref(), &command);
                Holding::told(holding, number, &command);
                if ends {
                    sets.send_replace(Some(Instant::now() + max));
                } else if matches!(command, WorkerCommand::Adopt(..)) {
                    sets.send_replace(None);
                }
                worker.send(command);
            }
        };
        let leaves = self.leave.asked();
        // What is cut off is a connection whose end the coordinator notices.
        let end = tokio::select! {
            end = connection.run((&mut self.told, &figures), leaves, pass) => end.to_string(),
            () = overdue(&mut due) => match &self.holding {
                Some(held) if !held.runs => return Err(not_ended(held.part.attempt, max)),
                _ => "it does not go on with the attempt".to_owned(),
            },
        };
        if afterwards == Afterwards::Again {
            let attempt = self.holding.as_ref().map(|held| held.part.attempt);
            tracing::warn!(
                reason = end,
                attempt = attempt.map(|of| of.0),
                "the coordinator is lost"
            );
            if let Some(held) = &mut self.holding {
                held.unled(Instant::now());
                self.worker.send(WorkerCommand::Unled(held.part.attempt));
            }
        }
        Ok(afterwards)
    }

    /// Ends an attempt that nobody will go on with: its records do not flow, or no coordinator has come for too long.
    async fn let_go_if_due(&mut self) -> Result<(), Failure> {
        let Some(held) = &self.holding else {
            return Ok(());
        };
        let is_late = held
            .lost
            .is_some_and(|since| since.elapsed() >= self.takeover_max);
        if held.runs && !is_late {
            return Ok(());
        }
        let attempt = held.part.attempt;
        tracing::warn!(
            attempt = attempt.0,
            "ends an attempt that no coordinator goes on with"
        );
        self.worker.send(WorkerCommand::Cancel(attempt));
        let ended = async {
            while self.holding.is_some() {
                let Some(event) = self.told.recv().await else {
                    return;
                };
                Holding::see(&mut self.holding, &event);
            }
        };
        let max = self.cancellation_max;
        let ended = tokio::time::timeout(max, ended).await;
        ended.map_err(|_| not_ended(attempt, max))?;
        if self.holding.is_some() {
            return Err(Failure::new(Code::Other, "the worker ended by itself"));
        }
        Ok(())
    }
}

/// An attempt does not end: a function or a call to the outside does not return.
fn not_ended(attempt: AttemptId, max: Duration) -> Failure {
    let message = format!(
        "attempt {attempt} did not end within {max:?}; state is kept, start the worker again"
    );
    Failure::new(Code::Other, message)
}

/// Returns when what is due is overdue.
async fn overdue(due: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let by = *due.borrow_and_update();
        let late = async {
            match by {
                Some(by) => tokio::time::sleep_until(by).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: what changes is read in the next turn.
        tokio::select! {
            () = late => return,
            changed = due.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
        }
    }
}

/// What follows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    /// The next coordinator.
    Again,
    /// The end.
    End,
}
