//! The named steps of the protocol, and the seam at which a process can be stopped exactly there.
//!
//! Called by drivers and by the simulator: both announce the same names, so a schedule that the simulator found can be
//! replayed against real processes. This file decides nothing.

use std::fmt;
use std::str::FromStr;

/// A step of a checkpoint (P), of a recovery (R) or of the copy of a savepoint (X).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The coordinator picks the number.
    P1,
    /// The sources are triggered.
    P2,
    /// Barriers travel and align.
    P3,
    /// Local snapshot and pre-commit of sinks.
    P4,
    /// Upload of state files and sink logs.
    P5,
    /// A subtask acknowledges.
    P6,
    /// The immutable manifest is written.
    P7,
    /// The head object moves: the completion point of a checkpoint. The writes of *Going back*, its choice and the older
    /// state, and those that say that all output is confirmed and that the job has ended have this name as well.
    P8,
    /// Commits are ordered.
    P9,
    /// The end of a transaction is requested.
    P10,
    /// The committed marker is known: confirmed.
    P11,
    /// Garbage collection.
    P12,
    /// A candidate holds the lease.
    R1,
    /// The head object takes the new epoch: the leadership point.
    R2,
    /// Sinks are fenced: sessions are opened.
    R3,
    /// Markers are read.
    R4,
    /// State is assigned, fetched and verified.
    R5,
    /// State is open, sources are sought.
    R6,
    /// Output is re-published or committed, then records flow.
    R7,
    /// A file of a savepoint is copied out; once for each file.
    X1,
    /// The manifest of a savepoint is written: it is complete.
    X2,
}

impl Step {
    /// The steps that every job takes which is started again, in order: of checkpoints, then of a recovery.
    pub const ALL: [Self; 19] = [
        Self::P1,
        Self::P2,
        Self::P3,
        Self::P4,
        Self::P5,
        Self::P6,
        Self::P7,
        Self::P8,
        Self::P9,
        Self::P10,
        Self::P11,
        Self::P12,
        Self::R1,
        Self::R2,
        Self::R3,
        Self::R4,
        Self::R5,
        Self::R6,
        Self::R7,
    ];
    /// The steps that only a savepoint takes.
    pub const SAVEPOINT: [Self; 2] = [Self::X1, Self::X2];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A name that is no step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no protocol step; use P1 to P12, R1 to R7, X1 or X2")]
pub struct StepError(String);

impl FromStr for Step {
    type Err = StepError;

    fn from_str(text: &str) -> Result<Self, StepError> {
        Self::ALL
            .into_iter()
            .chain(Self::SAVEPOINT)
            .find(|step| step.to_string() == text)
            .ok_or_else(|| StepError(text.chars().take(40).collect()))
    }
}

/// Receives the steps as a process reaches them.
///
/// Law: an implementation may end or stall the process, but changes nothing that the protocol can see. A driver calls
/// it right before the act that the step names and does not call it twice for one act.
pub trait StopPoint {
    /// The process is about to perform `step`.
    fn reached(&mut self, step: Step);
}

/// Goes on at every step: what a release build uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeverStop;

impl StopPoint for NeverStop {
    fn reached(&mut self, _: Step) {}
}

impl<F: FnMut(Step)> StopPoint for F {
    fn reached(&mut self, step: Step) {
        self(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_read_back_from_its_name() {
        for step in Step::ALL.into_iter().chain(Step::SAVEPOINT) {
            assert_eq!(step.to_string().parse(), Ok(step));
        }
        assert!(
            "P13"
                .parse::<Step>()
                .unwrap_err()
                .to_string()
                .contains("`P13`")
        );
        assert!("p8".parse::<Step>().is_err());
    }

    #[test]
    fn a_closure_is_a_stop_point() {
        let mut seen = Vec::new();
        let mut point = |step| seen.push(step);
        StopPoint::reached(&mut point, Step::P8);
        assert_eq!(seen, [Step::P8]);
    }
}
