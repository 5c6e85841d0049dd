//! One attempt of the job's region: prepared, opened, running, cancelled.
//!
//! The order of recovery is decided by `RegionRecovery` (L5); this keeps what belongs to the attempt: its number, its
//! enumerators, and whether the worker was told to prepare.

use highwater_protocol::recovery::{RegionRecovery, SlotDuty};
use highwater_types::AttemptId;

use crate::sources::OpenSources;

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptStage {
    /// Sinks are freed and confirmed, state is opened.
    Recovering,
    /// Records flow.
    Running,
    /// The worker ends it.
    Cancelling,
}

/// Why an attempt is cancelled: what follows when the worker has ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// The next attempt, after the delay of the restart strategy.
    Restart,
    /// The job ends.
    End(crate::setup::JobOutcome),
    /// The job fails.
    Fail(crate::setup::JobFailure),
}

/// An attempt.
pub struct Attempt {
    /// Its number.
    pub id: AttemptId,
    /// Where it is.
    pub stage: AttemptStage,
    /// Its recovery.
    pub region: RegionRecovery,
    /// The sources with the splits that they start with.
    pub sources: OpenSources,
    /// Duties that wait for the preparation.
    pub duties: Vec<SlotDuty>,
    /// Whether the worker was told to prepare.
    pub prepared: Prepared,
    /// What follows.
    pub after: After,
}

/// Whether the worker was told to prepare an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Not yet: slots are being freed.
    No,
    /// It was.
    Yes,
}
