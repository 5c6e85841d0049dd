//! The coordinator's loop: one event enum, one owner of everything, effects performed in order.
//!
//! Nothing in the loop blocks: reads and writes of the store, discoveries, sessions that free slots and collections run
//! at the rim and come back as events. L1 is kept by the machines: while a head write is undecided, no attempt starts,
//! nothing is declined and nothing is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_connectors::WriterContext;
use highwater_protocol::checkpoint::{
    CheckpointCoordinator, CheckpointEffect, CheckpointEvent, JobEnd, SnapshotRequest,
};
use highwater_protocol::gate::first_attempt;
use highwater_protocol::gc::{Gc, GcEnd};
use highwater_protocol::head::HeadChange;
use highwater_protocol::head_write::{HeadKeeper, HeadWriteEffect, HeadWriteEvent, authority};
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::{JobPaths, SavepointPaths};
use highwater_protocol::recovery::{RegionEffect, RegionEvent, RegionRecovery};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::SlotKey;
use highwater_types::{
    AttemptId, BarrierKind, CheckpointId, Classified, ErrorKind, Parallelism, SubtaskIndex,
};
use highwater_worker::slot::error_chain;
use highwater_worker::{FailureReport, WorkerCommand, WorkerEvent};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::attempt::{After, Attempt, AttemptStage, Prepared};
use crate::deploy::{DeployInput, deployment};
use crate::housekeeping::{collect, delete, export};
use crate::request::{JobRequest, RequestAnswer, RequestRefused, StopMode};
use crate::restart::RestartDelay;
use crate::setup::{CoordinatorHandle, CoordinatorSetup, JobFailure, JobOutcome};
use crate::sources::{Discovered, OpenSources, discover, open_sources};
use crate::start::{Externals, Leader, StartInput, failed, failure, start as start_leader};
use crate::status::{JobPhase, JobStatus};
use crate::store::{JobStore, StoreError, backoff};

/// How often the machines look at the time.
const TICK: Duration = Duration::from_millis(20);
/// Events from the rim that may wait.
const QUEUE: usize = 1_024;

/// Starts a coordinator on the current runtime.
pub fn start(setup: CoordinatorSetup) -> CoordinatorHandle {
    let (requests, incoming) = mpsc::channel(16);
    let (status, watching) = watch::channel(JobStatus::starting());
    let ended = tokio::task::spawn(run(setup, incoming, status));
    CoordinatorHandle {
        requests,
        status: watching,
        ended,
    }
}

/// What comes back from the rim.
enum Done {
    Head(HeadWriteEvent),
    Manifest(CheckpointId, Result<(), StoreError>),
    SourcesOpen(Box<Result<OpenSources, JobFailure>>),
    Freed(AttemptId, SlotKey),
    Discovered(AttemptId, Discovered),
    Exported(CheckpointId, Result<(), StoreError>),
    Collected(GcEnd),
    Authority(
        AttemptId,
        SlotKey,
        Option<highwater_protocol::head_write::Authority>,
    ),
    Orphans,
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
    restart: RestartDelay,
    restart_at_ms: Option<u64>,
    opening: Opening,
    collecting: Collecting,
    answers: BTreeMap<u64, oneshot::Sender<RequestAnswer>>,
    next_request: u64,
    stopping: Option<StopMode>,
    discovery_at_ms: u64,
    started_ms: u64,
    status: watch::Sender<JobStatus>,
    rim: JoinSet<()>,
    done: mpsc::Sender<Done>,
    end: Option<Result<JobOutcome, JobFailure>>,
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
    status: watch::Sender<JobStatus>,
) -> Result<JobOutcome, JobFailure> {
    let store = JobStore::new(setup.storage.clone(), JobPaths::new(setup.job.clone()));
    let mut nonces = NonceStream::new(setup.seed);
    let input = StartInput {
        program: &setup.program,
        identity: &setup.job,
        settings: &setup.settings,
        store: &store,
        wish: setup.wish,
    };
    (setup.stop)(Step::R2);
    let leader = match start_leader(input, &mut nonces).await {
        Ok(leader) => leader,
        Err(failure) => {
            status.send_modify(|status| {
                status.phase = JobPhase::Failed {
                    reason: failure.message.clone(),
                };
            });
            setup.worker.shut_down();
            return Err(failure);
        }
    };
    let (done, mut finished) = mpsc::channel(QUEUE);
    let (placeholder, _) = mpsc::channel(1);
    let mut events = std::mem::replace(&mut setup.events, mpsc::channel(1).1);
    drop(placeholder as mpsc::Sender<WorkerEvent>);
    let mut coordinator = Coordinator::new(setup, store, nonces, leader, (status, done));
    coordinator.begin_attempt();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while coordinator.end.is_none() {
        // Every arm is cancel-safe: channel receives and interval ticks lose nothing when another arm wins.
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => coordinator.worker_event(event),
                None => coordinator.worker_gone(),
            },
            Some(done) = finished.recv() => coordinator.rim_done(done),
            Some(request) = requests.recv() => coordinator.request(request),
            _ = ticks.tick() => coordinator.tick(),
        }
        coordinator.publish();
    }
    coordinator.finish().await
}

