//! Rescale and planned leave: a checkpoint behind which the attempt ends and the next one begins at once, at another parallelism or elsewhere.
//!
//! The rule: at which parallelism an attempt runs is said by the manifest of `head` and by nothing else, and it is looked up before every
//! attempt. So whoever dies on the way is followed by an attempt at the old parallelism before the write of `head` that completes the
//! checkpoint, and at the new one after it. Whoever asked is answered when records flow again.

use std::sync::Arc;

use highwater_api::JobProgram;
use highwater_protocol::checkpoint::{
    CheckpointCoordinator, CheckpointEvent, CheckpointFailure, Redeploy, SnapshotRequest,
};
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::rescale::Rescaled;
use highwater_types::{CheckpointId, ErrorKind, Parallelisms};

use crate::attempt::{After, Attempt, AttemptStage};
use crate::request::{REDEPLOY_BARRIER, RequestRefused, RescaleWish};
use crate::setup::{CoordinatorSetup, JobFailure};
use crate::shape::{fleet_shape, shape_of};
use crate::start::{Externals, failure};
use crate::status::{LastRedeployment, WaitBoard};

use super::Coordinator;

/// How long after a move that came to nothing it is asked for again: each try stops the sources for a moment.
const LEAVE_AGAIN_MS: u64 = 2_000;

/// What is on its way to another placement.
#[derive(Debug, Default)]
pub(super) struct Redeploying {
    /// A rescale that waits for slots.
    waits: Option<WaitsForSlots>,
    /// Who is answered when records flow again, and with which checkpoint.
    answer: Option<(u64, CheckpointId)>,
    /// The request that moves the tasks of workers that leave.
    leave: Option<u64>,
    /// Not before this time it is asked for again.
    leave_at_ms: u64,
    /// The attempt waits for slots.
    lacks_slots: bool,
    /// When the checkpoint on its way was begun.
    pub(super) begun_ms: u64,
}

/// A rescale that waits for slots.
#[derive(Debug)]
struct WaitsForSlots {
    request: u64,
    wish: RescaleWish,
    until_ms: u64,
}

/// The program as it runs from `manifest` on.
///
/// # Errors
/// `Invalid` when it cannot run at the parallelism that the manifest says.
pub(crate) fn program_for(
    program: &JobProgram,
    manifest: &Manifest,
) -> Result<JobProgram, JobFailure> {
    let configured = program.configured();
    let rescaled = manifest.rescaled.as_ref();
    let to = rescaled.and_then(|rescaled| rescaled.for_configured(&configured));
    program.at(to.unwrap_or(&configured)).map_err(|error| {
        let message = format!(
            "the job was rescaled while it ran, and cannot go on from checkpoint {} at that parallelism: {error}; start it with another \
             parallelism, which holds instead",
            manifest.id
        );
        failure(ErrorKind::Invalid, message)
    })
}

/// Takes up what `manifest` says of the parallelism, for the program and the workers. What does not hold for the job as it is configured now
/// is forgotten. The shape of the job, if that is another one than before.
///
/// # Errors
/// As [`program_for`].
pub(super) fn take_up(
    setup: &mut CoordinatorSetup,
    manifest: &mut Manifest,
    externals: &Externals,
) -> Result<Option<JobShape>, JobFailure> {
    let program = program_for(&setup.program, manifest)?;
    keep_what_holds(manifest, &program);
    if program.parallelisms() == setup.program.parallelisms() {
        return Ok(None);
    }
    setup.worker.reshape(fleet_shape(&program));
    setup.program = program;
    Ok(Some(shape_of(
        &setup.program,
        &setup.job,
        &externals.systems,
    )))
}

/// Forgets a rescale that does not hold for the job as it is configured now: it would hold again for a later one.
fn keep_what_holds(manifest: &mut Manifest, program: &JobProgram) {
    let configured = program.configured();
    let holds = |rescaled: &Rescaled| rescaled.for_configured(&configured).is_some();
    if manifest
        .rescaled
        .take_if(|rescaled| !holds(rescaled))
        .is_some()
    {
        tracing::warn!(
            checkpoint = %manifest.id,
            "the job was rescaled while it ran, and program or settings say another parallelism since: that holds, and the rescale is forgotten"
        );
    }
}

