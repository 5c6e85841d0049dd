//! One task: a chain with its input, run in turns by a slot thread.
//!
//! A turn first finishes what the last one left, then the agenda (control elements in order), then takes input until
//! its time is over, an output is full or the input is empty, and at last gives the chain its own turn. A barrier is an
//! item of the agenda like a watermark: nothing overtakes it and it overtakes nothing.
//!
//! Channels stay open behind the end of input: barriers still travel through a chain that has ended, so the final
//! checkpoint of a bounded job is a checkpoint like any other.

use std::collections::VecDeque;
use std::time::Duration;

use highwater_connectors::Split;
use highwater_exchange::{InputGate, Step};
use highwater_operators::{
    Collected, Downstream, OperatorError, OperatorReport, Progress, SourceInput, SourcePoll,
    SourceReport,
};
use highwater_protocol::alignment::{Alignment, AlignmentEffect, AlignmentEvent, ChannelIndex};
use highwater_protocol::steps::Step as ProtocolStep;
use highwater_time::{SourceSignal, StatusValve, ValveOutput};
use highwater_types::{
    CheckpointBarrier, CheckpointId, ProcessingTime, StopMode, StreamStatus, Watermark,
};

use crate::clock::Clock;
use crate::loop_figures::LoopFigures;
use crate::pauses::Pauses;
use crate::shares::Waiting;
use crate::worker::StopHook;

/// How long a turn may take input before other tasks of the slot have theirs.
pub const TURN_LIMIT: Duration = Duration::from_micros(500);

/// A control element that waits for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Watermark(Watermark),
    Status(StreamStatus),
    End,
    Barrier(CheckpointBarrier),
}

/// Where a task takes its records from.
pub enum TaskInput {
    /// A reader.
    Source(Box<dyn SourceInput>),
    /// Channels from other tasks.
    Gate {
        /// The channels and the chain behind them.
        gate: Box<dyn InputGate>,
        /// The watermark of all channels.
        valve: StatusValve,
        /// The barriers of all channels.
        alignment: Alignment,
    },
}

impl TaskInput {
    fn head(&mut self) -> &mut dyn Downstream {
        match self {
            Self::Source(source) => source.head(),
            Self::Gate { gate, .. } => gate.head(),
        }
    }

    fn head_ref(&self) -> &dyn Downstream {
        match self {
            Self::Source(source) => source.head_ref(),
            Self::Gate { gate, .. } => gate.head_ref(),
        }
    }
}

/// What a task tells its worker.
#[derive(Debug)]
pub enum TaskEvent {
    /// The snapshot of a checkpoint is whole.
    Snapshot {
        /// The checkpoint.
        id: CheckpointId,
        /// The state of each operator of the chain.
        operators: Collected,
        /// The positions of a source.
        splits: Option<Vec<Split>>,
    },
    /// All input has ended and everything was emitted.
    Ended,
}

struct OpenSnapshot {
    id: CheckpointId,
    collected: Collected,
    gathering: Progress,
    splits: Option<Vec<Split>>,
}

/// A letter to one task.
#[derive(Debug)]
pub enum TaskLetter {
    /// To a source: emit this barrier behind everything read so far.
    Trigger(CheckpointBarrier),
    /// To a source: read these splits too; `complete` = no further one will come.
    Assign {
        /// The splits.
        splits: Vec<Split>,
        /// Whether they are the last.
        complete: bool,
    },
    /// Checkpoint `id` is complete.
    Completed(CheckpointId),
    /// Checkpoint `id` is given up.
    Aborted(CheckpointId),
    /// To a source: the stop was given up, read on.
    Resume,
    /// The worker heard of a checkpoint at this time of its clock: barriers of it are on their way.
    Expected {
        /// The checkpoint.
        id: CheckpointId,
        /// When.
        at: Duration,
    },
}

/// One task.
pub struct Task {
    input: TaskInput,
    agenda: VecDeque<Control>,
    snapshot: Option<OpenSnapshot>,
    pauses: Pauses,
    reading: Reading,
    watermark: Watermark,
    events: Vec<TaskEvent>,
    stop: StopHook,
    /// The checkpoint whose first barrier was announced.
    announced: Option<CheckpointId>,
    /// The checkpoint that is on its way, and when the worker heard of it.
    expected: Option<(CheckpointId, Duration)>,
    /// When the first barrier of the checkpoint that is being aligned came.
    aligning_since: Duration,
    counted: LoopFigures,
}

/// Whether a task still takes input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// It does.
    On,
    /// Its source was told to stop; its channels stay open.
    Stopped,
    /// All input has ended.
    Ended,
}

