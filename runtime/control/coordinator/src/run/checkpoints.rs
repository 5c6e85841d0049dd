//! The effects of the checkpoint machine, performed in order.

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::checkpoint::{CheckpointEffect, CheckpointEvent, CheckpointFailure};
use highwater_protocol::gc::Gc;
use highwater_protocol::head::HeadChange;
use highwater_protocol::head_write::{HeadWriteEffect, HeadWriteEvent};
use highwater_protocol::job::TaskId;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::{ManifestName, SavepointPaths};
use highwater_protocol::steps::Step;
use highwater_types::{CheckpointId, ErrorKind};
use highwater_worker::WorkerCommand;
use highwater_worker::slot::error_chain;

use crate::attempt::{After, Attempt, AttemptStage};
use crate::deploy::LogCheck;
use crate::housekeeping::{Copied, collect, delete, export};
use crate::request::RequestRefused;
use crate::setup::JobOutcome;
use crate::start::{failed, failure};
use crate::status::JobPhase;
use crate::store::{HEAD_GONE, StoreError, Troubles};

use super::{Collecting, Coordinator, Done};

impl Coordinator {
    pub(super) fn step(&mut self, now_ms: u64, event: CheckpointEvent) {
        let effects = self.machine.step(now_ms, event);
        self.perform(effects);
    }

    pub(super) fn perform(&mut self, effects: Vec<CheckpointEffect>) {
        let ends = |effect: &CheckpointEffect| match effect {
            CheckpointEffect::EndJob(end) => Some(JobOutcome::from(*end)),
            _ => None,
        };
        if let Some(outcome) = effects.iter().find_map(ends) {
            self.note_end(outcome);
        }
        for effect in effects {
            self.effect(effect);
        }
    }

    pub(super) fn effect(&mut self, effect: CheckpointEffect) {
        match effect {
            CheckpointEffect::SnapshotEnumerators { id } => self.snapshot_enumerators(id),
            CheckpointEffect::Announce { id } => {
                self.redeploying.begun_ms = self.now_ms();
                self.send(WorkerCommand::Expect(self.last_attempt, id));
            }
            CheckpointEffect::SendBarrier { task, barrier } => {
                (self.setup.stop)(Step::P2);
                self.status
                    .send_modify(|status| status.history.sent(barrier.id, barrier.kind));
                // One trigger reaches all sources of the worker; repeated ones for the same barrier change nothing.
                self.trigger(&task, barrier);
            }
            CheckpointEffect::Decline { id } => {
                self.next_manifest = None;
                self.send(WorkerCommand::Declined(self.last_attempt, id));
            }
            CheckpointEffect::WriteManifest { name, bytes, .. } => {
                (self.setup.stop)(Step::P7);
                self.write_manifest(name, bytes);
            }
            CheckpointEffect::WriteHead(change) => self.write_head(&change),
            CheckpointEffect::ContestHead => {
                let nonce = self.nonces.draw();
                let effects = self.keeper.step(HeadWriteEvent::Contest { nonce });
                self.head_effects(effects);
            }
            CheckpointEffect::Completed { id } => self.completed(id),
            CheckpointEffect::OrderCommit { slot, id } => {
                (self.setup.stop)(Step::P9);
                self.send(WorkerCommand::Commit(self.last_attempt, slot, id));
            }
            CheckpointEffect::AllConfirmed { id } => {
                let now = self.now_ms();
                self.status.send_modify(|status| {
                    let checkpoints = &mut status.checkpoints;
                    checkpoints.is_confirmed = checkpoints.completed == Some(id);
                    checkpoints.confirmed = checkpoints.confirmed.max(Some(id.number));
                    status.history.confirmed(id, now);
                });
                self.collect_garbage();
            }
            CheckpointEffect::DeleteOrphans { paths } => {
                let store = self.store.clone();
                self.at_rim(async move {
                    if let Err(error) = delete(&store, &paths).await {
                        let error = error_chain(&error);
                        tracing::warn!(error, "orphans are left for the next collection");
                    }
                    Done::Orphans
                });
            }
            CheckpointEffect::Export { id, savepoint } => self.export(id, &savepoint),
            other => self.effect_for_people(other),
        }
    }

