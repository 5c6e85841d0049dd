//! Errors of state: what was refused, where, and what to do next.
//!
//! Messages name the operator uid, and the state where one is concerned, because a job has many of both. The kind decides
//! what the caller does; no caller reads the text.

use highwater_types::{
    CheckpointId, Classified, DecodeError, ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism,
    OperatorUid, Parallelism, SubtaskIndex,
};

use crate::descriptor::StateKind;

/// What a [`Backing`](crate::Backing) reports: any error that has a kind.
pub type BackingError = Box<dyn Classified + Send + Sync>;

/// Names one state of one operator in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateName {
    /// The operator.
    pub uid: OperatorUid,
    /// The state.
    pub state: String,
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "state `{}` of operator `{}`", self.state, self.uid)
    }
}

/// Why state could not be opened, held, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// What cannot leave memory outgrew the budget of the process.
    #[error(
        "{name} holds {held} bytes that cannot leave memory, and all states of this process {used} of {budget} allowed; \
         raise `state.memory`, spread the job over more workers, set a TTL, or with the backend `heap` go on with `rocksdb`"
    )]
    Budget {
        /// The state that was being charged.
        name: StateName,
        /// Bytes of this state that cannot leave memory.
        held: u64,
        /// The same of all states of the process.
        used: u64,
        /// The limit.
        budget: u64,
    },
    /// A second snapshot was begun before the first was taken or aborted.
    #[error(
        "operator `{uid}` still takes checkpoint {running}; finish or abort it before checkpoint {asked}"
    )]
    SnapshotRunning {
        /// The operator.
        uid: OperatorUid,
        /// The one that runs.
        running: CheckpointId,
        /// The one that was asked for.
        asked: CheckpointId,
    },
    /// A snapshot was asked to go on though none was begun.
    #[error("operator `{uid}` takes no snapshot; begin one at the barrier first")]
    NoSnapshot {
        /// The operator.
        uid: OperatorUid,
    },
    /// The same state name was opened twice.
    #[error("{0} is open already; keep the handle of the first open or choose another name")]
    AlreadyOpen(StateName),
    /// A descriptor does not describe the type that opens it.
    #[error(
        "{name} is described as {described} but opened as {opened}; use the descriptor of the opened type"
    )]
    Descriptor {
        /// The state.
        name: StateName,
        /// What the descriptor says.
        described: String,
        /// What the type says.
        opened: String,
    },
    /// A record was brought to a subtask that does not own its key group.
    #[error(
        "{name} got a key of group {group} but owns {range}; the exchange before it is wired wrongly"
    )]
    ForeignGroup {
        /// The state.
        name: StateName,
        /// The group of the key.
        group: KeyGroup,
        /// What the subtask owns.
        range: KeyGroupRange,
    },
    /// The stored state is of another kind.
    #[error(
        "{name} is stored as {stored} state and declared as {declared}; give the new one another name and drop the old \
         one by --allow-unmatched-state"
    )]
    Kind {
        /// The state.
        name: StateName,
        /// What the snapshot holds.
        stored: StateKind,
        /// What the job asks for.
        declared: StateKind,
    },
    /// The key or namespace schema changed.
    #[error(
        "{name} is keyed by {part} `{declared}` but stored with {part} `{stored}`; the {part} schema cannot change: \
         keep the old one, or give the operator a new uid and drop the old state by --allow-unmatched-state"
    )]
    KeySchema {
        /// The state.
        name: StateName,
        /// `key`, `namespace` or `map key`.
        part: &'static str,
        /// The stored schema.
        stored: String,
        /// The declared schema.
        declared: String,
    },
    /// The value schema changed in a way that cannot be migrated.
    #[error(
        "{name} is declared with value `{declared}` but stored with `{stored}`: {reason}; add fields with a default or \
         remove fields, or give the state a new name and drop the old one by --allow-unmatched-state"
    )]
    ValueSchema {
        /// The state.
        name: StateName,
        /// The stored schema.
        stored: String,
        /// The declared schema.
        declared: String,
        /// What cannot be migrated.
        reason: String,
    },
    /// The snapshot holds states that nobody opened.
    #[error(
        "the snapshot of operator `{uid}` holds state that the job does not open: {names}{hint}; open it under the \
         stored name, or drop it by --allow-unmatched-state"
    )]
    Unmatched {
        /// The operator.
        uid: OperatorUid,
        /// The names, comma separated.
        names: String,
        /// Which opened state may be a renamed one.
        hint: String,
    },
    /// The maximum parallelism changed after state exists.
    #[error(
        "operator `{uid}` is stored with max parallelism {stored} and started with {declared}; it is fixed once state \
         exists: start with {stored}"
    )]
    MaxParallelism {
        /// The operator.
        uid: OperatorUid,
        /// The stored one.
        stored: MaxParallelism,
        /// The declared one.
        declared: MaxParallelism,
    },
    /// A file of another operator was handed in.
    #[error("a snapshot of operator `{found}` was given to operator `{uid}`; restore by uid")]
    ForeignOperator {
        /// The operator that restores.
        uid: OperatorUid,
        /// The operator of the file.
        found: OperatorUid,
    },
    /// The files leave key groups out.
    #[error(
        "no snapshot file of operator `{uid}` covers key group {group} of {range}; hand in all files of the checkpoint"
    )]
    Coverage {
        /// The operator.
        uid: OperatorUid,
        /// The first group without a file.
        group: KeyGroup,
        /// What the subtask owns.
        range: KeyGroupRange,
    },
    /// Two files hold the same key group.
    #[error(
        "two snapshot files of operator `{uid}` hold key group {group}; hand in the files of one checkpoint only"
    )]
    Overlap {
        /// The operator.
        uid: OperatorUid,
        /// The first group that is held twice.
        group: KeyGroup,
    },
    /// The snapshots of some old subtasks are missing or there twice.
    #[error(
        "{found} operator snapshots of `{uid}` were handed in for {parallelism} subtasks{}; hand in one of each subtask of \
         the checkpoint",
        missing.map_or_else(String::new, |subtask| format!(", subtask {subtask} is missing"))
    )]
    Subtasks {
        /// The operator.
        uid: OperatorUid,
        /// How many subtasks there were.
        parallelism: Parallelism,
        /// How many snapshots there are.
        found: usize,
        /// The first subtask without one.
        missing: Option<SubtaskIndex>,
    },
    /// Stored bytes do not have their checksum.
    #[error(
        "{what} has checksum {found:016x}, {expected:016x} was written; restore from another checkpoint"
    )]
    Checksum {
        /// Which bytes.
        what: String,
        /// What was written.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// Stored bytes do not have the form of a snapshot.
    #[error(
        "the snapshot is not readable at {at}: {reason}; restore from another checkpoint, or with the version that wrote it"
    )]
    Format {
        /// The part that is being read.
        at: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A stored value could not be read back.
    #[error(
        "{what} could not be decoded; restore from another checkpoint, report this if it comes back"
    )]
    Decode {
        /// Which value.
        what: String,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// The store behind the table failed.
    #[error("{name} could not {operation} the store behind it")]
    Backing {
        /// The state.
        name: StateName,
        /// `open`, `read from` or `write to`.
        operation: &'static str,
        /// Its kind, which is also the kind of this error; damage of local disk is transient, since the checkpoint is whole.
        kind: ErrorKind,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store of a subtask failed as a whole.
    #[error("operator `{uid}` could not {operation} its local store")]
    Store {
        /// The operator.
        uid: OperatorUid,
        /// `freeze`, `open`, ...
        operation: &'static str,
        /// Its kind, which is also the kind of this error; damage of local disk is transient, since the checkpoint is whole.
        kind: ErrorKind,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A snapshot in the form of another store was given to a program that has none.
    #[error(
        "the state of operator `{uid}` was saved by the store `{store}`, which this program does not have; start a program \
         that was built with it and take a savepoint, which every program reads"
    )]
    UnknownStore {
        /// The operator.
        uid: OperatorUid,
        /// What wrote it.
        store: String,
    },
    /// A file on local disk could not be read.
    #[error("{what} could not be read from local disk; it is fetched again at the next start")]
    LocalFile {
        /// What was read.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A row occurs twice in one key group.
    #[error("{what} holds one key twice; this is a bug of the backend")]
    DuplicateKey {
        /// Which group.
        what: String,
    },
}

impl StateError {
    /// The store behind a state failed.
    pub(crate) fn backing(name: StateName, operation: &'static str, source: BackingError) -> Self {
        Self::Backing {
            name,
            operation,
            kind: source.kind(),
            source,
        }
    }

    /// A stored row cannot be decoded.
    pub(crate) fn row(name: &StateName, group: KeyGroup, source: DecodeError) -> Self {
        Self::Decode {
            what: format!("a row of {name} in key group {group}"),
            source,
        }
    }
}

impl Classified for StateError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Budget { .. } => ErrorKind::Exhausted,
            Self::SnapshotRunning { .. }
            | Self::NoSnapshot { .. }
            | Self::AlreadyOpen(_)
            | Self::Descriptor { .. }
            | Self::ForeignGroup { .. }
            | Self::DuplicateKey { .. }
            | Self::ForeignOperator { .. } => ErrorKind::Bug,
            Self::Kind { .. }
            | Self::KeySchema { .. }
            | Self::ValueSchema { .. }
            | Self::Unmatched { .. }
            | Self::MaxParallelism { .. }
            | Self::UnknownStore { .. } => ErrorKind::Invalid,
            Self::Coverage { .. }
            | Self::Overlap { .. }
            | Self::Subtasks { .. }
            | Self::Checksum { .. }
            | Self::Format { .. }
            | Self::Decode { .. } => ErrorKind::Corrupt,
            Self::LocalFile { .. } => ErrorKind::Transient,
            Self::Backing { kind, .. } | Self::Store { kind, .. } => of_local_disk(*kind),
        }
    }
}

/// What an error of a local store means for the attempt. Local disk is a cache, and its files were verified when they came:
/// what is damaged since is no damage of the checkpoint, from which the next attempt takes the state.
const fn of_local_disk(kind: ErrorKind) -> ErrorKind {
    match kind {
        ErrorKind::Corrupt => ErrorKind::Transient,
        other => other,
    }
}