impl Coordinator {
    fn new(
        setup: CoordinatorSetup,
        store: JobStore,
        mut nonces: NonceStream,
        leader: Leader,
        (status, done): (watch::Sender<JobStatus>, mpsc::Sender<Done>),
    ) -> Self {
        let Leader {
            keeper,
            manifest,
            shape,
            externals,
        } = leader;
        let head = keeper
            .settled()
            .expect("a started leader has settled head")
            .head
            .clone();
        let machine = CheckpointCoordinator::new(
            setup.settings.checkpoint,
            shape.clone(),
            head.clone(),
            &manifest,
            NonceStream::new(nonces.draw()),
        );
        let restart = RestartDelay::new(setup.settings.restart);
        let started_ms = setup.clock.elapsed().as_millis() as u64;
        Self {
            setup,
            store,
            nonces,
            shape,
            externals,
            keeper,
            manifest,
            next_manifest: None,
            machine,
            attempt: None,
            last_attempt: first_attempt(head.epoch),
            restart,
            restart_at_ms: None,
            opening: Opening::No,
            collecting: Collecting::No,
            answers: BTreeMap::new(),
            next_request: 0,
            stopping: None,
            discovery_at_ms: 0,
            started_ms,
            status,
            rim: JoinSet::new(),
            done,
            end: None,
        }
    }

    fn now_ms(&self) -> u64 {
        self.setup.clock.elapsed().as_millis() as u64
    }

    fn at_rim(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.clone();
        self.rim.spawn(async move {
            let result = work.await;
            if done.send(result).await.is_err() {
                tracing::debug!("the coordinator has ended");
            }
        });
        while self.rim.try_join_next().is_some() {}
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
        self.discover_again();
    }

    // ---- attempts -----------------------------------------------------------------------------------------------

    /// Begins the next attempt once `head` is settled (L1): opens the enumerators first.
    fn begin_attempt(&mut self) {
        let is_free = self.attempt.is_none() && self.opening == Opening::No;
        if !is_free || self.keeper.settled().is_none() || self.end.is_some() {
            self.restart_at_ms = Some(self.now_ms());
            return;
        }
        self.restart_at_ms = None;
        self.opening = Opening::Yes;
        self.phase(JobPhase::Recovering);
        let (program, states) = (self.setup.program.clone(), self.manifest.sources.clone());
        self.at_rim(async move {
            let opened = tokio::task::spawn_blocking(move || open_sources(&program, Some(&states)));
            let opened = match opened.await {
                Ok(Ok(sources)) => Ok(sources),
                Ok(Err(error)) => Err(failure(error.source.kind(), error_chain(&error))),
                Err(error) => Err(failure(ErrorKind::Bug, error.to_string())),
            };
            Done::SourcesOpen(Box::new(opened))
        });
    }

    fn sources_open(&mut self, opened: Result<OpenSources, JobFailure>) {
        self.opening = Opening::No;
        let sources = match opened {
            Ok(sources) => sources,
            Err(failure) => {
                self.note_failure("opening the sources", &failure);
                return self.retry_or_fail(failure);
            }
        };
        let Some(settled) = self.keeper.settled().cloned() else {
            self.restart_at_ms = Some(self.now_ms());
            return;
        };
        self.last_attempt = self.last_attempt.next();
        let alive = BTreeSet::new();
        let (region, effects) =
            RegionRecovery::start(&settled.head, &self.manifest, &self.shape, &alive);
        self.attempt = Some(Attempt {
            id: self.last_attempt,
            stage: AttemptStage::Recovering,
            region,
            sources,
            duties: Vec::new(),
            prepared: Prepared::No,
            after: After::Restart,
        });
        self.region_effects(effects);
    }

