//! What attempt a worker process holds, as far as it is known from what passes through its connection.
//!
//! Kept by the role `worker`, which decides by it whether it goes on without a coordinator. The rule: an attempt runs from the command that
//! lets its records flow to the first word of its end, whoever says it.

use std::time::Duration;

use highwater_coordinator::fleet::HeldPart;
use highwater_types::{AttemptId, WorkerIndex};
use highwater_worker::{WorkerCommand, WorkerEvent};
use tokio::time::Instant;

/// The attempt that the worker holds, as far as it is known from what passes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The attempt, and the number that the worker has in it.
    pub(crate) part: HeldPart,
    /// Its records flow, and nothing has failed.
    pub(crate) runs: bool,
    /// Since when it has no coordinator.
    pub(crate) lost: Option<Instant>,
}

impl Holding {
    /// Notes a command of the coordinator that gave the worker this number.
    pub(crate) fn told(holding: &mut Option<Self>, worker: WorkerIndex, command: &WorkerCommand) {
        match command {
            WorkerCommand::Prepare(deployment) => {
                let attempt = deployment.attempt;
                *holding = Some(Self {
                    part: HeldPart { attempt, worker },
                    runs: false,
                    lost: None,
                });
            }
            WorkerCommand::Run(attempt) => Self::runs(holding, *attempt, true),
            WorkerCommand::Adopt(attempt, ..) => {
                if let Some(held) = holding
                    .as_mut()
                    .filter(|held| held.part.attempt == *attempt)
                {
                    held.lost = None;
                }
            }
            WorkerCommand::Cancel(attempt) => Self::runs(holding, *attempt, false),
            _ => {}
        }
    }

    /// Nobody leads the attempt any more; if nobody did before either, that counts from then on.
    pub(crate) fn unled(&mut self, now: Instant) {
        self.lost.get_or_insert(now);
    }

    /// Until when the worker goes on with it without a leader; `None` = one leads.
    pub(crate) fn until(&self, max: Duration) -> Option<Instant> {
        Some(self.lost? + max)
    }

    /// Whether the command ends an attempt that was begun under a coordinator before this one.
    pub(crate) fn is_end_of_older(holding: Option<&Self>, command: &WorkerCommand) -> bool {
        let older = holding.filter(|held| held.lost.is_some());
        older.is_some_and(
            |held| matches!(command, WorkerCommand::Cancel(of) if *of == held.part.attempt),
        )
    }

    /// Notes what the worker tells.
    pub(crate) fn see(holding: &mut Option<Self>, event: &WorkerEvent) {
        match event {
            WorkerEvent::Cancelled(attempt) => {
                *holding = holding.take().filter(|held| held.part.attempt != *attempt);
            }
            WorkerEvent::Failed(attempt, _)
            | WorkerEvent::Damaged(attempt, ..)
            | WorkerEvent::Stop(attempt, _) => Self::runs(holding, *attempt, false),
            _ => {}
        }
    }

    fn runs(holding: &mut Option<Self>, attempt: AttemptId, runs: bool) {
        if let Some(held) = holding.as_mut().filter(|held| held.part.attempt == attempt) {
            held.runs = runs;
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{CheckpointId, Epoch, ErrorKind};
    use highwater_worker::FailureReport;

    use super::*;

    const ATTEMPT: AttemptId = AttemptId(4);

    fn prepared() -> Holding {
        Holding {
            part: HeldPart {
                attempt: ATTEMPT,
                worker: WorkerIndex(1),
            },
            runs: false,
            lost: None,
        }
    }

    fn told(holding: &mut Option<Holding>, command: &WorkerCommand) {
        // Another number: that of a later connection.
        Holding::told(holding, WorkerIndex(7), command);
    }

    #[test]
    fn an_attempt_runs_from_its_release_to_its_first_failure() {
        let mut held = Some(prepared());
        told(&mut held, &WorkerCommand::Run(AttemptId(3)));
        assert!(!held.as_ref().unwrap().runs, "that was another");
        told(&mut held, &WorkerCommand::Run(ATTEMPT));
        assert!(held.as_ref().unwrap().runs);
        let report = FailureReport::of("a task", ErrorKind::Transient, "it broke");
        Holding::see(&mut held, &WorkerEvent::Failed(ATTEMPT, Box::new(report)));
        assert!(!held.as_ref().unwrap().runs);
        assert_eq!(held.unwrap().part.worker, WorkerIndex(1));
    }

    #[test]
    fn an_attempt_that_ends_does_not_run_and_is_held_until_it_has_ended() {
        let mut held = Some(prepared());
        told(&mut held, &WorkerCommand::Run(ATTEMPT));
        told(&mut held, &WorkerCommand::Cancel(ATTEMPT));
        assert!(!held.as_ref().unwrap().runs);
        Holding::see(&mut held, &WorkerEvent::Cancelled(AttemptId(3)));
        assert!(held.is_some());
        Holding::see(&mut held, &WorkerEvent::Cancelled(ATTEMPT));
        assert!(held.is_none());
    }

    #[test]
    fn the_time_without_a_leader_counts_from_the_loss_of_the_last_one_that_led() {
        let max = Duration::from_mins(1);
        let start = Instant::now();
        let mut held = prepared();
        assert_eq!(held.until(max), None);
        held.unled(start);
        // A candidate came and went.
        held.unled(start + Duration::from_secs(30));
        assert_eq!(held.until(max), Some(start + max));
        let id = CheckpointId {
            number: 1,
            epoch: Epoch(1),
        };
        let mut held = Some(held);
        told(&mut held, &WorkerCommand::Adopt(ATTEMPT, Epoch(2), id));
        assert_eq!(held.unwrap().until(max), None);
    }

    #[test]
    fn only_the_end_of_an_attempt_of_an_older_coordinator_is_watched_here() {
        let end = WorkerCommand::Cancel(ATTEMPT);
        let mut held = prepared();
        assert!(!Holding::is_end_of_older(Some(&held), &end));
        held.lost = Some(Instant::now());
        assert!(Holding::is_end_of_older(Some(&held), &end));
        let other = WorkerCommand::Cancel(AttemptId(3));
        assert!(!Holding::is_end_of_older(Some(&held), &other));
        assert!(!Holding::is_end_of_older(None, &end));
    }
}
