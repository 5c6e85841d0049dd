//! The sink contract: an encoder on the slot thread, an output target on a thread of its own.
//!
//! An exactly-once sink is two things: an [`Encoder`] that turns records into bytes once, and an [`OutputTarget`] that
//! can open sessions, send, and end a transaction together with a marker. Which of these calls is made when is decided
//! by the slot machine of `highwater-protocol`; a target decides nothing and retries nothing by itself.

use highwater_types::{
    Chunk, ErrorKind, JobIdentity, Lineage, OperatorUid, Parallelism, Record, SubtaskIndex,
};

use crate::error::ConnectorError;
use crate::output::OutputBatch;
use highwater_types::Classified;

/// What the outside sees of a sink's output after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// Output may be lost.
    AtMostOnce,
    /// Output may be repeated.
    AtLeastOnce,
    /// Output appears exactly once.
    ExactlyOnce,
}

/// What a plan shows of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkFacts {
    /// The kind of connector, such as `kafka`.
    pub connector: &'static str,
    /// What it writes, such as `topic fraud_alerts`.
    pub object: String,
    /// What the outside sees after failures.
    pub guarantee: Guarantee,
}

/// Where a writer runs, and under which names it writes.
#[derive(Clone, Debug)]
pub struct WriterContext {
    /// The job.
    pub job: JobIdentity,
    /// The lineage: a part of every name that the outside sees.
    pub lineage: Lineage,
    /// The sink operator.
    pub uid: OperatorUid,
    /// The slot: which subtask.
    pub subtask: SubtaskIndex,
    /// How many subtasks there are.
    pub parallelism: Parallelism,
}

/// A sink as the job author describes it.
pub trait Sink: Send + Sync + 'static {
    /// What it writes.
    type Record: Record;

    /// What a plan shows.
    fn facts(&self) -> SinkFacts;

    /// The writer of one subtask.
    fn writer(&self, context: &WriterContext) -> Result<SinkWriter<Self::Record>, ConnectorError>;

    /// The target of one slot alone: to confirm or give up output of a slot that no longer has a subtask.
    ///
    /// `None` for sinks that are not exactly-once.
    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError>;
}

/// The two shapes of a writer.
pub enum SinkWriter<T> {
    /// Writes at once; repeated after a failure.
    Direct(Box<dyn DirectWriter<T>>),
    /// Output becomes visible with its checkpoint.
    Transactional {
        /// Serialises on the slot thread.
        encoder: Box<dyn Encoder<T>>,
        /// Writes on a thread of its own.
        target: Box<dyn OutputTarget>,
    },
}

/// Writes records at once, on the slot thread. Must not block for long.
pub trait DirectWriter<T> {
    /// Writes and drains the chunk.
    fn write(&mut self, chunk: &mut Chunk<T>) -> Result<(), ConnectorError>;

    /// Everything written so far is safe outside when this returns. Called at every barrier and at the end.
    fn flush(&mut self) -> Result<(), ConnectorError>;
}

/// Serialises records on the slot thread.
pub trait Encoder<T> {
    /// Appends every record of the chunk to `out` and drains the chunk.
    fn encode(&mut self, chunk: &mut Chunk<T>, out: &mut OutputBatch)
    -> Result<(), ConnectorError>;
}

/// What a committed marker says about the output of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerKind {
    /// The output is visible.
    Output,
    /// The output was given up and will never be visible.
    Void,
}

/// A marker: rides in the transaction that holds the output of checkpoint `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The checkpoint number.
    pub number: u64,
    /// What it says.
    pub kind: MarkerKind,
    /// The epoch of the writer.
    pub epoch: u64,
    /// The attempt of the writer.
    pub attempt: u64,
}

/// A position in the place where markers are kept; the target's own meaning, e.g. an offset. Kept in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct MarkerPosition(pub u64);

/// What a session found out about checkpoint n of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerReading {
    /// The output is visible.
    Output,
    /// The output was given up.
    Void,
    /// There is no marker: neither visible nor given up.
    Missing,
    /// A marker of a later checkpoint than n is there: the state is behind the output.
    Later(u64),
}

/// Why a target call failed, by what the slot machine must do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The session is over: fenced, timed out, or the transaction is gone. Nothing is known about a commit in flight.
    #[error("the session is lost")]
    SessionLost(#[source] ConnectorError),
    /// The call may or may not have taken effect.
    #[error("the answer is unclear")]
    Unclear(#[source] ConnectorError),
    /// The target refuses a record for good; retrying cannot help.
    #[error("the record is refused")]
    Refused(#[source] ConnectorError),
    /// The place of the markers was replaced or cut: nothing can be decided.
    #[error("the markers are lost")]
    MarkerLost(#[source] ConnectorError),
}

impl Classified for TargetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::SessionLost(_) | Self::Unclear(_) => ErrorKind::Transient,
            Self::Refused(_) => ErrorKind::Invalid,
            Self::MarkerLost(_) => ErrorKind::Corrupt,
        }
    }
}

/// One slot's door to the outside. All calls block and are made from one thread.
///
/// Laws. (1) When `open_session` has returned, no earlier session of this slot, in any process, can make anything
/// visible any more. (2) `read_marker` sees every marker that was committed before the session was opened. (3) `commit`
/// makes output and marker visible together or not at all, and returns `Ok` only when they are. (4) Nothing sent is
/// visible to a reader of committed data before `commit`.
pub trait OutputTarget: Send {
    /// Opens a new session and ends every earlier one of this slot.
    fn open_session(&mut self) -> Result<(), TargetError>;

    /// In this session: what is known about checkpoint `number`, reading markers on from `from`.
    fn read_marker(
        &mut self,
        number: u64,
        from: MarkerPosition,
    ) -> Result<MarkerReading, TargetError>;

    /// Starts a transaction.
    fn begin(&mut self) -> Result<(), TargetError>;

    /// Sends records into the open transaction.
    fn send(&mut self, batch: &OutputBatch) -> Result<(), TargetError>;

    /// Everything sent has arrived when this returns.
    fn flush(&mut self) -> Result<(), TargetError>;

    /// Writes the marker into the open transaction and ends it.
    fn commit(&mut self, marker: Marker) -> Result<(), TargetError>;

    /// Gives the open transaction up.
    fn abort(&mut self) -> Result<(), TargetError>;

    /// A position at or before every marker that is not known yet; goes into the manifest as `from`.
    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError>;

    /// Names the outside system and the place of its markers, such as cluster id and topic id. Compared at recovery.
    fn identity(&mut self) -> Result<String, TargetError>;
}