    fn region(&mut self, event: RegionEvent) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let effects = attempt.region.step(event);
        self.region_effects(effects);
    }

    fn region_effects(&mut self, effects: Vec<RegionEffect>) {
        for effect in effects {
            match effect {
                RegionEffect::Free(slot) => self.free(slot),
                RegionEffect::StartSession(duty) => {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.duties.push(duty);
                    }
                }
                RegionEffect::OpenAll => {
                    self.prepare();
                    (self.setup.stop)(Step::R5);
                    self.send(WorkerCommand::Open(self.last_attempt));
                }
                RegionEffect::Release => self.release(),
                RegionEffect::GoBack => {
                    let message = format!(
                        "checkpoint {} was given up in one sink slot; finish going back with the \
                         older checkpoint, or start a new lineage with --fresh",
                        self.manifest.id
                    );
                    self.cancel(After::Fail(failure(ErrorKind::Corrupt, message)));
                }
            }
        }
        let has_duties = self
            .attempt
            .as_ref()
            .is_some_and(|attempt| !attempt.duties.is_empty());
        if has_duties {
            self.prepare();
        }
    }

    /// Ends whatever an older attempt has open in this slot, so that no reader waits for it (R3).
    fn free(&mut self, slot: SlotKey) {
        (self.setup.stop)(Step::R3);
        let plan = self.setup.program.plan();
        let node = plan.sinks().find(|node| *plan.uid(*node) == slot.sink);
        let code = node.and_then(|node| self.setup.program.sink(node).cloned());
        let attempt = self.last_attempt;
        let Some(code) = code else {
            // The sink is not in this job any more; the restore was allowed because nothing of it is pending.
            return self.region(RegionEvent::Freed(slot));
        };
        let context = WriterContext {
            job: self.setup.job.clone(),
            lineage: self.lineage(),
            uid: slot.sink.clone(),
            subtask: SubtaskIndex(slot.slot),
            parallelism: Parallelism(
                self.shape
                    .sinks
                    .get(&slot.sink)
                    .map_or(1, |sink| sink.slots),
            ),
        };
        self.at_rim(async move {
            let mut tries = 1;
            loop {
                let (code, context) = (std::sync::Arc::clone(&code), context.clone());
                let opened = tokio::task::spawn_blocking(move || match code.target(&context) {
                    Ok(Some(mut target)) => {
                        target.open_session().map_err(|error| error_chain(&error))
                    }
                    Ok(None) => Ok(()),
                    Err(error) => Err(error_chain(&error)),
                });
                match opened.await.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(()) => return Done::Freed(attempt, slot),
                    Err(error) => {
                        tries += 1;
                        tracing::warn!(%slot, error, "waiting for the sink");
                        tokio::time::sleep(backoff(tries)).await;
                    }
                }
            }
        });
    }

    fn lineage(&self) -> highwater_types::Lineage {
        self.manifest.lineage
    }

    /// Tells the worker what the attempt is, once, with all duties.
    fn prepare(&mut self) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let Some(settled) = self.keeper.settled() else {
            return;
        };
        if attempt.prepared == Prepared::Yes {
            return;
        }
        attempt.prepared = Prepared::Yes;
        let input = DeployInput {
            program: &self.setup.program,
            shape: &self.shape,
            head: &settled.head,
            manifest: &self.manifest,
            attempt: attempt.id,
            sources: &attempt.sources,
            first_markers: &self.externals.markers,
            duties: std::mem::take(&mut attempt.duties),
        };
        let deployment = Box::new(deployment(input));
        self.send(WorkerCommand::Prepare(deployment));
    }

    /// Lets records flow (R7).
    fn release(&mut self) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.stage = AttemptStage::Running;
        let id = attempt.id;
        (self.setup.stop)(Step::R7);
        self.send(WorkerCommand::Run(id));
        let attempts = self
            .shape
            .tasks
            .keys()
            .map(|task| (task.clone(), id))
            .collect();
        let now = self.now_ms();
        self.discovery_at_ms = now;
        self.restart.running(now);
        let effects = self
            .machine
            .step(now, CheckpointEvent::TasksRunning { attempts });
        self.phase(if self.stopping.is_some() {
            JobPhase::Stopping
        } else {
            JobPhase::Running
        });
        self.perform(effects);
    }

    /// Has the worker end the attempt; `after` says what follows.
    fn cancel(&mut self, after: After) {
        let Some(attempt) = &mut self.attempt else {
            return self.follow(after);
        };
        attempt.after = after;
        if attempt.stage == AttemptStage::Cancelling {
            return;
        }
        attempt.stage = AttemptStage::Cancelling;
        let id = attempt.id;
        let effects = self.machine.step(self.now_ms(), CheckpointEvent::TasksLost);
        self.send(WorkerCommand::Cancel(id));
        self.perform(effects);
    }

    fn follow(&mut self, after: After) {
        match after {
            After::End(outcome) => self.end = Some(Ok(outcome)),
            After::Fail(failure) => self.end = Some(Err(failure)),
            After::Restart => {
                let now = self.now_ms();
                match self.restart.next(now) {
                    Some(delay) => {
                        let at_ms = now + delay.as_millis() as u64;
                        self.restart_at_ms = Some(at_ms);
                        self.phase(JobPhase::Restarting { at_ms });
                    }
                    None => {
                        let failure = self.status.borrow().failure.clone();
                        let message = failure.map_or_else(
                            || "the attempt failed and no restart is left".to_owned(),
                            |report| describe(&report),
                        );
                        self.end = Some(Err(failure_of(&message)));
                    }
                }
            }
        }
    }

    fn retry_or_fail(&mut self, failure: JobFailure) {
        if failure.kind == ErrorKind::Transient {
            self.follow(After::Restart);
        } else {
            self.follow(After::Fail(failure));
        }
    }

    fn note_failure(&self, task: &str, failure: &JobFailure) {
        tracing::error!(task, error = failure.message, "attempt failed");
        let report = FailureReport {
            task: task.to_owned(),
            subtask: SubtaskIndex(0),
            position: None,
            kind: failure.kind,
            message: failure.message.clone(),
        };
        self.status.send_modify(|status| {
            status.restarts += 1;
            status.failure = Some(report);
        });
    }

    // ---- what the worker tells ------------------------------------------------------------------------------------

    fn worker_gone(&mut self) {
        self.end = Some(Err(failure(ErrorKind::Bug, "the worker ended by itself")));
    }

    fn is_current(&self, attempt: AttemptId) -> bool {
        self.attempt.as_ref().is_some_and(|current| {
            current.id == attempt && current.stage != AttemptStage::Cancelling
        })
    }

    fn worker_event(&mut self, event: WorkerEvent) {
        if let WorkerEvent::Cancelled(attempt) = event {
            if self
                .attempt
                .as_ref()
                .is_some_and(|current| current.id == attempt)
                && let Some(ended) = self.attempt.take()
            {
                self.follow(ended.after);
            }
            return;
        }
        if !self.is_current(attempt_of(&event)) {
            return;
        }
        let now = self.now_ms();
        match event {
            WorkerEvent::Opened(_) => {
                let tasks: Vec<_> = self.shape.tasks.keys().cloned().collect();
                (self.setup.stop)(Step::R6);
                tasks
                    .into_iter()
                    .for_each(|task| self.region(RegionEvent::Opened(task)));
            }
            WorkerEvent::Acked {
                task,
                attempt,
                id,
                snapshot,
            } => {
                let event = CheckpointEvent::Acked {
                    task,
                    attempt,
                    id,
                    snapshot,
                };
                self.step(now, event);
            }
            WorkerEvent::Refused {
                task,
                attempt,
                id,
                reason,
            } => {
                self.step(
                    now,
                    CheckpointEvent::Refused {
                        task,
                        attempt,
                        id,
                        reason,
                    },
                );
            }
            WorkerEvent::SlotConfirmed(attempt, slot, id) => {
                let number = id.number;
                self.region(RegionEvent::Confirmed {
                    slot: slot.clone(),
                    number,
                });
                self.step(
                    now,
                    CheckpointEvent::Confirmed {
                        slot,
                        attempt,
                        number,
                    },
                );
            }
            WorkerEvent::SlotVoided(_, slot, _) => self.region(RegionEvent::Void(slot)),
            WorkerEvent::SlotExamined(_, slot, id, found) => {
                tracing::info!(%slot, checkpoint = %id, ?found, "examined");
            }
            WorkerEvent::AskAuthority(attempt, slot) => self.answer_authority(attempt, slot),
            WorkerEvent::RequestCheckpoint(_) => {
                let request = self.new_request(None, BarrierKind::Checkpoint);
                self.step(now, CheckpointEvent::Request(request));
            }
            WorkerEvent::InputEnded(attempt, task) => {
                self.step(now, CheckpointEvent::InputEnded { task, attempt });
            }
            WorkerEvent::Failed(_, report) => self.attempt_failed(*report),
            WorkerEvent::Stop(_, stop) => {
                let stopped = failed(&stop);
                self.cancel(After::Fail(stopped));
            }
            WorkerEvent::Cancelled(_) => {}
        }
    }

    fn attempt_failed(&mut self, report: FailureReport) {
        let message = describe(&report);
        tracing::error!(error = message, "attempt failed");
        let kind = report.kind;
        self.status.send_modify(|status| {
            status.restarts += 1;
            status.failure = Some(report);
        });
        let after = match kind {
            ErrorKind::Transient | ErrorKind::Exhausted | ErrorKind::Bug => After::Restart,
            ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::Fenced => {
                After::Fail(failure(kind, message))
            }
        };
        self.cancel(after);
    }

    /// Answers a slot only after `head` was just read and is of this epoch (S5).
    fn answer_authority(&mut self, attempt: AttemptId, slot: SlotKey) {
        let Some(epoch) = self.keeper.settled().map(|settled| settled.head.epoch) else {
            return;
        };
        let store = self.store.clone();
        self.at_rim(async move {
            let read = store.read_head().await.ok().flatten();
            let word = read.and_then(|found| authority(&found.head, epoch, true));
            Done::Authority(attempt, slot, word)
        });
    }

    // ---- checkpoints ----------------------------------------------------------------------------------------------

    fn step(&mut self, now_ms: u64, event: CheckpointEvent) {
        let effects = self.machine.step(now_ms, event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<CheckpointEffect>) {
        for effect in effects {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: CheckpointEffect) {
        match effect {
            CheckpointEffect::SnapshotEnumerators { id } => self.snapshot_enumerators(id),
            CheckpointEffect::SendBarrier { task, barrier } => {
                (self.setup.stop)(Step::P2);
                // One trigger reaches all sources of the worker; repeated ones for the same barrier change nothing.
                self.trigger(&task, barrier);
            }
            CheckpointEffect::Decline { id } => {
                self.next_manifest = None;
                self.send(WorkerCommand::Declined(self.last_attempt, id));
            }
            CheckpointEffect::WriteManifest { name, bytes, .. } => {
                (self.setup.stop)(Step::P7);
                self.next_manifest = Manifest::decode(&bytes).ok();
                let store = self.store.clone();
                self.at_rim(async move {
                    let written = store.write_manifest(&name, bytes).await;
                    Done::Manifest(name.id(), written)
                });
            }
            CheckpointEffect::WriteHead(change) => self.write_head(&change),
            CheckpointEffect::ContestHead => {
                let nonce = self.nonces.draw();
                let effects = self.keeper.step(HeadWriteEvent::Contest { nonce });
                self.head_effects(effects);
            }
            CheckpointEffect::Completed { id } => self.completed(id),
            CheckpointEffect::OrderCommit { slot, id } => {
                (self.setup.stop)(Step::P9);
                self.send(WorkerCommand::Commit(self.last_attempt, slot, id));
            }
            CheckpointEffect::AllConfirmed { id } => {
                self.status.send_if_modified(|status| {
                    status.checkpoints.is_confirmed = status.checkpoints.completed == Some(id);
                    true
                });
                self.collect_garbage();
            }
            CheckpointEffect::DeleteOrphans { paths } => {
                let store = self.store.clone();
                self.at_rim(async move {
                    if let Err(error) = delete(&store, &paths).await {
                        let error = error_chain(&error);
                        tracing::warn!(error, "orphans are left for the next collection");
                    }
                    Done::Orphans
                });
            }
            CheckpointEffect::Export { id, savepoint } => self.export(id, &savepoint),
            other => self.effect_for_people(other),
        }
    }

    /// Effects that end something or answer somebody.
    fn effect_for_people(&mut self, effect: CheckpointEffect) {
        match effect {
            CheckpointEffect::RequestDone { request, id } => self.answer(request, Ok(id)),
            CheckpointEffect::RequestFailed { request, failure } => {
                self.stopping = None;
                if self
                    .attempt
                    .as_ref()
                    .is_some_and(|held| held.stage == AttemptStage::Running)
                {
                    self.phase(JobPhase::Running);
                }
                self.answer(request, Err(RequestRefused(failure.to_string())));
            }
            CheckpointEffect::Failed { failure, in_a_row } => {
                tracing::warn!(in_a_row, reason = %failure, "checkpoint given up");
                self.status.send_modify(|status| {
                    status.checkpoints.failed_count += 1;
                    status.checkpoints.last_failure = Some(failure.to_string());
                });
            }
            CheckpointEffect::ResumeSources => {
                self.send(WorkerCommand::ResumeSources(self.last_attempt));
            }
            CheckpointEffect::RestartRegion => self.cancel(After::Restart),
            CheckpointEffect::FailJob { in_a_row } => {
                let message = format!(
                    "{in_a_row} checkpoints failed in a row, more than `checkpoint.failures-max` \
                     allows; see the last reasons in the log"
                );
                self.cancel(After::Fail(failure(ErrorKind::Exhausted, message)));
            }
            CheckpointEffect::EndJob(end) => self.cancel(After::End(match end {
                JobEnd::Finished => JobOutcome::Finished,
                JobEnd::Stopped => JobOutcome::Stopped,
            })),
            CheckpointEffect::StepDown => {
                let message = "another coordinator took the job; this one ends and changes nothing";
                self.cancel(After::Fail(failure(ErrorKind::Fenced, message)));
            }
            CheckpointEffect::HeadVanished => {
                let message = "the head object was deleted; restore it from a copy of the store";
                self.cancel(After::Fail(failure(ErrorKind::Corrupt, message)));
            }
            performed => unreachable!("{performed:?} is performed above"),
        }
    }

    fn trigger(
        &mut self,
        task: &highwater_protocol::job::TaskId,
        barrier: highwater_types::CheckpointBarrier,
    ) {
        if self.shape.sources.contains(&task.vertex) {
            self.send(WorkerCommand::Trigger(
                self.last_attempt,
                task.clone(),
                barrier,
            ));
        }
    }

    fn snapshot_enumerators(&mut self, id: CheckpointId) {
        (self.setup.stop)(Step::P1);
        let Some(attempt) = &self.attempt else { return };
        let states = attempt.sources.iter();
        let states = states
            .map(|(uid, (source, _))| (uid.clone(), source.snapshot()))
            .collect();
        self.status
            .send_modify(|status| status.checkpoints.pending = Some(id));
        self.send(WorkerCommand::Expect(self.last_attempt));
        self.step(self.now_ms(), CheckpointEvent::Enumerators { id, states });
    }

    fn write_head(&mut self, change: &HeadChange) {
        (self.setup.stop)(Step::P8);
        let nonce = self.nonces.draw();
        let effects = self.keeper.begin(change, nonce);
        self.head_effects(effects);
    }

    fn head_effects(&mut self, effects: Vec<HeadWriteEffect>) {
        for effect in effects {
            match effect {
                HeadWriteEffect::Decided(outcome) => {
                    let event = CheckpointEvent::HeadDecided(outcome);
                    self.step(self.now_ms(), event);
                }
                effect => {
                    let store = self.store.clone();
                    self.at_rim(async move { Done::Head(store.perform(effect).await) });
                }
            }
        }
    }

    fn completed(&mut self, id: CheckpointId) {
        if let Some(next) = self.next_manifest.take() {
            debug_assert_eq!(
                next.id, id,
                "the completed manifest is the one that was written"
            );
            self.manifest = next;
        }
        self.send(WorkerCommand::Completed(self.last_attempt, id));
        let now = self.now_ms();
        let bytes = self.manifest.files.values().map(|file| file.length).sum();
        self.status.send_modify(|status| {
            let checkpoints = &mut status.checkpoints;
            checkpoints.completed = Some(id);
            checkpoints.completed_at_ms = Some(now);
            checkpoints.completed_count += 1;
            checkpoints.pending = None;
            checkpoints.is_confirmed = false;
            checkpoints.bytes = bytes;
        });
    }

    fn collect_garbage(&mut self) {
        let Some(settled) = self.keeper.settled() else {
            return;
        };
        if self.collecting == Collecting::Yes {
            return;
        }
        (self.setup.stop)(Step::P12);
        self.collecting = Collecting::Yes;
        let retention = self.setup.settings.retention;
        let (gc, first) = Gc::start(&settled.head, retention, self.machine.protected_from());
        let store = self.store.clone();
        self.at_rim(async move { Done::Collected(collect(store, gc, first).await) });
    }

    fn export(&mut self, id: CheckpointId, savepoint: &str) {
        let target = SavepointPaths::parse(&self.setup.settings.savepoints, savepoint);
        let (store, manifest) = (self.store.clone(), self.manifest.clone());
        match target {
            Ok(target) => {
                self.at_rim(
                    async move { Done::Exported(id, export(&store, &manifest, &target).await) },
                )
            }
            Err(error) => {
                tracing::error!(%error, "savepoint name");
                self.step(self.now_ms(), CheckpointEvent::ExportFailed { id });
            }
        }
    }

    // ---- what comes back from the rim ------------------------------------------------------------------------------

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
            Done::Freed(attempt, slot) => {
                if self.is_current(attempt) {
                    self.region(RegionEvent::Freed(slot));
                }
            }
            Done::Discovered(attempt, found) => self.discovered(attempt, found),
            Done::Exported(id, Ok(())) => self.step(now, CheckpointEvent::Exported { id }),
            Done::Exported(id, Err(error)) => {
                tracing::error!(error = error_chain(&error), "savepoint");
                self.step(now, CheckpointEvent::ExportFailed { id });
            }
            Done::Collected(end) => {
                self.collecting = Collecting::No;
                tracing::debug!(?end, "garbage collection");
            }
            Done::Authority(attempt, slot, Some(word)) => {
                if self.is_current(attempt) {
                    self.send(WorkerCommand::Authority(attempt, slot, word));
                }
            }
            // No word: the slot waits and asks again.
            Done::Authority(_, _, None) | Done::Orphans => {}
        }
    }

    // ---- splits ---------------------------------------------------------------------------------------------------

    fn discover_again(&mut self) {
        let now = self.now_ms();
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        if attempt.stage != AttemptStage::Running || now < self.discovery_at_ms {
            return;
        }
        let mut due = Vec::new();
        let mut next = Duration::from_secs(3_600);
        for (uid, (source, _)) in &mut attempt.sources {
            let Some(interval) = source.interval else {
                continue;
            };
            next = next.min(interval);
            if let Some(enumerator) = source.take() {
                due.push((uid.clone(), enumerator));
            }
        }
        let id = attempt.id;
        self.discovery_at_ms = now + next.as_millis() as u64;
        for (uid, enumerator) in due {
            self.at_rim(async move {
                let found = tokio::task::spawn_blocking(move || discover(uid, enumerator)).await;
                found.map_or(Done::Orphans, |found| Done::Discovered(id, found))
            });
        }
    }

    fn discovered(&mut self, attempt: AttemptId, found: Discovered) {
        if !self.is_current(attempt) {
            return;
        }
        let Some(current) = &mut self.attempt else {
            return;
        };
        let uid = found.uid.clone();
        let Some((source, _)) = current.sources.get_mut(&uid) else {
            return;
        };
        let was_complete = source.complete;
        match source.put_back(found) {
            Err(error) => tracing::warn!(source = %uid, error = error_chain(&error), "discovery"),
            Ok(splits) if splits.is_empty() && source.complete == was_complete => {}
            Ok(splits) => {
                let complete = source.complete;
                self.assign(attempt, &uid, splits, complete);
            }
        }
    }

    fn assign(
        &self,
        attempt: AttemptId,
        uid: &highwater_types::OperatorUid,
        splits: Vec<highwater_connectors::Split>,
        complete: bool,
    ) {
        let tasks: Vec<_> = self
            .shape
            .tasks
            .keys()
            .filter(|task| task.vertex == *uid)
            .cloned()
            .collect();
        let mut shares: Vec<Vec<_>> = tasks.iter().map(|_| Vec::new()).collect();
        for split in splits {
            let at = highwater_types::key::hash_bytes(split.id.as_bytes()).0 % tasks.len() as u64;
            tracing::info!(source = %uid, split = %split.id, "new split");
            shares[at as usize].push(split);
        }
        for (to, splits) in tasks.into_iter().zip(shares) {
            if complete || !splits.is_empty() {
                self.send(WorkerCommand::Assign {
                    attempt,
                    to,
                    splits,
                    complete,
                });
            }
        }
    }

    // ---- requests -------------------------------------------------------------------------------------------------

    fn new_request(&mut self, savepoint: Option<String>, kind: BarrierKind) -> SnapshotRequest {
        self.next_request += 1;
        SnapshotRequest {
            request: self.next_request,
            savepoint,
            kind,
        }
    }

    fn request(&mut self, request: JobRequest) {
        let (request, answer) = match request {
            JobRequest::Savepoint { name, answer } => {
                if let Err(error) = SavepointPaths::parse(&self.setup.settings.savepoints, &name) {
                    return reply(answer, Err(RequestRefused(error.to_string())));
                }
                (self.new_request(Some(name), BarrierKind::Savepoint), answer)
            }
            JobRequest::Checkpoint { answer } => {
                (self.new_request(None, BarrierKind::Checkpoint), answer)
            }
            JobRequest::Stop {
                mode,
                savepoint,
                answer,
            } => {
                self.stopping = Some(mode);
                self.phase(JobPhase::Stopping);
                let kind = match mode {
                    StopMode::Suspend => BarrierKind::StopSuspend,
                    StopMode::Drain => BarrierKind::StopDrain,
                };
                (self.new_request(savepoint, kind), answer)
            }
            JobRequest::Cancel => return self.cancel(After::End(JobOutcome::Cancelled)),
        };
        self.answers.insert(request.request, answer);
        self.step(self.now_ms(), CheckpointEvent::Request(request));
    }

    fn answer(&mut self, request: u64, answer: RequestAnswer) {
        if let Some(waiting) = self.answers.remove(&request) {
            reply(waiting, answer);
        }
    }

    // ---- status and end -------------------------------------------------------------------------------------------

    fn phase(&self, phase: JobPhase) {
        tracing::info!(phase = phase.word(), attempt = self.last_attempt.0, "job");
        self.status.send_modify(|status| status.phase = phase);
    }

    fn publish(&self) {
        let head = self.keeper.settled().map(|settled| &settled.head);
        self.status.send_if_modified(|status| {
            let before = (status.epoch, status.attempt, status.lineage);
            if let Some(head) = head {
                status.epoch = head.epoch;
                status.lineage = Some(head.lineage);
            }
            status.attempt = self.last_attempt;
            before != (status.epoch, status.attempt, status.lineage)
        });
    }

    async fn finish(mut self) -> Result<JobOutcome, JobFailure> {
        let end = self.end.take().unwrap_or(Ok(JobOutcome::Cancelled));
        self.phase(match &end {
            Ok(JobOutcome::Finished) => JobPhase::Finished,
            Ok(JobOutcome::Stopped | JobOutcome::Cancelled) => JobPhase::Stopped,
            Err(failure) => JobPhase::Failed {
                reason: failure.message.clone(),
            },
        });
        for (_, waiting) in std::mem::take(&mut self.answers) {
            reply(waiting, Err(RequestRefused("the job has ended".to_owned())));
        }
        self.rim.shutdown().await;
        let worker = self.setup.worker;
        let ran_ms = self.setup.clock.elapsed().as_millis() as u64 - self.started_ms;
        tracing::debug!(ran_ms, "coordinator ended");
        if let Err(error) = tokio::task::spawn_blocking(move || worker.shut_down()).await {
            tracing::error!(%error, "the worker did not end");
        }
        end
    }
}

fn reply(waiting: oneshot::Sender<RequestAnswer>, answer: RequestAnswer) {
    if waiting.send(answer).is_err() {
        tracing::debug!("nobody waits for the answer any more");
    }
}

/// A failure in one line.
fn describe(report: &FailureReport) -> String {
    let FailureReport {
        task,
        subtask,
        position,
        message,
        ..
    } = report;
    match position {
        Some(position) => format!("{task} (subtask {subtask}, {position}): {message}"),
        None => format!("{task} (subtask {subtask}): {message}"),
    }
}

fn failure_of(message: &str) -> JobFailure {
    failure(ErrorKind::Exhausted, message)
}

fn attempt_of(event: &WorkerEvent) -> AttemptId {
    match event {
        WorkerEvent::Opened(attempt)
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
        | WorkerEvent::Cancelled(attempt) => *attempt,
    }
}
