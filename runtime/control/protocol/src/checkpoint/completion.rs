//! Steps P7 and P8: from the last acknowledgement to a decided head, or to a decline.
//!
//! Called by [`super::CheckpointCoordinator`]. A checkpoint is declined only while its head write was never sent, or
//! after another body has won (L1).

use highwater_types::{CheckpointId, StopMode};

use super::closing::{Closing, Copying};
use super::{
    Built, CheckpointCoordinator, CheckpointEffect, CheckpointFailure, Pending, Phase,
    SnapshotRequest, Unconfirmed, assemble, commits_of, order_commits, timeout,
};
use crate::head::{HeadChange, ManifestRef, SlotCounts};
use crate::head_write::{HeadOutcome, Refusal};
use crate::job::TaskSnapshot;
use crate::manifest::{ManifestTitle, SnapshotKind};
use crate::mutant::{Mutant, planted};
use crate::paths::{ManifestName, RelativePath, manifest as manifest_path};
use crate::rescale::Rescaled;

impl CheckpointCoordinator {
    pub(super) fn store(&mut self, now_ms: u64, effects: &mut Vec<CheckpointEffect>) {
        let Phase::Collecting(mut pending) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            unreachable!("only a collection is stored");
        };
        self.refuse_pending(&mut pending, effects);
        let request = pending.request.as_ref();
        let savepoint = request.and_then(|request| request.savepoint.clone());
        let title = ManifestTitle {
            identity: self.head.identity.clone(),
            lineage: self.head.lineage,
            id: pending.id,
            kind: if savepoint.is_some() {
                SnapshotKind::Savepoint
            } else {
                SnapshotKind::Checkpoint
            },
            parent: Some(self.head.manifest),
            graph: self.shape.graph,
        };
        let enumerators = pending.enumerators.clone().unwrap_or_default();
        let parts = pending.parts.iter();
        let mut manifest = match assemble::assemble(&self.shape, title, parts, &enumerators) {
            Ok(manifest) => manifest,
            Err((task, fault)) => {
                let id = pending.id;
                self.phase = Phase::Collecting(pending);
                let failure = CheckpointFailure::WrongSnapshot { task, id, fault };
                return self.decline(now_ms, failure, effects);
            }
        };
        manifest.drained = pending.kind.stop_mode() == Some(StopMode::Drain);
        manifest.savepoint = savepoint;
        manifest.rescaled = self.rescaled_by(&pending);
        let (bytes, hash) = manifest.encode();
        let name = ManifestName {
            epoch: pending.id.epoch,
            number: pending.id.number,
            nonce: pending.nonce,
        };
        let built = Built {
            manifest: ManifestRef { name, hash },
            files: manifest.files.clone(),
            commits: commits_of(&manifest),
            rescaled: manifest.rescaled,
        };
        if planted(Mutant::HeadBeforeManifest) {
            self.move_head(pending, built, effects);
            effects.push(CheckpointEffect::WriteManifest { name, bytes, hash });
            return;
        }
        effects.push(CheckpointEffect::WriteManifest { name, bytes, hash });
        self.phase = Phase::Storing(pending, built);
    }

    /// What the manifest says of the parallelism: what its request says, or else what the manifest before it does.
    fn rescaled_by(&self, pending: &Pending) -> Option<Rescaled> {
        let request = pending.request.as_ref();
        request
            .and_then(SnapshotRequest::rescaled)
            .filter(|_| !planted(Mutant::RescaleForgotten))
            .or(self.rescaled.as_ref())
            .cloned()
    }

    /// The slots that may be used once the checkpoint is complete (L6): those of the exactly-once sinks, where it rescales.
    fn slots_by(&self, pending: &Pending) -> SlotCounts {
        let request = pending.request.as_ref();
        let rescaled = request
            .and_then(SnapshotRequest::rescaled)
            .filter(|_| !planted(Mutant::SlotsNotRaised));
        let Some(rescaled) = rescaled else {
            return SlotCounts::new();
        };
        let used = self.shape.sinks.keys().filter_map(|sink| {
            let parallelism = rescaled.parallelism_of(sink)?;
            Some((sink.clone(), parallelism.0))
        });
        used.collect()
    }

    pub(super) fn manifest_written(
        &mut self,
        now_ms: u64,
        id: CheckpointId,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        match phase {
            Phase::Storing(pending, built) if pending.id == id => {
                if planted(Mutant::CommitBeforeHead) {
                    let slots = built.commits.clone();
                    order_commits(
                        &Unconfirmed {
                            id,
                            slots,
                            ordered_ms: now_ms,
                        },
                        effects,
                    );
                }
                self.move_head(pending, built, effects);
            }
            other => self.phase = other,
        }
    }

    fn move_head(&mut self, pending: Pending, built: Built, effects: &mut Vec<CheckpointEffect>) {
        // S3: every slot acknowledged only after it had confirmed the checkpoint that is in head now.
        let confirmed = if built.commits.is_empty() {
            pending.id.number
        } else {
            self.head.number
        };
        let change = HeadChange::Complete {
            manifest: built.manifest,
            confirmed,
            slots: self.slots_by(&pending),
        };
        effects.push(CheckpointEffect::WriteHead(change));
        self.phase = Phase::Moving {
            pending,
            built,
            contested: false,
            lost: false,
        };
    }

    pub(super) fn head_decided(
        &mut self,
        now_ms: u64,
        outcome: HeadOutcome,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        let value = match outcome {
            HeadOutcome::Superseded(_) => return effects.push(CheckpointEffect::StepDown),
            HeadOutcome::Vanished => return effects.push(CheckpointEffect::HeadVanished),
            HeadOutcome::Corrupt(reason) => {
                return effects.push(CheckpointEffect::HeadDamaged { reason });
            }
            HeadOutcome::Refused(refusal) => {
                self.phase = phase;
                return self.head_refused(now_ms, refusal, effects);
            }
            HeadOutcome::Won(value) => Ok(value.head),
            HeadOutcome::Declined(value) => Err(value.head),
        };
        match (phase, value) {
            (
                Phase::Moving {
                    pending,
                    built,
                    lost,
                    ..
                },
                Ok(head),
            ) => {
                self.head = head;
                self.phase = if lost { Phase::Waiting } else { Phase::Idle };
                self.completed_now(now_ms, pending, built, effects);
            }
            (
                Phase::Moving {
                    pending,
                    built,
                    lost,
                    ..
                },
                Err(head),
            ) => {
                self.head = head;
                self.phase = Phase::Storing(pending, built);
                let Phase::Storing(pending, _) = &self.phase else {
                    unreachable!("just set")
                };
                let failure = if lost {
                    CheckpointFailure::TasksLost { id: pending.id }
                } else {
                    timeout(
                        pending,
                        self.settings.timeout_ms,
                        &self.shape,
                        &self.finished,
                    )
                };
                self.decline(now_ms, failure, effects);
                if lost {
                    self.phase = Phase::Waiting;
                }
            }
            (Phase::Recording { lost }, Ok(head)) => {
                self.head = head;
                self.phase = if lost { Phase::Waiting } else { Phase::Idle };
            }
            (Phase::Ending { .. }, Ok(head)) => {
                self.head = head;
                self.tell(effects);
            }
            (phase, value) => panic!("no head write was asked for in {phase:?}, decided {value:?}"),
        }
    }

    /// The write was refused without ever being sent before: `head` is what it was.
    fn head_refused(&mut self, now_ms: u64, refusal: Refusal, effects: &mut Vec<CheckpointEffect>) {
        let lost = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Moving {
                pending,
                built,
                lost,
                ..
            } => {
                let (id, reason) = (pending.id, refusal.reason);
                self.phase = Phase::Storing(pending, built);
                self.decline(
                    now_ms,
                    CheckpointFailure::HeadRefused { id, reason },
                    effects,
                );
                lost
            }
            // Everything is confirmed, only `head` does not say so yet, or not that the job has ended: it is written again after a while.
            Phase::Recording { lost } | Phase::Ending { lost } => {
                let retry_ms = self.settings.commit_retry_ms;
                self.clock.record_ms = now_ms.saturating_add(retry_ms);
                lost
            }
            phase => panic!("no head write was asked for in {phase:?}, decided {refusal}"),
        };
        if lost {
            self.phase = Phase::Waiting;
        }
    }

    fn completed_now(
        &mut self,
        now_ms: u64,
        pending: Pending,
        built: Built,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        let lost = matches!(self.phase, Phase::Waiting);
        self.clock.ended_ms = now_ms;
        self.clock.failures = 0;
        self.clock.is_declined = false;
        self.base = built.files;
        self.rescaled = built.rescaled;
        let id = pending.id;
        let waiting = Unconfirmed {
            id,
            slots: built.commits,
            ordered_ms: now_ms,
        };
        effects.push(CheckpointEffect::Completed { id });
        if pending.request.is_some() || pending.is_final {
            self.closing = Some(Closing {
                id,
                request: pending.request,
                owed: None,
                is_final: pending.is_final,
                copy: Copying::Due,
            });
        }
        if waiting.slots.is_empty() {
            self.unconfirmed = None;
            effects.push(CheckpointEffect::AllConfirmed { id });
        } else {
            if !lost {
                order_commits(&waiting, effects);
            }
            self.unconfirmed = Some(waiting);
        }
    }

    pub(super) fn decline(
        &mut self,
        now_ms: u64,
        failure: CheckpointFailure,
        effects: &mut Vec<CheckpointEffect>,
    ) {
        let (pending, built) = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Collecting(pending) => (pending, None),
            Phase::Storing(pending, built) => (pending, Some(built)),
            other => panic!("nothing may be declined in {other:?}"),
        };
        self.clock.ended_ms = now_ms;
        self.clock.is_declined = true;
        self.requests.wanted |= pending.is_wanted;
        // Tasks that fail are counted by the restart strategy.
        let counts = !matches!(failure, CheckpointFailure::TasksLost { .. });
        self.clock.failures += u32::from(counts);
        let in_a_row = self.clock.failures;
        effects.push(CheckpointEffect::Decline { id: pending.id });
        let paths = self.orphans(&pending, built.as_ref());
        if !paths.is_empty() {
            effects.push(CheckpointEffect::DeleteOrphans { paths });
        }
        match pending.request {
            Some(request) if request.stops() => self.requests.add(request),
            Some(request) => effects.push(CheckpointEffect::RequestFailed {
                request: request.request,
                failure: failure.clone(),
            }),
            None => {}
        }
        effects.push(CheckpointEffect::Failed { failure, in_a_row });
        match pending.kind.stop_mode() {
            Some(StopMode::Suspend) => effects.push(CheckpointEffect::ResumeSources),
            Some(StopMode::Drain) => effects.push(CheckpointEffect::RestartRegion),
            None => {}
        }
        if counts && self.settings.failures_max.is_some_and(|max| in_a_row > max) {
            effects.push(CheckpointEffect::FailJob { in_a_row });
        }
    }

    /// What the try has written and nobody refers to, the manifest first.
    fn orphans(&self, pending: &Pending, built: Option<&Built>) -> Vec<RelativePath> {
        let mut paths: Vec<RelativePath> = built
            .iter()
            .map(|built| manifest_path(&built.manifest.name))
            .collect();
        let parts = pending.parts.values().flat_map(TaskSnapshot::paths);
        paths.extend(parts.filter(|path| !self.base.contains_key(path)).cloned());
        paths
    }
}
