//! The coordinator's loop: one event enum, one owner of everything, effects performed in order.
//!
//! Nothing in the loop blocks: reads and writes of the store, discoveries, sessions that free slots and collections run
//! at the rim and come back as events. L1 is kept by the machines: while a head write is undecided, no attempt starts,
//! nothing is declined and nothing is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_graph::Plan;
use highwater_protocol::checkpoint::{CheckpointCoordinator, CheckpointEvent, SnapshotRequest};
use highwater_protocol::head_write::{HeadKeeper, HeadWriteEvent};
use highwater_protocol::job::{JobShape, TaskId};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::JobPaths;
use highwater_protocol::recovery::{Fault, RegionEvent};
use highwater_protocol::stop::SlotKey;
use highwater_types::{AttemptId, CheckpointId, Epoch, ErrorKind};
use highwater_worker::slot::error_chain;
use highwater_worker::{WorkerCommand, WorkerEvent};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::attempt::{After, Attempt};
use crate::deploy::LogCheck;
use crate::housekeeping::{Collected, Copied};
use crate::request::{JobRequest, RequestAnswer, RequestRefused};
use crate::restart::{Repeats, RestartDelay};
use crate::setup::{CoordinatorHandle, CoordinatorSetup, JobFailure, JobOutcome};
use crate::sources::{Discovered, OpenSources};
use crate::start::{Externals, failure};
use crate::status::{JobPhase, JobStatus, WaitBoard};
use crate::store::{JobStore, StoreError, deposed};

mod attempts;
mod checkpoints;
mod detour;
mod redeploy;
mod requests;
mod splits;
mod takeover;
mod worker;

use detour::{Lead, NotBegun, StartParts, lead};
use redeploy::Redeploying;
pub(crate) use redeploy::program_for;
use requests::Asked;
use takeover::TakingOver;

/// How often the machines look at the time.
const TICK: Duration = Duration::from_millis(20);
/// Between two looks at `head`. A leader that writes and asks nothing, since it waits for workers, would not hear that it is deposed.
const LOOK_EVERY_MS: u64 = 5_000;
/// Events from the rim that may wait.
const QUEUE: usize = 1_024;

/// Starts a coordinator on the current runtime.
pub fn start(setup: CoordinatorSetup) -> CoordinatorHandle {
    let (requests, incoming) = mpsc::channel(16);
    let (status, watching) = watch::channel(JobStatus::starting());
    let (plan, shown) = watch::channel(Arc::new(setup.program.plan().clone()));
    let ended = spawn_owned(run(setup, incoming, (status, plan)));
    CoordinatorHandle {
        requests,
        status: watching,
        plan: shown,
        ended,
    }
}

/// The coordinator's own task: its owner holds the handle and awaits it.
#[expect(
    clippy::disallowed_methods,
    reason = "the handle that owns and joins it is returned"
)]
fn spawn_owned<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn(work)
}

/// What comes back from the rim.
enum Done {
    Head(HeadWriteEvent),
    Manifest(CheckpointId, Result<(), StoreError>),
    SourcesOpen(Box<Result<OpenSources, JobFailure>>),
    /// The same for an attempt that is adopted.
    ToAdopt(Box<Result<OpenSources, JobFailure>>),
    Freed(AttemptId, SlotKey),
    /// The attempt cannot go on.
    Lost(AttemptId, JobFailure),
    /// A newer epoch stands in `head`.
    Deposed(Epoch),
    /// `head` was looked at, and no newer leader was in it.
    Looked,
    /// A slot has stopped by name, and `head` was read since.
    Stopped(AttemptId, JobFailure),
    Discovered(AttemptId, Discovered),
    /// With the name of the savepoint.
    Exported(CheckpointId, String, Result<Copied, StoreError>),
    Collected(Collected),
    Authority(
        AttemptId,
        SlotKey,
        Option<highwater_protocol::head_write::Authority>,
    ),
    /// `head` could not be read for a slot that asks.
    Unread(StoreError),
    /// `head` is gone or damaged under this leader.
    HeadLost(JobFailure),
    Orphans,
    /// Those who look before they lead find that the job has ended.
    EndNoted,
    /// Whether the savepoint that is asked for has a free name.
    NameChecked(SnapshotRequest, Result<(), RequestRefused>),
}

