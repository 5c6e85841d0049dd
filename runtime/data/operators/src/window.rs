//! Windows of fixed size over a keyed stream, tumbling or sliding, in event or processing time. Called by the chain with
//! whole keyed chunks, watermarks and turns.
//!
//! There is one table per open window and no timer per key: a window that is complete is fired by draining its table in
//! portions. With allowed lateness each entry moves to the table of fired windows as it fires, so state itself says what has
//! fired, also after a restore at another parallelism; a late record changes the entry there and fires it again at once,
//! with the whole corrected value (T-03). A fired window is dropped whole at its cleanup time.
//!
//! Rules of time: complete when the watermark reaches `end - 1` (T-01), too late when the cleanup time is at or before the
//! watermark (T-02); a record goes to the late output when all its windows are too late for it.
//!
//! Source: Flink `WindowOperator`.

mod contents;
mod function;
#[cfg(test)]
mod random_tests;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use highwater_state::keyed::OpenState;
use highwater_state::{Drained, SlicedState, StateHandle};
use highwater_time::LatenessHistogram;
use highwater_types::{
    CheckpointBarrier, Chunk, EventTime, Key, KeyHash, ProcessingTime, Record, Watermark,
};
use highwater_window::{AllowedLateness, TimeWindow, WindowAssigner};

pub use self::contents::{Aggregated, AllRecords, RecordList, Reduced, WindowContents};
pub use self::function::{Firing, WindowContext, WindowFunction, WithUpdates, emit_result};
use self::rows::{SortedRows, sort_rows};
use crate::context::OperatorContext;
use crate::error::OperatorError;
use crate::keyed_process::FIRINGS_MAX;
use crate::keyed_states::{KeyedStates, assert_keyed};
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::{OutputTag, Outputs};
use crate::snapshot::SnapshotStep;

/// The states: windows that have not fired, and fired ones that may still be corrected.
const OPEN: &str = "window.open";
const FIRED: &str = "window.fired";

/// Which clock moves the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeDomain {
    /// The event time of records, and the watermark.
    Event,
    /// The time at which records are handled.
    Processing,
}

/// The settings of a window operator.
#[derive(Clone, Debug)]
pub struct WindowOptions<In> {
    /// Which clock moves the windows.
    pub domain: TimeDomain,
    /// For how long after its end a window takes late records. Without meaning in processing time.
    pub lateness: AllowedLateness,
    /// Where records go, unchanged, that are too late for all their windows; `None` = they are dropped. Both are counted.
    pub late_output: Option<OutputTag<In>>,
}

impl<In> WindowOptions<In> {
    /// Event-time windows without allowed lateness that drop late records.
    pub const fn event_time() -> Self {
        Self {
            domain: TimeDomain::Event,
            lateness: AllowedLateness(0),
            late_output: None,
        }
    }

    /// Processing-time windows.
    pub const fn processing_time() -> Self {
        Self {
            domain: TimeDomain::Processing,
            lateness: AllowedLateness(0),
            late_output: None,
        }
    }

    /// The same with allowed lateness.
    pub const fn with_lateness(mut self, lateness: AllowedLateness) -> Self {
        self.lateness = lateness;
        self
    }

    /// The same with an output for records that come too late.
    pub fn with_late_output(mut self, tag: &OutputTag<In>) -> Self {
        self.late_output = Some(tag.clone());
        self
    }
}

type Slices<K, C> = SlicedState<K, TimeWindow, C>;

/// The window operator. Results carry the last millisecond of their window.
pub struct Window<K, In, Out, A, C: WindowContents<In>, F, S> {
    states: KeyedStates,
    open: StateHandle<Slices<K, C::Kept>>,
    fired: StateHandle<Slices<K, C::Kept>>,
    assigner: A,
    contents: C,
    function: F,
    key_of: S,
    options: WindowOptions<In>,
    /// The watermark that records are judged by; not moved in processing time.
    reached: Watermark,
    rows: SortedRows,
    lateness: LatenessHistogram,
    late_records: u64,
    /// Keys whose window fired on time.
    fired_keys: u64,
    deadline: Option<ProcessingTime>,
    /// Whether a window was restored open from a subtask whose watermark was behind that of another.
    is_overdue: bool,
    types: PhantomData<fn() -> Out>,
}

/// The parts of a window operator that the job author chooses.
pub struct WindowParts<A, C, F, S> {
    /// Which windows a time falls into.
    pub assigner: A,
    /// What is kept of the records of a window.
    pub contents: C,
    /// What is emitted when a window fires.
    pub function: F,
    /// The key by which the stream is keyed.
    pub key_of: S,
}

