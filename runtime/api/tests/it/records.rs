//! Records meet the types that their author gave them: through chains, exchanges, side outputs, windows and lookups.

use std::time::Duration;

use highwater_api::StreamEnvironment;
use highwater_connectors::{CollectSink, Collected, ElementsSource};
use highwater_derive::{Key, Record};
use highwater_operators::{
    AsyncLookup, Collector, Count, KeyedContext, KeyedProcessFunction, LookupOptions, LookupOrder,
    OpenContext, OutputTag, ProcessContext, ProcessFunction, Sum, UserError, WindowContext,
};
use highwater_state::{StateHandle, ValueState};
use highwater_time::WatermarkStrategy;
use highwater_types::EventTime;
use highwater_types::chunk::CHUNK_RECORDS_MAX;
use highwater_window::{Sliding, Tumbling};

use crate::driver::run;
use crate::plan::defaults;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Record, Key)]
struct Word(String);

/// What was collected, sorted: subtasks have no order between them.
fn sorted<T: highwater_types::Record + Ord>(collected: &Collected<T>) -> Vec<T> {
    let mut records = collected.records().unwrap();
    records.sort();
    records
}

/// Builds a job that ends in one sink, runs it on `parallelism` subtasks, and returns what the sink has.
fn result_of<T, B>(parallelism: u32, build: B) -> Vec<T>
where
    T: highwater_types::Record + Ord,
    B: FnOnce(&mut StreamEnvironment, CollectSink<T>),
{
    let (sink, collected) = CollectSink::at_least_once();
    let mut env = StreamEnvironment::new();
    build(&mut env, sink);
    run(&env.compile(defaults(parallelism)).unwrap());
    sorted(&collected)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a flat map hands its record over"
)]
fn words(text: String, out: &mut Collector<'_, Word>) -> Result<(), UserError> {
    text.split(' ')
        .for_each(|word| out.emit(Word(word.to_owned())));
    Ok(())
}

/// Counts each word in a value state and emits the running count.
#[derive(Clone, Default)]
struct RunningCount {
    count: Option<StateHandle<ValueState<Word, (), u64>>>,
}

