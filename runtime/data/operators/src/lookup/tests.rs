//! Tests of the lookup: a service whose answers, failures and delays a test decides, on a clock that stands still.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_types::{EventTime, StreamStatus, Watermark};
use tokio::time::Instant;

use super::*;
use crate::testing::{Harness, HarnessElement, HarnessSetup, deal};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What the service does with the attempt number (from 1) of an input.
enum Does {
    Answers(Duration),
    Fails(Duration),
    Panics,
}

/// A service whose behaviour a test decides; remembers when it was called for what.
struct Service<F> {
    does: F,
    calls: Arc<Mutex<Vec<(i64, Instant)>>>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
    fallback: Option<i64>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Fn(i64, usize) -> Does> Service<F> {
    fn new(does: F) -> Self {
        Self {
            does,
            calls: Arc::default(),
            running: Arc::default(),
            most_running: Arc::default(),
            fallback: None,
        }
    }

    fn falling_back_to(mut self, value: i64) -> Self {
        self.fallback = Some(value);
        self
    }
}

impl<F: Fn(i64, usize) -> Does + Send + Sync + 'static> AsyncLookup<i64, i64> for Service<F> {
    async fn lookup(&self, input: i64) -> Result<i64, UserError> {
        let attempt = {
            let mut calls = self.calls.lock().unwrap();
            calls.push((input, Instant::now()));
            calls.iter().filter(|(called, _)| *called == input).count()
        };
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        let _running = Running(Arc::clone(&self.running));
        self.most_running.fetch_max(running, Ordering::Relaxed);
        match (self.does)(input, attempt) {
            Does::Answers(after) => {
                tokio::time::sleep(after).await;
                Ok(input * 10)
            }
            Does::Fails(after) => {
                tokio::time::sleep(after).await;
                Err(format!("no answer for {input}").into())
            }
            Does::Panics => panic!("the service is broken"),
        }
    }

    fn on_failure(&self, _input: i64, error: UserError) -> Result<i64, UserError> {
        self.fallback.ok_or(error)
    }
}

const ORDERS: [LookupOrder; 2] = [LookupOrder::Ordered, LookupOrder::Unordered];

fn harness<F>(service: Service<F>, options: LookupOptions) -> Harness<i64, i64>
where
    F: Fn(i64, usize) -> Does + Send + Sync + 'static,
{
    restored(service, options, None)
}

fn restored<F>(
    service: Service<F>,
    options: LookupOptions,
    restored: Option<crate::RestoredOperator>,
) -> Harness<i64, i64>
where
    F: Fn(i64, usize) -> Does + Send + Sync + 'static,
{
    let setup = HarnessSetup {
        restored,
        ..HarnessSetup::default()
    };
    Harness::new(setup, |context| Lookup::open(&context, service, options))
}

fn options(order: LookupOrder, capacity: usize) -> LookupOptions {
    LookupOptions::new(order, capacity, ms(200))
}

fn inputs(values: impl IntoIterator<Item = i64>) -> Vec<(i64, EventTime)> {
    values
        .into_iter()
        .map(|value| (value, EventTime(value)))
        .collect()
}

fn answers(values: impl IntoIterator<Item = i64>) -> Vec<(i64, EventTime)> {
    values
        .into_iter()
        .map(|value| (value * 10, EventTime(value)))
        .collect()
}

/// Answers after as many milliseconds as the input says.
fn slow_by_input() -> Service<impl Fn(i64, usize) -> Does + Send + Sync + 'static> {
    Service::new(|input, _| Does::Answers(ms(input as u64)))
}

#[test]
fn ordered_answers_leave_in_the_order_of_inputs_unordered_ones_as_they_come() {
    for (order, expected) in ORDERS.into_iter().zip([[30, 10, 20], [10, 20, 30]]) {
        let mut harness = harness(slow_by_input(), options(order, 10));
        harness.push_all(inputs([30, 10, 20]));
        harness.advance_rim(ms(10));
        harness.advance_rim(ms(10));
        harness.advance_rim(ms(10));
        assert_eq!(harness.take_output(), answers(expected), "{order:?}");
    }
}

