//! Tests of the registry: what a reader sees of what writers wrote.

use std::time::Duration;

use highwater_types::{JobIdentity, OperatorUid, SubtaskIndex};

use super::*;
use crate::labels::{SubtaskLabels, UserLabels};
use crate::table::operator::{self, OperatorScope};
use crate::table::task::{self, TaskScope};
use crate::table::user::counter::{CounterScope, EVENTS};

fn registry() -> MetricsRegistry {
    MetricsRegistry::new(&JobIdentity::parse("harbor-fleet").unwrap())
}

fn labels(operator: &str, subtask: u32) -> SubtaskLabels {
    SubtaskLabels {
        operator: OperatorUid::parse(operator).unwrap(),
        subtask: SubtaskIndex(subtask),
    }
}

fn value(registry: &MetricsRegistry, name: &str) -> Option<SampleValue> {
    let mut samples = registry.samples().into_iter();
    samples
        .find(|sample| sample.metric.name == name)
        .map(|sample| sample.value)
}

#[test]
fn a_reader_in_another_thread_sees_what_the_writer_wrote() {
    let registry = registry();
    let cells = registry.cells::<OperatorScope>(&labels("r1", 0));
    let writer = std::thread::spawn(move || {
        for _ in 0..1_000 {
            cells.add(operator::RECORDS_IN, 3);
        }
    });
    let mut last = 0.0;
    while !writer.is_finished() {
        let now = registry.total(operator::RECORDS_IN);
        assert!(now >= last, "a counter went back from {last} to {now}");
        last = now;
    }
    writer.join().unwrap();
    assert_eq!(
        value(&registry, "highwater_operator_records_in_total"),
        Some(SampleValue::Whole(3_000))
    );
}

#[test]
fn a_gauge_is_absent_until_set_and_after_clear() {
    let registry = registry();
    let cells = registry.cells::<TaskScope>(&labels("r1", 0));
    let name = "highwater_task_watermark_timestamp_seconds";
    assert_eq!(value(&registry, name), None);
    cells.set(task::WATERMARK, -1_500);
    assert_eq!(value(&registry, name), Some(SampleValue::Real(-1.5)));
    cells.clear(task::WATERMARK);
    assert_eq!(value(&registry, name), None);
}

#[test]
fn observations_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
    let registry = registry();
    let cells = registry.cells::<TaskScope>(&labels("r1", 0));
    for nanos in [10_000, 10_001, 20_000_000_000] {
        cells.observe(task::PAUSE, Duration::from_nanos(nanos));
    }
    let Some(SampleValue::Histogram { buckets, sum }) =
        value(&registry, "highwater_task_checkpoint_pause_seconds")
    else {
        panic!("a histogram is there from the start");
    };
    assert_eq!((buckets[0], buckets[1]), ((0.000_01, 1), (0.000_05, 1)));
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
    assert!((sum - 20.000_020_001).abs() < 1e-9, "{sum}");
}

#[test]
fn neighbours_in_a_table_do_not_touch_each_other() {
    let registry = registry();
    let cells = registry.cells::<TaskScope>(&labels("r1", 0));
    cells.observe(task::MAILBOX_WAIT, Duration::from_secs(100));
    cells.set(task::BUFFERED, 7);
    cells.set(task::RESTORE, Duration::from_secs(2));
    assert_eq!(
        value(&registry, "highwater_task_input_buffered_bytes"),
        Some(SampleValue::Whole(7))
    );
    assert_eq!(
        value(&registry, "highwater_task_restore_seconds"),
        Some(SampleValue::Real(2.0))
    );
    assert_eq!(
        value(&registry, "highwater_task_letters_total"),
        Some(SampleValue::Whole(0))
    );
}

#[test]
fn a_new_attempt_starts_from_zero_and_hides_the_old_one() {
    let registry = registry();
    let old = registry.cells::<OperatorScope>(&labels("r1", 0));
    old.add(operator::RECORDS_OUT, 5);
    let new = registry.cells::<OperatorScope>(&labels("r1", 0));
    new.add(operator::RECORDS_OUT, 1);
    old.add(operator::RECORDS_OUT, 100);
    assert!((registry.total(operator::RECORDS_OUT) - 1.0).abs() < f64::EPSILON);
    registry.retire::<OperatorScope>(&labels("r1", 0));
    assert_eq!(
        value(&registry, "highwater_operator_records_out_total"),
        None
    );
}

#[test]
fn label_sets_are_bounded_and_the_rest_is_counted() {
    let registry = registry();
    let user = |at: usize| UserLabels {
        owner: labels("r1", 0),
        name: format!("seen-{at}"),
    };
    for at in 0..LABEL_SETS_MAX + 3 {
        registry.cells::<CounterScope>(&user(at)).add(EVENTS, 1);
    }
    let shown = registry.total(EVENTS);
    assert!(
        (shown - LABEL_SETS_MAX as f64).abs() < f64::EPSILON,
        "{shown}"
    );
    assert_eq!(
        value(&registry, "highwater_metrics_hidden"),
        Some(SampleValue::Whole(3))
    );
}

#[test]
fn a_counter_that_is_raised_never_goes_back() {
    let registry = registry();
    let cells = registry.cells::<OperatorScope>(&labels("r1", 0));
    cells.raise(operator::RECORDS_IN, 10);
    cells.raise(operator::RECORDS_IN, 4);
    assert_eq!(
        value(&registry, "highwater_operator_records_in_total"),
        Some(SampleValue::Whole(10))
    );
}
