//! Tests of keyed process functions: a scripted function does what its records ask, and shows what it sees.

use std::cell::Cell;
use std::rc::Rc;

use highwater_state::{MemoryBudget, TtlConfig};
use highwater_types::{Classified, ErrorKind};

use super::*;
use crate::snapshot::OperatorSnapshot;
use crate::testing::{Harness, HarnessElement, HarnessSetup, ParallelHarness};

/// What a scripted record asks its key to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    SetEvent(i64),
    SetProcessing(i64),
    DeleteEvent(i64),
    DeleteProcessing(i64),
    /// Sets an event timer; when it fires it sets another so many milliseconds later, so many times.
    Repeat(i64, i64, i64),
    Add(i64),
    Fail,
}

impl Ask {
    const fn parts(self) -> (u8, i64, i64, i64) {
        match self {
            Self::SetEvent(at) => (0, at, 0, 0),
            Self::SetProcessing(at) => (1, at, 0, 0),
            Self::DeleteEvent(at) => (2, at, 0, 0),
            Self::DeleteProcessing(at) => (3, at, 0, 0),
            Self::Repeat(at, every, times) => (4, at, every, times),
            Self::Add(value) => (5, value, 0, 0),
            Self::Fail => (6, 0, 0, 0),
        }
    }
}

/// The key and what it asks, as a record.
type Request = (i64, (u8, i64, i64, i64));
/// Key, time of the timer or sum, watermark, and whether the timer was of event time.
type Seen = (i64, i64, i64, bool);

const fn key_of(request: &Request) -> i64 {
    request.0
}

type Value<V> = StateHandle<ValueState<i64, (), V>>;

#[derive(Default)]
struct Scripted {
    sum: Option<Value<i64>>,
    repeat: Option<Value<(i64, i64)>>,
    closed: Rc<Cell<bool>>,
}

impl Scripted {
    fn sum(&self) -> Value<i64> {
        self.sum.expect("opened")
    }

    fn repeat(&self) -> Value<(i64, i64)> {
        self.repeat.expect("opened")
    }
}

