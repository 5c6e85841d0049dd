//! The workers of a job, as the coordinator speaks to them: one in its own process, or a fleet.

use highwater_worker::{WorkerCommand, WorkerHandle};

use crate::fleet::driver::RunningFleet;
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

/// Whether nobody goes on with the job after this end of its coordinator, unless somebody starts it again. A failure is that of one
/// coordinator: perhaps another fares better.
pub const fn is_over(end: &Result<JobOutcome, JobFailure>) -> bool {
    matches!(end, Ok(JobOutcome::Finished | JobOutcome::Stopped))
}

#[cfg(test)]
mod tests {
    use highwater_types::ErrorKind;

    use super::*;

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
