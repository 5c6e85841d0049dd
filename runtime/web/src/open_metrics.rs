//! The OpenMetrics page of a process that leads the job or stands by: the coordinator's status and the figures of all tasks, under the names
//! of the metric table.
//!
//! Made anew for each scrape, so that nothing is kept twice. The rules: what nobody measures has no line; and what is told of a worker
//! process is told on its own page, so that a sum over the pages of all processes counts nothing twice.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_coordinator::{JobPhase, JobStatus};
use highwater_graph::Plan;
use highwater_metrics::table::backpressure::{CULPRIT, CulpritScope};
use highwater_metrics::table::checkpoint::{self, CheckpointScope};
use highwater_metrics::table::job::{self, JobScope};
use highwater_metrics::{Cells, MetricsRegistry, NoLabels, OperatorLabels};
use highwater_protocol::job::TaskId;
use highwater_types::OperatorUid;
use highwater_worker::TaskFigures;

use crate::view::TasksRun;
use crate::{JobView, process};

mod sinks;
mod sources;
mod tasks;
#[cfg(test)]
mod tests;

/// Writes the page.
pub fn encode(view: &JobView) -> String {
    let registry = MetricsRegistry::new(&view.job);
    let (status, figures) = (view.status.borrow().clone(), view.figures.read());
    let leads = status.phase != JobPhase::Standby;
    let plan = view.current_plan();
    let of_job = registry.cells::<JobScope>(&NoLabels);
    of_job.set(job::LEADS, u64::from(leads));
    let of_process = process::publish(&registry);
    if leads {
        the_job(&of_job, (view, &plan), &status, &figures);
        checkpoints(&registry, view, &status);
        culprits(&registry, view);
        tasks::publish(&registry, (view, &plan), &status, &figures);
        if view.tasks == TasksRun::Here {
            process::memory(&of_process, &view.worker, &view.store, &figures);
        }
    }
    registry.open_metrics()
}

fn the_job(
    cells: &Cells<JobScope>,
    (view, plan): (&JobView, &Plan),
    status: &JobStatus,
    figures: &BTreeMap<TaskId, TaskFigures>,
) {
    let now = view.now_ms();
    cells.raise(job::RUNNING, status.times.running(now));
    cells.raise(job::RESTARTING, status.times.restarting(now));
    cells.raise(job::RESTARTS, u64::from(status.restarts));
    cells.set(job::EPOCH, status.epoch.0);
    let subtasks = plan.job.vertices().iter();
    let subtasks = subtasks.map(|task| u64::from(task.parallelism.0));
    let needed = subtasks.clone().max().unwrap_or(0);
    let all: u64 = subtasks.sum();
    cells.set(job::SUBTASKS, all);
    let is_running = matches!(status.phase, JobPhase::Running | JobPhase::Stopping);
    let running = if is_running { figures.len() as u64 } else { 0 };
    cells.set(job::SUBTASKS_RUNNING, running);
    let (workers, slots, used) = slots(view, if is_running { needed } else { 0 });
    cells.set(job::WORKERS, workers);
    cells.set(job::SLOTS, slots);
    cells.set(job::SLOTS_FREE, slots.saturating_sub(used));
    cells.set(job::SLOTS_NEEDED, needed);
}

/// The workers, their slots, and how many of those hold subtasks. A worker in this process uses a slot for each of `shares`, as far as it
/// has so many.
fn slots(view: &JobView, shares: u64) -> (u64, u64, u64) {
    if view.tasks == TasksRun::Here {
        let slots = u64::from(view.worker.slots);
        return (1, slots, shares.min(slots));
    }
    let workers = view.workers.borrow();
    let each = workers.iter().map(|seen| {
        let slots = u64::from(seen.offer.slots);
        (slots, slots.min(seen.subtasks.len() as u64))
    });
    let (slots, used): (Vec<_>, Vec<_>) = each.unzip();
    let sum = |counts: Vec<u64>| counts.into_iter().sum::<u64>();
    (workers.len() as u64, sum(slots), sum(used))
}

fn checkpoints(registry: &MetricsRegistry, view: &JobView, job: &JobStatus) {
    let (cells, status) = (
        registry.cells::<CheckpointScope>(&NoLabels),
        &job.checkpoints,
    );
    cells.raise(checkpoint::COMPLETED, status.completed_count);
    cells.raise(checkpoint::FAILED, status.failed_count);
    cells.set(checkpoint::FAILED_IN_A_ROW, status.failed_in_a_row);
    cells.set(checkpoint::IN_PROGRESS, u64::from(status.pending.is_some()));
    cells.raise(checkpoint::SAVEPOINTS, status.savepoints_count);
    cells.raise(checkpoint::HEAD_CONFLICTS, status.head_conflicts);
    if status.interval_ms > 0 {
        let interval = Duration::from_millis(status.interval_ms);
        cells.set(checkpoint::INTERVAL, interval);
    }
    let durations = &status.durations;
    cells.observe_all(checkpoint::DURATION, durations.buckets(), durations.sum());
    if let Some(id) = status.completed {
        cells.set(checkpoint::LAST_NUMBER, id.number);
        cells.set(checkpoint::LAST_BYTES, status.bytes);
        cells.set(checkpoint::LAST_FULL_BYTES, status.full_bytes);
    }
    if let Some(number) = status.confirmed {
        cells.set(checkpoint::CONFIRMED_NUMBER, number);
    }
    if let Some(age) = view.age_ms(status.completed_at_ms) {
        cells.set(checkpoint::LAST_TIME, view.clock.now().0 - age as i64);
    }
    if let Some(took) = status.duration_ms {
        cells.set(checkpoint::LAST_DURATION, Duration::from_millis(took));
    }
    if let Some(restored) = job.restored {
        cells.set(checkpoint::RESTORED_FETCHED, restored.fetched);
        cells.set(checkpoint::RESTORED_LOCAL, restored.local);
    }
    if let Some(age) = view.age_ms(job.restored_at_ms) {
        cells.set(checkpoint::RESTORE, view.clock.now().0 - age as i64);
    }
}

fn culprits(registry: &MetricsRegistry, view: &JobView) {
    for (operator, share) in view.rates.culprits() {
        // A receiver outside of the job may have another name; it stands at the end of a chain that tells it.
        if let Ok(operator) = OperatorUid::parse(&operator) {
            let cells = registry.cells::<CulpritScope>(&OperatorLabels { operator });
            cells.set(CULPRIT, share);
        }
    }
}
