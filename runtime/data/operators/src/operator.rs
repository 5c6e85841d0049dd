//! The operator: ordinary synchronous code that is called with chunks, watermarks and barriers, one at a time.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use highwater_state::{StateReport, StoreReport};
use highwater_time::LatenessSnapshot;
use highwater_types::{
    CheckpointBarrier, CheckpointId, Chunk, OperatorUid, ProcessingTime, Record, StreamStatus,
    Watermark,
};
use serde::{Deserialize, Serialize};

use crate::error::OperatorError;
use crate::hot_keys::HotKey;
use crate::lookup::LookupReport;
use crate::outputs::Outputs;
use crate::snapshot::{OperatorSnapshot, SnapshotStep};
use crate::transactional_sink::SinkReport;
use crate::user_metrics::UserMetric;

/// Whether a call did all its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "work that is not done must be resumed before the next input"]
pub enum Progress {
    /// Everything is done.
    Done,
    /// There is more: call again after other tasks of the slot had a turn, and before the next input.
    More,
    /// What is left comes from outside: call again, before the next input, when the wake handle was called. Until then a
    /// turn would find nothing to do.
    Waiting,
}

impl Progress {
    /// Done only when both are; waiting only when neither has more to do.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::More, _) | (_, Self::More) => Self::More,
            (Self::Waiting, _) | (_, Self::Waiting) => Self::Waiting,
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

/// The processing time of one task: set by its slot thread before each turn, read by its operators.
#[derive(Clone, Default)]
pub struct TaskClock {
    now: Rc<Cell<ProcessingTime>>,
    elapsed: Option<Rc<dyn Fn() -> Duration>>,
}

impl TaskClock {
    /// One that also measures: `elapsed` is the time since some instant and never goes back.
    pub fn measuring(elapsed: impl Fn() -> Duration + 'static) -> Self {
        Self {
            now: Rc::default(),
            elapsed: Some(Rc::new(elapsed)),
        }
    }

    /// The time of this turn.
    pub fn now(&self) -> ProcessingTime {
        self.now.get()
    }

    /// Sets the time of this turn.
    pub fn set(&self, now: ProcessingTime) {
        self.now.set(now);
    }

    /// The time since some instant, for figures only; always zero where nobody measures.
    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
            .as_ref()
            .map_or(Duration::ZERO, |elapsed| elapsed())
    }
}

impl fmt::Debug for TaskClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TaskClock").field(&self.now.get()).finish()
    }
}

/// What one operator subtask counts and holds, for metrics and the live view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorReport {
    /// The operator.
    pub uid: OperatorUid,
    /// Records taken since the attempt began.
    pub records_in: u64,
    /// Records emitted to the main output since the attempt began.
    pub records_out: u64,
    /// Chunks taken since the attempt began.
    pub chunks_in: u64,
    /// Bytes taken from an exchange.
    pub bytes_in: u64,
    /// Bytes sent over an exchange, or handed to the target of an exactly-once sink.
    pub bytes_out: u64,
    /// Records that came too late and were dropped or sent to a side output.
    pub records_late: u64,
    /// Entries of keyed state.
    pub state_entries: u64,
    /// Bytes of keyed state, as the budget counts them.
    pub state_bytes: u64,
    /// What each keyed state holds and did.
    pub states: Vec<StateReport>,
    /// What the local store behind the states takes; `None` = state is in memory only.
    pub store: Option<StoreReport>,
    /// Timers that wait; with a local store those of them that are in memory.
    pub timers: u64,
    /// Timers that fired since the attempt began, and keys whose window fired on time.
    pub timers_fired: u64,
    /// Requests in flight of an asynchronous lookup.
    pub in_flight: u64,
    /// What its requests did, if it is an asynchronous lookup.
    pub lookup: Option<LookupReport>,
    /// What its target did, if it is an exactly-once sink.
    pub sink: Option<SinkReport>,
    /// Keys with a large share of its last records, the largest first.
    pub hot_keys: Vec<HotKey>,
    /// What the job author measures in its function.
    pub user: Vec<UserMetric>,
    /// How late records were, where the operator judges event time.
    pub lateness: Option<LatenessSnapshot>,
    /// The side output that takes records that came too late; `None` = they are dropped.
    pub late_output: Option<String>,
}

impl OperatorReport {
    /// A report that counts nothing yet.
    pub const fn new(uid: OperatorUid) -> Self {
        Self {
            uid,
            records_in: 0,
            records_out: 0,
            chunks_in: 0,
            bytes_in: 0,
            bytes_out: 0,
            records_late: 0,
            state_entries: 0,
            state_bytes: 0,
            states: Vec::new(),
            store: None,
            timers: 0,
            timers_fired: 0,
            in_flight: 0,
            lookup: None,
            sink: None,
            hot_keys: Vec::new(),
            user: Vec::new(),
            lateness: None,
            late_output: None,
        }
    }
}

/// One logical step, one parallel instance.
///
/// Laws. `on_chunk` drains its chunk. An operator emits nothing behind a watermark that it has let pass, forwards none
/// itself (the link does, when `on_watermark` is done), and its state after `snapshot_start` at a barrier is that of
/// the records before the barrier, whatever `on_chunk` does before `snapshot_step` is done.
pub trait Operator<In, Out: Record> {
    /// Whether the operator keeps watermarks in order with records that it still holds (an asynchronous lookup) and
    /// forwards them itself with `Downstream::watermark` of its outputs. Otherwise its link forwards when `on_watermark` is done.
    const HOLDS_WATERMARKS: bool = false;

    /// Takes a chunk.
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError>;

    /// The event time of the input has reached `watermark`: fires what is due, in bounded portions.
    fn on_watermark(
        &mut self,
        _watermark: Watermark,
        _out: &mut Outputs<Out>,
    ) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    /// The input became idle or active. Its link forwards this, unless the operator holds watermarks: then the operator
    /// keeps it in order with them and forwards it itself.
    fn on_status(
        &mut self,
        _status: StreamStatus,
        _out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Called between chunks: fires processing-time timers that are due, collects finished asynchronous work, in
    /// bounded portions.
    fn on_turn(&mut self, _out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    /// When the next turn is needed at the latest, though no input may come.
    fn next_deadline(&self) -> Option<ProcessingTime> {
        None
    }

    /// How many further records the operator takes now. Asked of the head of a chain only.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// The input has ended, after the largest watermark: emits what is left. `Waiting` while asynchronous work is open.
    fn on_end(&mut self, _out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    /// A barrier: fixes the state that belongs to it, in time that does not depend on the size of the state.
    fn snapshot_start(&mut self, _barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Serialises a portion of the state that `snapshot_start` fixed.
    fn snapshot_step(&mut self) -> Result<SnapshotStep, OperatorError> {
        Ok(SnapshotStep::Whole(OperatorSnapshot::default()))
    }

    /// The open snapshot is not wanted any more.
    fn snapshot_abort(&mut self) {}

    /// Checkpoint `id` is complete.
    fn completed(&mut self, _id: CheckpointId) -> Result<(), OperatorError> {
        Ok(())
    }

    /// The receiver outside (a sink's target) takes nothing more for now; named so that a screen can tell.
    fn blocked(&self) -> Option<&str> {
        None
    }

    /// Fills in what this operator counts; what goes in and out is counted by the link.
    fn report(&self, _report: &mut OperatorReport) {}
}
