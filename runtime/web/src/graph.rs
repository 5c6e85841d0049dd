//! The graph of a job with what flows through it.
//!
//! Called by the routes, and by the command that shows a plan to programs, so that both have one form. Pure.

use std::collections::{BTreeMap, BTreeSet};

use highwater_graph::{JobVertex, Node, NodeId, NodeKind, OutputName, Plan};
use highwater_protocol::job::TaskId;
use highwater_types::OperatorUid;
use highwater_web_api as api;
use highwater_worker::TaskFigures;

use crate::rates::Rates;

/// The graph of `plan`, of which nothing runs.
pub fn planned(plan: &Plan) -> api::Graph {
    graph(plan, &BTreeMap::new(), None)
}

/// The graph of `plan` with what flows through it.
pub(crate) fn graph(
    plan: &Plan,
    figures: &BTreeMap<TaskId, TaskFigures>,
    rates: Option<&Rates>,
) -> api::Graph {
    let mut running = BTreeMap::<&OperatorUid, u32>::new();
    for id in figures.keys() {
        *running.entry(&id.vertex).or_default() += 1;
    }
    let tasks = plan.job.vertices().iter().map(|vertex| {
        let subtasks = running.get(plan.uid(vertex.head)).copied();
        let mut task = task(plan, vertex);
        task.live = subtasks.map(|subtasks| live(plan, vertex, subtasks, rates));
        task
    });
    api::Graph {
        fingerprint: plan.fingerprint.to_string(),
        tasks: tasks.collect(),
        warnings: plan.warnings.iter().map(ToString::to_string).collect(),
    }
}

fn task(plan: &Plan, vertex: &JobVertex) -> api::GraphTask {
    let outputs = vertex.outputs.iter().map(|id| {
        let edge = plan.graph.edge(*id);
        api::GraphOutput {
            to: number(plan.job.vertex_of(edge.to).0),
            partitioning: edge.partitioning.to_string(),
            side_output: match &edge.output {
                OutputName::Main => None,
                OutputName::Side(tag) => Some(tag.clone()),
            },
        }
    });
    let nodes = vertex.nodes.iter();
    api::GraphTask {
        task: number(vertex.id.0),
        name: plan.task_name(vertex.id),
        parallelism: vertex.parallelism.0,
        max_parallelism: vertex.max_parallelism.get(),
        operators: nodes
            .map(|id| operator(plan, plan.graph.node(*id)))
            .collect(),
        outputs: outputs.collect(),
        live: None,
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn operator(plan: &Plan, node: &Node) -> api::GraphOperator {
    let states = node.states.iter().map(|state| api::GraphState {
        name: state.name.clone(),
        shape: state.shape.clone(),
    });
    let mut operator = api::GraphOperator {
        uid: plan.uid(node.id).to_string(),
        operator: node.operator.clone(),
        detail: node.detail.clone(),
        emits: node.emits.clone(),
        key: node.key.clone(),
        states: states.collect(),
        reads: None,
        boundedness: None,
        watermarks: None,
        refused: None,
        writes: None,
        guarantee: None,
    };
    match &node.kind {
        NodeKind::Source(facts) => {
            operator.reads = Some(facts.reads.clone());
            operator.boundedness = Some(facts.boundedness.to_string());
            operator.watermarks.clone_from(&facts.watermarks);
            operator.refused = Some(facts.refused.clone());
        }
        NodeKind::Sink(facts) => {
            operator.writes = Some(facts.writes.clone());
            operator.guarantee = Some(facts.guarantee.to_string());
        }
        NodeKind::Operator => {}
    }
    operator
}

fn live(plan: &Plan, vertex: &JobVertex, subtasks: u32, rates: Option<&Rates>) -> api::Live {
    let shares = rates.and_then(|rates| rates.shares(plan.uid(vertex.head)));
    let part = |at: usize| shares.map(|shares| shares[at]);
    api::Live {
        subtasks,
        measured_ms: rates.map(|rates| rates.measured().as_millis() as u64),
        records_in_per_second: rates.and_then(|rates| taken(plan, vertex.head, rates)),
        records_out_per_second: rates.and_then(|rates| emitted(plan, vertex, rates)),
        busy: part(0),
        idle: part(1),
        backpressured: part(2),
    }
}

/// Records a second into a node. A source is counted by the operator that reads it; of several, by the one that read most.
fn taken(plan: &Plan, node: NodeId, rates: &Rates) -> Option<f64> {
    if !matches!(plan.graph.node(node).kind, NodeKind::Source(_)) {
        return rates.operator(plan.uid(node)).map(|[taken, _]| taken);
    }
    let readers = plan.graph.outputs(node);
    let readers = readers.filter(|edge| edge.output == OutputName::Main);
    let rates = readers.filter_map(|edge| rates.operator(plan.uid(edge.to)));
    rates.map(|[taken, _]| taken).reduce(f64::max)
}

/// Records a second out of a task by main outputs. Each operator that others read is counted once, however many do.
fn emitted(plan: &Plan, vertex: &JobVertex, rates: &Rates) -> Option<f64> {
    let edges = vertex.outputs.iter().map(|id| plan.graph.edge(*id));
    let main = edges.filter(|edge| edge.output == OutputName::Main);
    let from: BTreeSet<_> = main.map(|edge| edge.from).collect();
    let each = from.into_iter().map(|node| {
        if matches!(plan.graph.node(node).kind, NodeKind::Source(_)) {
            taken(plan, node, rates)
        } else {
            rates.operator(plan.uid(node)).map(|[_, emitted]| emitted)
        }
    });
    // A sum of nothing is a negative zero.
    each.sum::<Option<f64>>().map(|sum| sum + 0.0)
}
