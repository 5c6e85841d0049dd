//! Tests of a task's agenda: what goes out, in which order, and what does not.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use highwater_types::{BarrierKind, Epoch};

use super::*;
use crate::clock::ManualClock;

/// A chain that notes what reaches it, has left what a test sets, maybe without room for it, and
/// whose snapshots are as far as told.
#[derive(Clone)]
struct Noting {
    barriers: Arc<Mutex<Vec<CheckpointId>>>,
    watermarks: Arc<Mutex<Vec<Watermark>>>,
    left: Arc<Mutex<Progress>>,
    is_held: bool,
    gathering: Arc<Mutex<Progress>>,
    /// Moves on by so many milliseconds with each call for the snapshot.
    clock: ManualClock,
    collect_millis: Arc<AtomicI64>,
}

impl Default for Noting {
    fn default() -> Self {
        Self {
            barriers: Arc::default(),
            watermarks: Arc::default(),
            left: Arc::new(Mutex::new(Progress::Done)),
            is_held: false,
            gathering: Arc::new(Mutex::new(Progress::Done)),
            clock: ManualClock::default(),
            collect_millis: Arc::default(),
        }
    }
}

impl Noting {
    fn barriers(&self) -> Vec<CheckpointId> {
        self.barriers.lock().unwrap().clone()
    }
}

impl Downstream for Noting {
    fn watermark(&mut self, watermark: Watermark) -> Result<Progress, OperatorError> {
        self.watermarks.lock().unwrap().push(watermark);
        Ok(Progress::Done)
    }

    fn status(&mut self, _: StreamStatus) -> Result<(), OperatorError> {
        Ok(())
    }

    fn end(&mut self) -> Result<Progress, OperatorError> {
        self.turn()
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.barriers.lock().unwrap().push(barrier.id);
        Ok(())
    }

    fn turn(&mut self) -> Result<Progress, OperatorError> {
        Ok(*self.left.lock().unwrap())
    }

    fn collect(&mut self, _: &mut Collected) -> Result<Progress, OperatorError> {
        let took = self.collect_millis.load(Ordering::Relaxed);
        self.clock.set(ProcessingTime(self.clock.now().0 + took));
        Ok(*self.gathering.lock().unwrap())
    }

    fn abort(&mut self) {}

    fn completed(&mut self, _: CheckpointId) -> Result<(), OperatorError> {
        Ok(())
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        None
    }

    fn blocked(&self) -> Option<&str> {
        self.is_held.then_some("the next task")
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn report(&self, _: &mut Vec<OperatorReport>) {}
}

/// A source without records in front of it.
struct Silent(Noting);

impl SourceInput for Silent {
    fn poll(&mut self) -> Result<SourcePoll, OperatorError> {
        Ok(SourcePoll::Nothing)
    }

    fn add_splits(&mut self, _: Vec<Split>) -> Result<(), OperatorError> {
        Ok(())
    }

    fn no_more_splits(&mut self) {}

    fn snapshot(&mut self) -> Result<Vec<Split>, OperatorError> {
        Ok(Vec::new())
    }

    fn completed(&mut self, _: CheckpointId) -> Result<(), OperatorError> {
        Ok(())
    }

    fn signals(&mut self, _: bool) -> Vec<SourceSignal> {
        Vec::new()
    }

    fn position(&self) -> String {
        String::new()
    }

    fn source_report(&self) -> SourceReport {
        SourceReport::default()
    }

    fn head(&mut self) -> &mut dyn Downstream {
        &mut self.0
    }

    fn head_ref(&self) -> &dyn Downstream {
        &self.0
    }
}

/// A gate with one channel that delivers these steps.
struct Scripted(VecDeque<Step>, Noting);

impl InputGate for Scripted {
    fn channel_count(&self) -> usize {
        1
    }

    fn step(&mut self) -> Result<Step, OperatorError> {
        Ok(self.0.pop_front().unwrap_or(Step::Nothing))
    }

    fn block(&mut self, _: usize) {}

    fn unblock_all(&mut self) {}

    fn head(&mut self) -> &mut dyn Downstream {
        &mut self.1
    }

