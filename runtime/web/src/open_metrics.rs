//! The OpenMetrics page: the coordinator's status and the workers' figures, under the names of the metric table.
//!
//! Made anew for each scrape, so that nothing is kept twice. What nobody measures has no line.

use std::time::Duration;

use highwater_coordinator::{CheckpointStatus, JobPhase};
use highwater_metrics::table::{
    checkpoint, job, lookup, operator, process as of_process, source, state, store, task,
};
use highwater_metrics::{Cells, MetricsRegistry, NoLabels, StateLabels, SubtaskLabels};
use highwater_operators::{OperatorReport, SourceReport};
use highwater_protocol::job::TaskId;
use highwater_worker::TaskFigures;

use crate::flow::millis;
use crate::late::LateRecords;
use crate::{JobView, process};

/// Writes the page.
pub fn encode(view: &JobView) -> String {
    let registry = MetricsRegistry::new(&view.job);
    let (status, figures) = (view.status.borrow().clone(), view.figures.read());
    let of_job = registry.cells::<job::JobScope>(&NoLabels);
    of_job.raise(job::RESTARTS, u64::from(status.restarts));
    of_job.set(job::EPOCH, status.epoch.0);
    let subtasks = view.plan.job.vertices().iter();
    let subtasks: u64 = subtasks.map(|task| u64::from(task.parallelism.0)).sum();
    of_job.set(job::SUBTASKS, subtasks);
    let is_running = matches!(status.phase, JobPhase::Running | JobPhase::Stopping);
    let running = if is_running { figures.len() as u64 } else { 0 };
    of_job.set(job::SUBTASKS_RUNNING, running);
    of_job.set(job::WORKERS, 1);
    of_job.set(job::SLOTS, u64::from(view.worker.slots));
    checkpoints(&registry, view, &status.checkpoints);
    if let Some(restored) = status.restored {
        let cells = registry.cells::<checkpoint::CheckpointScope>(&NoLabels);
        cells.set(checkpoint::RESTORED_FETCHED, restored.fetched);
        cells.set(checkpoint::RESTORED_LOCAL, restored.local);
    }
    let mut state_bytes = 0;
    for (id, figures) in &figures {
        let cells = one_task(&registry, view, id, figures);
        if let Some(took) = status.restore_ms {
            cells.set(task::RESTORE, Duration::from_millis(took));
        }
        if let Some(report) = &figures.source {
            one_source(&registry, id, report);
        }
        for report in &figures.operators {
            state_bytes += report.state_bytes;
            one_operator(&registry, view, id, report);
        }
    }
    let cells = process::publish(&registry);
    cells.set(of_process::STATE_BUDGET, view.worker.state_bytes_max);
    cells.set(of_process::STATE_USED, state_bytes);
    cells.set(of_process::STORE_BUDGET, view.worker.store_bytes_max);
    cells.set(of_process::STORE_USED, view.store.used_bytes());
    registry.open_metrics()
}

fn checkpoints(registry: &MetricsRegistry, view: &JobView, status: &CheckpointStatus) {
    let cells = registry.cells::<checkpoint::CheckpointScope>(&NoLabels);
    cells.raise(checkpoint::COMPLETED, status.completed_count);
    cells.raise(checkpoint::FAILED, status.failed_count);
    cells.set(checkpoint::IN_PROGRESS, u64::from(status.pending.is_some()));
    if let Some(id) = status.completed {
        cells.set(checkpoint::LAST_NUMBER, id.number);
        cells.set(checkpoint::LAST_BYTES, status.bytes);
        cells.set(checkpoint::LAST_FULL_BYTES, status.full_bytes);
        if status.is_confirmed {
            cells.set(checkpoint::CONFIRMED_NUMBER, id.number);
        }
    }
    if let Some(age) = view.age_ms(status.completed_at_ms) {
        cells.set(checkpoint::LAST_TIME, view.clock.now().0 - age as i64);
    }
    if let Some(took) = status.duration_ms {
        cells.set(checkpoint::LAST_DURATION, Duration::from_millis(took));
    }
}

