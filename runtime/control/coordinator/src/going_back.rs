//! Performs *Going back*: the newest checkpoint cannot be used, the job goes on from the one before it.
//!
//! Called by the coordinator while no attempt runs, at a start and between two attempts. Sequential, since nothing else
//! may happen: `head` is read first, what takes the place of the checkpoint is verified before anything is given up, then
//! the machine says who examines, when `head` makes the choice, who writes a void marker, and when `head` takes the older
//! state. A failure on the way leaves everything as it is, or says in `head` what a later going back finishes.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::head::{Head, ManifestRef};
use highwater_protocol::head_write::{HeadKeeper, authority};
use highwater_protocol::job::{JobShape, TaskId};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::nonce::{NonceStream, TrySource};
use highwater_protocol::paths::JobPaths;
use highwater_protocol::recovery::{
    Fault, GoingBack, GoingBackEffect, GoingBackEvent, GoingBackPlan, SlotDuty, return_of,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::{GIVEN_UP_STEP, NamedStop, SlotKey};
use highwater_types::{AttemptId, Classified, ErrorKind};
use highwater_worker::files::JobFiles;
use highwater_worker::slot::error_chain;
use highwater_worker::{Deployment, History, Standing, WorkerCommand, WorkerEvent};
use tokio::sync::mpsc;

use crate::attempt::After;
use crate::deploy::{LogCheck, logs, markers};
use crate::housekeeping::tell_dropped;
use crate::request::{ENDED_EARLY, JobRequest, RequestRefused};
use crate::restart::RestartDelay;
use crate::savepoint::Savepoint;
use crate::setup::{CoordinatorSetup, JobFailure, JobOutcome};
use crate::start::{Externals, decide, failed, failure, may_restore};
use crate::status::{WaitBoard, describe};
use crate::store::JobStore;

/// Why nothing else is done for a job on its way back.
pub(crate) const GOING_BACK: &str = "the job is going back to an older checkpoint";

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
    /// The checkpoint in `head` is being given up, and a savepoint takes its place.
    Replace(&'a Savepoint),
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
    /// An attempt does not end: the job ends, and nobody waits for the threads of its worker.
    Stuck(JobFailure),
}

/// Why one try of a detour ended early.
pub(crate) enum Broken {
    /// The outside wants the job to end.
    Cancelled,
    /// It failed.
    Failed(JobFailure),
    /// Its attempt does not end: nothing else may be begun beside it.
    Stuck(JobFailure),
}

impl From<JobFailure> for Broken {
    fn from(failure: JobFailure) -> Self {
        Self::Failed(failure)
    }
}

impl Broken {
    fn into_end(self) -> Detoured {
        match self {
            Self::Cancelled => Detoured::Ended(Ok(JobOutcome::Cancelled)),
            Self::Failed(failure) => Detoured::Ended(Err(failure)),
            Self::Stuck(failure) => Detoured::Stuck(failure),
        }
    }
}

/// What a try came to, and the end of its attempt: one that does not end outweighs everything that was tried, and a stop
/// that was heard at its end outweighs a failure that would be tried again.
pub(crate) fn both<T>(tried: Result<T, Broken>, ended: Result<(), Broken>) -> Result<T, Broken> {
    match (tried, ended) {
        (_, Err(stuck @ Broken::Stuck(_))) => Err(stuck),
        (Err(Broken::Failed(failure)), Err(Broken::Cancelled))
            if After::of(failure.clone()) == After::Restart =>
        {
            Err(Broken::Cancelled)
        }
        (Ok(tried), ended) => ended.map(|()| tried),
        (Err(broken), _) => Err(broken),
    }
}

fn slot_and_task(duty: &SlotDuty) -> (SlotKey, TaskId) {
    (duty.slot.clone(), duty.task.clone())
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
    /// Told what is waited for.
    pub waits: &'a WaitBoard,
    /// The slots that were asked for something and have not answered, with the task that performs it.
    pub unanswered: BTreeMap<SlotKey, TaskId>,
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
                Work::Replace(savepoint) => match &damage.manifest {
                    Some(current) => self.replace(savepoint, current, &mut tries).await,
                    None => self.give_up(damage, &mut tries).await,
                },
                Work::End => match &damage.manifest {
                    Some(current) => self.end_drained(current).await,
                    None => self.give_up(damage, &mut tries).await,
                },
            };
            let failure = match ended {
                Ok(detoured @ Detoured::Back(_)) => {
                    if let Some(left) = &damage.manifest {
                        let below = &self.setup.settings.savepoints;
                        tell_dropped(self.store, below, left).await;
                    }
                    return (detoured, tries);
                }
                Ok(detoured) => return (detoured, tries),
                Err(Broken::Failed(failure)) => failure,
                Err(broken) => return (broken.into_end(), tries),
            };
            tracing::error!(error = failure.message, "going to an older state failed");
            let now_ms = self.setup.clock.elapsed().as_millis() as u64;
            match (After::of(failure.clone()), restart.next(now_ms)) {
                (After::Restart, Some(delay)) => {
                    if let Err(broken) = self.rest(delay).await {
                        return (broken.into_end(), tries);
                    }
                }
                _ => return (Detoured::Ended(Err(failure)), tries),
            }
        }
    }

    /// Waits before the next try, and hears what is asked meanwhile.
    async fn rest(&mut self, delay: Duration) -> Result<(), Broken> {
        let mut over = std::pin::pin!(tokio::time::sleep(delay));
        loop {
            // Both arms are cancel-safe: the deadline is kept, a channel that was not taken from loses nothing.
            tokio::select! {
                () = &mut over => return Ok(()),
                Some(request) = self.requests.recv() => refuse(request, GOING_BACK)?,
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
        let target = self.target(&head, damage).await;
        let target = target.map_err(|broken| match broken {
            Broken::Failed(mut failure)
                if head.giving_up.is_some()
                    && matches!(failure.kind, ErrorKind::Corrupt | ErrorKind::Invalid) =>
            {
                let number = head.number;
                let message = failure.message;
                failure.message = format!("{message}; as for checkpoint {number}, {GIVEN_UP_STEP}");
                Broken::Failed(failure)
            }
            broken => broken,
        })?;
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
        match attempt {
            Some(attempt) => both(ended, self.cancel(attempt).await),
            None => ended,
        }
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
        let mut performers = BTreeMap::new();
        loop {
            let mut duties = Vec::new();
            while let Some(effect) = effects.pop_front() {
                match effect {
                    GoingBackEffect::Examine(duty) => duties.push(duty),
                    GoingBackEffect::MakeChoice(change) => {
                        (self.setup.stop)(Step::P8);
                        let first = self.keeper.begin(&change, self.nonces.draw());
                        let decided = decide(self.store, self.keeper, first, self.waits);
                        hearing(self.requests, GOING_BACK, decided).await??;
                        tracing::warn!(
                            number = from.0.number,
                            "none of its output is visible: given up"
                        );
                        effects.extend(machine.step(&GoingBackEvent::ChoiceDurable));
                    }
                    GoingBackEffect::WriteVoid { slot, id } => {
                        (self.setup.stop)(Step::P10);
                        let held = attempt.expect("a slot was examined in an attempt");
                        let task = performers.get(&slot).cloned();
                        self.unanswered
                            .extend(task.map(|task| (slot.clone(), task)));
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
                        let decided = decide(self.store, self.keeper, first, self.waits);
                        hearing(self.requests, GOING_BACK, decided).await??;
                        let manifest = rebased.expect("the manifest is written before head");
                        tracing::warn!(number = manifest.id.number, "went back");
                        return Ok(Detoured::Back(Box::new(manifest)));
                    }
                    GoingBackEffect::Recover => return Ok(Detoured::Recover),
                    GoingBackEffect::Stop(stop) => return Err(self.stopped(&stop).await),
                }
            }
            if !duties.is_empty() {
                performers.extend(duties.iter().map(slot_and_task));
                *attempt = Some(self.open(duties, from));
            }
            let held = attempt.expect("a machine that waits has asked for sessions");
            effects.extend(machine.step(&self.next(held).await?));
        }
    }

    /// What takes the place of the checkpoint, whole to the last byte and restorable by this job. Checked before anything
    /// is given up: a choice between two damaged checkpoints is left to a person.
    async fn target(
        &mut self,
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
            shape: self.shape.fingerprint(),
            parallelism: self.setup.program.parallelisms(),
            lineage: head.lineage,
            restored: head.checkpoint(),
            history: History::Restored,
            unmatched: self.setup.settings.restore.unmatched,
            states: BTreeMap::new(),
            splits: BTreeMap::new(),
            complete: Vec::new(),
            markers: markers(self.shape, state, first),
            logs: Vec::new(),
            standing: Standing::Alone,
        };
        (self.setup.stop)(Step::R4);
        self.send(WorkerCommand::Prepare(Box::new(deployment)));
        self.order(attempt, duties);
        attempt
    }

    /// Has the worker perform duties of an attempt.
    pub(crate) fn order(&mut self, attempt: AttemptId, duties: Vec<SlotDuty>) {
        self.unanswered = duties.iter().map(slot_and_task).collect();
        self.send(WorkerCommand::Confirm(attempt, duties));
    }

    /// The next thing that the sessions tell the machine.
    async fn next(&mut self, attempt: AttemptId) -> Result<GoingBackEvent, Broken> {
        loop {
            match self.event().await? {
                WorkerEvent::SlotExamined(of, slot, _, found) if of == attempt => {
                    self.unanswered.remove(&slot);
                    tracing::info!(%slot, ?found, "examined");
                    return Ok(GoingBackEvent::Examined { slot, found });
                }
                WorkerEvent::SlotVoided(of, slot, _) if of == attempt => {
                    self.unanswered.remove(&slot);
                    return Ok(GoingBackEvent::Voided(slot));
                }
                other => self.other_news(other, attempt).await?,
            }
        }
    }

    /// News that every detour hears: questions are answered, failures end it, everything else is late or of no interest.
    pub(crate) async fn other_news(
        &mut self,
        event: WorkerEvent,
        attempt: AttemptId,
    ) -> Result<(), Broken> {
        match event {
            WorkerEvent::AskAuthority(of, slot) => self.answer(of, attempt, slot).await,
            WorkerEvent::Stop(of, stop) if of == attempt => Err(self.stopped(&stop).await),
            WorkerEvent::Failed(of, report) if of == attempt => {
                Err(failure(report.kind, describe(&report)).into())
            }
            WorkerEvent::WaitsForSlots(of, what) if of == attempt => {
                self.waits.waits("slots", &what, 1);
                Ok(())
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
                Some(request) = self.requests.recv() => refuse(request, GOING_BACK)?,
            }
        }
    }

    /// Answers a slot whose session was lost (S5).
    async fn answer(
        &mut self,
        of: AttemptId,
        attempt: AttemptId,
        slot: SlotKey,
    ) -> Result<(), Broken> {
        let head = self.still_leading().await?;
        if let Some(word) = authority(&head, head.epoch, of == attempt) {
            self.send(WorkerCommand::Authority(of, slot, word));
        }
        Ok(())
    }

    /// Has the worker end the attempt. A stop that is heard meanwhile counts once nothing of the attempt runs any more.
    pub(crate) async fn cancel(&mut self, attempt: AttemptId) -> Result<(), Broken> {
        self.send(WorkerCommand::Cancel(attempt));
        let limit = self.setup.settings.cancellation_timeout;
        let mut waits_for = "the worker".to_owned();
        let ended = tokio::time::timeout(limit, self.ended(attempt, &mut waits_for)).await;
        ended.unwrap_or_else(|_| {
            let slots = self.unanswered.iter();
            let slots: Vec<_> = slots
                .map(|(slot, task)| format!("sink slot {slot} in task {task}"))
                .collect();
            let silent = if slots.is_empty() {
                String::new()
            } else {
                format!(" ({} did not answer)", slots.join(", "))
            };
            let message = format!(
                "attempt {} did not end within {} ms while the job was going to an older state; it waits for \
                 {waits_for}{silent}; state is kept, start again: the next run goes on from there",
                attempt.0,
                limit.as_millis(),
            );
            Err(Broken::Stuck(failure(ErrorKind::Bug, message)))
        })
    }

    async fn ended(&mut self, attempt: AttemptId, waits_for: &mut String) -> Result<(), Broken> {
        let mut heard = Ok(());
        loop {
            match self.event().await {
                Ok(WorkerEvent::Cancelled(of)) if of == attempt => {
                    self.unanswered.clear();
                    return heard;
                }
                Ok(WorkerEvent::Cancelling(of, what)) if of == attempt => *waits_for = what,
                Ok(_) => {}
                Err(Broken::Cancelled) => heard = Err(Broken::Cancelled),
                Err(broken) => return Err(broken),
            }
        }
    }

    /// A stop counts only if this leader still owns the epoch.
    async fn stopped(&mut self, stop: &NamedStop) -> Broken {
        match self.still_leading().await {
            Ok(_) => Broken::Failed(failed(stop)),
            Err(deposed) => deposed,
        }
    }

    /// `head`, just read, if it is still of this leader.
    pub(crate) async fn still_leading(&mut self) -> Result<Head, Broken> {
        let settled = self.keeper.settled();
        let own = settled.map(|settled| settled.head.clone());
        let own = own.ok_or_else(|| failure(ErrorKind::Bug, "head is not settled"))?;
        let asserted = self.store.assert_leading(own.epoch, Some(self.waits));
        hearing(self.requests, GOING_BACK, asserted).await??;
        Ok(own)
    }

    pub(crate) fn send(&self, command: WorkerCommand) {
        self.setup.worker.send(command);
    }
}

