//! Status, tasks, failures, workers and event time for whoever asks the server.
//!
//! Called by the routes. Pure but for the clock of the view: what the coordinator and the workers tell becomes the types of the API.

use std::collections::BTreeMap;

use highwater_coordinator::fleet::WorkerSeen;
use highwater_coordinator::{FailureHistory, JobPhase, PastFailure, Redeployments};
use highwater_operators::{OperatorReport, SourceReport};
use highwater_protocol::job::TaskId;
use highwater_state::StateReport;
use highwater_types::OperatorUid;
use highwater_web_api as api;
use highwater_worker::TaskFigures;

use crate::checkpoints::in_short;
use crate::flow::{culprit, event_time, flow, millis};
use crate::late;
use crate::view::JobView;

/// The status of a job.
pub(crate) fn status(view: &JobView) -> api::Job {
    let (status, figures) = (view.status.borrow().clone(), view.figures.read());
    let plan = view.current_plan();
    let flow = flow(&plan, &figures);
    let event_time = event_time(&figures);
    let reason = match &status.phase {
        JobPhase::Failed { reason } => Some(reason.clone()),
        _ => status.waits_for.clone(),
    };
    let last = status.failures.last();
    let restored = status.restored.map(|bytes| api::Restored {
        fetched_bytes: bytes.fetched,
        local_bytes: bytes.local,
    });
    api::Job {
        job: view.job.to_string(),
        role: view.role.to_owned(),
        phase: phase(&status.phase),
        reason,
        leader: view.leader.borrow().clone(),
        lineage: status.lineage.map(|lineage| lineage.to_string()),
        epoch: status.epoch.0,
        attempt: status.attempt.0,
        restarts: status.restarts,
        redeployments: redeployments(&status.redeployments),
        last_failure: last.map(|failure| past_failure(view, failure)),
        records_in: flow.records_in,
        records_out: flow.records_out,
        watermark: event_time,
        watermark_lag_ms: lag_ms(view, event_time),
        held_back_by: culprit(&figures),
        workers: workers_in_short(&view.workers.borrow()),
        sources: sources(&figures),
        late_records: late::told(&plan, &figures),
        checkpoints: in_short(view, &status.checkpoints),
        restored,
    }
}

const fn phase(phase: &JobPhase) -> api::Phase {
    match phase {
        JobPhase::Standby => api::Phase::Standby,
        JobPhase::Starting => api::Phase::Starting,
        JobPhase::Recovering => api::Phase::Recovering,
        JobPhase::Running => api::Phase::Running,
        JobPhase::Restarting { .. } => api::Phase::Restarting,
        JobPhase::Stopping => api::Phase::Stopping,
        JobPhase::Finished => api::Phase::Finished,
        JobPhase::Stopped => api::Phase::Stopped,
        JobPhase::Failed { .. } => api::Phase::Failed,
    }
}

/// How far an event time is behind the clock.
fn lag_ms(view: &JobView, event_time: Option<i64>) -> Option<i64> {
    event_time.map(|time| view.clock.now().0.saturating_sub(time))
}

fn workers_in_short(workers: &[WorkerSeen]) -> api::WorkerCount {
    api::WorkerCount {
        count: u32::try_from(workers.len()).unwrap_or(u32::MAX),
        slots: workers.iter().map(|seen| seen.offer.slots).sum(),
        leaving: workers.iter().map(|seen| u32::from(seen.is_leaving)).sum(),
    }
}

fn redeployments(all: &Redeployments) -> api::Redeployments {
    api::Redeployments {
        count: all.count,
        checkpoint: all.last.map(|last| last.id.number),
        pause_ms: all.last.map(|last| last.pause_ms),
    }
}

/// The workers of a coordinator, and what runs on each.
pub(crate) fn workers(workers: &[WorkerSeen]) -> Vec<api::Worker> {
    let one = |seen: &WorkerSeen| api::Worker {
        worker: seen.worker.0,
        name: seen.offer.name.clone(),
        slots: seen.offer.slots,
        data_address: seen.address.clone(),
        subtasks: seen.subtasks.iter().map(|subtask| subtask.0).collect(),
        leaving: seen.is_leaving,
    };
    workers.iter().map(one).collect()
}

