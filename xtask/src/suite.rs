//! `cargo xtask test`: everything that CI runs, as a list of steps, and a table of what each took.
//!
//! A step that fails does not stop the later ones, so that one run shows all that is wrong. All steps share one profile
//! and one feature set, so that nothing is built twice. A step whose program does not exist yet is named as absent in
//! the table; an ignored test fails the run, since a test that is not run shows nothing.

use std::time::Duration;

use anyhow::Result;

use crate::programs::{self, Program};
use crate::project::Project;
use crate::run::{Invocation, TestCount, now};
use crate::tidy::{self, Stale};
use crate::verdict::Verdict;

/// How much of the suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Full,
    /// The steps of the inner loop.
    Quick,
}

/// One step of the suite.
struct Step {
    name: &'static str,
    /// The extents in which it runs.
    extents: &'static [Extent],
    action: Action,
}

enum Action {
    /// Cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// The house rules over the tree.
    Tidy,
    /// The house rules over planted violations.
    TidySelfTest,
    /// A program of the workspace, as the `build` step left it.
    Program(&'static Program, &'static [&'static str]),
}

const BOTH: &[Extent] = &[Extent::Full, Extent::Quick];
const FULL: &[Extent] = &[Extent::Full];
const QUICK: &[Extent] = &[Extent::Quick];

const STEPS: &[Step] = &[
    Step {
        name: "format",
        extents: BOTH,
        action: Action::Cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "tidy",
        extents: BOTH,
        action: Action::Tidy,
    },
    Step {
        name: "tidy-self-test",
        extents: FULL,
        action: Action::TidySelfTest,
    },
    Step {
        name: "clippy",
        extents: FULL,
        action: Action::Cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Step {
        name: "build",
        extents: FULL,
        action: Action::Cargo(&["build", "--workspace", "--bins"]),
    },
    Step {
        name: "sim",
        extents: FULL,
        action: Action::Program(&programs::SIM, &["--seeds", "300"]),
    },
    Step {
        name: "sim-mutants",
        extents: FULL,
        // The planted bugs are compiled in for this step alone.
        action: Action::Cargo(&[
            "test",
            "--package",
            "highwater-sim",
            "--features",
            "mutants",
            "--test",
            "mutants",
        ]),
    },
    Step {
        name: "demo",
        extents: FULL,
        action: Action::Program(&programs::DEMO, &[]),
    },
    Step {
        name: "acceptance",
        extents: FULL,
        // Those that no unit test can show: a completed checkpoint without commits, half of them, another parallelism while
        // records flow, a drained stop.
        action: Action::Program(&programs::DRILLS, &["--drill", "HD-04,HD-05,HC-02,HC-09"]),
    },
    Step {
        name: "acceptance-rocksdb",
        extents: FULL,
        // State on local disk: killed while it holds output back, with a full disk, and into the heap and back.
        action: Action::Program(
            &programs::DRILLS,
            &["--backend", "rocksdb", "--drill", "HD-04,HD-13,HC-08"],
        ),
    },
    Step {
        name: "acceptance-workers",
        extents: FULL,
        // The same on worker processes: one that is killed before its checkpoint is complete, and key groups that move between them.
        action: Action::Program(
            &programs::DRILLS,
            &[
                "--workers",
                "2",
                "--backend",
                "rocksdb",
                "--drill",
                "HD-03,HC-02",
            ],
        ),
    },
    Step {
        name: "unit-tests",
        extents: QUICK,
        action: Action::Cargo(&["test", "--workspace", "--lib", "--bins", "--no-fail-fast"]),
    },
    Step {
        name: "tests",
        extents: FULL,
        action: Action::Cargo(&["test", "--workspace", "--no-fail-fast"]),
    },
];

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Passed(String),
    Absent(String),
    Failed(String),
}

struct Row {
    name: &'static str,
    wall: Duration,
    tests: TestCount,
    end: End,
}

/// The names of all steps.
pub(crate) fn step_names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

/// Runs the steps of `extent`, or only those named in `only`, in the order of the list.
pub(crate) fn run(project: &Project, extent: Extent, only: &[String]) -> Result<Verdict> {
    if let Some(unknown) = only
        .iter()
        .find(|name| !step_names().contains(&name.as_str()))
    {
        let names = step_names().join(", ");
        return Ok(Verdict::Usage(format!(
            "no step is called `{unknown}`; there is: {names}"
        )));
    }
    let chosen = STEPS.iter().filter(|step| {
        let named = only.iter().any(|name| name == step.name);
        named || (only.is_empty() && step.extents.contains(&extent))
    });
    let mut rows = Vec::new();
    for step in chosen {
        println!("\n== {}", step.name);
        let started = now();
        let (end, tests) = perform(&step.action, project)?;
        rows.push(Row {
            name: step.name,
            wall: started.elapsed(),
            tests,
            end,
        });
    }
    print_table(&rows);
    Ok(judge(&rows))
}

fn perform(action: &Action, project: &Project) -> Result<(End, TestCount)> {
    let none = TestCount::default();
    match action {
        Action::Cargo(arguments) => {
            let outcome = Invocation::cargo(arguments.iter().copied()).run(project)?;
            let end = if outcome.status.success() {
                End::Passed(outcome.tests.to_string())
            } else {
                End::Failed(format!("{} {}", outcome.status, outcome.tests))
            };
            Ok((end, outcome.tests))
        }
        Action::Tidy => Ok((tidy::run(project, Stale::Report)?.into(), none)),
        Action::TidySelfTest => Ok((tidy::run_self_test()?.into(), none)),
        Action::Program(program, _) if !program.exists(project) => Ok((
            End::Absent(format!("`{}` is not there yet", program.name)),
            none,
        )),
        Action::Program(program, arguments) => {
            Ok((program.run_as_tested(project, arguments)?.into(), none))
        }
    }
}

impl From<Verdict> for End {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass(text) => Self::Passed(text),
            Verdict::Fail(text) | Verdict::Usage(text) => Self::Failed(text),
        }
    }
}

