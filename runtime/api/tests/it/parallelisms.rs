//! One program at other parallelisms: the plans are those of a fresh compile, and what the author fixed stays.

use highwater_api::{JobProgram, StreamEnvironment};
use highwater_connectors::{CollectSink, ElementsSource};
use highwater_graph::Partitioning;
use highwater_operators::Count;
use highwater_types::{OperatorUid, Parallelism, Parallelisms};

use crate::driver::run;
use crate::plan::defaults;

/// in → map-1 =hash=> count → out, which its author fixed at 2 subtasks.
fn counting(env: &mut StreamEnvironment) {
    env.source("in", ElementsSource::new([1u64, 2]))
        .map(|number| number)
        .key_by(|number| *number)
        .aggregate("count", Count)
        .sink("out", CollectSink::exactly_once().0)
        .parallelism(2);
}

fn compiled(parallelism: u32) -> JobProgram {
    let mut env = StreamEnvironment::new();
    counting(&mut env);
    env.compile(defaults(parallelism)).unwrap()
}

/// Operators with their parallelism.
fn each(operators: &[(&str, u32)]) -> Parallelisms {
    let operators = operators.iter().copied();
    let operators = operators.map(|(uid, of)| (OperatorUid::parse(uid).unwrap(), Parallelism(of)));
    operators.collect()
}

/// What all operators whose author set none take.
fn for_all(program: &JobProgram, parallelism: u32) -> Parallelisms {
    program.spread(Some(Parallelism(parallelism)), &Parallelisms::new())
}

