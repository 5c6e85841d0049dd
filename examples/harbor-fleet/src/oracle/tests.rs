//! Tests of the oracle: right output is clean, and each wrong output breaks the rule it is made to break.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use super::*;
use crate::generator::{AtOnce, PaymentPlan, Profile, write_log};
use crate::payments::PAYMENTS_TOPIC;

fn log(times: &[i64]) -> Vec<u8> {
    let mut log = String::new();
    for time in times {
        writeln!(
            log,
            r#"{{"event_time":{time},"user_id":"u1","amount":1.00,"status":"DECLINED"}}"#
        )
        .unwrap();
    }
    log.into_bytes()
}

fn expected(times: &[i64]) -> Expected {
    let mut expected = Expected::default();
    expected.add_partition(&log(times));
    expected
}

fn observed(counts: &[u64], alerts: u64, late: &[i64]) -> Observed {
    let mut observed = Observed::default();
    let counts = counts.iter().map(|count| {
        json!({"user_id": "u1", "window_start": 0, "window_end": 600_000, "count": count})
            .to_string()
    });
    observed.add_counts(counts).unwrap();
    let alert = json!({"rule": "R1", "alert_id": "a", "user_id": "u1", "window_start": "1970-01-01T00:00:00.000Z", "count_at_alert": 6});
    observed
        .add_alerts((0..alerts).map(|_| alert.to_string()))
        .unwrap();
    let late = log(late);
    let lines = late
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    observed.add_late(lines).unwrap();
    observed
}

fn rules(expected: &Expected, observed: &Observed) -> Vec<&'static str> {
    let report = Report::new(expected, observed);
    report
        .violations
        .iter()
        .map(|violation| violation.rule)
        .collect()
}

#[test]
fn a_right_output_is_clean_and_says_so() {
    let expected = expected(&[1, 2, 3, 4, 5, 6, 700_000, 7]);
    let observed = observed(&[6, 7], 1, &[]);
    let mut with_other = observed;
    let other = json!({"user_id": "u1", "window_start": 600_000, "count": 1}).to_string();
    with_other.add_counts([other]).unwrap();
    let report = Report::new(&expected, &with_other);
    assert!(report.is_clean(), "{report}");
    assert!(report.to_string().ends_with("every rule holds"));
    assert_eq!((report.pairs, report.hits, report.undecided), (2, 1, 0));
    assert!(!expected.is_unique());
}

#[test]
fn each_wrong_output_breaks_its_rule() {
    let six = expected(&[1, 2, 3, 4, 5, 6]);
    assert_eq!(rules(&six, &observed(&[6], 1, &[])), [""; 0]);
    assert_eq!(rules(&six, &observed(&[6], 2, &[])), ["HB-32"]);
    assert_eq!(rules(&six, &observed(&[6], 0, &[])), ["HB-33", "HB-34"]);
    assert_eq!(rules(&six, &observed(&[7], 1, &[])), ["HB-80"]);
    assert_eq!(
        rules(&six, &observed(&[5], 0, &[])),
        ["HB-24", "HB-34", "HB-80"]
    );
    assert_eq!(rules(&six, &observed(&[6], 1, &[1])), ["HB-80"]);
    let five = expected(&[1, 2, 3, 4, 5]);
    assert_eq!(rules(&five, &observed(&[5], 1, &[])), ["HB-33", "HB-34"]);
    let mut letters = observed(&[6], 1, &[]);
    letters.add_dead_letters(["x"]);
    assert_eq!(rules(&six, &letters), ["HB-11"]);
}

#[test]
fn what_is_missing_is_lost_and_what_is_there_twice_is_doubled() {
    let six = expected(&[1, 2, 3, 4, 5, 6]);
    let of = |observed: &Observed| {
        let report = Report::new(&six, observed);
        (report.lost, report.doubled)
    };
    assert_eq!(of(&observed(&[6], 1, &[])), (0, 0));
    assert_eq!(of(&observed(&[6], 3, &[])), (0, 2));
    assert_eq!(of(&observed(&[6], 0, &[])), (1, 0));
    assert_eq!(of(&observed(&[4], 1, &[])), (2, 0));
    assert_eq!(of(&observed(&[6], 1, &[1])), (0, 1));
    let mut letters = observed(&[6], 1, &[]);
    letters.add_dead_letters(["x"]);
    assert_eq!(of(&letters), (0, 1));
}

