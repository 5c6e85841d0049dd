//! Chains: how a chunk and the control elements between chunks pass from one operator to the next by call.

use std::marker::PhantomData;

use highwater_types::{
    CheckpointBarrier, CheckpointId, Chunk, OperatorUid, ProcessingTime, Record, StreamStatus,
    Watermark,
};

use crate::error::OperatorError;
use crate::hot_keys::HotKeys;
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::Outputs;
use crate::snapshot::{OperatorSnapshot, SnapshotStep};

/// Snapshots of a chain that are whole.
pub type Collected = Vec<(OperatorUid, OperatorSnapshot)>;

/// The untyped side of a piece of chain: everything that travels between chunks.
///
/// Law: elements are handled in the order of the calls. After a call that returned `More`, `turn` is called until it
/// returns `Done`, before any further `push`, `watermark`, `end` or `barrier`.
pub trait Downstream {
    /// The event time has reached `watermark`.
    fn watermark(&mut self, watermark: Watermark) -> Result<Progress, OperatorError>;
    /// The input became idle or active.
    fn status(&mut self, status: StreamStatus) -> Result<(), OperatorError>;
    /// The input has ended; the largest watermark came before.
    fn end(&mut self) -> Result<Progress, OperatorError>;
    /// A barrier: fixes all state behind this call and forwards it.
    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError>;
    /// A turn between chunks; goes on with unfinished work.
    fn turn(&mut self) -> Result<Progress, OperatorError>;
    /// Serialises a portion of every open snapshot; `Done` when all are in `into`.
    fn collect(&mut self, into: &mut Collected) -> Result<Progress, OperatorError>;
    /// Gives open snapshots up.
    fn abort(&mut self);
    /// Checkpoint `id` is complete.
    fn completed(&mut self, id: CheckpointId) -> Result<(), OperatorError>;
    /// The earliest time at which a turn is needed.
    fn next_deadline(&self) -> Option<ProcessingTime>;
    /// The name of a receiver behind this piece that takes nothing more for now.
    fn blocked(&self) -> Option<&str>;
    /// How many records the first operator takes now.
    fn room(&self) -> usize;
    /// Appends a report of every operator from here on.
    fn report(&self, into: &mut Vec<OperatorReport>);
    /// Bytes that this piece has sent over an exchange. Pieces behind it that are chained count for themselves.
    fn sent_bytes(&self) -> u64 {
        0
    }
}

/// The receiving side of a piece of chain: an operator with all that is behind it, or a writer into an exchange.
pub trait Push<T>: Downstream {
    /// Takes a chunk and drains it.
    fn push(&mut self, chunk: &mut Chunk<T>) -> Result<(), OperatorError>;
}

/// What the operator of a link still has to do before the link may take the next element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfinished {
    Nothing,
    Watermark(Watermark),
    End,
}

/// One operator joined to its outputs.
pub struct Link<In, Out, O> {
    uid: OperatorUid,
    input: PhantomData<fn(In)>,
    operator: O,
    outputs: Outputs<Out>,
    unfinished: Unfinished,
    snapshot_open: bool,
    records_in: u64,
    chunks_in: u64,
    hot_keys: HotKeys,
}

impl<In, Out: Record, O> Link<In, Out, O> {
    /// Joins `operator` to `outputs`.
    pub const fn new(uid: OperatorUid, operator: O, outputs: Outputs<Out>) -> Self {
        Self {
            uid,
            input: PhantomData,
            operator,
            outputs,
            unfinished: Unfinished::Nothing,
            snapshot_open: false,
            records_in: 0,
            chunks_in: 0,
            hot_keys: HotKeys::new(),
        }
    }

    fn assert_finished(&self) {
        let finished =
            self.unfinished == Unfinished::Nothing && self.outputs.behind() == Progress::Done;
        assert!(finished, "{}: input before the turn is done", self.uid);
    }
}

impl<In, Out: Record, O: Operator<In, Out>> Push<In> for Link<In, Out, O> {
    fn push(&mut self, chunk: &mut Chunk<In>) -> Result<(), OperatorError> {
        self.assert_finished();
        self.records_in += chunk.len() as u64;
        self.chunks_in += 1;
        if chunk.is_keyed() {
            self.hot_keys.on_chunk(chunk.hashes());
        }
        self.operator.on_chunk(chunk, &mut self.outputs)?;
        self.outputs.flush()
    }
}

