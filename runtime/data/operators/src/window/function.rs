//! What a window emits: the function that is called when it fires, and what it can ask and do.

use highwater_types::{EventTime, Record, Watermark};
use highwater_window::TimeWindow;

use crate::collector::Collector;
use crate::error::{OperatorError, UserError};
use crate::outputs::{OutputTag, Outputs};

/// Lent to a window function for one firing. What it emits carries the last millisecond of the window.
pub struct WindowContext<'a, K, Out> {
    firing: Firing<'a, K>,
    collector: Collector<'a, Out>,
}

impl<K, Out: Record> WindowContext<'_, K, Out> {
    /// The key.
    pub const fn key(&self) -> &K {
        self.firing.key
    }

    /// The window.
    pub const fn window(&self) -> TimeWindow {
        self.firing.window
    }

    /// The time that has been reached: the watermark, or the clock for processing-time windows.
    pub const fn reached(&self) -> Watermark {
        self.firing.reached
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

/// Called when a window fires for a key: once when it is complete, and again for each late record that it takes.
///
/// `result` always stands for the whole window, so a later firing replaces an earlier one.
///
/// Source: Flink `ProcessWindowFunction`.
pub trait WindowFunction<K, R, Out> {
    /// Whether [`WindowFunction::update`] is to be called. It costs a result and a key for each record.
    const SEES_UPDATES: bool = false;

    /// The window fires.
    fn fire(&mut self, result: R, context: &mut WindowContext<'_, K, Out>)
    -> Result<(), UserError>;

    /// A record was added; `result` includes it. For output that cannot wait for the end of the window.
    fn update(
        &mut self,
        _result: R,
        _context: &mut WindowContext<'_, K, Out>,
    ) -> Result<(), UserError> {
        Ok(())
    }
}

impl<K, R, Out, F> WindowFunction<K, R, Out> for F
where
    F: FnMut(R, &mut WindowContext<'_, K, Out>) -> Result<(), UserError>,
{
    fn fire(
        &mut self,
        result: R,
        context: &mut WindowContext<'_, K, Out>,
    ) -> Result<(), UserError> {
        self(result, context)
    }
}

/// A window function made of two closures: one for firings, one that sees every update.
pub struct WithUpdates<F, U> {
    /// Called when the window fires.
    pub fire: F,
    /// Called when a record was added.
    pub update: U,
}

impl<K, R, Out, F, U> WindowFunction<K, R, Out> for WithUpdates<F, U>
where
    F: FnMut(R, &mut WindowContext<'_, K, Out>) -> Result<(), UserError>,
    U: FnMut(R, &mut WindowContext<'_, K, Out>) -> Result<(), UserError>,
{
    const SEES_UPDATES: bool = true;

    fn fire(
        &mut self,
        result: R,
        context: &mut WindowContext<'_, K, Out>,
    ) -> Result<(), UserError> {
        (self.fire)(result, context)
    }

    fn update(
        &mut self,
        result: R,
        context: &mut WindowContext<'_, K, Out>,
    ) -> Result<(), UserError> {
        (self.update)(result, context)
    }
}

/// The window function that emits the result as it is.
pub fn emit_result<K, Out: Record>(
    result: Out,
    context: &mut WindowContext<'_, K, Out>,
) -> Result<(), UserError> {
    context.emit(result);
    Ok(())
}

/// One firing or update of a key and window.
pub struct Firing<'a, K> {
    key: &'a K,
    window: TimeWindow,
    reached: Watermark,
}

impl<K> Clone for Firing<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Firing<'_, K> {}

impl<'a, K> Firing<'a, K> {
    pub(crate) const fn new(key: &'a K, window: TimeWindow, reached: Watermark) -> Self {
        Self {
            key,
            window,
            reached,
        }
    }

    fn call<Out: Record>(
        self,
        out: &mut Outputs<Out>,
        name: &'static str,
        call: impl FnOnce(&mut WindowContext<'_, K, Out>) -> Result<(), UserError>,
    ) -> Result<(), OperatorError> {
        let time: EventTime = self.window.max_timestamp();
        let mut context = WindowContext {
            firing: self,
            collector: Collector::new(out, time),
        };
        let called = call(&mut context);
        context.collector.finish()?;
        called.map_err(|e| OperatorError::user(name, e))
    }

    pub(crate) fn fire<R, Out: Record>(
        self,
        function: &mut impl WindowFunction<K, R, Out>,
        result: R,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        self.call(out, "fire", |context| function.fire(result, context))
    }

    pub(crate) fn update<R, Out: Record>(
        self,
        function: &mut impl WindowFunction<K, R, Out>,
        result: R,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        self.call(out, "update", |context| function.update(result, context))
    }
}
