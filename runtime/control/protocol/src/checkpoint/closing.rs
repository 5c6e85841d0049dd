//! The end of a savepoint, a stop, a finish or a redeployment: confirmed, recorded in `head`, copied out, and the end of a job in `head`
//! (rule L7).
//!
//! Called by [`super::CheckpointCoordinator`] while it is idle. A savepoint's own manifest is written last, when
//! nothing of it is pending any more; a job has ended when `head` says so, and nobody is told before that. The name that a savepoint
//! was asked for under is in its checkpoint's manifest, so a leader that dies before the copy owes it to the next one.

use highwater_types::{CheckpointId, StopMode};

use super::events::{CheckpointEffect, CheckpointFailure, SnapshotRequest};
use super::{CheckpointCoordinator, Phase};
use crate::head::{HeadChange, JobEnd};
use crate::manifest::Manifest;
use crate::mutant::{Mutant, planted};

/// What waits for the confirmation of a completed checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Closing {
    pub(super) id: CheckpointId,
    pub(super) request: Option<SnapshotRequest>,
    /// The savepoint that an earlier leader was asked for; whoever asked is not there any more.
    pub(super) owed: Option<String>,
    pub(super) is_final: bool,
    pub(super) copy: Copying,
}

/// How far the savepoint of a closing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    /// To be made, if there is one to make.
    Due,
    /// Made.
    Done,
    /// It could not be made, and the job ends all the same.
    Failed,
}

impl Closing {
    /// What a manifest still owes: the job goes on once its savepoint is copied, or was found to be.
    pub(super) fn owed_by(manifest: &Manifest) -> Option<Self> {
        let owed = manifest.savepoint.clone()?;
        (!planted(Mutant::SavepointForgotten)).then_some(Self {
            id: manifest.id,
            request: None,
            owed: Some(owed),
            is_final: false,
            copy: Copying::Due,
        })
    }

    /// The savepoint that is still to be copied.
    fn to_copy(&self) -> Option<&String> {
        let asked = self.request.as_ref();
        asked
            .and_then(|request| request.savepoint.as_ref())
            .or(self.owed.as_ref())
            .filter(|_| self.copy == Copying::Due)
    }

    /// How the job ends with it; `None` = the job goes on.
    fn end(&self) -> Option<JobEnd> {
        let stops = self.request.as_ref().is_some_and(SnapshotRequest::stops);
        match (stops, self.is_final) {
            (true, _) => Some(JobEnd::Stopped),
            (false, true) => Some(JobEnd::Finished),
            (false, false) => None,
        }
    }

    pub(super) fn ends_job(&self) -> bool {
        self.end().is_some()
    }

    /// Whether the next attempt begins from it.
    pub(super) fn redeploys(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(SnapshotRequest::redeploys)
    }
}

impl CheckpointCoordinator {
    pub(super) fn advance_closing(&mut self, now_ms: u64, effects: &mut Vec<CheckpointEffect>) {
        let Some(closing) = &self.closing else { return };
        let hurried = planted(Mutant::StopUnconfirmed)
            || planted(Mutant::RedeployUnconfirmed) && closing.redeploys();
        if self.unconfirmed.is_some() && !hurried || now_ms < self.clock.record_ms {
            return;
        }
        assert_eq!(
            closing.id,
            self.head.checkpoint(),
            "nothing completes while a closing waits"
        );
        if self.head.has_pending_output() && !hurried {
            effects.push(CheckpointEffect::WriteHead(HeadChange::Confirm));
            self.phase = Phase::Recording { lost: false };
            return;
        }
        match closing.to_copy().cloned() {
            Some(savepoint) => {
                effects.push(CheckpointEffect::Export {
                    id: closing.id,
                    savepoint,
                });
                self.phase = Phase::Exporting;
            }
            None => self.close(effects),
        }
    }

    /// The request and the checkpoint of a redeployment whose checkpoint is complete and whose tasks do not run yet.
    pub fn redeploying(&self) -> Option<(u64, CheckpointId)> {
        let closing = self.closing.as_ref()?;
        let asked = closing.request.as_ref()?;
        asked.redeploys().then_some((asked.request, closing.id))
    }

    /// Ends the closing once everything is confirmed and copied. The end of a job is written first. A redeployment ends when tasks run.
    fn close(&mut self, effects: &mut Vec<CheckpointEffect>) {
        let Some(closing) = &self.closing else { return };
        if closing.redeploys() {
            effects.push(CheckpointEffect::Redeploy { id: closing.id });
            self.phase = Phase::Redeploying;
            return;
        }
        let hurried = planted(Mutant::StopUnconfirmed) && self.head.has_pending_output();
        let is_skipped = planted(Mutant::EndUnrecorded) || hurried;
        match closing.end() {
            Some(end) if !is_skipped => {
                effects.push(CheckpointEffect::WriteHead(HeadChange::End(end)));
                self.phase = Phase::Ending {
                    lost: self.attempts.is_empty(),
                };
            }
            _ => self.tell(effects),
        }
    }

    /// Answers whoever asked, and ends the job where it is to end.
    pub(super) fn tell(&mut self, effects: &mut Vec<CheckpointEffect>) {
        let Some(closing) = self.closing.take() else {
            return;
        };
        let (id, end) = (closing.id, closing.end());
        if let Some(SnapshotRequest { request, .. }) = closing.request {
            effects.push(if closing.copy == Copying::Failed {
                let failure = CheckpointFailure::Export { id };
                CheckpointEffect::RequestFailed { request, failure }
            } else {
                CheckpointEffect::RequestDone { request, id }
            });
        }
        if let Some(end) = end {
            effects.push(CheckpointEffect::EndJob(end));
            self.phase = Phase::Ended;
        }
    }

    pub(super) fn exported(&mut self, id: CheckpointId, effects: &mut Vec<CheckpointEffect>) {
        if self.is_exporting(id) {
            self.after_export(Copying::Done);
            self.close(effects);
        }
    }

    pub(super) fn export_failed(&mut self, id: CheckpointId, effects: &mut Vec<CheckpointEffect>) {
        if !self.is_exporting(id) {
            return;
        }
        self.after_export(Copying::Failed);
        let request = self.closing.as_ref().and_then(|of| of.request.as_ref());
        let mode = request.and_then(|request| request.kind.stop_mode());
        // Every window has fired: to read on would fire them again. The checkpoint stands, its copy does not.
        if mode == Some(StopMode::Drain) {
            return self.close(effects);
        }
        let Some(closing) = self.closing.take() else {
            return;
        };
        if let Some(SnapshotRequest { request, .. }) = closing.request {
            let failure = CheckpointFailure::Export { id };
            effects.push(CheckpointEffect::RequestFailed { request, failure });
        }
        // The sources have stopped at a completed checkpoint: reading on loses nothing.
        if mode == Some(StopMode::Suspend) {
            effects.push(CheckpointEffect::ResumeSources);
        }
    }

    fn is_exporting(&self, id: CheckpointId) -> bool {
        let current = self
            .closing
            .as_ref()
            .is_some_and(|closing| closing.id == id);
        current && matches!(self.phase, Phase::Exporting)
    }

    fn after_export(&mut self, copy: Copying) {
        if let Some(closing) = &mut self.closing {
            closing.copy = copy;
        }
        let running = !self.attempts.is_empty();
        self.phase = if running { Phase::Idle } else { Phase::Waiting };
    }
}
