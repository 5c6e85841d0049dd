//! A slot thread: runs the tasks of its slice in turns, takes letters, parks when there is nothing to do.
//!
//! Letters and channels are the only ways in. A panic or error of a task is told to the worker and ends the slice; it
//! never takes the thread down, and no other task of the slice goes on without it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_metrics::Spans;
use highwater_operators::{OperatorReport, SourceReport, TaskClock};
use highwater_protocol::job::TaskId;
use highwater_types::{AttemptId, Classified, ErrorKind, SlotIndex, Watermark};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::loop_figures::LoopFigures;
use crate::messages::FailureReport;
use crate::pauses::Pauses;
use crate::shares::{Shares, Waiting};
use crate::task::{Task, TaskEvent, TaskLetter};
use crate::waker::SlotWaker;
use crate::worker::WorkerInput;

/// How long a slot parks at most: the processing-time clock is looked at that often.
const PARK_LIMIT: Duration = Duration::from_millis(50);
/// How often figures of a slice are published.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

/// Builds the slice of an attempt on the slot thread.
pub type SliceBuilder = Box<dyn FnOnce(&TaskClock) -> Result<Vec<SlotTask>, FailureReport> + Send>;

/// One task of a slice.
pub struct SlotTask {
    /// The head operator and subtask: names the task.
    pub key: TaskId,
    /// The operators of its chain, for messages.
    pub name: String,
    /// The task.
    pub task: Task,
}

/// A letter to a slot thread.
pub enum SlotLetter {
    /// Build this slice; answered by [`SlotEventKind::Opened`].
    Build(AttemptId, SliceBuilder),
    /// Run the slice.
    Run(AttemptId),
    /// To one task, or to every task; sent at this time of the worker's clock.
    Task(AttemptId, Option<TaskId>, LetterOf, Duration),
    /// Drop the slice; answered by [`SlotEventKind::Dropped`].
    Drop(AttemptId),
    /// End the thread.
    Shutdown,
}

/// Makes the letter for each task that it is for.
pub type LetterOf = Box<dyn Fn() -> TaskLetter + Send>;

/// What a slot thread tells its worker.
#[derive(Debug)]
pub struct SlotEvent {
    /// The slot.
    pub slot: SlotIndex,
    /// The attempt.
    pub attempt: AttemptId,
    /// What happened.
    pub kind: SlotEventKind,
}

/// What happened on a slot.
#[derive(Debug)]
pub enum SlotEventKind {
    /// The slice is built and its state is open.
    Opened,
    /// A task has something to tell.
    Task(TaskId, TaskEvent),
    /// A task failed.
    Failed(FailureReport),
    /// The slice is gone.
    Dropped,
}

/// Figures of one task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskFigures {
    /// The operators of its chain.
    pub name: String,
    /// Busy, idle and backpressured milliseconds since the attempt began.
    pub shares_ms: (u64, u64, u64),
    /// The receiver that holds it back.
    pub blocked_on: Option<String>,
    /// Its event time.
    pub watermark: Watermark,
    /// How long checkpoints kept it from its records.
    pub pauses: Pauses,
    /// What its loop did besides its records.
    pub control: LoopFigures,
    /// What its source counts, if it heads one.
    pub source: Option<SourceReport>,
    /// Its operators.
    pub operators: Vec<OperatorReport>,
}

/// Figures of tasks, and the attempt that they are of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AttemptFigures {
    /// The attempt.
    pub attempt: AttemptId,
    /// The figures.
    pub tasks: BTreeMap<TaskId, TaskFigures>,
}

/// Figures of all tasks of a worker: written by slot threads a few times a second, read by status and metrics. Those of several workers come
/// together on one of their coordinator.
#[derive(Clone, Debug, Default)]
pub struct FigureBoard(Arc<Mutex<AttemptFigures>>);

impl FigureBoard {
    fn shown(&self) -> MutexGuard<'_, AttemptFigures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of all figures.
    pub fn read(&self) -> BTreeMap<TaskId, TaskFigures> {
        self.shown().tasks.clone()
    }