struct Coordinator {
    setup: CoordinatorSetup,
    store: JobStore,
    nonces: NonceStream,
    shape: JobShape,
    externals: Externals,
    keeper: HeadKeeper,
    manifest: Manifest,
    /// The manifest of the checkpoint on its way, until `head` has decided.
    next_manifest: Option<Manifest>,
    machine: CheckpointCoordinator,
    attempt: Option<Attempt>,
    last_attempt: AttemptId,
    /// Below the attempts of this leader.
    first_attempt: AttemptId,
    taking_over: Option<TakingOver>,
    restart: RestartDelay,
    restart_at_ms: Option<u64>,
    opening: Opening,
    collecting: Collecting,
    answers: BTreeMap<u64, Asked>,
    /// The tasks that have answered the checkpoint on its way.
    answered: BTreeSet<TaskId>,
    next_request: u64,
    /// The request that stops the job.
    stopping: Option<u64>,
    discovery_at_ms: u64,
    /// When `head` is looked at next.
    look_at_ms: u64,
    /// When the state of the attempt was asked for.
    prepared_ms: u64,
    started_ms: u64,
    status: watch::Sender<JobStatus>,
    /// The plan that runs.
    plan: watch::Sender<Arc<Plan>>,
    redeploying: Redeploying,
    rim: JoinSet<()>,
    done: mpsc::Sender<Done>,
    end: Option<Result<JobOutcome, JobFailure>>,
    /// The worker does not end an attempt: nobody waits for its threads.
    is_stuck: bool,
    /// Answers that wait until the end of the job is noted, while it is.
    noting: Option<Vec<(u64, RequestAnswer)>>,
    /// Why the job would have failed, while it is not decided whether `head` says that it has ended.
    failed_meanwhile: Option<JobFailure>,
    /// How often in a row `head` could not be read for a slot that asks.
    unread: u32,
    /// Why the last savepoint was not copied.
    not_copied: Option<JobFailure>,
    /// Failures that come again and again.
    repeats: Repeats,
    /// The checkpoint in `head` cannot be used.
    detour: Option<Fault>,
    /// Whether the logs of the checkpoint in `head` are verified before anything is published.
    logs: LogCheck,
}

/// Whether enumerators are being opened for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    No,
    Yes,
}

/// Whether a collection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collecting {
    No,
    Yes,
}

async fn run(
    mut setup: CoordinatorSetup,
    mut requests: mpsc::Receiver<JobRequest>,
    (status, plan): (watch::Sender<JobStatus>, watch::Sender<Arc<Plan>>),
) -> Result<JobOutcome, JobFailure> {
    let store = JobStore::new(Arc::clone(&setup.storage), JobPaths::new(setup.job.clone()));
    let mut events = std::mem::replace(&mut setup.events, mpsc::channel(1).1);
    let input = StartParts {
        setup: &mut setup,
        store: &store,
        events: &mut events,
        requests: &mut requests,
        waits: &WaitBoard::new(status.clone()),
    };
    let lead = match lead(input).await {
        Ok(lead) => lead,
        Err(not_begun) => {
            let is_stuck = matches!(not_begun, NotBegun::Stuck(_));
            let is_over = matches!(not_begun, NotBegun::Over(_));
            let end = match not_begun {
                NotBegun::Ended(end) => end,
                NotBegun::Stuck(failure) => Err(failure),
                NotBegun::Over(end) => Ok(JobOutcome::from(end)),
            };
            status.send_modify(|status| status.phase = phase_of(&end));
            if is_over {
                found_over(setup.outlived_max, &mut requests, &mut events, &status).await;
            }
            if !is_stuck {
                setup.worker.end(&end);
            }
            return end;
        }
    };
    let (done, mut finished) = mpsc::channel(QUEUE);
    plan.send_replace(Arc::new(setup.program.plan().clone()));
    let mut coordinator = Coordinator::new(setup, store, lead, (status, plan, done));
    coordinator.take_over();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while coordinator.goes_on() || coordinator.noting.is_some() {
        if coordinator.may_go_back() {
            coordinator.go_back(&mut events, &mut requests).await;
            continue;
        }
        // Every arm is cancel-safe: channel receives and interval ticks lose nothing when another arm wins.
        tokio::select! {
            event = events.recv(), if coordinator.goes_on() => match event {
                Some(event) => coordinator.worker_event(event),
                None => coordinator.worker_gone(),
            },
            Some(done) = finished.recv() => coordinator.rim_done(done),
            Some(request) = requests.recv(), if coordinator.goes_on() => coordinator.request(request),
            _ = ticks.tick() => coordinator.tick(),
        }
        coordinator.publish();
    }
    // Nobody waits for answers of a coordinator that is on its way out.
    requests.close();
    if let Some(end) = &coordinator.end {
        while let Ok(request) = requests.try_recv() {
            request.refuse(over(end));
        }
    }
    coordinator.finish().await
}

