//! The JSON of status and tasks. Names are those of `docs/glossary.md`; times are milliseconds.

use std::collections::BTreeMap;

use highwater_coordinator::{JobPhase, JobStatus};
use highwater_protocol::job::TaskId;
use highwater_types::{JobIdentity, Watermark};
use highwater_worker::TaskFigures;
use serde_json::{Value, json};

/// The status of a job.
pub fn status(job: &JobIdentity, status: &JobStatus) -> Value {
    let checkpoints = &status.checkpoints;
    let reason = match &status.phase {
        JobPhase::Failed { reason } => Some(reason.as_str()),
        _ => None,
    };
    let failure = status.failure.as_ref().map(|failure| {
        json!({
            "task": failure.task,
            "subtask": failure.subtask.0,
            "position": failure.position,
            "kind": failure.kind.to_string(),
            "message": failure.message,
        })
    });
    json!({
        "job": job.as_str(),
        "phase": status.phase.word(),
        "reason": reason,
        "lineage": status.lineage.map(|lineage| lineage.to_string()),
        "epoch": status.epoch.0,
        "attempt": status.attempt.0,
        "restarts": status.restarts,
        "last_failure": failure,
        "checkpoints": {
            "completed": checkpoints.completed.map(|id| id.number),
            "completed_count": checkpoints.completed_count,
            "failed_count": checkpoints.failed_count,
            "pending": checkpoints.pending.map(|id| id.number),
            "confirmed": checkpoints.is_confirmed,
            "bytes": checkpoints.bytes,
            "last_failure": checkpoints.last_failure,
        },
    })
}

/// The event time of a task as milliseconds; `None` before the first watermark and after the last.
fn event_time(watermark: Watermark) -> Option<i64> {
    (watermark != Watermark::MIN && watermark != Watermark::MAX).then_some(watermark.0)
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
            "watermark": event_time(figures.watermark),
            "operators": operators.collect::<Vec<_>>(),
        })
    });
    Value::Array(tasks.collect())
}
