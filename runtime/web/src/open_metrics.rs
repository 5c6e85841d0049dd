//! The OpenMetrics page: the coordinator's status and the workers' figures, under the names of the metric table.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_coordinator::JobStatus;
use highwater_metrics::table::{checkpoint, job, operator, task};
use highwater_metrics::{MetricsRegistry, NoLabels, SubtaskLabels};
use highwater_protocol::job::TaskId;
use highwater_types::{JobIdentity, Watermark};
use highwater_worker::TaskFigures;

/// Writes the page.
pub fn encode(
    identity: &JobIdentity,
    status: &JobStatus,
    figures: &BTreeMap<TaskId, TaskFigures>,
) -> String {
    let registry = MetricsRegistry::new(identity);
    let of_job = registry.cells::<job::JobScope>(&NoLabels);
    of_job.raise(job::RESTARTS, u64::from(status.restarts));
    of_job.set(job::EPOCH, status.epoch.0);
    of_job.set(job::SUBTASKS, figures.len() as u64);
    let of_checkpoints = registry.cells::<checkpoint::CheckpointScope>(&NoLabels);
    of_checkpoints.raise(checkpoint::COMPLETED, status.checkpoints.completed_count);
    of_checkpoints.raise(checkpoint::FAILED, status.checkpoints.failed_count);
    let in_progress = u64::from(status.checkpoints.pending.is_some());
    of_checkpoints.set(checkpoint::IN_PROGRESS, in_progress);
    if let Some(id) = status.checkpoints.completed {
        of_checkpoints.set(checkpoint::LAST_NUMBER, id.number);
        of_checkpoints.set(checkpoint::LAST_FULL_BYTES, status.checkpoints.bytes);
    }
    for (id, figures) in figures {
        one_task(&registry, id, figures);
    }
    registry.open_metrics()
}

fn one_task(registry: &MetricsRegistry, id: &TaskId, figures: &TaskFigures) {
    let labels = SubtaskLabels {
        operator: id.vertex.clone(),
        subtask: id.subtask,
    };
    let cells = registry.cells::<task::TaskScope>(&labels);
    let (busy, idle, backpressured) = figures.shares_ms;
    cells.raise(task::BUSY, Duration::from_millis(busy));
    cells.raise(task::IDLE, Duration::from_millis(idle));
    cells.raise(task::BACKPRESSURED, Duration::from_millis(backpressured));
    if figures.watermark != Watermark::MIN && figures.watermark != Watermark::MAX {
        cells.set(task::WATERMARK, figures.watermark.0);
    }
    for figures in &figures.operators {
        let labels = SubtaskLabels {
            operator: figures.uid.clone(),
            subtask: id.subtask,
        };
        let cells = registry.cells::<operator::OperatorScope>(&labels);
        cells.raise(operator::RECORDS_IN, figures.records_in);
        cells.raise(operator::RECORDS_OUT, figures.records_out);
        cells.set(operator::TIMERS, figures.timers);
    }
}
