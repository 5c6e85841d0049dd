//! Runs one external program to its end and says how it went.
//!
//! Every command that starts a program comes through here. Output is passed on as it arrives, with one exception: a
//! `VERDICT` line is held back, because the door says the verdict itself, last. A program that ends well without a
//! verdict where one is due has shown nothing, and counts as failed.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::ops::Add;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::project::{Project, cargo};
use crate::verdict::Verdict;

/// The exit code of a program whose command line has to be mended.
const USAGE: i32 = 2;

/// A program with its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    program: OsString,
    arguments: Vec<String>,
}

/// What `cargo test` reported, added up over its binaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestCount {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were not run.
    pub(crate) ignored: u64,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The exit status.
    pub(crate) status: ExitStatus,
    /// The last verdict line it printed.
    pub(crate) verdict: Option<Verdict>,
    /// The sum of its `test result:` lines.
    pub(crate) tests: TestCount,
}

impl Invocation {
    /// `program arguments`.
    pub(crate) fn new(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
        }
    }

    /// The cargo that started this program, with `arguments`.
    pub(crate) fn cargo(arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::new(cargo(), arguments)
    }

    /// Adds `arguments` behind those that are there.
    pub(crate) fn and(mut self, arguments: &[String]) -> Self {
        self.arguments.extend_from_slice(arguments);
        self
    }

    /// The command as a person would type it.
    pub(crate) fn shown(&self) -> String {
        let program = Path::new(&self.program)
            .file_name()
            .unwrap_or(&self.program);
        let mut words = vec![program.to_string_lossy().into_owned()];
        words.extend(self.arguments.iter().cloned());
        words.join(" ")
    }

    /// Runs it in the workspace root, passing its output on.
    pub(crate) fn run(&self, project: &Project) -> Result<Outcome> {
        println!("$ {}", self.shown());
        std::io::stdout().flush()?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(&project.root)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.shown()))?;
        let stdout = child
            .stdout
            .take()
            .context("the program has no standard output")?;
        let (verdict, tests) = forward(BufReader::new(stdout), &mut std::io::stdout())
            .with_context(|| format!("cannot read the output of `{}`", self.shown()))?;
        let status = child
            .wait()
            .with_context(|| format!("lost `{}`", self.shown()))?;
        Ok(Outcome {
            status,
            verdict,
            tests,
        })
    }

    /// Runs it and gives back its standard output instead of passing it on.
    pub(crate) fn capture(&self, root: &Path) -> Result<String> {
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(root)
            .output()
            .with_context(|| format!("cannot start `{}`", self.shown()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`{}` failed: {complaint}",
            self.shown()
        );
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{}` printed something that is no text", self.shown()))
    }
}

impl Outcome {
    /// The verdict on a program that owes one.
    ///
    /// A failing exit code overrules a verdict of pass, and an exit code of 0 without a verdict is a failure. One that fails with
    /// the exit code of a wrong command line asks for another one, or for a host that has what it needs.
    pub(crate) fn verdict_due(self, shown: &str) -> Verdict {
        let is_usage = self.status.code() == Some(USAGE);
        match (self.verdict, self.status.success()) {
            (Some(Verdict::Fail(text)), _) if is_usage => Verdict::Usage(text),
            (Some(Verdict::Pass(text)), false) => Verdict::Fail(format!(
                "`{shown}` said pass ({text}) but ended with {}",
                self.status
            )),
            (Some(verdict), _) => verdict,
            (None, true) => Verdict::Fail(format!("`{shown}` ended without a verdict")),
            (None, false) => Verdict::Fail(format!("`{shown}` ended with {}", self.status)),
        }
    }
}

/// The one place of this program that looks at the clock.
#[allow(
    clippy::disallowed_methods,
    reason = "a step table shows real seconds; nothing is decided by them"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Passes lines on, holding back verdicts and adding up test results.
fn forward(
    mut from: impl BufRead,
    to: &mut impl Write,
) -> std::io::Result<(Option<Verdict>, TestCount)> {
    let (mut verdict, mut tests, mut line) = (None, TestCount::default(), Vec::new());
    while from.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if let Some(found) = Verdict::parse(&text) {
            verdict = Some(found);
        } else {
            tests.add_line(&text);
            to.write_all(&line)?;
            to.flush()?;
        }
        line.clear();
    }
    Ok((verdict, tests))
}

impl Add for TestCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }
}

impl fmt::Display for TestCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return Ok(());
        }
        write!(
            f,
            "{} passed, {} failed, {} ignored",
            self.passed, self.failed, self.ignored
        )
    }
}

impl TestCount {
    /// Adds one `test result: ok. 3 passed; 0 failed; 0 ignored; ...` line; other lines add nothing.
    fn add_line(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in rest.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) =
                (words.next().map(str::parse::<u64>), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn outcome(verdict: Option<Verdict>, code: i32) -> Outcome {
        Outcome {
            status: ExitStatus::from_raw(code << 8),
            verdict,
            tests: TestCount::default(),
        }
    }

    #[test]
    fn the_verdict_line_is_held_back_and_the_rest_passed_on() {
        let (mut out, text) = (Vec::new(), "a\nVERDICT pass: 3 of 3\nb".as_bytes());
        let (verdict, _) = forward(text, &mut out).unwrap();
        assert_eq!(out, b"a\nb");
        assert_eq!(verdict, Some(Verdict::Pass("3 of 3".to_owned())));
    }

    #[test]
    fn results_add_up_over_binaries() {
        let text = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s\n\
                    test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.10s\n";
        let (_, tests) = forward(text.as_bytes(), &mut Vec::new()).unwrap();
        assert_eq!(
            tests,
            TestCount {
                passed: 14,
                failed: 3,
                ignored: 1
            }
        );
    }

    #[test]
    fn silence_and_a_bad_exit_code_are_failures() {
        assert!(matches!(
            outcome(None, 0).verdict_due("x"),
            Verdict::Fail(_)
        ));
        let pass = Some(Verdict::Pass("fine".to_owned()));
        assert!(matches!(
            outcome(pass.clone(), 1).verdict_due("x"),
            Verdict::Fail(_)
        ));
        assert!(matches!(
            outcome(pass, 0).verdict_due("x"),
            Verdict::Pass(_)
        ));
        let lacks = Some(Verdict::Fail("run it as root".to_owned()));
        assert!(matches!(
            outcome(lacks, 2).verdict_due("x"),
            Verdict::Usage(text) if text == "run it as root"
        ));
    }
}
