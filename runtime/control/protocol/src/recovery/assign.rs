//! Spreads restored state over the subtasks of a new parallelism.
//!
//! Called at R5. Pure functions of the manifest and the parallelism: every leader comes to the same answer. Nothing is
//! dropped and nothing but union and broadcast state is given out twice.

use std::collections::BTreeMap;

use highwater_types::{KeyGroupRange, Parallelism, SubtaskIndex};

use crate::manifest::{Blob, HexBytes, KeyedFile, ListMode, ListState, OperatorState};
use crate::mutant::{Mutant, planted};

/// The splits of each subtask with their positions: dealt out in order of names.
pub fn splits(
    splits: &BTreeMap<String, HexBytes>,
    parallelism: Parallelism,
) -> Vec<BTreeMap<String, HexBytes>> {
    let count = parallelism.0 as usize;
    assert!(count > 0, "a source has at least one subtask");
    let mut dealt = vec![BTreeMap::new(); count];
    for (at, (split, position)) in splits.iter().enumerate() {
        dealt[at % count].insert(split.clone(), position.clone());
    }
    dealt
}

/// The keyed state of one subtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedShare {
    /// The key groups that the subtask owns.
    pub range: KeyGroupRange,
    /// The files that may hold some of them, each with only the owned groups.
    pub files: Vec<KeyedFile>,
}

/// The keyed state of each subtask.
///
/// # Panics
/// If there are more subtasks than key groups: the restore was refused before.
pub fn keyed(operator: &OperatorState, parallelism: Parallelism) -> Vec<KeyedShare> {
    let max = operator.max_parallelism;
    assert!(
        parallelism.0 > 0 && parallelism.0 <= max.get(),
        "subtasks fit the key groups"
    );
    let share = |index| {
        let range = max.range(SubtaskIndex(index), parallelism);
        let mut wanted = range;
        if planted(Mutant::KeyGroupOffByOne) && wanted.start > 0 {
            wanted.start += 1;
        }
        let files = operator
            .keyed
            .iter()
            .filter(|file| file.range.intersects(wanted));
        let files = files.map(|file| KeyedFile {
            path: file.path.clone(),
            range: file.range,
            groups: file
                .groups
                .iter()
                .filter(|slice| wanted.contains(slice.group))
                .copied()
                .collect(),
            store: file.store.clone(),
        });
        KeyedShare {
            range,
            files: files.collect(),
        }
    };
    (0..parallelism.0).map(share).collect()
}

/// The list state of each subtask, by name. At the parallelism of the snapshot each subtask gets its own list back, in
/// its order; at another one split lists are dealt out in runs, and order is kept inside a run only.
pub fn lists(
    operator: &OperatorState,
    parallelism: Parallelism,
) -> Vec<BTreeMap<String, Vec<Blob>>> {
    let count = parallelism.0 as usize;
    let is_same = operator.parallelism == parallelism;
    assert!(count > 0, "an operator has at least one subtask");
    let mut shares = vec![BTreeMap::<String, Vec<Blob>>::new(); count];
    let mut ordered: Vec<&ListState> = operator.lists.iter().collect();
    ordered.sort_by(|a, b| (&a.name, a.subtask).cmp(&(&b.name, b.subtask)));
    for state in ordered.chunk_by(|a, b| a.name == b.name) {
        let name = &state[0].name;
        let elements = state.iter().flat_map(|list| &list.elements);
        let total = elements.clone().count();
        for (at, share) in shares.iter_mut().enumerate() {
            let given: Vec<Blob> = match state[0].mode {
                ListMode::Split if is_same => {
                    let own = state.iter().filter(|list| list.subtask.0 as usize == at);
                    own.flat_map(|list| &list.elements).cloned().collect()
                }
                ListMode::Split => {
                    let (from, to) = (at * total / count, (at + 1) * total / count);
                    elements
                        .clone()
                        .skip(from)
                        .take(to - from)
                        .cloned()
                        .collect()
                }
                ListMode::Union => elements.clone().cloned().collect(),
                ListMode::Broadcast => state[at % state.len()].elements.clone(),
            };
            share.insert(name.clone(), given);
        }
    }
    shares
}
