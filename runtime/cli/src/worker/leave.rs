//! How a worker process ends that is told to: by plan, or at once.
//!
//! Kept by the role `worker` beside its signals. By plan it tells its coordinator that it leaves, and works on until its tasks run elsewhere
//! and it is told to shut down. The rules: without a coordinator there is no plan, nobody waits for it longer than a setting says, and a
//! worker of `run` leaves Ctrl-C to that, which stops the job and ends its workers itself.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::signals::{Interrupt, Interrupts};

/// Who sees to the end of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Whoever started it: a person at a terminal, or a supervisor.
    Outside,
    /// The `run` that started it among others: what is typed at its terminal reaches all of them.
    Parent,
}

impl Keeper {
    /// Of a process that ends with its parent, or of one that does not.
    pub(super) const fn of(with_parent: bool) -> Self {
        if with_parent {
            Self::Parent
        } else {
            Self::Outside
        }
    }
}

/// How far a worker process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It looks for a coordinator.
    Unled,
    /// It works for one.
    Led,
    /// It works for one, which knows that it leaves or is about to hear it.
    Leaving,
}

/// What follows a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing: somebody else sees to it.
    GoOn,
    /// The coordinator is told, and waited for.
    Leave,
    /// The end at once.
    End,
}

/// What a worker makes of a signal.
const fn next(stage: Stage, keeper: Keeper, interrupt: Interrupt) -> Next {
    match (interrupt, keeper, stage) {
        (Interrupt::Keyboard, Keeper::Parent, _) => Next::GoOn,
        (Interrupt::Terminate, _, Stage::Led) => Next::Leave,
        (Interrupt::Keyboard, Keeper::Outside, _)
        | (Interrupt::Terminate, _, Stage::Unled | Stage::Leaving) => Next::End,
    }
}

/// The way of a worker process to its end. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Leave(watch::Sender<Stage>);

impl Leave {
    /// Of a process that has no coordinator yet.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Stage::Unled))
    }

    /// A coordinator has work for the process.
    pub(super) fn led(&self) {
        self.turn(Stage::Unled, Stage::Led);
    }

    /// The coordinator is gone. Whether another is to be looked for: nobody moves the tasks of a worker that leaves any more.
    pub(super) fn looks_on(&self) -> bool {
        self.turn(Stage::Led, Stage::Unled);
        !self.is_asked()
    }

    /// Whether the process leaves.
    pub(super) fn is_asked(&self) -> bool {
        *self.0.borrow() == Stage::Leaving
    }

    /// Returns when the process leaves.
    ///
    /// # Cancel safety
    /// Nothing is lost: it returns at once where that is so already.
    pub(super) async fn asked(&self) {
        let mut stage = self.0.subscribe();
        // It does not fail: this holds the other end.
        drop(stage.wait_for(|stage| *stage == Stage::Leaving).await);
    }

    fn turn(&self, from: Stage, to: Stage) {
        self.0.send_if_modified(|stage| {
            let turns = *stage == from;
            if turns {
                *stage = to;
            }
            turns
        });
    }

    /// Hears the signals, and returns when the process is to end at once. Its coordinator has so long to move its tasks.
    pub(super) async fn until_end(
        &self,
        interrupts: &mut Interrupts,
        keeper: Keeper,
        within: Duration,
    ) {
        if self.heard(interrupts, keeper).await == Next::End {
            return;
        }
        tracing::info!(
            ?within,
            "told to end: the tasks of this worker move to others behind a checkpoint, and it ends then; once more ends it at once"
        );
        self.turn(Stage::Led, Stage::Leaving);
        let next = "the job begins again from its last checkpoint on the workers that are there";
        // Both arms are cancel-safe: after either the process ends, whatever else is heard.
        tokio::select! {
            _ = self.heard(interrupts, keeper) => tracing::warn!(next, "told once more: ends at once"),
            () = sleep(within) => tracing::warn!(?within, next, "its tasks have not moved: ends at once"),
        }
    }

    /// Hears signals until something follows from one.
    async fn heard(&self, interrupts: &mut Interrupts, keeper: Keeper) -> Next {
        loop {
            let interrupt = interrupts.next().await;
            let stage = *self.0.borrow();
            let follows = next(stage, keeper, interrupt);
            if follows != Next::GoOn {
                return follows;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 3] = [Stage::Unled, Stage::Led, Stage::Leaving];

    #[test]
    fn a_supervisor_has_the_tasks_moved_with_one_signal_and_ends_the_worker_with_two() {
        for keeper in [Keeper::Outside, Keeper::Parent] {
            let follows = |stage| next(stage, keeper, Interrupt::Terminate);
            assert_eq!(follows(Stage::Led), Next::Leave);
            assert_eq!(follows(Stage::Leaving), Next::End);
            assert_eq!(follows(Stage::Unled), Next::End, "nobody moves them");
        }
    }

    #[test]
    fn a_worker_at_a_terminal_of_its_own_ends_at_once() {
        for stage in STAGES {
            let follows = next(stage, Keeper::Outside, Interrupt::Keyboard);
            assert_eq!(follows, Next::End);
        }
    }

    #[test]
    fn what_is_typed_at_the_terminal_of_run_is_left_to_run() {
        for stage in STAGES {
            let follows = next(stage, Keeper::Parent, Interrupt::Keyboard);
            assert_eq!(follows, Next::GoOn);
        }
    }

    #[tokio::test]
    async fn a_worker_that_leaves_looks_for_no_other_coordinator() {
        let leave = Leave::new();
        leave.led();
        assert!(leave.looks_on(), "the first one was lost");
        leave.led();
        leave.turn(Stage::Led, Stage::Leaving);
        leave.clone().asked().await;
        leave.led();
        assert!(leave.is_asked() && !leave.looks_on());
    }
}