impl<K, In, Out, A, C, F, S> Window<K, In, Out, A, C, F, S>
where
    K: Key,
    In: Record,
    Out: Record,
    A: WindowAssigner,
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
        parts: WindowParts<A, C, F, S>,
        mut options: WindowOptions<In>,
    ) -> Result<Self, OperatorError> {
        if options.domain == TimeDomain::Processing {
            options.lateness = AllowedLateness(0);
        }
        let mut states = KeyedStates::open(context)?;
        let open = states.backend.open(Slices::<K, C::Kept>::describe(OPEN))?;
        let fired = states.backend.open(Slices::<K, C::Kept>::describe(FIRED))?;
        states.finish_restore()?;
        let mut operator = Self {
            open,
            fired,
            assigner: parts.assigner,
            contents: parts.contents,
            function: parts.function,
            key_of: parts.key_of,
            options,
            reached: states.watermark(),
            states,
            rows: SortedRows::default(),
            lateness: LatenessHistogram::default(),
            late_records: 0,
            fired_keys: 0,
            deadline: None,
            is_overdue: false,
            types: PhantomData,
        };
        let first = operator.states.backend.get(open).namespaces().next();
        operator.is_overdue = first.is_some_and(|window| window.is_complete(operator.reached));
        operator.note_deadline();
        Ok(operator)
    }

    /// Adds the rows of each open window in one go.
    fn add_open(&mut self, chunk: &Chunk<In>, out: &mut Outputs<Out>) -> Result<(), OperatorError> {
        let state = self.states.backend.get(self.open);
        let (contents, function, key_of) = (&self.contents, &mut self.function, &self.key_of);
        let records = chunk.records();
        let (watermark, mut fault) = (self.reached, Ok(()));
        for batch in self.rows.batches() {
            let record_at = |at: usize| &records[batch.rows[at] as usize];
            let slice = state.slice(&batch.window);
            slice.prepare_chunk(&batch.hashes, &(), |at| key_of(record_at(at)))?;
            slice.update_chunk(
                &batch.hashes,
                &(),
                |at| key_of(record_at(at)),
                || contents.create(),
                |at, kept| {
                    contents.add(kept, record_at(at));
                    if F::SEES_UPDATES && fault.is_ok() {
                        let key = key_of(record_at(at));
                        let firing = Firing::new(&key, batch.window, watermark);
                        fault = firing.update(function, contents.result(kept), out);
                    }
                },
            );
            fault?;
            fault = Ok(());
        }
        Ok(())
    }

    /// Adds each row of a window that has fired, and fires the corrected value at once.
    fn add_late(&mut self, chunk: &Chunk<In>, out: &mut Outputs<Out>) -> Result<(), OperatorError> {
        self.prepare_late(chunk)?;
        let state = self.states.backend.get(self.fired);
        for &(row, window) in self.rows.late() {
            let (record, hash) = (&chunk.records()[row as usize], chunk.hashes()[row as usize]);
            let key = (self.key_of)(record);
            let contents = &self.contents;
            let (updated, result) = state.slice(&window).upsert(
                (hash, &key, &()),
                || contents.create(),
                |kept| {
                    contents.add(kept, record);
                    let updated = F::SEES_UPDATES.then(|| contents.result(kept));
                    (updated, contents.result(kept))
                },
            );
            let firing = Firing::new(&key, window, self.reached);
            if let Some(updated) = updated {
                firing.update(&mut self.function, updated, out)?;
            }
            firing.fire(&mut self.function, result, out)?;
        }
        Ok(())
    }

    /// Brings the entries of the late rows into memory where a local store has them: one read for each window.
    fn prepare_late(&mut self, chunk: &Chunk<In>) -> Result<(), OperatorError> {
        if !self.states.backend.is_local() {
            return Ok(());
        }
        let mut keys: BTreeMap<TimeWindow, (Vec<KeyHash>, Vec<K>)> = BTreeMap::new();
        for &(row, window) in self.rows.late() {
            let (hashes, keys) = keys.entry(window).or_default();
            hashes.push(chunk.hashes()[row as usize]);
            keys.push((self.key_of)(&chunk.records()[row as usize]));
        }
        let state = self.states.backend.get(self.fired);
        for (window, (hashes, keys)) in &keys {
            let slice = state.slice(window);
            slice.prepare_chunk(hashes, &(), |at| &keys[at])?;
        }
        Ok(())
    }

    /// Hands over the records that are too late, and empties the chunk.
    fn let_go(
        &mut self,
        chunk: &mut Chunk<In>,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        self.late_records += self.rows.too_late().len() as u64;
        let Some(tag) = self.options.late_output.as_ref() else {
            chunk.clear();
            return Ok(());
        };
        let mut too_late = self.rows.too_late().iter().copied().peekable();
        for (at, (record, time, _)) in chunk.drain().enumerate() {
            if too_late.next_if_eq(&(at as u32)).is_some() {
                out.emit_side(tag, record, time)?;
            }
        }
        Ok(())
    }

    /// Fires windows that are complete at `upto`, at most [`FIRINGS_MAX`] entries, and drops those that are over.
    fn fire_due(
        &mut self,
        upto: Watermark,
        out: &mut Outputs<Out>,
    ) -> Result<Progress, OperatorError> {
        let mut left = FIRINGS_MAX;
        loop {
            let first = self
                .states
                .backend
                .get(self.open)
                .namespaces()
                .next()
                .copied();
            let Some(window) = first.filter(|window| window.is_complete(upto)) else {
                break;
            };
            if left == 0 {
                self.states.after_chunk()?;
                return Ok(Progress::More);
            }
            left -= self.fire_portion(window, upto, left, out)?;
        }
        let fired = self.states.backend.get(self.fired);
        let lateness = self.options.lateness;
        let over = fired
            .namespaces()
            .copied()
            .take_while(|window| window.is_expired(lateness, upto));
        for window in over.collect::<Vec<_>>() {
            fired.drop_slice(&window);
        }
        self.states.after_chunk()?;
        self.note_deadline();
        Ok(Progress::Done)
    }

    /// Remembers when the first open window is complete, for processing time.
    fn note_deadline(&mut self) {
        let first = self.states.backend.get(self.open).namespaces().next();
        self.deadline = match self.options.domain {
            TimeDomain::Event => None,
            TimeDomain::Processing => first.map(|window| ProcessingTime(window.end)),
        };
    }

    /// Fires up to `limit` entries of a window. Returns how many that was, or was worth: with a local store a portion may go over
    /// many key groups that hold little.
    fn fire_portion(
        &mut self,
        window: TimeWindow,
        upto: Watermark,
        limit: usize,
        out: &mut Outputs<Out>,
    ) -> Result<usize, OperatorError> {
        let stays = !window.is_expired(self.options.lateness, upto);
        let (open, fired) = self.states.backend.get_two((self.open, self.fired));
        let mut kept_on = stays.then(|| fired.slice(&window));
        let (contents, function) = (&self.contents, &mut self.function);
        let (mut count, mut fault) = (0, Ok(()));
        let drained = open.drain(&window, limit, |hash, key, kept| {
            count += 1;
            let result = match kept_on.as_mut() {
                Some(slice) => {
                    let result = contents.result(&kept);
                    slice.put(hash, &key, &(), kept);
                    result
                }
                None => contents.last_result(kept),
            };
            if fault.is_ok() {
                fault = Firing::new(&key, window, upto).fire(function, result, out);
            }
        });
        fault?;
        self.fired_keys += count as u64;
        let least = match drained? {
            Drained::All => 0,
            Drained::Part => (FIRINGS_MAX / 8).min(limit),
        };
        Ok(count.max(least))
    }

    /// What is complete now, by the clock of the domain. By that of the machine it is what lies before now: records of this very
    /// millisecond may follow, and a window that took the last of its milliseconds for over would fire again with them.
    fn due(&self) -> Watermark {
        match self.options.domain {
            TimeDomain::Event => self.reached,
            TimeDomain::Processing => Watermark(self.states.now().0.saturating_sub(1)),
        }
    }
}

