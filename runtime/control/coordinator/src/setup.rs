//! What a coordinator is started with, and what the starter holds afterwards.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use highwater_api::JobProgram;
use highwater_graph::Plan;
use highwater_protocol::head::JobEnd;
use highwater_protocol::recovery::StartWish;
use highwater_storage::ObjectStorage;
use highwater_types::{Classified, Epoch, ErrorKind, JobIdentity, Nonce};
use highwater_worker::{Clock, StopHook, WorkerEvent};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::request::JobRequest;
use crate::savepoint::SavepointWish;
use crate::settings::CoordinatorSettings;
use crate::status::JobStatus;
use crate::workers::Workers;

/// How a job is to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// From what the job has, or anew.
    Own(StartWish),
    /// From what the job has, which another coordinator was told how to begin: never from nothing.
    Follow,
    /// From a savepoint.
    Savepoint(SavepointWish),
}

/// Which end of the job, as `head` says it, a coordinator goes on after. What is to begin anew, or to go back to a savepoint, asks nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoesPast {
    /// Any: somebody wants the job to run.
    AnyEnd,
    /// That of this epoch: somebody wanted it after that.
    EndOf(Epoch),
    /// None: a job that has ended is left as it is, and so ends this coordinator.
    NoEnd,
}

impl GoesPast {
    /// Whether it goes on after the end that `head` says in this epoch.
    pub fn covers(self, epoch: Epoch) -> bool {
        match self {
            Self::AnyEnd => true,
            Self::EndOf(of) => of == epoch,
            Self::NoEnd => false,
        }
    }
}

impl From<Option<Epoch>> for GoesPast {
    fn from(end: Option<Epoch>) -> Self {
        end.map_or(Self::NoEnd, Self::EndOf)
    }
}

/// What a coordinator is made of.
pub struct CoordinatorSetup {
    /// The program.
    pub program: JobProgram,
    /// The job.
    pub job: JobIdentity,
    /// Its settings.
    pub settings: CoordinatorSettings,
    /// Where checkpoints are.
    pub storage: Arc<dyn ObjectStorage>,
    /// Go on, begin a new lineage, or start from a savepoint.
    pub wish: Wish,
    /// Whether it goes on with a job that has ended.
    pub goes_past: GoesPast,
    /// The workers.
    pub worker: Workers,
    /// What they tell.
    pub events: mpsc::Receiver<WorkerEvent>,
    /// Where the end of the job is noted before anybody is told; `None` = nobody looks there.
    pub end_board: Option<Arc<dyn EndBoard>>,
    /// How long a new leader waits for workers that hold an attempt for an older one; `None` = workers do not outlive their coordinator.
    pub outlived_max: Option<Duration>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// 128 random bits that no other process has.
    pub seed: Nonce,
    /// Told of each protocol step right before it is performed.
    pub stop: StopHook,
}

/// Where those look who are to lead, before they ask `head`. It hears of the end of the job before anybody else does, so that whoever is
/// started later is known to want the job.
#[async_trait]
pub trait EndBoard: Send + Sync {
    /// The job has ended like this, and `head` says so. Returns once that is noted, or could not be for a while.
    async fn ended(&self, outcome: JobOutcome);
}

/// A running coordinator.
pub struct CoordinatorHandle {
    /// Requests to the job.
    pub requests: mpsc::Sender<JobRequest>,
    /// Its status.
    pub status: watch::Receiver<JobStatus>,
    /// The plan that runs: another one after a rescale.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// Ends with the job.
    pub ended: JoinHandle<Result<JobOutcome, JobFailure>>,
}

/// How a job ended without failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// All input was processed and all output confirmed.
    Finished,
    /// Stopped with its state and all output confirmed.
    Stopped,
    /// Ended at once by request; the next run goes on from the last checkpoint.
    Cancelled,
}

impl JobOutcome {
    /// Whether nobody goes on with the job unless somebody starts it again.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Stopped)
    }
}

impl From<JobEnd> for JobOutcome {
    fn from(end: JobEnd) -> Self {
        match end {
            JobEnd::Finished => Self::Finished,
            JobEnd::Stopped => Self::Stopped,
        }
    }
}

/// Why a job ended with a failure. State is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JobFailure {
    /// What to do about it.
    pub kind: ErrorKind,
    /// What happened, with its causes and the next step.
    pub message: String,
}

impl Classified for JobFailure {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_to_go_past_an_end_is_none_to_go_past_a_later_one() {
        let wished = GoesPast::from(Some(Epoch(3)));
        assert!(wished.covers(Epoch(3)) && !wished.covers(Epoch(4)));
        assert!(!GoesPast::from(None).covers(Epoch(3)));
        assert!(GoesPast::AnyEnd.covers(Epoch(4)));
    }
}
