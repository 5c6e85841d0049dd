//! Markdown: one title per page, and every relative link leads to a file that exists.

use std::path::Path;

use super::super::tree::{File, Tree};
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "markdown",
    why: "a page has one subject, and a link that leads nowhere is a promise that was broken",
    check,
    plants: &[
        Plant {
            what: "a page with two titles",
            files: two_titles,
        },
        Plant {
            what: "a link to a file that is not there",
            files: dead_link,
        },
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree
        .ending(".md")
        .filter(|file| !file.path.starts_with("changelog.d/"))
    {
        let prose = without_code(&file.text);
        let titles = prose.lines().filter(|line| line.starts_with("# ")).count();
        if titles != 1 {
            findings.push(Finding::at(
                file.path.as_str(),
                1,
                format!("has {titles} titles; a page has one"),
            ));
        }
        for (at, target) in links(&prose) {
            if !leads_somewhere(&tree.project.root, file, target) {
                let message = format!("the link to `{target}` leads nowhere");
                findings.push(Finding::at(
                    file.path.as_str(),
                    File::line_of(&prose, at),
                    message,
                ));
            }
        }
    }
    findings
}

/// The text with fenced blocks blank, line for line.
fn without_code(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fenced && !fence {
            prose.push_str(line);
        }
        prose.push('\n');
    }
    prose
}

/// The targets of `[text](target)`, with the offset of each.
fn links(prose: &str) -> impl Iterator<Item = (usize, &str)> {
    prose.match_indices("](").filter_map(|(at, _)| {
        let target = prose[at + 2..].split(')').next()?;
        (!target.is_empty() && !target.contains(char::is_whitespace)).then_some((at, target))
    })
}

fn leads_somewhere(root: &Path, from: &File, target: &str) -> bool {
    let outside = ["http://", "https://", "mailto:", "#"];
    if outside.iter().any(|start| target.starts_with(start)) {
        return true;
    }
    let file = target.split('#').next().unwrap_or(target);
    let folder = Path::new(&from.path)
        .parent()
        .unwrap_or_else(|| Path::new(""));
    root.join(folder).join(file).exists()
}

fn two_titles() -> Vec<(&'static str, String)> {
    vec![("README.md", "# One\n\nText.\n\n# Two\n".to_owned())]
}

fn dead_link() -> Vec<(&'static str, String)> {
    vec![(
        "README.md",
        "# One\n\nSee [the other](docs/other.md).\n".to_owned(),
    )]
}
