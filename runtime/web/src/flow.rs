//! What the figures of all tasks say together: records in and out, event time, and who holds whom back.
//!
//! Called by the status pages, the metrics and the live view, so that all three say the same. Pure.

use std::collections::{BTreeMap, BTreeSet};

use highwater_graph::{NodeKind, OutputName, Plan};
use highwater_protocol::job::TaskId;
use highwater_types::{OperatorUid, Watermark};
use highwater_worker::TaskFigures;

/// Records that entered and left a job since its attempt began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobFlow {
    /// Records that sources emitted.
    pub records_in: u64,
    /// Records that reached a sink.
    pub records_out: u64,
}

/// All subtasks of one task together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSummary {
    /// The first operator.
    pub head: OperatorUid,
    /// The operators of the chain.
    pub name: String,
    /// How many subtasks have figures.
    pub subtasks: u32,
    /// Busy, idle and backpressured milliseconds of all of them.
    pub shares_ms: [u64; 3],
}

/// Records in and out. A source is counted by the operator that reads it; of several, by the one that has read most.
pub fn flow(plan: &Plan, figures: &BTreeMap<TaskId, TaskFigures>) -> JobFlow {
    let mut taken = BTreeMap::<&OperatorUid, u64>::new();
    for operator in figures.values().flat_map(|task| &task.operators) {
        *taken.entry(&operator.uid).or_default() += operator.records_in;
    }
    let taken = |uid: &OperatorUid| taken.get(uid).copied().unwrap_or(0);
    let mut flow = JobFlow::default();
    for node in plan.graph.nodes() {
        match node.kind {
            NodeKind::Source(_) => {
                let edges = plan.graph.edges().iter();
                let readers =
                    edges.filter(|edge| edge.from == node.id && edge.output == OutputName::Main);
                let most = readers.map(|edge| taken(plan.uid(edge.to))).max();
                flow.records_in += most.unwrap_or(0);
            }
            NodeKind::Sink(_) => flow.records_out += taken(plan.uid(node.id)),
            NodeKind::Operator => {}
        }
    }
    flow
}

/// The tasks, in the order of their names.
pub fn tasks(figures: &BTreeMap<TaskId, TaskFigures>) -> Vec<TaskSummary> {
    let mut tasks = BTreeMap::<&OperatorUid, TaskSummary>::new();
    for (id, task) in figures {
        let summary = tasks.entry(&id.vertex).or_insert_with(|| TaskSummary {
            head: id.vertex.clone(),
            name: task.name.clone(),
            subtasks: 0,
            shares_ms: [0; 3],
        });
        summary.subtasks += 1;
        let (busy, idle, backpressured) = task.shares_ms;
        for (sum, part) in summary
            .shares_ms
            .iter_mut()
            .zip([busy, idle, backpressured])
        {
            *sum += part;
        }
    }
    tasks.into_values().collect()
}

/// The operator that holds the others back: what a waiting task waits for, followed until a task that does not wait.
pub fn culprit(figures: &BTreeMap<TaskId, TaskFigures>) -> Option<String> {
    let mut waits = BTreeMap::<&str, &str>::new();
    for (id, task) in figures {
        if let Some(receiver) = task.blocked_on.as_deref() {
            waits.entry(id.vertex.as_str()).or_insert(receiver);
        }
    }
    let (_, mut last) = waits.first_key_value().map(|(from, to)| (*from, *to))?;
    let mut seen = BTreeSet::new();
    while let Some(next) = waits.get(last) {
        if !seen.insert(last) {
            break;
        }
        last = next;
    }
    Some(last.to_owned())
}

/// The event time of the job: the least of its tasks, in milliseconds. `None` before the first watermark and once all
/// input has ended.
pub fn event_time(figures: &BTreeMap<TaskId, TaskFigures>) -> Option<i64> {
    let least = figures.values().map(|task| task.watermark).min()?;
    millis(least)
}

/// A watermark as milliseconds; `None` where it is no point in time.
pub(crate) fn millis(watermark: Watermark) -> Option<i64> {
    (watermark != Watermark::MIN && watermark != Watermark::MAX).then_some(watermark.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::idle_subtask;

    fn figures(tasks: &[(&str, u32, Option<&str>, Watermark)]) -> BTreeMap<TaskId, TaskFigures> {
        let figures =
            |(head, subtask, blocked_on, watermark): &(&str, u32, Option<&str>, Watermark)| {
                let (id, idle) = idle_subtask(head, *subtask);
                let figures = TaskFigures {
                    name: format!("{head} -> more"),
                    shares_ms: (1, 2, 3),
                    blocked_on: blocked_on.map(str::to_owned),
                    watermark: *watermark,
                    ..idle
                };
                (id, figures)
            };
        tasks.iter().map(figures).collect()
    }

    #[test]
    fn subtasks_of_one_task_are_summed() {
        let figures = figures(&[
            ("count", 0, None, Watermark::MIN),
            ("count", 1, None, Watermark::MIN),
            ("emit", 0, None, Watermark::MIN),
        ]);
        let tasks = tasks(&figures);
        assert_eq!(tasks.len(), 2);
        assert_eq!(
            (tasks[0].name.as_str(), tasks[0].subtasks),
            ("count -> more", 2)
        );
        assert_eq!(tasks[0].shares_ms, [2, 4, 6]);
    }

    #[test]
    fn the_culprit_is_the_last_that_is_waited_for() {
        let waits = |from: &'static str, to: &'static str| (from, 0, Some(to), Watermark::MIN);
        let free = ("sink", 0, None, Watermark::MIN);
        assert_eq!(culprit(&figures(&[free])), None);
        let chain = figures(&[waits("a", "b"), waits("b", "sink"), free]);
        assert_eq!(culprit(&chain).as_deref(), Some("sink"));
        let ring = figures(&[waits("a", "b"), waits("b", "a")]);
        assert!(culprit(&ring).is_some(), "a ring is followed once");
    }

    #[test]
    fn the_event_time_of_a_job_is_the_least_of_its_tasks() {
        let at = |times: [Watermark; 2]| {
            event_time(&figures(&[
                ("a", 0, None, times[0]),
                ("b", 0, None, times[1]),
            ]))
        };
        assert_eq!(at([Watermark(7), Watermark(5)]), Some(5));
        assert_eq!(at([Watermark(7), Watermark::MIN]), None);
        assert_eq!(at([Watermark(7), Watermark::MAX]), Some(7));
        assert_eq!(at([Watermark::MAX, Watermark::MAX]), None);
        assert_eq!(event_time(&BTreeMap::new()), None);
    }
}
