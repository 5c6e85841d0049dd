//! The harness of one subtask.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_connectors::WakeHandle;
use highwater_state::{MemoryBudget, Store};
use highwater_types::{
    BarrierKind, CheckpointBarrier, CheckpointId, Chunk, Epoch, EventTime, JobIdentity, Key,
    KeyHash, MaxParallelism, OperatorUid, Parallelism, ProcessingTime, Record, StreamStatus,
    SubtaskIndex, Watermark,
};

use super::receiver::{HarnessElement, Receiver, records};
use crate::chain::{Collected, Link, Push};
use crate::context::OperatorContext;
use crate::error::OperatorError;
use crate::operator::{Operator, OperatorReport, Progress, TaskClock};
use crate::outputs::{Outputs, SidePort};
use crate::snapshot::{OperatorSnapshot, RestoredOperator};

/// What the operator finds when it is built.
pub struct HarnessSetup {
    /// Which subtask.
    pub subtask: u32,
    /// Of how many.
    pub parallelism: u32,
    /// How many key groups there are.
    pub max_parallelism: MaxParallelism,
    /// The processing time at the start.
    pub now: ProcessingTime,
    /// The state to restore.
    pub restored: Option<RestoredOperator>,
    /// The ports of side outputs that the test wants to see.
    pub sides: Vec<(String, Box<dyn SidePort>)>,
    /// The byte budget of keyed state.
    pub budget: MemoryBudget,
    /// Where keyed state rests.
    pub store: Store,
}

impl Default for HarnessSetup {
    fn default() -> Self {
        let (store, budget) = super::stores::usual();
        Self {
            subtask: 0,
            parallelism: 1,
            max_parallelism: MaxParallelism::DEFAULT,
            now: ProcessingTime(0),
            restored: None,
            sides: Vec::new(),
            budget,
            store,
        }
    }
}

/// One subtask of one operator under test.
///
/// # Panics
/// Methods without `try_` panic when the operator returns an error: the test fails with its message.
pub struct Harness<In, Out> {
    link: Box<dyn Push<In>>,
    main: Receiver<Out>,
    clock: TaskClock,
    wakes: Arc<AtomicU64>,
    // Behind the link: tasks on the rim end before their runtime.
    runtime: tokio::runtime::Runtime,
    checkpoints: u64,
    chunk: Chunk<In>,
}

impl<In: Record, Out: Record> Harness<In, Out> {
    /// A harness around an operator that needs no context.
    pub fn stateless(operator: impl Operator<In, Out> + 'static) -> Self {
        Self::new(HarnessSetup::default(), |_| Ok(operator))
    }

    /// A harness around the operator that `build` makes.
    pub fn new<O, B>(setup: HarnessSetup, build: B) -> Self
    where
        O: Operator<In, Out> + 'static,
        B: FnOnce(OperatorContext) -> Result<O, OperatorError>,
    {
        Self::try_new(setup, build).unwrap_or_else(|error| panic!("{}", chain_of(&error)))
    }

