//! Tasks and their operators on the OpenMetrics page.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_coordinator::JobStatus;
use highwater_graph::{JobVertex, Plan};
use highwater_metrics::table::hot_keys::{GROUP, HotKeyScope, SHARE};
use highwater_metrics::table::lookup::{self, LookupScope};
use highwater_metrics::table::operator::{self, OperatorScope};
use highwater_metrics::table::state::{self, StateScope};
use highwater_metrics::table::store::{self, StoreScope};
use highwater_metrics::table::task::{self, TaskScope};
use highwater_metrics::table::user;
use highwater_metrics::{
    Cells, MetricsRegistry, RankLabels, StateLabels, SubtaskLabels, UserLabels,
};
use highwater_operators::{OperatorReport, UserMetric, UserValue};
use highwater_protocol::job::TaskId;
use highwater_worker::TaskFigures;

use super::{sinks, sources};
use crate::JobView;
use crate::flow::millis;
use crate::hot_keys::{group, share};
use crate::late::LateRecords;

/// Puts everything that is known of the tasks on the page.
pub(super) fn publish(
    registry: &MetricsRegistry,
    (view, plan): (&JobView, &Plan),
    status: &JobStatus,
    figures: &BTreeMap<TaskId, TaskFigures>,
) {
    let rates = view.rates.read();
    for (id, figures) in figures {
        let mut vertices = plan.job.vertices().iter();
        let vertex = vertices.find(|vertex| *plan.uid(vertex.head) == id.vertex);
        let cells = one_task(registry, (view, plan), (id, vertex), figures);
        if let Some(took) = status.restore_ms {
            cells.set(task::RESTORE, Duration::from_millis(took));
        }
        let shares = rates.as_ref().and_then(|rates| rates.shares_of_subtask(id));
        if let Some([busy, idle, backpressured]) = shares {
            cells.set(task::BUSY_RATIO, busy);
            cells.set(task::IDLE_RATIO, idle);
            cells.set(task::BACKPRESSURED_RATIO, backpressured);
        }
        if let Some(report) = &figures.source {
            sources::publish(registry, id, report);
        }
        for report in &figures.operators {
            let labels = SubtaskLabels {
                operator: report.uid.clone(),
                subtask: id.subtask,
            };
            one_operator(registry, plan, &labels, report);
            hot_keys(registry, vertex, &labels, report);
        }
    }
}

fn one_task(
    registry: &MetricsRegistry,
    (view, plan): (&JobView, &Plan),
    (id, vertex): (&TaskId, Option<&JobVertex>),
    figures: &TaskFigures,
) -> Cells<TaskScope> {
    let cells = registry.cells::<TaskScope>(&SubtaskLabels {
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
    let receivers = vertex.into_iter().flat_map(|vertex| &vertex.outputs);
    let mut receivers = receivers.map(|edge| plan.uid(plan.graph.edge(*edge).to));
    if let Some(waited) = figures.blocked_on.as_deref()
        && let Some(output) = receivers.position(|uid| uid.as_str() == waited)
    {
        cells.set(task::WAITING_OUTPUT, output as u64);
    }
    let control = &figures.control;
    cells.raise(task::LETTERS, control.letters);
    cells.set(task::INPUTS_IDLE, control.inputs_idle);
    cells.set(task::BUFFERED, control.buffered_bytes);
    for (histogram, spans) in [
        (task::MAILBOX_WAIT, &control.mailbox_wait),
        (task::ALIGNMENT, &control.alignment),
        (task::START_DELAY, &control.start_delay),
    ] {
        cells.observe_all(histogram, spans.buckets(), spans.sum());
    }
    cells
}

fn one_operator(
    registry: &MetricsRegistry,
    plan: &Plan,
    labels: &SubtaskLabels,
    report: &OperatorReport,
) {
    let cells = registry.cells::<OperatorScope>(labels);
    cells.raise(operator::RECORDS_IN, report.records_in);
    cells.raise(operator::RECORDS_OUT, report.records_out);
    cells.raise(operator::CHUNKS_IN, report.chunks_in);
    cells.raise(operator::BYTES_IN, report.bytes_in);
    cells.raise(operator::BYTES_OUT, report.bytes_out);
    cells.set(operator::TIMERS, report.timers);
    cells.raise(operator::TIMERS_FIRED, report.timers_fired);
    if let Some(late) = LateRecords::of(plan, report) {
        late_records(&cells, &late);
    }
    if let Some(counted) = &report.lookup {
        let cells = registry.cells::<LookupScope>(labels);
        cells.set(lookup::IN_FLIGHT, report.in_flight);
        cells.raise(lookup::REQUESTS, counted.requests);
        cells.raise(lookup::RETRIES, counted.retries);
        cells.raise(lookup::RETRIES_REFUSED, counted.retries_refused);
        cells.raise(lookup::TIMEOUTS, counted.timeouts);
        cells.raise(lookup::FAILURES, counted.failures);
        let durations = &counted.durations;
        cells.observe_all(lookup::DURATION, durations.buckets(), durations.sum());
    }
    if let Some(told) = &report.sink {
        sinks::publish(registry, labels, told);
    }
    keyed_states(registry, labels, report);
    for metric in &report.user {
        of_the_author(registry, labels, metric);
    }
}

fn keyed_states(registry: &MetricsRegistry, owner: &SubtaskLabels, report: &OperatorReport) {
    for held in &report.states {
        let cells = registry.cells::<StateScope>(&StateLabels {
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
        let cells = registry.cells::<StoreScope>(owner);
        cells.set(store::DISK_BYTES, held.disk_bytes);
        cells.set(store::MEMORY_BYTES, held.memory_bytes);
        cells.set(store::COMPACTIONS, held.compactions);
        cells.raise(store::WRITE_WAITS, held.write_waits);
    }
}

/// The keys with many records: told by rank and key group, since what a key says is data.
fn hot_keys(
    registry: &MetricsRegistry,
    vertex: Option<&JobVertex>,
    owner: &SubtaskLabels,
    report: &OperatorReport,
) {
    for (rank, key) in (1..).zip(&report.hot_keys) {
        let cells = registry.cells::<HotKeyScope>(&RankLabels {
            owner: owner.clone(),
            rank,
        });
        cells.set(SHARE, share(key));
        if let Some(vertex) = vertex {
            let group = group(key, vertex.max_parallelism);
            cells.set(GROUP, u64::from(group.0));
        }
    }
}

fn of_the_author(registry: &MetricsRegistry, owner: &SubtaskLabels, metric: &UserMetric) {
    let labels = UserLabels {
        owner: owner.clone(),
        name: metric.name.clone(),
    };
    match &metric.value {
        UserValue::Count(count) => {
            let cells = registry.cells::<user::counter::CounterScope>(&labels);
            cells.raise(user::counter::EVENTS, *count);
        }
        UserValue::Level(bits) => {
            let cells = registry.cells::<user::gauge::GaugeScope>(&labels);
            cells.set(user::gauge::VALUE, f64::from_bits(*bits));
        }
        UserValue::Durations(spans) => {
            let cells = registry.cells::<user::duration::DurationScope>(&labels);
            cells.observe_all(user::duration::OBSERVED, spans.buckets(), spans.sum());
        }
    }
}

fn late_records(cells: &Cells<OperatorScope>, late: &LateRecords) {
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
