//! The plan of a job, as its author sees it.

use highwater_api::StreamEnvironment;
use highwater_connectors::{CollectSink, ElementsSource};
use highwater_graph::check::Checkpoints;
use highwater_graph::{PlanDefaults, PlanFormat, explain};
use highwater_operators::{Count, OutputTag, WindowContext};
use highwater_time::WatermarkStrategy;
use highwater_types::{EventTime, MaxParallelism, Parallelism};
use highwater_window::Tumbling;

/// What holds where a test sets nothing.
pub(crate) fn defaults(parallelism: u32) -> PlanDefaults {
    PlanDefaults {
        parallelism: Parallelism(parallelism),
        max_parallelism: MaxParallelism::DEFAULT,
        checkpoints: Checkpoints::On,
    }
}

/// Counts by key in windows of a minute, with late records on their own way.
fn counting(env: &mut StreamEnvironment) {
    let late = OutputTag::<(u64, i64)>::new("late");
    let in_time = WatermarkStrategy::bounded_out_of_orderness(5_000).idle_after(1_000);
    let counts = env
        .source("records", ElementsSource::new([(1u64, 2i64)]))
        .watermarks(in_time, |record| EventTime(record.1))
        .filter(|record| record.1 > 0)
        .key_by(|record| record.0)
        .window_of(Tumbling::try_new(60_000))
        .allowed_lateness(30_000)
        .late_to(&late)
        .aggregate(
            "count",
            Count,
            |count, fired: &mut WindowContext<'_, u64, (u64, u64)>| {
                fired.emit((*fired.key(), count));
                Ok(())
            },
        );
    counts
        .side_output(&late)
        .sink("late", CollectSink::at_least_once().0)
        .parallelism(1);
    counts.sink("counts", CollectSink::exactly_once().0);
}

fn compiled(parallelism: u32) -> highwater_api::JobProgram {
    let mut env = StreamEnvironment::new();
    counting(&mut env);
    env.compile(defaults(parallelism)).unwrap()
}

#[test]
fn the_plan_of_a_job_is_shown_whole() {
    let program = compiled(2);
    let fingerprint = program.plan().fingerprint;
    let expected = format!(
        "\
3 tasks, 5 subtasks, graph {fingerprint}

task 0: records → filter-1  (parallelism 2 of 720)
  records                  source: elements 1 records, bounded; watermarks 5000 ms behind, idle after 1000 ms; bad records fail
  filter-1                 filter
  => hash by u64 to task 1 (4 channels)

task 1: count → counts  (parallelism 2 of 720)
  count                    window: tumbling 60000 ms, lateness 30000 ms
                             key u64
                             state window: u64
  counts                   sink: collect memory, exactly-once
  => side output `late` rebalance to task 2 (2 channels)

task 2: late  (parallelism 1 of 720)
  late                     sink: collect memory, at-least-once

warning: late is at-least-once: output may be repeated or lost after a failure
warning: late and counts both write collect memory, in no order between them
"
    );
    assert_eq!(explain(program.plan(), PlanFormat::Text), expected);
}

#[test]
fn equal_functions_give_equal_fingerprints_at_any_parallelism_and_others_do_not() {
    let fingerprint = |program: highwater_api::JobProgram| program.plan().fingerprint;
    assert_eq!(fingerprint(compiled(2)), fingerprint(compiled(2)));
    let mut other = StreamEnvironment::new();
    counting(&mut other);
    other
        .source("more", ElementsSource::new([1u8]))
        .sink("sink", CollectSink::at_least_once().0);
    let other = other.compile(defaults(2)).unwrap();
    assert_ne!(fingerprint(compiled(2)), fingerprint(other));
}

#[test]
fn the_operator_goes_before_the_environment_and_that_before_the_defaults() {
    let mut env = StreamEnvironment::new();
    env.set_parallelism(3);
    env.set_max_parallelism(96);
    let numbers = env
        .source("in", ElementsSource::new([1i64]))
        .map(|number| number);
    numbers
        .parallelism(5)
        .max_parallelism(7)
        .sink("out", CollectSink::at_least_once().0);
    let program = env.compile(defaults(2)).unwrap();
    let nodes = program.plan().graph.nodes().iter();
    let set = nodes.map(|node| {
        let subtasks = node.parallelism.map(|parallelism| parallelism.0);
        (
            subtasks.unwrap_or(0),
            node.max_parallelism.map_or(0, MaxParallelism::get),
        )
    });
    assert_eq!(set.collect::<Vec<_>>(), [(3, 96), (5, 7), (3, 96)]);
}
