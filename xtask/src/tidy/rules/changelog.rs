//! Changelog fragments: `changelog.d/<slug>.<kind>.md`, one user-visible change each, joined at a release.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "changelog",
    why: "a fragment that the release cannot sort is a change that users never hear of",
    check,
    plants: &[
        Plant {
            what: "a fragment without a kind",
            files: without_kind,
        },
        Plant {
            what: "a fragment without a sentence",
            files: empty,
        },
    ],
};

const KINDS: &[&str] = &[
    "added",
    "changed",
    "deprecated",
    "fixed",
    "removed",
    "security",
];

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let fragments = tree
        .files
        .iter()
        .filter(|file| file.path.starts_with("changelog.d/"));
    for file in fragments.filter(|file| file.name() != "README.md") {
        let parts = file.name().split('.').collect::<Vec<_>>();
        if !matches!(parts[..], [slug, kind, "md"] if !slug.is_empty() && KINDS.contains(&kind)) {
            let message = format!(
                "name it `<slug>.<kind>.md`, where the kind is one of {}",
                KINDS.join(", ")
            );
            findings.push(Finding::in_file(file.path.as_str(), message));
        } else if !file.text.trim_end().ends_with('.') {
            findings.push(Finding::in_file(
                file.path.as_str(),
                "says what changed in whole sentences",
            ));
        }
    }
    findings
}

fn without_kind() -> Vec<(&'static str, String)> {
    vec![("changelog.d/words.md", "There are words.\n".to_owned())]
}

fn empty() -> Vec<(&'static str, String)> {
    vec![("changelog.d/words.added.md", "\n".to_owned())]
}