fn one_task(
    registry: &MetricsRegistry,
    view: &JobView,
    id: &TaskId,
    figures: &TaskFigures,
) -> Cells<task::TaskScope> {
    let cells = registry.cells::<task::TaskScope>(&SubtaskLabels {
        operator: id.vertex.clone(),
        subtask: id.subtask,
    });
    let (busy, idle, backpressured) = figures.shares_ms;
    cells.raise(task::BUSY, Duration::from_millis(busy));
    cells.raise(task::IDLE, Duration::from_millis(idle));
    cells.raise(task::BACKPRESSURED, Duration::from_millis(backpressured));
    let pauses = figures.pauses;
    cells.observe_all(task::PAUSE, pauses.buckets(), pauses.sum());
    if let Some(time) = millis(figures.watermark) {
        cells.set(task::WATERMARK, time);
        cells.set(task::WATERMARK_LAG, view.clock.now().0.saturating_sub(time));
    }
    let tasks = view.plan.job.vertices().iter();
    let own = tasks.filter(|task| *view.plan.uid(task.head) == id.vertex);
    let receivers = own.flat_map(|task| &task.outputs);
    let mut receivers = receivers.map(|edge| view.plan.uid(view.plan.graph.edge(*edge).to));
    if let Some(waited) = figures.blocked_on.as_deref()
        && let Some(output) = receivers.position(|uid| uid.as_str() == waited)
    {
        cells.set(task::WAITING_OUTPUT, output as u64);
    }
    cells
}

fn one_operator(registry: &MetricsRegistry, view: &JobView, id: &TaskId, report: &OperatorReport) {
    let labels = SubtaskLabels {
        operator: report.uid.clone(),
        subtask: id.subtask,
    };
    let cells = registry.cells::<operator::OperatorScope>(&labels);
    cells.raise(operator::RECORDS_IN, report.records_in);
    cells.raise(operator::RECORDS_OUT, report.records_out);
    cells.set(operator::TIMERS, report.timers);
    if let Some(late) = LateRecords::of(&view.plan, report) {
        late_records(&cells, &late);
    }
    if report.in_flight > 0 {
        let cells = registry.cells::<lookup::LookupScope>(&labels);
        cells.set(lookup::IN_FLIGHT, report.in_flight);
    }
    keyed_states(registry, &labels, report);
}

fn keyed_states(registry: &MetricsRegistry, owner: &SubtaskLabels, report: &OperatorReport) {
    for held in &report.states {
        let cells = registry.cells::<state::StateScope>(&StateLabels {
            owner: owner.clone(),
            state: held.name.clone(),
        });
        cells.set(state::ENTRIES, held.entries);
        cells.set(state::BYTES, held.bytes);
        cells.raise(state::EXPIRED, held.expired);
        if report.store.is_some() {
            cells.raise(state::HITS, held.hits);
            cells.raise(state::MISSES, held.misses);
            cells.raise(state::KNOWN_ABSENT, held.known_absent);
            cells.raise(state::UNPREPARED, held.unprepared);
            cells.raise(state::EVICTIONS, held.evicted);
            cells.raise(state::DIRTY_EVICTIONS, held.evicted_dirty);
            cells.raise(state::ROWS_WRITTEN, held.rows_written);
        }
    }
    if let Some(held) = report.store {
        let cells = registry.cells::<store::StoreScope>(owner);
        cells.set(store::DISK_BYTES, held.disk_bytes);
        cells.set(store::MEMORY_BYTES, held.memory_bytes);
        cells.set(store::COMPACTIONS, held.compactions);
        cells.raise(store::WRITE_WAITS, held.write_waits);
    }
}

fn one_source(registry: &MetricsRegistry, id: &TaskId, report: &SourceReport) {
    let cells = registry.cells::<source::SourceScope>(&SubtaskLabels {
        operator: id.vertex.clone(),
        subtask: id.subtask,
    });
    cells.raise(source::DEAD_LETTERS, report.dead_letters);
    cells.raise(source::DROPPED, report.dropped);
    cells.raise(source::FUTURE, report.future);
    cells.set(source::SPLITS_HELD, report.held);
}

fn late_records(cells: &Cells<operator::OperatorScope>, late: &LateRecords) {
    let too_late = if late.is_read {
        operator::LATE_SIDE
    } else {
        operator::LATE_DROPPED
    };
    cells.raise(too_late, late.too_late);
    cells.raise(operator::LATE_ACCEPTED, late.accepted());
    let sum = i64::try_from(late.lateness.sum_ms()).unwrap_or(i64::MAX);
    cells.observe_all(operator::LATENESS, late.lateness.buckets(), sum);
    if let Some(bound) = late.suggested_bound_ms(0.999) {
        cells.set(operator::SUGGESTED_BOUND, bound);
    }
}