    /// The same, with the attempt.
    pub fn told(&self) -> AttemptFigures {
        self.shown().clone()
    }

    /// Replaces the figures of these tasks.
    pub fn write(&self, figures: Vec<(TaskId, TaskFigures)>) {
        self.shown().tasks.extend(figures);
    }

    /// Takes what the board of one of several workers shows. Figures of an older attempt give way to those of a newer one, which may have
    /// other tasks; a worker without a part in that still tells the older ones, and they are dropped.
    pub fn take(&self, told: AttemptFigures) {
        let mut shown = self.shown();
        match told.attempt.cmp(&shown.attempt) {
            Ordering::Greater => *shown = told,
            Ordering::Equal => shown.tasks.extend(told.tasks),
            Ordering::Less => {}
        }
    }

    /// Forgets the figures of the attempt before this one.
    pub fn begin(&self, attempt: AttemptId) {
        *self.shown() = AttemptFigures {
            attempt,
            tasks: BTreeMap::new(),
        };
    }
}

/// What a slot thread is made of.
pub struct SlotParts {
    /// Which slot.
    pub slot: SlotIndex,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Letters.
    pub letters: Receiver<SlotLetter>,
    /// Wakes the thread.
    pub waker: Arc<SlotWaker>,
    /// Where events go.
    pub events: SyncSender<WorkerInput>,
    /// Where figures go.
    pub board: FigureBoard,
}

struct Running {
    slot_task: SlotTask,
    shares: Shares,
    letters: u64,
    mailbox_wait: Spans,
}

struct Slice {
    attempt: AttemptId,
    tasks: Vec<Running>,
    on: bool,
}

/// A slot thread's loop. Returns after `Shutdown` or when the worker is gone.
pub fn run(parts: SlotParts) {
    parts.waker.attach();
    let clock = Arc::clone(&parts.clock);
    let mut slot = SlotLoop {
        parts,
        task_clock: TaskClock::measuring(move || clock.elapsed()),
        slice: None,
        published: Duration::ZERO,
    };
    while slot.step() {}
}

struct SlotLoop {
    parts: SlotParts,
    task_clock: TaskClock,
    slice: Option<Slice>,
    published: Duration,
}

impl SlotLoop {
    /// One pass over letters and tasks, then parks if there was nothing to do. `false` = the thread ends.
    fn step(&mut self) -> bool {
        match self.pass() {
            Pass::Over => return false,
            Pass::Worked => return true,
            Pass::Idle => {}
        }
        self.parts.waker.announce();
        match self.pass() {
            Pass::Over => return false,
            Pass::Worked => self.parts.waker.stay_awake(),
            Pass::Idle => self.parts.waker.park(self.park_limit()),
        }
        true
    }

    fn park_limit(&self) -> Duration {
        let now = self.parts.clock.now();
        let tasks = self.slice.iter().flat_map(|slice| &slice.tasks);
        let deadline = tasks
            .filter_map(|running| running.slot_task.task.next_deadline())
            .min();
        let until = deadline.map_or(i64::MAX, |deadline| deadline.0.saturating_sub(now.0));
        PARK_LIMIT.min(Duration::from_millis(until.max(1) as u64))
    }