    /// Effects that end something or answer somebody.
    pub(super) fn effect_for_people(&mut self, effect: CheckpointEffect) {
        match effect {
            CheckpointEffect::RequestDone { request, id } => self.answer(request, &Ok(id)),
            CheckpointEffect::RequestFailed { request, failure } => {
                // Only the request that stops may end the stop.
                let running = |held: &Attempt| held.stage == AttemptStage::Running;
                if self.stopping == Some(request) {
                    self.stopping = None;
                    if self.attempt.as_ref().is_some_and(running) {
                        self.phase(JobPhase::Running);
                    }
                }
                self.redeployment_failed(request);
                let is_of_copy = matches!(failure, CheckpointFailure::Export { .. });
                let cause = if is_of_copy {
                    self.not_copied.take()
                } else {
                    None
                };
                let refused = match (failure, cause) {
                    (CheckpointFailure::Export { id }, Some(cause)) => RequestRefused::Store {
                        kind: cause.kind,
                        message: format!(
                            "the savepoint was not copied: {}; checkpoint {id} itself is complete, and a start that finds \
                             it the newest one copies it",
                            cause.message
                        ),
                    },
                    (failure, _) => RequestRefused::from(failure),
                };
                self.answer(request, &Err(refused));
            }
            CheckpointEffect::Failed { failure, in_a_row } => {
                tracing::warn!(in_a_row, reason = %failure, "checkpoint given up");
                let now = self.now_ms();
                self.status.send_modify(|status| {
                    let reason = failure.to_string();
                    status.history.given_up(&reason, now);
                    status.checkpoints.pending = None;
                    status.checkpoints.failed_count += 1;
                    status.checkpoints.failed_in_a_row = u64::from(in_a_row);
                    status.checkpoints.last_failure = Some(reason);
                });
            }
            CheckpointEffect::ResumeSources => {
                self.send(WorkerCommand::ResumeSources(self.last_attempt));
            }
            CheckpointEffect::RestartRegion => self.cancel(After::Restart),
            CheckpointEffect::Redeploy { .. } => {
                self.phase(JobPhase::Recovering);
                self.cancel(After::Redeploy);
            }
            CheckpointEffect::FailJob { in_a_row } => {
                let message = format!(
                    "{in_a_row} checkpoints failed in a row, more than `checkpoint.failures-max` \
                     allows; see the last reasons in the log"
                );
                self.cancel(After::Fail(failure(ErrorKind::Exhausted, message)));
            }
            CheckpointEffect::EndJob(end) => self.cancel(After::End(JobOutcome::from(end))),
            CheckpointEffect::StepDown => {
                let message = "another coordinator took the job; this one ends and changes nothing";
                self.leave(Err(failure(ErrorKind::Fenced, message)));
            }
            CheckpointEffect::HeadVanished => {
                self.cancel(After::Fail(failure(ErrorKind::Corrupt, HEAD_GONE)));
            }
            CheckpointEffect::HeadDamaged { reason } => {
                self.cancel(After::Fail(failure(ErrorKind::Corrupt, reason)));
            }
            performed => unreachable!("{performed:?} is performed above"),
        }
    }

    /// Writes a manifest that can be read again; one that cannot is never made the head's.
    fn write_manifest(&mut self, name: ManifestName, bytes: Vec<u8>) {
        match Manifest::decode(&bytes) {
            Ok(manifest) => {
                if let Some(reason) = self.lacks_slots_for(&manifest) {
                    let id = name.id();
                    let withdrawn = CheckpointEvent::Withdrawn { id, reason };
                    return self.step(self.now_ms(), withdrawn);
                }
                self.next_manifest = Some(manifest);
            }
            Err(error) => {
                let (error, length) = (error_chain(&error), bytes.len());
                tracing::error!(error, length, "the manifest could not be read back");
                let id = name.id();
                return self.step(self.now_ms(), CheckpointEvent::ManifestFailed { id });
            }
        }
        let store = self.store.clone();
        self.at_rim(async move {
            let written = store.write_manifest(&name, bytes).await;
            Done::Manifest(name.id(), written)
        });
    }

    pub(super) fn trigger(&mut self, task: &TaskId, barrier: highwater_types::CheckpointBarrier) {
        if self.shape.sources.contains(&task.vertex) {
            self.send(WorkerCommand::Trigger(
                self.last_attempt,
                task.clone(),
                barrier,
            ));
        }
    }

    pub(super) fn snapshot_enumerators(&mut self, id: CheckpointId) {
        (self.setup.stop)(Step::P1);
        let Some(attempt) = &self.attempt else { return };
        let states = attempt.sources.iter();
        let states = states
            .map(|(uid, (source, _))| (uid.clone(), source.snapshot()))
            .collect();
        let now = self.now_ms();
        self.status.send_modify(|status| {
            status.checkpoints.pending = Some(id);
            status.history.begin(id, now, self.shape.tasks.keys());
        });
        self.answered.clear();
        self.step(self.now_ms(), CheckpointEvent::Enumerators { id, states });
    }

