//! The sink contract: an encoder on the slot thread, an output target on a thread of its own.
//!
//! An exactly-once sink is two things: an [`Encoder`] that turns records into bytes once, and an [`OutputTarget`] that
//! can open sessions, send, and end a transaction together with a marker. Which of these calls is made when is decided
//! by the slot machine of `highwater-protocol`; a target decides nothing and retries nothing by itself.

use highwater_types::{
    Chunk, ErrorKind, Guarantee, JobIdentity, Lineage, OperatorUid, Parallelism, Record,
    SubtaskIndex,
};

use crate::error::ConnectorError;
use crate::output::OutputBatch;
use highwater_types::Classified;

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

    /// The writer of one subtask, built on its slot thread.
    fn writer(&self, context: &WriterContext) -> Result<SinkWriter<Self::Record>, ConnectorError>;

    /// The target of one slot, used on a thread of its own; also for a slot that no longer has a subtask, to confirm or
    /// give up its output. Must not touch the outside before `open_session`.
    ///
    /// `None` for sinks whose writer is direct.
    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError>;
}

/// The two shapes of a writer.
pub enum SinkWriter<T> {
    /// Writes at once; repeated after a failure.
    Direct(Box<dyn DirectWriter<T>>),
    /// Serialises for the output target; output becomes visible with its checkpoint.
    Transactional(Box<dyn Encoder<T>>),
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

/// The committed markers of one slot, as a session found them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerReading {
    /// Names the place of the markers: another name than the manifest's means that the place was replaced.
    pub place: String,
    /// The first position that the place still holds.
    pub start: MarkerPosition,
    /// One past the last position that was read: where the sync record of this session stands, or beyond.
    pub end: MarkerPosition,
    /// The committed markers of this slot from the position asked for on, in order: checkpoint number and kind.
    pub markers: Vec<(u64, MarkerKind)>,
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

impl TargetError {
    /// An unclear answer, or a refusal when no further try can help: a missing permission, not a directory.
    pub fn unclear(cause: ConnectorError) -> Self {
        match cause.kind() {
            ErrorKind::Invalid => Self::Refused(cause),
            _ => Self::Unclear(cause),
        }
    }

    /// A lost session, or a refusal when no further session can help.
    pub fn session_lost(cause: ConnectorError) -> Self {
        match cause.kind() {
            ErrorKind::Invalid => Self::Refused(cause),
            _ => Self::SessionLost(cause),
        }
    }
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

/// Names the outside system and the place of its markers. Kept in the manifest and compared at recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalIdentity {
    /// The system, such as a cluster id or a directory's own id.
    pub system: String,
    /// The place of the markers, such as a topic id.
    pub markers: String,
    /// Where in the system the output goes, such as a topic; empty = the system names it already.
    pub output: String,
}

/// What a checkpoint says about the place of the markers. A place that is made anew under an old name has forgotten what is
/// committed, so it is made once only: before the first checkpoint that names it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum KnownMarkers {
    /// No checkpoint names a place: it may be made.
    #[default]
    Unnamed,
    /// A checkpoint names this place in this system. In another system, where the sink has moved to, one may be made.
    In {
        /// As [`ExternalIdentity::system`].
        system: String,
        /// As [`ExternalIdentity::markers`].
        place: String,
    },
    /// It exists, and it is this one if it is named: it is never made.
    Made(Option<String>),
}

/// Which place of markers a target must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequiredMarkers<'a> {
    /// None: one may be made.
    MayBeMade,
    /// One that is there, whichever it is.
    Any,
    /// This one.
    This(&'a str),
}

impl KnownMarkers {
    /// What must be found in the system of the target, which is asked for only if it matters.
    pub fn required_in<E>(
        &self,
        system: impl FnOnce() -> Result<String, E>,
    ) -> Result<RequiredMarkers<'_>, E> {
        Ok(match self {
            Self::In { system: of, place } if *of == system()? => RequiredMarkers::This(place),
            Self::Unnamed | Self::In { .. } => RequiredMarkers::MayBeMade,
            Self::Made(Some(place)) => RequiredMarkers::This(place),
            Self::Made(None) => RequiredMarkers::Any,
        })
    }
}

/// One slot's door to the outside. All calls block and are made from one thread.
///
/// Laws. (1) When `open_session` has returned, no earlier session of this slot, in any process, can make anything
/// visible any more. (2) `read_markers` sees every marker that was committed before the session was opened; to that end
/// it reads up to what `write_sync` wrote in this session. (3) `commit` makes output and marker visible together or not
/// at all, and returns `Ok` only when they are. (4) Nothing sent is visible to a reader of committed data before
/// `commit`. (5) Every session starts a new producer epoch: a late copy of an old `commit` cannot end a newer
/// transaction. (6) A place of markers that `expect_markers` requires is never made: if it is not there, or is another
/// one, `identity` and `open_session` answer `MarkerLost`.
pub trait OutputTarget: Send {
    /// Told before everything else: what is known of the place of the markers.
    fn expect_markers(&mut self, known: KnownMarkers);

    /// The outside system. May be called before `open_session`.
    fn identity(&mut self) -> Result<ExternalIdentity, TargetError>;

    /// A position at or before every marker that is not yet known; may be called before `open_session`.
    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError>;

    /// Opens a new session and ends every earlier one of this slot, with its transaction.
    fn open_session(&mut self) -> Result<(), TargetError>;

    /// Writes a record behind every marker of earlier sessions, durably.
    fn write_sync(&mut self) -> Result<(), TargetError>;

    /// Reads the committed markers of this slot from `from` up to the sync record.
    fn read_markers(&mut self, from: MarkerPosition) -> Result<MarkerReading, TargetError>;

    /// Starts a transaction.
    fn begin(&mut self) -> Result<(), TargetError>;

    /// Sends records into the open transaction.
    fn send(&mut self, batch: &OutputBatch) -> Result<(), TargetError>;

    /// Everything sent has arrived when this returns.
    fn flush(&mut self) -> Result<(), TargetError>;

    /// Writes the marker into the open transaction and ends it. Returns a position at or behind the marker.
    fn commit(&mut self, marker: Marker) -> Result<MarkerPosition, TargetError>;

    /// Gives the open transaction up.
    fn abort(&mut self) -> Result<(), TargetError>;
}
