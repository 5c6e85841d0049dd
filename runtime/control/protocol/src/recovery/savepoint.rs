//! A start from a savepoint: whether it may be taken, as what, and how its manifest becomes one of the job.
//!
//! Called by a leader that was told to start from a savepoint, instead of [`super::decide_start`]. The rule: output that
//! is visible is repeated only by an explicit word, and a second start with the same words goes on instead of going back
//! again: `head` says which savepoint was taken.

use std::collections::BTreeMap;

use highwater_types::{AttemptId, CheckpointId, Epoch, JobIdentity, Lineage, Nonce, SubtaskIndex};

use super::start::{LeftBehind, StartDecision, StartError, StartWish, StoreView, decide_start};
use crate::hash::ContentHash;
use crate::head::Origin;
use crate::head_write::Versioned;
use crate::manifest::{Blob, Manifest};
use crate::mutant::{Mutant, planted};
use crate::paths::{DataWriter, RelativePath};

/// What identifies a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointFacts {
    /// Its folder, for people.
    pub folder: String,
    /// The hash of its manifest: its identity, wherever it lies.
    pub hash: ContentHash,
    /// The lineage that it is of.
    pub lineage: Lineage,
    /// The checkpoint that it is a copy of.
    pub id: CheckpointId,
}

/// What the user says about the state that a job has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavepointWord {
    /// Nothing: a job that has other state refuses.
    Unsaid,
    /// Go back to the savepoint in the same lineage; output after it appears again.
    GoBack,
    /// Begin a new lineage from it; its output is told apart by the lineage.
    Fork,
}

/// Whether a savepoint that was taken is taken anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeAgain {
    /// A start goes on from where the job is.
    No,
    /// Each start goes back to it.
    Yes,
}

/// How a leader starts that was told to start from a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavepointStart {
    /// There is no job yet: begins a lineage from the savepoint in this epoch.
    Begin {
        /// The epoch.
        epoch: Epoch,
    },
    /// It was taken before, or is what `head` has: goes on.
    Resume(Versioned),
    /// Replaces the lineage by one that begins with the savepoint.
    Fork {
        /// The head to follow.
        head: Versioned,
        /// What is left behind.
        leaves: LeftBehind,
    },
    /// Takes the leadership, confirms what is pending, then takes the savepoint under a new number.
    GoBack(Versioned),
}

/// Decides how a leader of `identity` starts from a savepoint.
///
/// # Errors
/// When the job has state and nothing was said about it, when the savepoint does not fit the word, and as
/// [`decide_start`].
pub fn decide_from_savepoint(
    identity: &JobIdentity,
    view: StoreView,
    savepoint: &SavepointFacts,
    (word, again): (SavepointWord, TakeAgain),
) -> Result<SavepointStart, StartError> {
    let found = match decide_start(identity, view, StartWish::Resume)? {
        StartDecision::Begin { epoch } => return Ok(SavepointStart::Begin { epoch }),
        StartDecision::TakeOver(found) | StartDecision::BeginAgain { head: found, .. } => found,
    };
    let head = &found.head;
    let is_taken = head
        .origin
        .as_ref()
        .is_some_and(|origin| origin.hash == savepoint.hash);
    if is_taken && again == TakeAgain::No && !planted(Mutant::SavepointTakenTwice) {
        return Ok(SavepointStart::Resume(found));
    }
    let is_own = head.lineage == savepoint.lineage;
    if is_own && head.checkpoint() == savepoint.id && word == SavepointWord::Unsaid {
        return Ok(SavepointStart::Resume(found));
    }
    match word {
        SavepointWord::Fork => {
            let leaves = LeftBehind {
                number: head.number,
                confirmed: head.confirmed,
            };
            Ok(SavepointStart::Fork {
                head: found,
                leaves,
            })
        }
        SavepointWord::Unsaid => Err(StartError::StateThere {
            identity: identity.clone(),
            number: head.number,
            savepoint: savepoint.folder.clone(),
            of: savepoint.id.number,
        }),
        // What a fork of this job has written since is of the lineage that took it.
        SavepointWord::GoBack if !is_own && !is_taken => Err(StartError::OtherLineage {
            savepoint: savepoint.folder.clone(),
            of: savepoint.lineage,
            job: head.lineage,
        }),
        SavepointWord::GoBack if is_own && savepoint.id.number > head.number => {
            Err(StartError::SavepointAhead {
                savepoint: savepoint.folder.clone(),
                of: savepoint.id.number,
                number: head.number,
            })
        }
        SavepointWord::GoBack => Ok(SavepointStart::GoBack(found)),
    }
}

/// Who takes a savepoint: names the files that the job will own.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// The job.
    pub identity: &'a JobIdentity,
    /// Its lineage.
    pub lineage: Lineage,
    /// The epoch of the leader.
    pub epoch: Epoch,
    /// An attempt that nobody else writes in.
    pub attempt: AttemptId,
    /// The number that the files belong to.
    pub number: u64,
    /// Tells this try from every other.
    pub nonce: Nonce,
}

/// A savepoint's manifest as one of the job, and which file is copied where: the paths of the savepoint and of the job.
///
/// Nothing refers to the savepoint afterwards, so it may be moved or deleted, and no name of the job is used twice.
pub fn take(
    savepoint: &Manifest,
    taker: Taker<'_>,
) -> (Manifest, Vec<(RelativePath, RelativePath)>) {
    let mut names = BTreeMap::new();
    let mut state = savepoint.clone();
    for (uid, operator) in &mut state.operators {
        let writer = DataWriter {
            epoch: taker.epoch,
            attempt: taker.attempt,
            uid: uid.clone(),
            subtask: SubtaskIndex(0),
        };
        let mut rename = |path: &mut RelativePath| {
            let at = names.len();
            let file = format!("taken-{}.{at}", taker.nonce);
            let new = names
                .entry(path.clone())
                .or_insert_with(|| writer.file(taker.number, &file));
            path.clone_from(new);
        };
        for keyed in &mut operator.keyed {
            rename(&mut keyed.path);
            let parts = keyed.store.iter_mut().flat_map(|store| &mut store.parts);
            parts.for_each(|part| rename(&mut part.path));
        }
        let lists = operator
            .lists
            .iter_mut()
            .flat_map(|list| &mut list.elements);
        for element in lists {
            if let Blob::File { path, .. } = element {
                rename(path);
            }
        }
    }
    state.files = names
        .iter()
        .filter_map(|(old, new)| Some((new.clone(), *savepoint.files.get(old)?)))
        .collect();
    state.identity = taker.identity.clone();
    state.lineage = taker.lineage;
    state.parent = None;
    // Whoever takes a drained savepoint says that the job is to read on.
    state.drained = false;
    state.savepoint = None;
    state.starts = None;
    state.rescaled = None;
    (state, names.into_iter().collect())
}

impl From<(&SavepointFacts, u64)> for Origin {
    fn from((savepoint, taken_as): (&SavepointFacts, u64)) -> Self {
        Self {
            savepoint: savepoint.folder.clone(),
            hash: savepoint.hash,
            taken_as,
        }
    }
}

#[cfg(test)]
#[path = "savepoint/tests.rs"]
mod tests;
