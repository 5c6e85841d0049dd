//! Keyed process functions: per-record code with state and timers of the record's key. Called by the chain with whole
//! keyed chunks, watermarks and turns.
//!
//! Timers that are due fire before the watermark moves on, in order of time, at most [`FIRINGS_MAX`] in one call, so that
//! a million due timers do not hold the slot.

use std::marker::PhantomData;

use highwater_state::keyed::{KeyedState, MapKey, OpenState};
use highwater_state::{
    AggregatingState, Aggregation, ChunkKeys, KeyContext, KeyedStateBackend, ListState, MapState,
    ReducingState, Reduction, StateDescriptor, StateError, StateHandle, TtlConfig, ValueState,
};
use highwater_time::{LatenessHistogram, Timer};
use highwater_types::{
    CheckpointBarrier, Chunk, EventTime, Key, KeyHash, ProcessingTime, Record, Watermark,
};

use crate::bound::Bound;
use crate::collector::Collector;
use crate::context::OperatorContext;
use crate::error::{OperatorError, UserError};
use crate::keyed_states::{KeyedStates, assert_keyed};
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::{OutputTag, Outputs};
use crate::process::FunctionPlace;
use crate::snapshot::SnapshotStep;
use crate::timer_service::StoredTimers;
use crate::user_metrics::UserMetrics;

/// The most timers or windows that fire in one call.
pub const FIRINGS_MAX: usize = 1_024;

/// The states in which timers rest.
const EVENT_TIMERS: &str = "highwater.event-timers";
const PROCESSING_TIMERS: &str = "highwater.processing-timers";

/// Lent to a keyed function when it is opened: declares its states.
pub struct OpenContext<'a, K> {
    backend: &'a mut KeyedStateBackend,
    place: FunctionPlace,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> OpenContext<'_, K> {
    /// Where the function runs, and whether its state was restored.
    pub const fn place(&self) -> &FunctionPlace {
        &self.place
    }

    /// Declares a value state.
    pub fn value<V: Record>(
        &mut self,
        name: &str,
        ttl: Option<TtlConfig>,
    ) -> Result<StateHandle<ValueState<K, (), V>>, StateError> {
        self.open(name, ttl)
    }

    /// Declares a list state.
    pub fn list<T: Record>(
        &mut self,
        name: &str,
        ttl: Option<TtlConfig>,
    ) -> Result<StateHandle<ListState<K, (), T>>, StateError> {
        self.open(name, ttl)
    }

    /// Declares a map state.
    pub fn map<M: MapKey, V: Record>(
        &mut self,
        name: &str,
        ttl: Option<TtlConfig>,
    ) -> Result<StateHandle<MapState<K, (), M, V>>, StateError> {
        self.open(name, ttl)
    }

    /// Declares a reducing state.
    pub fn reducing<V: Record, F: Reduction<V>>(
        &mut self,
        name: &str,
        reduction: F,
        ttl: Option<TtlConfig>,
    ) -> Result<StateHandle<ReducingState<K, (), V, F>>, StateError> {
        let descriptor = ReducingState::<K, (), V, F>::describe(name);
        self.backend
            .open_reducing(with_ttl(descriptor, ttl), reduction)
    }

    /// Declares an aggregating state.
    pub fn aggregating<A: Aggregation>(
        &mut self,
        name: &str,
        aggregation: A,
        ttl: Option<TtlConfig>,
    ) -> Result<StateHandle<AggregatingState<K, (), A>>, StateError> {
        let descriptor = AggregatingState::<K, (), A>::describe(name);
        self.backend
            .open_aggregating(with_ttl(descriptor, ttl), aggregation)
    }

    fn open<S: OpenState>(
        &mut self,
        name: &str,
        ttl: Option<TtlConfig>,
    ) -> Result<StateHandle<S>, StateError> {
        self.backend.open(with_ttl(S::describe(name), ttl))
    }
}

fn with_ttl(mut descriptor: StateDescriptor, ttl: Option<TtlConfig>) -> StateDescriptor {
    descriptor.ttl = ttl;
    descriptor
}

/// The time for which a timer was set, in its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FiredTimer {
    /// The watermark has reached this event time.
    Event(EventTime),
    /// The clock has reached this time.
    Processing(ProcessingTime),
}

/// What a keyed function can do while it handles a record or timer of one key.
pub struct KeyedContext<'a, K, Out> {
    hash: KeyHash,
    key: &'a K,
    collector: Collector<'a, Out>,
    backend: &'a mut KeyedStateBackend,
    timers: &'a mut TimerDomains<K>,
    watermark: Watermark,
    now: ProcessingTime,
}

