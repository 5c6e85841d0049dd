//! A task's part of a checkpoint: chain and sink slots put together, stored, acknowledged.

use std::panic::{AssertUnwindSafe, catch_unwind};

use highwater_protocol::job::TaskId;
use highwater_protocol::manifest::SlotOutput;
use highwater_protocol::steps::Step;
use highwater_protocol::stop::SlotKey;
use highwater_types::{
    AttemptId, CheckpointId, Classified, ErrorKind, KeyGroupRange, SubtaskIndex,
};

use crate::build::task_id;
use crate::files::{StoredPart, TaskPart, store_part};
use crate::messages::{FailureReport, WorkerEvent};
use crate::sink::driver::SinkEvent;
use crate::slot::{error_chain, panic_message};

use super::witness::Witness;
use super::{Attempt, PartFailure, Worker, WorkerInput, give, slot_failure, slot_task};

impl PartFailure {
    /// The job that stored it panicked.
    pub(super) const fn lost(message: String) -> Self {
        Self {
            kind: ErrorKind::Bug,
            message,
            ends_attempt: false,
        }
    }
}

impl Attempt {
    /// The key groups of a task.
    pub(super) fn range_of(&self, task: &TaskId) -> KeyGroupRange {
        let plan = self.program.plan();
        let mut vertices = plan.job.vertices().iter();
        let vertex = vertices.find(|vertex| *plan.uid(vertex.head) == task.vertex);
        let vertex = vertex.unwrap_or_else(|| unreachable!("{task} is a task of the plan"));
        vertex
            .max_parallelism
            .range(task.subtask, vertex.parallelism)
    }

    /// The task that holds a slot.
    pub(super) fn holder(&self, slot: &SlotKey) -> TaskId {
        let plan = self.program.plan();
        let node = plan.sinks().find(|node| *plan.uid(*node) == slot.sink);
        let node = node.unwrap_or_else(|| unreachable!("{slot} is a slot of the plan"));
        let vertex = plan.job.vertex(plan.job.vertex_of(node));
        let subtask = SubtaskIndex(slot.slot % vertex.parallelism.0);
        task_id(&self.program, vertex, subtask)
    }
}

impl Worker {
    /// Stores a task's part, off the loop (P5).
    pub(super) fn store(&self, part: TaskPart) {
        let (files, rim) = (self.setup.files.clone(), self.setup.rim.clone());
        (self.setup.stop)(Step::P5);
        let (task, attempt, id) = (part.task.clone(), part.attempt, part.id);
        let answer = move |result| WorkerInput::Stored {
            task,
            attempt,
            id,
            result,
        };
        let job = move || {
            let stored = store_part(&files, &rim, part);
            stored.map(Box::new).map_err(|error| PartFailure {
                kind: error.kind(),
                message: error_chain(&error),
                ends_attempt: error.ends_attempt(),
            })
        };
        self.off_loop(job, |message| Err(PartFailure::lost(message)), answer);
    }