fn print_table(rows: &[Row]) {
    println!("\n{:<16} {:>8}  {:<7} what", "step", "seconds", "end");
    for row in rows {
        let (word, text) = match &row.end {
            End::Passed(text) => ("passed", text),
            End::Absent(text) => ("absent", text),
            End::Failed(text) => ("FAILED", text),
        };
        println!(
            "{:<16} {:>8.1}  {word:<7} {text}",
            row.name,
            row.wall.as_secs_f64()
        );
    }
}

fn judge(rows: &[Row]) -> Verdict {
    let failed = rows.iter().filter(|row| matches!(row.end, End::Failed(_)));
    let mut wrong = failed.map(|row| row.name.to_owned()).collect::<Vec<_>>();
    let tests = rows
        .iter()
        .fold(TestCount::default(), |sum, row| sum + row.tests);
    if tests.ignored > 0 {
        wrong.push(format!("{} ignored tests", tests.ignored));
    }
    let absent = rows.iter().filter(|row| matches!(row.end, End::Absent(_)));
    let absent = absent.map(|row| row.name).collect::<Vec<_>>().join(", ");
    let absent = if absent.is_empty() {
        absent
    } else {
        format!("; not there yet: {absent}")
    };
    let counted = if tests == TestCount::default() {
        String::new()
    } else {
        format!("; {tests}")
    };
    if wrong.is_empty() {
        Verdict::Pass(format!("{} steps{counted}{absent}", rows.len()))
    } else {
        Verdict::Fail(format!("{}{counted}{absent}", wrong.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(end: End, ignored: u64) -> Row {
        let tests = TestCount {
            passed: 2,
            failed: 0,
            ignored,
        };
        Row {
            name: "tests",
            wall: Duration::ZERO,
            tests,
            end,
        }
    }

    #[test]
    fn an_ignored_test_fails_the_run() {
        let passed = || End::Passed(String::new());
        assert!(matches!(judge(&[row(passed(), 0)]), Verdict::Pass(_)));
        assert!(matches!(judge(&[row(passed(), 1)]), Verdict::Fail(_)));
    }

    #[test]
    fn an_absent_step_is_named_and_a_failed_one_decides() {
        let absent = row(End::Absent("no".to_owned()), 0);
        let Verdict::Pass(text) = judge(&[absent]) else {
            panic!("an absent step does not fail the run");
        };
        assert!(text.contains("not there yet: tests"), "{text}");
        assert!(matches!(
            judge(&[row(End::Failed("x".to_owned()), 0)]),
            Verdict::Fail(_)
        ));
    }
}
