//! The mailbox of a sink driver: output from the slot thread, control from the worker, in one order.
//!
//! Bounded by bytes on the side of output: the slot thread sees "full" and its task takes no input. Control letters are
//! few (one per checkpoint and answer) and always admitted. A lock is taken per chunk, never per record.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_connectors::{OutputBatch, WakeHandle};
use highwater_operators::{OperatorError, OutputQueue, SinkReport};
use highwater_protocol::head_write::Authority;
use highwater_types::{CheckpointBarrier, CheckpointId, Epoch};

/// Bytes of output that wait for the driver before the slot thread is held back.
const QUEUED_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// A letter of the worker to a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkControl {
    /// A checkpoint was triggered: its barrier is on the way.
    Expected,
    /// The checkpoint was given up.
    Declined(CheckpointId),
    /// A leader of this epoch goes on with the attempt, from this checkpoint in `head`.
    Adopted(Epoch, CheckpointId),
    /// Nobody leads the attempt.
    Unled,
    /// The checkpoint is complete in `head`: commit it.
    Commit(CheckpointId),
    /// The leader's word on this attempt.
    LeaderSays(Authority),
    /// Every slot has confirmed: records may be sent.
    Released,
    /// *Going back*: give the checkpoint up.
    WriteVoid(CheckpointId),
    /// The attempt is over: end without touching the outside.
    Close,
}

/// What a driver takes out.
#[derive(Debug)]
pub enum SinkLetter {
    /// Serialised output.
    Output(OutputBatch),
    /// A barrier, behind the output before it.
    Barrier(CheckpointId),
    /// From the worker.
    Control(SinkControl),
}

#[derive(Default)]
struct Inner {
    letters: VecDeque<SinkLetter>,
    queued_bytes: usize,
    held: bool,
    closed: bool,
    spare: Vec<OutputBatch>,
    wake: Option<WakeHandle>,
    /// What the driver told of itself last.
    report: SinkReport,
}

impl Inner {
    fn is_full(&self) -> bool {
        self.held || self.queued_bytes >= QUEUED_BYTES_MAX
    }
}

/// The mailbox. Cheap to clone: all clones are the same.
#[derive(Clone, Default)]
pub struct SinkMailbox(Arc<(Mutex<Inner>, Condvar)>);

impl SinkMailbox {
    /// An empty mailbox.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the queue whole, so a poisoned lock holds good data.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a control letter.
    pub fn control(&self, control: SinkControl) {
        let mut inner = self.lock();
        if control == SinkControl::Close {
            inner.closed = true;
        }
        inner.letters.push_back(SinkLetter::Control(control));
        self.0.1.notify_one();
    }

    /// The slot thread's end.
    pub fn queue(&self, wake: WakeHandle) -> Box<dyn OutputQueue> {
        self.lock().wake = Some(wake);
        Box::new(SlotEnd(self.clone()))
    }

    /// Takes the next letter, waiting at most `limit`, and shows `report` to the slot thread meanwhile.
    pub fn receive(&self, limit: Duration, report: &SinkReport) -> Option<SinkLetter> {
        let mut inner = self.lock();
        inner.report = *report;
        let waited = self
            .0
            .1
            .wait_timeout_while(inner, limit, |inner| inner.letters.is_empty());
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let letter = inner.letters.pop_front()?;
        if let SinkLetter::Output(batch) = &letter {
            let was_full = inner.is_full();
            inner.queued_bytes -= batch.bytes().len();
            Self::wake_if(&inner, was_full);
        }
        Some(letter)
    }

    /// Shows `report` to the slot thread: between two letters much may fail.
    pub fn show(&self, report: &SinkReport) {
        self.lock().report = *report;
    }

    /// Whether the attempt is over.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for `limit`, or until the attempt is over.
    pub fn rest(&self, limit: Duration) {
        let inner = self.lock();
        let waited = self
            .0
            .1
            .wait_timeout_while(inner, limit, |inner| !inner.closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Holds the slot thread back, or lets it go on: the spool is full, or has room again.
    pub fn hold(&self, held: bool) {
        let mut inner = self.lock();
        let was_full = inner.is_full();
        inner.held = held;
        Self::wake_if(&inner, was_full);
    }

    /// Gives the memory of a batch back.
    pub fn recycle(&self, mut batch: OutputBatch) {
        const SPARE_MAX: usize = 8;
        batch.clear();
        let mut inner = self.lock();
        if inner.spare.len() < SPARE_MAX {
            inner.spare.push(batch);
        }
    }

    fn wake_if(inner: &Inner, was_full: bool) {
        if was_full
            && !inner.is_full()
            && let Some(wake) = &inner.wake
        {
            wake.wake();
        }
    }
}

struct SlotEnd(SinkMailbox);

impl OutputQueue for SlotEnd {
    fn offer(&mut self, batch: &mut OutputBatch) -> Result<(), OperatorError> {
        let mut inner = self.0.lock();
        if inner.closed {
            return Err(OperatorError::Cancelled);
        }
        let next = inner.spare.pop().unwrap_or_default();
        let full = std::mem::replace(batch, next);
        inner.queued_bytes += full.bytes().len();
        inner.letters.push_back(SinkLetter::Output(full));
        self.0.0.1.notify_one();
        Ok(())
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        let mut inner = self.0.lock();
        if inner.closed {
            return Err(OperatorError::Cancelled);
        }
        inner.letters.push_back(SinkLetter::Barrier(barrier.id));
        self.0.0.1.notify_one();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.0.lock().is_full()
    }

    fn report(&self) -> Option<SinkReport> {
        Some(self.0.lock().report)
    }
}
