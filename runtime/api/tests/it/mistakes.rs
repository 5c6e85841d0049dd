//! What the types do not prevent is refused by `compile`, all of it at once, and no builder call panics.

use std::time::Duration;

use highwater_api::StreamEnvironment;
use highwater_connectors::{BadRecords, CollectSink, ElementsSource, GeneratorSource, Random};
use highwater_operators::{
    AsyncLookup, Count, LookupOptions, LookupOrder, OutputTag, UserError, WindowContext,
};
use highwater_time::WatermarkStrategy;
use highwater_types::EventTime;
use highwater_window::{Sliding, Tumbling};

use crate::plan::defaults;

type Fired<'a> = WindowContext<'a, u64, u64>;

fn emit(count: u64, fired: &mut Fired<'_>) -> Result<(), UserError> {
    fired.emit(count);
    Ok(())
}

/// The reasons for which a job is refused, in order.
fn refused(build: impl FnOnce(&mut StreamEnvironment)) -> Vec<String> {
    let mut env = StreamEnvironment::new();
    build(&mut env);
    match env.compile(defaults(2)) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

fn numbers(env: &mut StreamEnvironment) -> highwater_api::DataStream<u64> {
    let source = env.source("in", ElementsSource::new([1u64]));
    source
        .watermarks(WatermarkStrategy::monotonous(), |_| EventTime(0))
        .stream()
}

fn out() -> CollectSink<u64> {
    CollectSink::at_least_once().0
}

#[test]
fn impossible_windows_and_watermarks_are_refused_with_the_name_of_the_operator() {
    let reasons = refused(|env| {
        let source = env.source("in", ElementsSource::new([1u64]));
        let never = WatermarkStrategy::bounded_out_of_orderness(-1);
        let numbers = source.watermarks(never, |_| EventTime(0)).stream();
        let keyed = || numbers.key_by(|number| *number);
        keyed()
            .window_of(Tumbling::try_new(0))
            .aggregate("zero", Count, emit)
            .sink("a", out());
        keyed()
            .window_of(Sliding::try_new(5, 9))
            .aggregate("gaps", Count, emit)
            .sink("b", out());
        let late = keyed()
            .window(Tumbling::try_new(5).unwrap())
            .allowed_lateness(-3);
        late.aggregate("early", Count, emit).sink("c", out());
    });
    let expected = [
        "in: out-of-orderness bound of -1 ms is negative; use 0 or more",
        "zero: window size is 0 ms; use 1 ms or more",
        "gaps: window slide 9 ms is larger than the size 5 ms; records in between would be in no window",
        "early: allowed lateness of -3 ms is negative; use 0 or more",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn an_empty_job_is_refused_for_both_reasons() {
    assert_eq!(refused(|_| {}).len(), 2);
}

#[test]
fn event_time_without_watermarks_is_refused_at_the_operator_that_needs_it() {
    let reasons = refused(|env| {
        env.source("in", ElementsSource::new([1u64]))
            .key_by(|number| *number)
            .window_of(Tumbling::try_new(5))
            .aggregate("count", Count, emit)
            .sink("out", out());
    });
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].starts_with("count works in event time, but source in has no watermarks"));
}

#[test]
fn uids_and_numbers_of_key_groups_are_checked() {
    let reasons = refused(|env| {
        env.set_max_parallelism(0);
        let numbers = numbers(env)
            .map(|number| number)
            .uid("Upper")
            .max_parallelism(40_000);
        numbers.sink("in", out());
    });
    let all = reasons.join("\n");
    assert_eq!(reasons.len(), 4, "{all}");
    assert!(all.contains("operator uid `Upper` holds `U`"));
    assert!(all.contains("max parallelism 40000 is out of range"));
    assert!(all.contains("max parallelism 0 is out of range"));
    assert!(all.contains("the uid `in` names 2 operators"));
}

#[test]
fn a_refused_uid_is_reported_once() {
    let reasons = refused(|env| {
        let keyed = numbers(env).key_by(|number| *number);
        keyed.aggregate("Bad", Count).sink("out", out());
    });
    assert_eq!(reasons.len(), 1, "{reasons:?}");
}

#[test]
fn a_side_output_has_one_type() {
    let reasons = refused(|env| {
        let late = OutputTag::<u64>::new("late");
        let counts = numbers(env)
            .key_by(|number| *number)
            .window_of(Tumbling::try_new(5))
            .late_to(&late)
            .aggregate("count", Count, emit);
        counts.sink("out", out());
        let wrong = OutputTag::<String>::new("late");
        counts
            .side_output(&wrong)
            .sink("late", CollectSink::at_least_once().0);
    });
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].starts_with("count: side output `late` carries"));
}

#[test]
fn a_side_output_of_an_operator_that_has_none_is_refused() {
    let tag = OutputTag::<u64>::new("late");
    let reasons = refused(|env| {
        let mapped = numbers(env).map(|number| number).uid("plain");
        mapped.sink("out", out());
        mapped.side_output(&tag).sink("late", out());
    });
    assert_eq!(reasons, ["plain has no side output `late`; it has none"]);
}

#[test]
fn settings_behind_a_union_name_no_operator() {
    let reasons = refused(|env| {
        let numbers = numbers(env);
        let other = numbers.map(|number| number).uid("other");
        numbers.union(&other).uid("both").sink("out", out());
    });
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].contains("union"));
}

#[test]
fn streams_of_two_environments_do_not_meet() {
    let mut elsewhere = StreamEnvironment::new();
    let stranger = numbers(&mut elsewhere);
    let reasons = refused(|env| {
        numbers(env).union(&stranger).sink("out", out());
    });
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].contains("another environment"));
}

/// Answers at once.
#[derive(Clone)]
struct Same;

impl AsyncLookup<u64, u64> for Same {
    async fn lookup(&self, number: u64) -> Result<u64, UserError> {
        Ok(number)
    }
}

#[test]
fn a_lookup_without_room_or_time_is_refused() {
    let reasons = refused(|env| {
        let second = Duration::from_secs(1);
        let good = LookupOptions::new(LookupOrder::Ordered, 1, second);
        let no_room = LookupOptions {
            capacity: 0,
            ..good.clone()
        };
        let no_time = LookupOptions {
            attempt_timeout: Duration::ZERO,
            ..good
        };
        let numbers = numbers(env);
        numbers.lookup("no-room", Same, no_room).sink("a", out());
        numbers.lookup("no-time", Same, no_time).sink("b", out());
    });
    let expected = [
        "no-room: its capacity is 0; use 1 request in flight or more",
        "no-time: its timeout is 0; use 1 ms or more",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn dead_letters_that_nobody_reads_are_refused() {
    let source = |policy| {
        let number = |index: u64, _: &mut Random| (index, EventTime(0));
        let source = GeneratorSource::builder("numbers", 1, number).count(1);
        source.bad_records(policy).build().unwrap()
    };
    let reasons = refused(|env| {
        env.source("lost", source(BadRecords::DeadLetter))
            .sink("a", out());
        env.source("dropped", source(BadRecords::Drop))
            .sink("b", out());
        let read = env.source("read", source(BadRecords::DeadLetter));
        read.dead_letters()
            .map(|letter| letter.position)
            .sink("letters", out());
        read.sink("c", out());
    });
    assert_eq!(
        reasons,
        [
            "lost: its bad records go to its dead letters, which nobody reads; read `.dead_letters()`, or let them fail or be dropped"
        ]
    );
}
