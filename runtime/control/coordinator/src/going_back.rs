//! Performs *Going back*: the newest checkpoint cannot be used, the job goes on from the one before it.
//!
//! Called by the coordinator while no attempt runs, at a start and between two attempts. Sequential, since nothing else
//! may happen: `head` is read first, what takes the place of the checkpoint is verified before anything is given up, then
//! the machine says who examines, when `head` makes the choice, who writes a void marker, and when `head` takes the older
//! state. A failure on the way leaves everything as it is, or says in `head` what a later going back finishes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use highwater_protocol::head::{Head, ManifestRef};
use highwater_protocol::head_write::{HeadKeeper, authority};
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::nonce::{NonceStream, TrySource};
use highwater_protocol::paths::JobPaths;
use highwater_protocol::recovery::{
    Fault, GoingBack, GoingBackEffect, GoingBackEvent, GoingBackPlan, SlotDuty, return_of,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{AttemptId, Classified, ErrorKind};
use highwater_worker::files::JobFiles;
use highwater_worker::slot::error_chain;
use highwater_worker::{Deployment, History, WorkerCommand, WorkerEvent};
use tokio::sync::mpsc;

use crate::attempt::After;
use crate::deploy::{LogCheck, logs, markers};
use crate::request::{ENDED_EARLY, JobRequest, RequestRefused};
use crate::restart::RestartDelay;
use crate::savepoint::Savepoint;
use crate::setup::{CoordinatorSetup, JobFailure, JobOutcome};
use crate::start::{Externals, decide, failed, failure, may_restore};
use crate::status::describe;
use crate::store::JobStore;

/// What may not be gone on from.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Why.
    pub fault: Fault,
    /// The manifest in `head`; `None` = it cannot be read.
    pub manifest: Option<Manifest>,
}

/// What is to be done before an attempt may run.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// The checkpoint in `head` is given up.
    GoBack,
    /// A savepoint is taken in place of the checkpoint in `head`.
    Take(&'a Savepoint),
    /// The checkpoint in `head` was drained: its output is confirmed, then the job ends.
    End,
}

/// How a detour ended.
#[derive(Debug)]
pub enum Detoured {
    /// The older state is in `head`, under this manifest.
    Back(Box<Manifest>),
    /// Output is visible and only a log is damaged: the job recovers as always, without verifying logs.
    Recover,
    /// A void marker was met where output was to be confirmed: the checkpoint is to be given up first.
    Void,
    /// A log of what is pending is damaged, found before anything was published: the checkpoint is given up first, if
    /// none of its output is visible.
    LogDamaged,
    /// The job ends.
    Ended(Result<JobOutcome, JobFailure>),
}

/// Why one try of a detour ended early.
pub(crate) enum Broken {
    /// The outside wants the job to end.
    Cancelled,
    /// It failed.
    Failed(JobFailure),
}

impl From<JobFailure> for Broken {
    fn from(failure: JobFailure) -> Self {
        Self::Failed(failure)
    }
}

/// What a detour works with: the leader's hold on the job, while nothing else uses it.
pub struct Detour<'a> {
    /// The job and its worker.
    pub setup: &'a CoordinatorSetup,
    /// Its store.
    pub store: &'a JobStore,
    /// Its shape.
    pub shape: &'a JobShape,
    /// The outside of its sinks.
    pub externals: &'a Externals,
    /// Whether logs are verified before anything is published.
    pub logs: LogCheck,
    /// The hold on `head`, which is settled.
    pub keeper: &'a mut HeadKeeper,
    /// Nonces of the leader.
    pub nonces: &'a mut NonceStream,
    /// The last attempt of the leader.
    pub last_attempt: &'a mut AttemptId,
    /// What the worker tells.
    pub events: &'a mut mpsc::Receiver<WorkerEvent>,
    /// What the outside asks.
    pub requests: &'a mut mpsc::Receiver<JobRequest>,
}

