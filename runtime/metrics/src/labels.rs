//! Label sets: what tells one task, state or user metric from another.
//!
//! Label names are fixed by type. Values are ids that `types` has checked, numbers, or names that the job author chose;
//! none comes from data, so the number of series is bounded by the graph, and [`crate::MetricsRegistry`] caps it again.

use highwater_types::{OperatorUid, SubtaskIndex, WorkerIndex};

/// One label: name and value.
pub type Label = (&'static str, String);

/// The labels of a scope.
pub trait LabelSet {
    /// The label names, in the order of [`LabelSet::labels`].
    const NAMES: &'static [&'static str];

    /// The labels of this one, one for each name.
    fn labels(&self) -> Vec<Label>;
}

/// No labels: there is one of this in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLabels;

impl LabelSet for NoLabels {
    const NAMES: &'static [&'static str] = &[];

    fn labels(&self) -> Vec<Label> {
        Vec::new()
    }
}

/// One operator, all its subtasks together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorLabels {
    /// The operator.
    pub operator: OperatorUid,
}

impl LabelSet for OperatorLabels {
    const NAMES: &'static [&'static str] = &["operator"];

    fn labels(&self) -> Vec<Label> {
        vec![("operator", self.operator.to_string())]
    }
}

/// One subtask of an operator, or of the chain that the operator heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubtaskLabels {
    /// The operator.
    pub operator: OperatorUid,
    /// Which of its subtasks.
    pub subtask: SubtaskIndex,
}

impl LabelSet for SubtaskLabels {
    const NAMES: &'static [&'static str] = &["operator", "subtask"];

    fn labels(&self) -> Vec<Label> {
        vec![
            ("operator", self.operator.to_string()),
            ("subtask", self.subtask.to_string()),
        ]
    }
}

/// One state of one subtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLabels {
    /// The subtask that holds it.
    pub owner: SubtaskLabels,
    /// The name of the state.
    pub state: String,
}

impl LabelSet for StateLabels {
    const NAMES: &'static [&'static str] = &["operator", "subtask", "state"];

    fn labels(&self) -> Vec<Label> {
        let mut labels = self.owner.labels();
        labels.push(("state", self.state.clone()));
        labels
    }
}

/// A metric that the job author made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserLabels {
    /// The subtask whose function writes it.
    pub owner: SubtaskLabels,
    /// The name that the author gave it.
    pub name: String,
}

impl LabelSet for UserLabels {
    const NAMES: &'static [&'static str] = &["operator", "subtask", "name"];

    fn labels(&self) -> Vec<Label> {
        let mut labels = self.owner.labels();
        labels.push(("name", self.name.clone()));
        labels
    }
}

/// One of the keys that a subtask sees most of. The key itself is data and stays out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankLabels {
    /// The subtask that sees it.
    pub owner: SubtaskLabels,
    /// Its place among them, from 1.
    pub rank: u32,
}

impl LabelSet for RankLabels {
    const NAMES: &'static [&'static str] = &["operator", "subtask", "rank"];

    fn labels(&self) -> Vec<Label> {
        let mut labels = self.owner.labels();
        labels.push(("rank", self.rank.to_string()));
        labels
    }
}

/// Another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLabels {
    /// Its number.
    pub peer: WorkerIndex,
}

impl LabelSet for PeerLabels {
    const NAMES: &'static [&'static str] = &["peer"];

    fn labels(&self) -> Vec<Label> {
        vec![("peer", self.peer.to_string())]
    }
}
