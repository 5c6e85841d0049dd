//! File names: a file is named after its one concept, so names that fit everything are forbidden.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "file-names",
    why: "a name without meaning collects whatever nobody found a place for",
    check,
    plants: &[
        Plant {
            what: "a file called util.rs",
            files: file,
        },
        Plant {
            what: "a folder called common",
            files: folder,
        },
    ],
};

const FORBIDDEN: &[&str] = &["common", "helper", "helpers", "misc", "util", "utils"];

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, _) in tree.rust() {
        let path = file.path.strip_suffix(".rs").unwrap_or(&file.path);
        if let Some(part) = path.split('/').find(|part| FORBIDDEN.contains(part)) {
            let message = format!("`{part}` is no concept: name the file after what it holds");
            findings.push(Finding::in_file(file.path.as_str(), message));
        }
    }
    findings
}

fn file() -> Vec<(&'static str, String)> {
    vec![
        (
            "runtime/words/src/lib.rs",
            "//! Words.\n\nmod noun;\nmod util;\n".to_owned(),
        ),
        ("runtime/words/src/util.rs", "//! Something.\n".to_owned()),
    ]
}

fn folder() -> Vec<(&'static str, String)> {
    vec![
        (
            "runtime/words/src/lib.rs",
            "//! Words.\n\nmod common;\nmod noun;\n".to_owned(),
        ),
        (
            "runtime/words/src/common/mod.rs",
            "//! Something.\n".to_owned(),
        ),
    ]
}
