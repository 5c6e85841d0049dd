//! Tests of process functions without a key: outputs, life cycle and failures.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::testing::{Harness, HarnessSetup, SideReceiver};
use crate::user_metrics::{UserMetric, UserValue};

/// Emits doubles, sends odd numbers aside with what it knows of time, and notes its life.
struct Doubler {
    life: Rc<RefCell<Vec<String>>>,
}

fn odd_tag() -> OutputTag<(i64, Watermark, ProcessingTime)> {
    OutputTag::new("odd")
}

impl ProcessFunction<i64, i64> for Doubler {
    fn open(&mut self, place: &FunctionPlace) -> Result<(), UserError> {
        let (subtask, of) = (place.subtask, place.parallelism);
        self.life
            .borrow_mut()
            .push(format!("open {subtask} of {of}"));
        Ok(())
    }

    fn on_record(
        &mut self,
        record: i64,
        context: &mut ProcessContext<'_, i64>,
    ) -> Result<(), UserError> {
        if record < 0 {
            return Err("negative".into());
        }
        if record % 2 == 1 {
            let known = (record, context.watermark(), context.now());
            context.emit_side(&odd_tag(), known);
        }
        context.emit(record * 2);
        Ok(())
    }

    fn finish(&mut self, context: &mut ProcessContext<'_, i64>) -> Result<(), UserError> {
        context.emit(0);
        Ok(())
    }

    fn close(&mut self) {
        self.life.borrow_mut().push("close".to_owned());
    }
}

type Life = Rc<RefCell<Vec<String>>>;
type Odd = SideReceiver<(i64, Watermark, ProcessingTime)>;

fn doubler() -> (Harness<i64, i64>, Odd, Life) {
    let (odd, life) = (SideReceiver::new(&odd_tag()), Life::default());
    let setup = HarnessSetup {
        subtask: 1,
        parallelism: 3,
        sides: vec![odd.port()],
        now: ProcessingTime(5),
        ..HarnessSetup::default()
    };
    let noted = Rc::clone(&life);
    let function = Doubler { life: noted };
    let harness = Harness::new(setup, |context| Process::open(&context, function));
    (harness, odd, life)
}

#[test]
fn records_go_to_both_outputs_with_the_time_of_their_origin() {
    let (mut harness, odd, _) = doubler();
    harness.watermark(7);
    harness.push_all([(1, EventTime(10)), (2, EventTime(20))]);
    assert_eq!(
        harness.take_output(),
        [(2, EventTime(10)), (4, EventTime(20))]
    );
    let known = (1, Watermark(7), ProcessingTime(5));
    assert_eq!(odd.take(), [(known, EventTime(10))]);
}

#[test]
fn a_side_output_without_a_receiver_drops_its_records() {
    let life = Life::default();
    let mut harness = Harness::new(HarnessSetup::default(), |context| {
        Process::open(&context, Doubler { life })
    });
    harness.push(1, EventTime(0));
    assert_eq!(harness.take_output(), [(2, EventTime(0))]);
}

#[test]
fn open_comes_first_finish_at_the_end_and_close_last() {
    let (mut harness, _, life) = doubler();
    harness.end();
    assert_eq!(harness.take_output(), [(0, EventTime::NONE)]);
    drop(harness);
    assert_eq!(*life.borrow(), ["open 1 of 3", "close"]);
}

#[test]
fn close_is_called_after_a_failure_too() {
    let (mut harness, _, life) = doubler();
    let error = harness.try_push_all([(-1, EventTime(0))]).unwrap_err();
    assert!(matches!(
        error,
        OperatorError::User {
            call: "on_record",
            ..
        }
    ));
    drop(harness);
    assert_eq!(*life.borrow(), ["open 1 of 3", "close"]);
}

/// Counts what it is told of.
#[derive(Default)]
struct Counting {
    records: UserCounter,
    last: UserGauge,
}

impl ProcessFunction<i64, i64> for Counting {
    fn open(&mut self, place: &FunctionPlace) -> Result<(), UserError> {
        self.records = place.counter("records");
        self.last = place.gauge("last");
        Ok(())
    }

    fn on_record(
        &mut self,
        record: i64,
        _context: &mut ProcessContext<'_, i64>,
    ) -> Result<(), UserError> {
        self.records.add(1);
        self.last.set(record as f64);
        Ok(())
    }
}

#[test]
fn what_a_function_counts_is_told_with_its_operator() {
    let mut harness = Harness::new(HarnessSetup::default(), |context| {
        Process::open(&context, Counting::default())
    });
    let count = |value| UserMetric {
        name: "records".to_owned(),
        value: UserValue::Count(value),
    };
    assert_eq!(harness.report().user, [count(0)]);
    harness.push_all([(4, EventTime(0)), (-5, EventTime(0))]);
    let last = UserMetric {
        name: "last".to_owned(),
        value: UserValue::Level((-5.0_f64).to_bits()),
    };
    assert_eq!(harness.report().user, [count(2), last]);
}
