//! The bytes of a spool: serialised output since the last confirmed checkpoint, by position.
//!
//! The account (how much, what is full) is in the slot machine; this only keeps the batches. A range always begins and
//! ends between two batches, since the machine learns of output batch by batch.

use std::collections::VecDeque;

use highwater_connectors::OutputBatch;
use highwater_protocol::sink_slot::{Position, RecordRange};

/// Batches in order, each with the position of its first record.
#[derive(Debug, Default)]
pub struct SpoolBytes {
    batches: VecDeque<(Position, OutputBatch)>,
    end: Position,
}

impl SpoolBytes {
    /// Appends a batch.
    pub fn append(&mut self, batch: OutputBatch) {
        let at = self.end;
        self.end.record += batch.count();
        self.end.byte += batch.bytes().len() as u64;
        self.batches.push_back((at, batch));
    }

    /// The batches of a range.
    pub fn range(&self, range: RecordRange) -> impl Iterator<Item = &OutputBatch> {
        let within = move |at: &Position| range.start <= *at && *at < range.end;
        self.batches
            .iter()
            .filter(move |(at, _)| within(at))
            .map(|(_, batch)| batch)
    }

    /// Drops everything before `upto`; the dropped batches come back for their memory.
    pub fn release(&mut self, upto: Position) -> Vec<OutputBatch> {
        let mut released = Vec::new();
        while self.batches.front().is_some_and(|(at, _)| *at < upto) {
            released.extend(self.batches.pop_front().map(|(_, batch)| batch));
        }
        released
    }
}