impl Task {
    /// A task over `input` that tells `stop` of the protocol steps it reaches.
    pub fn new(input: TaskInput, stop: StopHook) -> Self {
        Self {
            input,
            agenda: VecDeque::new(),
            snapshot: None,
            pauses: Pauses::default(),
            reading: Reading::On,
            watermark: Watermark::MIN,
            events: Vec::new(),
            stop,
            announced: None,
            expected: None,
            aligning_since: Duration::ZERO,
            counted: LoopFigures::default(),
        }
    }

    /// Takes a letter.
    pub fn letter(&mut self, letter: TaskLetter) -> Result<(), OperatorError> {
        match letter {
            TaskLetter::Trigger(barrier) => self.trigger(barrier),
            TaskLetter::Assign { splits, complete } => {
                if let TaskInput::Source(source) = &mut self.input {
                    source.add_splits(splits)?;
                    if complete {
                        source.no_more_splits();
                    }
                }
            }
            TaskLetter::Completed(id) => {
                if let TaskInput::Source(source) = &mut self.input {
                    source.completed(id)?;
                }
                self.input.head().completed(id)?;
            }
            TaskLetter::Aborted(id) => self.abort(id),
            TaskLetter::Resume if self.reading == Reading::Stopped => self.reading = Reading::On,
            TaskLetter::Resume => {}
            TaskLetter::Expected { id, at } => self.expected = Some((id, at)),
        }
        Ok(())
    }

    /// Runs for one turn.
    pub fn turn(&mut self, clock: &dyn Clock) -> Result<Waiting, OperatorError> {
        let start = clock.elapsed();
        let waiting = self.advance(clock, start)?;
        if self.snapshot.is_some() {
            let start = clock.elapsed();
            if self.collect()? {
                self.pauses.stretch(clock.elapsed().saturating_sub(start));
            }
            self.settle_pause();
        }
        Ok(waiting)
    }

    fn advance(&mut self, clock: &dyn Clock, start: Duration) -> Result<Waiting, OperatorError> {
        let left = self.input.head().turn()?;
        if left != Progress::Done {
            return Ok(self.waiting_for(left));
        }
        if !self.run_agenda(clock)? {
            return Ok(Waiting::Turn);
        }
        let waiting = loop {
            if self.input.head_ref().blocked().is_some() {
                break Waiting::Output;
            }
            if !self.take_input(clock)? {
                break Waiting::Input;
            }
            if !self.run_agenda(clock)? {
                return Ok(Waiting::Turn);
            }
            if clock.elapsed().saturating_sub(start) >= TURN_LIMIT {
                break Waiting::Turn;
            }
        };
        self.event_time(waiting == Waiting::Output);
        if !self.run_agenda(clock)? {
            return Ok(Waiting::Turn);
        }
        let left = self.input.head().turn()?;
        if left != Progress::Done {
            return Ok(self.waiting_for(left));
        }
        let blocked = self.input.head_ref().blocked().is_some();
        Ok(if blocked { Waiting::Output } else { waiting })
    }

    /// What a chain with unfinished work waits for: its next turn, unless what is left comes from outside and wakes it.
    fn waiting_for(&self, left: Progress) -> Waiting {
        match left {
            Progress::Waiting if self.input.head_ref().blocked().is_some() => Waiting::Output,
            Progress::Waiting => Waiting::Input,
            Progress::Done | Progress::More => Waiting::Turn,
        }
    }

    /// Counts the pause of a snapshot that has just become whole.
    fn settle_pause(&mut self) {
        if self.snapshot.is_none() {
            self.pauses.end();
        }
    }

    /// How long checkpoints kept the task from its records.
    pub const fn pauses(&self) -> Pauses {
        self.pauses
    }

    /// What the loop did; letters are counted by the slot.
    pub fn loop_figures(&self) -> LoopFigures {
        match &self.input {
            TaskInput::Source(_) => self.counted,
            TaskInput::Gate { gate, valve, .. } => LoopFigures {
                inputs_idle: valve.idle_channels(),
                buffered_bytes: gate.figures().buffered_bytes,
                ..self.counted
            },
        }
    }

    /// The first barrier of a checkpoint has come.
    fn first_barrier(&mut self, id: CheckpointId, now: Duration) {
        // A barrier that came over a channel may be quicker than the news of it, which then says nothing.
        if let Some((_, at)) = self.expected.take_if(|(expected, _)| *expected == id) {
            self.counted.start_delay.observe(now.saturating_sub(at));
        }
    }

