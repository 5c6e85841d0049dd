//! Planted bugs: wrong rules that the oracles of the simulator must catch before they count.
//!
//! Each variant switches one rule of the protocol off at the place where production code keeps it. Without the feature
//! `mutants`, [`planted`] is `false` at compile time and nothing of this remains. With it, a test selects one bug for
//! its own thread. A release binary is never built with the feature.

use std::fmt;
use std::str::FromStr;

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All planted bugs.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

mutants! {
    /// B.3: `head` moves before the manifest is durable.
    HeadBeforeManifest = "head-before-manifest",
    /// B.3: commits are ordered before the head write is decided.
    CommitBeforeHead = "commit-before-head",
    /// B.3 and schedule 1: markers are read before the session is opened.
    ReadBeforeSession = "read-before-session",
    /// B.3: alignment does not hold the channels whose barrier has come.
    AlignmentDropsHold = "alignment-drops-hold",
    /// B.3 and schedule 5: the next transaction keeps the producer epoch.
    SameProducerEpoch = "same-producer-epoch",
    /// B.3: garbage collection deletes one referenced file.
    GcDeletesReferenced = "gc-deletes-referenced",
    /// B.3: a part of the operator's state (its timers) is not in the snapshot.
    TimersNotSnapshotted = "timers-not-snapshotted",
    /// B.3: the key-group ranges of a restore are off by one.
    KeyGroupOffByOne = "key-group-off-by-one",
    /// B.3: the marker is written outside of the transaction.
    MarkerOutside = "marker-outside",
    /// B.3: a worker obeys an older leader.
    StaleEpochAccepted = "stale-epoch-accepted",
    /// Schedule 1: the session that publishes is not the one that read.
    PublishInNewSession = "publish-in-new-session",
    /// Schedule 6: the old value in `head` decides against the own put.
    OldValueDecides = "old-value-decides",
    /// Schedule 7: a checkpoint is given up without void markers.
    NoVoidMarkers = "no-void-markers",
    /// *Going back* (a): void markers are written before `head` says that the number is given up.
    GiveUpNotDurable = "give-up-not-durable",
    /// Schedule 8: going back uses the number again.
    NumberReused = "number-reused",
    /// *Going back* (b): a savepoint that was taken is taken again by the next leader.
    SavepointTakenTwice = "savepoint-taken-twice",
    /// Schedule 9: records of n + 1 are sent before n is confirmed.
    SendBeforeConfirmed = "send-before-confirmed",
    /// S3: a slot acknowledges although the last completed checkpoint is not confirmed.
    AckUnconfirmed = "ack-unconfirmed",
    /// Schedule 11: a stop ends at completion, not at confirmation.
    StopUnconfirmed = "stop-unconfirmed",
    /// L7: the end of a job is told before `head` says so.
    EndUnrecorded = "end-unrecorded",
    /// L7: a leader that takes over forgets the savepoint that its checkpoint was asked for as.
    SavepointForgotten = "savepoint-forgotten",
    /// Schedule 16: the enumerator of a new leader forgets the reported splits.
    SplitsAssignedTwice = "splits-assigned-twice",
    /// L4: a report counts although the task still obeys an older leader.
    ReportUnfenced = "report-unfenced",
    /// Schedule 17: no checkpoint 0: source positions are resolved again.
    PositionsResolvedAgain = "positions-resolved-again",
    /// Schedule 15 and L2: a file of a declined try is referred to.
    DeclinedFilesShared = "declined-files-shared",
    /// Garbage is judged by the number in its name, not by who refers to it.
    GcByNumber = "gc-by-number",
    /// Schedule 20: a number is tried again, and acknowledgements of older attempts enter the manifest.
    StaleAckAccepted = "stale-ack-accepted",
    /// Schedule 26: a recovery fences only the slots of its own parallelism.
    SlotsForgotten = "slots-forgotten",
    /// Schedule 31: each retry of a head write has a nonce of its own.
    NoncePerRetry = "nonce-per-retry",
    /// L1: a refusal of a later put decides, although an earlier one may land.
    RefusalDecides = "refusal-decides",
    /// L6: the manifest of the checkpoint that rescales does not say at which parallelism the job goes on.
    RescaleForgotten = "rescale-forgotten",
    /// L6 and schedule 26: the write that completes a rescale does not raise the slots.
    SlotsNotRaised = "slots-not-raised",
    /// L6: the attempt ends for a redeployment before all output of its checkpoint is confirmed.
    RedeployUnconfirmed = "redeploy-unconfirmed",
    /// An unclear end of a transaction counts as success.
    UnclearIsSuccess = "unclear-is-success",
    /// A fenced commit is dropped and the slot goes on.
    FencedIsDropped = "fenced-is-dropped",
    /// A declined checkpoint drops what the slot held back.
    DeclineDropsSpool = "decline-drops-spool",
    /// A recovery lets records flow before all slots have confirmed.
    FlowBeforeConfirmed = "flow-before-confirmed",
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no planted bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no planted bug; list them with --list-mutants")]
pub struct MutantError(String);

impl FromStr for Mutant {
    type Err = MutantError;

    fn from_str(text: &str) -> Result<Self, MutantError> {
        Self::ALL
            .iter()
            .copied()
            .find(|mutant| mutant.name() == text)
            .ok_or_else(|| MutantError(text.chars().take(40).collect()))
    }
}

#[cfg(feature = "mutants")]
mod selected {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static SELECTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Selects the planted bug of this thread; `None` = the protocol as designed.
    pub fn select(mutant: Option<Mutant>) {
        SELECTED.with(|cell| cell.set(mutant));
    }

    /// Whether `mutant` is selected on this thread.
    pub fn planted(mutant: Mutant) -> bool {
        SELECTED.with(Cell::get) == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub use selected::{planted, select};

/// Whether `mutant` is selected: never, without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "the branch must vanish from every build without the feature"
)]
pub const fn planted(_: Mutant) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_read_back() {
        for &mutant in Mutant::ALL {
            assert_eq!(mutant.name().parse(), Ok(mutant));
        }
        assert!("nothing".parse::<Mutant>().is_err());
    }

    #[test]
    fn nothing_is_planted_until_selected() {
        assert!(Mutant::ALL.iter().all(|&mutant| !planted(mutant)));
    }
}
