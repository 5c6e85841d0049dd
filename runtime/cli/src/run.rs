//! `run`: wires store, worker, coordinator and status server, and waits for the end.
//!
//! The first Ctrl-C or SIGTERM stops with everything confirmed and state kept; the second ends at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use highwater_api::JobProgram;
use highwater_coordinator::{
    CoordinatorHandle, CoordinatorSetup, JobOutcome, JobRequest, StopMode,
};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::JobPaths;
use highwater_protocol::recovery::StartWish;
use highwater_protocol::steps::Step;
use highwater_storage::{Location, ObjectStorage, S3Options, open, probe};
use highwater_types::{JobIdentity, Nonce};
use highwater_web::JobView;
use highwater_worker::files::JobFiles;
use highwater_worker::{Clock, FigureBoard, StopHook, SystemClock, WorkerSettings, WorkerSetup};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::exit::{Code, Failure};
use crate::settings::{JobArgs, RunArgs};
use crate::{remote, view};

/// Events of the worker that may wait for the coordinator.
const EVENT_QUEUE: usize = 1_024;

/// A variable of the environment: secrets and test switches, which are no flags.
#[expect(
    clippy::disallowed_methods,
    reason = "this crate reads the environment for all others"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Opens the store of a job.
pub(crate) fn storage(args: &JobArgs) -> Result<Arc<dyn ObjectStorage>, Failure> {
    let location = Location::parse(&args.state_dir).map_err(|error| Failure::of(&error))?;
    let setting = environment;
    let options = S3Options {
        endpoint: setting("HIGHWATER_S3_ENDPOINT"),
        region: setting("HIGHWATER_S3_REGION"),
        access_key_id: setting("HIGHWATER_S3_ACCESS_KEY_ID"),
        secret_access_key: setting("HIGHWATER_S3_SECRET_ACCESS_KEY")
            .map(highwater_storage::Secret::new),
        ..S3Options::default()
    };
    open(&location, &options).map_err(|error| Failure::of(&error))
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
pub fn run(job: &JobArgs, args: &RunArgs, program: JobProgram) -> Result<(), Failure> {
    crate::logs::start(args.log_format, &args.log_level)?;
    let identity = job.identity()?;
    let setup = Setup {
        job: job.clone(),
        args: args.clone(),
        identity,
        program,
    };
    runtime()?.block_on(setup.run())
}

struct Setup {
    job: JobArgs,
    args: RunArgs,
    identity: JobIdentity,
    program: JobProgram,
}

/// Random bits that no other process has.
fn random() -> Nonce {
    Nonce(rand::random())
}

impl Setup {
    async fn run(self) -> Result<(), Failure> {
        let storage = storage(&self.job)?;
        probe(storage.as_ref(), random())
            .await
            .map_err(|error| Failure::of(&error))?;
        let (handle, figures) = self.start(&storage)?;
        let mut tasks = JoinSet::new();
        let note = self.serve(&handle, &figures, &mut tasks).await?;
        if !self.args.quiet {
            view::start(&self.identity, &handle, &figures, &mut tasks);
        }
        let ended = self.wait(handle).await;
        tasks.shutdown().await;
        if let Err(error) = std::fs::remove_file(&note) {
            tracing::debug!(%error, "run note");
        }
        ended
    }

    fn start(
        &self,
        storage: &Arc<dyn ObjectStorage>,
    ) -> Result<(CoordinatorHandle, FigureBoard), Failure> {
        let clock = Arc::new(SystemClock::new());
        let (events, incoming) = mpsc::channel(EVENT_QUEUE);
        let stop = stop_hook()?;
        let mebibytes = |count: u64| count.max(1) << 20;
        let worker = highwater_worker::start(WorkerSetup {
            program: self.program.clone(),
            job: self.identity.clone(),
            settings: WorkerSettings {
                slots: self.args.slots()?,
                state_bytes_max: mebibytes(self.args.state_memory_mib),
                spool_bytes_max: mebibytes(self.args.sink_spool_mib),
            },
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            files: JobFiles::new(Arc::clone(storage), JobPaths::new(self.identity.clone())),
            rim: tokio::runtime::Handle::current(),
            nonces: NonceStream::new(random()),
            events,
            stop: Arc::clone(&stop),
        });
        let worker = worker.map_err(|error| Failure::new(Code::Other, error.to_string()))?;
        let figures = worker.figures().clone();
        let handle = highwater_coordinator::start(CoordinatorSetup {
            program: self.program.clone(),
            job: self.identity.clone(),
            settings: self.args.coordinator()?,
            storage: Arc::clone(storage),
            wish: if self.args.fresh {
                StartWish::Fresh
            } else {
                StartWish::Resume
            },
            worker,
            events: incoming,
            clock,
            seed: random(),
            stop,
        });
        Ok((handle, figures))
    }

    /// Starts the status server and notes its address for the other commands.
    async fn serve(
        &self,
        handle: &CoordinatorHandle,
        figures: &FigureBoard,
        tasks: &mut JoinSet<()>,
    ) -> Result<PathBuf, Failure> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.args.rest_port));
        let listener = highwater_web::bind(address).await;
        let listener = listener.map_err(|error| {
            Failure::new(Code::Invalid, highwater_worker::slot::error_chain(&error))
        })?;
        let note = remote::write_note(&self.job, &self.identity, &listener)?;
        let view = JobView {
            job: self.identity.clone(),
            requests: handle.requests.clone(),
            status: handle.status.clone(),
            figures: figures.clone(),
        };
        tasks.spawn(async move {
            if let Err(error) = highwater_web::serve(listener, view).await {
                tracing::error!(%error, "status server");
            }
        });
        Ok(note)
    }

    async fn wait(&self, handle: CoordinatorHandle) -> Result<(), Failure> {
        let CoordinatorHandle {
            requests,
            mut ended,
            ..
        } = handle;
        let mut interrupts = Interrupts::listen()?;
        let mut stop: Option<oneshot::Receiver<_>> = None;
        loop {
            // Every arm is cancel-safe: a join handle, a signal and a oneshot lose nothing when another arm wins.
            tokio::select! {
                end = &mut ended => return outcome(end),
                () = interrupts.next() => {
                    if stop.is_some() {
                        let message = "ended at once; the next run goes on from the last checkpoint";
                        return Err(Failure::new(Code::Interrupted, message));
                    }
                    tracing::info!("stopping with state kept; once more ends at once");
                    let (answer, answered) = oneshot::channel();
                    let request =
                        JobRequest::Stop { mode: StopMode::Suspend, savepoint: None, answer };
                    if requests.send(request).await.is_ok() {
                        stop = Some(answered);
                    }
                }
            }
        }
    }
}

