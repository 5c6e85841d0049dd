//! What the outside may ask of a running job.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use highwater_protocol::checkpoint::{CheckpointFailure, CheckpointSettings};
use highwater_types::{
    BarrierKind, CheckpointId, Classified, ErrorKind, Lineage, Parallelism, Parallelisms, StopMode,
};
use tokio::sync::{mpsc, oneshot};

use crate::operation::{Operation, OperationId};
use crate::settings::RestartStrategy;
use crate::status::WaitBoard;

/// The barrier behind which a job goes on elsewhere or otherwise spread: sources stop behind it, and nothing is drained.
pub(crate) const REDEPLOY_BARRIER: BarrierKind = BarrierKind::Stop {
    mode: StopMode::Suspend,
    is_savepoint: false,
};

/// A snapshot that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotWish {
    /// A checkpoint now. Granted when it is complete.
    Checkpoint,
    /// A savepoint; the job goes on. Granted when it is complete, confirmed and copied out.
    Savepoint {
        /// Its name: 1 to 63 lower-case letters, digits, `-`, `_`.
        name: String,
    },
    /// A stop with a checkpoint, or with a savepoint where a name is given. Granted when all output is confirmed, the savepoint is
    /// copied out, and `head` says that the job has ended.
    Stop {
        /// How.
        mode: StopMode,
        /// The savepoint's name.
        savepoint: Option<String>,
    },
    /// The job goes on behind a checkpoint, at another parallelism. Granted when records flow at it.
    Rescale(RescaleWish),
}

/// The parallelism that a job is to go on at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescaleWish {
    /// That of all operators whose author set none; `None` = as they are.
    pub parallelism: Option<Parallelism>,
    /// That of single operators, before all others.
    pub operators: Parallelisms,
    /// How long it may wait for slots while the job goes on as it is.
    pub slots_within: Duration,
}

impl fmt::Display for RescaleWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rescale to parallelism ")?;
        let all = self.parallelism.map(|parallelism| parallelism.to_string());
        let operators = self.operators.iter();
        let single = operators.map(|(uid, parallelism)| format!("{parallelism} of {uid}"));
        let parts: Vec<_> = all.into_iter().chain(single).collect();
        f.write_str(&parts.join(", "))
    }
}

impl SnapshotWish {
    /// The name of the savepoint that it leaves.
    pub fn savepoint(&self) -> Option<&str> {
        match self {
            Self::Checkpoint | Self::Rescale(_) => None,
            Self::Savepoint { name } => Some(name),
            Self::Stop { savepoint, .. } => savepoint.as_deref(),
        }
    }

    /// Whether the job ends afterwards.
    pub const fn stops(&self) -> bool {
        matches!(self, Self::Stop { .. })
    }

    /// What its barrier asks for.
    pub(crate) const fn barrier(&self) -> BarrierKind {
        match self {
            Self::Checkpoint => BarrierKind::Checkpoint,
            Self::Rescale(_) => REDEPLOY_BARRIER,
            Self::Savepoint { .. } => BarrierKind::Savepoint,
            Self::Stop { mode, savepoint } => BarrierKind::Stop {
                mode: *mode,
                is_savepoint: savepoint.is_some(),
            },
        }
    }

    /// Asks for it. Nobody asks later what came of it.
    pub const fn asked(self, answer: oneshot::Sender<RequestAnswer>) -> JobRequest {
        JobRequest::Snapshot {
            wish: self,
            operation: None,
            answer,
        }
    }
}

