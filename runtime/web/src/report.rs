//! The JSON of status and tasks. Names are those of `docs/glossary.md`; times are milliseconds.

use std::collections::BTreeMap;

use highwater_coordinator::fleet::WorkerSeen;
use highwater_coordinator::{CheckpointStatus, FailureHistory, JobPhase, PastFailure};
use highwater_operators::SourceReport;
use highwater_protocol::job::TaskId;
use highwater_state::StateReport;
use highwater_types::OperatorUid;
use highwater_worker::TaskFigures;
use serde_json::{Value, json};

use crate::flow::{culprit, event_time, flow, millis};
use crate::{JobView, late};

/// The status of a job.
pub fn status(view: &JobView) -> Value {
    let (status, figures) = (view.status.borrow().clone(), view.figures.read());
    let flow = flow(&view.plan, &figures);
    let event_time = event_time(&figures);
    let lag = event_time.map(|time| view.clock.now().0.saturating_sub(time));
    let reason = match &status.phase {
        JobPhase::Failed { reason } => Some(reason.as_str()),
        _ => status.waits_for.as_deref(),
    };
    let last = status.failures.last();
    let failure = last.map(|failure| past_failure(view, failure));
    json!({
        "job": view.job.as_str(),
        "role": view.role,
        "phase": status.phase.word(),
        "reason": reason,
        "lineage": status.lineage.map(|lineage| lineage.to_string()),
        "epoch": status.epoch.0,
        "attempt": status.attempt.0,
        "restarts": status.restarts,
        "last_failure": failure,
        "records_in": flow.records_in,
        "records_out": flow.records_out,
        "watermark": event_time,
        "watermark_lag_ms": lag,
        "held_back_by": culprit(&figures),
        "workers": workers_in_short(&view.workers.borrow()),
        "sources": sources(&figures),
        "late_records": late::json(&view.plan, &figures),
        "checkpoints": checkpoints(view, &status.checkpoints),
        "restored": status.restored.map(|bytes| {
            json!({ "fetched_bytes": bytes.fetched, "local_bytes": bytes.local })
        }),
    })
}

fn workers_in_short(workers: &[WorkerSeen]) -> Value {
    let slots: u32 = workers.iter().map(|seen| seen.offer.slots).sum();
    json!({ "count": workers.len(), "slots": slots })
}

/// The workers of a coordinator, and what runs on each.
pub fn workers(workers: &[WorkerSeen]) -> Value {
    let one = |seen: &WorkerSeen| {
        let subtasks: Vec<_> = seen.subtasks.iter().map(|subtask| subtask.0).collect();
        json!({
            "worker": seen.worker.0,
            "name": seen.offer.name,
            "slots": seen.offer.slots,
            "data_address": seen.address,
            "subtasks": subtasks,
        })
    };
    workers.iter().map(one).collect()
}

/// The last failures, the newest first.
pub fn exceptions(view: &JobView, failures: &FailureHistory) -> Value {
    let newest_first = failures.all().rev();
    newest_first
        .map(|failure| past_failure(view, failure))
        .collect()
}

fn past_failure(view: &JobView, failure: &PastFailure) -> Value {
    let report = &failure.report;
    json!({
        "age_ms": view.age_ms(Some(failure.at_ms)),
        "attempt": failure.attempt.0,
        "checkpoint": failure.completed.number,
        "task": report.task,
        "subtask": report.subtask.0,
        "worker": report.worker,
        "position": report.position,
        "kind": report.kind.to_string(),
        "message": report.message,
    })
}

/// What each source refused since its attempt began, and how many of its splits wait for a transaction of somebody. All
/// its subtasks together; sources that have nothing to tell are left out.
fn sources(figures: &BTreeMap<TaskId, TaskFigures>) -> Value {
    let mut all = BTreeMap::<&OperatorUid, SourceReport>::new();
    for (id, task) in figures {
        if let Some(source) = task.source {
            let sum = all.entry(&id.vertex).or_default();
            sum.dropped += source.dropped;
            sum.dead_letters += source.dead_letters;
            sum.future += source.future;
            sum.held += source.held;
        }
    }
    let refused = all.into_iter();
    let refused = refused.filter(|(_, source)| *source != SourceReport::default());
    let json = refused.map(|(uid, source)| {
        json!({
            "source": uid.as_str(),
            "dropped": source.dropped,
            "dead_letters": source.dead_letters,
            "too_far_in_the_future": source.future,
            "splits_behind_open_transactions": source.held,
        })
    });
    json.collect()
}

/// The figures of checkpoints.
pub fn checkpoints(view: &JobView, checkpoints: &CheckpointStatus) -> Value {
    json!({
        "completed": checkpoints.completed.map(|id| id.number),
        "epoch": checkpoints.completed.map(|id| id.epoch.0),
        "age_ms": view.age_ms(checkpoints.completed_at_ms),
        "duration_ms": checkpoints.duration_ms,
        "bytes": checkpoints.bytes,
        "full_bytes": checkpoints.full_bytes,
        "confirmed": checkpoints.is_confirmed,
        "pending": checkpoints.pending.map(|id| id.number),
        "completed_count": checkpoints.completed_count,
        "failed_count": checkpoints.failed_count,
        "last_failure": checkpoints.last_failure,
        "cleanup_failure": checkpoints.cleanup_failure,
    })
}

/// What one keyed state holds, and what its cache did: all 0 where memory is all there is.
fn one_state(state: &StateReport) -> Value {
    json!({
        "name": state.name,
        "entries": state.entries,
        "bytes": state.bytes,
        "expired": state.expired,
        "hits": state.hits,
        "misses": state.misses,
        "known_absent": state.known_absent,
        "unprepared_reads": state.unprepared,
        "evictions": state.evicted,
        "dirty_evictions": state.evicted_dirty,
        "rows_written": state.rows_written,
    })
}

/// The figures of all tasks.
pub fn tasks(figures: &BTreeMap<TaskId, TaskFigures>) -> Value {
    let tasks = figures.iter().map(|(task, figures)| {
        let (busy, idle, backpressured) = figures.shares_ms;
        let operators = figures.operators.iter().map(|operator| {
            json!({
                "uid": operator.uid.as_str(),
                "records_in": operator.records_in,
                "records_out": operator.records_out,
                "records_late": operator.records_late,
                "state_entries": operator.state_entries,
                "state_bytes": operator.state_bytes,
                "states": operator.states.iter().map(one_state).collect::<Vec<_>>(),
                "store_disk_bytes": operator.store.map(|store| store.disk_bytes),
                "store_memory_bytes": operator.store.map(|store| store.memory_bytes),
                "timers": operator.timers,
                "in_flight": operator.in_flight,
            })
        });
        json!({
            "task": task.vertex.as_str(),
            "subtask": task.subtask.0,
            "name": figures.name,
            "busy_ms": busy,
            "idle_ms": idle,
            "backpressured_ms": backpressured,
            "blocked_on": figures.blocked_on,
            "watermark": millis(figures.watermark),
            "operators": operators.collect::<Vec<_>>(),
        })
    });
    Value::Array(tasks.collect())
}