    fn head_ref(&self) -> &dyn Downstream {
        &self.1
    }
}

fn barrier(number: u64) -> CheckpointBarrier {
    CheckpointBarrier {
        id: CheckpointId {
            number,
            epoch: Epoch(1),
        },
        kind: BarrierKind::Checkpoint,
    }
}

#[test]
fn a_source_sends_no_barrier_behind_its_decline() {
    let noting = Noting::default();
    let mut task = Task::new(
        TaskInput::Source(Box::new(Silent(noting.clone()))),
        Arc::new(|_| {}),
    );
    for letter in [
        TaskLetter::Trigger(barrier(1)),
        TaskLetter::Aborted(barrier(1).id),
        TaskLetter::Trigger(barrier(2)),
    ] {
        task.letter(letter).unwrap();
    }
    task.turn(&ManualClock::default()).unwrap();
    assert_eq!(noting.barriers(), [barrier(2).id]);
    let ids: Vec<_> = task
        .events()
        .map(|event| match event {
            TaskEvent::Snapshot { id, .. } => id,
            TaskEvent::Ended => panic!("nothing has ended"),
        })
        .collect();
    assert_eq!(ids, [barrier(2).id]);
}

#[test]
fn an_aligned_task_sends_no_barrier_behind_its_decline() {
    let noting = Noting::default();
    let steps = VecDeque::from([Step::Barrier(0, barrier(1))]);
    let input = TaskInput::Gate {
        gate: Box::new(Scripted(steps, noting.clone())),
        valve: StatusValve::new(1),
        alignment: Alignment::new(1),
    };
    let mut task = Task::new(input, Arc::new(|_| {}));
    let aligned = task.take_input(&ManualClock::default()).unwrap();
    assert!(aligned, "the barrier is aligned");
    task.letter(TaskLetter::Aborted(barrier(1).id)).unwrap();
    task.turn(&ManualClock::default()).unwrap();
    assert_eq!(noting.barriers(), []);
}

#[test]
fn a_chain_with_work_left_and_no_room_waits_for_the_room() {
    let held = Noting {
        left: Arc::new(Mutex::new(Progress::Waiting)),
        is_held: true,
        ..Noting::default()
    };
    let input = TaskInput::Source(Box::new(Silent(held)));
    let mut task = Task::new(input, Arc::new(|_| {}));
    let waiting = task.turn(&ManualClock::default()).unwrap();
    assert_eq!(waiting, Waiting::Output, "or the slot thread would spin");
}

/// A source that always has records, in front of a chain that takes longer than a turn for each chunk.
struct Busy {
    clock: ManualClock,
    chunks: i64,
    chain: Noting,
}

impl SourceInput for Busy {
    fn poll(&mut self) -> Result<SourcePoll, OperatorError> {
        self.chunks += 1;
        self.clock.set(ProcessingTime(self.chunks));
        Ok(SourcePoll::Records(1_024))
    }

    fn add_splits(&mut self, _: Vec<Split>) -> Result<(), OperatorError> {
        Ok(())
    }

    fn no_more_splits(&mut self) {}

    fn snapshot(&mut self) -> Result<Vec<Split>, OperatorError> {
        Ok(Vec::new())
    }

    fn completed(&mut self, _: CheckpointId) -> Result<(), OperatorError> {
        Ok(())
    }

    fn signals(&mut self, _: bool) -> Vec<SourceSignal> {
        Vec::new()
    }

    fn position(&self) -> String {
        self.chunks.to_string()
    }

    fn source_report(&self) -> SourceReport {
        SourceReport::default()
    }

    fn head(&mut self) -> &mut dyn Downstream {
        &mut self.chain
    }