#[test]
fn t26_nothing_passes_a_watermark_in_either_order() {
    for order in ORDERS {
        let mut harness = harness(slow_by_input(), options(order, 10));
        harness.push_all(inputs([50, 20]));
        harness.watermark(100);
        harness.push_all(inputs([10]));
        harness.status(StreamStatus::Idle);
        harness.advance_rim(ms(30));
        let early = harness.take_elements();
        let allowed = HarnessElement::Record(200, EventTime(20));
        assert!(
            early.iter().all(|element| *element == allowed),
            "{order:?}: {early:?}"
        );
        harness.advance_rim(ms(30));
        let mut elements = harness.take_elements();
        let rest = elements.split_off(elements.len() - 3);
        let expected = [
            HarnessElement::Watermark(Watermark(100)),
            HarnessElement::Record(100, EventTime(10)),
            HarnessElement::Status(StreamStatus::Idle),
        ];
        assert_eq!(rest, expected, "{order:?}");
    }
}

#[test]
fn t26_watermarks_without_open_inputs_pass_at_once_and_later_ones_replace_earlier_ones() {
    let mut harness = harness(slow_by_input(), options(LookupOrder::Unordered, 10));
    harness.watermark(1);
    assert_eq!(
        harness.take_elements(),
        [HarnessElement::Watermark(Watermark(1))]
    );
    harness.push_all(inputs([10]));
    harness.watermark(2);
    harness.watermark(3);
    harness.advance_rim(ms(10));
    let expected = [
        HarnessElement::Record(100, EventTime(10)),
        HarnessElement::Watermark(Watermark(3)),
    ];
    assert_eq!(harness.take_elements(), expected);
}

#[test]
fn t26_capacity_is_backpressure() {
    let service = Service::new(|_, _| Does::Answers(ms(100)));
    let most_running = Arc::clone(&service.most_running);
    let mut harness = harness(service, options(LookupOrder::Unordered, 3));
    assert_eq!(harness.room(), 3);
    harness.push_all(inputs([1, 2]));
    assert_eq!(harness.room(), 1);
    // More than there is room for is taken, and asked when there is capacity.
    harness.push_all(inputs(3..9));
    assert_eq!((harness.room(), harness.report().in_flight), (0, 8));
    for _ in 0..3 {
        harness.advance_rim(ms(100));
    }
    assert_eq!(harness.take_output(), answers(1..9));
    assert_eq!(most_running.load(Ordering::Relaxed), 3);
    assert_eq!((harness.room(), harness.report().in_flight), (3, 0));
}

#[test]
fn t26_inputs_without_an_emitted_answer_are_asked_again_after_a_restore() {
    for order in ORDERS {
        let mut before = harness(slow_by_input(), options(order, 10));
        before.push_all(inputs([10, 80, 20]));
        before.watermark(80);
        before.advance_rim(ms(10));
        before.barrier();
        // Taken behind the barrier: of the next checkpoint.
        before.push_all(inputs([5]));
        let snapshot = before.collect();
        assert_eq!(before.take_output(), answers([10]), "{order:?}");
        drop(before);
        let service = slow_by_input();
        let calls = Arc::clone(&service.calls);
        let mut after = restored(service, options(order, 10), Some(snapshot.into()));
        assert_eq!(after.room(), 8);
        after.advance_rim(ms(80));
        let mut output = after.take_output();
        output.sort_unstable();
        assert_eq!(output, answers([20, 80]), "{order:?}");
        assert_eq!(calls.lock().unwrap().len(), 2, "{order:?}");
    }
}

