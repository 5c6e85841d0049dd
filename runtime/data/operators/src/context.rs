//! Where an operator subtask runs, and what it gets back from the last checkpoint.

use std::fmt;
use std::sync::Arc;

use highwater_connectors::WakeHandle;
use highwater_state::{MemoryBudget, Store};
use highwater_types::{
    JobIdentity, KeyGroupRange, MaxParallelism, OperatorUid, Parallelism, SubtaskIndex,
};

use crate::operator::TaskClock;
use crate::snapshot::RestoredOperator;

/// Handed to an operator when its chain is built on the slot thread.
#[derive(Clone)]
pub struct OperatorContext {
    /// The job.
    pub job: JobIdentity,
    /// The operator.
    pub uid: OperatorUid,
    /// Which of its subtasks.
    pub subtask: SubtaskIndex,
    /// How many subtasks there are.
    pub parallelism: Parallelism,
    /// How many key groups there are.
    pub max_parallelism: MaxParallelism,
    /// The processing time of each turn.
    pub clock: TaskClock,
    /// Wakes the slot thread, for asynchronous work that finished.
    pub wake: WakeHandle,
    /// The byte budget of keyed state, which all slots of the worker share.
    pub budget: MemoryBudget,
    /// Where keyed state rests.
    pub store: Store,
    /// Runs asynchronous work: the runtime at the rim.
    pub rim: tokio::runtime::Handle,
    /// The state of the last checkpoint: every keyed file that holds a group of this subtask, and its share of the
    /// lists. `None` = there was no checkpoint: a first start.
    pub restored: Option<RestoredOperator>,
    /// What happens to stored state that the operator does not open.
    pub unmatched: OnUnmatched,
}

/// Told of a state that is dropped: its name, and its rows where they were counted.
pub type TellDropped = dyn Fn(&str, Option<u64>) + Send + Sync;

/// What happens to stored state that an operator does not open.
#[derive(Clone, Default)]
pub enum OnUnmatched {
    /// The operator does not start.
    #[default]
    Refuse,
    /// It is dropped, because the user said so, and each is told.
    Drop(Arc<TellDropped>),
}

impl fmt::Debug for OnUnmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "Refuse",
            Self::Drop(_) => "Drop",
        })
    }
}

impl OperatorContext {
    /// The key groups of this subtask.
    pub const fn key_groups(&self) -> KeyGroupRange {
        self.max_parallelism.range(self.subtask, self.parallelism)
    }
}