impl KeyedProcessFunction<Word, Word, (Word, u64)> for RunningCount {
    fn open(&mut self, context: &mut OpenContext<'_, Word>) -> Result<(), UserError> {
        self.count = Some(context.value("count", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        word: Word,
        context: &mut KeyedContext<'_, Word, (Word, u64)>,
    ) -> Result<(), UserError> {
        let handle = self.count.ok_or("opened before the first record")?;
        let count = context.state(handle).update(
            || 0,
            |count| {
                *count += 1;
                *count
            },
        );
        context.emit((word, count));
        Ok(())
    }
}

#[test]
fn t11_a_keyed_process_counts_words_whatever_the_parallelism() {
    let count = |parallelism| {
        result_of(parallelism, |env, sink| {
            let lines = ["to be or not", "to be", "to"].map(str::to_owned);
            env.source("lines", ElementsSource::new(lines))
                .flat_map(words)
                .key_by(Word::clone)
                .process("count", RunningCount::default())
                .sink("out", sink);
        })
    };
    let word = |text: &str, count: u64| (Word(text.to_owned()), count);
    let expected = [
        word("be", 1),
        word("be", 2),
        word("not", 1),
        word("or", 1),
        word("to", 1),
        word("to", 2),
        word("to", 3),
    ];
    assert_eq!(count(1), expected);
    assert_eq!(count(3), expected);
}

#[test]
fn rolling_reduce_and_aggregate_emit_for_each_record() {
    let pairs = [(1u64, 10i64), (2, 5), (1, 20)];
    let reduced = result_of(2, |env, sink| {
        env.source("in", ElementsSource::new(pairs))
            .key_by(|pair: &(u64, i64)| pair.0)
            .reduce("sum", |into: &mut (u64, i64), pair: &(u64, i64)| {
                into.1 += pair.1;
            })
            .sink("out", sink);
    });
    assert_eq!(reduced, [(1, 10), (1, 30), (2, 5)]);
    let sums = result_of(2, |env, sink| {
        env.source("in", ElementsSource::new(pairs))
            .key_by(|pair| pair.0)
            .aggregate("count", Count)
            .sink("out", sink);
    });
    assert_eq!(sums, [1, 1, 2]);
}

type Fired<'a> = WindowContext<'a, u64, (u64, i64, u64)>;

fn with_start(count: u64, fired: &mut Fired<'_>) -> Result<(), UserError> {
    let (key, start) = (*fired.key(), fired.window().start);
    fired.emit((key, start, count));
    Ok(())
}

#[test]
fn t02_windows_count_by_key_and_late_records_leave_by_their_side_output() {
    let late = OutputTag::<(u64, i64)>::new("late");
    let (late_sink, late_records) = CollectSink::at_least_once();
    let counts = result_of(1, |env, sink| {
        // A full chunk of the third second comes between the first record and one that is late for the same window.
        let filler = (1..CHUNK_RECORDS_MAX as i64).map(|at| (2u64, 2_000 + at % 900));
        let first = std::iter::once((1u64, 10i64));
        let records = first.chain(filler).chain([(1, 20), (1, 2_950)]);
        let counts = env
            .source("in", ElementsSource::new(records))
            .watermarks(WatermarkStrategy::monotonous(), |record| {
                EventTime(record.1)
            })
            .key_by(|record| record.0)
            .window_of(Tumbling::try_new(1_000))
            .late_to(&late)
            .aggregate("count", Count, with_start);
        counts.side_output(&late).sink("late", late_sink);
        counts.sink("out", sink);
    });
    let filled = CHUNK_RECORDS_MAX as u64 - 1;
    assert_eq!(counts, [(1, 0, 1), (1, 2_000, 1), (2, 2_000, filled)]);
    assert_eq!(late_records.records().unwrap(), [(1, 20)]);
}

#[test]
fn t03_allowed_lateness_fires_the_corrected_window_again() {
    let counts = result_of(1, |env, sink| {
        let filler = (1..CHUNK_RECORDS_MAX as i64).map(|at| (2u64, 2_000 + at % 900));
        let records = std::iter::once((1u64, 10i64))
            .chain(filler)
            .chain([(1, 20)]);
        env.source("in", ElementsSource::new(records))
            .watermarks(WatermarkStrategy::monotonous(), |record| {
                EventTime(record.1)
            })
            .filter(|record| record.0 == 1 || record.1 == 2_899)
            .key_by(|record| record.0)
            .window_of(Tumbling::try_new(1_000))
            .allowed_lateness(10_000)
            .aggregate("count", Count, with_start)
            .filter(|fired| fired.0 == 1)
            .sink("out", sink);
    });
    assert_eq!(counts, [(1, 0, 1), (1, 0, 2)]);
}

#[test]
fn sliding_windows_reduce_and_keep_all_records() {
    type Sums<'a> = WindowContext<'a, u64, (i64, i64)>;
    let records = [(1u64, 500i64), (1, 1_500)];
    let timed = |env: &mut StreamEnvironment| {
        env.source("in", ElementsSource::new(records))
            .watermarks(WatermarkStrategy::monotonous(), |record| {
                EventTime(record.1)
            })
            .key_by(|record: &(u64, i64)| record.0)
            .window_of(Sliding::try_new(2_000, 1_000))
    };
    let expected = [(-1_000, 500), (0, 2_000), (1_000, 1_500)];
    let reduced = result_of(2, |env, sink| {
        let sum = |into: &mut (u64, i64), record: &(u64, i64)| into.1 += record.1;
        timed(env)
            .reduce("sum", sum, |sum: (u64, i64), fired: &mut Sums<'_>| {
                fired.emit((fired.window().start, sum.1));
                Ok(())
            })
            .sink("out", sink);
    });
    assert_eq!(reduced, expected);
    let gathered = result_of(2, |env, sink| {
        timed(env)
            .process("all", |all: Vec<(u64, i64)>, fired: &mut Sums<'_>| {
                let sum = all.iter().map(|record| record.1).sum();
                fired.emit((fired.window().start, sum));
                Ok(())
            })
            .sink("out", sink);
    });
    assert_eq!(gathered, expected);
}

/// Passes even numbers and sends odd ones to a side output, as text.
#[derive(Clone)]
struct Split {
    odd: OutputTag<String>,
}

impl ProcessFunction<i64, i64> for Split {
    fn on_record(
        &mut self,
        number: i64,
        context: &mut ProcessContext<'_, i64>,
    ) -> Result<(), UserError> {
        if number % 2 == 0 {
            context.emit(number);
        } else {
            context.emit_side(&self.odd, number.to_string());
        }
        Ok(())
    }
}

