//! What one operator subtask puts into a checkpoint, and gets back from one.

/// How list state is dealt out when the parallelism changes.
///
/// Source: Flink operator state, `getListState` and `getUnionListState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Redistribution {
    /// The concatenated list is split evenly, in order.
    Split,
    /// Every subtask gets the whole list.
    Union,
}

/// One named list of opaque items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListStateSnapshot {
    /// The name, unique within the operator.
    pub name: String,
    /// How it is dealt out.
    pub redistribution: Redistribution,
    /// The items, encoded by the operator.
    pub items: Vec<Vec<u8>>,
}

/// The state of one operator subtask at a barrier. Empty for a stateless one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorSnapshot {
    /// Keyed state with timers: snapshot files in the format of `highwater-state`, self-describing and checksummed.
    pub keyed: Vec<Vec<u8>>,
    /// Operator state.
    pub lists: Vec<ListStateSnapshot>,
}

impl OperatorSnapshot {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.lists.is_empty()
    }

    /// The items of a named list, or none.
    pub fn list(&self, name: &str) -> &[Vec<u8>] {
        self.lists
            .iter()
            .find(|list| list.name == name)
            .map_or(&[], |list| &list.items)
    }
}

/// What one portion of a snapshot came to.
#[derive(Debug)]
pub enum SnapshotStep {
    /// The snapshot is whole.
    Whole(OperatorSnapshot),
    /// There is more to do: call again at the next turn.
    More,
    /// Another thread works on it and wakes this one when it is done: a call before that does nothing.
    Waits,
}
