//! The shape of a job as the protocol sees it: tasks, operators, sinks, and what a task puts into a snapshot.
//!
//! Built by the coordinator from the execution graph at deployment. Nothing here knows how records flow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use highwater_types::{JobIdentity, MaxParallelism, OperatorUid, Parallelism, SubtaskIndex};
use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::head::SlotCounts;
use crate::manifest::{
    ExternalSink, FileEntry, HexBytes, KeyedFile, ListState, SlotOutput, StateSchema,
};
use crate::paths::RelativePath;
use crate::stop::SlotKey;

/// One subtask of one chain of operators, named by the first of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId {
    /// The first operator of the chain.
    pub vertex: OperatorUid,
    /// The subtask.
    pub subtask: SubtaskIndex,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vertex, self.subtask)
    }
}

/// What the protocol knows of a task.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TaskShape {
    /// The tasks that feed it; empty for a source.
    pub upstream: BTreeSet<TaskId>,
    /// The sink slots that it holds.
    pub slots: Vec<SlotKey>,
}

/// What the protocol knows of an operator with state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorShape {
    /// Subtasks.
    pub parallelism: Parallelism,
    /// Key groups.
    pub max_parallelism: MaxParallelism,
    /// The key; `None` = not keyed.
    pub key: Option<StateSchema>,
    /// The states.
    pub states: Vec<StateSchema>,
    /// What it does with its state: kind and settings that give the state its meaning.
    pub form: String,
}

/// What the protocol knows of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkShape {
    /// Subtasks.
    pub slots: u32,
    /// Where the output goes.
    pub external: ExternalSink,
}

/// The shape of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobShape {
    /// The job.
    pub identity: JobIdentity,
    /// The fingerprint of its graph.
    pub graph: ContentHash,
    /// Its tasks.
    pub tasks: BTreeMap<TaskId, TaskShape>,
    /// Its operators with state.
    pub operators: BTreeMap<OperatorUid, OperatorShape>,
    /// Its sources: each has an enumerator.
    pub sources: BTreeSet<OperatorUid>,
    /// Its exactly-once sinks.
    pub sinks: BTreeMap<OperatorUid, SinkShape>,
}

impl JobShape {
    /// The slots that the graph uses, for `head`.
    pub fn slot_counts(&self) -> SlotCounts {
        self.sinks
            .iter()
            .map(|(sink, shape)| (sink.clone(), shape.slots))
            .collect()
    }

    /// The task that holds a slot.
    pub fn holder(&self, slot: &SlotKey) -> Option<&TaskId> {
        self.tasks
            .iter()
            .find(|(_, task)| task.slots.contains(slot))
            .map(|(id, _)| id)
    }

    /// All slots of all sinks.
    pub fn slots(&self) -> impl Iterator<Item = SlotKey> {
        self.sinks.iter().flat_map(|(sink, shape)| {
            (0..shape.slots).map(|slot| SlotKey {
                sink: sink.clone(),
                slot,
            })
        })
    }

    /// The fingerprint of the execution: graph, tasks, slots and where output goes. An attempt that was deployed with another one is not
    /// continued by this leader.
    pub fn fingerprint(&self) -> ContentHash {
        let tasks = self
            .tasks
            .iter()
            .map(|(id, task)| (id, &task.upstream, &task.slots));
        let sinks = self.sinks.iter();
        let places = sinks.map(|(uid, sink)| (uid, &sink.external));
        let text = format!(
            "{} {:?} {:?}",
            self.graph,
            tasks.collect::<Vec<_>>(),
            places.collect::<Vec<_>>()
        );
        ContentHash::of(text.as_bytes())
    }

    /// Asserts that tasks and sinks agree.
    ///
    /// # Panics
    /// If a slot is held by none or by two tasks, or a task is fed by one that does not exist.
    pub fn assert_sound(&self) {
        let mut held: Vec<&SlotKey> = self.tasks.values().flat_map(|task| &task.slots).collect();
        held.sort();
        let mut all: Vec<SlotKey> = self.slots().collect();
        all.sort();
        assert!(
            held.into_iter().eq(all.iter()),
            "each sink slot has exactly one task"
        );
        for (id, task) in &self.tasks {
            let known = task.upstream.iter().all(|up| self.tasks.contains_key(up));
            assert!(known, "task {id} is fed by an unknown task");
        }
    }
}

/// What one task puts into a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskSnapshot {
    /// The files that its state refers to: of this try, or of the last completed checkpoint (L2).
    pub files: BTreeMap<RelativePath, FileEntry>,
    /// Keyed state.
    pub keyed: BTreeMap<OperatorUid, Vec<KeyedFile>>,
    /// List state.
    pub lists: BTreeMap<OperatorUid, Vec<ListState>>,
    /// The positions of its splits.
    pub splits: BTreeMap<OperatorUid, BTreeMap<String, HexBytes>>,
    /// The output of its sink slots.
    pub outputs: BTreeMap<SlotKey, SlotOutput>,
    /// The largest marker offset that its slots have seen, by sink.
    pub marker_offsets: BTreeMap<OperatorUid, u64>,
}

impl TaskSnapshot {
    /// Every object that the snapshot names: state files and sink logs.
    pub fn paths(&self) -> impl Iterator<Item = &RelativePath> {
        let logs = self.outputs.values().filter_map(|output| match output {
            SlotOutput::Log(parts) => Some(parts),
            SlotOutput::Empty => None,
        });
        self.files
            .keys()
            .chain(logs.flatten().map(|part| &part.path))
    }
}
