//! Paths and hosts of one machine: what is true on one disk or behind one mirror does not belong into the tree.

use super::super::tree::{File, Tree};
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "machine-paths",
    why: "the tree must build for everybody, from any folder, through any mirror",
    check,
    plants: &[
        Plant {
            what: "a home directory",
            files: home,
        },
        Plant {
            what: "a package from a mirror in the lock file",
            files: mirror,
        },
        Plant {
            what: "the host of a registry",
            files: host,
        },
    ],
};

/// Put together from halves, so that this file does not find itself.
const FORBIDDEN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("repo1.", "maven.org"),
    concat!("repo.", "maven.apache.org"),
    concat!("proxy.", "golang.org"),
    concat!("registry.", "npmjs.org"),
    concat!("files.", "pythonhosted.org"),
    concat!("deb.", "debian.org"),
];

/// The only source a lock file may name.
const LOCKED: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for word in FORBIDDEN {
            findings.extend(file.text.match_indices(word).map(|(at, _)| {
                let message = format!("`{word}` is true on one machine only: take it from a setting or a relative path");
                Finding::at(file.path.as_str(), File::line_of(&file.text, at), message)
            }));
        }
    }
    for file in tree.ending("Cargo.lock") {
        let sources = file
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.starts_with("source = "));
        findings.extend(
            sources
                .filter(|(_, line)| *line != LOCKED)
                .map(|(at, line)| {
                    Finding::at(
                        file.path.as_str(),
                        at + 1,
                        format!("{line}: packages come from the public registry"),
                    )
                }),
        );
    }
    findings
}

fn home() -> Vec<(&'static str, String)> {
    let path = concat!("/ho", "me/somebody/data");
    vec![(
        "runtime/words/src/noun.rs",
        format!("//! Words.\n\nconst DATA: &str = \"{path}\";\n"),
    )]
}

fn mirror() -> Vec<(&'static str, String)> {
    let package = "[[package]]\nname = \"word\"\nversion = \"1.0.0\"\n";
    let source = "source = \"registry+https://mirror.invalid/index\"\n";
    vec![("Cargo.lock", format!("version = 4\n\n{package}{source}"))]
}

fn host() -> Vec<(&'static str, String)> {
    let host = concat!("static.", "crates.io");
    vec![(".ci/run", format!("#!/bin/sh\nfetch {host}\n"))]
}