    fn head_ref(&self) -> &dyn Downstream {
        &self.chain
    }
}

#[test]
fn t40_behind_a_slow_function_a_barrier_waits_for_one_chunk() {
    let (clock, noting) = (ManualClock::default(), Noting::default());
    let mut task = Task::new(
        TaskInput::Source(Box::new(Busy {
            clock: clock.clone(),
            chunks: 0,
            chain: noting.clone(),
        })),
        Arc::new(|_| {}),
    );
    for number in 1..5 {
        task.turn(&clock).unwrap();
        assert_eq!(
            task.position().unwrap(),
            number.to_string(),
            "one chunk a turn"
        );
        task.letter(TaskLetter::Trigger(barrier(number))).unwrap();
        assert_eq!(noting.barriers().len() as u64, number - 1);
    }
    task.turn(&clock).unwrap();
    assert_eq!(noting.barriers().len(), 4);
}

#[test]
fn t10_only_a_stop_that_drains_ends_event_time() {
    let stop = |mode, is_savepoint| BarrierKind::Stop { mode, is_savepoint };
    for (kind, expected) in [
        (BarrierKind::Checkpoint, vec![]),
        (BarrierKind::Savepoint, vec![]),
        (stop(StopMode::Suspend, false), vec![]),
        (stop(StopMode::Suspend, true), vec![]),
        (stop(StopMode::Drain, false), vec![Watermark::MAX]),
        (stop(StopMode::Drain, true), vec![Watermark::MAX]),
    ] {
        let noting = Noting::default();
        let mut task = Task::new(
            TaskInput::Source(Box::new(Silent(noting.clone()))),
            Arc::new(|_| {}),
        );
        let barrier = CheckpointBarrier { kind, ..barrier(1) };
        task.letter(TaskLetter::Trigger(barrier)).unwrap();
        task.turn(&ManualClock::default()).unwrap();
        assert_eq!(noting.barriers(), [barrier.id]);
        assert_eq!(*noting.watermarks.lock().unwrap(), expected, "{kind:?}");
    }
}

#[test]
fn a_task_works_on_a_snapshot_only_while_its_own_thread_has_to() {
    for (gathering, works) in [
        (Progress::More, true),
        (Progress::Waiting, false),
        (Progress::Done, false),
    ] {
        let noting = Noting {
            gathering: Arc::new(Mutex::new(gathering)),
            ..Noting::default()
        };
        let input = TaskInput::Source(Box::new(Silent(noting)));
        let mut task = Task::new(input, Arc::new(|_| {}));
        task.letter(TaskLetter::Trigger(barrier(1))).unwrap();
        task.turn(&ManualClock::default()).unwrap();
        assert_eq!(task.works_on_snapshot(), works, "{gathering:?}");
        assert_eq!(
            task.events().count(),
            usize::from(gathering == Progress::Done)
        );
    }
}

#[test]
fn a_look_at_a_snapshot_that_is_sealed_elsewhere_is_no_pause_until_it_has_news() {
    let noting = Noting::default();
    let input = TaskInput::Source(Box::new(Silent(noting.clone())));
    let mut task = Task::new(input, Arc::new(|_| {}));
    let mut before = Duration::ZERO;
    for (id, portion, news, longest) in [(1, 3, 7, 7), (2, 7, 3, 7)] {
        task.letter(TaskLetter::Trigger(barrier(id))).unwrap();
        let looks = [
            (Progress::More, portion),
            (Progress::Waiting, 1),
            (Progress::Waiting, 50),
            (Progress::Waiting, 50),
            (Progress::Done, news),
        ];
        for (found, millis) in looks {
            *noting.gathering.lock().unwrap() = found;
            noting.collect_millis.store(millis, Ordering::Relaxed);
            task.turn(&noting.clock).unwrap();
        }
        before += Duration::from_millis(longest);
        assert_eq!(task.pauses().sum(), before);
    }
}

#[test]
fn a_chain_that_waits_for_the_outside_takes_no_turns_meanwhile() {
    let (clock, noting) = (ManualClock::default(), Noting::default());
    let input = TaskInput::Source(Box::new(Silent(noting.clone())));
    let mut task = Task::new(input, Arc::new(|_| {}));
    for (left, waiting) in [
        (Progress::More, Waiting::Turn),
        (Progress::Waiting, Waiting::Input),
        (Progress::Done, Waiting::Input),
    ] {
        *noting.left.lock().unwrap() = left;
        assert_eq!(task.turn(&clock).unwrap(), waiting, "{left:?}");
    }
}

#[test]
fn the_way_of_a_barrier_is_measured_from_the_news_of_it_to_the_last_channel() {
    let at = |millis| ProcessingTime(millis);
    let (clock, noting) = (ManualClock::default(), Noting::default());
    let steps = [
        Step::Barrier(0, barrier(1)),
        Step::Barrier(1, barrier(1)),
        Step::Status(1, StreamStatus::Idle),
        Step::Barrier(1, barrier(2)),
    ];
    let input = TaskInput::Gate {
        gate: Box::new(Scripted(steps.into(), noting)),
        valve: StatusValve::new(2),
        alignment: Alignment::new(2),
    };
    let mut task = Task::new(input, Arc::new(|_| {}));
    let expected = |number, millis| TaskLetter::Expected {
        id: barrier(number).id,
        at: Duration::from_millis(millis),
    };
    task.letter(expected(1, 2)).unwrap();
    for millis in [5, 9, 10, 20] {
        clock.set(at(millis));
        assert!(task.take_input(&clock).unwrap());
    }
    // Behind its barrier: how long that took cannot be known.
    task.letter(expected(2, 21)).unwrap();
    let figures = task.loop_figures();
    let told = [figures.start_delay, figures.alignment].map(|spans| (spans.count(), spans.sum()));
    let millis = Duration::from_millis;
    assert_eq!(told, [(1, millis(3)), (1, millis(4))]);
    assert_eq!(figures.inputs_idle, 1);
}

#[test]
fn a_source_measures_how_long_its_barrier_was_on_the_way() {
    let (clock, noting) = (ManualClock::default(), Noting::default());
    let input = TaskInput::Source(Box::new(Silent(noting)));
    let mut task = Task::new(input, Arc::new(|_| {}));
    let id = barrier(1).id;
    let at = Duration::ZERO;
    task.letter(TaskLetter::Expected { id, at }).unwrap();
    task.letter(TaskLetter::Trigger(barrier(1))).unwrap();
    clock.set(ProcessingTime(7));
    task.turn(&clock).unwrap();
    let figures = task.loop_figures();
    assert_eq!(figures.start_delay.sum(), Duration::from_millis(7));
    assert_eq!(figures.alignment.count(), 0, "it has no channels");
}
