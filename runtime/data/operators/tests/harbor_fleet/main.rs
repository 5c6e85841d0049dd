//! The decline rule of Harbor Fleet: boundary vectors V1 to V8, and both implementations giving
//! the same findings on any input, watermark trace and rescale.

mod jobs;

use std::collections::BTreeMap;

use highwater_operators::testing::Harness;
use highwater_operators::{OperatorSnapshot, filter};
use highwater_time::{SourceSignal, SplitWatermarks, WatermarkStrategy};
use highwater_types::{EventTime, ProcessingTime, Watermark};
use proptest::prelude::*;

use self::jobs::{
    ALERT_AT, BOTH, Build, Decline, Finding, Fleet, LATENESS, WINDOW_MS, by_sliding_windows,
    user_of,
};

const BOUND_MS: i64 = 45_000;
const USER: i64 = 1;

/// Ten o'clock, in milliseconds.
const TEN: i64 = 36_000_000;

/// `minutes:seconds.millis` past ten.
const fn at(minutes: i64, seconds: i64, millis: i64) -> i64 {
    TEN + minutes * 60_000 + seconds * 1_000 + millis
}

/// Pushes declines of one user at these times.
fn decline(fleet: &mut Fleet, times: &[i64]) {
    for (number, &time) in times.iter().enumerate() {
        fleet.push((USER, number as u64), EventTime(time), user_of);
    }
}

/// The watermark after an event at `time` has been the latest (HB-20).
fn seen(fleet: &mut Fleet, time: i64) {
    fleet.watermark(time - BOUND_MS - 1);
}

fn findings(fleet: &mut Fleet) -> Vec<Finding> {
    fleet
        .take_output()
        .into_iter()
        .map(|(finding, _)| finding)
        .collect()
}

fn alerts(fleet: &mut Fleet) -> Vec<Finding> {
    findings(fleet)
        .into_iter()
        .filter(|finding| finding.3)
        .collect()
}

/// Runs a vector on both implementations.
fn on_both(check: impl Fn(&str, &mut Fleet)) {
    for (name, build) in BOTH {
        check(name, &mut build(1, None));
    }
}

fn declines_before(end: i64, count: i64) -> Vec<i64> {
    (0..count).map(|number| end - count + number).collect()
}

#[test]
fn v1_five_declines_give_no_alert_and_a_final_count_of_five() {
    on_both(|name, fleet| {
        decline(fleet, &declines_before(at(9, 59, 999), 5));
        assert_eq!(findings(fleet), [], "{name}");
        seen(fleet, at(10, 45, 0));
        assert_eq!(findings(fleet), [(USER, TEN, 5, false)], "{name}");
    });
}

#[test]
fn v1b_a_sixth_decline_in_the_last_millisecond_alerts_at_once() {
    on_both(|name, fleet| {
        decline(fleet, &declines_before(at(9, 59, 999), 5));
        decline(fleet, &[at(9, 59, 999)]);
        assert_eq!(findings(fleet), [(USER, TEN, ALERT_AT, true)], "{name}");
        decline(fleet, &[at(9, 59, 999)]);
        assert_eq!(
            findings(fleet),
            [],
            "{name}: one alert for a user and window"
        );
    });
}

#[test]
fn v1c_a_decline_on_the_boundary_is_of_the_next_window() {
    on_both(|name, fleet| {
        decline(fleet, &declines_before(at(9, 59, 999), 5));
        decline(fleet, &[at(10, 0, 0)]);
        assert_eq!(findings(fleet), [], "{name}");
        fleet.watermark(at(20, 0, 0));
        let counts = [(USER, TEN, 5, false), (USER, at(10, 0, 0), 1, false)];
        assert_eq!(findings(fleet), counts, "{name}");
    });
}

#[test]
fn v2_a_burst_over_the_boundary_alerts_in_sliding_windows_only() {
    let burst = [
        at(9, 57, 0),
        at(9, 58, 0),
        at(9, 59, 0),
        at(10, 0, 0),
        at(10, 1, 0),
        at(10, 2, 0),
    ];
    on_both(|name, fleet| {
        decline(fleet, &burst);
        assert_eq!(alerts(fleet), [], "{name}");
    });
    let mut sliding = by_sliding_windows();
    decline(&mut sliding, &burst);
    // Every window of ten minutes that begins on a minute and holds both ends of the burst.
    let starts = (0..=9).map(|minute| at(minute, 0, 0));
    let holding = starts.filter(|start| *start <= burst[0] && burst[5] < start + WINDOW_MS);
    let expected: Vec<_> = holding.map(|start| (USER, start, ALERT_AT, true)).collect();
    assert_eq!(expected.len(), 9);
    assert_eq!(alerts(&mut sliding), expected);
}

