//! What the outside may ask of a running job.

use highwater_protocol::checkpoint::CheckpointFailure;
use highwater_types::{CheckpointId, Classified, ErrorKind};
use tokio::sync::{mpsc, oneshot};

use crate::status::WaitBoard;

/// How a job stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Windows and timers stay as they are; the job can go on where it stopped.
    Suspend,
    /// Event time goes to its end first: every window fires.
    Drain,
}

/// A request to a running job.
#[derive(Debug)]
pub enum JobRequest {
    /// Take a savepoint of this name and go on.
    Savepoint {
        /// Its name: 1 to 63 lower-case letters, digits, `-`, `_`.
        name: String,
        /// Answers when it is complete, confirmed and copied out.
        answer: oneshot::Sender<RequestAnswer>,
    },
    /// Take a checkpoint now.
    Checkpoint {
        /// Answers when it is complete.
        answer: oneshot::Sender<RequestAnswer>,
    },
    /// Stop with a checkpoint, or with a savepoint where a name is given. All output is confirmed before the job ends.
    Stop {
        /// How.
        mode: StopMode,
        /// The savepoint's name.
        savepoint: Option<String>,
        /// Answers when the job has stopped.
        answer: oneshot::Sender<RequestAnswer>,
    },
    /// End at once; state of the last checkpoint is kept and the next run goes on from it.
    Cancel,
}

/// Answers a request.
pub(crate) fn reply(waiting: oneshot::Sender<RequestAnswer>, answer: RequestAnswer) {
    if waiting.send(answer).is_err() {
        tracing::debug!("nobody waits for the answer any more");
    }
}

/// What a stop is told that ends a job before an attempt of it runs.
pub(crate) const ENDED_EARLY: &str = "the job has ended before it ran; what its last checkpoint holds is kept, and the next run goes on from it";

/// Answers what is asked of a job that has not begun to run, until somebody ends it. For ever if nobody does.
pub(crate) async fn until_ended(requests: &mut mpsc::Receiver<JobRequest>, waits: &WaitBoard) {
    while let Some(request) = requests.recv().await {
        let answer = match request {
            JobRequest::Cancel => return,
            JobRequest::Stop { answer, .. } => {
                return reply(answer, Err(RequestRefused::Ended(ENDED_EARLY)));
            }
            JobRequest::Savepoint { answer, .. } | JobRequest::Checkpoint { answer } => answer,
        };
        let refused = RequestRefused::NotRunning(waits.read());
        reply(answer, Err(refused));
    }
    std::future::pending::<()>().await;
}

/// The answer to a request.
pub type RequestAnswer = Result<CheckpointId, RequestRefused>;

/// Why a request was not fulfilled. Unless the job has ended it goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefused {
    /// The name can never be one of a savepoint.
    #[error("{0}")]
    Name(String),
    /// A savepoint has the name already.
    #[error("a savepoint lies at {folder} already and is kept; choose another name")]
    Taken {
        /// The folder of the savepoint.
        folder: String,
    },
    /// No attempt runs that could take it.
    #[error("{0}; ask again when the job runs")]
    NotRunning(String),
    /// The job is stopping, or too much is asked of it at once.
    #[error(transparent)]
    Busy(CheckpointFailure),
    /// It was tried and given up.
    #[error(transparent)]
    GivenUp(CheckpointFailure),
    /// The store does not do what the request needs.
    #[error("{message}")]
    Store {
        /// What helps.
        kind: ErrorKind,
        /// The object, what the store says of it, and the next step.
        message: String,
    },
    /// The job has ended.
    #[error("{0}")]
    Ended(&'static str),
}

impl From<CheckpointFailure> for RequestRefused {
    fn from(failure: CheckpointFailure) -> Self {
        match failure {
            CheckpointFailure::Stopping | CheckpointFailure::Busy => Self::Busy(failure),
            failure => Self::GivenUp(failure),
        }
    }
}

impl Classified for RequestRefused {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_) | Self::Taken { .. } => ErrorKind::Invalid,
            Self::NotRunning(_) | Self::Ended(_) => ErrorKind::Transient,
            Self::Busy(failure) | Self::GivenUp(failure) => failure.kind(),
            Self::Store { kind, .. } => *kind,
        }
    }
}
