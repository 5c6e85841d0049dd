//! The gate of an attempt: which messages of which leader it obeys (rule L2).
//!
//! Called by a worker for every message of a leader and by a leader for every message of a task. The epoch in `head`
//! and the attempt of a task are two things: a newer leader goes on with the running attempt; an older leader, and a
//! message for another attempt, are refused.

use highwater_types::{AttemptId, Epoch};

use crate::mutant::{Mutant, planted};

/// Whether a message may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// From the leader that is already known, for this attempt.
    Current,
    /// From a newer leader, for this attempt: the attempt reports to it first.
    NewLeader,
    /// From an older leader: refused.
    StaleEpoch,
    /// For another attempt: refused.
    WrongAttempt,
}

impl Admission {
    /// Whether the message may act.
    pub const fn is_admitted(self) -> bool {
        matches!(self, Self::Current | Self::NewLeader)
    }
}

/// The newest leader that an attempt has heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    epoch: Epoch,
    attempt: AttemptId,
}

impl Gate {
    /// The gate of an attempt that `epoch` deployed.
    pub const fn new(epoch: Epoch, attempt: AttemptId) -> Self {
        Self { epoch, attempt }
    }

    /// The newest epoch that was admitted.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The attempt.
    pub const fn attempt(&self) -> AttemptId {
        self.attempt
    }

    /// Judges a message and remembers a newer leader.
    pub fn admit(&mut self, epoch: Epoch, attempt: AttemptId) -> Admission {
        if attempt != self.attempt {
            return Admission::WrongAttempt;
        }
        if epoch < self.epoch && !planted(Mutant::StaleEpochAccepted) {
            return Admission::StaleEpoch;
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            return Admission::NewLeader;
        }
        Admission::Current
    }
}

/// The first attempt number that the leader of `epoch` may give out.
///
/// No object stores attempt numbers, yet none may be used twice: its upper bits are the epoch that made it.
///
/// # Panics
/// If the epoch does not fit the upper 40 bits: a job would have had to change its leader 10^12 times.
pub fn first_attempt(epoch: Epoch) -> AttemptId {
    assert!(
        epoch.0 < 1 << 40,
        "epoch {epoch} does not fit an attempt number"
    );
    AttemptId(epoch.0 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_leaders_and_other_attempts_are_refused_for_ever() {
        let mut gate = Gate::new(Epoch(2), AttemptId(7));
        assert_eq!(gate.admit(Epoch(2), AttemptId(7)), Admission::Current);
        assert_eq!(gate.admit(Epoch(3), AttemptId(7)), Admission::NewLeader);
        assert_eq!(gate.admit(Epoch(2), AttemptId(7)), Admission::StaleEpoch);
        assert_eq!(gate.admit(Epoch(3), AttemptId(7)), Admission::Current);
        assert_eq!(gate.admit(Epoch(9), AttemptId(6)), Admission::WrongAttempt);
        assert_eq!(gate.epoch(), Epoch(3));
    }

    #[test]
    fn attempts_of_two_epochs_never_meet() {
        assert!(first_attempt(Epoch(2)).0 - first_attempt(Epoch(1)).0 > 1_000_000);
    }
}
