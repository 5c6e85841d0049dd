//! `cargo xtask tidy`: the house rules that no compiler knows, as data.
//!
//! One rule is one file under `tidy/rules/`: a name, a reason, a check over the [`Tree`] and the violations that the
//! self-test plants. `cargo xtask test` and CI call [`run`]; [`self_test::run`] proves that each rule still bites. A
//! rule reads the tree and returns findings; it changes nothing and knows no other rule.

mod ratchet;
mod rules;
mod self_test;
mod source;
mod tree;

use anyhow::Result;

use self::tree::Tree;
use crate::project::Project;
use crate::verdict::Verdict;

/// What to do about generated files that are out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stale {
    /// Report them.
    Report,
    /// Write them anew.
    Write,
}

/// One house rule.
struct Rule {
    /// The name in findings.
    name: &'static str,
    /// Why the house has it, in one sentence.
    why: &'static str,
    /// Finds every place that breaks it.
    check: fn(&Tree) -> Vec<Finding>,
    /// Violations that the self-test plants: each must be found by this rule and by no other.
    plants: &'static [Plant],
}

/// A violation to plant into the fixture.
struct Plant {
    /// What is wrong with it.
    what: &'static str,
    /// The files to write, with their content.
    files: fn() -> Vec<(&'static str, String)>,
}

/// One broken rule in one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// The file, relative to the workspace.
    path: String,
    /// The line, from 1; 0 when the whole file is meant.
    line: usize,
    /// What is wrong and what to do instead.
    message: String,
}

impl Finding {
    fn in_file(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::at(path, 0, message)
    }

    fn at(path: impl Into<String>, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            message: message.into(),
        }
    }
}

/// Checks every rule over the workspace.
pub(crate) fn run(project: &Project, stale: Stale) -> Result<Verdict> {
    if stale == Stale::Write {
        for path in rules::generated::write(project)? {
            println!("wrote {path}");
        }
    }
    let tree = Tree::load(project)?;
    let mut total = 0;
    for rule in rules::ALL {
        let findings = check(rule, &tree);
        if !findings.is_empty() {
            println!("{}: {}", rule.name, rule.why);
        }
        for finding in &findings {
            match finding.line {
                0 => println!("  {}: {}", finding.path, finding.message),
                line => println!("  {}:{line}: {}", finding.path, finding.message),
            }
        }
        total += findings.len();
    }
    let long = rules::file_budget::over_soft_budget(&tree);
    if long > 0 {
        println!(
            "note: {long} files are longer than {} lines; look for the second concept in them",
            rules::file_budget::SOFT
        );
    }
    let seen = format!("{} rules over {} files", rules::ALL.len(), tree.files.len());
    Ok(match total {
        0 => Verdict::Pass(seen),
        count => Verdict::Fail(format!("{count} findings, {seen}")),
    })
}

/// Plants every violation into a fixture and sees that its rule, and no other, finds it.
pub(crate) fn run_self_test() -> Result<Verdict> {
    self_test::run()
}

/// Prints every rule with its reason.
pub(crate) fn list() -> Verdict {
    for rule in rules::ALL {
        println!("{:<18} {}", rule.name, rule.why);
    }
    Verdict::Pass(format!("{} rules", rules::ALL.len()))
}

fn check(rule: &Rule, tree: &Tree) -> Vec<Finding> {
    let mut findings = (rule.check)(tree);
    findings.sort();
    findings
}
