//! The file budget: production lines of a file, without its trailing test module. Files of tests have none.

use super::super::ratchet::{Measured, Ratchet};
use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "file-budget",
    why: "review finds what can be read in one sitting",
    check,
    plants: &[
        Plant {
            what: "a file over the hard budget",
            files: too_long,
        },
        Plant {
            what: "a ratchet entry that nothing needs",
            files: idle_entry,
        },
    ],
};

/// Above this many lines a file is worth a look.
pub(in super::super) const SOFT: usize = 400;
/// Above this many lines a file is refused.
const HARD: usize = 800;

fn check(tree: &Tree) -> Vec<Finding> {
    Ratchet::read(tree, "file ").judge(&measured(tree), HARD)
}

/// How many files are above the soft budget.
pub(in super::super) fn over_soft_budget(tree: &Tree) -> usize {
    measured(tree)
        .iter()
        .filter(|file| file.length > SOFT)
        .count()
}

fn measured(tree: &Tree) -> Vec<Measured> {
    let production = tree.rust().filter(|(file, _)| !file.is_test());
    production
        .map(|(file, source)| Measured {
            name: file.path.clone(),
            path: file.path.clone(),
            line: 0,
            length: source.production_lines(),
        })
        .collect()
}

fn too_long() -> Vec<(&'static str, String)> {
    let words = (0..HARD)
        .map(|number| format!("const WORD_{number}: u8 = 0;"))
        .collect::<Vec<_>>();
    let text = format!(
        "//! Words.
{}
",
        words.join(
            "
"
        )
    );
    vec![("runtime/words/src/noun.rs", text)]
}

fn idle_entry() -> Vec<(&'static str, String)> {
    vec![(
        super::super::ratchet::PATH,
        "file runtime/words/src/lib.rs 900\n".to_owned(),
    )]
}
