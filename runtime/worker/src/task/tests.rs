//! Tests of a task's agenda: what goes out, in which order, and what does not.

use std::sync::{Arc, Mutex};

use highwater_types::Epoch;

use super::*;
use crate::clock::ManualClock;

/// A chain that notes which barriers reach it, and whose snapshots are as far as the second part says.
#[derive(Clone)]
struct Noting(Arc<Mutex<Vec<CheckpointId>>>, Gathering);

impl Noting {
    fn barriers(&self) -> Vec<CheckpointId> {
        self.0.lock().unwrap().clone()
    }
}

impl Downstream for Noting {
    fn watermark(&mut self, _: Watermark) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    fn status(&mut self, _: StreamStatus) -> Result<(), OperatorError> {
        Ok(())
    }

    fn end(&mut self) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.0.lock().unwrap().push(barrier.id);
        Ok(())
    }

    fn turn(&mut self) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    fn collect(&mut self, _: &mut Collected) -> Result<Gathering, OperatorError> {
        Ok(self.1)
    }

    fn abort(&mut self) {}

    fn completed(&mut self, _: CheckpointId) -> Result<(), OperatorError> {
        Ok(())
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        None
    }

    fn blocked(&self) -> Option<&str> {
        None
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

    fn dropped(&self) -> u64 {
        0
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
    let noting = Noting(Arc::default(), Gathering::Done);
    let mut task = Task::new(TaskInput::Source(Box::new(Silent(noting.clone()))));
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
    let noting = Noting(Arc::default(), Gathering::Done);
    let steps = VecDeque::from([Step::Barrier(0, barrier(1))]);
    let mut task = Task::new(TaskInput::Gate {
        gate: Box::new(Scripted(steps, noting.clone())),
        valve: StatusValve::new(1),
        alignment: Alignment::new(1),
    });
    assert!(task.take_input().unwrap(), "the barrier is aligned");
    task.letter(TaskLetter::Aborted(barrier(1).id)).unwrap();
    task.turn(&ManualClock::default()).unwrap();
    assert_eq!(noting.barriers(), []);
}

#[test]
fn a_task_works_on_a_snapshot_only_while_its_own_thread_has_to() {
    for (gathering, works) in [
        (Gathering::More, true),
        (Gathering::Waits, false),
        (Gathering::Done, false),
    ] {
        let noting = Noting(Arc::default(), gathering);
        let mut task = Task::new(TaskInput::Source(Box::new(Silent(noting))));
        task.letter(TaskLetter::Trigger(barrier(1))).unwrap();
        task.turn(&ManualClock::default()).unwrap();
        assert_eq!(task.works_on_snapshot(), works, "{gathering:?}");
        assert_eq!(
            task.events().count(),
            usize::from(gathering == Gathering::Done)
        );
    }
}
