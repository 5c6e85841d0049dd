//! Tests of session windows: the rules one by one, and random runs with rescales against the rules written plainly.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::aggregate_function::{Count, Max};
use crate::error::UserError;
use crate::outputs::OutputTag;
use crate::snapshot::OperatorSnapshot;
use crate::testing::{Harness, HarnessSetup, ParallelHarness, SideReceiver};
use crate::window::{Aggregated, AllRecords, Reduced, WindowContext, WithUpdates};

/// A key and a number that tells records apart.
type Pair = (i64, i64);
/// Key, start and end of the session, result.
type Fired<R> = (i64, i64, i64, R);

const GAP_MS: i64 = 10;

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
    let (key, window) = (*context.key(), context.window());
    context.emit((key, window.start, window.end, result));
    Ok(())
}

fn sessions<C>(
    setup: HarnessSetup,
    contents: C,
    options: WindowOptions<Pair>,
) -> Harness<Pair, Fired<C::Result>>
where
    C: WindowContents<Pair>,
    C::Result: Record,
{
    Harness::new(setup, |context| {
        let parts = WindowParts {
            assigner: fixed_gap(GAP_MS).unwrap(),
            contents,
            function: with_place::<C::Result>,
            key_of,
        };
        SessionWindow::open(&context, parts, options)
    })
}

fn counting(options: WindowOptions<Pair>) -> Harness<Pair, Fired<u64>> {
    sessions(HarnessSetup::default(), Aggregated(Count), options)
}

fn lateness(ms: i64) -> WindowOptions<Pair> {
    WindowOptions::event_time().with_lateness(AllowedLateness(ms))
}

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
fn t04_records_exactly_one_gap_apart_are_one_session_and_one_more_are_two() {
    let mut harness = counting(WindowOptions::event_time());
    push(&mut harness, 1, &[0, 10]);
    push(&mut harness, 2, &[0, 11]);
    harness.watermark(100);
    let mut output = fired(&mut harness);
    output.sort_unstable();
    assert_eq!(output, [(1, 0, 20, 2), (2, 0, 10, 1), (2, 11, 21, 1)]);
}

#[test]
fn t04_a_record_between_two_sessions_makes_them_one() {
    let mut harness = counting(WindowOptions::event_time());
    push(&mut harness, 1, &[0, 20]);
    harness.watermark(8);
    push(&mut harness, 1, &[10]);
    harness.watermark(28);
    assert_eq!(fired(&mut harness), []);
    harness.watermark(29);
    assert_eq!(harness.take_output(), [((1, 0, 30, 3), EventTime(29))]);
    assert_eq!(
        (harness.report().state_entries, harness.report().timers),
        (0, 0)
    );
}

#[test]
fn t04_the_merged_session_decides_whether_a_record_is_late() {
    let late = SideReceiver::new(&late_tag());
    let setup = HarnessSetup {
        sides: vec![late.port()],
        ..HarnessSetup::default()
    };
    let options = WindowOptions::event_time().with_late_output(&late_tag());
    let mut harness = sessions(setup, Aggregated(Count), options);
    push(&mut harness, 1, &[20]);
    harness.watermark(25);
    // Alone its session would be over at 24; it touches one that is not.
    push(&mut harness, 1, &[15]);
    push(&mut harness, 2, &[15]);
    assert_eq!(late.take(), [((2, 15), EventTime(15))]);
    harness.watermark(29);
    assert_eq!(fired(&mut harness), [(1, 15, 30, 2)]);
    let report = harness.report();
    assert_eq!(
        (report.records_late, report.state_entries),
        (1, 0),
        "a late record leaves nothing"
    );
}

#[test]
fn t03_t04_a_late_record_fires_the_whole_session_again_or_extends_it() {
    let mut harness = counting(lateness(50));
    push(&mut harness, 1, &[0]);
    harness.watermark(9);
    assert_eq!(fired(&mut harness), [(1, 0, 10, 1)]);
    push(&mut harness, 1, &[-5]);
    assert_eq!(fired(&mut harness), [(1, -5, 10, 2)], "complete: at once");
    push(&mut harness, 1, &[5]);
    assert_eq!(
        fired(&mut harness),
        [],
        "extended: when it is complete again"
    );
    harness.watermark(14);
    assert_eq!(fired(&mut harness), [(1, -5, 15, 3)]);
    harness.watermark(64);
    assert_eq!(
        (harness.report().state_entries, harness.report().timers),
        (0, 0)
    );
}

#[test]
fn extending_a_session_a_thousand_times_keeps_one_timer() {
    let mut harness = counting(WindowOptions::event_time());
    push(&mut harness, 1, &(0..1_000).collect::<Vec<_>>());
    assert_eq!(harness.report().timers, 1);
    harness.watermark(500);
    assert_eq!(
        (harness.report().timers, fired(&mut harness)),
        (1, Vec::new())
    );
    harness.watermark(1_007);
    assert_eq!(fired(&mut harness), []);
    harness.watermark(1_008);
    assert_eq!(fired(&mut harness), [(1, 0, 1_009, 1_000)]);
}

