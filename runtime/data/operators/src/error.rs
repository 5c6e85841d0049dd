//! What can go wrong inside an operator.

use highwater_connectors::ConnectorError;
use highwater_types::{Classified, ErrorKind};

/// An error that a user function returns.
pub type UserError = Box<dyn std::error::Error + Send + Sync>;

/// An error of an operator. The task adds uid, subtask and position.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The user's function returned an error.
    #[error("the user function failed in `{call}`")]
    User {
        /// Which function of it.
        call: &'static str,
        /// What it returned.
        #[source]
        source: UserError,
    },
    /// A record without event time reached an operator that needs one.
    #[error(
        "a record carries no event time; add `.watermarks(strategy, |record| time)` to its source before {operator}"
    )]
    NoEventTime {
        /// What needs it.
        operator: &'static str,
    },
    /// State could not be read, written or restored, or is over its budget.
    #[error("keyed state failed")]
    State(#[source] highwater_state::StateError),
    /// A source or sink failed.
    #[error("the connector failed")]
    Connector(#[source] ConnectorError),
    /// Stored operator state cannot be read.
    #[error("operator state `{name}` cannot be read: {reason}")]
    Restore {
        /// The name of the state.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The operating system gives no thread that seals a snapshot.
    #[error("no thread to seal a snapshot; raise the limit of processes or lower the parallelism")]
    NoThread(#[source] std::io::Error),
    /// The connection to another worker is gone, and what was on its way with it. The next attempt sends it again.
    #[error("the link to {peer} was lost: {reason}")]
    LinkLost {
        /// The other worker.
        peer: String,
        /// What happened to the connection.
        reason: String,
    },
    /// A record is too large to be sent to another worker.
    #[error(
        "a record of {bytes} bytes is too large to be sent to another worker; split it before the exchange"
    )]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// What another worker sent is no element of this channel.
    #[error(
        "what another worker sent cannot be read; coordinator and workers must run the same program"
    )]
    Wire(#[source] highwater_types::DecodeError),
    /// The task was told to stop while it worked.
    #[error("the attempt was cancelled")]
    Cancelled,
}

impl OperatorError {
    /// What the user's function returned from `call`. An error of state that it passed on keeps its kind.
    pub fn user(call: &'static str, source: UserError) -> Self {
        match source.downcast() {
            Ok(state) => Self::State(*state),
            Err(source) => Self::User { call, source },
        }
    }
}

impl Classified for OperatorError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::User { .. } | Self::NoThread(_) | Self::LinkLost { .. } | Self::Cancelled => {
                ErrorKind::Transient
            }
            Self::NoEventTime { .. } | Self::TooLarge { .. } => ErrorKind::Invalid,
            // The checksum of the frame was right.
            Self::Wire(_) => ErrorKind::Bug,
            Self::State(source) => source.kind(),
            Self::Connector(source) => source.kind(),
            Self::Restore { .. } => ErrorKind::Corrupt,
        }
    }
}

impl From<highwater_state::StateError> for OperatorError {
    fn from(source: highwater_state::StateError) -> Self {
        Self::State(source)
    }
}

impl From<ConnectorError> for OperatorError {
    fn from(source: ConnectorError) -> Self {
        Self::Connector(source)
    }
}
