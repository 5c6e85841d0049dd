//! What the outside may ask of a running job.

use highwater_types::CheckpointId;
use tokio::sync::oneshot;

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

/// The answer to a request.
pub type RequestAnswer = Result<CheckpointId, RequestRefused>;

/// Why a request was not fulfilled. The job goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RequestRefused(pub String);
