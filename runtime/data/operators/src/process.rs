//! Process functions without a key: any records out, to any output, for each record in. Called by the chain with whole
//! chunks. There are no timers and no keyed state without a key.

use std::marker::PhantomData;

use highwater_types::{
    Chunk, EventTime, JobIdentity, OperatorUid, Parallelism, ProcessingTime, Record, SubtaskIndex,
    Watermark,
};

use crate::collector::Collector;
use crate::context::OperatorContext;
use crate::error::{OperatorError, UserError};
use crate::operator::{Operator, OperatorReport, Progress, TaskClock};
use crate::outputs::{OutputTag, Outputs};
use crate::user_metrics::{UserCounter, UserDurations, UserGauge, UserMetrics};

/// Where a function runs: what it can ask when it is opened.
#[derive(Clone, Debug)]
pub struct FunctionPlace {
    /// The job.
    pub job: JobIdentity,
    /// The operator.
    pub uid: OperatorUid,
    /// Which of its subtasks.
    pub subtask: SubtaskIndex,
    /// How many subtasks there are.
    pub parallelism: Parallelism,
    /// Whether state was restored from a checkpoint.
    pub is_restored: bool,
    metrics: UserMetrics,
}

impl FunctionPlace {
    /// The place that a context describes.
    pub fn of(context: &OperatorContext) -> Self {
        Self {
            job: context.job.clone(),
            uid: context.uid.clone(),
            subtask: context.subtask,
            parallelism: context.parallelism,
            is_restored: context.restored.is_some(),
            metrics: UserMetrics::default(),
        }
    }

    /// A counter of this name, shown as `highwater_user_events_total`. Asked for again it is the same; it begins at 0 with each attempt.
    ///
    /// A subtask shows up to 64 metrics of its functions, and the first 64 characters of a name.
    pub fn counter(&self, name: &str) -> UserCounter {
        self.metrics.counter(name)
    }

    /// A gauge of this name, shown as `highwater_user_value` once it is set.
    pub fn gauge(&self, name: &str) -> UserGauge {
        self.metrics.gauge(name)
    }

    /// A histogram of spans of time of this name, shown as `highwater_user_duration_seconds`.
    pub fn durations(&self, name: &str) -> UserDurations {
        self.metrics.durations(name)
    }

    /// All that were made here.
    pub(crate) const fn metrics(&self) -> &UserMetrics {
        &self.metrics
    }
}

/// What a process function can do while it handles a record.
pub struct ProcessContext<'a, Out> {
    collector: Collector<'a, Out>,
    watermark: Watermark,
    now: ProcessingTime,
}

impl<Out: Record> ProcessContext<'_, Out> {
    /// The event time of the record; `EventTime::NONE` when it has none.
    pub const fn time(&self) -> EventTime {
        self.collector.time()
    }

    /// The event time that the input has reached.
    pub const fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// The processing time of this turn.
    pub const fn now(&self) -> ProcessingTime {
        self.now
    }

    /// Emits to the main output.
    #[inline]
    pub fn emit(&mut self, record: Out) {
        self.collector.emit(record);
    }

    /// Emits to a side output.
    pub fn emit_side<U: Record>(&mut self, tag: &OutputTag<U>, record: U) {
        self.collector.emit_side(tag, record);
    }
}

/// A function of one record with side outputs.
///
/// Source: Flink `ProcessFunction`.
pub trait ProcessFunction<In, Out: Record> {
    /// Called once before the first record.
    fn open(&mut self, _place: &FunctionPlace) -> Result<(), UserError> {
        Ok(())
    }

    /// Handles a record.
    fn on_record(
        &mut self,
        record: In,
        context: &mut ProcessContext<'_, Out>,
    ) -> Result<(), UserError>;

    /// The input has ended: emits what is left.
    fn finish(&mut self, _context: &mut ProcessContext<'_, Out>) -> Result<(), UserError> {
        Ok(())
    }

    /// Called last, also after a failure.
    fn close(&mut self) {}
}

/// Runs a [`ProcessFunction`].
pub struct Process<In, Out: Record, F: ProcessFunction<In, Out>> {
    function: F,
    clock: TaskClock,
    watermark: Watermark,
    user: UserMetrics,
    types: PhantomData<fn(In) -> Out>,
}

impl<In, Out: Record, F: ProcessFunction<In, Out>> Process<In, Out, F> {
    /// Opens the function.
    ///
    /// # Errors
    /// Those of the function.
    pub fn open(context: &OperatorContext, mut function: F) -> Result<Self, OperatorError> {
        let place = FunctionPlace::of(context);
        let opened = function.open(&place);
        opened.map_err(|e| OperatorError::user("open", e))?;
        Ok(Self {
            function,
            clock: context.clock.clone(),
            watermark: Watermark::MIN,
            user: place.metrics,
            types: PhantomData,
        })
    }

    fn call(
        &mut self,
        collector: Collector<'_, Out>,
        name: &'static str,
        call: impl FnOnce(&mut F, &mut ProcessContext<'_, Out>) -> Result<(), UserError>,
    ) -> Result<(), OperatorError> {
        let mut context = ProcessContext {
            collector,
            watermark: self.watermark,
            now: self.clock.now(),
        };
        let called = call(&mut self.function, &mut context);
        context.collector.finish()?;
        called.map_err(|e| OperatorError::user(name, e))
    }
}

impl<In, Out: Record, F: ProcessFunction<In, Out>> Drop for Process<In, Out, F> {
    fn drop(&mut self) {
        self.function.close();
    }
}

impl<In, Out, F> Operator<In, Out> for Process<In, Out, F>
where
    Out: Record,
    F: ProcessFunction<In, Out>,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        for (record, time, _) in chunk.drain() {
            let collector = Collector::new(out, time);
            self.call(collector, "on_record", |function, context| {
                function.on_record(record, context)
            })?;
        }
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        _out: &mut Outputs<Out>,
    ) -> Result<Progress, OperatorError> {
        self.watermark = watermark;
        Ok(Progress::Done)
    }

    fn on_end(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        let collector = Collector::new(out, EventTime::NONE);
        self.call(collector, "finish", |function, context| {
            function.finish(context)
        })?;
        Ok(Progress::Done)
    }

    fn report(&self, report: &mut OperatorReport) {
        report.user = self.user.report();
    }
}

#[cfg(test)]
mod tests;
