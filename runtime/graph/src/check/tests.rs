//! Each refusal names the operator, the value and the next step; a good graph chains and explains itself.

use highwater_types::{Boundedness, OperatorUid, Parallelisms};

use super::*;
use crate::explain::{PlanFormat, explain};
use crate::job::Plan;
use crate::stream::{SinkNote, SourceNote, StateNote};

fn defaults() -> PlanDefaults {
    PlanDefaults {
        parallelism: Parallelism(2),
        max_parallelism: MaxParallelism::DEFAULT,
        checkpoints: Checkpoints::On,
    }
}

fn source(watermarks: bool) -> NodeKind {
    NodeKind::Source(SourceNote {
        reads: "file log in".to_owned(),
        boundedness: Boundedness::Unbounded,
        watermarks: watermarks.then(|| "bounded by 45000 ms".to_owned()),
        refused: "bad records fail".to_owned(),
        bound_ms: watermarks.then_some(45_000),
    })
}

fn sink() -> NodeKind {
    NodeKind::Sink(SinkNote {
        writes: "files out".to_owned(),
        guarantee: Guarantee::ExactlyOnce,
    })
}

/// source → filter =hash=> count → sink
fn counting() -> StreamGraph {
    let mut graph = StreamGraph::default();
    let from = graph.add_node("source", source(true), "Payment".to_owned());
    let filter = graph.add_node("filter", NodeKind::Operator, "Payment".to_owned());
    let count = graph.add_node("window", NodeKind::Operator, "Count".to_owned());
    let to = graph.add_node("sink", sink(), "unit".to_owned());
    graph.add_edge(from, OutputName::Main, filter, Partitioning::Forward);
    graph.add_edge(
        filter,
        OutputName::Main,
        count,
        Partitioning::Hash("text".to_owned()),
    );
    graph.add_edge(count, OutputName::Main, to, Partitioning::Forward);
    for (id, uid) in [(from, "in"), (count, "count"), (to, "out")] {
        graph.node_mut(id).uid = OperatorUid::parse(uid).ok();
    }
    let node = graph.node_mut(count);
    node.key = Some("text".to_owned());
    node.needs_event_time = true;
    node.states.push(StateNote {
        name: "count".to_owned(),
        shape: "value u64".to_owned(),
    });
    graph
}

fn refusal(graph: StreamGraph) -> String {
    Plan::compile(graph, defaults()).unwrap_err().to_string()
}

#[test]
fn an_empty_job_is_refused_for_both_reasons() {
    let message = refusal(StreamGraph::default());
    assert!(
        message.contains("2 reasons")
            && message.contains("no source")
            && message.contains("no sink")
    );
}

#[test]
fn state_without_uid_and_shared_uids_are_refused() {
    let mut graph = counting();
    graph.node_mut(NodeId(2)).uid = None;
    assert!(refusal(graph).contains("window-2 keeps state but has no uid"));
    let mut graph = counting();
    graph.node_mut(NodeId(2)).uid = OperatorUid::parse("in").ok();
    assert!(refusal(graph).contains("`in` names 2 operators"));
}

#[test]
fn impossible_parallelism_and_forward_between_unequal_tasks_are_refused() {
    let mut graph = counting();
    graph.node_mut(NodeId(2)).parallelism = Some(Parallelism(721));
    let message = refusal(graph);
    assert!(message.contains("count has parallelism 721; it may be 1 to 720"));
    assert!(message.contains("count has 721 subtasks and out has 2"));
}

#[test]
fn event_time_without_watermarks_and_unknown_side_outputs_are_refused() {
    let mut graph = counting();
    graph.node_mut(NodeId(0)).kind = source(false);
    let late = graph.add_node("sink", sink(), "unit".to_owned());
    graph.node_mut(late).uid = OperatorUid::parse("late").ok();
    graph.add_edge(
        NodeId(2),
        OutputName::Side("late".to_owned()),
        late,
        Partitioning::Forward,
    );
    let message = refusal(graph);
    assert!(message.contains("count works in event time, but source in has no watermarks"));
    assert!(message.contains("count has no side output `late`; it has none"));
}

/// Operators with their parallelism.
fn each(operators: &[(&str, u32)]) -> Parallelisms {
    let operators = operators.iter().copied();
    let operators = operators.map(|(uid, of)| (OperatorUid::parse(uid).unwrap(), Parallelism(of)));
    operators.collect()
}

#[test]
fn a_plan_tells_the_parallelism_of_every_operator_also_of_one_without_uid() {
    let mut graph = counting();
    for id in [NodeId(2), NodeId(3)] {
        graph.node_mut(id).parallelism = Some(Parallelism(3));
    }
    let plan = Plan::compile(graph, defaults()).unwrap();
    let expected = each(&[("in", 2), ("filter-1", 2), ("count", 3), ("out", 3)]);
    assert_eq!(plan.parallelisms(), expected);
}

#[test]
fn an_operator_that_is_not_there_is_refused_with_those_that_are() {
    let plan = Plan::compile(counting(), defaults()).unwrap();
    let faults = plan.unknown_operators(&each(&[("in", 1), ("cuont", 1)]));
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        ["the job has no operator `cuont`; it has `count`, `filter-1`, `in`, `out`"]
    );
}

#[test]
fn two_sinks_of_one_target_are_a_warning() {
    let mut graph = counting();
    let late = graph.add_node("sink", sink(), "unit".to_owned());
    graph.node_mut(late).uid = OperatorUid::parse("late").ok();
    graph.add_edge(NodeId(2), OutputName::Main, late, Partitioning::Forward);
    let plan = Plan::compile(graph, defaults()).unwrap();
    let warning = plan.warnings.first().unwrap().to_string();
    assert!(
        warning.contains("out and late both write files out"),
        "{warning}"
    );
}

#[test]
fn forward_edges_chain_and_the_plan_explains_itself() {
    let plan = Plan::compile(counting(), defaults()).unwrap();
    assert_eq!(plan.job.vertices().len(), 2);
    let expected = format!(
        "\
2 tasks, 4 subtasks, graph {}

task 0: in → filter-1  (parallelism 2 of 720)
  in                       source: file log in, unbounded; bounded by 45000 ms; bad records fail
  filter-1                 filter
  => hash by text to task 1 (4 channels)

task 1: count → out  (parallelism 2 of 720)
  count                    window
                             key text
                             state count: value u64
  out                      sink: files out, exactly-once
",
        plan.fingerprint
    );
    assert_eq!(explain(&plan, PlanFormat::Text), expected);
    assert!(explain(&plan, PlanFormat::Dot).contains("n1 -> n2 [label=\"hash by text\"]"));
}

#[test]
fn the_fingerprint_ignores_parallelism_and_sees_everything_else() {
    let plain = Plan::compile(counting(), defaults()).unwrap().fingerprint;
    let wider = PlanDefaults {
        parallelism: Parallelism(8),
        ..defaults()
    };
    assert_eq!(Plan::compile(counting(), wider).unwrap().fingerprint, plain);
    let mut graph = counting();
    graph.node_mut(NodeId(2)).detail = "tumbling 5 ms".to_owned();
    assert_ne!(Plan::compile(graph, defaults()).unwrap().fingerprint, plain);
    let mut graph = counting();
    graph.node_mut(NodeId(2)).states[0].shape = "value i64".to_owned();
    assert_ne!(Plan::compile(graph, defaults()).unwrap().fingerprint, plain);
}
