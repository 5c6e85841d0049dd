//! Session windows over a keyed stream: records of a key that are less than a gap apart are one session. Called by the
//! chain with whole keyed chunks, watermarks and turns.
//!
//! All sessions of a key are one value of state, so a record costs one lookup, and there is about one timer for each key
//! however often its session is extended: a timer that comes too early sets the next one. Rules (T-04): sessions that
//! touch merge, and the merged session decides whether a record is late. A merged session fires again with the whole value
//! of all its parts.
//!
//! Source: Flink `MergingWindowSet`, `EventTimeSessionWindows`.

mod sessions;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use highwater_state::keyed::OpenState;
use highwater_state::{ChunkKeys, KeyContext, StateHandle, ValueState};
use highwater_time::{LatenessHistogram, Timer};
use highwater_types::{
    CheckpointBarrier, Chunk, EventTime, Key, KeyHash, ProcessingTime, Record, Watermark,
};
use highwater_window::{AllowedLateness, TimeWindow, WindowError};

use self::sessions::Sessions;
use crate::context::OperatorContext;
use crate::error::OperatorError;
use crate::keyed_process::FIRINGS_MAX;
use crate::keyed_states::{KeyedStates, assert_keyed};
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::Outputs;
use crate::snapshot::SnapshotStep;
use crate::timer_service::StoredTimers;
use crate::window::{
    Firing, TimeDomain, WindowContents, WindowFunction, WindowOptions, WindowParts,
};

/// The states.
const SESSIONS: &str = "sessions";
const TIMERS: &str = "highwater.session-timers";

/// How far apart two records of one session may be: less than or exactly this.
#[derive(Clone, Copy, Debug)]
pub struct SessionGap<G> {
    gap_of: G,
}

impl<G> SessionGap<G> {
    /// A gap that each record sets for itself, in milliseconds, at least 1.
    pub const fn by<In>(gap_of: G) -> Self
    where
        G: Fn(&In) -> i64,
    {
        Self { gap_of }
    }
}

/// The same gap for every record, in milliseconds.
///
/// # Errors
/// `Invalid` when it is not positive.
pub fn fixed_gap<In>(gap_ms: i64) -> Result<SessionGap<impl Fn(&In) -> i64>, WindowError> {
    if gap_ms < 1 {
        let what = "session gap";
        return Err(WindowError::NotPositive { what, ms: gap_ms });
    }
    Ok(SessionGap::by(move |_: &In| gap_ms))
}

/// A record on its way into its session.
struct Arrival<'a, K, In> {
    hash: KeyHash,
    key: &'a K,
    record: &'a In,
    time: EventTime,
}

/// What became of a record.
struct Joined<R> {
    window: TimeWindow,
    updated: Option<R>,
    /// The whole value, when the session is complete already.
    corrected: Option<R>,
    timer: Option<i64>,
}

/// The session window operator. Results carry the last millisecond of their session.
pub struct SessionWindow<K, In, Out, G, C: WindowContents<In>, F, S> {
    states: KeyedStates,
    sessions: StateHandle<ValueState<K, (), Sessions<C::Kept>>>,
    timers: StoredTimers<K>,
    /// The keys of the running chunk, with a local store.
    keys: ChunkKeys<K>,
    parts: WindowParts<SessionGap<G>, C, F, S>,
    options: WindowOptions<In>,
    /// The watermark that records are judged by; not moved in processing time.
    reached: Watermark,
    lateness: LatenessHistogram,
    late_records: u64,
    /// Timers that fired.
    fired: u64,
    types: PhantomData<fn() -> Out>,
}

