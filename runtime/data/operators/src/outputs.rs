//! Outputs of an operator: one main port and any number of side ports, each with the pieces of chain behind it.
//!
//! A port collects records into one chunk and pushes it when it is full and at the end of each call, so a chunk is as
//! large as the load and nothing waits for a timer.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use highwater_types::{
    CheckpointBarrier, CheckpointId, Chunk, EventTime, KeyHash, ProcessingTime, Record,
    StreamStatus, Watermark,
};

use crate::chain::{Collected, Downstream, Push};
use crate::error::OperatorError;
use crate::operator::{OperatorReport, Progress};

/// Names a side output and its type. Two tags are the same output when name and type are.
///
/// Source: Flink `OutputTag`.
pub struct OutputTag<T> {
    name: String,
    of: PhantomData<fn() -> T>,
}

impl<T> OutputTag<T> {
    /// The tag with this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            of: PhantomData,
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<T> Clone for OutputTag<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            of: PhantomData,
        }
    }
}

impl<T> fmt::Debug for OutputTag<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutputTag({})", self.name)
    }
}

/// One output: a chunk being filled and the receivers behind it.
pub struct Port<T> {
    buffer: Chunk<T>,
    copy: Chunk<T>,
    targets: Vec<Box<dyn Push<T>>>,
    emitted: u64,
}

impl<T: Record> Port<T> {
    /// A port with these receivers. With none, records are counted and dropped.
    pub fn new(targets: Vec<Box<dyn Push<T>>>) -> Self {
        Self {
            buffer: Chunk::new(),
            copy: Chunk::new(),
            targets,
            emitted: 0,
        }
    }

    /// Emits a record.
    #[inline]
    pub fn emit(&mut self, record: T, time: EventTime) -> Result<(), OperatorError> {
        self.buffer.push(record, time);
        if self.buffer.is_full() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Emits a record of a keyed stream with its hash.
    #[inline]
    pub fn emit_keyed(
        &mut self,
        record: T,
        time: EventTime,
        hash: KeyHash,
    ) -> Result<(), OperatorError> {
        self.buffer.push_keyed(record, time, hash);
        if self.buffer.is_full() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Emits a whole chunk and drains it, after what was emitted before.
    pub fn emit_chunk(&mut self, chunk: &mut Chunk<T>) -> Result<(), OperatorError> {
        self.flush()?;
        self.emitted += chunk.len() as u64;
        Self::deliver(&mut self.targets, &mut self.copy, chunk)
    }

    /// Pushes what was collected.
    pub fn flush(&mut self) -> Result<(), OperatorError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.emitted += self.buffer.len() as u64;
        Self::deliver(&mut self.targets, &mut self.copy, &mut self.buffer)
    }

    /// How many records were emitted.
    pub const fn emitted(&self) -> u64 {
        self.emitted
    }

    fn deliver(
        targets: &mut [Box<dyn Push<T>>],
        copy: &mut Chunk<T>,
        chunk: &mut Chunk<T>,
    ) -> Result<(), OperatorError> {
        if let Some((last, others)) = targets.split_last_mut() {
            for target in others {
                copy.copy_from(chunk);
                target.push(copy)?;
                copy.clear();
            }
            last.push(chunk)?;
        }
        chunk.clear();
        Ok(())
    }
}

/// A port of any type: what control elements travel through.
pub trait SidePort: Downstream {
    /// For emission: the port itself.
    fn as_any(&mut self) -> &mut dyn Any;
    /// Pushes what was collected.
    fn flush(&mut self) -> Result<(), OperatorError>;
}

impl<T: Record> SidePort for Port<T> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn flush(&mut self) -> Result<(), OperatorError> {
        Self::flush(self)
    }
}

impl<T: Record> Downstream for Port<T> {
    fn watermark(&mut self, watermark: Watermark) -> Result<Progress, OperatorError> {
        each(&mut self.targets, |target| target.watermark(watermark))
    }

    fn status(&mut self, status: StreamStatus) -> Result<(), OperatorError> {
        self.targets
            .iter_mut()
            .try_for_each(|target| target.status(status))
    }

    fn end(&mut self) -> Result<Progress, OperatorError> {
        each(&mut self.targets, |target| target.end())
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.targets
            .iter_mut()
            .try_for_each(|target| target.barrier(barrier))
    }

    fn turn(&mut self) -> Result<Progress, OperatorError> {
        each(&mut self.targets, |target| target.turn())
    }

    fn collect(&mut self, into: &mut Collected) -> Result<Progress, OperatorError> {
        let mut gathering = Progress::Done;
        for target in &mut self.targets {
            gathering = gathering.and(target.collect(into)?);
        }
        Ok(gathering)
    }

    fn abort(&mut self) {
        self.targets.iter_mut().for_each(|target| target.abort());
    }

    fn completed(&mut self, id: CheckpointId) -> Result<(), OperatorError> {
        self.targets
            .iter_mut()
            .try_for_each(|target| target.completed(id))
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        self.targets
            .iter()
            .filter_map(|target| target.next_deadline())
            .min()
    }

    fn blocked(&self) -> Option<&str> {
        self.targets.iter().find_map(|target| target.blocked())
    }

    fn room(&self) -> usize {
        self.targets
            .iter()
            .map(|target| target.room())
            .min()
            .unwrap_or(usize::MAX)
    }