impl<In, Out: Record, O: Operator<In, Out>> Downstream for Link<In, Out, O> {
    fn watermark(&mut self, watermark: Watermark) -> Result<Progress, OperatorError> {
        self.assert_finished();
        let own = self.operator.on_watermark(watermark, &mut self.outputs)?;
        self.outputs.flush()?;
        if own != Progress::Done {
            self.unfinished = Unfinished::Watermark(watermark);
            return Ok(own);
        }
        if O::HOLDS_WATERMARKS {
            return Ok(self.outputs.behind());
        }
        self.outputs.watermark(watermark)
    }

    fn status(&mut self, status: StreamStatus) -> Result<(), OperatorError> {
        self.operator.on_status(status, &mut self.outputs)?;
        if O::HOLDS_WATERMARKS {
            return Ok(());
        }
        self.outputs.status(status)
    }

    fn end(&mut self) -> Result<Progress, OperatorError> {
        self.assert_finished();
        let own = self.operator.on_end(&mut self.outputs)?;
        self.outputs.flush()?;
        if own != Progress::Done {
            self.unfinished = Unfinished::End;
            return Ok(own);
        }
        self.outputs.end()
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.assert_finished();
        self.operator.snapshot_start(barrier)?;
        self.snapshot_open = true;
        self.outputs.barrier(barrier)
    }

    fn turn(&mut self) -> Result<Progress, OperatorError> {
        let held = self.outputs.blocked().is_some();
        if held || self.outputs.behind() != Progress::Done {
            let behind = self.outputs.turn()?;
            if behind != Progress::Done {
                return Ok(behind);
            }
        }
        // Timers that fire into an output without room would pile up there, a slice with every turn.
        if held && self.outputs.blocked().is_some() {
            let is_unfinished = self.unfinished != Unfinished::Nothing;
            return Ok(if is_unfinished {
                Progress::Waiting
            } else {
                Progress::Done
            });
        }
        match std::mem::replace(&mut self.unfinished, Unfinished::Nothing) {
            Unfinished::Watermark(watermark) => self.watermark(watermark),
            Unfinished::End => self.end(),
            Unfinished::Nothing => {
                let own = self.operator.on_turn(&mut self.outputs)?;
                self.outputs.flush()?;
                Ok(own.and(self.outputs.turn()?))
            }
        }
    }

    fn collect(&mut self, into: &mut Collected) -> Result<Progress, OperatorError> {
        let mut gathering = Progress::Done;
        if self.snapshot_open {
            match self.operator.snapshot_step()? {
                SnapshotStep::Whole(snapshot) => {
                    self.snapshot_open = false;
                    into.push((self.uid.clone(), snapshot));
                }
                SnapshotStep::Waits => gathering = Progress::Waiting,
                SnapshotStep::More => gathering = Progress::More,
            }
        }
        Ok(gathering.and(self.outputs.collect(into)?))
    }

    fn abort(&mut self) {
        if std::mem::take(&mut self.snapshot_open) {
            self.operator.snapshot_abort();
        }
        self.outputs.abort();
    }

    fn completed(&mut self, id: CheckpointId) -> Result<(), OperatorError> {
        self.operator.completed(id)?;
        self.outputs.completed(id)
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        let behind = self.outputs.next_deadline();
        behind
            .into_iter()
            .chain(self.operator.next_deadline())
            .min()
    }

    fn blocked(&self) -> Option<&str> {
        self.operator.blocked().or_else(|| self.outputs.blocked())
    }

    fn room(&self) -> usize {
        self.operator.room()
    }

    fn report(&self, into: &mut Vec<OperatorReport>) {
        let mut report = OperatorReport::new(self.uid.clone());
        report.records_in = self.records_in;
        report.records_out = self.outputs.main.emitted();
        report.chunks_in = self.chunks_in;
        report.bytes_out = self.outputs.sent_bytes();
        report.hot_keys = self.hot_keys.report();
        self.operator.report(&mut report);
        into.push(report);
        self.outputs.report(into);
    }
}