/// The job has ended under an older leader, perhaps before its workers were told: gives those that still hold its attempt the time to come to
/// this coordinator, which tells all that are there to end.
async fn found_over(
    outlived_max: Option<Duration>,
    requests: &mut mpsc::Receiver<JobRequest>,
    events: &mut mpsc::Receiver<WorkerEvent>,
    status: &watch::Sender<JobStatus>,
) {
    tracing::warn!(
        "head says that the job has ended, and nobody has asked for it to go on since: this coordinator changes nothing and ends; whoever wants \
         it to go on starts it once more"
    );
    let Some(max) = outlived_max else { return };
    let what =
        "waits for workers that may hold an attempt of the job that has ended, to tell them so";
    status.send_modify(|status| status.waits_for = Some(what.to_owned()));
    let mut over = std::pin::pin!(tokio::time::sleep(max));
    loop {
        // Every arm is cancel-safe: the deadline is kept, a channel that was not taken from loses nothing.
        tokio::select! {
            () = &mut over => break,
            // What workers tell concerns nobody: there is no leader.
            Some(_) = events.recv() => {}
            Some(request) = requests.recv() => {
                let ends = request.ends_job();
                request.refuse(RequestRefused::Ended("the job has ended"));
                if ends {
                    break;
                }
            }
        }
    }
    WaitBoard::new(status.clone()).goes_on();
}

/// What is shown of a job that has ended like this.
fn phase_of(end: &Result<JobOutcome, JobFailure>) -> JobPhase {
    match end {
        Ok(JobOutcome::Finished) => JobPhase::Finished,
        Ok(JobOutcome::Stopped | JobOutcome::Cancelled) => JobPhase::Stopped,
        Err(failure) => JobPhase::Failed {
            reason: failure.message.clone(),
        },
    }
}

impl Coordinator {
    fn new(
        setup: CoordinatorSetup,
        store: JobStore,
        lead: Lead,
        (status, plan, done): (
            watch::Sender<JobStatus>,
            watch::Sender<Arc<Plan>>,
            mpsc::Sender<Done>,
        ),
    ) -> Self {
        let settled = lead.keeper.settled();
        let head = settled
            .expect("a started leader has settled head")
            .head
            .clone();
        let machine = CheckpointCoordinator::new(
            setup.settings.checkpoint,
            lead.shape.clone(),
            head,
            &lead.manifest,
            lead.tries,
        );
        let restart = RestartDelay::new(setup.settings.restart);
        let interval_ms = setup.settings.checkpoint.interval_ms;
        status.send_modify(|status| status.checkpoints.interval_ms = interval_ms);
        let started_ms = setup.clock.elapsed().as_millis() as u64;
        Self {
            setup,
            store,
            nonces: lead.nonces,
            shape: lead.shape,
            externals: lead.externals,
            keeper: lead.keeper,
            manifest: lead.manifest,
            next_manifest: None,
            machine,
            attempt: None,
            last_attempt: lead.last_attempt,
            first_attempt: lead.last_attempt,
            taking_over: None,
            restart,
            restart_at_ms: None,
            opening: Opening::No,
            collecting: Collecting::No,
            answers: BTreeMap::new(),
            answered: BTreeSet::new(),
            next_request: 0,
            stopping: None,
            discovery_at_ms: 0,
            look_at_ms: 0,
            started_ms,
            prepared_ms: started_ms,
            status,
            plan,
            redeploying: Redeploying::default(),
            rim: JoinSet::new(),
            done,
            end: None,
            is_stuck: false,
            noting: None,
            failed_meanwhile: None,
            unread: 0,
            not_copied: None,
            repeats: Repeats::default(),
            detour: None,
            logs: LogCheck::Verify,
        }
    }

