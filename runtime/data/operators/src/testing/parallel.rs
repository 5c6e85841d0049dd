//! Several subtasks of one operator side by side.

use highwater_types::{EventTime, Key, MaxParallelism, Parallelism, ProcessingTime, Record};

use super::deal::deal;
use super::harness::{Harness, HarnessSetup};
use super::receiver::SideReceiver;
use crate::context::OperatorContext;
use crate::error::OperatorError;
use crate::operator::Operator;
use crate::outputs::OutputTag;
use crate::snapshot::OperatorSnapshot;

/// All subtasks of one keyed operator: records go to the subtask that owns their key group.
pub struct ParallelHarness<In, Out, Side> {
    subtasks: Vec<Harness<In, Out>>,
    sides: Vec<SideReceiver<Side>>,
    max_parallelism: MaxParallelism,
}

impl<In: Record, Out: Record, Side: Record> ParallelHarness<In, Out, Side> {
    /// `parallelism` subtasks, each made by `build`, restored from the snapshots of all old subtasks where there are any.
    pub fn new<O, B>(
        parallelism: u32,
        now: ProcessingTime,
        side: &OutputTag<Side>,
        restored: Option<&[OperatorSnapshot]>,
        mut build: B,
    ) -> Self
    where
        O: Operator<In, Out> + 'static,
        B: FnMut(OperatorContext) -> Result<O, OperatorError>,
    {
        let shares = restored.map(|old| deal(old, parallelism));
        let max_parallelism = MaxParallelism::DEFAULT;
        let mut all = Self {
            subtasks: Vec::new(),
            sides: Vec::new(),
            max_parallelism,
        };
        for subtask in 0..parallelism {
            let receiver = SideReceiver::new(side);
            let setup = HarnessSetup {
                subtask,
                parallelism,
                max_parallelism,
                now,
                restored: shares
                    .as_ref()
                    .map(|shares| shares[subtask as usize].clone()),
                sides: vec![receiver.port()],
                ..HarnessSetup::default()
            };
            all.subtasks.push(Harness::new(setup, &mut build));
            all.sides.push(receiver);
        }
        all
    }

    /// Pushes a record to the subtask that owns its key.
    pub fn push<K: Key>(&mut self, record: In, time: EventTime, key_of: impl Fn(&In) -> K) {
        let group = key_of(&record).key_hash().group(self.max_parallelism);
        let parallelism = Parallelism(self.subtasks.len() as u32);
        let owner = self.max_parallelism.owner(group, parallelism);
        self.subtasks[owner.0 as usize].push_keyed([(record, time)], key_of);
    }

    /// Moves the event time of every subtask.
    pub fn watermark(&mut self, millis: i64) {
        for subtask in &mut self.subtasks {
            subtask.watermark(millis);
        }
    }

    /// Sets the processing time of every subtask.
    pub fn processing_time(&mut self, millis: i64) {
        for subtask in &mut self.subtasks {
            subtask.processing_time(millis);
        }
    }

    /// The snapshots of all subtasks.
    pub fn snapshot(&mut self) -> Vec<OperatorSnapshot> {
        self.subtasks.iter_mut().map(Harness::snapshot).collect()
    }

    /// Takes the records of the main outputs, subtask by subtask.
    pub fn take_output(&mut self) -> Vec<(Out, EventTime)> {
        self.subtasks
            .iter_mut()
            .flat_map(Harness::take_output)
            .collect()
    }

    /// Takes the records of the side outputs, subtask by subtask.
    pub fn take_side(&mut self) -> Vec<(Side, EventTime)> {
        self.sides.iter().flat_map(SideReceiver::take).collect()
    }

    /// The subtasks, to drive one alone.
    pub fn subtasks(&mut self) -> &mut [Harness<In, Out>] {
        &mut self.subtasks
    }
}