impl<K, In, Out, A, C, F, S> Operator<In, Out> for Window<K, In, Out, A, C, F, S>
where
    K: Key,
    In: Record,
    Out: Record,
    A: WindowAssigner,
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
        if std::mem::take(&mut self.is_overdue) {
            while self.fire_due(self.reached, out)? == Progress::More {}
        }
        let judged_by = match self.options.domain {
            TimeDomain::Event => {
                self.lateness.on_chunk(chunk.times(), self.reached);
                (self.options.lateness, self.reached)
            }
            TimeDomain::Processing => (self.options.lateness, Watermark::MIN),
        };
        let now = EventTime(self.states.now().0);
        let fixed_time = (self.options.domain == TimeDomain::Processing).then_some(now);
        sort_rows(&mut self.rows, chunk, &self.assigner, judged_by, fixed_time)?;
        self.add_open(chunk, out)?;
        self.add_late(chunk, out)?;
        self.let_go(chunk, out)?;
        self.note_deadline();
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
        match self.options.domain {
            TimeDomain::Event => Ok(Progress::Done),
            TimeDomain::Processing => self.fire_due(self.due(), out),
        }
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        self.deadline
    }

    fn on_end(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        // In event time the largest watermark came before. In processing time open windows would be lost.
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
        report.timers_fired = self.fired_keys;
        let late_output = self.options.late_output.as_ref();
        report.late_output = late_output.map(|tag| tag.name().to_owned());
        if self.options.domain == TimeDomain::Event {
            report.lateness = Some(self.lateness.snapshot());
        }
    }
}
