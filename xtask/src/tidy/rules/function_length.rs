//! Function length: lines of code between the braces, counted as clippy counts them, so that the two never disagree.
//!
//! Clippy can be told to look away in the file itself; the ratchet list cannot.

use super::super::ratchet::{Measured, Ratchet};
use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "function-length",
    why: "a function that needs section headings is several functions",
    check,
    plants: &[Plant {
        what: "a function of 71 lines",
        files: too_long,
    }],
};

const LIMIT: usize = 70;

fn check(tree: &Tree) -> Vec<Finding> {
    let mut measured = Vec::new();
    for (file, source) in tree.rust() {
        measured.extend(source.functions().into_iter().map(|function| Measured {
            name: format!("{} {}", file.path, function.name),
            path: file.path.clone(),
            line: function.line,
            length: function.length,
        }));
    }
    Ratchet::read(tree, "function ").judge(&measured, LIMIT)
}

fn too_long() -> Vec<(&'static str, String)> {
    let body = "    let _word = 0;\n".repeat(LIMIT + 1);
    let text = format!("//! Words.\n\n/// Says it.\npub fn say() {{\n{body}}}\n");
    vec![("runtime/words/src/noun.rs", text)]
}