impl<K, In, Out, G, C, F, S> SessionWindow<K, In, Out, G, C, F, S>
where
    K: Key,
    In: Record,
    Out: Record,
    G: Fn(&In) -> i64,
    C: WindowContents<In>,
    F: WindowFunction<K, C::Result, Out>,
    S: Fn(&In) -> K,
{
    /// Opens the operator.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn open(
        context: &OperatorContext,
        parts: WindowParts<SessionGap<G>, C, F, S>,
        mut options: WindowOptions<In>,
    ) -> Result<Self, OperatorError> {
        if options.domain == TimeDomain::Processing {
            options.lateness = AllowedLateness(0);
        }
        let mut states = KeyedStates::open(context)?;
        let described = ValueState::<K, (), Sessions<C::Kept>>::describe(SESSIONS);
        let sessions = states.backend.open(described)?;
        let timers = StoredTimers::open(&mut states.backend, TIMERS)?;
        states.finish_restore()?;
        Ok(Self {
            sessions,
            timers,
            keys: ChunkKeys::default(),
            parts,
            options,
            reached: states.watermark(),
            states,
            lateness: LatenessHistogram::default(),
            late_records: 0,
            fired: 0,
            types: PhantomData,
        })
    }

    /// Brings the sessions of the keys of a chunk into memory, where a local store has them.
    fn bring_near(&mut self, chunk: &Chunk<In>) -> Result<(), OperatorError> {
        if !self.states.backend.is_local() {
            return Ok(());
        }
        self.keys.clear();
        for (record, &hash) in chunk.records().iter().zip(chunk.hashes()) {
            self.keys.push(hash, (self.parts.key_of)(record));
        }
        Ok(self.states.backend.prepare_keys(&self.keys)?)
    }

    /// Brings the sessions of the keys whose timers are due into memory, where a local store has them.
    fn bring_due_near(&mut self, upto: i64) -> Result<(), OperatorError> {
        if !self.states.backend.is_local() {
            return Ok(());
        }
        self.keys.clear();
        let (backend, keys) = (&mut self.states.backend, &mut self.keys);
        let wanted = (upto, FIRINGS_MAX);
        self.timers
            .visit_due(backend, wanted, |hash, key| keys.push(hash, key));
        Ok(self.states.backend.prepare_keys(&self.keys)?)
    }

    /// The window that a record alone would have.
    fn own_window(&self, record: &In, time: EventTime) -> Result<TimeWindow, OperatorError> {
        let gap_ms = (self.parts.assigner.gap_of)(record);
        if gap_ms < 1 {
            let what = "session gap";
            let refused = WindowError::NotPositive { what, ms: gap_ms };
            return Err(OperatorError::user("gap", refused.into()));
        }
        Ok(TimeWindow {
            start: time.0,
            end: time.0.saturating_add(gap_ms),
        })
    }

    /// Adds a record to its session. `None` = it is too late for any.
    fn join(
        &mut self,
        arrival: &Arrival<'_, K, In>,
    ) -> Result<Option<Joined<C::Result>>, OperatorError> {
        let own = self.own_window(arrival.record, arrival.time)?;
        let rule = (self.options.lateness, self.judged_by());
        let at = KeyContext::new(arrival.hash, arrival.key, self.states.now());
        let state = self.states.backend.get(self.sessions);
        let contents = &self.parts.contents;
        let (joined, is_empty) = state.update(at, Sessions::new, |sessions| {
            let create = || contents.create();
            let merge = |into: &mut C::Kept, from| contents.merge(into, from);
            let Some(kept) = sessions.join(own, rule, create, merge) else {
                return (None, sessions.is_empty());
            };
            contents.add(kept, arrival.record);
            let updated = F::SEES_UPDATES.then(|| contents.result(kept));
            let timer = sessions.next_timer(rule.0);
            let session = sessions
                .at(arrival.time)
                .expect("the record has joined a session");
            let corrected = session.is_fired().then(|| contents.result(session.kept()));
            let joined = Joined {
                window: session.window,
                updated,
                corrected,
                timer,
            };
            (Some(joined), false)
        });
        if is_empty {
            state.clear(at);
        }
        Ok(joined)
    }

    fn judged_by(&self) -> Watermark {
        match self.options.domain {
            TimeDomain::Event => self.reached,
            TimeDomain::Processing => Watermark::MIN,
        }
    }

    fn add(
        &mut self,
        arrival: &Arrival<'_, K, In>,
        out: &mut Outputs<Out>,
    ) -> Result<Taken, OperatorError> {
        let Some(joined) = self.join(arrival)? else {
            return Ok(Taken::TooLate);
        };
        if let Some(time) = joined.timer {
            let backend = &mut self.states.backend;
            self.timers
                .register(backend, arrival.hash, arrival.key, time);
        }
        let firing = Firing::new(arrival.key, joined.window, self.reached);
        if let Some(updated) = joined.updated {
            firing.update(&mut self.parts.function, updated, out)?;
        }
        if let Some(corrected) = joined.corrected {
            firing.fire(&mut self.parts.function, corrected, out)?;
        }
        Ok(Taken::Yes)
    }

    /// Fires and drops what is due at `upto`, for at most [`FIRINGS_MAX`] timers.
    fn fire_due(
        &mut self,
        upto: Watermark,
        out: &mut Outputs<Out>,
    ) -> Result<Progress, OperatorError> {
        self.bring_due_near(upto.0)?;
        for fired in 0..FIRINGS_MAX {
            let Some(timer) = self.timers.pop_due(&mut self.states.backend, upto.0) else {
                self.fired += fired as u64;
                self.states.after_chunk()?;
                return Ok(Progress::Done);
            };
            self.fire_key(&timer, upto, out)?;
        }
        self.fired += FIRINGS_MAX as u64;
        self.states.after_chunk()?;
        Ok(Progress::More)
    }

    fn fire_key(
        &mut self,
        timer: &Timer<K, ()>,
        upto: Watermark,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        let at = KeyContext::new(timer.hash, &timer.key, self.states.now());
        let state = self.states.backend.get(self.sessions);
        if state.get(at).is_none() {
            return Ok(());
        }
        let (contents, function) = (&self.parts.contents, &mut self.parts.function);
        let (lateness, mut fault) = (self.options.lateness, Ok(()));
        let (next, is_empty) = state.update(at, Sessions::new, |sessions| {
            sessions.advance((lateness, upto), |window, kept| {
                if fault.is_ok() {
                    let firing = Firing::new(&timer.key, window, upto);
                    fault = firing.fire(function, contents.result(kept), out);
                }
            });
            (sessions.next_timer(lateness), sessions.is_empty())
        });
        fault?;
        if is_empty {
            state.clear(at);
        }
        if let Some(time) = next {
            let backend = &mut self.states.backend;
            self.timers.register(backend, timer.hash, &timer.key, time);
        }
        Ok(())
    }
}

