//! Module docs: each Rust file opens with `//!` and says what it is.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "module-doc",
    why: "a file that does not say what it is for gets everything put into it",
    check,
    plants: &[
        Plant {
            what: "a file without module doc",
            files: missing,
        },
        Plant {
            what: "a module doc without words",
            files: empty,
        },
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let silent = tree.rust().filter(|(file, _)| {
        let doc = file
            .text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("//!"));
        doc.is_none_or(|words| words.trim().is_empty())
    });
    let message = "does not open with `//!`: say what it is, who calls it and the rule it keeps";
    silent
        .map(|(file, _)| Finding::at(file.path.as_str(), 1, message))
        .collect()
}

fn missing() -> Vec<(&'static str, String)> {
    vec![(
        "runtime/words/src/noun.rs",
        "/// A word.\npub struct Word;\n".to_owned(),
    )]
}

fn empty() -> Vec<(&'static str, String)> {
    vec![(
        "runtime/words/src/noun.rs",
        "//!\n\n/// A word.\npub struct Word;\n".to_owned(),
    )]
}
