//! Redistribution of operator state over every change of parallelism.

use highwater_types::{Classified, ErrorKind};
use proptest::prelude::*;

use super::*;

fn uid() -> OperatorUid {
    OperatorUid::parse("source").unwrap()
}

fn snapshots(parts: &[Vec<i64>], redistribution: Redistribution) -> Vec<OperatorSnapshot> {
    let parallelism = Parallelism(parts.len() as u32);
    let numbered = parts.iter().enumerate();
    numbered
        .map(|(at, items)| {
            let subtask = SubtaskIndex(at as u32);
            let mut snapshot =
                OperatorSnapshot::new(uid(), CheckpointId::default(), subtask, parallelism);
            snapshot.add("splits", redistribution, items);
            OperatorSnapshot::from_bytes(&snapshot.to_bytes()).unwrap()
        })
        .collect()
}

fn restored(snapshots: &[OperatorSnapshot], parallelism: u32) -> Vec<Vec<i64>> {
    (0..parallelism)
        .map(|index| {
            let (index, parallelism) = (SubtaskIndex(index), Parallelism(parallelism));
            let share = OperatorRestore::redistribute(&uid(), snapshots, index, parallelism);
            share.unwrap().take("splits").unwrap()
        })
        .collect()
}

proptest! {
    #[test]
    fn even_lists_lose_and_double_nothing(
        parts in proptest::collection::vec(proptest::collection::vec(any::<i64>(), 0..9), 1..6),
        parallelism in 1u32..7,
    ) {
        let shares = restored(&snapshots(&parts, Redistribution::Even), parallelism);
        let mut all: Vec<i64> = shares.iter().flatten().copied().collect();
        let mut expected: Vec<i64> = parts.into_iter().flatten().collect();
        all.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(all, expected);
        let (least, most) = shares.iter().fold((usize::MAX, 0), |(least, most), share| {
            (least.min(share.len()), most.max(share.len()))
        });
        prop_assert!(most - least <= 1, "{} to {}", least, most);
    }
}

#[test]
fn union_lists_go_to_everybody_in_order_of_subtask() {
    let old = snapshots(&[vec![1, 2], vec![3]], Redistribution::Union);
    assert_eq!(restored(&old, 3), vec![vec![1, 2, 3]; 3]);
}

#[test]
fn broadcast_lists_are_read_round_robin() {
    let old = snapshots(&[vec![1, 2], vec![1, 2]], Redistribution::Broadcast);
    assert_eq!(restored(&old, 5), vec![vec![1, 2]; 5]);
}

#[test]
fn a_missing_or_foreign_snapshot_is_refused() {
    let mut old = snapshots(&[vec![1], vec![2], vec![3]], Redistribution::Even);
    old.remove(1);
    let (index, parallelism) = (SubtaskIndex(0), Parallelism(1));
    let error = OperatorRestore::redistribute(&uid(), &old, index, parallelism).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains("subtask 1 is missing"),
        "{error}"
    );
    let other = OperatorUid::parse("other").unwrap();
    let error = OperatorRestore::redistribute(&other, &old, index, parallelism).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bug);
}

#[test]
fn t44_schemas_are_checked_and_lists_left_over_are_named() {
    let old = snapshots(&[vec![1]], Redistribution::Even);
    let (index, parallelism) = (SubtaskIndex(0), Parallelism(1));
    let share = || OperatorRestore::redistribute(&uid(), &old, index, parallelism).unwrap();
    let error = share().take::<String>("splits").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("`text` but stored with `i64`"),
        "{error}"
    );
    assert_eq!(
        share().take::<String>("others").unwrap(),
        Vec::<String>::new()
    );
    let error = share().finish(&BTreeSet::new()).unwrap_err();
    assert!(error.to_string().contains("`splits`"), "{error}");
    share()
        .finish(&BTreeSet::from(["splits".to_owned()]))
        .unwrap();
    assert!(matches!(share().take::<i64>("splits").as_deref(), Ok([1])));
}

#[test]
fn any_damage_is_found() {
    let bytes = snapshots(&[vec![1, 2, 3]], Redistribution::Even)[0].to_bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let error = OperatorSnapshot::from_bytes(&damaged).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
        assert!(
            OperatorSnapshot::from_bytes(&bytes[..at]).is_err(),
            "cut at {at}"
        );
    }
}