/// Whether a record found a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Yes,
    TooLate,
}

impl<K, In, Out, G, C, F, S> Operator<In, Out> for SessionWindow<K, In, Out, G, C, F, S>
where
    K: Key,
    In: Record,
    Out: Record,
    G: Fn(&In) -> i64,
    C: WindowContents<In>,
    F: WindowFunction<K, C::Result, Out>,
    S: Fn(&In) -> K,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        assert_keyed(chunk);
        let now = EventTime(self.states.now().0);
        let is_event = self.options.domain == TimeDomain::Event;
        if is_event {
            self.lateness.on_chunk(chunk.times(), self.reached);
        }
        self.bring_near(chunk)?;
        for (record, own_time, hash) in chunk.drain() {
            let time = if is_event { own_time } else { now };
            if !time.is_some() {
                return Err(OperatorError::NoEventTime {
                    operator: "a session window",
                });
            }
            let key = (self.parts.key_of)(&record);
            let arrival = Arrival {
                hash,
                key: &key,
                record: &record,
                time,
            };
            if self.add(&arrival, out)? == Taken::TooLate {
                self.late_records += 1;
                if let Some(tag) = &self.options.late_output {
                    out.emit_side(tag, record, own_time)?;
                }
            }
        }
        self.states.after_chunk()
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        out: &mut Outputs<Out>,
    ) -> Result<Progress, OperatorError> {
        if self.options.domain == TimeDomain::Processing {
            return Ok(Progress::Done);
        }
        self.reached = self.reached.max(watermark);
        self.states.note_watermark(watermark);
        self.fire_due(self.reached, out)
    }

    fn on_turn(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        self.states.on_turn()?;
        if self.options.domain == TimeDomain::Event {
            return Ok(Progress::Done);
        }
        // Records of this very millisecond may follow, which belong to a session that ends with it.
        self.fire_due(Watermark(self.states.now().0.saturating_sub(1)), out)
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        let first = self.timers.peek_time();
        let first = first.map(|last| ProcessingTime(last.saturating_add(1)));
        first.filter(|_| self.options.domain == TimeDomain::Processing)
    }

    fn on_end(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        // In event time the largest watermark came before. In processing time open sessions would be lost.
        self.fire_due(Watermark::MAX, out)
    }

    fn snapshot_start(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.states.snapshot_start(barrier)
    }

    fn snapshot_step(&mut self) -> Result<SnapshotStep, OperatorError> {
        self.states.snapshot_step()
    }

    fn snapshot_abort(&mut self) {
        self.states.snapshot_abort();
    }

    fn report(&self, report: &mut OperatorReport) {
        self.states.report(report);
        report.records_late = self.late_records;
        let late_output = self.options.late_output.as_ref();
        report.late_output = late_output.map(|tag| tag.name().to_owned());
        report.timers = self.timers.len() as u64;
        report.timers_fired = self.fired;
        if self.options.domain == TimeDomain::Event {
            report.lateness = Some(self.lateness.snapshot());
        }
    }
}