#[test]
fn v3_t01_a_window_is_final_exactly_45_s_after_its_end() {
    on_both(|name, fleet| {
        decline(fleet, &[at(5, 0, 0)]);
        seen(fleet, at(10, 44, 999));
        assert_eq!(findings(fleet), [], "{name}");
        seen(fleet, at(10, 45, 0));
        assert_eq!(findings(fleet), [(USER, TEN, 1, false)], "{name}");
    });
}

#[test]
fn v4_t02_t03_a_late_decline_corrects_until_the_cleanup_time_and_not_at_it() {
    on_both(|name, fleet| {
        decline(fleet, &declines_before(at(5, 0, 0), 5));
        fleet.watermark(at(14, 59, 998));
        assert_eq!(findings(fleet), [(USER, TEN, 5, false)], "{name}");
        decline(fleet, &[at(5, 0, 0)]);
        let corrected = [(USER, TEN, ALERT_AT, true), (USER, TEN, 6, false)];
        assert_eq!(findings(fleet), corrected, "{name}: the whole count again");
        fleet.watermark(at(14, 59, 999));
        decline(fleet, &[at(5, 0, 0)]);
        assert_eq!(findings(fleet), [], "{name}");
        let late = [((USER, 0), EventTime(at(5, 0, 0)))];
        assert_eq!(fleet.take_side(), late, "{name}: unchanged");
        assert_eq!(fleet.subtasks()[0].report().state_bytes, 0, "{name}: HB-25");
    });
}

/// Moves the fleet to the watermark of a source with two partitions. Returns whether there was one.
fn advance(fleet: &mut Fleet, source: &mut SplitWatermarks, now: i64) -> bool {
    let signals = source.signals(ProcessingTime(now), false);
    let mut moved = false;
    for signal in signals {
        if let SourceSignal::Watermark(Watermark(millis)) = signal {
            fleet.watermark(millis);
            moved = true;
        }
    }
    moved
}

#[test]
fn v5_a_silent_partition_holds_the_result_back_until_it_is_idle() {
    on_both(|name, fleet| {
        let strategy = WatermarkStrategy::bounded_out_of_orderness(BOUND_MS).idle_after(30_000);
        let mut source = SplitWatermarks::new(strategy);
        source.add_split(0, ProcessingTime(0));
        source.add_split(1, ProcessingTime(0));
        // The first turn: from here on silence counts.
        assert!(!advance(fleet, &mut source, 0), "{name}: nothing was read");
        decline(fleet, &[at(5, 0, 0)]);
        source.on_chunk(0, &[EventTime(at(11, 0, 0))], ProcessingTime(29_000));
        assert!(
            !advance(fleet, &mut source, 29_999),
            "{name}: still waiting"
        );
        assert_eq!(findings(fleet), [], "{name}");
        assert!(advance(fleet, &mut source, 30_000), "{name}: idle");
        assert_eq!(findings(fleet), [(USER, TEN, 1, false)], "{name}");
        // The partition wakes with old events: judged by what has been reached.
        source.on_chunk(1, &[EventTime(at(5, 0, 0))], ProcessingTime(31_000));
        advance(fleet, &mut source, 31_000);
        decline(fleet, &[at(5, 0, 0)]);
        assert_eq!(findings(fleet), [(USER, TEN, 2, false)], "{name}");
    });
}

#[test]
fn v6_t05_windows_before_1970_use_mathematical_modulo() {
    on_both(|name, fleet| {
        decline(fleet, &[-1, -WINDOW_MS, -WINDOW_MS - 1, 0]);
        fleet.watermark(WINDOW_MS);
        let mut counts = findings(fleet);
        counts.sort_unstable();
        let expected = [
            (USER, -2 * WINDOW_MS, 1, false),
            (USER, -WINDOW_MS, 2, false),
            (USER, 0, 1, false),
        ];
        assert_eq!(counts, expected, "{name}");
    });
}

#[test]
fn v7_two_identical_declines_both_count() {
    on_both(|name, fleet| {
        fleet.push((USER, 7), EventTime(at(1, 0, 0)), user_of);
        fleet.push((USER, 7), EventTime(at(1, 0, 0)), user_of);
        fleet.watermark(at(10, 0, 0));
        assert_eq!(findings(fleet), [(USER, TEN, 2, false)], "{name}");
    });
}

