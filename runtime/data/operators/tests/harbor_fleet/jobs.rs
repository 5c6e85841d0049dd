//! The decline rule of Harbor Fleet, written twice: as a keyed process function and as a window operator.

use highwater_operators::testing::ParallelHarness;
use highwater_operators::{
    Aggregated, Count, FiredTimer, KeyedContext, KeyedProcess, KeyedProcessFunction, OpenContext,
    OperatorContext, OperatorSnapshot, OutputTag, UserError, Window, WindowContext, WindowOptions,
    WindowParts, WithUpdates,
};
use highwater_state::{MapState, StateHandle};
use highwater_types::{EventTime, ProcessingTime};
use highwater_window::{AllowedLateness, Sliding, TimeWindow, Tumbling, WindowAssigner};

pub(crate) const WINDOW_MS: i64 = 600_000;
pub(crate) const LATENESS: AllowedLateness = AllowedLateness(300_000);
pub(crate) const ALERT_AT: u64 = 6;

/// A declined payment: user and a number that tells payments apart.
pub(crate) type Decline = (i64, u64);
/// User, start of the window, count, and whether it is an alert or a final count.
pub(crate) type Finding = (i64, i64, u64, bool);

pub(crate) const fn user_of(decline: &Decline) -> i64 {
    decline.0
}

pub(crate) fn late_tag() -> OutputTag<Decline> {
    OutputTag::new("late")
}

/// Implementation A.
pub(crate) struct ByTimers {
    windows: Tumbling,
    counts: Option<StateHandle<MapState<i64, (), i64, u64>>>,
}

impl ByTimers {
    pub(crate) fn new() -> Self {
        Self {
            windows: Tumbling::try_new(WINDOW_MS).expect("the size is valid"),
            counts: None,
        }
    }

    fn counts(&self) -> StateHandle<MapState<i64, (), i64, u64>> {
        self.counts.expect("the function was opened")
    }
}

fn cleanup(window: TimeWindow) -> EventTime {
    EventTime(window.cleanup_time(LATENESS).0)
}

impl KeyedProcessFunction<i64, Decline, Finding> for ByTimers {
    fn open(&mut self, context: &mut OpenContext<'_, i64>) -> Result<(), UserError> {
        self.counts = Some(context.map("declines", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        decline: Decline,
        context: &mut KeyedContext<'_, i64, Finding>,
    ) -> Result<(), UserError> {
        let (user, window) = (decline.0, self.windows.window(context.time()));
        if window.is_expired(LATENESS, context.watermark()) {
            context.emit_side(&late_tag(), decline);
            return Ok(());
        }
        let mut counts = context.state(self.counts());
        let count = counts.update(
            &window.start,
            || 0,
            |count| {
                *count += 1;
                *count
            },
        );
        let at = window.max_timestamp();
        if count == ALERT_AT {
            context.emit_at((user, window.start, count, true), at);
        }
        if window.is_complete(context.watermark()) {
            context.emit_at((user, window.start, count, false), at);
        } else {
            context.register_event_timer(at);
        }
        context.register_event_timer(cleanup(window));
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        context: &mut KeyedContext<'_, i64, Finding>,
    ) -> Result<(), UserError> {
        let FiredTimer::Event(time) = timer else {
            return Err("this job sets no processing-time timer".into());
        };
        let user = *context.key();
        let window = self.windows.window(time);
        if window.max_timestamp() == time {
            let count = context.state(self.counts()).get(&window.start).copied();
            let count = count.ok_or("a window fired without declines")?;
            context.emit((user, window.start, count, false));
        }
        let over = self.windows.window(EventTime(time.0 - LATENESS.0));
        if cleanup(over) == time {
            context.state(self.counts()).remove(&over.start);
        }
        Ok(())
    }
}

pub(crate) type Fleet = ParallelHarness<Decline, Finding, Decline>;

pub(crate) fn by_timers(parallelism: u32, restored: Option<&[OperatorSnapshot]>) -> Fleet {
    let build = |context: OperatorContext| KeyedProcess::open(&context, user_of, ByTimers::new());
    ParallelHarness::new(parallelism, ProcessingTime(0), &late_tag(), restored, build)
}

/// Implementation B, over any windows.
fn windowed<A: WindowAssigner>(
    assigner: &A,
    parallelism: u32,
    restored: Option<&[OperatorSnapshot]>,
) -> Fleet {
    let build = |context: OperatorContext| {
        let function = WithUpdates {
            fire: |count, context: &mut WindowContext<'_, i64, Finding>| {
                let finding = (*context.key(), context.window().start, count, false);
                context.emit(finding);
                Ok::<(), UserError>(())
            },
            update: |count, context: &mut WindowContext<'_, i64, Finding>| {
                if count == ALERT_AT {
                    let finding = (*context.key(), context.window().start, count, true);
                    context.emit(finding);
                }
                Ok::<(), UserError>(())
            },
        };
        let parts = WindowParts {
            assigner: assigner.clone(),
            contents: Aggregated(Count),
            function,
            key_of: user_of,
        };
        let options = WindowOptions::event_time()
            .with_lateness(LATENESS)
            .with_late_output(&late_tag());
        Window::<i64, Decline, Finding, _, _, _, _>::open(&context, parts, options)
    };
    ParallelHarness::new(parallelism, ProcessingTime(0), &late_tag(), restored, build)
}

pub(crate) fn by_windows(parallelism: u32, restored: Option<&[OperatorSnapshot]>) -> Fleet {
    windowed(
        &Tumbling::try_new(WINDOW_MS).expect("the size is valid"),
        parallelism,
        restored,
    )
}

pub(crate) fn by_sliding_windows() -> Fleet {
    windowed(
        &Sliding::try_new(WINDOW_MS, 60_000).expect("the size is valid"),
        1,
        None,
    )
}

/// Both implementations, by name.
pub(crate) type Build = fn(u32, Option<&[OperatorSnapshot]>) -> Fleet;
pub(crate) const BOTH: [(&str, Build); 2] = [("timers", by_timers), ("windows", by_windows)];
