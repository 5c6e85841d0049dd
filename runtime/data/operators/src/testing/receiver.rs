//! What stands behind an operator in the harness: keeps every element in the order of arrival.

use std::cell::RefCell;
use std::rc::Rc;

use highwater_types::{
    CheckpointBarrier, CheckpointId, Chunk, EventTime, KeyHash, ProcessingTime, Record,
    StreamStatus, Watermark,
};

use crate::chain::{Collected, Downstream, Push};
use crate::error::OperatorError;
use crate::operator::{OperatorReport, Progress};
use crate::outputs::{OutputTag, Port, SidePort};
use crate::snapshot::Gathering;

/// One element that left an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HarnessElement<T> {
    /// A record with its event time.
    Record(T, EventTime),
    /// A watermark.
    Watermark(Watermark),
    /// Idleness.
    Status(StreamStatus),
    /// A barrier.
    Barrier(CheckpointId),
    /// The end of input.
    End,
}

/// What a receiver has seen.
pub(super) struct Received<T> {
    pub(super) elements: Vec<HarnessElement<T>>,
    pub(super) hashes: Vec<KeyHash>,
    pub(super) largest_chunk: usize,
    /// Says that it has no room. It keeps what comes all the same, as a channel does.
    pub(super) full: bool,
}

/// Keeps elements; clones share them.
pub(super) struct Receiver<T>(pub(super) Rc<RefCell<Received<T>>>);

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: Record> Receiver<T> {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(Received {
            elements: Vec::new(),
            hashes: Vec::new(),
            largest_chunk: 0,
            full: false,
        })))
    }

    pub(super) fn port(&self) -> Port<T> {
        let target: Box<dyn Push<T>> = Box::new(self.clone());
        Port::new(vec![target])
    }

    fn keep(&self, element: HarnessElement<T>) {
        self.0.borrow_mut().elements.push(element);
    }

    /// Takes what has arrived.
    pub(super) fn take(&self) -> Vec<HarnessElement<T>> {
        std::mem::take(&mut self.0.borrow_mut().elements)
    }
}

/// The records among elements.
pub(super) fn records<T>(elements: Vec<HarnessElement<T>>) -> Vec<(T, EventTime)> {
    let record = |element| match element {
        HarnessElement::Record(record, time) => Some((record, time)),
        _ => None,
    };
    elements.into_iter().filter_map(record).collect()
}

impl<T: Record> Push<T> for Receiver<T> {
    fn push(&mut self, chunk: &mut Chunk<T>) -> Result<(), OperatorError> {
        let mut received = self.0.borrow_mut();
        received.largest_chunk = received.largest_chunk.max(chunk.len());
        received.hashes.extend_from_slice(chunk.hashes());
        let arrived = chunk
            .drain()
            .map(|(record, time, _)| HarnessElement::Record(record, time));
        received.elements.extend(arrived);
        Ok(())
    }
}

impl<T: Record> Downstream for Receiver<T> {
    fn watermark(&mut self, watermark: Watermark) -> Result<Progress, OperatorError> {
        self.keep(HarnessElement::Watermark(watermark));
        Ok(Progress::Done)
    }

    fn status(&mut self, status: StreamStatus) -> Result<(), OperatorError> {
        self.keep(HarnessElement::Status(status));
        Ok(())
    }

    fn end(&mut self) -> Result<Progress, OperatorError> {
        self.keep(HarnessElement::End);
        Ok(Progress::Done)
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.keep(HarnessElement::Barrier(barrier.id));
        Ok(())
    }

    fn turn(&mut self) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    fn collect(&mut self, _into: &mut Collected) -> Result<Gathering, OperatorError> {
        Ok(Gathering::Done)
    }

    fn abort(&mut self) {}

    fn completed(&mut self, _id: CheckpointId) -> Result<(), OperatorError> {
        Ok(())
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        None
    }

    fn blocked(&self) -> Option<&str> {
        self.0.borrow().full.then_some("receiver")
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn report(&self, _into: &mut Vec<OperatorReport>) {}
}

/// Keeps the records of one side output.
pub struct SideReceiver<T> {
    tag: OutputTag<T>,
    receiver: Receiver<T>,
}

impl<T: Record> SideReceiver<T> {
    /// A receiver for the side output `tag`; hand its port to the harness before the operator is built.
    pub fn new(tag: &OutputTag<T>) -> Self {
        Self {
            tag: tag.clone(),
            receiver: Receiver::new(),
        }
    }

    /// The port that leads here.
    pub fn port(&self) -> (String, Box<dyn SidePort>) {
        let port: Box<dyn SidePort> = Box::new(self.receiver.port());
        (self.tag.name().to_owned(), port)
    }

    /// Takes the records that have arrived.
    pub fn take(&self) -> Vec<(T, EventTime)> {
        records(self.receiver.take())
    }
}
