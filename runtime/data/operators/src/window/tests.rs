//! Tests of tumbling and sliding windows: the rules of time one by one, portions, snapshots and restores.

use highwater_window::{Sliding, Tumbling};

use super::*;
use crate::aggregate_function::{Count, Sum};
use crate::error::UserError;
use crate::snapshot::RestoredOperator;
use crate::testing::{Harness, HarnessElement, HarnessSetup, SideReceiver, deal};

/// A key and a value.
type Pair = (i64, i64);
/// Key, start of the window, result.
type Fired<R> = (i64, i64, R);

const fn key_of(pair: &Pair) -> i64 {
    pair.0
}

fn late_tag() -> OutputTag<Pair> {
    OutputTag::new("late")
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a window function")]
fn with_place<R: Record>(
    result: R,
    context: &mut WindowContext<'_, i64, Fired<R>>,
) -> Result<(), UserError> {
    let place = (*context.key(), context.window().start);
    context.emit((place.0, place.1, result));
    Ok(())
}

fn tumbling(size_ms: i64) -> Tumbling {
    Tumbling::try_new(size_ms).unwrap()
}

/// A window operator that emits results with their key and window.
fn windowed<A, C>(
    setup: HarnessSetup,
    assigner: A,
    contents: C,
    options: WindowOptions<Pair>,
) -> Harness<Pair, Fired<C::Result>>
where
    A: WindowAssigner,
    C: WindowContents<Pair>,
    C::Result: Record,
{
    Harness::new(setup, |context| {
        let parts = WindowParts {
            assigner,
            contents,
            function: with_place::<C::Result>,
            key_of,
        };
        Window::open(&context, parts, options)
    })
}

/// Counts in tumbling windows of 10 ms.
fn counting(options: WindowOptions<Pair>) -> Harness<Pair, Fired<u64>> {
    windowed(
        HarnessSetup::default(),
        tumbling(10),
        Aggregated(Count),
        options,
    )
}

fn restored(
    options: WindowOptions<Pair>,
    from: impl Into<RestoredOperator>,
) -> Harness<Pair, Fired<u64>> {
    let setup = HarnessSetup {
        restored: Some(from.into()),
        ..HarnessSetup::default()
    };
    windowed(setup, tumbling(10), Aggregated(Count), options)
}

fn lateness(ms: i64) -> WindowOptions<Pair> {
    WindowOptions::event_time().with_lateness(AllowedLateness(ms))
}

/// Pushes one value of a key at each time, as one chunk.
fn push<R: Record>(harness: &mut Harness<Pair, Fired<R>>, key: i64, times: &[i64]) {
    harness.push_keyed(
        times.iter().map(|&time| ((key, time), EventTime(time))),
        key_of,
    );
}

fn fired<R: Record>(harness: &mut Harness<Pair, Fired<R>>) -> Vec<Fired<R>> {
    harness
        .take_output()
        .into_iter()
        .map(|(fired, _)| fired)
        .collect()
}

#[test]
fn t01_a_window_fires_when_the_watermark_reaches_its_last_millisecond() {
    let mut harness = counting(WindowOptions::event_time());
    push(&mut harness, 1, &[0, 9, 10]);
    harness.watermark(8);
    assert_eq!(fired(&mut harness), []);
    harness.take_elements();
    harness.watermark(9);
    let expected = [
        HarnessElement::Record((1, 0, 2), EventTime(9)),
        HarnessElement::Watermark(Watermark(9)),
    ];
    assert_eq!(
        harness.take_elements(),
        expected,
        "before the watermark, with its last time"
    );
}

#[test]
fn t02_without_allowed_lateness_a_record_is_late_from_the_firing_on() {
    let late = SideReceiver::new(&late_tag());
    let setup = HarnessSetup {
        sides: vec![late.port()],
        ..HarnessSetup::default()
    };
    let options = WindowOptions::event_time().with_late_output(&late_tag());
    let mut harness = windowed(setup, tumbling(10), Aggregated(Count), options);
    harness.watermark(8);
    push(&mut harness, 1, &[3]);
    harness.watermark(9);
    push(&mut harness, 1, &[3, 12, 9]);
    assert_eq!(
        late.take(),
        [((1, 3), EventTime(3)), ((1, 9), EventTime(9))]
    );
    harness.watermark(100);
    assert_eq!(fired(&mut harness), [(1, 0, 1), (1, 10, 1)]);
    assert_eq!(harness.report().records_late, 2);
    assert_eq!(
        harness.report().lateness.unwrap().late(),
        3,
        "also the one that was not too late"
    );
}

#[test]
fn t02_a_record_goes_to_the_late_output_only_when_all_its_windows_are_over() {
    let late = SideReceiver::new(&late_tag());
    let setup = HarnessSetup {
        sides: vec![late.port()],
        ..HarnessSetup::default()
    };
    let options = WindowOptions::event_time().with_late_output(&late_tag());
    let sliding = Sliding::try_new(10, 5).unwrap();
    let mut harness = windowed(setup, sliding, Aggregated(Count), options);
    harness.watermark(9);
    // In [0, 10), which is over, and in [5, 15).
    push(&mut harness, 1, &[7]);
    assert_eq!(late.take(), []);
    harness.watermark(14);
    assert_eq!(fired(&mut harness), [(1, 5, 1)]);
    push(&mut harness, 1, &[7]);
    assert_eq!(late.take(), [((1, 7), EventTime(7))]);
    assert_eq!(harness.report().records_late, 1);
}

#[test]
fn late_records_without_an_output_are_dropped_and_counted() {
    let mut harness = counting(WindowOptions::event_time());
    harness.watermark(50);
    push(&mut harness, 1, &[3, 4, 60]);
    harness.watermark(100);
    assert_eq!(fired(&mut harness), [(1, 60, 1)]);
    assert_eq!(harness.report().records_late, 2);
}

#[test]
fn t03_every_late_record_fires_the_whole_corrected_value() {
    let mut harness = counting(lateness(20));
    push(&mut harness, 1, &[1, 2]);
    harness.watermark(9);
    push(&mut harness, 1, &[3, 4]);
    push(&mut harness, 2, &[5]);
    let expected = [(1, 0, 2), (1, 0, 3), (1, 0, 4), (2, 0, 1)];
    assert_eq!(fired(&mut harness), expected);
    harness.watermark(29);
    assert_eq!(fired(&mut harness), [], "the cleanup fires nothing");
    assert_eq!(harness.report().state_bytes, 0);
}

#[test]
fn t03_a_fired_window_does_not_fire_again_after_a_restore_but_takes_late_records() {
    let mut before = counting(lateness(20));
    push(&mut before, 1, &[1, 2, 11]);
    before.watermark(9);
    assert_eq!(fired(&mut before), [(1, 0, 2)]);
    let mut after = restored(lateness(20), before.snapshot());
    // The sources go on from their positions: event time begins anew.
    after.watermark(5);
    assert_eq!(fired(&mut after), []);
    push(&mut after, 1, &[3]);
    assert_eq!(fired(&mut after), [(1, 0, 3)]);
    after.watermark(19);
    assert_eq!(fired(&mut after), [(1, 10, 1)]);
}

#[test]
fn what_was_too_late_before_a_restore_stays_too_late() {
    let mut before = counting(WindowOptions::event_time());
    push(&mut before, 1, &[1]);
    before.watermark(9);
    let mut after = restored(WindowOptions::event_time(), before.snapshot());
    push(&mut after, 1, &[2]);
    after.watermark(100);
    assert_eq!(
        fired(&mut after),
        [],
        "a dropped window does not come to life again"
    );
    assert_eq!(after.report().records_late, 1);
}

#[test]
fn windows_of_a_subtask_that_was_behind_fire_when_it_is_merged_with_one_ahead() {
    let mut ahead = counting(lateness(100));
    ahead.watermark(50);
    let setup = HarnessSetup {
        subtask: 1,
        parallelism: 2,
        ..HarnessSetup::default()
    };
    let key = (0..100).find(|key: &i64| {
        let group = key
            .key_hash()
            .group(highwater_types::MaxParallelism::DEFAULT);
        setup
            .max_parallelism
            .owner(group, highwater_types::Parallelism(2))
            .0
            == 1
    });
    let key = key.unwrap();
    let mut behind = windowed(setup, tumbling(10), Aggregated(Count), lateness(100));
    push(&mut behind, key, &[5]);
    let first = HarnessSetup {
        parallelism: 2,
        restored: Some(ahead.snapshot().into()),
        ..HarnessSetup::default()
    };
    let mut ahead = windowed(first, tumbling(10), Aggregated(Count), lateness(100));
    let merged = deal(&[ahead.snapshot(), behind.snapshot()], 1).remove(0);
    let mut after = restored(lateness(100), merged);
    push(&mut after, key, &[6]);
    assert_eq!(fired(&mut after), [(key, 0, 1), (key, 0, 2)]);
}

#[test]
fn t05_times_before_1970_fall_into_their_windows() {
    let mut harness = counting(WindowOptions::event_time());
    push(&mut harness, 1, &[-1, -10, -11]);
    harness.watermark(-1);
    assert_eq!(fired(&mut harness), [(1, -20, 1), (1, -10, 2)]);
}

#[test]
fn a_record_without_event_time_is_refused_with_advice() {
    let mut harness = counting(WindowOptions::event_time());
    let error = harness
        .try_push_keyed([((1, 0), EventTime::NONE)], key_of)
        .unwrap_err();
    assert!(error.to_string().contains("add `.watermarks("), "{error}");
}

#[test]
fn sliding_windows_count_each_record_in_all_of_them() {
    let sliding = Sliding::try_new(20, 10).unwrap();
    let options = WindowOptions::event_time();
    let mut harness = windowed(HarnessSetup::default(), sliding, Aggregated(Count), options);
    push(&mut harness, 1, &[5, 15, 25, 14]);
    harness.watermark(i64::MAX);
    assert_eq!(
        fired(&mut harness),
        [(1, -10, 1), (1, 0, 3), (1, 10, 3), (1, 20, 1)]
    );
}

#[test]
fn contents_may_be_a_sum_a_merged_record_or_all_records() {
    let setup = HarnessSetup::default;
    let options = WindowOptions::event_time;
    let sum = Aggregated(Sum::of(|pair: &Pair| pair.1));
    let mut sums = windowed(setup(), tumbling(10), sum, options());
    let largest = Reduced(|into: &mut Pair, pair: &Pair| into.1 = into.1.max(pair.1));
    let mut merged = windowed(setup(), tumbling(10), largest, lateness(5));
    let mut all = windowed(setup(), tumbling(10), AllRecords, lateness(5));
    push(&mut sums, 1, &[1, 5, 3]);
    push(&mut merged, 1, &[1, 5, 3]);
    push(&mut all, 1, &[1, 5, 3]);
    sums.watermark(9);
    merged.watermark(9);
    all.watermark(9);
    assert_eq!(fired(&mut sums), [(1, 0, 9)]);
    assert_eq!(fired(&mut merged), [(1, 0, (1, 5))]);
    assert_eq!(fired(&mut all), [(1, 0, vec![(1, 1), (1, 5), (1, 3)])]);
    push(&mut merged, 1, &[7]);
    push(&mut all, 1, &[7]);
    assert_eq!(fired(&mut merged), [(1, 0, (1, 7))]);
    assert_eq!(
        fired(&mut all),
        [(1, 0, vec![(1, 1), (1, 5), (1, 3), (1, 7)])]
    );
}

#[test]
fn a_kept_list_knows_its_bytes_and_survives_its_encoding() {
    let contents = AllRecords;
    let mut kept = WindowContents::<String>::create(&contents);
    contents.add(&mut kept, &"one".to_owned());
    contents.add(&mut kept, &"three".to_owned());
    let mut bytes = Vec::new();
    kept.encode(&mut bytes);
    let back = RecordList::<String>::decode(&mut bytes.as_slice()).unwrap();
    assert_eq!(contents.result(&back), contents.result(&kept));
    let texts = |kept: &RecordList<String>| {
        let records = contents.result(kept);
        let held: usize = records.iter().map(Record::heap_bytes).sum();
        held + records.len() * size_of::<String>()
    };
    assert!(kept.heap_bytes() >= texts(&kept));
    WindowContents::<String>::merge(&contents, &mut kept, back);
    assert_eq!(contents.result(&kept), ["one", "three", "one", "three"]);
    assert!(kept.heap_bytes() >= texts(&kept));
}

#[test]
fn a_big_window_fires_in_portions_and_holds_the_watermark_until_it_is_done() {
    for options in [lateness(0), lateness(20)] {
        let mut harness = counting(options);
        let keys = 2 * FIRINGS_MAX as i64 + 1;
        harness.push_keyed((0..keys).map(|key| ((key, 0), EventTime(0))), key_of);
        assert_eq!(harness.watermark_call(9), Progress::More);
        assert_eq!(harness.take_elements().len(), FIRINGS_MAX);
        assert_eq!(harness.turn(), Progress::More);
        assert_eq!(harness.turn(), Progress::Done);
        let rest = harness.take_elements();
        assert_eq!(rest.len(), FIRINGS_MAX + 2);
        assert_eq!(rest.last(), Some(&HarnessElement::Watermark(Watermark(9))));
    }
}

#[test]
fn a_snapshot_is_that_of_the_barrier_though_the_window_fires_while_it_is_taken() {
    for options in [lateness(0), lateness(20)] {
        let mut harness = counting(options.clone());
        let keys = 3 * FIRINGS_MAX as i64;
        harness.push_keyed((0..keys).map(|key| ((key, 0), EventTime(0))), key_of);
        harness.barrier();
        assert_eq!(harness.watermark_call(9), Progress::More);
        let early = harness.collect_portion();
        // Over a store a snapshot that holds up eviction is saved in large portions.
        assert!(early.is_none() || crate::testing::is_over_a_store());
        harness.turns();
        let mut undisturbed = fired(&mut harness);
        let saved = early.unwrap_or_else(|| harness.collect());
        let mut after = restored(options, saved);
        after.watermark(9);
        let mut again = fired(&mut after);
        undisturbed.sort_unstable();
        again.sort_unstable();
        assert_eq!(undisturbed.len(), keys as usize);
        assert_eq!(undisturbed, again);
    }
}

#[test]
fn processing_time_windows_go_by_the_clock_and_name_the_next_deadline() {
    let mut harness = counting(WindowOptions::processing_time());
    harness.processing_time(1_003);
    harness.push_keyed([((1, 0), EventTime::NONE), ((1, 0), EventTime(5))], key_of);
    assert_eq!(harness.next_deadline(), Some(ProcessingTime(1_010)));
    harness.watermark(5_000);
    harness.processing_time(1_009);
    assert_eq!(fired(&mut harness), []);
    harness.processing_time(1_010);
    assert_eq!(harness.take_output(), [((1, 1_000, 2), EventTime(1_009))]);
    assert_eq!(harness.next_deadline(), None);
    assert_eq!(harness.report().records_late, 0);
}

#[test]
fn records_of_the_last_millisecond_of_a_processing_time_window_are_in_its_one_result() {
    let mut harness = counting(WindowOptions::processing_time());
    harness.processing_time(1_009);
    push(&mut harness, 1, &[0]);
    harness.turns();
    push(&mut harness, 1, &[0]);
    harness.turns();
    assert_eq!(fired(&mut harness), []);
    harness.processing_time(1_010);
    push(&mut harness, 1, &[0]);
    assert_eq!(fired(&mut harness), [(1, 1_000, 2)]);
    harness.processing_time(1_020);
    assert_eq!(fired(&mut harness), [(1, 1_010, 1)]);
}

#[test]
fn t07_overdue_processing_time_windows_fire_at_once_after_a_restore() {
    let mut before = counting(WindowOptions::processing_time());
    push(&mut before, 1, &[0]);
    let mut after = restored(WindowOptions::processing_time(), before.snapshot());
    assert_eq!(after.next_deadline(), Some(ProcessingTime(10)));
    after.processing_time(70);
    assert_eq!(fired(&mut after), [(1, 0, 1)]);
    after.processing_time(80);
    assert_eq!(fired(&mut after), []);
}

#[test]
fn open_processing_time_windows_are_not_lost_at_the_end_of_input() {
    let mut harness = counting(WindowOptions::processing_time());
    push(&mut harness, 1, &[0]);
    harness.end();
    assert_eq!(fired(&mut harness), [(1, 0, 1)]);
}

#[test]
fn an_error_of_the_window_function_fails_the_operator() {
    let refuse = |_: u64, _: &mut WindowContext<'_, i64, u64>| Err("no".into());
    let mut harness: Harness<Pair, u64> = Harness::new(HarnessSetup::default(), |context| {
        let parts = WindowParts {
            assigner: tumbling(10),
            contents: Aggregated(Count),
            function: refuse,
            key_of,
        };
        Window::open(&context, parts, lateness(20))
    });
    harness.watermark(9);
    let error = harness
        .try_push_keyed([((1, 0), EventTime(0))], key_of)
        .unwrap_err();
    assert!(matches!(error, OperatorError::User { call: "fire", .. }));
}

crate::testing::also_over_a_store! {
    t01_a_window_fires_when_the_watermark_reaches_its_last_millisecond,
    t02_without_allowed_lateness_a_record_is_late_from_the_firing_on,
    t02_a_record_goes_to_the_late_output_only_when_all_its_windows_are_over,
    late_records_without_an_output_are_dropped_and_counted,
    t03_every_late_record_fires_the_whole_corrected_value,
    t03_a_fired_window_does_not_fire_again_after_a_restore_but_takes_late_records,
    what_was_too_late_before_a_restore_stays_too_late,
    windows_of_a_subtask_that_was_behind_fire_when_it_is_merged_with_one_ahead,
    t05_times_before_1970_fall_into_their_windows,
    a_record_without_event_time_is_refused_with_advice,
    sliding_windows_count_each_record_in_all_of_them,
    contents_may_be_a_sum_a_merged_record_or_all_records,
    a_big_window_fires_in_portions_and_holds_the_watermark_until_it_is_done,
    a_snapshot_is_that_of_the_barrier_though_the_window_fires_while_it_is_taken,
    processing_time_windows_go_by_the_clock_and_name_the_next_deadline,
    t07_overdue_processing_time_windows_fire_at_once_after_a_restore,
    open_processing_time_windows_are_not_lost_at_the_end_of_input,
    an_error_of_the_window_function_fails_the_operator,
}