impl fmt::Display for SnapshotWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint => f.write_str("a checkpoint"),
            Self::Savepoint { name } => write!(f, "savepoint {name}"),
            Self::Rescale(wish) => wish.fmt(f),
            Self::Stop { mode, savepoint } => {
                f.write_str(match mode {
                    StopMode::Suspend => "a stop",
                    StopMode::Drain => "a stop with all input drained",
                })?;
                match savepoint {
                    Some(name) => write!(f, " with savepoint {name}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Under which id something is asked for.
#[derive(Debug)]
pub struct OperationOrder {
    /// The id.
    pub id: OperationId,
    /// Hears that it is under way. Dropped without a word where it is not.
    pub begun: Option<oneshot::Sender<Operation>>,
}

/// A request to a running job.
#[derive(Debug)]
pub enum JobRequest {
    /// Take a snapshot.
    Snapshot {
        /// Which.
        wish: SnapshotWish,
        /// The id under which it is asked for again without being done again, and who hears that it is under way; `None` = it is not
        /// kept.
        operation: Option<OperationOrder>,
        /// Answers when the wish is granted or refused.
        answer: oneshot::Sender<RequestAnswer>,
    },
    /// Go on with other settings from now on.
    Configure {
        /// All of them.
        settings: Box<LiveSettings>,
        /// Answers when they hold.
        answer: oneshot::Sender<Result<(), RequestRefused>>,
    },
    /// End at once; state of the last checkpoint is kept and the next run goes on from it.
    Cancel,
}

/// The settings of a coordinator that may change while it leads. They hold until its process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSettings {
    /// How checkpoints are taken.
    pub checkpoint: CheckpointSettings,
    /// When a failed attempt is tried again; restarts are counted anew when it changes.
    pub restart: RestartStrategy,
    /// All that was changed since the process began, by name and as text, for those who ask.
    pub changes: BTreeMap<String, String>,
}

impl JobRequest {
    /// Whether a job that does not run ends with it: a stop that wants no savepoint, which could not be taken.
    pub const fn ends_job(&self) -> bool {
        match self {
            Self::Snapshot { wish, .. } => {
                matches!(
                    wish,
                    SnapshotWish::Stop {
                        savepoint: None,
                        ..
                    }
                )
            }
            Self::Configure { .. } => false,
            Self::Cancel => true,
        }
    }

    /// Refuses it. Nobody waits for the answer of a cancellation.
    pub fn refuse(self, refused: RequestRefused) {
        match self {
            Self::Snapshot { answer, .. } => reply(answer, Err(refused)),
            Self::Configure { answer, .. } => {
                if answer.send(Err(refused)).is_err() {
                    tracing::debug!("nobody waits for the answer any more");
                }
            }
            Self::Cancel => {}
        }
    }
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
        if request.ends_job() {
            return request.refuse(RequestRefused::Ended(ENDED_EARLY));
        }
        request.refuse(RequestRefused::NotRunning(waits.read()));
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
        /// The lineage and checkpoint that it is a copy of; `None` = it cannot be read. Whoever asked an older leader for it finds here
        /// that it was made.
        holds: Option<(Lineage, CheckpointId)>,
    },
    /// The id of the operation stands for another request.
    #[error("operation {id} was {was}; an id stands for one request, choose another")]
    OtherOperation {
        /// The id.
        id: OperationId,
        /// What was asked for under it.
        was: SnapshotWish,
    },
    /// Too many operations are under way.
    #[error("too many operations are under way; ask again when one has ended")]
    TooMany,
    /// Too many wait for what comes of one operation.
    #[error("too many wait for operation {0}, which is under way; ask for it without waiting")]
    TooManyWaiting(OperationId),
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
    /// The job cannot run at the parallelism that is asked for.
    #[error("{0}")]
    Rescale(String),
    /// The slots that a rescale needs are not there.
    #[error("{0}")]
    SlotsMissing(String),
    /// The job has ended.
    #[error("{0}")]
    Ended(&'static str),
}

impl From<CheckpointFailure> for RequestRefused {
    fn from(failure: CheckpointFailure) -> Self {
        match failure {
            CheckpointFailure::Stopping
            | CheckpointFailure::Busy
            | CheckpointFailure::Redeploying => Self::Busy(failure),
            failure => Self::GivenUp(failure),
        }
    }
}

impl Classified for RequestRefused {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_) | Self::Taken { .. } | Self::OtherOperation { .. } | Self::Rescale(_) => {
                ErrorKind::Invalid
            }
            Self::NotRunning(_)
            | Self::Ended(_)
            | Self::TooMany
            | Self::TooManyWaiting(_)
            | Self::SlotsMissing(_) => ErrorKind::Transient,
            Self::Busy(failure) | Self::GivenUp(failure) => failure.kind(),
            Self::Store { kind, .. } => *kind,
        }
    }
}
