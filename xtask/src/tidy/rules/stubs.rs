//! Stubs: code that stands for code that is not there, and tests that are not run.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};
use super::layers::manifest;

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
        Plant {
            what: "a test target that waits for a feature",
            files: featured_test,
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
    for manifest in tree.ending("Cargo.toml") {
        findings.extend(featured_tests(&manifest.text).map(|line| {
            let what = "a test target that runs only with a feature: turn the feature on in dev-dependencies";
            Finding::at(manifest.path.as_str(), line, what)
        }));
    }
    findings
}

/// The lines of a manifest that make a test target wait for features, from 1.
fn featured_tests(manifest: &str) -> impl Iterator<Item = usize> {
    let mut in_test = false;
    manifest.lines().enumerate().filter_map(move |(at, line)| {
        if line.starts_with('[') {
            in_test = line.trim() == "[[test]]";
        }
        (in_test && line.starts_with("required-features")).then_some(at + 1)
    })
}

fn missing_code() -> Vec<(&'static str, String)> {
    let text = "//! Words.\n\n/// Says it.\npub fn say() {\n    todo!()\n}\n";
    vec![("runtime/words/src/noun.rs", text.to_owned())]
}

fn idle_test() -> Vec<(&'static str, String)> {
    let text = "//! Words.\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    #[ignore = \"slow\"]\n    fn words_are_said() {}\n}\n";
    vec![("runtime/words/src/noun.rs", text.to_owned())]
}

fn featured_test() -> Vec<(&'static str, String)> {
    let target = "[features]\nslow = []\n\n[[test]]\nname = \"slow\"\npath = \"src/lib.rs\"\nrequired-features = [\"slow\"]\n";
    vec![("runtime/peer/Cargo.toml", manifest("peer", Some(2), target))]
}