    fn report(&self, into: &mut Vec<OperatorReport>) {
        self.targets.iter().for_each(|target| target.report(into));
    }

    fn sent_bytes(&self) -> u64 {
        self.targets.iter().map(|target| target.sent_bytes()).sum()
    }
}

/// Calls every target, also when an earlier one has more to do.
fn each<T>(
    targets: &mut [Box<dyn Push<T>>],
    mut call: impl FnMut(&mut dyn Push<T>) -> Result<Progress, OperatorError>,
) -> Result<Progress, OperatorError> {
    let mut progress = Progress::Done;
    for target in targets {
        progress = progress.and(call(target.as_mut())?);
    }
    Ok(progress)
}

/// All outputs of one operator.
pub struct Outputs<T> {
    /// The main output.
    pub main: Port<T>,
    sides: Vec<(String, Box<dyn SidePort>)>,
    behind: Progress,
}

impl<T: Record> Outputs<T> {
    /// A main port and named side ports.
    pub fn new(main: Port<T>, sides: Vec<(String, Box<dyn SidePort>)>) -> Self {
        Self {
            main,
            sides,
            behind: Progress::Done,
        }
    }

    /// Emits a record to the main output.
    #[inline]
    pub fn emit(&mut self, record: T, time: EventTime) -> Result<(), OperatorError> {
        self.main.emit(record, time)
    }

    /// Emits a record to a side output. Without a receiver for the tag it is dropped, as in Flink.
    pub fn emit_side<U: Record>(
        &mut self,
        tag: &OutputTag<U>,
        record: U,
        time: EventTime,
    ) -> Result<(), OperatorError> {
        let Some((_, port)) = self.sides.iter_mut().find(|(name, _)| name == tag.name()) else {
            return Ok(());
        };
        let port = port.as_any().downcast_mut::<Port<U>>();
        port.expect("the plan checks that a tag has one type")
            .emit(record, time)
    }

    /// Pushes what every port has collected.
    pub fn flush(&mut self) -> Result<(), OperatorError> {
        self.each(|port| port.flush().map(|()| Progress::Done))
            .map(|_| ())
    }

    /// Whether the pieces behind have unfinished work.
    pub(crate) const fn behind(&self) -> Progress {
        self.behind
    }

    /// Calls every port, also when an earlier one has more to do.
    pub(crate) fn each(
        &mut self,
        mut call: impl FnMut(&mut dyn SidePort) -> Result<Progress, OperatorError>,
    ) -> Result<Progress, OperatorError> {
        let mut progress = call(&mut self.main)?;
        for (_, side) in &mut self.sides {
            progress = progress.and(call(side.as_mut())?);
        }
        Ok(progress)
    }

    /// Calls every port with something that has no progress.
    fn all(
        &mut self,
        mut call: impl FnMut(&mut dyn SidePort) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        self.each(|port| call(port).map(|()| Progress::Done))
            .map(|_| ())
    }

    /// Every port, to ask.
    fn ports(&self) -> impl Iterator<Item = &dyn SidePort> {
        let main: &dyn SidePort = &self.main;
        std::iter::once(main).chain(self.sides.iter().map(|(_, side)| side.as_ref()))
    }
}

/// What travels between chunks goes through every port.
impl<T: Record> Downstream for Outputs<T> {
    fn watermark(&mut self, watermark: Watermark) -> Result<Progress, OperatorError> {
        self.flush()?;
        self.behind = self.each(|port| port.watermark(watermark))?;
        Ok(self.behind)
    }

    fn status(&mut self, status: StreamStatus) -> Result<(), OperatorError> {
        self.flush()?;
        self.all(|port| port.status(status))
    }

    fn end(&mut self) -> Result<Progress, OperatorError> {
        self.flush()?;
        self.behind = self.each(|port| port.end())?;
        Ok(self.behind)
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.flush()?;
        self.all(|port| port.barrier(barrier))
    }

    fn turn(&mut self) -> Result<Progress, OperatorError> {
        self.flush()?;
        self.behind = self.each(|port| port.turn())?;
        Ok(self.behind)
    }

    fn collect(&mut self, into: &mut Collected) -> Result<Progress, OperatorError> {
        let mut gathering = self.main.collect(into)?;
        for (_, side) in &mut self.sides {
            gathering = gathering.and(side.collect(into)?);
        }
        Ok(gathering)
    }

    fn abort(&mut self) {
        self.main.abort();
        for (_, side) in &mut self.sides {
            side.abort();
        }
    }

    fn completed(&mut self, id: CheckpointId) -> Result<(), OperatorError> {
        self.all(|port| port.completed(id))
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        self.ports().filter_map(Downstream::next_deadline).min()
    }

    fn blocked(&self) -> Option<&str> {
        self.ports().find_map(|port| port.blocked())
    }

    fn room(&self) -> usize {
        self.ports()
            .map(Downstream::room)
            .min()
            .unwrap_or(usize::MAX)
    }

    fn report(&self, into: &mut Vec<OperatorReport>) {
        self.ports().for_each(|port| port.report(into));
    }

    fn sent_bytes(&self) -> u64 {
        self.ports().map(Downstream::sent_bytes).sum()
    }
}
