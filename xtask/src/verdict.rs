//! The last line of every command: `VERDICT pass|fail: ...`, and the exit code that goes with it.
//!
//! Scripts and CI read this line and nothing else, so there is exactly one of it and it comes last. A program that the
//! door starts prints its own verdict line; the door holds it back while the program runs and says it at the end.

use std::fmt;
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything that was asked for holds.
    Pass(String),
    /// Something that was asked for does not hold, or could not be found out.
    Fail(String),
    /// The command line asks for something that does not exist.
    Usage(String),
}

impl Verdict {
    /// Reads a verdict line that another program printed; `None` for every other line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let rest = line.trim_end().strip_prefix("VERDICT ")?;
        let (word, text) = rest.split_once(':')?;
        match word {
            "pass" => Some(Self::Pass(text.trim().to_owned())),
            "fail" => Some(Self::Fail(text.trim().to_owned())),
            _ => None,
        }
    }

    /// 0 for pass, 1 for fail, 2 for usage.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Pass(_) => 0,
            Self::Fail(_) => 1,
            Self::Usage(_) => 2,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match self {
            Self::Pass(text) => ("pass", text),
            Self::Fail(text) | Self::Usage(text) => ("fail", text),
        };
        let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(f, "VERDICT {word}: {one_line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_one_line_and_reads_back() {
        let verdict = Verdict::Fail("lost 1\nof 20".to_owned());
        assert_eq!(verdict.to_string(), "VERDICT fail: lost 1 of 20");
        assert_eq!(
            Verdict::parse("VERDICT fail: lost 1 of 20\n"),
            Some(Verdict::Fail("lost 1 of 20".to_owned()))
        );
    }

    #[test]
    fn other_lines_are_no_verdict() {
        for line in [
            "",
            "VERDICT",
            "VERDICT maybe: x",
            "verdict pass: x",
            " VERDICT pass: x",
        ] {
            assert_eq!(Verdict::parse(line), None, "{line}");
        }
    }
}
