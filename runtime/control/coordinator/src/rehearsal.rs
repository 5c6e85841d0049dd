//! A rehearsal: the worker restores and opens a state without a record flowing, and lets go of it again.
//!
//! Called by the start of a leader before `head` names a state that no operator of this job has opened yet. It takes the
//! way of every restore, so whatever an operator keeps, keyed or in lists, and whatever it can migrate, is judged by the
//! operator itself. The sessions of its sinks are of a lineage that nobody knows yet.

use std::time::Duration;

use highwater_protocol::gate::first_attempt;
use highwater_protocol::head::{Head, ManifestRef, Origin};
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::ManifestName;
use highwater_protocol::recovery::{Taker, take};
use highwater_protocol::steps::Step;
use highwater_types::{AttemptId, ErrorKind, Nonce};
use highwater_worker::slot::error_chain;
use highwater_worker::{
    Deployment, FailureReport, StopHook, WorkerCommand, WorkerEvent, WorkerHandle,
};
use tokio::sync::mpsc;

use crate::deploy::{DeployInput, LogCheck, deployment};
use crate::going_back::{Broken, both};
use crate::housekeeping::delete;
use crate::savepoint::Savepoint;
use crate::setup::JobFailure;
use crate::sources::OpenSources;
use crate::start::{Externals, StartInput, failed, failure};
use crate::status::describe;
use crate::store::{JobStore, backoff};

/// The worker while nothing runs.
pub struct Stage<'a> {
    /// Opens the state, on its slots.
    worker: &'a WorkerHandle,
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
        worker: &'a WorkerHandle,
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
    pub(crate) async fn rehearse(
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
                WorkerEvent::Verified(of) if of == attempt => {
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

/// The state of a savepoint as that of checkpoint 0, opened once by this job before `head` is touched. Of a refused one no
/// copy is left; of one that is stopped on the way the copies are, for a collection. What its sinks have made for the
/// markers of the new lineage, such as a Kafka topic, stays in both cases: nothing uses it.
pub(crate) async fn take_into(
    input: &mut StartInput<'_, '_>,
    manifest: &mut Manifest,
    savepoint: &Savepoint,
    (shape, externals, sources): (&JobShape, &Externals, OpenSources),
    nonces: &mut NonceStream,
) -> Result<(Box<Origin>, AttemptId), Broken> {
    let origin = fill(manifest, savepoint, input.store, nonces.draw()).await?;
    let name = ManifestName {
        epoch: manifest.id.epoch,
        number: 0,
        nonce: nonces.draw(),
    };
    let hash = manifest.encode().1;
    // As `head` would be.
    let head = Head::first(
        manifest.identity.clone(),
        manifest.lineage,
        ManifestRef { name, hash },
        shape.slot_counts(),
        nonces.draw(),
    );
    let head = head.from_savepoint(Some(origin.clone()));
    let mut tries = 1;
    let mut attempt = first_attempt(manifest.id.epoch);
    let refused = loop {
        attempt = attempt.next();
        let deployed = deployment(&DeployInput {
            program: input.program,
            shape,
            head: &head,
            manifest,
            attempt,
            sources: &sources,
            first_markers: &externals.markers,
            logs: LogCheck::Skip,
            unmatched: input.settings.restore.unmatched,
        });
        let rehearsed = match deployed {
            Ok(deployment) => input.stage.rehearse(deployment, input.stop).await,
            Err(error) => Err(failed(&error).into()),
        };
        match rehearsed {
            Ok(()) => {
                input.waits.goes_on();
                return Ok((origin, attempt));
            }
            Err(Broken::Failed(failure)) if failure.kind == ErrorKind::Transient => {
                input
                    .waits
                    .waits("opening the savepoint", &failure.message, tries);
                tries += 1;
                tokio::time::sleep(backoff(tries)).await;
            }
            Err(Broken::Failed(failure)) => break failure,
            // Its copies may still be read.
            Err(broken) => return Err(broken),
        }
    };
    let copies: Vec<_> = manifest.files.keys().cloned().collect();
    if let Err(error) = delete(input.store, &copies).await {
        let error = error_chain(&error);
        tracing::warn!(error, "copies of the savepoint are left for a collection");
    }
    let message = format!(
        "savepoint {} cannot be taken by this job, which is as it was: {}",
        savepoint.facts.folder, refused.message
    );
    Err(failure(refused.kind, message).into())
}

/// Puts the state of a savepoint into checkpoint 0 of a new lineage, with copies of its files.
async fn fill(
    manifest: &mut Manifest,
    savepoint: &Savepoint,
    store: &JobStore,
    nonce: Nonce,
) -> Result<Box<Origin>, JobFailure> {
    let taker = Taker {
        identity: &manifest.identity,
        lineage: manifest.lineage,
        epoch: manifest.id.epoch,
        attempt: first_attempt(manifest.id.epoch),
        number: 0,
        nonce,
    };
    let (state, copies) = take(&savepoint.manifest, taker);
    savepoint.copy(store, &copies).await?;
    manifest.operators = state.operators;
    manifest.files = state.files;
    let (savepoint, lineage) = (&savepoint.facts, manifest.lineage);
    tracing::info!(savepoint = savepoint.folder, %lineage, "a lineage begins with a savepoint");
    Ok(Box::new(Origin::from((savepoint, 0))))
}
