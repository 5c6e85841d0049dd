//! The first decision of a leader: begin a lineage, take the job over, or stop.
//!
//! Called once per candidacy, with what the store shows. A deleted `head` is never taken for a first start (schedule
//! 32). The operator's claim of a job is this same decision followed by the takeover write.

use highwater_types::{Classified, Epoch, ErrorKind, JobIdentity, Lineage};

use crate::head::Head;
use crate::head_write::Versioned;
use crate::paths::ManifestName;
use crate::stop::NamedStop;

/// What the store shows of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreView {
    /// The head object.
    pub head: Option<Versioned>,
    /// The manifests; listed only if there is no head.
    pub manifests: Vec<ManifestName>,
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartWish {
    /// Goes on with what is there; begins if there is nothing.
    Resume,
    /// Begins a new lineage whatever is there (`--fresh`).
    Fresh,
}

/// What a new lineage leaves behind, for the answer to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// The last completed checkpoint.
    pub number: u64,
    /// The newest number whose output is known to be visible; smaller than `number`: output may be missing.
    pub confirmed: u64,
}

/// What the leader does first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartDecision {
    /// Resolves the source positions, writes checkpoint 0 in this epoch and creates `head`.
    Begin {
        /// The epoch.
        epoch: Epoch,
    },
    /// Bumps the epoch (R2), then restores or adopts what `head` has.
    TakeOver(Versioned),
    /// Replaces the lineage: resolves positions, writes checkpoint 0 of the next epoch, rewrites `head`.
    BeginAgain {
        /// The head to follow.
        head: Versioned,
        /// What is left behind.
        leaves: LeftBehind,
    },
}

/// What a leader does whose claim of a job did not land, because `head` had changed since it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostClaim {
    /// The leader that was to be deposed went on meanwhile. All that was read is void; it is read again.
    ReadAgain,
    /// Somebody else has claimed the job.
    Deposed,
}

/// Decides by the epoch that was to be written and what stands in `head` instead. A claim always names a new epoch, so a
/// change within an old one is no claim.
pub fn decide_lost_claim(claimed: Epoch, found: &Head) -> LostClaim {
    if found.epoch < claimed {
        LostClaim::ReadAgain
    } else {
        LostClaim::Deposed
    }
}

/// Why a job may not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A named stop.
    #[error(transparent)]
    Stop(#[from] NamedStop),
    /// The head object is of another job.
    #[error(
        "the head object below `{expected}` is of job `{found}`; correct the directory or the identity"
    )]
    Identity {
        /// The job that starts.
        expected: JobIdentity,
        /// The job in `head`.
        found: JobIdentity,
    },
    /// The job has state, and nothing was said about it.
    #[error(
        "job `{identity}` has state, its last checkpoint is {number}; to go back to checkpoint {of} of {savepoint} and \
         see the output after it again say --go-back, to begin a new lineage from it say --fork, to go on leave the \
         savepoint out"
    )]
    StateThere {
        /// The job.
        identity: JobIdentity,
        /// Its last checkpoint.
        number: u64,
        /// The savepoint.
        savepoint: String,
        /// Its checkpoint.
        of: u64,
    },
    /// The savepoint is of another line of checkpoints.
    #[error(
        "{savepoint} is of lineage {of}, the job is at lineage {job}; a new lineage from it is begun by --fork"
    )]
    OtherLineage {
        /// The savepoint.
        savepoint: String,
        /// Its lineage.
        of: Lineage,
        /// The lineage in `head`.
        job: Lineage,
    },
    /// The savepoint is newer than what `head` has.
    #[error(
        "{savepoint} is checkpoint {of}, the job is at {number} of the same lineage: its head is an old copy; restore \
         the newest head object, or begin a new lineage with --fork"
    )]
    SavepointAhead {
        /// The savepoint.
        savepoint: String,
        /// Its checkpoint.
        of: u64,
        /// The number in `head`.
        number: u64,
    },
}

impl Classified for StartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Stop(stop) => stop.kind(),
            Self::Identity { .. }
            | Self::StateThere { .. }
            | Self::OtherLineage { .. }
            | Self::SavepointAhead { .. } => ErrorKind::Invalid,
        }
    }
}

/// Decides how a leader of `identity` starts.
///
/// Manifests of number 0 without a head are left by a first start that died before it created `head`: no record flowed.
pub fn decide_start(
    identity: &JobIdentity,
    view: StoreView,
    wish: StartWish,
) -> Result<StartDecision, StartError> {
    let Some(head) = view.head else {
        let newest = view
            .manifests
            .iter()
            .map(|name| name.number)
            .max()
            .unwrap_or(0);
        if newest > 0 && wish == StartWish::Resume {
            let manifests = view.manifests.len();
            return Err(NamedStop::HeadMissing { manifests, newest }.into());
        }
        let last = view
            .manifests
            .iter()
            .map(|name| name.epoch)
            .max()
            .unwrap_or_default();
        return Ok(StartDecision::Begin { epoch: last.next() });
    };
    if head.head.identity != *identity {
        let found = head.head.identity;
        return Err(StartError::Identity {
            expected: identity.clone(),
            found,
        });
    }
    match wish {
        StartWish::Resume => Ok(StartDecision::TakeOver(head)),
        StartWish::Fresh => {
            let leaves = LeftBehind {
                number: head.head.number,
                confirmed: head.head.confirmed,
            };
            Ok(StartDecision::BeginAgain { head, leaves })
        }
    }
}