/// The last failures, the newest first.
pub(crate) fn exceptions(view: &JobView, failures: &FailureHistory) -> Vec<api::Failure> {
    let newest_first = failures.all().rev();
    newest_first
        .map(|failure| past_failure(view, failure))
        .collect()
}

fn past_failure(view: &JobView, failure: &PastFailure) -> api::Failure {
    let report = &failure.report;
    api::Failure {
        age_ms: view.age_ms(Some(failure.at_ms)),
        attempt: failure.attempt.0,
        checkpoint: failure.completed.number,
        task: report.task.clone(),
        subtask: report.subtask.0,
        worker: report.worker.clone(),
        position: report.position.clone(),
        kind: report.kind.to_string(),
        message: report.message.clone(),
    }
}

/// What each source refused since its attempt began, and how many of its splits wait for a transaction of somebody. All
/// its subtasks together; sources that have nothing to tell are left out.
fn sources(figures: &BTreeMap<TaskId, TaskFigures>) -> Vec<api::Source> {
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
    let told = refused.map(|(uid, source)| api::Source {
        source: uid.to_string(),
        dropped: source.dropped,
        dead_letters: source.dead_letters,
        too_far_in_the_future: source.future,
        splits_behind_open_transactions: source.held,
    });
    told.collect()
}

fn one_state(state: &StateReport) -> api::State {
    api::State {
        name: state.name.clone(),
        entries: state.entries,
        bytes: state.bytes,
        expired: state.expired,
        hits: state.hits,
        misses: state.misses,
        known_absent: state.known_absent,
        unprepared_reads: state.unprepared,
        evictions: state.evicted,
        dirty_evictions: state.evicted_dirty,
        rows_written: state.rows_written,
    }
}

fn one_operator(operator: &OperatorReport) -> api::Operator {
    api::Operator {
        uid: operator.uid.to_string(),
        records_in: operator.records_in,
        records_out: operator.records_out,
        records_late: operator.records_late,
        state_entries: operator.state_entries,
        state_bytes: operator.state_bytes,
        states: operator.states.iter().map(one_state).collect(),
        store_disk_bytes: operator.store.map(|store| store.disk_bytes),
        store_memory_bytes: operator.store.map(|store| store.memory_bytes),
        timers: operator.timers,
        in_flight: operator.in_flight,
    }
}

/// The figures of all tasks.
pub(crate) fn tasks(figures: &BTreeMap<TaskId, TaskFigures>) -> Vec<api::Task> {
    let tasks = figures.iter().map(|(task, figures)| {
        let (busy_ms, idle_ms, backpressured_ms) = figures.shares_ms;
        api::Task {
            task: task.vertex.to_string(),
            subtask: task.subtask.0,
            name: figures.name.clone(),
            busy_ms,
            idle_ms,
            backpressured_ms,
            blocked_on: figures.blocked_on.clone(),
            watermark: millis(figures.watermark),
            operators: figures.operators.iter().map(one_operator).collect(),
        }
    });
    tasks.collect()
}

/// The event time of all tasks.
pub(crate) fn watermarks(view: &JobView) -> Vec<api::Watermarks> {
    let figures = view.figures.read();
    let mut tasks = BTreeMap::<&OperatorUid, Vec<(&TaskId, &TaskFigures)>>::new();
    for (id, task) in &figures {
        tasks.entry(&id.vertex).or_default().push((id, task));
    }
    let told = tasks.into_iter().map(|(uid, subtasks)| {
        let least = subtasks.iter().map(|(_, task)| task.watermark).min();
        let watermark = least.and_then(millis);
        let each = subtasks.iter().map(|(id, task)| api::SubtaskWatermark {
            subtask: id.subtask.0,
            watermark: millis(task.watermark),
        });
        api::Watermarks {
            task: uid.to_string(),
            watermark,
            lag_ms: lag_ms(view, watermark),
            subtasks: each.collect(),
        }
    });
    told.collect()
}