#[test]
fn a_side_output_of_another_type_joins_the_main_output_in_a_union() {
    for parallelism in [1, 3] {
        let all = result_of(parallelism, |env, sink| {
            let odd = OutputTag::<String>::new("odd");
            let even = env
                .source("in", ElementsSource::new(0..6i64))
                .rebalance()
                .process(Split { odd: odd.clone() });
            let texts = even.side_output(&odd);
            even.map(|number| format!("even {number}"))
                .union(&texts.map(|text| format!("odd {text}")))
                .sink("out", sink);
        });
        assert_eq!(
            all,
            ["even 0", "even 2", "even 4", "odd 1", "odd 3", "odd 5"]
        );
    }
}

#[test]
fn a_stream_that_is_used_twice_goes_both_ways_whole() {
    let all = result_of(1, |env, sink| {
        let numbers = env.source("in", ElementsSource::new(1..=3i64)).stream();
        let tens = numbers.map(|number| number * 10);
        numbers.union(&tens).sink("out", sink);
    });
    assert_eq!(all, [1, 2, 3, 10, 20, 30]);
}

#[test]
fn routes_and_unequal_parallelism_lose_and_repeat_nothing() {
    let broadcast = result_of(3, |env, sink| {
        let numbers = env.source("in", ElementsSource::new(1..=2i64));
        numbers.broadcast().map(|number| number).sink("out", sink);
    });
    assert_eq!(broadcast, [1, 1, 1, 2, 2, 2], "each subtask has all");
    let narrow = result_of(3, |env, sink| {
        let numbers = env
            .source("in", ElementsSource::new(0..2_000i64))
            .parallelism(1);
        numbers
            .map(|number| number)
            .global()
            .filter(|_| true)
            .sink("out", sink)
            .parallelism(1);
    });
    assert_eq!(narrow, (0..2_000).collect::<Vec<_>>());
}

#[test]
fn times_that_a_stream_assigns_reach_the_windows() {
    let counts = result_of(1, |env, sink| {
        env.source("in", ElementsSource::new([(1u64, 100i64)]))
            .watermarks(WatermarkStrategy::monotonous(), |record| {
                EventTime(record.1)
            })
            .assign_timestamps(|_, before| before.saturating_add(5_000))
            .key_by(|record| record.0)
            .window_of(Tumbling::try_new(1_000))
            .aggregate("count", Count, with_start)
            .sink("out", sink);
    });
    assert_eq!(counts, [(1, 5_000, 1)]);
}

/// Answers with twice the number.
#[derive(Clone)]
struct Double;

impl AsyncLookup<i64, i64> for Double {
    async fn lookup(&self, number: i64) -> Result<i64, UserError> {
        tokio::task::yield_now().await;
        Ok(number * 2)
    }
}

#[test]
fn a_lookup_answers_every_record_in_both_orders() {
    for order in [LookupOrder::Ordered, LookupOrder::Unordered] {
        let answers = result_of(2, |env, sink| {
            let options = LookupOptions::new(order, 4, Duration::from_secs(5));
            env.source("in", ElementsSource::new(0..100i64))
                .lookup("double", Double, options)
                .sink("out", sink);
        });
        assert_eq!(
            answers,
            (0..100).map(|number| number * 2).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_transactional_sink_encodes_into_its_target() {
    let (sink, collected) = CollectSink::exactly_once();
    let mut env = StreamEnvironment::new();
    env.source("in", ElementsSource::new([7i64, 8]))
        .map(|number| (number, true))
        .sink("out", sink);
    run(&env.compile(defaults(2)).unwrap());
    assert_eq!(sorted(&collected), [(7, true), (8, true)]);
}

/// Emits how many records it has seen.
#[derive(Clone, Default)]
struct Seen(u64);

impl ProcessFunction<i64, u64> for Seen {
    fn on_record(
        &mut self,
        _: i64,
        context: &mut ProcessContext<'_, u64>,
    ) -> Result<(), UserError> {
        self.0 += 1;
        context.emit(self.0);
        Ok(())
    }
}

#[test]
fn every_subtask_has_a_function_of_its_own() {
    let counts = result_of(3, |env, sink| {
        let numbers = env.source("in", ElementsSource::new([5i64, 6]));
        numbers
            .broadcast()
            .process(Seen::default())
            .sink("out", sink);
    });
    assert_eq!(counts, [1, 1, 1, 2, 2, 2]);
}

#[test]
fn sums_and_fallible_maps_carry_their_types() {
    let sums = result_of(2, |env, sink| {
        env.source(
            "in",
            ElementsSource::new(["1", "2", "3"].map(str::to_owned)),
        )
        .try_map(|text| Ok(text.parse::<i64>()?))
        .key_by(|_| ())
        .aggregate("sum", Sum::of(|number: &i64| *number))
        .sink("out", sink);
    });
    assert_eq!(sums, [1, 3, 6]);
}
