//! Words that do not stand in public names, because the glossary has one word for the thing already.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "public-words",
    why: "a second word for one thing doubles every search (docs/glossary.md)",
    check,
    plants: &[
        Plant {
            what: "a type with another word for the coordinator",
            files: type_name,
        },
        Plant {
            what: "a function with another word for the leader",
            files: function_name,
        },
    ],
};

/// The word, and what to write instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("master", "coordinator"),
    ("slave", "worker"),
    ("jobmanager", "coordinator"),
    ("taskmanager", "worker"),
];

const KEYWORDS: &[&str] = &[
    "async", "const", "enum", "fn", "mod", "static", "struct", "trait", "type", "union", "unsafe",
];

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.rust() {
        let tokens = source.tokens();
        for at in (0..tokens.len()).filter(|&at| tokens[at].text == "pub") {
            let mut rest = tokens[at + 1..]
                .iter()
                .skip_while(|token| KEYWORDS.contains(&token.text));
            let Some(name) = rest.next() else {
                continue;
            };
            let plain = name.text.replace('_', "").to_lowercase();
            if let Some((word, instead)) = FORBIDDEN.iter().find(|(word, _)| plain.contains(word)) {
                let message = format!("`{}` holds `{word}`: write `{instead}`", name.text);
                findings.push(Finding::at(file.path.as_str(), name.line, message));
            }
        }
    }
    findings
}

fn type_name() -> Vec<(&'static str, String)> {
    let name = concat!("Job", "Manager", "Address");
    vec![(
        "runtime/words/src/noun.rs",
        format!("//! Words.\n\n/// A word.\npub struct {name};\n"),
    )]
}

fn function_name() -> Vec<(&'static str, String)> {
    let name = concat!("find_", "master");
    vec![(
        "runtime/words/src/noun.rs",
        format!("//! Words.\n\n/// Says it.\npub const fn {name}() {{}}\n"),
    )]
}
