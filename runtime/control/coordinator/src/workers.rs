//! The workers of a job, as the coordinator speaks to them: one in its own process, or a fleet.

use highwater_worker::{WorkerCommand, WorkerHandle};

use crate::fleet::driver::RunningFleet;
use crate::fleet::{FleetShape, WorkerSeen};
use crate::setup::{JobFailure, JobOutcome};

/// Who runs the tasks.
pub enum Workers {
    /// One worker in this process.
    Own(WorkerHandle),
    /// Workers in processes of their own, however many.
    Fleet(RunningFleet),
}

impl Workers {
    /// Sends a command to those whom it concerns.
    pub fn send(&self, command: WorkerCommand) {
        match self {
            Self::Own(worker) => worker.send(command),
            Self::Fleet(fleet) => fleet.send(command),
        }
    }

    /// What is prepared from now on has this shape. One worker in this process learns it with each deployment.
    pub fn reshape(&self, shape: FleetShape) {
        match self {
            Self::Own(_) => {}
            Self::Fleet(fleet) => fleet.reshape(shape),
        }
    }

    /// The slots of all workers that stay; `None` = as many as are needed.
    pub fn slots(&self) -> Option<u32> {
        match self {
            Self::Own(_) => None,
            Self::Fleet(fleet) => Some(slots_of(&fleet.seen().borrow())),
        }
    }

    /// Whether a worker that leaves has tasks.
    pub fn has_leaving(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Fleet(fleet) => fleet.seen().borrow().iter().any(leaves_tasks),
        }
    }

    /// Ends the workers, and waits for the threads of one in this process. Unless the job is over, workers in processes of their own are
    /// let go instead: they wait for the next coordinator.
    pub fn end(self, end: &Result<JobOutcome, JobFailure>) {
        match self {
            Self::Own(worker) => worker.shut_down(),
            Self::Fleet(fleet) if is_over(end) => fleet.shut_down(),
            Self::Fleet(fleet) => fleet.let_go(),
        }
    }
}

/// The slots of those that stay.
fn slots_of(workers: &[WorkerSeen]) -> u32 {
    let stay = workers.iter().filter(|seen| !seen.is_leaving);
    stay.fold(0, |sum, seen| sum.saturating_add(seen.offer.slots))
}

/// Whether this worker leaves while it has tasks. One that has none is not waited for, even if its process takes long to end.
fn leaves_tasks(seen: &WorkerSeen) -> bool {
    seen.is_leaving && !seen.subtasks.is_empty()
}

/// Whether nobody goes on with the job after this end of its coordinator, unless somebody starts it again. A failure is that of one
/// coordinator: perhaps another fares better.
pub const fn is_over(end: &Result<JobOutcome, JobFailure>) -> bool {
    match end {
        Ok(outcome) => outcome.is_over(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use highwater_protocol::placement::WorkerOffer;
    use highwater_types::{ErrorKind, SubtaskIndex, WorkerIndex};

    use super::*;

    fn seen(slots: u32, subtasks: &[u32], is_leaving: bool) -> WorkerSeen {
        WorkerSeen {
            worker: WorkerIndex(0),
            offer: WorkerOffer {
                name: "a".to_owned(),
                slots,
            },
            address: String::new(),
            subtasks: subtasks.iter().copied().map(SubtaskIndex).collect(),
            is_leaving,
        }
    }

    #[test]
    fn slots_of_a_worker_that_leaves_do_not_count() {
        let all = [
            seen(2, &[0], false),
            seen(4, &[1], true),
            seen(1, &[], false),
        ];
        assert_eq!(slots_of(&all), 3);
        assert_eq!(
            slots_of(&[seen(u32::MAX, &[], false), seen(1, &[], false)]),
            u32::MAX
        );
    }

    #[test]
    fn a_worker_that_leaves_and_has_no_task_is_not_waited_for() {
        assert!(leaves_tasks(&seen(2, &[0], true)));
        assert!(!leaves_tasks(&seen(2, &[], true)));
        assert!(!leaves_tasks(&seen(2, &[0], false)));
    }

    #[test]
    fn only_a_job_that_finished_or_was_stopped_is_over() {
        let failed = |kind| {
            Err(JobFailure {
                kind,
                message: String::new(),
            })
        };
        let over = [JobOutcome::Finished, JobOutcome::Stopped];
        assert!(over.into_iter().all(|outcome| is_over(&Ok(outcome))));
        assert!(!is_over(&Ok(JobOutcome::Cancelled)));
        for kind in [ErrorKind::Fenced, ErrorKind::Invalid, ErrorKind::Bug] {
            assert!(!is_over(&failed(kind)));
        }
    }
}
