//! A trial restore: the worker restores and opens a state without a record flowing, and lets go of it again.
//!
//! Called by the start of a leader before `head` names a state that no operator of this job has opened yet. It takes the
//! way of every restore, so whatever an operator keeps, keyed or in lists, and whatever it can migrate, is judged by the
//! operator itself. Where a lineage begins nothing is pending, and the sessions of its sinks are of a lineage that
//! nobody knows yet; where a job goes back, what `head` has pending is confirmed on the way, or is being given up.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use highwater_protocol::head::{Head, HeadChange, ManifestRef};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::ManifestName;
use highwater_protocol::recovery::{RegionEffect, RegionEvent, RegionRecovery, SlotDuty};
use highwater_protocol::steps::Step;
use highwater_types::{AttemptId, ErrorKind};
use highwater_worker::slot::error_chain;
use highwater_worker::{Deployment, FailureReport, StopHook, WorkerCommand, WorkerEvent};
use tokio::sync::mpsc;

use crate::deploy::{DeployInput, LogCheck, deployment};
use crate::going_back::{Broken, Detour, both};
use crate::request::until_ended;
use crate::setup::JobFailure;
use crate::start::{failed, failure};
use crate::status::describe;
use crate::workers::Workers;

/// The worker while nothing runs.
pub struct Stage<'a> {
    /// Opens the state, on its slots.
    worker: &'a Workers,
    /// What it tells.
    events: &'a mut mpsc::Receiver<WorkerEvent>,
    /// How long the end of an attempt may take.
    limit: Duration,
    /// The attempt whose end the worker has not told yet.
    held: Option<AttemptId>,
}

impl<'a> Stage<'a> {
    /// A worker that holds nothing; an attempt ends within `limit` or is given up on.
    pub const fn new(
        worker: &'a Workers,
        events: &'a mut mpsc::Receiver<WorkerEvent>,
        limit: Duration,
    ) -> Self {
        Self {
            worker,
            events,
            limit,
            held: None,
        }
    }

    /// Opens the state of a deployment.
    ///
    /// # Errors
    /// With the task, what it has against the state, and the next step; `Stuck` when user code does not return.
    pub(crate) async fn restore(
        &mut self,
        deployment: Deployment,
        stop: &StopHook,
    ) -> Result<(), Broken> {
        let attempt = deployment.attempt;
        stop(Step::R5);
        self.held = Some(attempt);
        self.worker
            .send(WorkerCommand::Prepare(Box::new(deployment)));
        let opened = self.opened(attempt, stop).await;
        both(opened.map_err(Broken::from), self.clear().await)
    }

    /// Has the worker let go of what it still holds, also after whoever opened it was stopped on the way.
    ///
    /// # Errors
    /// `Stuck` when it does not within the limit.
    pub(crate) async fn clear(&mut self) -> Result<(), Broken> {
        let Some(attempt) = self.held else {
            return Ok(());
        };
        self.worker.send(WorkerCommand::Cancel(attempt));
        let (limit, mut waits_for) = (self.limit, "the worker".to_owned());
        let ended = tokio::time::timeout(limit, self.ended(attempt, &mut waits_for)).await;
        ended.unwrap_or_else(|_| {
            let message = format!(
                "attempt {} did not end within {} ms after it opened the state of the savepoint; it waits for {waits_for}; \
                 the job is as it was, start again",
                attempt.0,
                limit.as_millis(),
            );
            Err(Broken::Stuck(failure(ErrorKind::Bug, message)))
        })
    }

    async fn ended(&mut self, attempt: AttemptId, waits_for: &mut String) -> Result<(), Broken> {
        loop {
            match self.event().await? {
                WorkerEvent::Cancelled(of) if of == attempt => {
                    self.held = None;
                    return Ok(());
                }
                WorkerEvent::Cancelling(of, what) if of == attempt => *waits_for = what,
                _ => {}
            }
        }
    }

    async fn opened(&mut self, attempt: AttemptId, stop: &StopHook) -> Result<(), JobFailure> {
        let told = |report: &FailureReport| Err(failure(report.kind, describe(report)));
        loop {
            match self.event().await? {
                WorkerEvent::Verified(of, _) if of == attempt => {
                    stop(Step::R6);
                    self.worker
                        .send(WorkerCommand::Confirm(attempt, Vec::new()));
                    self.worker.send(WorkerCommand::Open(attempt));
                }
                WorkerEvent::Opened(of) if of == attempt => return Ok(()),
                WorkerEvent::Damaged(of, _, report) if of == attempt => return told(&report),
                WorkerEvent::Failed(of, report) if of == attempt => return told(&report),
                WorkerEvent::Stop(of, named) if of == attempt => {
                    return Err(failure(ErrorKind::Invalid, error_chain(&named)));
                }
                // A slot that asks for a word waits: nothing is published here.
                _ => {}
            }
        }
    }

