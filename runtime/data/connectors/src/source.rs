//! The source contract: an enumerator that finds splits, and readers that read them.
//!
//! The enumerator lives on the coordinator and never sees a record; a reader lives on one slot thread and never blocks
//! it. A split is in the state of exactly one of them: the coordinator sends an assignment and the barrier trigger
//! through one ordered mailbox, so a reader that got a split before barrier n holds it in its state of n (T-14).
//!
//! Source: FLIP-27.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;
use highwater_types::{
    Boundedness, CheckpointId, Chunk, JobIdentity, OperatorUid, Parallelism, Record, SubtaskIndex,
};
use serde::{Deserialize, Serialize};

use crate::dead_letter::DeadLetter;
use crate::error::ConnectorError;
use crate::intake::{BadInput, Origin};

/// What a plan shows of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// The kind of connector, such as `kafka`.
    pub connector: &'static str,
    /// What it reads, such as `topic payments.auth`.
    pub object: String,
    /// Whether it ends.
    pub boundedness: Boundedness,
}

/// One unit of input with the position to read from: what a checkpoint keeps of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// Names the split within its source, for ever.
    pub id: CompactString,
    /// Where to go on; the connector's own encoding.
    pub position: Vec<u8>,
}

/// What one discovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Splits not reported before, each with a resolved start position.
    pub splits: Vec<Split>,
    /// Whether no further split will ever come.
    pub complete: bool,
}

/// A source as the job author describes it: cloned to the coordinator and to every worker.
pub trait Source: Send + Sync + 'static {
    /// What it reads.
    type Record: Record;

    /// What a plan shows.
    fn facts(&self) -> SourceFacts;

    /// What it refuses, and what becomes of that. One that sets a future limit tells the [`SourceReader::origin`] too.
    fn bad_input(&self) -> BadInput {
        BadInput::FAIL
    }

    /// The split finder, for the coordinator.
    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError>;

    /// The reader of one subtask.
    fn reader(
        &self,
        context: &ReaderContext,
    ) -> Result<Box<dyn SourceReader<Self::Record>>, ConnectorError>;
}

/// Finds splits. Calls may block: the coordinator makes them off its event loop.
pub trait SplitEnumerator: Send {
    /// Goes back to a state that [`SplitEnumerator::snapshot`] returned. Called at most once, before any discovery.
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError>;

    /// Whether the outside still has these positions, which a checkpoint or savepoint holds: asked before a job goes on
    /// from it, and before anything is given up for it.
    ///
    /// # Errors
    /// `PositionLost`, naming the split, when one is gone for certain. A reader finds out the rest.
    fn check(&mut self, _splits: &[Split]) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Looks for splits. The first call of a lineage resolves the start positions: they are in checkpoint 0 before the
    /// first record flows.
    fn discover(&mut self) -> Result<Discovery, ConnectorError>;

    /// Everything reported so far, so that a restored enumerator reports no split twice.
    fn snapshot(&self) -> Vec<u8>;

    /// How often to look again; `None` = once is enough.
    fn interval(&self) -> Option<Duration>;
}

/// Wakes the slot thread of a reader when data arrives. Cheap to clone and to call.
#[derive(Clone)]
pub struct WakeHandle(Arc<dyn Fn() + Send + Sync>);

impl WakeHandle {
    /// A handle that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for WakeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WakeHandle")
    }
}

/// Where a reader runs.
#[derive(Clone, Debug)]
pub struct ReaderContext {
    /// The job.
    pub job: JobIdentity,
    /// The source operator.
    pub uid: OperatorUid,
    /// Which of its subtasks.
    pub subtask: SubtaskIndex,
    /// How many subtasks there are.
    pub parallelism: Parallelism,
    /// Wakes the slot thread when data arrives.
    pub wake: WakeHandle,
}

/// The number of a split within its reader, counted from 0 in the order of assignment; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SplitIndex(pub u32);

/// What one poll brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderPoll {
    /// Records (or dead letters) of this split were appended; there may be more.
    Records(SplitIndex),
    /// Nothing is there now; the reader calls the wake handle when that changes.
    Nothing,
    /// This split is read to its end.
    SplitEnded(SplitIndex),
    /// All splits are read and no further one will come.
    EndOfInput,
}

/// Where a reader puts what it read.
#[derive(Debug)]
pub struct SourceOutput<T> {
    /// Decoded records with their source timestamps (`EventTime::NONE` where the source has none).
    pub records: Chunk<T>,
    /// Records that could not be decoded, under the dead-letter policy.
    pub dead_letters: Chunk<DeadLetter>,
    /// How many records were dropped under the drop policy since the last look.
    pub dropped: u64,
}

impl<T> Default for SourceOutput<T> {
    fn default() -> Self {
        Self {
            records: Chunk::with_room(),
            dead_letters: Chunk::new(),
            dropped: 0,
        }
    }
}

/// What a reader can tell of its input, for metrics. `None` = it cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderFigures {
    /// Bytes that it has read since it was made.
    pub read_bytes: u64,
    /// Records between its positions and the ends of its splits.
    pub pending_records: Option<u64>,
    /// Bytes between its positions and the ends of its splits.
    pub pending_bytes: Option<u64>,
    /// Positions that were written back to a consumer group after a checkpoint.
    pub group_commits: u64,
    /// Positions that could not be written back.
    pub group_commits_failed: u64,
}

/// Reads splits on a slot thread.
///
/// Law: after `restore at snapshot()` the reader delivers exactly the records that it would have delivered next. A poll
/// never blocks and appends at most what a chunk holds, all of one split, in order.
pub trait SourceReader<T> {
    /// Takes splits to read, numbering them on from the last one.
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError>;

    /// No further split will be assigned.
    fn no_more_splits(&mut self);

    /// Reads on.
    fn poll(&mut self, out: &mut SourceOutput<T>) -> Result<ReaderPoll, ConnectorError>;

    /// Where record `at` of the last poll came from. Asked only behind that poll, for a record that is refused though
    /// it could be decoded: by a source that sets a future limit.
    fn origin(&self, at: usize) -> Result<Origin, ConnectorError> {
        unreachable!("record {at} is refused, but its source sets no future limit")
    }

    /// How many splits an open transaction of somebody holds back, for people. [`SourceReader::is_behind`] is true of them.
    fn held(&self) -> usize {
        0
    }

    /// What it can tell of its input. Asked a few times a second, on the slot thread.
    fn figures(&self) -> ReaderFigures {
        ReaderFigures::default()
    }

    /// The unfinished splits with the positions behind the last record that `poll` delivered.
    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError>;

    /// Checkpoint `id` is complete: positions of it may be told to the outside (T-25).
    fn checkpoint_completed(&mut self, id: CheckpointId) -> Result<(), ConnectorError>;

    /// Whether records of this split wait outside, be it behind an open transaction of somebody, or nobody knows yet
    /// whether any do. Such a split is not idle, however long it delivers nothing: event time must not pass what is still
    /// to be read (T-08).
    ///
    /// A reader whose `poll` itself looks outside has nothing to tell: what it has not seen is not there.
    fn is_behind(&self, _split: SplitIndex) -> bool {
        false
    }
}
