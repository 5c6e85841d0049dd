//! Exit codes: what the end of a command means to a script. The table is in `docs/exit-codes.md`.

use std::fmt;
use std::process::ExitCode;

use highwater_types::{Classified, ErrorKind};

/// An end of a command that is no success.
#[derive(Debug)]
pub struct Failure {
    /// What a script sees.
    pub code: Code,
    /// What a person sees.
    pub message: String,
}

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A bug, or something that fits no other code.
    Other = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// The job failed; its state is kept.
    JobFailed = 3,
    /// Somebody newer owns the job.
    Fenced = 4,
    /// Plan, settings or input must be changed.
    Invalid = 5,
    /// Stored data is damaged or missing.
    Corrupt = 6,
    /// The job that is asked does not run here.
    NotRunning = 7,
    /// Ended at once by a second Ctrl-C.
    Interrupted = 130,
}

impl Code {
    /// The code of an error's kind.
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Transient | ErrorKind::Exhausted => Self::JobFailed,
            ErrorKind::Fenced => Self::Fenced,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Corrupt => Self::Corrupt,
            ErrorKind::Bug => Self::Other,
        }
    }
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// A failure from an error with its causes.
    pub fn of<E: Classified>(error: &E) -> Self {
        Self::new(
            Code::of(error.kind()),
            highwater_worker::slot::error_chain(error),
        )
    }

    /// The code for the process.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_the_code_of_the_table() {
        assert_eq!(Code::of(ErrorKind::Transient) as u8, 3);
        assert_eq!(Code::of(ErrorKind::Exhausted) as u8, 3);
        assert_eq!(Code::of(ErrorKind::Fenced) as u8, 4);
        assert_eq!(Code::of(ErrorKind::Invalid) as u8, 5);
        assert_eq!(Code::of(ErrorKind::Corrupt) as u8, 6);
        assert_eq!(Code::of(ErrorKind::Bug) as u8, 1);
    }
}
