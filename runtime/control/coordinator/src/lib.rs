//! The coordinator: drives deployment, checkpoints and recovery of one job.
//!
//! It decides nothing about checkpoints and recovery itself: the machines of `highwater-protocol` do, and this performs
//! their effects against the store, the sources' enumerators and the worker. In reading order: settings, what the
//! outside asks and sees, the shape of a job for the protocol, the head driver, enumerators, restoring, and the one loop
//! that owns everything.

pub mod attempt;
pub mod deploy;
pub mod drained;
pub mod fleet;
pub mod going_back;
pub mod history;
pub mod housekeeping;
pub mod lease;
pub mod operation;
pub mod phase_times;
pub mod request;
pub mod restart;
pub mod run;
pub mod savepoint;
pub mod settings;
pub mod setup;
pub mod shape;
pub mod sources;
pub mod start;
pub mod status;
pub mod store;
pub mod trial_restore;
pub mod workers;

pub use history::{CheckpointHistory, CheckpointOutcome, PastCheckpoint};
pub use lease::{Campaign, HolderWord, LeaseStore, Standing};
pub use operation::{Operation, OperationId, Operations};
pub use phase_times::PhaseTimes;
pub use request::{
    JobRequest, LiveSettings, OperationOrder, RequestAnswer, RequestRefused, RescaleWish,
    SnapshotWish,
};
pub use run::start;
pub use savepoint::SavepointWish;
pub use settings::{CoordinatorSettings, RestartStrategy};
pub use setup::{
    CoordinatorHandle, CoordinatorSetup, EndBoard, GoesPast, JobFailure, JobOutcome, Wish,
};
pub use status::{
    CheckpointStatus, FailureHistory, JobPhase, JobStatus, LastRedeployment, PastFailure,
    Redeployments,
};
pub use workers::{Workers, is_over};
