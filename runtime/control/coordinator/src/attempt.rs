//! One attempt of the job's region: prepared, opened, running, cancelled.
//!
//! The order of recovery is decided by `RegionRecovery` (L5); this keeps what belongs to the attempt: its number, its
//! enumerators, and whether the worker was told to prepare.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::recovery::{Fault, RegionRecovery, SlotDuty};
use highwater_types::{AttemptId, ErrorKind, OperatorUid};

use tokio::task::AbortHandle;

use crate::setup::{JobFailure, JobOutcome};
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
    /// The next attempt at once: nothing has failed, the job goes on behind a checkpoint.
    Redeploy,
    /// The checkpoint cannot be used: *Going back*, then the next attempt.
    GoBack(Fault),
    /// The job ends.
    End(JobOutcome),
    /// The job fails.
    Fail(JobFailure),
}

impl After {
    /// Whether `other`, which comes later, takes its place. What ends the job takes the place of what goes on with it, and the first of those
    /// is kept, since the end of an attempt brings others about. Only what `head` says outweighs them: a job that has ended.
    pub const fn gives_way_to(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Restart, _) => true,
            (Self::Redeploy, _) => !matches!(other, Self::Restart),
            (Self::GoBack(_), _) => matches!(other, Self::End(_) | Self::Fail(_)),
            (Self::End(JobOutcome::Cancelled) | Self::Fail(_), _) => other.is_over(),
            (Self::End(JobOutcome::Finished | JobOutcome::Stopped), _) => false,
        }
    }

    /// Whether it follows the end of the job in `head`.
    pub const fn is_over(&self) -> bool {
        self.over().is_some()
    }

    /// The end of the job in `head` that it follows.
    pub const fn over(&self) -> Option<JobOutcome> {
        match self {
            Self::End(outcome @ (JobOutcome::Finished | JobOutcome::Stopped)) => Some(*outcome),
            Self::End(JobOutcome::Cancelled)
            | Self::Fail(_)
            | Self::GoBack(_)
            | Self::Restart
            | Self::Redeploy => None,
        }
    }

    /// What follows a failure of this kind: only what may pass is tried again.
    pub fn of(failure: JobFailure) -> Self {
        match failure.kind {
            ErrorKind::Transient | ErrorKind::Exhausted | ErrorKind::Bug => Self::Restart,
            ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::Fenced => Self::Fail(failure),
        }
    }
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
    /// Splits that tasks of an adopted attempt read: whoever finds them again does not assign them.
    pub read: BTreeMap<OperatorUid, BTreeSet<String>>,
    /// Duties that the worker was not told yet.
    pub duties: Vec<SlotDuty>,
    /// Whether the worker was told its duties.
    pub confirming: Confirming,
    /// Its preparation waits until a write of `head` is decided.
    pub waits_for_head: bool,
    /// What was found damaged.
    pub fault: Fault,
    /// What follows.
    pub after: After,
    /// When its end was asked for, in milliseconds of the coordinator's clock.
    pub cancelled_ms: Option<u64>,
    /// What is done for it at the rim and ends with it.
    pub rim: AttemptRim,
}

/// Work at the rim that belongs to one attempt. What is left of it is aborted with the attempt: a session that is opened
/// later would fence the next one's.
#[derive(Debug, Default)]
pub struct AttemptRim(Vec<AbortHandle>);

impl AttemptRim {
    /// Holds one more.
    pub fn hold(&mut self, work: AbortHandle) {
        self.0.push(work);
    }

    /// Aborts what is left.
    pub fn abort(&mut self) {
        for work in self.0.drain(..) {
            work.abort();
        }
    }
}

impl Drop for AttemptRim {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Whether the worker was told the duties of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirming {
    /// Not yet: state is being verified.
    No,
    /// It was.
    Yes,
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn what_ends_the_job_takes_the_place_of_going_back_and_the_first_of_those_is_kept() {
        let failed = || {
            After::Fail(JobFailure {
                kind: ErrorKind::Invalid,
                message: "it failed".to_owned(),
            })
        };
        let back = || After::GoBack(Fault::State);
        let ends = || {
            [
                After::End(JobOutcome::Stopped),
                After::End(JobOutcome::Finished),
            ]
        };
        let cancelled = || After::End(JobOutcome::Cancelled);
        for end in ends().into_iter().chain([failed(), cancelled()]) {
            assert!(After::Restart.gives_way_to(&end));
            assert!(back().gives_way_to(&end), "{end:?}");
            for goes_on in [After::Restart, back()] {
                assert!(!end.gives_way_to(&goes_on), "{end:?}");
            }
        }
        assert!(After::Restart.gives_way_to(&back()) && !back().gives_way_to(&After::Restart));
        // The end of an attempt brings failures about.
        assert!(After::Redeploy.gives_way_to(&back()) && After::Redeploy.gives_way_to(&failed()));
        assert!(!After::Redeploy.gives_way_to(&After::Restart));
        assert!(!failed().gives_way_to(&cancelled()) && !cancelled().gives_way_to(&failed()));
        for end in ends() {
            // `head` says so.
            assert!(failed().gives_way_to(&end) && cancelled().gives_way_to(&end));
            assert!(!end.gives_way_to(&failed()) && !end.gives_way_to(&cancelled()));
        }
    }

    #[tokio::test]
    async fn what_an_attempt_does_at_the_rim_ends_with_it() {
        let mut all = JoinSet::new();
        let mut rim = AttemptRim::default();
        rim.hold(all.spawn(std::future::pending::<()>()));
        drop(rim);
        let ended = all.join_next().await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }
}
