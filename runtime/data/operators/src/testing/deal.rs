//! Deals the snapshots of all old subtasks out to new ones, as the coordinator does at a restore.

use std::collections::BTreeMap;

use crate::snapshot::{ListStateSnapshot, OperatorSnapshot, Redistribution};

/// What each of `parallelism` new subtasks gets: every keyed file, and its share of each list.
///
/// Shape: one snapshot per old subtask in the order of subtasks, one per new subtask out.
pub fn deal(snapshots: &[OperatorSnapshot], parallelism: u32) -> Vec<OperatorSnapshot> {
    let keyed: Vec<_> = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.keyed.clone())
        .collect();
    let mut lists: BTreeMap<String, (Redistribution, Vec<Vec<u8>>)> = BTreeMap::new();
    for list in snapshots.iter().flat_map(|snapshot| &snapshot.lists) {
        let empty = (list.redistribution, Vec::new());
        let (_, items) = lists.entry(list.name.clone()).or_insert(empty);
        items.extend(list.items.iter().cloned());
    }
    let share = |subtask: usize| OperatorSnapshot {
        keyed: keyed.clone(),
        lists: lists
            .iter()
            .map(|(name, (redistribution, items))| ListStateSnapshot {
                name: name.clone(),
                redistribution: *redistribution,
                items: share_of(items, *redistribution, subtask, parallelism as usize),
            })
            .collect(),
    };
    (0..parallelism as usize).map(share).collect()
}

fn share_of(
    items: &[Vec<u8>],
    redistribution: Redistribution,
    subtask: usize,
    parallelism: usize,
) -> Vec<Vec<u8>> {
    let range = match redistribution {
        Redistribution::Union => 0..items.len(),
        Redistribution::Split => {
            subtask * items.len() / parallelism..(subtask + 1) * items.len() / parallelism
        }
    };
    items[range].to_vec()
}
