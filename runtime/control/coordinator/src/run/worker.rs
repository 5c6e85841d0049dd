//! What the worker tells, for the current attempt only.

use highwater_protocol::checkpoint::CheckpointEvent;
use highwater_protocol::head_write::authority;
use highwater_protocol::job::TaskId;
use highwater_protocol::recovery::{Fault, RegionEvent};
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{AttemptId, BarrierKind, ErrorKind};
use highwater_worker::{FailureReport, WorkerEvent};

use crate::attempt::{After, AttemptStage};
use crate::start::{failed, failure};
use crate::status::describe;

use super::{Coordinator, Done, attempt_of};

impl Coordinator {
    pub(super) fn worker_gone(&mut self) {
        self.end = Some(Err(failure(ErrorKind::Bug, "the worker ended by itself")));
    }

    pub(super) fn is_current(&self, attempt: AttemptId) -> bool {
        self.attempt.as_ref().is_some_and(|current| {
            current.id == attempt && current.stage != AttemptStage::Cancelling
        })
    }

    pub(super) fn tasks(&self) -> Vec<TaskId> {
        self.shape.tasks.keys().cloned().collect()
    }

    pub(super) fn worker_event(&mut self, event: WorkerEvent) {
        if let WorkerEvent::Cancelled(attempt) = event {
            if self
                .attempt
                .as_ref()
                .is_some_and(|current| current.id == attempt)
                && let Some(ended) = self.attempt.take()
            {
                self.follow(ended.after);
            }
            return;
        }
        if !self.is_current(attempt_of(&event)) {
            return;
        }
        let now = self.now_ms();
        match event {
            WorkerEvent::Verified(_) => {
                for task in self.tasks() {
                    self.region(RegionEvent::Verified(task));
                }
            }
            WorkerEvent::Damaged(_, fault, report) => self.damaged(fault, *report),
            WorkerEvent::Opened(_) => {
                for task in self.tasks() {
                    self.region(RegionEvent::Opened(task));
                }
            }
            WorkerEvent::Acked {
                task,
                attempt,
                id,
                snapshot,
            } => {
                let event = CheckpointEvent::Acked {
                    task,
                    attempt,
                    id,
                    snapshot,
                };
                self.step(now, event);
            }
            WorkerEvent::Refused {
                task,
                attempt,
                id,
                reason,
            } => {
                self.step(
                    now,
                    CheckpointEvent::Refused {
                        task,
                        attempt,
                        id,
                        reason,
                    },
                );
            }
            WorkerEvent::InputEnded(attempt, task) => {
                self.step(now, CheckpointEvent::InputEnded { task, attempt });
            }
            other => self.slot_or_failure(now, other),
        }
    }

    /// What slots tell, and what ends an attempt.
    pub(super) fn slot_or_failure(&mut self, now: u64, event: WorkerEvent) {
        match event {
            WorkerEvent::SlotConfirmed(attempt, slot, id) => {
                let number = id.number;
                self.region(RegionEvent::Confirmed {
                    slot: slot.clone(),
                    number,
                });
                self.step(
                    now,
                    CheckpointEvent::Confirmed {
                        slot,
                        attempt,
                        number,
                    },
                );
            }
            WorkerEvent::SlotVoided(attempt, slot, _) => {
                // In a recovery the region goes back; while records flow a recovery is due first.
                self.region(RegionEvent::Void(slot.clone()));
                self.step(now, CheckpointEvent::Voided { slot, attempt });
            }
            WorkerEvent::SlotExamined(_, slot, id, found) => {
                tracing::info!(%slot, checkpoint = %id, ?found, "examined");
            }
            WorkerEvent::AskAuthority(attempt, slot) => self.answer_authority(attempt, slot),
            // A stop takes a checkpoint of its own.
            WorkerEvent::RequestCheckpoint(_) if self.stopping.is_some() => {}
            WorkerEvent::RequestCheckpoint(_) => {
                let request = self.new_request(None, BarrierKind::Checkpoint);
                self.step(now, CheckpointEvent::Request(request));
            }
            WorkerEvent::Failed(_, report) => self.attempt_failed(*report),
            WorkerEvent::Stop(attempt, stop) => self.stop_told(attempt, stop),
            answered => unreachable!("{answered:?} is handled above"),
        }
    }

    /// A file of the checkpoint is damaged: the region decides what that means.
    fn damaged(&mut self, fault: Fault, report: FailureReport) {
        tracing::error!(error = describe(&report), "the checkpoint cannot be used");
        self.status
            .send_modify(|status| status.failure = Some(report));
        if let Some(attempt) = &mut self.attempt {
            attempt.fault = fault;
        }
        if let Some(task) = self.tasks().into_iter().next() {
            self.region(RegionEvent::Damaged(task));
        }
    }

    /// A stop counts only if this leader still owns the epoch: a deposed one sees markers of its successor.
    fn stop_told(&mut self, attempt: AttemptId, stop: NamedStop) {
        let Some(epoch) = self.keeper.settled().map(|settled| settled.head.epoch) else {
            // A write is undecided: whoever it leaves in charge hears of the stop again from the next attempt.
            return self.cancel(After::Restart);
        };
        let store = self.store.clone();
        self.at_rim(async move {
            match store.assert_leading(epoch).await {
                Ok(()) => Done::Stopped(attempt, failed(&stop)),
                Err(failure) => Done::Stopped(attempt, failure),
            }
        });
    }

    pub(super) fn attempt_failed(&mut self, report: FailureReport) {
        let message = describe(&report);
        tracing::error!(error = message, "attempt failed");
        let kind = report.kind;
        self.status.send_modify(|status| {
            status.restarts += 1;
            status.failure = Some(report);
        });
        self.cancel(After::of(failure(kind, message)));
    }

    /// Answers a slot only after `head` was just read and is of this epoch (S5).
    pub(super) fn answer_authority(&mut self, attempt: AttemptId, slot: SlotKey) {
        let Some(epoch) = self.keeper.settled().map(|settled| settled.head.epoch) else {
            return;
        };
        let store = self.store.clone();
        self.at_rim(async move {
            let read = store.read_head().await.ok().flatten();
            match read {
                Some(found) if found.head.epoch > epoch => Done::Deposed(found.head.epoch),
                read => {
                    let word = read.and_then(|found| authority(&found.head, epoch, true));
                    Done::Authority(attempt, slot, word)
                }
            }
        });
    }
}