impl Coordinator {
    /// A rescale is asked for under this number.
    pub(super) fn rescale(&mut self, request: u64, wish: RescaleWish) {
        let target = match self.target_of(&wish) {
            Ok(target) => target,
            Err(refused) => return self.answer(request, &Err(refused)),
        };
        if self.redeploying.lacks_slots {
            let what = "the job waits for slots and cannot be rescaled before it runs: start more workers, or start its coordinator with another \
                        parallelism";
            return self.answer(request, &Err(RequestRefused::NotRunning(what.to_owned())));
        }
        if self.redeploying.waits.is_some() || self.machine.is_redeploying() {
            let busy = RequestRefused::from(CheckpointFailure::Redeploying);
            return self.answer(request, &Err(busy));
        }
        if target.parallelisms() == self.setup.program.parallelisms() {
            return self.runs_already(request);
        }
        if self.missing_slots(&target).is_none() {
            return self.ask_rescale(request, target.parallelisms());
        }
        let within_ms = u64::try_from(wish.slots_within.as_millis()).unwrap_or(u64::MAX);
        self.redeploying.waits = Some(WaitsForSlots {
            request,
            wish,
            until_ms: self.now_ms().saturating_add(within_ms),
        });
        self.look_at_slots();
    }

    /// The job is to run as it does: granted where records flow.
    fn runs_already(&mut self, request: u64) {
        let running = |held: &Attempt| held.stage == AttemptStage::Running;
        let answer = if self.attempt.as_ref().is_some_and(running) {
            Ok(self.machine.completed())
        } else {
            let waits = WaitBoard::new(self.status.clone());
            Err(RequestRefused::NotRunning(waits.read()))
        };
        self.answer(request, &answer);
    }

    /// Why the job cannot go on at the parallelism that this manifest says for the first time: the slots have gone meanwhile.
    pub(super) fn lacks_slots_for(&self, next: &Manifest) -> Option<String> {
        if next.rescaled == self.manifest.rescaled {
            return None;
        }
        match program_for(&self.setup.program, next) {
            Ok(target) => {
                let missing = self.missing_slots(&target)?;
                Some(format!("{missing} any more; the job goes on as it was"))
            }
            Err(failure) => Some(failure.message),
        }
    }

    /// The attempt waits for slots, or does not any more.
    pub(super) const fn note_slots(&mut self, lacks: bool) {
        self.redeploying.lacks_slots = lacks;
    }

    fn target_of(&self, wish: &RescaleWish) -> Result<JobProgram, RequestRefused> {
        let program = &self.setup.program;
        let target = program.at(&program.spread(wish.parallelism, &wish.operators));
        target.map_err(|error| RequestRefused::Rescale(error.to_string()))
    }

    /// What is missing for `target` to run; `None` = nothing.
    fn missing_slots(&self, target: &JobProgram) -> Option<String> {
        let (needed, there) = (fleet_shape(target).shares, self.setup.worker.slots()?);
        (there < needed).then(|| format!("{needed} slots are needed, {there} are there"))
    }

    fn ask_rescale(&mut self, request: u64, to: Parallelisms) {
        let configured = self.setup.program.configured();
        self.ask_redeployment(request, Redeploy::At(Rescaled { configured, to }));
    }

    fn ask_redeployment(&mut self, request: u64, redeploy: Redeploy) {
        let request = SnapshotRequest {
            request,
            savepoint: None,
            kind: REDEPLOY_BARRIER,
            redeploy: Some(redeploy),
        };
        self.step(self.now_ms(), CheckpointEvent::Request(request));
    }

    /// Goes on with a rescale whose slots have come, and gives up one whose slots have not.
    pub(super) fn look_at_slots(&mut self) {
        let Some(waits) = self.redeploying.waits.take() else {
            return;
        };
        let target = match self.target_of(&waits.wish) {
            Ok(target) => target,
            Err(refused) => return self.answer(waits.request, &Err(refused)),
        };
        match self.missing_slots(&target) {
            None => self.ask_rescale(waits.request, target.parallelisms()),
            Some(missing) if self.now_ms() >= waits.until_ms => {
                let text = format!(
                    "{missing}; the job goes on as it was: start more workers, or say how long it may wait for them (slots-within)"
                );
                let refused = RequestRefused::SlotsMissing(text);
                self.answer(waits.request, &Err(refused));
            }
            Some(_) => self.redeploying.waits = Some(waits),
        }
    }

