//! The end of a savepoint, a stop or a finish: confirmed, recorded in `head`, copied out (rule L7).
//!
//! Called by [`super::CheckpointCoordinator`] while it is idle. A savepoint's own manifest is written last, when
//! nothing of it is pending any more; a job ends when `head` says that everything is confirmed. The name that a savepoint
//! was asked for under is in its checkpoint's manifest, so a leader that dies before the copy owes it to the next one.

use highwater_types::{CheckpointId, StopMode};

use super::events::{CheckpointEffect, CheckpointFailure, JobEnd, SnapshotRequest};
use super::{CheckpointCoordinator, Phase};
use crate::head::HeadChange;
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
        })
    }

    fn savepoint(&self) -> Option<&String> {
        let asked = self.request.as_ref();
        asked
            .and_then(|request| request.savepoint.as_ref())
            .or(self.owed.as_ref())
    }

    pub(super) fn ends_job(&self) -> bool {
        self.is_final || self.request.as_ref().is_some_and(SnapshotRequest::stops)
    }
}

impl CheckpointCoordinator {
    pub(super) fn advance_closing(&mut self, now_ms: u64, effects: &mut Vec<CheckpointEffect>) {
        let Some(closing) = &self.closing else { return };
        let hurried = planted(Mutant::StopUnconfirmed);
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
        match closing.savepoint().cloned() {
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

    fn close(&mut self, effects: &mut Vec<CheckpointEffect>) {
        let Some(closing) = self.closing.take() else {
            return;
        };
        let ends = closing.ends_job();
        let stopped = closing.request.as_ref().is_some_and(SnapshotRequest::stops);
        if let Some(request) = closing.request {
            effects.push(CheckpointEffect::RequestDone {
                request: request.request,
                id: closing.id,
            });
        }
        if ends {
            let end = if stopped {
                JobEnd::Stopped
            } else {
                JobEnd::Finished
            };
            effects.push(CheckpointEffect::EndJob(end));
            self.phase = Phase::Ended;
        }
    }

    pub(super) fn exported(&mut self, id: CheckpointId, effects: &mut Vec<CheckpointEffect>) {
        if self.is_exporting(id) {
            self.after_export();
            self.close(effects);
        }
    }

    pub(super) fn export_failed(&mut self, id: CheckpointId, effects: &mut Vec<CheckpointEffect>) {
        if !self.is_exporting(id) {
            return;
        }
        self.after_export();
        let Some(closing) = self.closing.take() else {
            return;
        };
        if let Some(request) = &closing.request {
            let failure = CheckpointFailure::Export { id };
            effects.push(CheckpointEffect::RequestFailed {
                request: request.request,
                failure,
            });
            match request.kind.stop_mode() {
                // Every window has fired: to read on would fire them again. The checkpoint stands, its copy does not.
                Some(StopMode::Drain) => {
                    effects.push(CheckpointEffect::EndJob(JobEnd::Stopped));
                    self.phase = Phase::Ended;
                }
                // The sources have stopped at a completed checkpoint: reading on loses nothing.
                Some(StopMode::Suspend) => effects.push(CheckpointEffect::ResumeSources),
                None => {}
            }
        }
    }

    fn is_exporting(&self, id: CheckpointId) -> bool {
        let current = self
            .closing
            .as_ref()
            .is_some_and(|closing| closing.id == id);
        current && matches!(self.phase, Phase::Exporting)
    }

    fn after_export(&mut self) {
        let running = !self.attempts.is_empty();
        self.phase = if running { Phase::Idle } else { Phase::Waiting };
    }
}
