//! The account of a spool: positions of records and bytes since the last confirmed checkpoint.
//!
//! Called by [`super::SinkSlot`]; the bytes are with the driver. The rule: the account is exact, and a full spool holds
//! the input back, except for records that stand before a barrier which is on its way: without them the checkpoint that
//! would free the spool could never complete. That excess is what the channels hold at the trigger, which credits bound.

use super::Order;
use super::events::SlotEffect;

/// A place in the output of one attempt: records and bytes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// Records before it.
    pub record: u64,
    /// Bytes before it.
    pub byte: u64,
}

/// The records from `start` up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordRange {
    /// The first record.
    pub start: Position,
    /// The first record after them.
    pub end: Position,
}

impl RecordRange {
    /// How many records.
    pub const fn records(&self) -> u64 {
        self.end.record - self.start.record
    }
}

/// The account of a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    base: Position,
    end: Position,
    bytes_max: u64,
    holding: bool,
    requested: bool,
    expected: Option<Expected>,
}

/// A barrier on its way: of a checkpoint that is newer than the newest one that was known at its announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    after: Option<Order>,
}

impl Spool {
    pub(super) const fn new(bytes_max: u64) -> Self {
        let zero = Position { record: 0, byte: 0 };
        Self {
            base: zero,
            end: zero,
            bytes_max,
            holding: false,
            requested: false,
            expected: None,
        }
    }

    /// The first record that is not confirmed.
    pub const fn base(&self) -> Position {
        self.base
    }

    /// The place of the next record.
    pub const fn end(&self) -> Position {
        self.end
    }

    /// Bytes that are not confirmed.
    pub const fn bytes(&self) -> u64 {
        self.end.byte - self.base.byte
    }

    /// Whether everything is confirmed.
    pub fn is_empty(&self) -> bool {
        self.base == self.end
    }

    /// Whether the input is held back.
    pub const fn is_holding(&self) -> bool {
        self.holding
    }

    pub(super) fn append(&mut self, records: u32, bytes: u64) {
        assert!(records > 0, "an output has records");
        self.end.record += u64::from(records);
        self.end.byte += bytes;
    }

    pub(super) fn release(&mut self, upto: Position) {
        assert!(
            self.base <= upto && upto <= self.end,
            "the spool is released inside its bounds"
        );
        self.base = upto;
        self.requested = false;
    }

    /// A barrier is on its way, of a checkpoint newer than `newest`: the leader has one at a time on its way.
    pub(super) const fn expect_barrier(&mut self, newest: Option<Order>) {
        self.expected = Some(Expected { after: newest });
    }

    /// No barrier is on its way.
    pub(super) const fn expect_nothing(&mut self) {
        self.expected = None;
    }

    /// The barrier of this checkpoint has come, or will not be prepared any more. One that is older than the
    /// announcement settles nothing.
    pub(super) fn settle(&mut self, checkpoint: Order) {
        self.expected
            .take_if(|expected| expected.after < Some(checkpoint));
    }

    pub(super) fn balance(&mut self, effects: &mut Vec<SlotEffect>) {
        let used = self.bytes();
        if used >= self.bytes_max / 2 && !self.requested && used > 0 {
            self.requested = true;
            effects.push(SlotEffect::RequestCheckpoint);
        }
        let full = used >= self.bytes_max && self.expected.is_none();
        if full != self.holding {
            self.holding = full;
            effects.push(if full {
                SlotEffect::HoldInput
            } else {
                SlotEffect::ResumeInput
            });
        }
    }
}
