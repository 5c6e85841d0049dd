//! The collector: what user code emits through. Lent by an operator for one call; an error of the pieces behind is kept
//! and fails the operator when the call returns, so that user code need not handle what it cannot mend.

use highwater_types::{EventTime, Record};

use crate::error::OperatorError;
use crate::outputs::{OutputTag, Outputs};

/// Emits records with the event time of the record or timer that is being handled.
pub struct Collector<'a, Out> {
    out: &'a mut Outputs<Out>,
    time: EventTime,
    fault: Option<OperatorError>,
}

impl<'a, Out: Record> Collector<'a, Out> {
    /// A collector whose records get `time`.
    pub(crate) const fn new(out: &'a mut Outputs<Out>, time: EventTime) -> Self {
        Self {
            out,
            time,
            fault: None,
        }
    }

    /// The event time of what is being handled; `EventTime::NONE` when it has none.
    pub const fn time(&self) -> EventTime {
        self.time
    }

    /// Emits to the main output. A full chunk is passed on at once, so a record may give millions.
    #[inline]
    pub fn emit(&mut self, record: Out) {
        self.emit_at(record, self.time);
    }

    /// Emits to the main output with another event time.
    #[inline]
    pub fn emit_at(&mut self, record: Out, time: EventTime) {
        if self.fault.is_none()
            && let Err(fault) = self.out.emit(record, time)
        {
            self.fault = Some(fault);
        }
    }

    /// Emits to a side output. Without a receiver for the tag the record is dropped.
    pub fn emit_side<U: Record>(&mut self, tag: &OutputTag<U>, record: U) {
        if self.fault.is_none()
            && let Err(fault) = self.out.emit_side(tag, record, self.time)
        {
            self.fault = Some(fault);
        }
    }

    /// The first error of the pieces behind.
    pub(crate) fn finish(self) -> Result<(), OperatorError> {
        self.fault.map_or(Ok(()), Err)
    }
}