    async fn event(&mut self) -> Result<WorkerEvent, JobFailure> {
        let gone = || failure(ErrorKind::Bug, "the worker ended by itself");
        self.events.recv().await.ok_or_else(gone)
    }
}

impl Detour<'_> {
    /// Confirms what `head` has pending and opens the state of the savepoint, in the order of a recovery; no record flows.
    pub(crate) async fn trial_restore(
        &mut self,
        attempt: AttemptId,
        head: &Head,
        current: &Manifest,
        state: &Manifest,
    ) -> Result<Trial, Broken> {
        let sources = self.open_sources(state).await?;
        let (mut region, effects) =
            RegionRecovery::start(head, current, self.shape, &BTreeSet::new());
        let mut effects = VecDeque::from(effects);
        let mut duties = Some(Vec::new());
        loop {
            while let Some(effect) = effects.pop_front() {
                match effect {
                    // Sessions are opened where something is pending; the recovery that follows frees the others.
                    RegionEffect::Free(slot) => {
                        effects.extend(region.step(RegionEvent::Freed(slot)));
                    }
                    RegionEffect::VerifyAll => {
                        (self.setup.stop)(Step::R5);
                        let input = DeployInput {
                            program: &self.setup.program,
                            shape: self.shape,
                            head,
                            manifest: state,
                            attempt,
                            sources: &sources,
                            first_markers: &self.externals.markers,
                            logs: LogCheck::Skip,
                            unmatched: self.setup.settings.restore.unmatched,
                        };
                        let deployment = deployment(&input).map_err(|error| failed(&error))?;
                        self.send(WorkerCommand::Prepare(Box::new(deployment)));
                    }
                    RegionEffect::StartSession(duty) => {
                        duties.get_or_insert_default().push(duty);
                    }
                    RegionEffect::OpenAll => {
                        self.confirm(attempt, duties.take());
                        (self.setup.stop)(Step::R6);
                        self.send(WorkerCommand::Open(attempt));
                    }
                    RegionEffect::Release => return Ok(Trial::Whole),
                    RegionEffect::GoBack => return Ok(Trial::Void),
                }
            }
            if duties.as_ref().is_some_and(|duties| !duties.is_empty()) {
                self.confirm(attempt, duties.take());
            }
            for event in self.told(attempt).await? {
                effects.extend(region.step(event));
            }
        }
    }

    /// Opens the state of the savepoint that takes the place of what is given up: nothing is confirmed, as where a lineage
    /// begins.
    pub(crate) async fn open_alone(
        &mut self,
        attempt: AttemptId,
        head: &Head,
        state: &Manifest,
    ) -> Result<(), Broken> {
        let sources = self.open_sources(state).await?;
        let name = ManifestName {
            epoch: head.epoch,
            number: state.id.number,
            nonce: self.nonces.draw(),
        };
        let manifest = ManifestRef {
            name,
            hash: state.encode().1,
        };
        // As `head` would be.
        let change = HeadChange::Rebase {
            manifest,
            origin: None,
        };
        let head = head.changed(&change, self.nonces.draw());
        let deployed = deployment(&DeployInput {
            program: &self.setup.program,
            shape: self.shape,
            head: &head,
            manifest: state,
            attempt,
            sources: &sources,
            first_markers: &self.externals.markers,
            logs: LogCheck::Skip,
            unmatched: self.setup.settings.restore.unmatched,
        });
        let deployed = deployed.map_err(|error| failed(&error))?;
        let limit = self.setup.settings.cancellation_timeout;
        let mut alone = Stage::new(&self.setup.worker, self.events, limit);
        let opened = tokio::select! {
            biased;
            opened = alone.restore(deployed, &self.setup.stop) => opened,
            () = until_ended(self.requests, self.waits) => Err(Broken::Cancelled),
        };
        both(opened, alone.clear().await)
    }

    fn confirm(&mut self, attempt: AttemptId, duties: Option<Vec<SlotDuty>>) {
        if let Some(duties) = duties {
            (self.setup.stop)(Step::R4);
            self.order(attempt, duties);
        }
    }
}

/// How the trial restore of a job that goes back ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// All is confirmed and the state opens.
    Whole,
    /// What is pending was being given up: that is finished first.
    Void,
}