    fn now_ms(&self) -> u64 {
        self.setup.clock.elapsed().as_millis() as u64
    }

    fn at_rim(&mut self, work: impl Future<Output = Done> + Send + 'static) -> AbortHandle {
        let done = self.done.clone();
        self.rim.spawn(async move {
            let result = work.await;
            if done.send(result).await.is_err() {
                tracing::debug!("the coordinator has ended");
            }
        })
    }

    /// Takes finished work from the rim. One that panicked will never answer: nobody may wait for it.
    fn reap(&mut self) {
        while let Some(joined) = self.rim.try_join_next() {
            if let Err(error) = joined
                && error.is_panic()
            {
                self.cancel(After::Fail(failure(ErrorKind::Bug, error.to_string())));
                self.end_noted();
            }
        }
    }

    /// Whether this coordinator does not end yet.
    const fn goes_on(&self) -> bool {
        self.end.is_none()
    }

    fn send(&self, command: WorkerCommand) {
        self.setup.worker.send(command);
    }

    fn tick(&mut self) {
        let effects = self.machine.step(self.now_ms(), CheckpointEvent::Tick);
        self.perform(effects);
        if self.restart_at_ms.is_some_and(|at| at <= self.now_ms()) {
            self.begin_attempt();
        }
        self.look_at_takeover();
        self.look_at_slots();
        self.look_at_leaving();
        self.discover_again();
        self.look_at_head();
        self.give_up_cancelling();
        self.fail_late();
        self.reap();
    }

    fn rim_done(&mut self, done: Done) {
        let now = self.now_ms();
        match done {
            Done::Head(event) => {
                let effects = self.keeper.step(event);
                self.head_effects(effects);
            }
            Done::Manifest(id, Ok(())) => self.step(now, CheckpointEvent::ManifestWritten { id }),
            Done::Manifest(id, Err(error)) => {
                tracing::warn!(error = error_chain(&error), "manifest");
                self.step(now, CheckpointEvent::ManifestFailed { id });
            }
            Done::SourcesOpen(opened) => self.sources_open(*opened),
            Done::ToAdopt(opened) => self.adopt(*opened),
            Done::Freed(attempt, slot) => {
                if self.is_current(attempt) {
                    self.region(RegionEvent::Freed(slot));
                }
            }
            Done::Lost(attempt, failure) => {
                if self.is_current(attempt) {
                    self.note_failure("the coordinator", &failure);
                    self.cancel(After::of(failure));
                }
            }
            Done::Deposed(by) => self.leave(Err(deposed(by))),
            Done::Looked => self.look_at_ms = now + LOOK_EVERY_MS,
            Done::Stopped(attempt, failure) => {
                if self.is_current(attempt) {
                    self.cancel(After::Fail(failure));
                }
            }
            Done::Discovered(attempt, found) => self.discovered(attempt, found),
            Done::Exported(id, savepoint, copied) => self.exported(id, &savepoint, copied),
            Done::Collected(Collected { end, trouble }) => {
                self.collecting = Collecting::No;
                tracing::debug!(?end, "garbage collection");
                self.status.send_if_modified(|status| {
                    let shown = &mut status.checkpoints.cleanup_failure;
                    let before = std::mem::replace(shown, trouble);
                    before != *shown
                });
            }
            Done::Unread(error) => {
                self.unread += 1;
                let waits = WaitBoard::new(self.status.clone());
                waits.waits("the head object", &error_chain(&error), self.unread);
            }
            Done::HeadLost(failure) => self.cancel(After::Fail(failure)),
            Done::Authority(attempt, slot, Some(word)) => {
                if std::mem::take(&mut self.unread) > 0 {
                    WaitBoard::new(self.status.clone()).goes_on();
                }
                if self.is_current(attempt) {
                    self.send(WorkerCommand::Authority(attempt, slot, word));
                }
            }
            Done::NameChecked(request, name) => self.asked(request, name),
            Done::EndNoted => self.end_noted(),
            // No word: the slot waits and asks again.
            Done::Authority(_, _, None) | Done::Orphans => {}
        }
    }