impl KeyedProcessFunction<i64, Request, Seen> for Scripted {
    fn open(&mut self, context: &mut OpenContext<'_, i64>) -> Result<(), UserError> {
        self.sum = Some(context.value("sum", Some(TtlConfig::after_write(1_000)))?);
        self.repeat = Some(context.value("repeat", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        (key, ask): Request,
        context: &mut KeyedContext<'_, i64, Seen>,
    ) -> Result<(), UserError> {
        match ask {
            (0, at, ..) => context.register_event_timer(EventTime(at)),
            (1, at, ..) => context.register_processing_timer(ProcessingTime(at)),
            (2, at, ..) => context.delete_event_timer(EventTime(at)),
            (3, at, ..) => context.delete_processing_timer(ProcessingTime(at)),
            (4, at, every, times) => {
                context.state(self.repeat()).set((every, times));
                context.register_event_timer(EventTime(at));
            }
            (5, value, ..) => {
                let sum = context.state(self.sum()).update(
                    || 0,
                    |sum| {
                        *sum += value;
                        *sum
                    },
                );
                context.emit((key, sum, context.watermark().0, true));
            }
            _ => return Err("asked to fail".into()),
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        context: &mut KeyedContext<'_, i64, Seen>,
    ) -> Result<(), UserError> {
        let (time, is_event) = match timer {
            FiredTimer::Event(time) => (time.0, true),
            FiredTimer::Processing(time) => (time.0, false),
        };
        context.emit((*context.key(), time, context.watermark().0, is_event));
        if let Some((every, times @ 1..)) = context.state(self.repeat()).get().copied() {
            context.state(self.repeat()).set((every, times - 1));
            context.register_event_timer(EventTime(time + every));
        }
        Ok(())
    }

    fn close(&mut self) {
        self.closed.set(true);
    }
}

type Opened = KeyedProcess<i64, Request, Seen, Scripted, fn(&Request) -> i64>;

fn open(context: &OperatorContext) -> Result<Opened, OperatorError> {
    KeyedProcess::open(context, key_of as fn(&Request) -> i64, Scripted::default())
}

fn harness() -> Harness<Request, Seen> {
    Harness::new(HarnessSetup::default(), |context| open(&context))
}

fn ask(harness: &mut Harness<Request, Seen>, asked: impl IntoIterator<Item = (i64, Ask)>) {
    let request = |(key, ask): (i64, Ask)| ((key, ask.parts()), EventTime(0));
    harness.push_keyed(asked.into_iter().map(request), key_of);
}

fn seen(harness: &mut Harness<Request, Seen>) -> Vec<(i64, i64)> {
    harness
        .take_output()
        .into_iter()
        .map(|((key, time, ..), _)| (key, time))
        .collect()
}

#[test]
fn t06_a_timer_set_a_thousand_times_fires_once_and_before_the_watermark_moves_on() {
    let mut harness = harness();
    ask(&mut harness, (0..1_000).map(|_| (1, Ask::SetEvent(10))));
    assert_eq!(harness.report().timers, 1);
    harness.watermark(9);
    assert_eq!(
        harness.take_elements(),
        [HarnessElement::Watermark(Watermark(9))]
    );
    harness.watermark(10);
    let expected = [
        HarnessElement::Record((1, 10, 10, true), EventTime(10)),
        HarnessElement::Watermark(Watermark(10)),
    ];
    assert_eq!(harness.take_elements(), expected);
    harness.watermark(11);
    assert_eq!(seen(&mut harness), []);
    let report = harness.report();
    assert_eq!((report.timers, report.timers_fired), (0, 1));
    assert_eq!((report.chunks_in, report.records_in), (1, 1_000));
}

#[test]
fn t06_timers_fire_in_order_of_time_and_those_set_while_firing_in_the_same_pass() {
    let mut harness = harness();
    ask(
        &mut harness,
        [
            (1, Ask::SetEvent(30)),
            (2, Ask::Repeat(5, 20, 9)),
            (1, Ask::SetEvent(-7)),
        ],
    );
    harness.watermark(50);
    assert_eq!(
        seen(&mut harness),
        [(1, -7), (2, 5), (2, 25), (1, 30), (2, 45)]
    );
    harness.watermark(65);
    assert_eq!(seen(&mut harness), [(2, 65)]);
}

#[test]
fn t06_a_deleted_timer_does_not_fire_and_deleting_an_absent_one_does_nothing() {
    let mut harness = harness();
    let asked = [
        (1, Ask::SetEvent(10)),
        (2, Ask::SetEvent(10)),
        (1, Ask::DeleteEvent(10)),
        (1, Ask::DeleteEvent(99)),
        (1, Ask::SetProcessing(10)),
        (1, Ask::DeleteProcessing(10)),
    ];
    ask(&mut harness, asked);
    harness.watermark(100);
    harness.processing_time(100);
    assert_eq!(seen(&mut harness), [(2, 10)]);
}

#[test]
fn processing_timers_fire_by_the_clock_and_name_the_next_deadline() {
    let mut harness = harness();
    assert_eq!(harness.next_deadline(), None);
    ask(
        &mut harness,
        [(1, Ask::SetProcessing(20)), (2, Ask::SetProcessing(10))],
    );
    assert_eq!(harness.next_deadline(), Some(ProcessingTime(10)));
    harness.watermark(i64::MAX);
    assert_eq!(seen(&mut harness), [], "event time does not move them");
    harness.processing_time(10);
    assert_eq!(
        harness.take_output(),
        [((2, 10, i64::MAX, false), EventTime::NONE)]
    );
    assert_eq!(harness.next_deadline(), Some(ProcessingTime(20)));
}

#[test]
fn t07_overdue_processing_timers_fire_at_once_after_a_restore_once_and_in_order() {
    let mut before = harness();
    ask(
        &mut before,
        [(1, Ask::SetProcessing(30)), (1, Ask::SetProcessing(20))],
    );
    let snapshot = before.snapshot();
    drop(before);
    let setup = HarnessSetup {
        now: ProcessingTime(1_000),
        restored: Some(snapshot.into()),
        ..HarnessSetup::default()
    };
    let mut after = Harness::new(setup, |context| open(&context));
    assert_eq!(after.next_deadline(), Some(ProcessingTime(20)));
    after.turns();
    assert_eq!(seen(&mut after), [(1, 20), (1, 30)]);
    after.turns();
    assert_eq!(seen(&mut after), []);
}

#[test]
fn many_due_timers_fire_in_portions() {
    let mut harness = harness();
    let count = 2 * FIRINGS_MAX as i64 + 1;
    ask(&mut harness, (0..count).map(|key| (key, Ask::SetEvent(10))));
    assert_eq!(harness.watermark_call(10), Progress::More);
    let first = harness.take_elements();
    assert_eq!(first.len(), FIRINGS_MAX);
    assert_eq!(harness.turn(), Progress::More);
    assert_eq!(harness.turn(), Progress::Done);
    let rest = harness.take_elements();
    assert_eq!(rest.len(), FIRINGS_MAX + 2);
    assert_eq!(rest.last(), Some(&HarnessElement::Watermark(Watermark(10))));
}

#[test]
fn timers_do_not_fire_into_an_output_without_room() {
    let mut harness = harness();
    let count = 3 * FIRINGS_MAX as i64;
    ask(&mut harness, (0..count).map(|key| (key, Ask::SetEvent(10))));
    assert_eq!(harness.watermark_call(10), Progress::More);
    assert_eq!(harness.take_elements().len(), FIRINGS_MAX);
    harness.set_output_full(true);
    for _ in 0..5 {
        assert_eq!(harness.turn(), Progress::Waiting, "the firing is not over");
    }
    assert_eq!(harness.take_elements().len(), 0);
    harness.set_output_full(false);
    harness.turns();
    let rest = harness.take_elements();
    assert_eq!(rest.len(), 2 * FIRINGS_MAX + 1);
    assert_eq!(rest.last(), Some(&HarnessElement::Watermark(Watermark(10))));
}

#[test]
fn processing_timers_wait_for_room_too() {
    let mut harness = harness();
    ask(&mut harness, [(1, Ask::SetProcessing(20))]);
    harness.take_elements();
    harness.set_output_full(true);
    harness.processing_time(30);
    assert_eq!(harness.take_elements().len(), 0);
    harness.set_output_full(false);
    harness.turns();
    assert_eq!(harness.take_elements().len(), 1);
}

type Scale = ParallelHarness<Request, Seen, ()>;

fn scale(parallelism: u32, restored: Option<&[OperatorSnapshot]>) -> Scale {
    let unused = OutputTag::new("unused");
    let build = |context: OperatorContext| open(&context);
    ParallelHarness::new(parallelism, ProcessingTime(0), &unused, restored, build)
}

fn sorted(fleet: &mut Scale) -> Vec<(Seen, EventTime)> {
    let mut output = fleet.take_output();
    output.sort_unstable();
    output
}

#[test]
fn t06_t07_state_and_timers_move_with_their_keys_to_any_parallelism() {
    for (p, q) in [(1, 1), (1, 3), (3, 1), (2, 5), (5, 4), (4, 32)] {
        let mut fleet = scale(p, None);
        for key in 0..100 {
            let asks = [
                Ask::Add(key),
                Ask::SetEvent(key),
                Ask::SetProcessing(key + 50),
            ];
            for asked in asks {
                fleet.push((key, asked.parts()), EventTime(0), key_of);
            }
        }
        fleet.watermark(39);
        fleet.take_output();
        let snapshots = fleet.snapshot();
        let mut moved = scale(q, Some(&snapshots));
        for fleet in [&mut fleet, &mut moved] {
            fleet.watermark(80);
            fleet.processing_time(100);
            (0..100).for_each(|key| fleet.push((key, Ask::Add(1).parts()), EventTime(0), key_of));
        }
        let (stayed, moved) = (sorted(&mut fleet), sorted(&mut moved));
        assert_eq!(stayed.len(), 41 + 51 + 100, "{p} to {q}");
        assert_eq!(stayed, moved, "{p} to {q}");
    }
}

#[test]
fn a_snapshot_holds_the_state_at_the_barrier_whatever_comes_behind_it() {
    let mut harness = harness();
    ask(&mut harness, (0..3_000).map(|key| (key, Ask::Add(1))));
    ask(
        &mut harness,
        [(7, Ask::SetEvent(10)), (8, Ask::SetEvent(10))],
    );
    harness.barrier();
    ask(&mut harness, (0..500).map(|key| (key, Ask::Add(1))));
    ask(
        &mut harness,
        [(7, Ask::DeleteEvent(10)), (9, Ask::SetEvent(10))],
    );
    let early = harness.collect_portion();
    // Over a store a snapshot that holds up eviction is saved in large portions.
    let is_part = early.is_none() || crate::testing::is_over_a_store();
    assert!(is_part, "a portion is not all of it");
    ask(&mut harness, (0..4_000).map(|key| (key, Ask::Add(1))));
    let setup = HarnessSetup {
        restored: Some(early.unwrap_or_else(|| harness.collect()).into()),
        ..HarnessSetup::default()
    };
    let mut restored = Harness::new(setup, |context| open(&context));
    ask(
        &mut restored,
        [(0, Ask::Add(0)), (2_999, Ask::Add(0)), (3_000, Ask::Add(0))],
    );
    assert_eq!(seen(&mut restored), [(0, 1), (2_999, 1), (3_000, 0)]);
    restored.watermark(10);
    let mut fired = seen(&mut restored);
    fired.sort_unstable();
    assert_eq!(fired, [(7, 10), (8, 10)]);
}

#[test]
fn an_aborted_snapshot_leaves_the_next_one_whole() {
    let mut harness = harness();
    ask(&mut harness, (0..3_000).map(|key| (key, Ask::Add(1))));
    harness.barrier();
    assert!(harness.collect_portion().is_none() || crate::testing::is_over_a_store());
    harness.abort();
    ask(&mut harness, [(5, Ask::Add(1))]);
    let setup = HarnessSetup {
        restored: Some(harness.snapshot().into()),
        ..HarnessSetup::default()
    };
    let mut restored = Harness::new(setup, |context| open(&context));
    ask(&mut restored, [(5, Ask::Add(0)), (6, Ask::Add(0))]);
    assert_eq!(seen(&mut restored), [(5, 2), (6, 1)]);
}

#[test]
fn the_watermark_of_the_state_comes_back_and_the_end_of_input_does_not() {
    let mut before = harness();
    before.watermark(700);
    before.watermark(i64::MAX);
    let setup = HarnessSetup {
        restored: Some(before.snapshot().into()),
        ..HarnessSetup::default()
    };
    let mut after = Harness::new(setup, |context| open(&context));
    ask(&mut after, [(1, Ask::Add(1))]);
    assert_eq!(after.take_output(), [((1, 1, 700, true), EventTime(0))]);
    after.watermark(10);
    ask(&mut after, [(1, Ask::Add(1))]);
    assert_eq!(
        after.take_output()[0].0.2,
        700,
        "event time does not go back"
    );
}

#[test]
fn t28_a_value_is_gone_at_last_write_plus_ttl() {
    let mut harness = harness();
    ask(&mut harness, [(1, Ask::Add(5))]);
    harness.processing_time(999);
    ask(&mut harness, [(1, Ask::Add(5))]);
    harness.processing_time(1_999);
    ask(&mut harness, [(1, Ask::Add(5))]);
    assert_eq!(seen(&mut harness), [(1, 5), (1, 10), (1, 5)]);
}

#[test]
fn a_report_counts_the_entries_of_all_states() {
    let mut harness = harness();
    let add = |key: i64| ((key, Ask::Add(1).parts()), EventTime(1));
    harness.push_keyed([add(1), add(2), add(1)], key_of);
    let report = harness.report();
    assert_eq!(report.state_entries, 2, "one for each key");
    assert!(report.state_bytes > 0);
}

#[test]
fn late_records_are_counted_by_how_late_they_are() {
    let mut harness = harness();
    harness.watermark(100);
    let add = |time| ((1, Ask::Add(1).parts()), EventTime(time));
    harness.push_keyed([add(101), add(100), add(40)], key_of);
    let lateness = harness.report().lateness.unwrap();
    assert_eq!((lateness.total(), lateness.late()), (3, 2));
    assert_eq!(lateness.buckets().collect::<Vec<_>>(), [(0, 1), (63, 1)]);
}

#[test]
fn errors_name_the_call_and_close_follows() {
    let closed = Rc::new(Cell::new(false));
    let function = Scripted {
        closed: Rc::clone(&closed),
        ..Scripted::default()
    };
    let mut harness = Harness::new(HarnessSetup::default(), |context| {
        KeyedProcess::open(&context, key_of, function)
    });
    let fail = [((1, Ask::Fail.parts()), EventTime(0))];
    let error = harness.try_push_keyed(fail, key_of).unwrap_err();
    assert!(matches!(
        error,
        OperatorError::User {
            call: "on_record",
            ..
        }
    ));
    drop(harness);
    assert!(closed.get());
}

#[test]
fn an_error_of_state_keeps_its_kind_through_the_user_function() {
    struct Twice;
    impl KeyedProcessFunction<i64, Request, Seen> for Twice {
        fn open(&mut self, context: &mut OpenContext<'_, i64>) -> Result<(), UserError> {
            context.value::<i64>("same", None)?;
            context.value::<i64>("same", None)?;
            Ok(())
        }

        fn on_record(
            &mut self,
            _request: Request,
            _context: &mut KeyedContext<'_, i64, Seen>,
        ) -> Result<(), UserError> {
            Ok(())
        }
    }
    let opened: Result<Harness<Request, Seen>, _> =
        Harness::try_new(HarnessSetup::default(), |context| {
            KeyedProcess::open(&context, key_of, Twice)
        });
    let error = opened.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Bug);
    assert!(matches!(
        error,
        OperatorError::State(StateError::AlreadyOpen(_))
    ));
}

#[test]
fn state_beyond_the_budget_fails_the_operator() {
    let setup = HarnessSetup {
        budget: MemoryBudget::new(10_000),
        ..HarnessSetup::default()
    };
    let mut harness = Harness::new(setup, |context| open(&context));
    let many = (0..1_000).map(|key| ((key, Ask::Add(1).parts()), EventTime(0)));
    let error = harness.try_push_keyed(many, key_of).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
}

#[test]
fn a_snapshot_too_large_for_the_slot_thread_is_sealed_beside_it() {
    let mut harness = harness();
    for part in 0..32 {
        let keys = part * 1_000..(part + 1) * 1_000;
        ask(&mut harness, keys.map(|key| (key, Ask::Add(key))));
    }
    harness.take_output();
    assert!(harness.report().state_bytes > 1 << 20);
    let snapshot = harness.snapshot();
    while harness.wakes() == 0 {
        // The slot thread may be faster than the wake that follows the bytes.
        std::thread::yield_now();
    }
    let setup = HarnessSetup {
        restored: Some(snapshot.into()),
        ..HarnessSetup::default()
    };
    let mut restored = Harness::new(setup, |context| open(&context));
    ask(&mut restored, [(31_999, Ask::Add(0))]);
    assert_eq!(seen(&mut restored), [(31_999, 31_999)]);
}

crate::testing::also_over_a_store! {
    t06_a_timer_set_a_thousand_times_fires_once_and_before_the_watermark_moves_on,
    t06_timers_fire_in_order_of_time_and_those_set_while_firing_in_the_same_pass,
    t06_a_deleted_timer_does_not_fire_and_deleting_an_absent_one_does_nothing,
    processing_timers_fire_by_the_clock_and_name_the_next_deadline,
    t07_overdue_processing_timers_fire_at_once_after_a_restore_once_and_in_order,
    many_due_timers_fire_in_portions,
    timers_do_not_fire_into_an_output_without_room,
    processing_timers_wait_for_room_too,
    t06_t07_state_and_timers_move_with_their_keys_to_any_parallelism,
    a_snapshot_holds_the_state_at_the_barrier_whatever_comes_behind_it,
    an_aborted_snapshot_leaves_the_next_one_whole,
    the_watermark_of_the_state_comes_back_and_the_end_of_input_does_not,
    t28_a_value_is_gone_at_last_write_plus_ttl,
    late_records_are_counted_by_how_late_they_are,
    errors_name_the_call_and_close_follows,
    an_error_of_state_keeps_its_kind_through_the_user_function,
}
