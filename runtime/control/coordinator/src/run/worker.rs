//! What the worker tells, for the current attempt only.

use highwater_protocol::checkpoint::CheckpointEvent;
use highwater_protocol::head_write::authority;
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::recovery::{Fault, RegionEvent};
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{AttemptId, CheckpointId, Classified, ErrorKind};
use highwater_worker::{FailureReport, WorkerEvent};

use crate::attempt::{After, Attempt, AttemptStage};
use crate::restart::Verdict;
use crate::start::{failed, failure};
use crate::status::{PastFailure, WaitBoard, describe};
use crate::store::HEAD_GONE;

use super::{Coordinator, Done, attempt_of};

/// The kind of a failure that comes again each time: nothing passes by itself.
const fn lasting(kind: ErrorKind) -> ErrorKind {
    match kind {
        ErrorKind::Transient => ErrorKind::Invalid,
        kind => kind,
    }
}

impl Coordinator {
    pub(super) fn worker_gone(&mut self) {
        self.end = Some(Err(failure(ErrorKind::Bug, "the worker ended by itself")));
    }

    /// The worker says what still holds the end of an attempt up.
    fn cancelling(&mut self, attempt: AttemptId, waits_for: String) {
        if let Some(held) = &mut self.attempt
            && held.id == attempt
        {
            self.status
                .send_modify(|status| status.waits_for = Some(waits_for));
        }
    }