impl Detour<'_> {
    /// Does what is to be done before an attempt may run; tries again as the restart strategy says. The tries come back
    /// with the end, so that no number of this leadership is used twice.
    pub async fn run(
        &mut self,
        work: Work<'_>,
        damage: &Damage,
        mut tries: TrySource,
    ) -> (Detoured, TrySource) {
        let mut restart = RestartDelay::new(self.setup.settings.restart);
        loop {
            let ended = match work {
                Work::GoBack => self.give_up(damage, &mut tries).await,
                Work::Take(savepoint) => match &damage.manifest {
                    Some(current) => self.take(savepoint, current, &mut tries).await,
                    None => self.give_up(damage, &mut tries).await,
                },
                Work::End => match &damage.manifest {
                    Some(current) => self.end_drained(current).await,
                    None => self.give_up(damage, &mut tries).await,
                },
            };
            let failure = match ended {
                Ok(detoured) => return (detoured, tries),
                Err(Broken::Cancelled) => {
                    return (Detoured::Ended(Ok(JobOutcome::Cancelled)), tries);
                }
                Err(Broken::Failed(failure)) => failure,
            };
            tracing::error!(error = failure.message, "going to an older state failed");
            let now_ms = self.setup.clock.elapsed().as_millis() as u64;
            match (After::of(failure.clone()), restart.next(now_ms)) {
                (After::Restart, Some(delay)) => tokio::time::sleep(delay).await,
                _ => return (Detoured::Ended(Err(failure)), tries),
            }
        }
    }

    async fn give_up(
        &mut self,
        damage: &Damage,
        tries: &mut TrySource,
    ) -> Result<Detoured, Broken> {
        // A deposed leader misses files that its successor has collected: that is no damage.
        let head = self.still_leading().await?;
        let target = self.target(&head, damage).await?;
        tracing::warn!(
            given_up = %head.checkpoint(),
            to = %target.1.id,
            "the newest checkpoint cannot be used: going back to the one before it"
        );
        let (before, state) = (head.clone(), target.1.clone());
        let plan = GoingBackPlan {
            head,
            target,
            given_up: damage.manifest.clone(),
            fault: damage.fault,
        };
        let (mut machine, effects) = GoingBack::forced(plan, self.shape, tries.clone());
        let (ended, attempt) = self.drive(&mut machine, effects, (&before, &state)).await;
        *tries = machine.into_tries();
        let cancelled = match attempt {
            Some(attempt) => self.cancel(attempt).await,
            None => Ok(()),
        };
        let detoured = ended?;
        cancelled?;
        Ok(detoured)
    }

    /// Performs what the machine asks for, to its end. Gives back the attempt that holds its sessions, if there is one.
    pub(crate) async fn drive(
        &mut self,
        machine: &mut GoingBack,
        first: Vec<GoingBackEffect>,
        from: (&Head, &Manifest),
    ) -> (Result<Detoured, Broken>, Option<AttemptId>) {
        let mut attempt = None;
        let ended = self.perform(machine, first, from, &mut attempt).await;
        (ended, attempt)
    }

    async fn perform(
        &mut self,
        machine: &mut GoingBack,
        first: Vec<GoingBackEffect>,
        from: (&Head, &Manifest),
        attempt: &mut Option<AttemptId>,
    ) -> Result<Detoured, Broken> {
        let mut effects = VecDeque::from(first);
        let mut rebased = None;
        loop {
            let mut duties = Vec::new();
            while let Some(effect) = effects.pop_front() {
                match effect {
                    GoingBackEffect::Examine(duty) => duties.push(duty),
                    GoingBackEffect::MakeChoice(change) => {
                        (self.setup.stop)(Step::P8);
                        let first = self.keeper.begin(&change, self.nonces.draw());
                        decide(self.store, self.keeper, first).await?;
                        tracing::warn!(
                            number = from.0.number,
                            "none of its output is visible: given up"
                        );
                        effects.extend(machine.step(&GoingBackEvent::ChoiceDurable));
                    }
                    GoingBackEffect::WriteVoid { slot, id } => {
                        (self.setup.stop)(Step::P10);
                        let held = attempt.expect("a slot was examined in an attempt");
                        self.send(WorkerCommand::WriteVoid(held, slot, id));
                    }
                    GoingBackEffect::WriteManifest { name, bytes, .. } => {
                        (self.setup.stop)(Step::P7);
                        let manifest = Manifest::decode(&bytes);
                        rebased = Some(manifest.map_err(|error| failed(&error))?);
                        let written = self.store.write_manifest(&name, bytes).await;
                        written.map_err(|error| failed(&error))?;
                        effects.extend(machine.step(&GoingBackEvent::ManifestWritten(name)));
                    }
                    GoingBackEffect::WriteHead(change) => {
                        (self.setup.stop)(Step::P8);
                        let first = self.keeper.begin(&change, self.nonces.draw());
                        decide(self.store, self.keeper, first).await?;
                        let manifest = rebased.expect("the manifest is written before head");
                        tracing::warn!(number = manifest.id.number, "went back");
                        return Ok(Detoured::Back(Box::new(manifest)));
                    }
                    GoingBackEffect::Recover => return Ok(Detoured::Recover),
                    GoingBackEffect::Stop(stop) => return Err(self.stopped(&stop).await),
                }
            }
            if !duties.is_empty() {
                *attempt = Some(self.open(duties, from));
            }
            let held = attempt.expect("a machine that waits has asked for sessions");
            effects.extend(machine.step(&self.next(held).await?));
        }
    }

    /// What takes the place of the checkpoint, whole to the last byte and restorable by this job. Checked before anything
    /// is given up: a choice between two damaged checkpoints is left to a person.
    async fn target(
        &self,
        head: &Head,
        damage: &Damage,
    ) -> Result<(ManifestRef, Manifest), Broken> {
        let damaged = NamedStop::StateDamaged {
            number: head.number,
        };
        let Some(reference) = return_of(head, damage.manifest.as_ref()) else {
            return Err(self.stopped(&damaged).await);
        };
        let found = match self.store.manifest(&reference).await {
            Ok(manifest) => self.verify(&manifest).await.map(|()| manifest),
            Err(error) => Err(failed(&error)),
        };
        match found {
            Ok(manifest) => {
                let number = manifest.id.number;
                may_restore(&manifest, number, self.shape, &self.setup.settings.restore)?;
                // Its positions may have expired: the newest checkpoint is kept then, its file may be restored.
                self.open_sources(&manifest).await?;
                Ok((reference, manifest))
            }
            Err(error) if error.kind == ErrorKind::Corrupt => {
                tracing::error!(
                    error = error.message,
                    "the checkpoint before it cannot be used either"
                );
                Err(self.stopped(&damaged).await)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn verify(&self, manifest: &Manifest) -> Result<(), JobFailure> {
        let paths = JobPaths::new(self.setup.job.clone());
        let files = JobFiles::new(Arc::clone(&self.setup.storage), paths);
        for (path, entry) in &manifest.files {
            let whole = files.fetch(path, *entry).await;
            whole.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Whether every log of what is pending can be read, or is not to be looked at.
    pub(crate) async fn logs_are_whole(&self, manifest: &Manifest) -> Result<bool, Broken> {
        if self.logs == LogCheck::Skip {
            return Ok(true);
        }
        let paths = JobPaths::new(self.setup.job.clone());
        let files = JobFiles::new(Arc::clone(&self.setup.storage), paths);
        for (slot, part) in logs(manifest) {
            match files.fetch(&part.path, part.file).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tell_damage(&format!("the log of sink slot {slot}"), &error);
                    return Ok(false);
                }
                Err(error) => return Err(failed(&error).into()),
            }
        }
        Ok(true)
    }

    /// Has the worker open sessions for the duties, in an attempt in which nothing else happens.
    pub(crate) fn open(
        &mut self,
        duties: Vec<SlotDuty>,
        (head, state): (&Head, &Manifest),
    ) -> AttemptId {
        *self.last_attempt = self.last_attempt.next();
        let (attempt, first) = (*self.last_attempt, &self.externals.markers);
        let deployment = Deployment {
            epoch: head.epoch,
            attempt,
            lineage: head.lineage,
            restored: head.checkpoint(),
            history: History::Restored,
            states: BTreeMap::new(),
            splits: BTreeMap::new(),
            complete: Vec::new(),
            markers: markers(self.shape, state, first),
            logs: Vec::new(),
        };
        (self.setup.stop)(Step::R4);
        self.send(WorkerCommand::Prepare(Box::new(deployment)));
        self.send(WorkerCommand::Confirm(attempt, duties));
        attempt
    }

    /// The next thing that the sessions tell the machine.
    async fn next(&mut self, attempt: AttemptId) -> Result<GoingBackEvent, Broken> {
        loop {
            match self.event().await? {
                WorkerEvent::SlotExamined(of, slot, _, found) if of == attempt => {
                    tracing::info!(%slot, ?found, "examined");
                    return Ok(GoingBackEvent::Examined { slot, found });
                }
                WorkerEvent::SlotVoided(of, slot, _) if of == attempt => {
                    return Ok(GoingBackEvent::Voided(slot));
                }
                other => self.other_news(other, attempt).await?,
            }
        }
    }

    /// News that every detour hears: questions are answered, failures end it, everything else is late or of no interest.
    pub(crate) async fn other_news(
        &self,
        event: WorkerEvent,
        attempt: AttemptId,
    ) -> Result<(), Broken> {
        match event {
            WorkerEvent::AskAuthority(of, slot) => self.answer(of, attempt, slot).await,
            WorkerEvent::Stop(of, stop) if of == attempt => Err(self.stopped(&stop).await),
            WorkerEvent::Failed(of, report) if of == attempt => {
                Err(failure(report.kind, describe(&report)).into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn event(&mut self) -> Result<WorkerEvent, Broken> {
        loop {
            // Both arms are cancel-safe: a channel that was not taken from loses nothing.
            tokio::select! {
                event = self.events.recv() => {
                    let gone = || failure(ErrorKind::Bug, "the worker ended by itself");
                    return Ok(event.ok_or_else(gone)?);
                }
                Some(request) = self.requests.recv() => refuse(request)?,
            }
        }
    }

    /// Answers a slot whose session was lost (S5).
    async fn answer(&self, of: AttemptId, attempt: AttemptId, slot: SlotKey) -> Result<(), Broken> {
        let head = self.still_leading().await?;
        if let Some(word) = authority(&head, head.epoch, of == attempt) {
            self.send(WorkerCommand::Authority(of, slot, word));
        }
        Ok(())
    }

    pub(crate) async fn cancel(&mut self, attempt: AttemptId) -> Result<(), Broken> {
        self.send(WorkerCommand::Cancel(attempt));
        loop {
            if matches!(self.event().await?, WorkerEvent::Cancelled(of) if of == attempt) {
                return Ok(());
            }
        }
    }

    /// A stop counts only if this leader still owns the epoch.
    async fn stopped(&self, stop: &NamedStop) -> Broken {
        match self.still_leading().await {
            Ok(_) => Broken::Failed(failed(stop)),
            Err(deposed) => deposed,
        }
    }

    /// `head`, just read, if it is still of this leader.
    pub(crate) async fn still_leading(&self) -> Result<Head, Broken> {
        let settled = self.keeper.settled();
        let own = settled.map(|settled| settled.head.clone());
        let own = own.ok_or_else(|| failure(ErrorKind::Bug, "head is not settled"))?;
        self.store.assert_leading(own.epoch).await?;
        Ok(own)
    }

    pub(crate) fn send(&self, command: WorkerCommand) {
        self.setup.worker.send(command);
    }
}

/// Refuses what nobody can do now.
fn refuse(request: JobRequest) -> Result<(), Broken> {
    let answer = match request {
        JobRequest::Cancel => return Err(Broken::Cancelled),
        JobRequest::Stop { answer, .. } => {
            crate::request::reply(answer, Err(RequestRefused::Ended(ENDED_EARLY)));
            return Err(Broken::Cancelled);
        }
        JobRequest::Savepoint { answer, .. } | JobRequest::Checkpoint { answer } => answer,
    };
    let reason = "the job is going back to an older checkpoint".to_owned();
    crate::request::reply(answer, Err(RequestRefused::NotRunning(reason)));
    Ok(())
}

/// Logs what makes a checkpoint unusable.
pub fn tell_damage(what: &str, error: &dyn std::error::Error) {
    tracing::error!(error = error_chain(error), "{what} cannot be used");
}