fn outcome(
    end: Result<Result<JobOutcome, highwater_coordinator::JobFailure>, tokio::task::JoinError>,
) -> Result<(), Failure> {
    match end {
        Ok(Ok(outcome)) => {
            tracing::info!(?outcome, "the job has ended");
            Ok(())
        }
        Ok(Err(failure)) => Err(Failure::of(&failure)),
        Err(error) => Err(Failure::new(
            Code::Other,
            format!("the coordinator ended: {error}"),
        )),
    }
}

/// Ctrl-C and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Code::Other, format!("no signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        // Both arms are cancel-safe: a signal that arrives meanwhile is delivered at the next call.
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// In test builds: aborts the process right before the step that `HIGHWATER_STOP_AT` names, at its n-th time
/// (`P8` or `P8:3`).
#[cfg(feature = "stop-points")]
fn stop_hook() -> Result<StopHook, Failure> {
    use std::sync::atomic::{AtomicU64, Ordering};

    let Some(wanted) = environment("HIGHWATER_STOP_AT") else {
        return Ok(Arc::new(|_| {}));
    };
    let (name, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    let step: Step = name
        .parse()
        .map_err(|error: highwater_protocol::steps::StepError| {
            Failure::new(Code::Invalid, error.to_string())
        })?;
    let count: u64 = count
        .parse()
        .map_err(|_| Failure::new(Code::Invalid, format!("`{wanted}` is no step and count")))?;
    let passed = AtomicU64::new(0);
    Ok(Arc::new(move |reached| {
        if reached == step && passed.fetch_add(1, Ordering::SeqCst) + 1 == count {
            std::process::abort();
        }
    }))
}

#[cfg(not(feature = "stop-points"))]
#[expect(clippy::unnecessary_wraps, reason = "the form of test builds can fail")]
fn stop_hook() -> Result<StopHook, Failure> {
    Ok(Arc::new(|_: Step| {}))
}