    /// Runs a job off the loop. Its result is answered, and a panic too: a job that is lost is a failure, never silence.
    pub(super) fn off_loop<R>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
        lost: impl FnOnce(String) -> R + Send + 'static,
        answer: impl FnOnce(R) -> WorkerInput + Send + 'static,
    ) {
        let inputs = self.inputs.clone();
        self.setup.rim.spawn_blocking(move || {
            let result = catch_unwind(AssertUnwindSafe(job))
                .unwrap_or_else(|panic| lost(panic_message(panic.as_ref())));
            give(&inputs, answer(result));
        });
    }

    pub(super) fn stored(
        &mut self,
        task: TaskId,
        attempt: AttemptId,
        id: CheckpointId,
        result: Result<Box<StoredPart>, PartFailure>,
    ) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        let reason = match result {
            Ok(stored) => {
                let StoredPart { snapshot, stores } = *stored;
                if held.files.stored(id, task.subtask, stores) {
                    held.parts.entry((id, task.clone())).or_default().chain = Some(snapshot);
                    return self.ack(&task, attempt, id);
                }
                "it was given up while its state was stored".to_owned()
            }
            Err(failure) if failure.ends_attempt => {
                let what = format!("storing the state of {}", task.vertex);
                let report = FailureReport::of(what, failure.kind, failure.message);
                return self.fail(attempt, report.in_subtask(task.subtask));
            }
            Err(failure) => failure.message,
        };
        self.tell(WorkerEvent::Refused {
            task,
            attempt,
            id,
            reason,
        });
    }

    pub(super) fn files_completed(&mut self, attempt: AttemptId, id: CheckpointId) {
        let held = self.current.as_mut();
        if let Some(held) = held.filter(|held| held.deployment.attempt == attempt) {
            held.files.completed(id, &mut self.kept);
        }
    }

    pub(super) fn files_declined(&mut self, attempt: AttemptId, id: CheckpointId) {
        if let Some(held) = self.held(attempt) {
            held.files.declined(id);
        }
    }

    pub(super) fn sink_event(&mut self, attempt: AttemptId, slot: SlotKey, event: SinkEvent) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        match event {
            SinkEvent::Ack {
                id,
                output,
                marker_offset,
            } => {
                let task = held.holder(&slot);
                let part = held.parts.entry((id, task.clone())).or_default();
                let seen = part
                    .slots
                    .marker_offsets
                    .entry(slot.sink.clone())
                    .or_default();
                *seen = (*seen).max(marker_offset);
                if matches!(output, SlotOutput::Log(_)) {
                    held.witness.held(&slot, id);
                }
                part.slots.outputs.insert(slot, output);
                self.ack(&task, attempt, id);
            }
            SinkEvent::Decline(id) => {
                let reason = format!("the sink log of slot {slot} cannot be stored now");
                let task = held.holder(&slot);
                self.tell(WorkerEvent::Refused {
                    task,
                    attempt,
                    id,
                    reason,
                });
            }
            SinkEvent::Confirmed(id) => {
                self.seen(attempt, |seen| seen.confirmed(&slot, id));
                self.tell(WorkerEvent::SlotConfirmed(attempt, slot, id));
            }
            SinkEvent::Voided(id) => self.tell(WorkerEvent::SlotVoided(attempt, slot, id)),
            SinkEvent::Examined(id, found) => {
                self.tell(WorkerEvent::SlotExamined(attempt, slot, id, found));
            }
            SinkEvent::AskLeader(_) => self.tell(WorkerEvent::AskAuthority(attempt, slot)),
            SinkEvent::RequestCheckpoint => self.tell(WorkerEvent::RequestCheckpoint(attempt)),
            SinkEvent::Superseded => {
                let message = format!("a newer attempt owns sink slot {slot}");
                self.fail(attempt, slot_failure(&slot, ErrorKind::Fenced, message));
            }
            SinkEvent::Stop(stop) => {
                self.seen(attempt, Witness::stopped);
                self.tell(WorkerEvent::Stop(attempt, stop));
            }
            SinkEvent::Panicked(message) => {
                self.fail(attempt, slot_failure(&slot, ErrorKind::Bug, message));
            }
        }
    }

    /// Tells the coordinator once chain and slots of a task are stored (P6).
    pub(super) fn ack(&mut self, task: &TaskId, attempt: AttemptId, id: CheckpointId) {
        let Some(held) = self.current.as_mut() else {
            return;
        };
        let expected = held
            .mailboxes
            .keys()
            .filter(|slot| slot_task(&held.program, slot).as_ref() == Some(task))
            .count();
        let key = (id, task.clone());
        let Some(part) = held.parts.get(&key) else {
            return;
        };
        if part.chain.is_none() || part.slots.outputs.len() < expected {
            return;
        }
        let part = held.parts.remove(&key).unwrap_or_default();
        let mut snapshot = part.chain.unwrap_or_default();
        snapshot.outputs = part.slots.outputs;
        snapshot.marker_offsets = part.slots.marker_offsets;
        let snapshot = Box::new(snapshot);
        held.witness.acked(task, id);
        (self.setup.stop)(Step::P6);
        self.tell(WorkerEvent::Acked {
            task: task.clone(),
            attempt,
            id,
            snapshot,
        });
    }

    pub(super) fn forget_parts(&mut self, attempt: AttemptId, id: CheckpointId) {
        if let Some(held) = self.held(attempt) {
            held.parts.retain(|(of, _), _| *of != id);
        }
    }
}