impl<K: Key, Out: Record> KeyedContext<'_, K, Out> {
    /// The key.
    pub const fn key(&self) -> &K {
        self.key
    }

    /// The event time of the record, or the time of an event-time timer; else `EventTime::NONE`.
    pub const fn time(&self) -> EventTime {
        self.collector.time()
    }

    /// The event time that the input has reached. After a restore at least what it was at the checkpoint.
    pub const fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// The processing time of this turn.
    pub const fn now(&self) -> ProcessingTime {
        self.now
    }

    /// The state of this key.
    ///
    /// # Panics
    /// If the handle is of another operator.
    #[inline]
    pub fn state<S: KeyedState>(&mut self, handle: StateHandle<S>) -> Bound<'_, K, S> {
        let at = KeyContext::new(self.hash, self.key, self.now);
        Bound::new(self.backend.get(handle), at)
    }

    /// Emits to the main output, with [`KeyedContext::time`].
    #[inline]
    pub fn emit(&mut self, record: Out) {
        self.collector.emit(record);
    }

    /// Emits to the main output with another event time.
    pub fn emit_at(&mut self, record: Out, time: EventTime) {
        self.collector.emit_at(record, time);
    }

    /// Emits to a side output.
    pub fn emit_side<U: Record>(&mut self, tag: &OutputTag<U>, record: U) {
        self.collector.emit_side(tag, record);
    }

    /// Sets a timer that fires once when the watermark reaches `time`; a second one for the same time is the same timer.
    pub fn register_event_timer(&mut self, time: EventTime) {
        self.timers
            .event
            .register(self.backend, self.hash, self.key, time.0);
    }

    /// Takes an event-time timer of this key back, if it is set.
    pub fn delete_event_timer(&mut self, time: EventTime) {
        self.timers
            .event
            .delete(self.backend, self.hash, self.key, time.0);
    }

    /// Sets a timer that fires once when the clock reaches `time`; a second one for the same time is the same timer.
    pub fn register_processing_timer(&mut self, time: ProcessingTime) {
        self.timers
            .processing
            .register(self.backend, self.hash, self.key, time.0);
    }

    /// Takes a processing-time timer of this key back, if it is set.
    pub fn delete_processing_timer(&mut self, time: ProcessingTime) {
        self.timers
            .processing
            .delete(self.backend, self.hash, self.key, time.0);
    }
}

/// A function of the records and timers of one key at a time.
///
/// Source: Flink `KeyedProcessFunction`.
pub trait KeyedProcessFunction<K: Key, In, Out: Record> {
    /// Called once before the first record: declares states.
    fn open(&mut self, _context: &mut OpenContext<'_, K>) -> Result<(), UserError> {
        Ok(())
    }

    /// Handles a record.
    fn on_record(
        &mut self,
        record: In,
        context: &mut KeyedContext<'_, K, Out>,
    ) -> Result<(), UserError>;

    /// Handles a timer that this key has set.
    fn on_timer(
        &mut self,
        _timer: FiredTimer,
        _context: &mut KeyedContext<'_, K, Out>,
    ) -> Result<(), UserError> {
        Ok(())
    }

    /// Called last, also after a failure.
    fn close(&mut self) {}
}

struct TimerDomains<K> {
    event: StoredTimers<K>,
    processing: StoredTimers<K>,
}

/// Runs a [`KeyedProcessFunction`].
pub struct KeyedProcess<K: Key, In, Out: Record, F: KeyedProcessFunction<K, In, Out>, S> {
    states: KeyedStates,
    timers: TimerDomains<K>,
    function: F,
    key_of: S,
    /// The keys of the running chunk, with a local store.
    keys: ChunkKeys<K>,
    /// What the function sees: also the end of input, which the state does not keep.
    watermark: Watermark,
    lateness: LatenessHistogram,
    /// Timers that fired.
    fired: u64,
    user: UserMetrics,
    types: PhantomData<fn(In) -> Out>,
}

