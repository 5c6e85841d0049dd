//! Marks of unfinished work in comments carry an issue number: `TODO(#12): ...`.

use super::super::source::is_word;
use super::super::tree::{File, Tree};
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "issue-ids",
    why: "unfinished work without an owner is never finished",
    check,
    plants: &[
        Plant {
            what: "a mark in Rust without an issue",
            files: in_rust,
        },
        Plant {
            what: "a mark in a manifest without an issue",
            files: in_manifest,
        },
    ],
};

const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let scripts = [".toml", ".sh", ".yaml", ".yml"]
            .iter()
            .any(|end| file.path.ends_with(end));
        let text = match &file.rust {
            Some(source) => source.comments.as_str(),
            None if scripts || file.path.starts_with(".ci/") => file.text.as_str(),
            None => continue,
        };
        for mark in MARKS {
            for (at, _) in text
                .match_indices(mark)
                .filter(|&(at, _)| !has_issue(text, at, mark))
            {
                let message =
                    format!("`{mark}` without an issue: write `{mark}(#12): ...` or do it now");
                findings.push(Finding::at(
                    file.path.as_str(),
                    File::line_of(text, at),
                    message,
                ));
            }
        }
    }
    findings
}

/// Whether the mark at `at` names an issue, or is only a part of another word.
fn has_issue(text: &str, at: usize, mark: &str) -> bool {
    let rest = &text[at + mark.len()..];
    let number = rest
        .strip_prefix("(#")
        .and_then(|rest| rest.split_once(')'))
        .map(|(id, _)| id);
    let word = text[..at].ends_with(is_word) || rest.starts_with(is_word);
    word || number.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

fn in_rust() -> Vec<(&'static str, String)> {
    let mark = concat!("TO", "DO");
    vec![(
        "runtime/words/src/noun.rs",
        format!("//! Words.\n\n// {mark}: more words.\n"),
    )]
}

fn in_manifest() -> Vec<(&'static str, String)> {
    let mark = concat!("FIX", "ME");
    let line = format!("# {mark}: a better name\n");
    vec![(
        "runtime/peer/Cargo.toml",
        super::layers::manifest("peer", Some(2), &line),
    )]
}
