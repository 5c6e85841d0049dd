//! R1 as a process function: a map from window to its declines, and two timers for each window.
//!
//! The alert is raised at the sixth decline, before the window ends. The count is emitted when the watermark reaches the
//! window's last millisecond, and again for each late decline; the state goes when the lateness is over.

use compact_str::CompactString;
use highwater_operators::{
    FiredTimer, KeyedContext, KeyedProcessFunction, OpenContext, OutputTag, UserError,
};
use highwater_state::{MapState, StateHandle};
use highwater_types::EventTime;

use crate::payments::{DECLINES_ALERT, DeclineCount, FraudAlert, Payment, WINDOW_MS, window_start};
use crate::rules::{ALLOWED_LATENESS_MS, ScoredPayment, WindowDeclines};

type Windows = MapState<CompactString, (), i64, WindowDeclines>;

/// Rule R1.
#[derive(Clone)]
pub struct DeclineRule {
    alerts: OutputTag<FraudAlert>,
    late: OutputTag<Payment>,
    windows: Option<StateHandle<Windows>>,
}

impl DeclineRule {
    /// The rule with these side outputs.
    pub fn new(alerts: &OutputTag<FraudAlert>, late: &OutputTag<Payment>) -> Self {
        Self {
            alerts: alerts.clone(),
            late: late.clone(),
            windows: None,
        }
    }

    fn windows(&self) -> StateHandle<Windows> {
        self.windows.expect("the function was opened")
    }
}

/// The last millisecond of the window that starts at `start`.
const fn last_millisecond(start: EventTime) -> EventTime {
    EventTime(start.0 + WINDOW_MS - 1)
}

fn count_of(user: &CompactString, start: EventTime, declines: &WindowDeclines) -> DeclineCount {
    DeclineCount {
        user_id: user.clone(),
        window_start: start,
        window_end: start.saturating_add(WINDOW_MS),
        count: declines.count,
    }
}

impl KeyedProcessFunction<CompactString, ScoredPayment, DeclineCount> for DeclineRule {
    fn open(&mut self, context: &mut OpenContext<'_, CompactString>) -> Result<(), UserError> {
        self.windows = Some(context.map("windows", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        scored: ScoredPayment,
        context: &mut KeyedContext<'_, CompactString, DeclineCount>,
    ) -> Result<(), UserError> {
        let start = window_start(scored.payment.event_time);
        let fires_at = last_millisecond(start);
        let watermark = context.watermark().millis();
        if watermark >= fires_at.0 + ALLOWED_LATENESS_MS {
            context.emit_side(&self.late, scored.payment);
            return Ok(());
        }
        let is_complete = watermark >= fires_at.0;
        let mut windows = context.state(self.windows());
        let declines = windows.update(&start.0, WindowDeclines::none, |declines| {
            declines.add(&scored);
            declines.clone()
        });
        let user = &scored.payment.user_id;
        if declines.count == DECLINES_ALERT {
            context.emit_side(&self.alerts, declines.alert(user, start, is_complete));
        }
        if is_complete {
            context.emit_at(count_of(user, start, &declines), fires_at);
        } else {
            context.register_event_timer(fires_at);
        }
        context.register_event_timer(fires_at.saturating_add(ALLOWED_LATENESS_MS));
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        context: &mut KeyedContext<'_, CompactString, DeclineCount>,
    ) -> Result<(), UserError> {
        let FiredTimer::Event(time) = timer else {
            return Ok(());
        };
        let user = context.key().clone();
        let ending = window_start(time);
        if time == last_millisecond(ending) {
            let declines = context.state(self.windows()).get(&ending.0).cloned();
            if let Some(declines) = declines {
                context.emit_at(count_of(&user, ending, &declines), time);
            }
        } else {
            let over = window_start(time.saturating_add(-ALLOWED_LATENESS_MS));
            context.state(self.windows()).remove(&over.0);
        }
        Ok(())
    }
}
