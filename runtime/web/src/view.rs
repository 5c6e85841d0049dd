//! What the server answers from: one job as this process sees it.
//!
//! Made by whoever starts the server, once for the time that it stands by and once for the time that it leads. Clones share everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_coordinator::fleet::WorkerSeen;
use highwater_coordinator::{JobRequest, JobStatus, OperationId};
use highwater_graph::Plan;
use highwater_state::Store;
use highwater_types::{JobIdentity, Nonce};
use highwater_worker::{Clock, FigureBoard, WorkerSettings};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};

use crate::config::Config;
use crate::rates::RateBoard;

/// Where the tasks of a job run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TasksRun {
    /// In this process.
    Here,
    /// In the processes of workers.
    OnWorkers,
}

/// What the server answers from.
#[derive(Clone)]
pub struct JobView {
    /// The job.
    pub job: JobIdentity,
    /// What the process is to the job: `run` or `coordinator`.
    pub role: &'static str,
    /// The plan that runs: another one after a rescale.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// Where its tasks run.
    pub tasks: TasksRun,
    /// What its worker may hold.
    pub worker: WorkerSettings,
    /// The settings of the process.
    pub config: Arc<dyn Config>,
    /// Held while settings are changed.
    pub changing: Arc<Mutex<()>>,
    /// Where its keyed state rests.
    pub store: Store,
    /// Requests to the coordinator.
    pub requests: mpsc::Sender<JobRequest>,
    /// Draws ids for operations that are asked for without one.
    pub ids: OperationIds,
    /// Places of those who wait for the end of an operation: [`room_to_wait`].
    pub waiting: Arc<Semaphore>,
    /// The status.
    pub status: watch::Receiver<JobStatus>,
    /// The status server of the coordinator that leads, while this one stands by and knows it.
    pub leader: watch::Receiver<Option<String>>,
    /// The workers of a coordinator; none where the tasks run in this process.
    pub workers: watch::Receiver<Vec<WorkerSeen>>,
    /// The figures of the worker.
    pub figures: FigureBoard,
    /// The same of the last seconds.
    pub rates: RateBoard,
    /// The clock of coordinator and worker.
    pub clock: Arc<dyn Clock>,
}

impl JobView {
    /// The plan that runs at this moment. Who makes an answer reads it once, so that the answer is of one plan.
    pub fn current_plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.borrow())
    }

    /// The coordinator's clock, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long ago the coordinator's clock showed `at`.
    pub(crate) fn age_ms(&self, at: Option<u64>) -> Option<u64> {
        at.map(|at| self.now_ms().saturating_sub(at))
    }
}

/// Who waits for the end of an operation, at once. One more is told that it is under way.
const WAITING_MAX: usize = 32;

/// Places to wait for the end of an operation.
pub fn room_to_wait() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WAITING_MAX))
}

/// Draws ids of operations that no other process draws.
#[derive(Clone, Debug)]
pub struct OperationIds {
    process: Nonce,
    drawn: Arc<AtomicU64>,
}

impl OperationIds {
    /// Ids of a process with these random bits.
    pub fn new(process: Nonce) -> Self {
        Self {
            process,
            drawn: Arc::default(),
        }
    }

    /// The next id.
    ///
    /// # Panics
    /// Never: what it writes is an id.
    pub fn draw(&self) -> OperationId {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed) + 1;
        let text = format!("op-{:032x}-{number}", self.process.0);
        OperationId::parse(&text).expect("letters, digits and dashes, 56 at most")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_ids_differ() {
        let ids = OperationIds::new(Nonce(u128::MAX));
        let shared = ids.clone();
        let one = shared.draw();
        assert_ne!(one, ids.draw());
        assert!(one.as_str().starts_with("op-ffff"), "{one}");
    }
}