    /// An attempt that does not end in time will not end at all: a function or a call of a sink never returns. State is
    /// safe, so the process ends and the next one takes over. Where the job itself has ended it ends all the same.
    pub(super) fn give_up_cancelling(&mut self) {
        let now = self.now_ms();
        let limit = self.setup.settings.cancellation_timeout;
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let Some(held) = &self.attempt else { return };
        let Some(since) = held.cancelled_ms else {
            return;
        };
        if now < since.saturating_add(limit_ms) {
            return;
        }
        let waits = self.status.borrow().waits_for.clone();
        let waits = waits.unwrap_or_else(|| "the worker".to_owned());
        let over = held.after.over();
        let next = if over.is_some() {
            "the job itself has ended, and head says so"
        } else {
            "state is kept, start again: the next run goes on from the last checkpoint"
        };
        let message = format!(
            "attempt {} did not end within {limit_ms} ms; it waits for {waits}; {next}",
            held.id.0
        );
        // Threads of this process are not waited for; workers in processes of their own are told to end with a job that is over.
        self.is_stuck = over.is_none() || self.setup.outlived_max.is_none();
        self.end = Some(match over {
            Some(outcome) => {
                tracing::error!(message, "the attempt of a job that has ended");
                Ok(outcome)
            }
            None => Err(failure(ErrorKind::Bug, message)),
        });
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
        if self.taking_over.is_some() {
            return self.told_before(event);
        }
        if let WorkerEvent::Cancelled(attempt) = event {
            return self.cancelled(attempt);
        }
        if let WorkerEvent::Cancelling(attempt, waits_for) = event {
            return self.cancelling(attempt, waits_for);
        }
        if !self.is_current(attempt_of(&event)) {
            return;
        }
        let now = self.now_ms();
        match event {
            WorkerEvent::WaitsForSlots(_, what) => {
                tracing::warn!(what, "the job waits for workers");
                self.note_slots(true);
                self.status
                    .send_modify(|status| status.waits_for = Some(what));
            }
            WorkerEvent::Verified(_, restored) => {
                self.note_slots(false);
                WaitBoard::new(self.status.clone()).goes_on();
                self.status
                    .send_modify(|status| status.restored = Some(restored));
                for task in self.tasks() {
                    self.region(RegionEvent::Verified(task));
                }
            }
            WorkerEvent::Reported(attempt, news) => self.reported_again(attempt, *news),
            WorkerEvent::Damaged(_, fault, report) => self.damaged(fault, *report),
            WorkerEvent::Opened(_) => self.opened(now),
            WorkerEvent::Acked {
                task,
                attempt,
                id,
                snapshot,
            } => {
                self.note_answer(id, &task, &snapshot);
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

    /// Adds an answer to the history, the first of its task.
    fn note_answer(&mut self, id: CheckpointId, task: &TaskId, snapshot: &TaskSnapshot) {
        let is_pending = self.status.borrow().checkpoints.pending == Some(id);
        if is_pending && self.answered.insert(task.clone()) {
            let now = self.now_ms();
            self.status
                .send_modify(|status| status.history.answered(id, task, snapshot, now));
        }
    }

    /// Nothing of the attempt runs any more.
    fn cancelled(&mut self, attempt: AttemptId) {
        let is_held = |held: &mut Attempt| held.id == attempt;
        if let Some(ended) = self.attempt.take_if(is_held) {
            WaitBoard::new(self.status.clone()).goes_on();
            self.note_slots(false);
            self.follow(ended.after);
        }
    }

    /// Every task has opened its state.
    fn opened(&mut self, now: u64) {
        let took = now.saturating_sub(self.prepared_ms);
        let has_state = self.manifest.id.number > 0;
        self.status.send_modify(|status| {
            status.restore_ms = Some(took);
            status.restored_at_ms = has_state.then_some(now);
        });
        for task in self.tasks() {
            self.region(RegionEvent::Opened(task));
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
            WorkerEvent::RequestCheckpoint(_) => self.step(now, CheckpointEvent::Wanted),
            WorkerEvent::Failed(_, report) => self.attempt_failed(*report),
            WorkerEvent::Stop(attempt, stop) => self.stop_told(attempt, stop),
            answered => unreachable!("{answered:?} is handled above"),
        }
    }

    /// A file of the checkpoint is damaged: the region decides what that means.
    fn damaged(&mut self, fault: Fault, report: FailureReport) {
        tracing::error!(error = describe(&report), "the checkpoint cannot be used");
        self.keep_failure(report);
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
            match store.assert_leading(epoch, None).await {
                Ok(()) => Done::Stopped(attempt, failed(&stop)),
                Err(failure) => Done::Stopped(attempt, failure),
            }
        });
    }

    /// Adds a failure to the history.
    pub(super) fn keep_failure(&self, report: FailureReport) {
        let failure = PastFailure {
            at_ms: self.now_ms(),
            attempt: self.last_attempt,
            completed: self.machine.completed(),
            report,
        };
        self.status
            .send_modify(|status| status.failures.push(failure));
    }

    /// One more attempt has failed.
    pub(super) fn count_restart(&self) {
        self.status.send_modify(|status| status.restarts += 1);
    }

    pub(super) fn attempt_failed(&mut self, report: FailureReport) {
        let message = describe(&report);
        tracing::error!(error = message, "attempt failed");
        let kind = report.kind;
        let completed = self.machine.completed();
        let verdict = self.repeats.failed(&report, completed);
        self.keep_failure(report);
        self.count_restart();
        self.cancel(match verdict {
            Verdict::MayPass => After::of(failure(kind, message)),
            Verdict::Stands { times } => After::Fail(failure(
                lasting(kind),
                format!(
                    "{message}; it failed {times} times in the same way, so it will not pass by itself; the state of \
                     checkpoint {completed} is kept, correct the program, its input or its limits and start again"
                ),
            )),
        });
    }

    /// Reads `head` now and then, whatever the attempt does.
    pub(super) fn look_at_head(&mut self) {
        let Some(epoch) = self.keeper.settled().map(|settled| settled.head.epoch) else {
            return;
        };
        if self.now_ms() < self.look_at_ms {
            return;
        }
        // Until it has been read.
        self.look_at_ms = u64::MAX;
        let store = self.store.clone();
        self.at_rim(async move {
            match store.read_head().await {
                Ok(Some(found)) if found.head.epoch > epoch => Done::Deposed(found.head.epoch),
                Ok(_) => Done::Looked,
                Err(error) => {
                    // Whoever has to write it or to ask it says so to people.
                    tracing::debug!(error = highwater_worker::slot::error_chain(&error), "head");
                    Done::Looked
                }
            }
        });
    }

    /// Answers a slot only after `head` was just read and is of this epoch (S5).
    pub(super) fn answer_authority(&mut self, attempt: AttemptId, slot: SlotKey) {
        let Some(epoch) = self.keeper.settled().map(|settled| settled.head.epoch) else {
            return;
        };
        let store = self.store.clone();
        self.at_rim(async move {
            match store.read_head().await {
                Ok(Some(found)) if found.head.epoch > epoch => Done::Deposed(found.head.epoch),
                Ok(Some(found)) => {
                    let word = authority(&found.head, epoch, true);
                    Done::Authority(attempt, slot, word)
                }
                Ok(None) => Done::HeadLost(failure(ErrorKind::Corrupt, HEAD_GONE)),
                Err(error) if error.kind() == ErrorKind::Corrupt => Done::HeadLost(failed(&error)),
                Err(error) => Done::Unread(error),
            }
        });
    }
}
