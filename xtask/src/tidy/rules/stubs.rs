//! Stubs: code that stands for code that is not there, and tests that are not run.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "stubs",
    why: "what is not there is refused by name, never faked; a test that is not run shows nothing",
    check,
    plants: &[
        Plant {
            what: "a macro for missing code",
            files: missing_code,
        },
        Plant {
            what: "a test that is not run",
            files: idle_test,
        },
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.rust() {
        let tokens = source.tokens();
        for window in tokens.windows(3) {
            let what = match [window[0].text, window[1].text, window[2].text] {
                ["todo" | "unimplemented", "!", _] => "a stub: write the code or refuse by name",
                ["[", "ignore", "]" | "="] => {
                    "an ignored test: run it, or assert the wrong behaviour with its issue"
                }
                _ => continue,
            };
            findings.push(Finding::at(file.path.as_str(), window[0].line, what));
        }
    }
    findings
}

fn missing_code() -> Vec<(&'static str, String)> {
    let text = "//! Words.\n\n/// Says it.\npub fn say() {\n    todo!()\n}\n";
    vec![("runtime/words/src/noun.rs", text.to_owned())]
}

fn idle_test() -> Vec<(&'static str, String)> {
    let text = "//! Words.\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    #[ignore = \"slow\"]\n    fn words_are_said() {}\n}\n";
    vec![("runtime/words/src/noun.rs", text.to_owned())]
}