#[test]
fn t26_open_inputs_are_dealt_out_when_the_parallelism_changes() {
    let mut before = harness(slow_by_input(), options(LookupOrder::Ordered, 10));
    before.push_all(inputs(1..6));
    let shares = deal(&[before.snapshot()], 2);
    let mut output = Vec::new();
    for share in shares {
        // The capacity is smaller than what is restored: the rest waits.
        let service = slow_by_input();
        let most_running = Arc::clone(&service.most_running);
        let mut part = restored(service, options(LookupOrder::Ordered, 1), Some(share));
        for _ in 0..3 {
            part.advance_rim(ms(10));
        }
        output.extend(part.take_output());
        assert_eq!(most_running.load(Ordering::Relaxed), 1);
    }
    assert_eq!(output, answers(1..6));
}

#[test]
fn a_slow_attempt_is_cut_and_tried_again_after_its_delay() {
    let service = Service::new(|_, attempt| match attempt {
        1 => Does::Answers(ms(500)),
        2 => Does::Fails(ms(0)),
        _ => Does::Answers(ms(10)),
    });
    let calls = Arc::clone(&service.calls);
    let retries = options(LookupOrder::Ordered, 1).with_retries([ms(100), ms(200)], 0, ms(1_000));
    let mut harness = harness(service, retries);
    harness.push_all(inputs([7]));
    harness.advance_rim(ms(1_000));
    assert_eq!(harness.take_output(), answers([7]));
    let calls = calls.lock().unwrap();
    let offsets: Vec<_> = calls
        .iter()
        .map(|(_, at)| (*at - calls[0].1).as_millis())
        .collect();
    assert_eq!(
        offsets,
        [0, 300, 500],
        "200 ms timeout + 100 ms; at once + 200 ms"
    );
    let counted = harness.report().lookup.unwrap();
    assert_eq!((counted.requests, counted.retries), (3, 2));
    assert_eq!((counted.failures, counted.timeouts), (0, 0));
    assert_eq!(counted.durations.count(), 1);
    assert!(counted.durations.sum() >= ms(510), "{counted:?}");
}

#[test]
fn no_more_attempts_than_delays_and_one_and_the_failure_value_is_emitted() {
    let service = Service::new(|_, _| Does::Fails(ms(0))).falling_back_to(-1);
    let calls = Arc::clone(&service.calls);
    let retries = options(LookupOrder::Ordered, 1).with_retries([ms(1), ms(1)], 0, ms(1_000));
    let mut harness = harness(service, retries);
    harness.push_all(inputs([7]));
    harness.advance_rim(ms(100));
    assert_eq!(harness.take_output(), [(-1, EventTime(7))]);
    assert_eq!(calls.lock().unwrap().len(), 3);
}

#[test]
fn the_total_timeout_covers_all_attempts_and_delays() {
    let service = Service::new(|_, _| Does::Fails(ms(150)));
    let retries = options(LookupOrder::Ordered, 1).with_retries([ms(100); 9], 0, ms(400));
    let mut harness = harness(service, retries);
    harness.push_all(inputs([7]));
    harness.run_rim(ms(399));
    assert_eq!(harness.turn(), Progress::Done);
    harness.run_rim(ms(1));
    let error = harness.try_turn().unwrap_err();
    let OperatorError::User {
        call: "lookup",
        source,
    } = error
    else {
        panic!("unexpected {error}");
    };
    assert!(
        source.to_string().contains("within 400ms after 2 attempts"),
        "{source}"
    );
    let last = source.source().map(ToString::to_string);
    assert_eq!(last.as_deref(), Some("no answer for 7"));
    let counted = harness.report().lookup.unwrap();
    assert_eq!((counted.failures, counted.timeouts), (1, 1));
}

#[test]
fn an_exhausted_budget_means_no_retry() {
    let service = Service::new(|_, _| Does::Fails(ms(0))).falling_back_to(-1);
    let calls = Arc::clone(&service.calls);
    let budget = RetryBudget::new(10);
    let retries = options(LookupOrder::Unordered, 100)
        .with_retries([ms(1), ms(1)], 0, ms(1_000))
        .with_budget(budget);
    let mut harness = harness(service, retries);
    harness.push_all(inputs(0..50));
    harness.advance_rim(ms(100));
    assert_eq!(harness.take_output().len(), 50);
    assert_eq!(calls.lock().unwrap().len(), 55, "10 percent of 50 requests");
    let counted = harness.report().lookup.unwrap();
    assert_eq!((counted.requests, counted.retries), (55, 5));
    // Each is refused one in the end: most the first retry, five of them the second.
    assert_eq!((counted.retries_refused, counted.failures), (50, 50));
}

