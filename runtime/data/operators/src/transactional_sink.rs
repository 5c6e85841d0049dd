//! The slot-thread half of an exactly-once sink: serialises records once and hands them to the output queue.
//!
//! The other half, on a thread of its own, owns spool, transaction and log (`highwater-worker`). A barrier rides in the
//! queue behind the records before it, so the two halves agree on what belongs to checkpoint n.

use highwater_connectors::{Encoder, OutputBatch};
use highwater_metrics::Spans;
use highwater_types::{CheckpointBarrier, Chunk, Record};
use serde::{Deserialize, Serialize};

use crate::error::OperatorError;
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::Outputs;

/// What the half that owns the output target tells of itself, for metrics. Counts begin with the attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkReport {
    /// Sends and flushes that failed.
    pub send_errors: u64,
    /// How long flushes before an acknowledged barrier took.
    pub flushes: Spans,
    /// Transactions that are open outside: none or one.
    pub open_transactions: u64,
    /// Checkpoints whose output was confirmed after the order to commit it.
    pub commits: u64,
    /// Commits without a clear answer.
    pub commits_retried: u64,
    /// Outputs of a checkpoint that were sent again.
    pub republished: u64,
    /// From the orders to commit to the confirmed commits.
    pub commit_times: Spans,
    /// Records that are not confirmed yet.
    pub pending_records: u64,
    /// Their bytes.
    pub spool_bytes: u64,
    /// Whether there is no usable transaction, and output goes into spool and log only.
    pub is_dark: bool,
}

/// Where serialised output goes: a bounded queue to the thread that owns the output target.
pub trait OutputQueue {
    /// Hands a batch over; takes its content and leaves it empty. Never blocks and never drops: a full queue only says
    /// so through [`OutputQueue::is_full`], and the task takes no input meanwhile.
    fn offer(&mut self, batch: &mut OutputBatch) -> Result<(), OperatorError>;

    /// Hands a barrier over, behind every batch.
    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError>;

    /// Whether the queue holds as much as it may.
    fn is_full(&self) -> bool;

    /// What the other half has told of itself last; `None` = it tells nothing.
    fn report(&self) -> Option<SinkReport> {
        None
    }
}

/// The last operator in front of an exactly-once sink.
pub struct TransactionalSink<T> {
    name: String,
    encoder: Box<dyn Encoder<T>>,
    queue: Box<dyn OutputQueue>,
    batch: OutputBatch,
    offered: u64,
    offered_bytes: u64,
}

impl<T> TransactionalSink<T> {
    /// A sink operator that encodes into `queue`. `name` is shown when the queue holds the stream back.
    pub fn new(name: &str, encoder: Box<dyn Encoder<T>>, queue: Box<dyn OutputQueue>) -> Self {
        Self {
            name: name.to_owned(),
            encoder,
            queue,
            batch: OutputBatch::default(),
            offered: 0,
            offered_bytes: 0,
        }
    }
}

impl<T: Record> Operator<T, ()> for TransactionalSink<T> {
    fn on_chunk(&mut self, chunk: &mut Chunk<T>, _: &mut Outputs<()>) -> Result<(), OperatorError> {
        self.encoder.encode(chunk, &mut self.batch)?;
        self.offered += self.batch.count();
        self.offered_bytes += self.batch.bytes().len() as u64;
        if self.batch.is_empty() {
            Ok(())
        } else {
            self.queue.offer(&mut self.batch)
        }
    }

    fn on_end(&mut self, _: &mut Outputs<()>) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    fn snapshot_start(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.queue.barrier(barrier)
    }

    fn blocked(&self) -> Option<&str> {
        self.queue.is_full().then_some(self.name.as_str())
    }

    fn report(&self, report: &mut OperatorReport) {
        report.records_out = self.offered;
        report.bytes_out = self.offered_bytes;
        report.sink = self.queue.report();
    }
}
