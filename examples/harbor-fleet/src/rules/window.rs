//! R1 with the window operator: tumbling windows of ten minutes that keep the declines of a user.
//!
//! The window function sees every update, so the alert is raised at the sixth decline as in the process function.

use compact_str::CompactString;
use highwater_operators::{AggregateFunction, OutputTag, UserError, WindowContext, WindowFunction};
use highwater_types::EventTime;

use crate::payments::{DECLINES_ALERT, DeclineCount, FraudAlert};
use crate::rules::{ScoredPayment, WindowDeclines};

/// What a window keeps of its declines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declines;

impl AggregateFunction<ScoredPayment> for Declines {
    type Accumulator = WindowDeclines;
    type Output = WindowDeclines;

    fn create(&self) -> WindowDeclines {
        WindowDeclines::none()
    }

    fn add(&self, declines: &mut WindowDeclines, scored: &ScoredPayment) {
        declines.add(scored);
    }

    fn merge(&self, into: &mut WindowDeclines, from: WindowDeclines) {
        into.count += from.count;
        into.first = into.first.min(from.first);
        if from.last > into.last {
            into.last = from.last;
            into.spend = from.spend;
        }
    }

    fn result(&self, declines: &WindowDeclines) -> WindowDeclines {
        declines.clone()
    }
}

/// Emits the count when a window fires, and the alert when a decline is the sixth.
#[derive(Clone, Debug)]
pub struct CountAndAlert {
    /// Where alerts go.
    pub alerts: OutputTag<FraudAlert>,
}

impl WindowFunction<CompactString, WindowDeclines, DeclineCount> for CountAndAlert {
    const SEES_UPDATES: bool = true;

    fn fire(
        &mut self,
        declines: WindowDeclines,
        context: &mut WindowContext<'_, CompactString, DeclineCount>,
    ) -> Result<(), UserError> {
        let window = context.window();
        context.emit(DeclineCount {
            user_id: context.key().clone(),
            window_start: EventTime(window.start),
            window_end: EventTime(window.end),
            count: declines.count,
        });
        Ok(())
    }

    fn update(
        &mut self,
        declines: WindowDeclines,
        context: &mut WindowContext<'_, CompactString, DeclineCount>,
    ) -> Result<(), UserError> {
        if declines.count == DECLINES_ALERT {
            let (window, user) = (context.window(), context.key().clone());
            let late = window.is_complete(context.reached());
            let alert = declines.alert(&user, EventTime(window.start), late);
            context.emit_side(&self.alerts, alert);
        }
        Ok(())
    }
}
