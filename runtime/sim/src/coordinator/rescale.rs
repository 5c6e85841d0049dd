//! Rescale and planned leave of a running job: how wide it runs, what the machine is asked for, and who hears of it.
//!
//! Called by the other parts of the coordinator. The rule: how wide an attempt runs is said by the manifest of `head` and looked up
//! before every attempt. A machine of another shape ends then, and what waited in it is asked of the next one. A rescale is answered when
//! tasks run.

use std::collections::BTreeSet;

use highwater_protocol::checkpoint::{
    CheckpointEvent, CheckpointFailure, Redeploy, SnapshotRequest,
};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::rescale::Rescaled;
use highwater_types::{BarrierKind, CheckpointId, StopMode};

use super::{Coordinator, Leadership};
use crate::job::{Scale, shape};
use crate::node::{Act, Ctx, Fact, NodeId};

/// The barrier of a redeployment: sources read nothing behind it, and nothing is drained.
const BARRIER: BarrierKind = BarrierKind::Stop {
    mode: StopMode::Suspend,
    is_savepoint: false,
};

impl Leadership {
    /// Takes up how wide the job runs from its manifest on, as it is configured now.
    pub(super) fn take_shape(&mut self, configured: Scale) {
        let Some(manifest) = &self.manifest else {
            return;
        };
        let scale = configured.after(manifest.rescaled.as_ref());
        let is_same = (configured, scale) == (self.configured, self.scale);
        (self.configured, self.scale) = (configured, scale);
        self.shape = shape(scale);
        let Some(machine) = &self.checkpoints else {
            return;
        };
        if let Some((request, _)) = machine.redeploying() {
            self.redeployed = Some(request);
        }
        // What was asked for before the settings changed is not to be carried on.
        let rescaled = manifest.rescaled.as_ref();
        let is_void =
            |rescaled: &Rescaled| rescaled.for_configured(&configured.operators()).is_none();
        let is_same = is_same && !rescaled.is_some_and(is_void);
        // A machine of the same shape may stay or be replaced: attempts take turns. What is copied out is begun again by another one.
        let stays = is_same && self.export.is_none() && self.next_attempt.0.is_multiple_of(2);
        if stays {
            return;
        }
        self.held = machine.held().cloned().collect();
        let waits: BTreeSet<u64> = self.held.iter().map(|waiting| waiting.request).collect();
        let redeployed = self.redeployed;
        self.asked
            .retain(|request| waits.contains(request) || redeployed == Some(*request));
        self.take_tries_back();
    }

    /// The manifest for a machine that goes on from it: what does not hold for the job as it is configured now is not said again.
    pub(super) fn current(&self, manifest: &Manifest) -> Manifest {
        let mut current = manifest.clone();
        let configured = self.configured.operators();
        let holds = |rescaled: &Rescaled| rescaled.for_configured(&configured).is_some();
        current.rescaled = current.rescaled.filter(holds);
        current
    }
}

impl Coordinator {
    /// Asks for what is wanted of the running tasks and the machine has not heard of.
    pub(super) fn ask_redeployments(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        if let Some((request, to)) = ctx.shared.desired.rescale
            && !leader.asked.contains(&request)
        {
            if to == leader.scale {
                return self.answer_rescale(request, to, ctx);
            }
            let rescaled = Rescaled {
                configured: leader.configured.operators(),
                to: to.operators(),
            };
            leader.rescales.insert(request, (leader.configured, to));
            ctx.fact(Fact::Leader(
                leader.epoch,
                Act::Asks(request, rescaled.clone()),
            ));
            self.ask_machine(request, Redeploy::At(rescaled), ctx);
        }
        let Some(leader) = self.leader() else { return };
        let placed: BTreeSet<NodeId> = leader.placements.values().copied().collect();
        let mut leaving = ctx.shared.desired.leaving.iter();
        let holds_tasks =
            leaving.find(|(node, of)| placed.contains(*node) && !leader.asked.contains(*of));
        if let Some((_, &request)) = holds_tasks {
            self.ask_machine(request, Redeploy::Same, ctx);
        }
    }

    fn ask_machine(&mut self, request: u64, redeploy: Redeploy, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        if ctx.is_dead() {
            return;
        }
        leader.asked.insert(request);
        ctx.shared.steps.arm();
        let wish = SnapshotRequest {
            request,
            savepoint: None,
            kind: BARRIER,
            redeploy: Some(redeploy),
        };
        self.checkpoint_event(CheckpointEvent::Request(wish), ctx);
    }

    /// A request has come to nothing: the job goes on as it was. The user hears that of a rescale; everything else is asked for again.
    pub(super) fn request_failed(
        &mut self,
        request: u64,
        failure: &CheckpointFailure,
        ctx: &mut Ctx<'_>,
    ) {
        ctx.trace(|| format!("request {request} failed: {failure}"));
        let Some(leader) = self.leader() else { return };
        leader.asked.remove(&request);
        if leader.rescales.remove(&request).is_some() {
            ctx.fact(Fact::Leader(leader.epoch, Act::Refuses(request)));
            close(request, ctx);
        }
    }

    /// All output of the checkpoint is confirmed: the attempt ends, and the next one begins from it at once.
    pub(super) fn redeploy(&mut self, id: CheckpointId, ctx: &mut Ctx<'_>) {
        ctx.trace(|| format!("redeploys behind {id}"));
        let Some(leader) = self.leader() else { return };
        ctx.fact(Fact::Leader(leader.epoch, Act::Redeploys(id)));
        self.tasks_lost(ctx);
    }

    /// Tasks run behind a redeployment: whoever asked for it is answered.
    pub(super) fn redeployed(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        if ctx.is_dead() {
            return;
        }
        let Some(request) = leader.redeployed.take() else {
            return;
        };
        leader.asked.remove(&request);
        ctx.shared.redeployments += 1;
        let Some((configured, to)) = leader.rescales.remove(&request) else {
            return;
        };
        if configured == leader.configured {
            ctx.shared.rescales += 1;
            self.answer_rescale(request, to, ctx);
        } else {
            // Program and settings say something else since: that holds.
            close(request, ctx);
        }
    }

    fn answer_rescale(&mut self, request: u64, to: Scale, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        ctx.trace(|| format!("request {request}: the job runs at {to:?}"));
        ctx.fact(Fact::Leader(leader.epoch, Act::Answers(request, to)));
        close(request, ctx);
    }

    /// The job goes back, and its machine ends: nobody works on what was asked for before. The user hears that of a rescale; everything
    /// else is asked for again.
    pub(super) fn drop_requests(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        leader.take_tries_back();
        leader.asked.clear();
        leader.held.clear();
        leader.redeployed = None;
        for request in std::mem::take(&mut leader.rescales).into_keys() {
            close(request, ctx);
        }
    }
}

/// The user has heard what came of a rescale.
fn close(request: u64, ctx: &mut Ctx<'_>) {
    if !ctx.is_dead() {
        let open = &mut ctx.shared.desired.rescale;
        open.take_if(|(of, _)| *of == request);
    }
}