    fn phase(&self, phase: JobPhase) {
        tracing::info!(phase = phase.word(), attempt = self.last_attempt.0, "job");
        let now = self.now_ms();
        self.status.send_modify(|status| {
            status.times.enter(&phase, now);
            status.phase = phase;
        });
    }

    fn publish(&self) {
        let head = self.keeper.settled().map(|settled| &settled.head);
        self.status.send_if_modified(|status| {
            let before = (
                status.epoch,
                status.attempt,
                status.lineage,
                status.checkpoints.completed,
                status.checkpoints.confirmed,
            );
            // A job that goes on has a checkpoint before it completes its first one.
            if status.checkpoints.completed.is_none() && self.manifest.id.number > 0 {
                status.checkpoints.completed = Some(self.manifest.id);
                let files = self.manifest.files.values();
                status.checkpoints.bytes = files.map(|file| file.length).sum();
            }
            if let Some(head) = head {
                status.epoch = head.epoch;
                status.lineage = Some(head.lineage);
                let confirmed = &mut status.checkpoints.confirmed;
                *confirmed = (*confirmed).max(Some(head.confirmed));
            }
            status.attempt = self.last_attempt;
            before
                != (
                    status.epoch,
                    status.attempt,
                    status.lineage,
                    status.checkpoints.completed,
                    status.checkpoints.confirmed,
                )
        });
    }

    async fn finish(mut self) -> Result<JobOutcome, JobFailure> {
        let end = self.end.take().unwrap_or(Ok(JobOutcome::Cancelled));
        self.phase(phase_of(&end));
        let refused = over(&end);
        let waiting: Vec<_> = self.answers.keys().copied().collect();
        for request in waiting {
            self.answer(request, &Err(refused.clone()));
        }
        self.rim.shutdown().await;
        let worker = self.setup.worker;
        let ran_ms = self.setup.clock.elapsed().as_millis() as u64 - self.started_ms;
        tracing::debug!(ran_ms, "coordinator ended");
        if self.is_stuck {
            return end;
        }
        let of_job = end.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || worker.end(&of_job)).await {
            tracing::error!(%error, "the worker did not end");
        }
        end
    }
}

/// What is answered when this coordinator ends: the job may go on under another.
fn over(end: &Result<JobOutcome, JobFailure>) -> RequestRefused {
    match end {
        Ok(JobOutcome::Finished | JobOutcome::Stopped) => {
            RequestRefused::Ended("the job has ended")
        }
        Err(failure) if failure.kind != ErrorKind::Fenced => RequestRefused::Ended(
            "the job has failed before it was done; its state is kept, see why it failed",
        ),
        Ok(JobOutcome::Cancelled) | Err(_) => RequestRefused::NotRunning(
            "this coordinator has ended; ask the one that leads, or start the job again".to_owned(),
        ),
    }
}

pub(crate) fn attempt_of(event: &WorkerEvent) -> AttemptId {
    match event {
        WorkerEvent::WaitsForSlots(attempt, _)
        | WorkerEvent::Reported(attempt, _)
        | WorkerEvent::Verified(attempt, _)
        | WorkerEvent::Damaged(attempt, ..)
        | WorkerEvent::Opened(attempt)
        | WorkerEvent::Acked { attempt, .. }
        | WorkerEvent::Refused { attempt, .. }
        | WorkerEvent::SlotConfirmed(attempt, ..)
        | WorkerEvent::SlotVoided(attempt, ..)
        | WorkerEvent::SlotExamined(attempt, ..)
        | WorkerEvent::AskAuthority(attempt, _)
        | WorkerEvent::RequestCheckpoint(attempt)
        | WorkerEvent::InputEnded(attempt, _)
        | WorkerEvent::Failed(attempt, _)
        | WorkerEvent::Stop(attempt, _)
        | WorkerEvent::Cancelling(attempt, _)
        | WorkerEvent::Cancelled(attempt) => *attempt,
        // Of none.
        WorkerEvent::AllFree(_) => AttemptId(0),
    }
}
