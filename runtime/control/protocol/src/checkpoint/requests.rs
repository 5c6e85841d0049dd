//! What waits for a checkpoint: requests of people in the order of their weight, and the wish of the engine itself.
//!
//! Called by [`super::CheckpointCoordinator`]. The rules: a wish of the engine is a flag that any checkpoint satisfies, so
//! it never stands in anybody's way; a stop goes before a redeployment, that before a savepoint, a savepoint before a checkpoint. A stop
//! that was given up waits again, because whoever asked for it has nobody else to ask; a redeployment that was given up has failed, because
//! the job goes on as it was.

use highwater_types::StopMode;

use super::closing::Closing;
use super::{
    CheckpointCoordinator, CheckpointEffect, CheckpointFailure, Pending, Phase, SnapshotRequest,
};

/// Requests that may wait beside a stop and a redeployment.
const WAITING_MAX: usize = 8;

/// What waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    stop: Option<SnapshotRequest>,
    redeployment: Option<SnapshotRequest>,
    others: Vec<SnapshotRequest>,
    /// A sink's spool is half full.
    pub(super) wanted: bool,
}

impl Requests {
    pub(super) const fn is_empty(&self) -> bool {
        self.stop.is_none() && self.redeployment.is_none() && self.others.is_empty()
    }

    /// Whether there is no room for a request. There always is for a stop, and for one redeployment.
    const fn is_full_for(&self, request: &SnapshotRequest) -> bool {
        !request.stops() && !request.redeploys() && self.others.len() >= WAITING_MAX
    }

    pub(super) fn add(&mut self, request: SnapshotRequest) {
        if request.stops() {
            self.stop = Some(request);
        } else if request.redeploys() {
            self.redeployment = Some(request);
        } else {
            self.others.push(request);
        }
    }

    /// Takes the weightiest one, the oldest of those.
    pub(super) fn next(&mut self) -> Option<SnapshotRequest> {
        let first = self.stop.take().or_else(|| self.redeployment.take());
        if first.is_some() {
            return first;
        }
        let savepoint = self
            .others
            .iter()
            .position(|waiting| waiting.savepoint.is_some());
        let at = savepoint.unwrap_or(0);
        (at < self.others.len()).then(|| self.others.remove(at))
    }
}

impl CheckpointCoordinator {
    pub(super) fn request(
        &mut self,
        request: SnapshotRequest,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        let suspends = request.kind.stop_mode() == Some(StopMode::Suspend);
        assert!(
            !request.redeploys() || suspends && request.savepoint.is_none(),
            "behind the barrier of a redeployment nothing is read, and nothing is drained or copied"
        );
        let refused = if self.is_stopping() {
            Some(CheckpointFailure::Stopping)
        } else if request.redeploys() && self.is_redeploying() {
            Some(CheckpointFailure::Redeploying)
        } else if self.requests.is_full_for(&request) {
            Some(CheckpointFailure::Busy)
        } else {
            None
        };
        match refused {
            Some(failure) => {
                effects.push(CheckpointEffect::RequestFailed {
                    request: request.request,
                    failure,
                });
            }
            None => self.requests.add(request),
        }
    }

    /// Whether a stop waits, is under way or is complete: nothing that is asked for after it can be granted.
    fn is_stopping(&self) -> bool {
        let closing = self.closing.as_ref().is_some_and(Closing::ends_job);
        let pending = self.pending_request().is_some_and(SnapshotRequest::stops);
        closing || pending || self.requests.stop.is_some()
    }

    /// Whether a redeployment waits, is under way, or is complete and its tasks do not run yet: there is one at a time.
    pub fn is_redeploying(&self) -> bool {
        let pending = self
            .pending_request()
            .is_some_and(SnapshotRequest::redeploys);
        self.requests.redeployment.is_some() || pending || self.redeploying().is_some()
    }

    /// What the checkpoint on its way was asked for with.
    fn pending_request(&self) -> Option<&SnapshotRequest> {
        match &self.phase {
            Phase::Collecting(pending)
            | Phase::Storing(pending, _)
            | Phase::Moving { pending, .. } => pending.request.as_ref(),
            _ => None,
        }
    }

    /// The stop that waits. Whoever replaces this machine asks for it again: a stop is held until it succeeds.
    pub const fn held_stop(&self) -> Option<&SnapshotRequest> {
        self.requests.stop.as_ref()
    }

    /// All requests that wait for their checkpoint to begin, the stop first. Whoever replaces this machine asks for them again.
    pub fn held(&self) -> impl Iterator<Item = &SnapshotRequest> {
        let Requests {
            stop,
            redeployment,
            others,
            ..
        } = &self.requests;
        stop.iter().chain(redeployment).chain(others)
    }

    /// Refuses the redeployment that waits once all input has been read: the job ends.
    pub(super) fn refuse_redeployment(&mut self, effects: &mut Vec<CheckpointEffect>) {
        if self.requests.redeployment.is_some()
            && self.is_over()
            && let Some(asked) = self.requests.redeployment.take()
        {
            effects.push(input_ended(&asked));
        }
    }

    /// The same for the one whose checkpoint all tasks have answered, if the input has ended meanwhile: that checkpoint is one like others.
    pub(super) fn refuse_pending(
        &self,
        pending: &mut Pending,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        if !self.is_over() {
            return;
        }
        if let Some(asked) = pending.request.take_if(|asked| asked.redeploys()) {
            effects.push(input_ended(&asked));
            effects.push(CheckpointEffect::ResumeSources);
        }
    }
}

const fn input_ended(asked: &SnapshotRequest) -> CheckpointEffect {
    CheckpointEffect::RequestFailed {
        request: asked.request,
        failure: CheckpointFailure::InputEnded,
    }
}