impl<K, In, Out, F, S> KeyedProcess<K, In, Out, F, S>
where
    K: Key,
    Out: Record,
    F: KeyedProcessFunction<K, In, Out>,
    S: Fn(&In) -> K,
{
    /// Opens the function; `key_of` gives the key by which the stream is keyed.
    ///
    /// # Errors
    /// Those of a restore and of the function.
    pub fn open(
        context: &OperatorContext,
        key_of: S,
        mut function: F,
    ) -> Result<Self, OperatorError> {
        let mut states = KeyedStates::open(context)?;
        let timers = TimerDomains {
            event: StoredTimers::open(&mut states.backend, EVENT_TIMERS)?,
            processing: StoredTimers::open(&mut states.backend, PROCESSING_TIMERS)?,
        };
        let place = FunctionPlace::of(context);
        let user = place.metrics().clone();
        let mut open = OpenContext {
            backend: &mut states.backend,
            place,
            key: PhantomData,
        };
        function
            .open(&mut open)
            .map_err(|e| OperatorError::user("open", e))?;
        states.finish_restore()?;
        Ok(Self {
            watermark: states.watermark(),
            states,
            timers,
            function,
            key_of,
            keys: ChunkKeys::default(),
            lateness: LatenessHistogram::default(),
            fired: 0,
            user,
            types: PhantomData,
        })
    }

    /// Brings the state of the keys of a chunk near: into memory where a local store has it.
    fn bring_near(&mut self, chunk: &Chunk<In>) -> Result<(), OperatorError> {
        if !self.states.backend.is_local() {
            self.states.backend.warm_keys(chunk.hashes());
            return Ok(());
        }
        self.keys.clear();
        for (record, &hash) in chunk.records().iter().zip(chunk.hashes()) {
            self.keys.push(hash, (self.key_of)(record));
        }
        Ok(self.states.backend.prepare_keys(&self.keys)?)
    }

    /// Brings the state of the keys whose timers are due into memory, where a local store has it.
    fn bring_due_near(&mut self, upto: i64, is_event: bool) -> Result<(), OperatorError> {
        if !self.states.backend.is_local() {
            return Ok(());
        }
        let domain = if is_event {
            &self.timers.event
        } else {
            &self.timers.processing
        };
        self.keys.clear();
        let keys = &mut self.keys;
        domain.visit_due(
            &mut self.states.backend,
            (upto, FIRINGS_MAX),
            |hash, key| {
                keys.push(hash, key);
            },
        );
        Ok(self.states.backend.prepare_keys(&self.keys)?)
    }

    /// Fires what is due in one domain, up to [`FIRINGS_MAX`].
    fn fire(
        &mut self,
        out: &mut Outputs<Out>,
        upto: i64,
        in_domain: fn(i64) -> FiredTimer,
    ) -> Result<Progress, OperatorError> {
        let is_event = matches!(in_domain(upto), FiredTimer::Event(_));
        self.bring_due_near(upto, is_event)?;
        for fired in 0..FIRINGS_MAX {
            let domain = match in_domain(upto) {
                FiredTimer::Event(_) => &mut self.timers.event,
                FiredTimer::Processing(_) => &mut self.timers.processing,
            };
            let Some(timer) = domain.pop_due(&mut self.states.backend, upto) else {
                self.fired += fired as u64;
                self.states.after_chunk()?;
                return Ok(Progress::Done);
            };
            self.fire_one(&timer, in_domain(timer.time), out)?;
        }
        self.fired += FIRINGS_MAX as u64;
        self.states.after_chunk()?;
        Ok(Progress::More)
    }

    fn fire_one(
        &mut self,
        timer: &Timer<K, ()>,
        fired: FiredTimer,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        let time = match fired {
            FiredTimer::Event(time) => time,
            FiredTimer::Processing(_) => EventTime::NONE,
        };
        let now = self.states.now();
        let mut context = KeyedContext {
            hash: timer.hash,
            key: &timer.key,
            collector: Collector::new(out, time),
            backend: &mut self.states.backend,
            timers: &mut self.timers,
            watermark: self.watermark,
            now,
        };
        let called = self.function.on_timer(fired, &mut context);
        context.collector.finish()?;
        called.map_err(|e| OperatorError::user("on_timer", e))
    }
}

impl<K: Key, In, Out: Record, F: KeyedProcessFunction<K, In, Out>, S> Drop
    for KeyedProcess<K, In, Out, F, S>
{
    fn drop(&mut self) {
        self.function.close();
    }
}

impl<K, In, Out, F, S> Operator<In, Out> for KeyedProcess<K, In, Out, F, S>
where
    K: Key,
    In: Record,
    Out: Record,
    F: KeyedProcessFunction<K, In, Out>,
    S: Fn(&In) -> K,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        assert_keyed(chunk);
        self.lateness.on_chunk(chunk.times(), self.watermark);
        let now = self.states.now();
        self.bring_near(chunk)?;
        for (record, time, hash) in chunk.drain() {
            let key = (self.key_of)(&record);
            let mut context = KeyedContext {
                hash,
                key: &key,
                collector: Collector::new(out, time),
                backend: &mut self.states.backend,
                timers: &mut self.timers,
                watermark: self.watermark,
                now,
            };
            let called = self.function.on_record(record, &mut context);
            context.collector.finish()?;
            called.map_err(|e| OperatorError::user("on_record", e))?;
        }
        self.states.after_chunk()
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        out: &mut Outputs<Out>,
    ) -> Result<Progress, OperatorError> {
        self.watermark = self.watermark.max(watermark);
        self.states.note_watermark(watermark);
        self.fire(out, self.watermark.0, |time| {
            FiredTimer::Event(EventTime(time))
        })
    }

    fn on_turn(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        self.states.on_turn()?;
        let now = self.states.now();
        if self
            .timers
            .processing
            .peek_time()
            .is_none_or(|time| time > now.0)
        {
            return Ok(Progress::Done);
        }
        self.fire(out, now.0, |time| {
            FiredTimer::Processing(ProcessingTime(time))
        })
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        self.timers.processing.peek_time().map(ProcessingTime)
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
        report.timers = (self.timers.event.len() + self.timers.processing.len()) as u64;
        report.timers_fired = self.fired;
        report.lateness = Some(self.lateness.snapshot());
        report.user = self.user.report();
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod timer_tests;