    /// Moves the tasks of workers that want to leave. An attempt whose records do not flow yet begins again without them.
    pub(super) fn look_at_leaving(&mut self) {
        let Some(stage) = self.attempt.as_ref().map(|held| held.stage) else {
            return;
        };
        if stage == AttemptStage::Cancelling || !self.setup.worker.has_leaving() {
            return;
        }
        if stage == AttemptStage::Recovering {
            tracing::info!("a worker leaves: the attempt begins again without it");
            return self.cancel(After::Redeploy);
        }
        let is_asked = self.redeploying.leave.is_some() || self.machine.redeploying().is_some();
        if !is_asked && self.now_ms() >= self.redeploying.leave_at_ms {
            tracing::info!("a worker leaves: its tasks move behind a checkpoint");
            self.next_request += 1;
            self.redeploying.leave = Some(self.next_request);
            self.ask_redeployment(self.next_request, Redeploy::Same);
        }
    }

    /// A request came to nothing. The move for a worker that leaves is asked for again after a while.
    pub(super) fn redeployment_failed(&mut self, request: u64) {
        if self.redeploying.leave != Some(request) {
            return;
        }
        self.redeploying.leave = None;
        self.redeploying.leave_at_ms = self.now_ms().saturating_add(LEAVE_AGAIN_MS);
    }

    /// What was on its way is dropped with the requests that were answered.
    pub(super) fn forget_redeployments(&mut self) {
        self.redeploying = Redeploying::default();
    }

    /// Takes up what the manifest of `head` says of the parallelism. Returns whether that is another one than before.
    pub(super) fn reshape(&mut self) -> Result<bool, JobFailure> {
        let Some(shape) = take_up(&mut self.setup, &mut self.manifest, &self.externals)? else {
            return Ok(false);
        };
        self.shape = shape;
        let plan = self.setup.program.plan().clone();
        self.plan.send_replace(Arc::new(plan));
        Ok(true)
    }

    /// Before an attempt: what is said in `head` holds for it. A machine of another shape ends; what waits in it is asked of the next one.
    pub(super) fn take_shape(&mut self) -> Result<(), JobFailure> {
        if let Some(answer) = self.machine.redeploying() {
            self.redeploying.answer = Some(answer);
        }
        if !self.reshape()? {
            return Ok(());
        }
        let Some(settled) = self.keeper.settled() else {
            unreachable!("an attempt begins once `head` is settled");
        };
        let waiting: Vec<_> = self.machine.held().cloned().collect();
        let (settings, head) = (self.setup.settings.checkpoint, settled.head.clone());
        let (shape, tries) = (self.shape.clone(), self.machine.clone().into_tries());
        self.machine = CheckpointCoordinator::new(settings, shape, head, &self.manifest, tries);
        for request in waiting {
            self.step(self.now_ms(), CheckpointEvent::Request(request));
        }
        Ok(())
    }

    /// Records flow: whoever asked for it to be elsewhere, or otherwise spread, is answered.
    pub(super) fn redeployed(&mut self) {
        let Some((request, id)) = self.redeploying.answer.take() else {
            return;
        };
        self.redeploying.leave.take_if(|of| *of == request);
        let pause_ms = self.now_ms().saturating_sub(self.redeploying.begun_ms);
        let plan = self.setup.program.plan();
        let vertices = plan.job.vertices().iter();
        let parallelism = vertices.map(|vertex| vertex.parallelism.0).max();
        tracing::info!(checkpoint = %id, parallelism, pause_ms, "goes on behind a checkpoint");
        self.status.send_modify(|status| {
            status.redeployments.count += 1;
            status.redeployments.last = Some(LastRedeployment { id, pause_ms });
        });
        self.answer(request, &Ok(id));
    }
}
