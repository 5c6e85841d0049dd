//! Tests of the generator: its profiles hold the numbers of the specification, byte for byte the same on every run.

use std::collections::{BTreeMap, BTreeSet};

use highwater_json::{FromJson, Scratch};

use super::*;
use crate::payments::{Payment, Status, WINDOW_MS};

struct Line {
    partition: u32,
    payment: Option<Payment>,
    bytes: Vec<u8>,
}

fn lines(profile: &Profile) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut scratch = Scratch::new();
    let made = PaymentPlan::new(profile).lines(|number, partition, bytes| {
        assert_eq!(number, lines.len() as u64);
        lines.push(Line {
            partition,
            payment: Payment::from_json(bytes, &mut scratch).ok(),
            bytes: bytes.to_vec(),
        });
        Ok::<(), ()>(())
    });
    assert_eq!(made, Ok(()));
    lines
}

fn small(profile: Profile) -> Profile {
    Profile {
        payments: 20_000,
        users: 500,
        ..profile
    }
}

#[test]
fn the_same_profile_gives_the_same_bytes_and_another_seed_gives_others() {
    let bytes = |profile: &Profile| -> Vec<Vec<u8>> {
        lines(profile).into_iter().map(|line| line.bytes).collect()
    };
    let profile = small(Profile::ci());
    assert_eq!(bytes(&profile), bytes(&profile));
    let other = Profile {
        seed: 43,
        ..profile
    };
    assert_ne!(bytes(&profile), bytes(&other));
}

#[test]
fn the_ci_profile_has_the_numbers_of_the_specification() {
    let profile = Profile::ci();
    let lines = lines(&profile);
    let payments: Vec<&Payment> = lines
        .iter()
        .filter_map(|line| line.payment.as_ref())
        .collect();
    assert_eq!(payments.len(), 200_000);
    assert_eq!(lines.len() - payments.len(), 50);

    let declined: Vec<_> = payments
        .iter()
        .filter(|p| p.status == Status::Declined)
        .collect();
    let share = declined.len() as f64 / payments.len() as f64;
    assert!((0.078..0.082).contains(&share), "declined {share}");
    let others = payments
        .iter()
        .filter(|p| matches!(p.status, Status::Other(_)))
        .count();
    assert!((800..1_200).contains(&others), "other statuses {others}");

    let mut pairs = BTreeMap::new();
    for payment in &declined {
        let window = payment.event_time.0.div_euclid(WINDOW_MS);
        *pairs.entry((&payment.user_id, window)).or_insert(0u64) += 1;
    }
    let alerts = pairs.values().filter(|&&count| count >= 6).count();
    assert!(
        (450..1_000).contains(&alerts),
        "pairs with an alert {alerts}"
    );
    let end = profile.start_ms + profile.span_ms;
    assert!(
        payments
            .iter()
            .all(|p| (profile.start_ms..end).contains(&p.event_time.0))
    );
}

#[test]
fn no_kind_of_malformed_line_is_a_payment_to_the_job_or_to_the_oracle() {
    let mut expected = crate::oracle::Expected::default();
    for number in 0..100 {
        let line = plan::malformed_line(number);
        let read = Payment::from_json(line, &mut Scratch::new());
        assert!(read.is_err(), "{}", line.escape_ascii());
        expected.add_partition(&[line, b"\n"].concat());
    }
    assert_eq!((expected.payments, expected.malformed), (0, 100));
}

#[test]
fn every_user_is_in_one_partition_and_every_partition_has_users() {
    let lines = lines(&small(Profile::ci()));
    let mut homes: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
    for line in &lines {
        if let Some(payment) = &line.payment {
            homes
                .entry(&payment.user_id)
                .or_default()
                .insert(line.partition);
        }
    }
    assert!(homes.values().all(|partitions| partitions.len() == 1));
    let used: BTreeSet<_> = homes.values().flatten().collect();
    assert_eq!(used.len(), 4);
}

/// The largest time by which a payment is behind an earlier one of its partition.
fn largest_disorder(lines: &[Line]) -> i64 {
    let mut newest: BTreeMap<u32, i64> = BTreeMap::new();
    let mut disorder = 0;
    for line in lines {
        if let Some(payment) = &line.payment {
            let newest = newest.entry(line.partition).or_insert(i64::MIN);
            *newest = (*newest).max(payment.event_time.0);
            disorder = disorder.max(*newest - payment.event_time.0);
        }
    }
    disorder
}

#[test]
fn the_demo_profile_has_no_late_payment_and_the_ci_profile_has() {
    assert!(largest_disorder(&lines(&small(Profile::demo()))) < 45_000);
    assert!(largest_disorder(&lines(&small(Profile::ci()))) > 300_000);
}

#[test]
fn the_silent_partition_is_silent_in_event_time() {
    let profile = small(Profile::ci());
    let silence = profile.silence.unwrap();
    let start = profile.start_ms + silence.after_ms;
    let in_silence =
        |payment: &Payment| (start..start + silence.length_ms).contains(&payment.event_time.0);
    let mut others = 0;
    let mut after = false;
    for line in lines(&profile) {
        let Some(payment) = line.payment else {
            continue;
        };
        if line.partition != silence.partition {
            others += u32::from(in_silence(&payment));
            continue;
        }
        assert!(!in_silence(&payment));
        // What happened before the silence does not arrive behind it.
        after |= payment.event_time.0 >= start;
        assert!(!after || payment.event_time.0 >= start);
    }
    assert!(after && others > 1_000);
    assert_eq!(Profile::ci().with_partitions(1).silence, None);
    assert_eq!(
        Profile::ci().with_partitions(8).silence.unwrap().partition,
        7
    );
}

#[test]
fn most_payments_of_a_hot_profile_are_of_one_user() {
    let profile = Profile {
        hot_percent: 90,
        silence: None,
        ..small(Profile::ci())
    };
    let lines = lines(&profile);
    let payments = lines.iter().filter_map(|line| line.payment.as_ref());
    let hot = payments.filter(|payment| payment.user_id == "u00000");
    let share = hot.count() as f64 / profile.payments as f64;
    // Bursts are of all users.
    assert!((0.80..0.95).contains(&share), "{share}");
}

#[test]
fn wide_payments_are_payments_with_a_status_that_the_rules_ignore() {
    let profile = Profile {
        wide: Some(Wide {
            every: 1_000,
            bytes: 100_000,
        }),
        ..small(Profile::ci())
    };
    let lines = lines(&profile);
    let wide: Vec<_> = lines
        .iter()
        .filter(|line| line.bytes.len() > 100_000)
        .collect();
    assert_eq!(wide.len(), 20);
    let mut expected = crate::oracle::Expected::default();
    for line in wide {
        let status = &line.payment.as_ref().unwrap().status;
        assert!(matches!(status, Status::Other(_)));
        expected.add_partition(&[line.bytes.as_slice(), b"\n"].concat());
    }
    assert_eq!((expected.payments, expected.other_statuses), (20, 20));
}
