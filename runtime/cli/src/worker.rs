//! `worker`: runs tasks for a coordinator, and looks for one as long as none answers.
//!
//! One process, one worker. What it holds belongs to the connection: when that is lost, the attempt is ended before the next coordinator is
//! asked for work, so that nobody takes this worker for free while it is not.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_network::DataPlane;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::JobPaths;
use highwater_rpc::{ConnectionEnd, ConnectionSettings, Registration, WorkerConnection};
use highwater_tls::Wire;
use highwater_types::AttemptId;
use highwater_worker::files::JobFiles;
use highwater_worker::{Clock, SystemClock, WorkerCommand, WorkerEvent, WorkerHandle, WorkerSetup};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::exit::{Code, Failure};
use crate::local_store::LocalState;
use crate::run::{identity, random, runtime, storage};
use crate::settings::{JobSettings, RunArgs, RunSettings};
use crate::signals::Interrupts;
use crate::view::Screen;
use crate::{logs, stop_point};

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
    let listen = settings.cluster.data_listen;
    let wire = settings.cluster.wire()?;
    let plane = DataPlane::bind(listen, settings.cluster.link, wire.clone()).await;
    let plane = plane.map_err(|error| {
        let message = format!("data.listen: cannot listen at {listen}: {error}");
        Failure::new(Code::Usage, message)
    })?;
    let registration = Registration {
        identity: identity(&job, &settings, &program),
        name: name(&settings),
        slots: settings.worker.slots,
        data_address: settings
            .cluster
            .data_advertised
            .clone()
            .unwrap_or_else(|| plane.address().to_string()),
    };
    let LocalState { store, dirs } = LocalState::open(&settings, &job.identity)?;
    let (events, told) = mpsc::channel(EVENT_QUEUE);
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
    let mut service = Service {
        coordinators: settings.cluster.control_addresses.iter().cloned().collect(),
        refusals: 0,
        registration,
        worker,
        told,
        connection: settings.cluster.connection,
        wire,
        cancellation_max: settings.coordinator.cancellation_timeout,
    };
    // What is cut off is a wait, or a connection whose end the coordinator notices.
    let ended = tokio::select! {
        ended = service.attend() => ended,
        _ = interrupts.next() => Ok(()),
        () = parent_ended(), if with_parent => Ok(()),
    };
    let worker = service.worker;
    if tokio::task::spawn_blocking(move || worker.shut_down())
        .await
        .is_err()
    {
        tracing::error!("the worker did not end");
    }
    ended
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
}

impl Service {
    /// Works for one coordinator after another, until one ends the worker or refuses it for good.
    async fn attend(&mut self) -> Result<(), Failure> {
        let mut said = BTreeSet::new();
        loop {
            let coordinator = self.coordinators[0].clone();
            let connections = (self.connection, &self.wire);
            let opened =
                WorkerConnection::open(&coordinator, self.registration.clone(), connections);
            let connection = match opened.await {
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
                    tokio::time::sleep(self.look_again()).await;
                    continue;
                }
            };
            said.clear();
            self.refusals = 0;
            tracing::info!(coordinator, worker = %connection.worker(), "works for a coordinator");
            if self.work(connection).await? == Afterwards::End {
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

    async fn work(&mut self, connection: WorkerConnection) -> Result<Afterwards, Failure> {
        let (mut held, mut afterwards) = (None, Afterwards::Again);
        let (worker, figures) = (&self.worker, self.worker.figures().clone());
        let take = |command: WorkerCommand| {
            match &command {
                WorkerCommand::Prepare(deployment) => held = Some(deployment.attempt),
                WorkerCommand::Shutdown => {
                    afterwards = Afterwards::End;
                    // The process ends the worker itself, and waits for its threads.
                    return;
                }
                _ => {}
            }
            worker.send(command);
        };
        let end = connection.run((&mut self.told, &figures), take).await;
        if afterwards == Afterwards::Again {
            tracing::warn!(reason = %end, "the coordinator is lost");
            if let Some(attempt) = held {
                self.let_go(attempt).await?;
            }
        }
        Ok(afterwards)
    }

    /// Ends what was held for a coordinator that is lost.
    async fn let_go(&mut self, attempt: AttemptId) -> Result<(), Failure> {
        self.worker.send(WorkerCommand::Cancel(attempt));
        let ended = async {
            while let Some(event) = self.told.recv().await {
                if matches!(event, WorkerEvent::Cancelled(of) if of == attempt) {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(self.cancellation_max, ended).await;
        ended.map_err(|_| {
            let message = format!(
                "attempt {attempt} did not end within {:?}; state is kept, start the worker again",
                self.cancellation_max
            );
            Failure::new(Code::Other, message)
        })
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
