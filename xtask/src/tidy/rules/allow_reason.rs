//! A lint that is switched off says why, in the attribute itself.

use super::super::source::Token;
use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "allow-reason",
    why: "an exception without a reason cannot be argued with, so it stays for ever",
    check,
    plants: &[
        Plant {
            what: "an allow without a reason",
            files: allow,
        },
        Plant {
            what: "an expect without a reason",
            files: expect,
        },
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.rust() {
        let tokens = source.tokens();
        for at in 2..tokens.len() {
            let opened = tokens[at - 1].text == "[" && matches!(tokens[at - 2].text, "#" | "!");
            if opened && matches!(tokens[at].text, "allow" | "expect") && !has_reason(&tokens[at..])
            {
                let message = format!("`{}` without `reason = \"...\"`", tokens[at].text);
                findings.push(Finding::at(file.path.as_str(), tokens[at].line, message));
            }
        }
    }
    findings
}

fn has_reason(attribute: &[Token<'_>]) -> bool {
    attribute
        .iter()
        .take_while(|token| token.text != "]")
        .any(|token| token.text == "reason")
}

fn allow() -> Vec<(&'static str, String)> {
    vec![(
        "runtime/words/src/noun.rs",
        "//! Words.\n\n#[allow(dead_code)]\nstruct Word;\n".to_owned(),
    )]
}

fn expect() -> Vec<(&'static str, String)> {
    let text = "//! Words.\n#![expect(unused)]\n\nstruct Word;\n";
    vec![("runtime/words/src/noun.rs", text.to_owned())]
}
