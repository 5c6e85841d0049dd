//! The two planes: no crate under a `data` folder reaches one under a `control` folder, directly or through others.
//!
//! Data-plane code meets control only as messages that layer 0 defines. Edges for tests count as well: a test of the
//! hot path that needs a coordinator is a test of something else.

use std::collections::BTreeSet;

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};
use super::layers::manifest;
use crate::project::{Edge, Package, Project};

pub(super) const RULE: Rule = Rule {
    name: "planes",
    why: "data flow never depends on control flow, so that the hot path stays testable alone",
    check,
    plants: &[
        Plant {
            what: "a data crate that depends on a control crate",
            files: direct,
        },
        Plant {
            what: "a data crate that reaches a control crate through another",
            files: indirect,
        },
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let data = tree
        .project
        .packages
        .iter()
        .filter(|package| is_in(package, "data"));
    data.filter_map(|package| {
        let path = path_to_control(&tree.project, package)?;
        let message = format!(
            "the data plane reaches the control plane: {}",
            path.join(" -> ")
        );
        Some(Finding::in_file(
            package.manifest.to_string_lossy(),
            message,
        ))
    })
    .collect()
}

fn is_in(package: &Package, plane: &str) -> bool {
    package.folder().iter().any(|part| part == plane)
}

/// A chain of dependencies from `from` to a control crate. Only the first edge may be one for tests.
fn path_to_control(project: &Project, from: &Package) -> Option<Vec<String>> {
    let mut seen = BTreeSet::from([from.name.clone()]);
    let mut open = vec![vec![from.name.clone()]];
    while let Some(path) = open.pop() {
        let package = project.package(path.last()?)?;
        for dependency in &package.dependencies {
            let counts = path.len() == 1 || dependency.edge == Edge::Normal;
            let Some(next) = project.package(&dependency.name).filter(|_| counts) else {
                continue;
            };
            let mut longer = path.clone();
            longer.push(next.name.clone());
            if is_in(next, "control") {
                return Some(longer);
            }
            if seen.insert(next.name.clone()) {
                open.push(longer);
            }
        }
    }
    None
}

fn direct() -> Vec<(&'static str, String)> {
    let edge = "[dependencies]\ndecide = { path = \"../../control/decide\" }\n";
    vec![(
        "plane/data/flow/Cargo.toml",
        manifest("flow", Some(2), edge),
    )]
}

fn indirect() -> Vec<(&'static str, String)> {
    let first = "[dependencies]\nbridge = { path = \"../../../runtime/bridge\" }\n";
    let second = "[dependencies]\ndecide = { path = \"../../plane/control/decide\" }\n";
    vec![
        (
            "plane/data/flow/Cargo.toml",
            manifest("flow", Some(3), first),
        ),
        (
            "runtime/bridge/Cargo.toml",
            manifest("bridge", Some(2), second),
        ),
        (
            "runtime/bridge/src/lib.rs",
            "//! Joins what must stay apart.\n".to_owned(),
        ),
    ]
}