#[test]
fn contents_merge_in_order_of_their_sessions() {
    let setup = HarnessSetup::default;
    let options = WindowOptions::event_time;
    let mut all = sessions(setup(), AllRecords, options());
    let mut largest = sessions(
        setup(),
        Aggregated(Max::of(|pair: &Pair| pair.1)),
        options(),
    );
    let first = Reduced(|into: &mut Pair, pair: &Pair| into.1 = into.1 * 100 + pair.1);
    let mut chained = sessions(setup(), first, options());
    push(&mut all, 1, &[20, 1, 10]);
    push(&mut largest, 1, &[20, 1, 10]);
    push(&mut chained, 1, &[20, 1, 10]);
    all.watermark(29);
    largest.watermark(29);
    chained.watermark(29);
    assert_eq!(
        fired(&mut all),
        [(1, 1, 30, vec![(1, 1), (1, 20), (1, 10)])]
    );
    assert_eq!(fired(&mut largest), [(1, 1, 30, 20)]);
    assert_eq!(fired(&mut chained), [(1, 1, 30, (1, 12_010))]);
}

#[test]
fn a_gap_may_come_from_the_record_and_must_be_positive() {
    let mut harness: Harness<Pair, Fired<u64>> = Harness::new(HarnessSetup::default(), |context| {
        let parts = WindowParts {
            assigner: SessionGap::by(|pair: &Pair| pair.1),
            contents: Aggregated(Count),
            function: with_place::<u64>,
            key_of,
        };
        SessionWindow::open(&context, parts, WindowOptions::event_time())
    });
    let gaps = [
        ((1, 5), EventTime(0)),
        ((1, 100), EventTime(3)),
        ((1, 5), EventTime(90)),
    ];
    harness.push_keyed(gaps, key_of);
    harness.watermark(i64::MAX);
    assert_eq!(fired(&mut harness), [(1, 0, 103, 3)]);
    let error = harness
        .try_push_keyed([((1, 0), EventTime(0))], key_of)
        .unwrap_err();
    assert!(matches!(error, OperatorError::User { call: "gap", .. }));
    assert!(fixed_gap::<Pair>(0).is_err());
}

#[test]
fn updates_are_seen_at_each_record() {
    let mut harness: Harness<Pair, u64> = Harness::new(HarnessSetup::default(), |context| {
        let function = WithUpdates {
            fire: |_: u64, _: &mut WindowContext<'_, i64, u64>| Ok::<(), UserError>(()),
            update: |count, context: &mut WindowContext<'_, i64, u64>| {
                context.emit(count);
                Ok::<(), UserError>(())
            },
        };
        let parts = WindowParts {
            assigner: fixed_gap(GAP_MS).unwrap(),
            contents: Aggregated(Count),
            function,
            key_of,
        };
        SessionWindow::open(&context, parts, WindowOptions::event_time())
    });
    let times = [0, 30, 35, 20].map(|time| ((1, time), EventTime(time)));
    harness.push_keyed(times, key_of);
    let counts: Vec<_> = harness
        .take_output()
        .into_iter()
        .map(|(count, _)| count)
        .collect();
    assert_eq!(
        counts,
        [1, 1, 2, 3],
        "the last one touches the second session only"
    );
}

#[test]
fn processing_time_sessions_end_a_gap_after_their_last_record() {
    let mut harness = counting(WindowOptions::processing_time());
    harness.processing_time(100);
    push(&mut harness, 1, &[0]);
    harness.processing_time(105);
    push(&mut harness, 1, &[0]);
    harness.watermark(1_000);
    assert_eq!(harness.next_deadline(), Some(ProcessingTime(110)));
    harness.processing_time(110);
    assert_eq!(fired(&mut harness), []);
    assert_eq!(harness.next_deadline(), Some(ProcessingTime(115)));
    harness.processing_time(114);
    harness.turns();
    push(&mut harness, 1, &[0]);
    assert_eq!(fired(&mut harness), []);
    harness.processing_time(124);
    assert_eq!(fired(&mut harness), [(1, 100, 124, 3)]);
    push(&mut harness, 2, &[0]);
    harness.end();
    assert_eq!(fired(&mut harness), [(2, 124, 134, 1)]);
}

#[test]
fn many_due_sessions_fire_in_portions() {
    let mut harness = counting(WindowOptions::event_time());
    let count = FIRINGS_MAX as i64 + 1;
    harness.push_keyed((0..count).map(|key| ((key, 0), EventTime(0))), key_of);
    assert_eq!(harness.watermark_call(9), Progress::More);
    assert_eq!(harness.take_output().len(), FIRINGS_MAX);
    assert_eq!(harness.turn(), Progress::Done);
    assert_eq!(harness.take_output().len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Record { key: i64, time: i64 },
    Watermark(i64),
    Rescale(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0i64..3, -60i64..140).prop_map(|(key, time)| Step::Record { key, time }),
        3 => (-60i64..140).prop_map(Step::Watermark),
        1 => (1u32..4).prop_map(Step::Rescale),
    ];
    prop::collection::vec(step, 0..80)
}