#[test]
fn a_count_that_is_put_out_again_is_doubled_though_the_last_one_is_right() {
    let seven = expected(&[1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(rules(&seven, &observed(&[6, 7], 1, &[])), [""; 0]);
    let again = observed(&[6, 6, 7], 1, &[]);
    assert_eq!(rules(&seven, &again), ["HB-12"]);
    assert_eq!(Report::new(&seven, &again).doubled, 1);
}

#[test]
fn a_late_decline_may_be_counted_or_put_out_but_not_lost() {
    let mut times = vec![1, 2, 3, 4, 5, 2_000_000];
    times.push(6);
    let expected = expected(&times);
    let window = json!({"user_id": "u1", "window_start": 1_800_000, "count": 1}).to_string();
    let with_window = |mut observed: Observed| {
        observed.add_counts([window.clone()]).unwrap();
        observed
    };
    assert_eq!(
        rules(&expected, &with_window(observed(&[5, 6], 1, &[]))),
        [""; 0]
    );
    assert_eq!(
        rules(&expected, &with_window(observed(&[5], 0, &[6]))),
        [""; 0]
    );
    assert_eq!(
        rules(&expected, &with_window(observed(&[5], 0, &[]))),
        ["HB-80"]
    );
}

#[test]
fn a_line_that_is_no_output_is_named() {
    let error = Observed::default().add_counts(["{}"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1 of the decline counts is no such record: {}"
    );
    assert!(Observed::default().add_alerts(["x"]).is_err());
    assert!(Observed::default().add_late(["{}"]).is_err());
}

#[test]
fn the_oracle_agrees_with_the_generator_about_its_profiles() {
    let root = tempfile::tempdir().unwrap();
    let read = |profile: &Profile, name: &str| {
        let root = root.path().join(name);
        write_log(profile, &root, &mut AtOnce).unwrap();
        Expected::read(&root, PAYMENTS_TOPIC).unwrap()
    };
    let ci = read(&Profile::ci(), "ci");
    assert_eq!((ci.payments, ci.malformed), (200_000, 50));
    assert!(!ci.is_unique());
    assert!(ci.other_statuses > 0);
    let undecided = Report::new(&ci, &Observed::default()).undecided;
    assert!(undecided > 0, "some alerts depend on lateness");

    let demo = read(&Profile::demo(), "demo");
    assert!(demo.is_unique());
    assert!(demo.hits().count() > 450);
}

#[test]
fn a_report_shows_the_first_violations_of_each_rule() {
    let mut expected = Expected::default();
    for user in 0..30 {
        let line = format!(
            "{{\"event_time\":1,\"user_id\":\"u{user}\",\"amount\":1,\"status\":\"DECLINED\"}}\n"
        );
        expected.add_partition(line.as_bytes());
    }
    let text = Report::new(&expected, &Observed::default()).to_string();
    assert!(text.contains("60 violations"), "{text}");
    assert!(
        text.contains("HB-80: 30") && text.contains("and 20 more"),
        "{text}"
    );
    assert!(
        text.contains("u0 @ 0: last count 0 + late 0, and the log has 1"),
        "{text}"
    );
}

/// Rule R1 in its simplest form, over all partitions at once in order of arrival.
#[derive(Default)]
struct SimpleJob {
    newest: BTreeMap<u32, (i64, u64)>,
    watermark: i64,
    counts: BTreeMap<(String, i64), u64>,
    alerts: Vec<String>,
    late: Vec<Vec<u8>>,
    dead_letters: u64,
}

impl SimpleJob {
    /// A partition without a line among this many is idle: one second at the pace of the profile.
    const IDLE_LINES: u64 = 10_000;

    fn line(&mut self, number: u64, partition: u32, line: &[u8]) {
        let Some(seen) = parse::payment(line) else {
            self.dead_letters += 1;
            return;
        };
        let newest = self.newest.entry(partition).or_insert((i64::MIN, number));
        *newest = (newest.0.max(seen.event_time_ms), number);
        let start = seen.event_time_ms.div_euclid(600_000) * 600_000;
        if seen.status == "DECLINED" {
            if self.watermark >= start + 600_000 - 1 + 300_000 {
                self.late.push(line.to_vec());
            } else {
                let count = self
                    .counts
                    .entry((seen.user_id.clone(), start))
                    .or_default();
                *count += 1;
                if *count == 6 {
                    let id = format!("{}/{start}", seen.user_id);
                    let alert = json!({"rule": "R1", "alert_id": id, "user_id": seen.user_id, "window_start": start, "count_at_alert": 6});
                    self.alerts.push(alert.to_string());
                }
            }
        }
        let active = self
            .newest
            .values()
            .filter(|(_, last)| number - last < Self::IDLE_LINES);
        let oldest = active
            .map(|(newest, _)| newest.saturating_sub(45_001))
            .min();
        self.watermark = self.watermark.max(oldest.unwrap_or(i64::MIN));
    }

    fn observed(&self) -> Observed {
        let mut observed = Observed::default();
        observed.add_alerts(&self.alerts).unwrap();
        observed.add_late(&self.late).unwrap();
        let counts = self.counts.iter().map(|((user, start), count)| {
            json!({"user_id": user, "window_start": start, "count": count}).to_string()
        });
        observed.add_counts(counts).unwrap();
        observed.add_dead_letters(0..self.dead_letters);
        observed
    }
}

#[test]
fn a_simple_job_on_both_profiles_breaks_no_rule() {
    for profile in [Profile::ci(), Profile::demo()] {
        let root = tempfile::tempdir().unwrap();
        write_log(&profile, root.path(), &mut AtOnce).unwrap();
        let expected = Expected::read(root.path(), PAYMENTS_TOPIC).unwrap();
        let mut job = SimpleJob::default();
        let read = PaymentPlan::new(&profile).lines(|number, partition, line| {
            job.line(number, partition, line);
            Ok::<(), ()>(())
        });
        assert_eq!(read, Ok(()));
        let report = Report::new(&expected, &job.observed());
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.late > 0, profile == Profile::ci(), "{report}");
        assert!(
            report.alerts >= report.hits && report.hits > 450,
            "{report}"
        );

        job.alerts.pop();
        assert!(!Report::new(&expected, &job.observed()).is_clean());
    }
}
