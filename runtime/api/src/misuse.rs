//! Mistakes of a job's author that no type prevents: noted by the builder calls, reported by `compile`.

use highwater_types::{Classified, ErrorKind};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misuse {
    /// A side output with two types.
    #[error(
        "side output `{tag}` carries {known} and is read as {wanted}; use one type, or two names"
    )]
    SideType {
        /// Its name.
        tag: String,
        /// The type that it has.
        known: String,
        /// The type that is asked for.
        wanted: String,
    },
    /// Streams of two jobs in one.
    #[error("it is united with a stream of another environment; build both in one")]
    Stranger,
    /// A union whose parts scatter differently.
    #[error(
        "it is united with a stream that is repartitioned otherwise; repartition behind the union"
    )]
    Routes,
    /// A call that means an operator, on a stream that is not the main output of one.
    #[error(
        "`.{call}(...)` stands behind a union, a side output or a repartitioning, which is no operator; put it directly behind the operator that it means"
    )]
    Misplaced {
        /// The method.
        call: &'static str,
    },
    /// A lookup without room.
    #[error("its capacity is 0; use 1 request in flight or more")]
    NoCapacity,
    /// A lookup whose attempts are over before they begin.
    #[error("its timeout is 0; use 1 ms or more")]
    NoTime,
    /// A lookup whose attempts have less time together than one alone.
    #[error(
        "all its attempts may take {total_ms} ms together, less than the {attempt_ms} ms of one; raise the total"
    )]
    TotalTimeout {
        /// The time of all.
        total_ms: u128,
        /// The time of one.
        attempt_ms: u128,
    },
    /// Dead letters that go nowhere.
    #[error(
        "its bad records go to its dead letters, which nobody reads; read `.dead_letters()`, or let them fail or be dropped"
    )]
    UnreadDeadLetters,
    /// State that is gone at once.
    #[error("its state would live for {ms} ms; use 1 ms or more")]
    TimeToLive {
        /// The time to live.
        ms: i64,
    },
}

impl Classified for Misuse {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}