    fn pass(&mut self) -> Pass {
        let mut result = Pass::Idle;
        loop {
            match self.parts.letters.try_recv() {
                Ok(letter) => {
                    if !self.letter(letter) {
                        return Pass::Over;
                    }
                    result = Pass::Worked;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Pass::Over,
            }
        }
        if self.turns() { Pass::Worked } else { result }
    }

    /// Gives every task its turn; whether any of them worked.
    fn turns(&mut self) -> bool {
        self.task_clock.set(self.parts.clock.now());
        let Some(slice) = self.slice.as_mut().filter(|slice| slice.on) else {
            return false;
        };
        let mut worked = false;
        let mut failed = None;
        let mut events = Vec::new();
        for running in &mut slice.tasks {
            let start = self.parts.clock.elapsed();
            let turn = guarded(&mut running.slot_task, |task| {
                task.turn(self.parts.clock.as_ref())
            });
            let waiting = match turn {
                Ok(waiting) => waiting,
                Err(report) => {
                    failed = Some(report);
                    break;
                }
            };
            running
                .shares
                .turn(start, self.parts.clock.elapsed(), waiting);
            worked |= waiting == Waiting::Turn || running.slot_task.task.works_on_snapshot();
            for event in running.slot_task.task.events() {
                worked = true;
                events.push(SlotEventKind::Task(running.slot_task.key.clone(), event));
            }
        }
        let attempt = slice.attempt;
        slice.on &= failed.is_none();
        // Before the events: the last of them ends a job, and what the job counted is read then.
        self.publish(if events.is_empty() {
            PUBLISH_EVERY
        } else {
            Duration::ZERO
        });
        for event in events {
            tell(&self.parts, attempt, event);
        }
        if let Some(report) = failed {
            tell(&self.parts, attempt, SlotEventKind::Failed(report));
        }
        worked
    }

    /// Writes the figures on the board, if those of `age` or longer stand there.
    fn publish(&mut self, age: Duration) {
        let now = self.parts.clock.elapsed();
        if now.saturating_sub(self.published) < age {
            return;
        }
        self.published = now;
        let Some(slice) = &self.slice else { return };
        let figures = slice.tasks.iter().map(|running| {
            let task = &running.slot_task.task;
            let figures = TaskFigures {
                name: running.slot_task.name.clone(),
                shares_ms: running.shares.millis(),
                blocked_on: task.blocked_on().map(str::to_owned),
                watermark: task.watermark(),
                pauses: task.pauses(),
                control: LoopFigures {
                    letters: running.letters,
                    mailbox_wait: running.mailbox_wait,
                    ..task.loop_figures()
                },
                source: task.source_report(),
                operators: task.reports(),
            };
            (running.slot_task.key.clone(), figures)
        });
        self.parts.board.write(figures.collect());
    }

    fn letter(&mut self, letter: SlotLetter) -> bool {
        match letter {
            SlotLetter::Build(attempt, builder) => self.build(attempt, builder),
            SlotLetter::Run(attempt) => {
                if let Some(slice) = self.slice_of(attempt) {
                    slice.on = true;
                }
            }
            SlotLetter::Task(attempt, to, letter, sent) => {
                let waited = self.parts.clock.elapsed().saturating_sub(sent);
                self.deliver(attempt, to.as_ref(), &letter, waited);
            }
            SlotLetter::Drop(attempt) => {
                if self.slice_of(attempt).is_some() {
                    self.slice = None;
                }
                tell(&self.parts, attempt, SlotEventKind::Dropped);
            }
            SlotLetter::Shutdown => return false,
        }
        true
    }

    fn slice_of(&mut self, attempt: AttemptId) -> Option<&mut Slice> {
        self.slice.as_mut().filter(|slice| slice.attempt == attempt)
    }

    fn building_failed(&self, message: String) -> FailureReport {
        let slot = self.parts.slot.0;
        FailureReport::of("building the chains", ErrorKind::Bug, message)
            .in_subtask(highwater_types::SubtaskIndex(slot))
    }

    fn build(&mut self, attempt: AttemptId, builder: SliceBuilder) {
        if let Some(held) = &self.slice {
            let message = format!(
                "told to build attempt {} beside attempt {}",
                attempt.0, held.attempt.0
            );
            let report = self.building_failed(message);
            return tell(&self.parts, attempt, SlotEventKind::Failed(report));
        }
        self.task_clock.set(self.parts.clock.now());
        let clock = &self.task_clock;
        let built = catch_unwind(AssertUnwindSafe(|| builder(clock)));
        let built =
            built.unwrap_or_else(|panic| Err(self.building_failed(panic_message(panic.as_ref()))));
        match built {
            Ok(tasks) => {
                let now = self.parts.clock.elapsed();
                let running = |slot_task| Running {
                    slot_task,
                    shares: Shares::new(now),
                    letters: 0,
                    mailbox_wait: Spans::default(),
                };
                let tasks = tasks.into_iter().map(running).collect();
                self.slice = Some(Slice {
                    attempt,
                    tasks,
                    on: false,
                });
                tell(&self.parts, attempt, SlotEventKind::Opened);
            }
            Err(report) => tell(&self.parts, attempt, SlotEventKind::Failed(report)),
        }
    }

    fn deliver(
        &mut self,
        attempt: AttemptId,
        to: Option<&TaskId>,
        letter: &LetterOf,
        waited: Duration,
    ) {
        let Some(slice) = self.slice.as_mut().filter(|slice| slice.attempt == attempt) else {
            return;
        };
        let mut failed = None;
        for running in &mut slice.tasks {
            if to.is_some_and(|key| *key != running.slot_task.key) {
                continue;
            }
            running.letters += 1;
            running.mailbox_wait.observe(waited);
            if let Err(report) = guarded(&mut running.slot_task, |task| task.letter(letter())) {
                failed = Some(report);
                break;
            }
        }
        if let Some(report) = failed {
            slice.on = false;
            tell(&self.parts, attempt, SlotEventKind::Failed(report));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Worked,
    Idle,
    Over,
}

fn tell(parts: &SlotParts, attempt: AttemptId, kind: SlotEventKind) {
    let event = SlotEvent {
        slot: parts.slot,
        attempt,
        kind,
    };
    if parts.events.send(WorkerInput::Slot(event)).is_err() {
        tracing::debug!(slot = parts.slot.0, "the worker is gone");
    }
}

/// Calls into a task: the task boundary at which errors and panics become a report.
fn guarded<R>(
    slot_task: &mut SlotTask,
    call: impl FnOnce(&mut Task) -> Result<R, highwater_operators::OperatorError>,
) -> Result<R, FailureReport> {
    let result = catch_unwind(AssertUnwindSafe(|| call(&mut slot_task.task)));
    let (kind, message) = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => (error.kind(), error_chain(&error)),
        Err(panic) => (ErrorKind::Bug, panic_message(panic.as_ref())),
    };
    Err(FailureReport {
        position: slot_task.task.position(),
        ..FailureReport::of(&slot_task.name, kind, message).in_subtask(slot_task.key.subtask)
    })
}

/// The message of an error with its causes.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "panicked: {}",
        text.unwrap_or_else(|| "without a message".to_owned())
    )
}