#[test]
fn v8_a_status_in_lower_case_is_no_decline() {
    let is_declined = |(_, status): &(i64, String)| status == "DECLINED";
    let mut declined = Harness::stateless(filter(is_declined));
    let statuses = ["DECLINED", "declined", "APPROVED"];
    declined.push_all(statuses.map(|status| ((USER, status.to_owned()), EventTime(at(1, 0, 0)))));
    on_both(|name, fleet| {
        fleet.push((USER, 0), EventTime(at(1, 0, 0)), user_of);
        fleet.watermark(at(10, 0, 0));
        assert_eq!(findings(fleet), [(USER, TEN, 1, false)], "{name}");
    });
    assert_eq!(declined.take_output().len(), 1);
}

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    Decline { user: i64, time: i64 },
    Watermark(i64),
    Rescale(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Times within five windows around the epoch, users few enough to reach six declines.
    let span = -2 * WINDOW_MS..3 * WINDOW_MS;
    let step = prop_oneof![
        12 => (0i64..4, span.clone()).prop_map(|(user, time)| Step::Decline { user, time }),
        2 => span.prop_map(Step::Watermark),
        1 => (1u32..5).prop_map(Step::Rescale),
    ];
    prop::collection::vec(step, 0..160)
}

/// Everything that came out, sorted: the order between keys is not specified.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    findings: Vec<(Finding, EventTime)>,
    late: Vec<(Decline, EventTime)>,
}

impl Outcome {
    fn take(&mut self, fleet: &mut Fleet) {
        self.findings.extend(fleet.take_output());
        self.late.extend(fleet.take_side());
    }
}

/// Runs the steps; a rescale is a snapshot and a restore at another parallelism, or nothing if `rescales` is `Off`.
fn run(build: Build, steps: &[Step], rescales: Rescales) -> Outcome {
    let mut fleet = build(2, None);
    let mut outcome = Outcome::default();
    let mut reached = i64::MIN;
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Decline { user, time } => {
                fleet.push((user, number as u64), EventTime(time), user_of);
            }
            Step::Watermark(millis) if millis > reached => {
                reached = millis;
                fleet.watermark(millis);
            }
            Step::Rescale(parallelism) if rescales == Rescales::On => {
                let snapshots: Vec<OperatorSnapshot> = fleet.snapshot();
                outcome.take(&mut fleet);
                fleet = build(parallelism, Some(&snapshots));
            }
            Step::Watermark(_) | Step::Rescale(_) => {}
        }
    }
    fleet.watermark(i64::MAX);
    outcome.take(&mut fleet);
    outcome.findings.sort_unstable();
    outcome.late.sort_unstable();
    outcome
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rescales {
    On,
    Off,
}

/// What the rules HB-21 to HB-24 say, written down plainly.
fn oracle(steps: &[Step]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut counts: BTreeMap<(i64, i64), u64> = BTreeMap::new();
    let mut reached = i64::MIN;
    let last = |start: i64| start + WINDOW_MS - 1;
    for (number, step) in steps.iter().chain([&Step::Watermark(i64::MAX)]).enumerate() {
        match *step {
            Step::Decline { user, time } => {
                let start = time.div_euclid(WINDOW_MS) * WINDOW_MS;
                if reached >= last(start) + LATENESS.0 {
                    outcome.late.push(((user, number as u64), EventTime(time)));
                    continue;
                }
                let count = counts.entry((user, start)).or_insert(0);
                *count += 1;
                let at = EventTime(last(start));
                if *count == ALERT_AT {
                    outcome.findings.push(((user, start, *count, true), at));
                }
                if reached >= last(start) {
                    outcome.findings.push(((user, start, *count, false), at));
                }
            }
            Step::Watermark(millis) if millis > reached => {
                for (&(user, start), &count) in &counts {
                    if reached < last(start) && last(start) <= millis {
                        let at = EventTime(last(start));
                        outcome.findings.push(((user, start, count, false), at));
                    }
                }
                reached = millis;
            }
            Step::Watermark(_) | Step::Rescale(_) => {}
        }
    }
    outcome.findings.sort_unstable();
    outcome.late.sort_unstable();
    outcome
}

proptest! {
    #[test]
    fn both_implementations_agree_with_the_rules_through_any_rescale(steps in steps()) {
        let expected = oracle(&steps);
        for (name, build) in BOTH {
            prop_assert_eq!(&run(build, &steps, Rescales::Off), &expected, "{}", name);
            prop_assert_eq!(&run(build, &steps, Rescales::On), &expected, "{} rescaled", name);
        }
    }
}