/// Waits for what the store does, and hears what is asked meanwhile: a stop leaves it where it stands, as if the process had
/// been killed there. Everything else is refused, saying `doing`.
pub(crate) async fn hearing<T>(
    requests: &mut mpsc::Receiver<JobRequest>,
    doing: &str,
    work: impl Future<Output = T>,
) -> Result<T, Broken> {
    let mut work = pin!(work);
    loop {
        // Both arms are cancel-safe: the work goes on where it is, a channel that was not taken from loses nothing.
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            Some(request) = requests.recv() => refuse(request, doing)?,
        }
    }
}

/// Refuses what nobody can do now.
fn refuse(request: JobRequest, reason: &str) -> Result<(), Broken> {
    if request.ends_job() {
        request.refuse(RequestRefused::Ended(ENDED_EARLY));
        return Err(Broken::Cancelled);
    }
    request.refuse(RequestRefused::NotRunning(reason.to_owned()));
    Ok(())
}

/// Logs what makes a checkpoint unusable.
pub fn tell_damage(what: &str, error: &dyn std::error::Error) {
    tracing::error!(error = error_chain(error), "{what} cannot be used");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed_as(kind: ErrorKind) -> Result<(), Broken> {
        Err(Broken::Failed(failure(kind, "it failed")))
    }

    #[test]
    fn a_stop_at_the_end_of_a_failed_try_ends_the_job_and_hides_no_stop_by_name() {
        let heard = || Err(Broken::Cancelled);
        for tried in [Ok(()), failed_as(ErrorKind::Transient)] {
            assert!(matches!(both(tried, heard()), Err(Broken::Cancelled)));
        }
        let named = both(failed_as(ErrorKind::Corrupt), heard());
        assert!(matches!(named, Err(Broken::Failed(_))));
    }

    #[test]
    fn an_attempt_that_does_not_end_outweighs_what_was_tried() {
        for tried in [
            Ok(()),
            failed_as(ErrorKind::Transient),
            Err(Broken::Cancelled),
        ] {
            let stuck = Err(Broken::Stuck(failure(ErrorKind::Bug, "it stands")));
            assert!(matches!(both(tried, stuck), Err(Broken::Stuck(_))));
        }
    }
}