    pub(super) fn write_head(&mut self, change: &HeadChange) {
        (self.setup.stop)(Step::P8);
        let nonce = self.nonces.draw();
        let effects = self.keeper.begin(change, nonce);
        self.head_effects(effects);
    }

    pub(super) fn head_effects(&mut self, effects: Vec<HeadWriteEffect>) {
        for effect in effects {
            match effect {
                HeadWriteEffect::Decided(outcome) => {
                    let event = CheckpointEvent::HeadDecided(outcome);
                    self.step(self.now_ms(), event);
                    self.prepare_late();
                }
                effect => {
                    // The first look after a write: its answer was none that decides.
                    if matches!(effect, HeadWriteEffect::Read { tries: 1 }) {
                        self.status
                            .send_modify(|status| status.checkpoints.head_conflicts += 1);
                    }
                    let store = self.store.clone();
                    let troubles = Troubles::new(self.status.clone());
                    self.at_rim(async move { Done::Head(store.perform(effect, &troubles).await) });
                }
            }
        }
    }

    pub(super) fn completed(&mut self, id: CheckpointId) {
        if let Some(next) = self.next_manifest.take() {
            debug_assert_eq!(
                next.id, id,
                "the completed manifest is the one that was written"
            );
            self.manifest = next;
            self.logs = LogCheck::Verify;
        }
        self.send(WorkerCommand::Completed(self.last_attempt, id));
        let now = self.now_ms();
        let bytes = self.manifest.state_bytes();
        self.status.send_modify(|status| {
            let took_ms = status.history.completed(id, bytes, now);
            let checkpoints = &mut status.checkpoints;
            checkpoints.completed = Some(id);
            checkpoints.completed_at_ms = Some(now);
            checkpoints.duration_ms = took_ms;
            checkpoints.completed_count += 1;
            checkpoints.failed_in_a_row = 0;
            if let Some(took_ms) = took_ms {
                let took = Duration::from_millis(took_ms);
                checkpoints.durations.observe(took);
            }
            checkpoints.pending = None;
            checkpoints.is_confirmed = false;
            checkpoints.bytes = bytes.new;
            checkpoints.full_bytes = bytes.new + bytes.referenced;
        });
    }

    pub(super) fn collect_garbage(&mut self) {
        let Some(settled) = self.keeper.settled() else {
            return;
        };
        if self.collecting == Collecting::Yes {
            return;
        }
        (self.setup.stop)(Step::P12);
        self.collecting = Collecting::Yes;
        let retention = self.setup.settings.retention;
        let (gc, first) = Gc::start(&settled.head, retention, self.machine.protected_from());
        let store = self.store.clone();
        self.at_rim(async move { Done::Collected(collect(store, gc, first).await) });
    }

    pub(super) fn export(&mut self, id: CheckpointId, savepoint: &str) {
        let target = SavepointPaths::parse(&self.setup.settings.savepoints, savepoint);
        let (store, manifest) = (self.store.clone(), self.manifest.clone());
        match target {
            Ok(target) => {
                let stop = Arc::clone(&self.setup.stop);
                let savepoint = savepoint.to_owned();
                self.at_rim(async move {
                    let copied = export(&store, &manifest, &target, None, &stop).await;
                    Done::Exported(id, savepoint, copied)
                });
            }
            Err(error) => {
                tracing::error!(%error, "savepoint name");
                self.not_copied = Some(failure(ErrorKind::Invalid, error.to_string()));
                self.step(self.now_ms(), CheckpointEvent::ExportFailed { id });
            }
        }
    }

    /// The copy of a savepoint has ended. Whoever asked may be gone: then the log and the status tell.
    pub(super) fn exported(
        &mut self,
        id: CheckpointId,
        savepoint: &str,
        copied: Result<Copied, StoreError>,
    ) {
        let event = match copied {
            Ok(copied) => {
                let checkpoint = id.number;
                if copied == Copied::Now {
                    tracing::info!(savepoint, checkpoint, "the savepoint is complete");
                    self.status
                        .send_modify(|status| status.checkpoints.savepoints_count += 1);
                }
                CheckpointEvent::Exported { id }
            }
            Err(error) => {
                let reason = error_chain(&error);
                tracing::error!(savepoint, reason, "the savepoint was not copied");
                self.status.send_modify(|status| {
                    let text = format!("savepoint {savepoint} was not copied: {reason}");
                    status.checkpoints.last_failure = Some(text);
                });
                self.not_copied = Some(failed(&error));
                CheckpointEvent::ExportFailed { id }
            }
        };
        self.step(self.now_ms(), event);
    }
}
