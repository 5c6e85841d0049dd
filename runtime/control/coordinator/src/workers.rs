//! The workers of a job, as the coordinator speaks to them: one in its own process, or a fleet.

use highwater_worker::{WorkerCommand, WorkerHandle};

use crate::fleet::driver::RunningFleet;

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

    /// Ends the workers, and waits for the threads of one in this process.
    pub fn shut_down(self) {
        match self {
            Self::Own(worker) => worker.shut_down(),
            Self::Fleet(fleet) => fleet.shut_down(),
        }
    }
}