type Outcome = (Vec<Fired<u64>>, Vec<Pair>);

/// The rules written down plainly: no timers, no flags, all sessions looked at each time.
fn oracle(steps: &[Step], allowed: i64) -> Outcome {
    let (mut output, mut late) = (Vec::new(), Vec::new());
    let mut open: BTreeMap<i64, Vec<(i64, i64, u64)>> = BTreeMap::new();
    let mut reached = i64::MIN;
    for step in steps.iter().chain([&Step::Watermark(i64::MAX)]) {
        match *step {
            Step::Record { key, time } => {
                let held = open.entry(key).or_default();
                let touches = |s: &(i64, i64, u64)| s.0 <= time + GAP_MS && time <= s.1;
                let parts: Vec<_> = held.iter().copied().filter(touches).collect();
                if parts.is_empty() && time + GAP_MS - 1 + allowed <= reached {
                    late.push((key, time));
                    continue;
                }
                held.retain(|s| !touches(s));
                let start = parts.iter().map(|s| s.0).fold(time, i64::min);
                let end = parts.iter().map(|s| s.1).fold(time + GAP_MS, i64::max);
                let count = parts.iter().map(|s| s.2).sum::<u64>() + 1;
                held.push((start, end, count));
                if end - 1 <= reached {
                    output.push((key, start, end, count));
                }
            }
            Step::Watermark(millis) if millis > reached => {
                for (&key, held) in &mut open {
                    let due = held
                        .iter()
                        .filter(|s| reached < s.1 - 1 && s.1 - 1 <= millis);
                    output.extend(due.map(|s| (key, s.0, s.1, s.2)));
                    held.retain(|s| s.1 - 1 + allowed > millis);
                }
                reached = millis;
            }
            Step::Watermark(_) | Step::Rescale(_) => {}
        }
    }
    output.sort_unstable();
    late.sort_unstable();
    (output, late)
}

fn run(steps: &[Step], allowed: i64) -> Outcome {
    let fleet = |parallelism, restored: Option<&[OperatorSnapshot]>| {
        let build = |context: OperatorContext| {
            let parts = WindowParts {
                assigner: fixed_gap(GAP_MS).unwrap(),
                contents: Aggregated(Count),
                function: with_place::<u64>,
                key_of,
            };
            SessionWindow::open(
                &context,
                parts,
                lateness(allowed).with_late_output(&late_tag()),
            )
        };
        let now = ProcessingTime(0);
        ParallelHarness::<Pair, Fired<u64>, Pair>::new(
            parallelism,
            now,
            &late_tag(),
            restored,
            build,
        )
    };
    let mut running = fleet(2, None);
    let (mut output, mut late, mut reached) = (Vec::new(), Vec::new(), i64::MIN);
    for step in steps.iter().chain([&Step::Watermark(i64::MAX)]) {
        match *step {
            Step::Record { key, time } => running.push((key, time), EventTime(time), key_of),
            Step::Watermark(millis) if millis > reached => {
                reached = millis;
                running.watermark(millis);
            }
            Step::Watermark(_) => {}
            Step::Rescale(parallelism) => {
                let snapshots = running.snapshot();
                output.extend(running.take_output());
                late.extend(running.take_side());
                running = fleet(parallelism, Some(&snapshots));
            }
        }
    }
    output.extend(running.take_output());
    late.extend(running.take_side());
    let mut output: Vec<_> = output.into_iter().map(|(fired, _)| fired).collect();
    let mut late: Vec<_> = late.into_iter().map(|(pair, _)| pair).collect();
    output.sort_unstable();
    late.sort_unstable();
    (output, late)
}

proptest! {
    #[test]
    fn t04_sessions_are_those_of_the_rules_through_any_rescale(
        steps in steps(),
        allowed in prop_oneof![Just(0i64), 1i64..40],
    ) {
        prop_assert_eq!(run(&steps, allowed), oracle(&steps, allowed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn t04_sessions_over_a_store_are_those_of_the_rules_through_any_rescale(
        steps in steps(),
        allowed in prop_oneof![Just(0i64), 1i64..40],
    ) {
        let expected = oracle(&steps, allowed);
        crate::testing::over_a_store(|| assert_eq!(run(&steps, allowed), expected));
    }
}

crate::testing::also_over_a_store! {
    t04_records_exactly_one_gap_apart_are_one_session_and_one_more_are_two,
    t04_a_record_between_two_sessions_makes_them_one,
    t04_the_merged_session_decides_whether_a_record_is_late,
    t03_t04_a_late_record_fires_the_whole_session_again_or_extends_it,
    extending_a_session_a_thousand_times_keeps_one_timer,
    contents_merge_in_order_of_their_sessions,
    a_gap_may_come_from_the_record_and_must_be_positive,
    updates_are_seen_at_each_record,
    processing_time_sessions_end_a_gap_after_their_last_record,
    many_due_sessions_fire_in_portions,
}