    /// What the task has to tell.
    pub fn events(&mut self) -> std::vec::Drain<'_, TaskEvent> {
        self.events.drain(..)
    }

    /// The event time that has entered the chain.
    pub const fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Whether there is a snapshot to serialise on this thread: the slot does not park meanwhile. While another thread
    /// seals it, the slot parks and is woken.
    pub fn works_on_snapshot(&self) -> bool {
        let open = self.snapshot.as_ref();
        open.is_some_and(|open| open.gathering == Progress::More)
    }

    /// The earliest time at which a turn is needed though no input comes.
    pub fn next_deadline(&self) -> Option<ProcessingTime> {
        self.input.head_ref().next_deadline()
    }

    /// The receiver that holds the task back.
    pub fn blocked_on(&self) -> Option<&str> {
        self.input.head_ref().blocked()
    }

    /// Where the last records came from, for messages about failures.
    pub fn position(&self) -> Option<String> {
        match &self.input {
            TaskInput::Source(source) => Some(source.position()),
            TaskInput::Gate { .. } => None,
        }
    }

    /// Whether the task heads a source.
    const fn is_source(&self) -> bool {
        matches!(self.input, TaskInput::Source(_))
    }

    /// What the source counts, if the task heads one.
    pub fn source_report(&self) -> Option<SourceReport> {
        match &self.input {
            TaskInput::Source(source) => Some(source.source_report()),
            TaskInput::Gate { .. } => None,
        }
    }

    /// Reports of all operators of the chain.
    pub fn reports(&self) -> Vec<OperatorReport> {
        let mut reports = Vec::new();
        self.input.head_ref().report(&mut reports);
        // Of a chain its head takes what comes over channels.
        if let (TaskInput::Gate { gate, .. }, Some(head)) = (&self.input, reports.first_mut()) {
            head.bytes_in = gate.figures().taken_bytes;
        }
        reports
    }

    fn trigger(&mut self, barrier: CheckpointBarrier) {
        if !self.is_source() {
            return;
        }
        match barrier.kind.stop_mode() {
            Some(StopMode::Suspend) if self.reading == Reading::On => {
                self.reading = Reading::Stopped;
            }
            Some(StopMode::Drain) if self.reading == Reading::On => self.end_of_input(),
            _ => {}
        }
        self.agenda.push_back(Control::Barrier(barrier));
    }

    fn end_of_input(&mut self) {
        self.reading = Reading::Ended;
        self.agenda.push_back(Control::Watermark(Watermark::MAX));
        self.agenda.push_back(Control::End);
    }

    /// Takes one element of input; `false` = there is none for now.
    fn take_input(&mut self, clock: &dyn Clock) -> Result<bool, OperatorError> {
        match &mut self.input {
            TaskInput::Source(source) => {
                if self.reading != Reading::On {
                    return Ok(false);
                }
                match source.poll()? {
                    SourcePoll::Records(_) => self.event_time(false),
                    SourcePoll::Nothing => return Ok(false),
                    SourcePoll::EndOfInput => self.end_of_input(),
                }
                Ok(true)
            }
            TaskInput::Gate { gate, .. } => match gate.step()? {
                Step::Nothing | Step::NoRoom => Ok(false),
                Step::Records(_) => Ok(true),
                step => {
                    self.control(step, clock);
                    Ok(true)
                }
            },
        }
    }

    /// Asks a source what its event time became. `paused` = an output held it back: such time makes no split idle.
    fn event_time(&mut self, paused: bool) {
        let TaskInput::Source(source) = &mut self.input else {
            return;
        };
        if self.reading != Reading::On {
            return;
        }
        for signal in source.signals(paused) {
            self.agenda.push_back(match signal {
                SourceSignal::Watermark(watermark) => Control::Watermark(watermark),
                SourceSignal::Status(status) => Control::Status(status),
            });
        }
    }

    /// Puts a control element of a channel through valve and alignment.
    fn control(&mut self, step: Step, clock: &dyn Clock) {
        if let Step::Barrier(channel, barrier) = step {
            return self.barrier_came(channel, barrier, clock.elapsed());
        }
        let TaskInput::Gate { valve, .. } = &mut self.input else {
            return;
        };
        let news = match step {
            Step::Watermark(channel, watermark) => valve.watermark(channel, watermark),
            Step::Status(channel, status) => valve.status(channel, status),
            Step::End(channel) => {
                let (news, all_ended) = valve.end(channel);
                self.agenda.extend(news.into_iter().map(control_of));
                if all_ended {
                    self.end_of_input();
                }
                return;
            }
            Step::Barrier(..) | Step::Nothing | Step::NoRoom | Step::Records(_) => return,
        };
        self.agenda.extend(news.into_iter().map(control_of));
    }

    /// Puts a barrier of a channel through the alignment.
    fn barrier_came(&mut self, channel: usize, barrier: CheckpointBarrier, now: Duration) {
        if self.announced.is_none_or(|id| id != barrier.id) {
            self.announced = Some(barrier.id);
            self.aligning_since = now;
            self.first_barrier(barrier.id, now);
            (self.stop)(ProtocolStep::P3);
        }
        let TaskInput::Gate {
            gate, alignment, ..
        } = &mut self.input
        else {
            return;
        };
        let channel = ChannelIndex(channel as u32);
        let effects = alignment.step(AlignmentEvent::Barrier { channel, barrier });
        let aligned = align(gate.as_mut(), &effects);
        if aligned.is_some() {
            let took = now.saturating_sub(self.aligning_since);
            self.counted.alignment.observe(took);
        }
        self.agenda.extend(aligned.map(Control::Barrier));
    }

    /// Runs the agenda; `false` = the chain has more to do before the next item.
    fn run_agenda(&mut self, clock: &dyn Clock) -> Result<bool, OperatorError> {
        while let Some(control) = self.agenda.pop_front() {
            if self.run(control, clock)? != Progress::Done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn run(&mut self, control: Control, clock: &dyn Clock) -> Result<Progress, OperatorError> {
        let head = self.input.head();
        match control {
            Control::Watermark(watermark) => {
                self.watermark = watermark;
                head.watermark(watermark)
            }
            Control::Status(status) => head.status(status).map(|()| Progress::Done),
            Control::End => {
                self.events.push(TaskEvent::Ended);
                head.end()
            }
            Control::Barrier(barrier) => {
                self.pauses.give_up();
                let start = clock.elapsed();
                if self.is_source() {
                    self.first_barrier(barrier.id, start);
                }
                self.barrier(&barrier)?;
                self.pauses.stretch(clock.elapsed().saturating_sub(start));
                Ok(Progress::Done)
            }
        }
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        if let Some(open) = self.snapshot.take() {
            debug_assert!(open.id < barrier.id, "barriers arrive in order");
            self.input.head().abort();
        }
        (self.stop)(ProtocolStep::P4);
        let splits = match &mut self.input {
            TaskInput::Source(source) => Some(source.snapshot()?),
            TaskInput::Gate { .. } => None,
        };
        self.input.head().barrier(barrier)?;
        self.snapshot = Some(OpenSnapshot {
            id: barrier.id,
            collected: Vec::new(),
            gathering: Progress::More,
            splits,
        });
        Ok(())
    }

    /// Serialises a portion of the open snapshot. `false` = it did nothing: what is left is done elsewhere, as before.
    fn collect(&mut self) -> Result<bool, OperatorError> {
        let Some(open) = &mut self.snapshot else {
            return Ok(false);
        };
        let waited = open.gathering == Progress::Waiting;
        open.gathering = self.input.head().collect(&mut open.collected)?;
        if open.gathering != Progress::Done {
            return Ok(!waited || open.gathering != Progress::Waiting);
        }
        if let Some(OpenSnapshot {
            id,
            collected,
            splits,
            ..
        }) = self.snapshot.take()
        {
            for (_, state) in &collected {
                self.pauses.stretch(state.waited);
            }
            self.events.push(TaskEvent::Snapshot {
                id,
                operators: collected,
                splits,
            });
        }
        Ok(true)
    }

    fn abort(&mut self, id: CheckpointId) {
        if self.snapshot.as_ref().is_some_and(|open| open.id == id) {
            self.snapshot = None;
            self.input.head().abort();
        }
        // A barrier that has not run yet must not go out behind the word that it is given up.
        self.agenda
            .retain(|control| !matches!(control, Control::Barrier(barrier) if barrier.id == id));
        if let TaskInput::Gate {
            gate, alignment, ..
        } = &mut self.input
        {
            let effects = alignment.step(AlignmentEvent::Cancelled { id });
            let aligned = align(gate.as_mut(), &effects);
            debug_assert!(
                aligned.is_none(),
                "a cancelled checkpoint takes no snapshot"
            );
        }
    }
}

/// Performs the effects of an alignment; returns the barrier whose snapshot is due.
fn align(gate: &mut dyn InputGate, effects: &[AlignmentEffect]) -> Option<CheckpointBarrier> {
    let mut due = None;
    for effect in effects {
        match *effect {
            AlignmentEffect::Hold(channel) => gate.block(channel.0 as usize),
            AlignmentEffect::ResumeAll => gate.unblock_all(),
            AlignmentEffect::Snapshot(barrier) => due = Some(barrier),
        }
    }
    due
}

fn control_of(news: ValveOutput) -> Control {
    match news {
        ValveOutput::Watermark(watermark) => Control::Watermark(watermark),
        ValveOutput::Status(status) => Control::Status(status),
    }
}

#[cfg(test)]
mod tests;
