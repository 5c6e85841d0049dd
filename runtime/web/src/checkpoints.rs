//! Checkpoints and operations for whoever asks the server.
//!
//! Called by the routes. Pure but for the clock of the view.

use highwater_coordinator::{
    CheckpointOutcome, CheckpointStatus, Operation, PastCheckpoint, SnapshotWish,
};
use highwater_protocol::manifest::StateBytes;
use highwater_types::{BarrierKind, StopMode};
use highwater_web_api as api;

use crate::problem;
use crate::view::JobView;

/// The figures of checkpoints, without their history.
pub(crate) fn in_short(view: &JobView, checkpoints: &CheckpointStatus) -> api::Checkpoints {
    api::Checkpoints {
        completed: checkpoints.completed.map(|id| id.number),
        epoch: checkpoints.completed.map(|id| id.epoch.0),
        age_ms: view.age_ms(checkpoints.completed_at_ms),
        duration_ms: checkpoints.duration_ms,
        bytes: checkpoints.bytes,
        full_bytes: checkpoints.full_bytes,
        confirmed: checkpoints.is_confirmed,
        pending: checkpoints.pending.map(|id| id.number),
        completed_count: checkpoints.completed_count,
        failed_count: checkpoints.failed_count,
        last_failure: checkpoints.last_failure.clone(),
        cleanup_failure: checkpoints.cleanup_failure.clone(),
        history: Vec::new(),
    }
}

/// The same with their history, the newest first.
pub(crate) fn checkpoints(view: &JobView) -> api::Checkpoints {
    let status = view.status.borrow().clone();
    let history = status.history.all().rev();
    api::Checkpoints {
        history: history.map(|held| checkpoint(view, held)).collect(),
        ..in_short(view, &status.checkpoints)
    }
}

/// The newest checkpoint of this number with its tasks, if it is kept.
pub(crate) fn details(view: &JobView, number: u64) -> Option<api::CheckpointDetails> {
    let status = view.status.borrow();
    let mut newest_first = status.history.all().rev();
    let held = newest_first.find(|held| held.id.number == number)?;
    let tasks = held.tasks.iter().map(|(uid, part)| api::TaskPart {
        task: uid.to_string(),
        subtasks: part.subtasks,
        answered: part.answered,
        first_answer_ms: part.first_ms,
        last_answer_ms: part.last.map(|(after_ms, _)| after_ms),
        last_subtask: part.last.map(|(_, subtask)| subtask.0),
        bytes: part.bytes.new,
        referenced_bytes: part.bytes.referenced,
    });
    Some(api::CheckpointDetails {
        checkpoint: checkpoint(view, held),
        tasks: tasks.collect(),
    })
}

fn checkpoint(view: &JobView, held: &PastCheckpoint) -> api::Checkpoint {
    let mut answered = StateBytes::default();
    for part in held.tasks.values() {
        answered.new += part.bytes.new;
        answered.referenced += part.bytes.referenced;
    }
    let (outcome, ended_ms, bytes, confirmed_ms, reason) = match &held.outcome {
        CheckpointOutcome::Pending => {
            let outcome = api::CheckpointOutcome::Pending;
            (outcome, view.now_ms(), answered, None, None)
        }
        CheckpointOutcome::Completed {
            at_ms,
            bytes,
            confirmed_ms,
        } => {
            let outcome = api::CheckpointOutcome::Completed;
            (outcome, *at_ms, *bytes, *confirmed_ms, None)
        }
        CheckpointOutcome::GivenUp { at_ms, reason } => {
            let outcome = api::CheckpointOutcome::GivenUp;
            (outcome, *at_ms, answered, None, Some(reason.clone()))
        }
    };
    api::Checkpoint {
        number: held.id.number,
        epoch: held.id.epoch.0,
        kind: held.kind.map(kind),
        outcome,
        age_ms: view.now_ms().saturating_sub(held.began_ms),
        duration_ms: ended_ms.saturating_sub(held.began_ms),
        confirmation_ms: confirmed_ms.map(|at| at.saturating_sub(ended_ms)),
        bytes: bytes.new,
        full_bytes: bytes.new + bytes.referenced,
        answered: held.tasks.values().map(|part| part.answered).sum(),
        subtasks: held.tasks.values().map(|part| part.subtasks).sum(),
        reason,
    }
}

const fn kind(kind: BarrierKind) -> api::CheckpointKind {
    match (kind.stop_mode(), kind.is_savepoint()) {
        (None, false) => api::CheckpointKind::Checkpoint,
        (None, true) => api::CheckpointKind::Savepoint,
        (Some(StopMode::Suspend), _) => api::CheckpointKind::StopSuspend,
        (Some(StopMode::Drain), _) => api::CheckpointKind::StopDrain,
    }
}

/// An operation.
pub(crate) fn operation(view: &JobView, held: &Operation) -> api::Operation {
    let end = held.end.as_ref();
    let answer = end.map(|end| &end.answer);
    let done = answer.and_then(|answer| answer.as_ref().ok());
    let refused = answer.and_then(|answer| answer.as_ref().err());
    let now = view.now_ms();
    let ended_ms = end.map_or(now, |end| end.at_ms);
    api::Operation {
        operation: held.id.to_string(),
        kind: match held.wish {
            SnapshotWish::Checkpoint => api::OperationKind::Checkpoint,
            SnapshotWish::Savepoint { .. } => api::OperationKind::Savepoint,
            SnapshotWish::Rescale(_) => api::OperationKind::Rescale,
            SnapshotWish::Stop { .. } => api::OperationKind::Stop,
        },
        state: match answer {
            None => api::OperationState::Running,
            Some(Ok(_)) => api::OperationState::Done,
            Some(Err(_)) => api::OperationState::Refused,
        },
        savepoint: held.wish.savepoint().map(str::to_owned),
        checkpoint: done.map(|id| id.number),
        epoch: done.map(|id| id.epoch.0),
        age_ms: now.saturating_sub(held.began_ms),
        duration_ms: ended_ms.saturating_sub(held.began_ms),
        problem: refused.map(|refused| problem::of(refused).1),
    }
}
