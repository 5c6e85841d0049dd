//! Deals the snapshots of all old subtasks out to new ones, as the coordinator does at a restore.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::snapshot::{
    KeyedPart, ListStateSnapshot, OperatorSnapshot, Redistribution, RestoredOperator, RestoredPart,
};

/// What each of `parallelism` new subtasks gets: every keyed file, and its share of each list.
///
/// Shape: one snapshot per old subtask in the order of subtasks, one per new subtask out.
pub fn deal(snapshots: &[OperatorSnapshot], parallelism: u32) -> Vec<RestoredOperator> {
    let keyed: Vec<_> = snapshots
        .iter()
        .flat_map(|snapshot| &snapshot.keyed)
        .map(restored_part)
        .collect();
    let mut lists: BTreeMap<String, (Redistribution, Vec<Vec<u8>>)> = BTreeMap::new();
    for list in snapshots.iter().flat_map(|snapshot| &snapshot.lists) {
        let empty = (list.redistribution, Vec::new());
        let (_, items) = lists.entry(list.name.clone()).or_insert(empty);
        items.extend(list.items.iter().cloned());
    }
    let share = |subtask: usize| RestoredOperator {
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

impl From<OperatorSnapshot> for RestoredOperator {
    /// What a subtask gets back at the same parallelism.
    fn from(snapshot: OperatorSnapshot) -> Self {
        Self {
            keyed: snapshot.keyed.iter().map(restored_part).collect(),
            lists: snapshot.lists,
        }
    }
}

/// A part as it comes back.
///
/// # Panics
/// If its files are still to be made: those of a test fit into memory.
fn restored_part(part: &KeyedPart) -> RestoredPart {
    match part {
        KeyedPart::Bytes(bytes) => RestoredPart::Bytes(Arc::new(bytes.clone())),
        KeyedPart::InStore { head, files } => RestoredPart::InStore {
            head: Arc::new(head.clone()),
            files: files.clone(),
        },
        KeyedPart::Pieces(_) => panic!("a snapshot in pieces is not dealt out by a test"),
    }
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