    /// The same, when building may fail.
    pub fn try_new<O, B>(setup: HarnessSetup, build: B) -> Result<Self, OperatorError>
    where
        O: Operator<In, Out> + 'static,
        B: FnOnce(OperatorContext) -> Result<O, OperatorError>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without IO can be built");
        let looks = Cell::new(0);
        let clock = TaskClock::measuring(move || {
            looks.set(looks.get() + 1);
            Duration::from_millis(looks.get())
        });
        let wakes = Arc::new(AtomicU64::new(0));
        clock.set(setup.now);
        let woken = Arc::clone(&wakes);
        let wake = WakeHandle::new(move || {
            woken.fetch_add(1, Ordering::Relaxed);
        });
        let uid = OperatorUid::parse("under-test").expect("the name is valid");
        let context = OperatorContext {
            job: JobIdentity::parse("harness").expect("the name is valid"),
            uid: uid.clone(),
            subtask: SubtaskIndex(setup.subtask),
            parallelism: Parallelism(setup.parallelism),
            max_parallelism: setup.max_parallelism,
            clock: clock.clone(),
            wake,
            budget: setup.budget,
            store: setup.store,
            rim: runtime.handle().clone(),
            restored: setup.restored,
            unmatched: crate::OnUnmatched::Refuse,
        };
        let operator = build(context)?;
        let main = Receiver::new();
        let outputs = Outputs::new(main.port(), setup.sides);
        Ok(Self {
            link: Box::new(Link::new(uid, operator, outputs)),
            main,
            clock,
            wakes,
            runtime,
            checkpoints: 0,
            chunk: Chunk::new(),
        })
    }

    /// Pushes one record.
    pub fn push(&mut self, record: In, time: EventTime) {
        self.push_all([(record, time)]);
    }

    /// Pushes records as one chunk.
    pub fn push_all(&mut self, records: impl IntoIterator<Item = (In, EventTime)>) {
        self.try_push_all(records)
            .unwrap_or_else(|error| panic!("{}", chain_of(&error)));
    }

    /// The same, when the operator may fail.
    pub fn try_push_all(
        &mut self,
        records: impl IntoIterator<Item = (In, EventTime)>,
    ) -> Result<(), OperatorError> {
        records
            .into_iter()
            .for_each(|(record, time)| self.chunk.push(record, time));
        self.push_chunk()
    }

    /// Pushes records of a keyed stream as one chunk; `key_of` gives the key of each.
    pub fn push_keyed<K: Key>(
        &mut self,
        records: impl IntoIterator<Item = (In, EventTime)>,
        key_of: impl Fn(&In) -> K,
    ) {
        self.try_push_keyed(records, key_of)
            .unwrap_or_else(|error| panic!("{}", chain_of(&error)));
    }

    /// The same, when the operator may fail.
    pub fn try_push_keyed<K: Key>(
        &mut self,
        records: impl IntoIterator<Item = (In, EventTime)>,
        key_of: impl Fn(&In) -> K,
    ) -> Result<(), OperatorError> {
        records
            .into_iter()
            .for_each(|(record, time)| self.chunk.push(record, time));
        self.chunk.rekey(|record| key_of(record).key_hash());
        self.push_chunk()
    }

    fn push_chunk(&mut self) -> Result<(), OperatorError> {
        let pushed = self.link.push(&mut self.chunk);
        assert!(
            pushed.is_err() || self.chunk.is_empty(),
            "an operator drains its chunk"
        );
        self.chunk.clear();
        pushed
    }

    /// Moves the event time and fires all that is due. Returns how many turns that took besides the call.
    pub fn watermark(&mut self, millis: i64) -> usize {
        let progress = check(self.link.watermark(Watermark(millis)));
        self.finish(progress)
    }

    /// Moves the event time by one call; the test gives the turns itself.
    pub fn watermark_call(&mut self, millis: i64) -> Progress {
        check(self.link.watermark(Watermark(millis)))
    }

    /// Makes the input idle or active.
    pub fn status(&mut self, status: StreamStatus) {
        check(self.link.status(status));
    }

    /// Gives turns until the work is done. Returns how many beyond the first reported more.
    pub fn turns(&mut self) -> usize {
        let progress = check(self.link.turn());
        self.finish(progress)
    }

    /// Gives one turn.
    pub fn turn(&mut self) -> Progress {
        check(self.link.turn())
    }

    /// Takes the room from what stands behind the operator, or gives it back.
    pub fn set_output_full(&mut self, full: bool) {
        self.main.0.borrow_mut().full = full;
    }

    /// Gives one turn to an operator that may fail.
    pub fn try_turn(&mut self) -> Result<Progress, OperatorError> {
        self.link.turn()
    }

    fn finish(&mut self, mut progress: Progress) -> usize {
        let mut turns = 0;
        while progress != Progress::Done {
            progress = check(self.link.turn());
            turns += 1;
        }
        turns
    }

    /// Sets the processing time and gives turns.
    pub fn processing_time(&mut self, millis: i64) -> usize {
        self.clock.set(ProcessingTime(millis));
        self.turns()
    }

    /// The processing time.
    pub fn now(&self) -> ProcessingTime {
        self.clock.now()
    }

    /// Lets the clock of the rim move on and all its tasks run, then gives turns.
    pub fn advance_rim(&mut self, by: Duration) {
        self.run_rim(by);
        self.turns();
    }

    /// Lets the clock of the rim move on and all its tasks run; the operator gets no turn.
    pub fn run_rim(&mut self, by: Duration) {
        self.runtime.block_on(async {
            tokio::time::sleep(by).await;
            for _ in 0..RIM_YIELDS {
                tokio::task::yield_now().await;
            }
        });
        let now = self.clock.now().saturating_add(by.as_millis() as i64);
        self.clock.set(now);
    }

    /// Ends the input after the largest watermark, as a source does.
    pub fn end(&mut self) {
        self.watermark(i64::MAX);
        let progress = check(self.link.end());
        self.finish(progress);
    }

    /// Ends the input by one call; the test gives the turns itself.
    pub fn end_call(&mut self) -> Progress {
        check(self.link.end())
    }

    /// A barrier: the state up to here belongs to the snapshot.
    pub fn barrier(&mut self) {
        self.checkpoints += 1;
        let id = CheckpointId {
            number: self.checkpoints,
            epoch: Epoch(1),
        };
        let kind = BarrierKind::Checkpoint;
        check(self.link.barrier(&CheckpointBarrier { id, kind }));
    }

    /// One portion of the snapshot; `Some` when it is whole.
    pub fn collect_portion(&mut self) -> Option<OperatorSnapshot> {
        let mut into = Collected::new();
        match check(self.link.collect(&mut into)) {
            Progress::More | Progress::Waiting => None,
            Progress::Done => Some(into.pop().map(|(_, snapshot)| snapshot).unwrap_or_default()),
        }
    }

    /// The rest of the snapshot.
    pub fn collect(&mut self) -> OperatorSnapshot {
        loop {
            if let Some(snapshot) = self.collect_portion() {
                return snapshot;
            }
        }
    }

    /// A barrier and the whole snapshot.
    pub fn snapshot(&mut self) -> OperatorSnapshot {
        self.barrier();
        self.collect()
    }

    /// Gives the open snapshot up.
    pub fn abort(&mut self) {
        self.link.abort();
    }

    /// Takes the records of the main output.
    pub fn take_output(&mut self) -> Vec<(Out, EventTime)> {
        records(self.main.take())
    }

    /// Takes everything of the main output in order.
    pub fn take_elements(&mut self) -> Vec<HarnessElement<Out>> {
        self.main.take()
    }

    /// Takes the key hashes of the main output.
    pub fn take_hashes(&mut self) -> Vec<KeyHash> {
        std::mem::take(&mut self.main.0.borrow_mut().hashes)
    }

    /// The most records that came out in one chunk.
    pub fn largest_chunk(&self) -> usize {
        self.main.0.borrow().largest_chunk
    }

    /// How many records the operator takes now.
    pub fn room(&self) -> usize {
        self.link.room()
    }

    /// When the operator needs a turn at the latest.
    pub fn next_deadline(&self) -> Option<ProcessingTime> {
        self.link.next_deadline()
    }

    /// How often the slot thread was woken.
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// What the operator counts.
    pub fn report(&self) -> OperatorReport {
        let mut reports = Vec::new();
        self.link.report(&mut reports);
        reports.swap_remove(0)
    }
}

/// How often other tasks of the rim may run after its clock has moved: more than any chain of wake-ups in a test.
const RIM_YIELDS: usize = 64;

fn check<T>(result: Result<T, OperatorError>) -> T {
    result.unwrap_or_else(|error| panic!("{}", chain_of(&error)))
}

/// An error with its causes, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