#[cfg(test)]
mod tests {
    use highwater_types::{OperatorUid, SubtaskIndex};

    use super::*;

    fn told(attempt: u64, subtasks: &[u32]) -> AttemptFigures {
        let tasks = subtasks.iter().map(|subtask| {
            let task = TaskId {
                vertex: OperatorUid::parse("count").unwrap(),
                subtask: SubtaskIndex(*subtask),
            };
            let figures = TaskFigures {
                name: "count".to_owned(),
                shares_ms: (0, 0, 0),
                blocked_on: None,
                watermark: Watermark::MIN,
                pauses: Pauses::default(),
                control: LoopFigures::default(),
                source: None,
                operators: Vec::new(),
            };
            (task, figures)
        });
        AttemptFigures {
            attempt: AttemptId(attempt),
            tasks: tasks.collect(),
        }
    }

    fn shown(board: &FigureBoard) -> Vec<u32> {
        board.read().keys().map(|task| task.subtask.0).collect()
    }

    #[test]
    fn figures_of_an_attempt_give_way_to_those_of_the_next_and_do_not_come_back() {
        let board = FigureBoard::default();
        board.take(told(1, &[0, 1]));
        board.take(told(1, &[2, 3]));
        assert_eq!(shown(&board), [0, 1, 2, 3]);
        board.take(told(2, &[0]));
        // Of a worker that has no part in the new attempt.
        board.take(told(1, &[2, 3]));
        assert_eq!(shown(&board), [0]);
        board.begin(AttemptId(3));
        assert!(shown(&board).is_empty());
        assert_eq!(board.told().attempt, AttemptId(3));
    }
}