#[test]
fn an_error_that_is_not_retryable_is_not_retried() {
    struct Refuses(AtomicUsize);
    impl AsyncLookup<i64, i64> for Arc<Refuses> {
        async fn lookup(&self, _input: i64) -> Result<i64, UserError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err("forbidden".into())
        }

        fn is_retryable(&self, error: &UserError) -> bool {
            error.to_string() != "forbidden"
        }
    }
    let service = Arc::new(Refuses(AtomicUsize::new(0)));
    let retries = options(LookupOrder::Ordered, 1).with_retries([ms(1); 5], 0, ms(1_000));
    let asked = Arc::clone(&service);
    let setup = HarnessSetup::default();
    let mut harness: Harness<i64, i64> =
        Harness::new(setup, |context| Lookup::open(&context, asked, retries));
    harness.push_all(inputs([1]));
    harness.run_rim(ms(100));
    assert!(harness.try_turn().is_err());
    assert_eq!(service.0.load(Ordering::Relaxed), 1);
}

#[test]
fn the_end_of_input_waits_for_open_answers() {
    for order in ORDERS {
        let mut harness = harness(slow_by_input(), options(order, 10));
        harness.push_all(inputs([20]));
        assert_eq!(harness.watermark_call(i64::MAX), Progress::Done);
        assert_eq!(harness.end_call(), Progress::Waiting);
        assert_eq!(harness.take_elements(), []);
        harness.run_rim(ms(20));
        assert_eq!(harness.turn(), Progress::Done);
        let expected = [
            HarnessElement::Record(200, EventTime(20)),
            HarnessElement::Watermark(Watermark::MAX),
            HarnessElement::End,
        ];
        assert_eq!(harness.take_elements(), expected, "{order:?}");
    }
}

#[test]
fn an_answer_wakes_the_slot_thread() {
    let mut harness = harness(slow_by_input(), options(LookupOrder::Ordered, 10));
    harness.push_all(inputs([10]));
    harness.run_rim(ms(9));
    assert_eq!(harness.wakes(), 0);
    harness.run_rim(ms(1));
    assert_eq!(harness.wakes(), 1);
}

#[test]
fn a_panic_of_the_lookup_fails_the_operator() {
    let mut harness = harness(
        Service::new(|_, _| Does::Panics),
        options(LookupOrder::Ordered, 10),
    );
    harness.push_all(inputs([10]));
    harness.run_rim(ms(1));
    let error = harness.try_turn().unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert!(
        source.is_some_and(|source| source.contains("panicked")),
        "{error}"
    );
}

#[test]
fn dropping_the_operator_cancels_its_requests() {
    let service = Service::new(|_, _| Does::Answers(ms(100)));
    let running = Arc::clone(&service.running);
    let mut harness = harness(service, options(LookupOrder::Ordered, 10));
    harness.push_all(inputs([1, 2]));
    harness.run_rim(ms(1));
    assert_eq!(running.load(Ordering::Relaxed), 2);
    drop(harness);
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

#[test]
fn damaged_open_inputs_are_refused() {
    let damaged = OperatorSnapshot {
        keyed: Vec::new(),
        lists: vec![ListStateSnapshot {
            name: OPEN_INPUTS.to_owned(),
            redistribution: Redistribution::Split,
            items: vec![vec![1, 2, 3]],
        }],
        ..OperatorSnapshot::default()
    };
    let setup = HarnessSetup {
        restored: Some(damaged.into()),
        ..HarnessSetup::default()
    };
    let opened: Result<Harness<i64, i64>, _> = Harness::try_new(setup, |context| {
        Lookup::open(&context, slow_by_input(), options(LookupOrder::Ordered, 1))
    });
    let error = opened.err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("open-inputs")));
}