/// The reasons for which a program does not run at these, in order.
fn refused(program: &JobProgram, parallelisms: &Parallelisms) -> Vec<String> {
    match program.at(parallelisms) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

/// How the edge into an operator scatters.
fn way_into(program: &JobProgram, uid: &str) -> Partitioning {
    let plan = program.plan();
    let mut nodes = plan.graph.nodes().iter();
    let found = nodes.find(|node| plan.uid(node.id).as_str() == uid);
    let edge = plan.graph.inputs(found.unwrap().id).next().unwrap();
    edge.partitioning.clone()
}

/// The operators of each task.
fn tasks(program: &JobProgram) -> Vec<String> {
    let plan = program.plan();
    let vertices = plan.job.vertices().iter();
    vertices.map(|vertex| plan.task_name(vertex.id)).collect()
}

#[test]
fn at_a_parallelism_the_plan_is_that_of_a_fresh_compile() {
    let program = compiled(2);
    for parallelism in [1, 2, 3, 8] {
        let there = program.at(&for_all(&program, parallelism)).unwrap();
        let (there, fresh) = (there.plan(), compiled(parallelism));
        assert_eq!(there.fingerprint, fresh.plan().fingerprint);
        assert_eq!(there.graph, fresh.plan().graph);
        assert_eq!(there.job, fresh.plan().job);
        assert_eq!(there.warnings, fresh.plan().warnings);
    }
}

#[test]
fn equal_parallelisms_give_equal_plans_whatever_the_way_there() {
    let program = compiled(2);
    let wanted = each(&[("in", 4), ("count", 3)]);
    let by_way_of_7 = program.at(&for_all(&program, 7)).unwrap();
    let first = program.at(&wanted).unwrap();
    let second = by_way_of_7.at(&wanted).unwrap();
    assert_eq!(first.plan(), second.plan());
    let expected = each(&[("in", 4), ("map-1", 2), ("count", 3), ("out", 2)]);
    assert_eq!(second.parallelisms(), expected);
}

#[test]
fn there_and_back_is_the_first_plan_again() {
    let program = compiled(2);
    let there = program.at(&for_all(&program, 5)).unwrap();
    assert_ne!(there.plan(), program.plan());
    let back = there.at(&for_all(&there, 2)).unwrap();
    assert_eq!(back.plan(), program.plan());
    let unnamed = there.at(&Parallelisms::new()).unwrap();
    assert_eq!(unnamed.plan(), program.plan());
}

#[test]
fn what_was_configured_stays_what_it_was_at_any_parallelism() {
    let mut env = StreamEnvironment::new();
    env.set_parallelism(3);
    counting(&mut env);
    let program = env.compile(defaults(6)).unwrap();
    let configured = each(&[("in", 3), ("map-1", 3), ("count", 3), ("out", 2)]);
    assert_eq!(program.configured(), configured);
    assert_eq!(program.parallelisms(), configured);
    let there = program.at(&for_all(&program, 4)).unwrap();
    assert_eq!(there.configured(), configured);
    assert_ne!(there.parallelisms(), configured);
}

#[test]
fn at_what_it_runs_at_it_is_the_same_program() {
    let there = compiled(2).at(&each(&[("in", 5)])).unwrap();
    let again = there.at(&there.parallelisms()).unwrap();
    assert!(std::ptr::eq(there.plan(), again.plan()));
}

#[test]
fn a_forward_edge_rebalances_only_between_unequal_numbers_of_subtasks() {
    let program = compiled(2);
    let apart = program.at(&each(&[("map-1", 3), ("count", 4)])).unwrap();
    for uid in ["map-1", "out"] {
        assert_eq!(way_into(&program, uid), Partitioning::Forward);
        assert_eq!(way_into(&apart, uid), Partitioning::Rebalance);
    }
    assert_eq!(way_into(&apart, "count"), way_into(&program, "count"));
    let together = apart.at(&each(&[("in", 4), ("map-1", 4)])).unwrap();
    for uid in ["map-1", "out"] {
        assert_eq!(way_into(&together, uid), Partitioning::Forward);
    }
}

#[test]
fn operators_of_an_old_chain_are_in_the_new_chains() {
    let program = compiled(2);
    assert_eq!(tasks(&program), ["in → map-1", "count → out"]);
    let split = program.at(&each(&[("count", 3)])).unwrap();
    assert_eq!(tasks(&split), ["in → map-1", "count", "out"]);
    let other = split.at(&each(&[("in", 1)])).unwrap();
    assert_eq!(tasks(&other), ["in", "map-1", "count → out"]);
    let back = other.at(&Parallelisms::new()).unwrap();
    assert_eq!(tasks(&back), tasks(&program));
}

#[test]
fn what_the_author_fixed_stays_when_a_parallelism_is_for_all() {
    let program = compiled(2);
    let wanted = for_all(&program, 4);
    let expected = each(&[("in", 4), ("map-1", 4), ("count", 4), ("out", 2)]);
    assert_eq!(wanted, expected);
    let moved = program.at(&each(&[("out", 3)])).unwrap();
    assert_eq!(
        for_all(&moved, 4),
        each(&[("in", 4), ("map-1", 4), ("count", 4), ("out", 3)])
    );
}

#[test]
fn an_operator_that_is_named_goes_before_the_parallelism_for_all_and_the_author() {
    let program = compiled(2);
    let named = each(&[("in", 1), ("out", 5)]);
    let wanted = program.spread(Some(Parallelism(4)), &named);
    let expected = each(&[("in", 1), ("map-1", 4), ("count", 4), ("out", 5)]);
    assert_eq!(wanted, expected);
}

#[test]
fn an_operator_of_which_nothing_is_said_keeps_what_it_runs_at() {
    let there = compiled(2).at(&each(&[("in", 5), ("out", 3)])).unwrap();
    let nothing = there.spread(None, &Parallelisms::new());
    assert_eq!(nothing, there.parallelisms());
    let wanted = there.spread(None, &each(&[("count", 6)]));
    let expected = each(&[("in", 5), ("map-1", 2), ("count", 6), ("out", 3)]);
    assert_eq!(wanted, expected);
}

#[test]
fn an_unknown_operator_is_refused_with_those_that_the_job_has() {
    let program = compiled(2);
    let misspelt = program.spread(Some(Parallelism(4)), &each(&[("cuont", 3)]));
    let expected = ["the job has no operator `cuont`; it has `count`, `in`, `map-1`, `out`"];
    assert_eq!(refused(&program, &misspelt), expected);
}

#[test]
fn a_parallelism_of_0_or_above_the_max_parallelism_is_refused() {
    let program = compiled(2);
    let reasons = refused(&program, &each(&[("in", 721), ("count", 0), ("sink", 1)]));
    let expected = [
        "the job has no operator `sink`; it has `count`, `in`, `map-1`, `out`",
        "in has parallelism 721; it may be 1 to 720 (its max parallelism)",
        "count has parallelism 0; it may be 1 to 720 (its max parallelism)",
    ];
    assert_eq!(reasons, expected);
    assert!(program.at(&each(&[("in", 720)])).is_ok());
}

#[test]
fn records_come_through_whole_at_every_parallelism_of_one_program() {
    let (sink, collected) = CollectSink::at_least_once();
    let mut env = StreamEnvironment::new();
    env.source("in", ElementsSource::new(0..2_000i64))
        .filter(|number| number % 2 == 0)
        .uid("even")
        .sink("out", sink);
    let program = env.compile(defaults(2)).unwrap();
    let runs = [
        program.clone(),
        program.at(&each(&[("even", 3), ("out", 1)])).unwrap(),
        program.at(&for_all(&program, 5)).unwrap(),
    ];
    for program in &runs {
        run(program);
    }
    let mut records = collected.records().unwrap();
    records.sort_unstable();
    let evens = (0..2_000).step_by(2);
    let expected: Vec<i64> = evens.flat_map(|number| [number; 3]).collect();
    assert_eq!(records, expected);
}
