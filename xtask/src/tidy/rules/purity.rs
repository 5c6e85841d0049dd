//! Pure layers: what layers 0 and 1 may not depend on, because it brings a clock, chance, tasks or IO.
//!
//! Edges for tests are free: a test may draw random cases for a pure function.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};
use super::layers::manifest;
use crate::project::Edge;

pub(super) const RULE: Rule = Rule {
    name: "purity",
    why: "rules are functions of their input, so that recovery logic is tested in microseconds",
    check,
    plants: &[Plant {
        what: "a crate of layer 1 with an async runtime",
        files: impure,
    }],
};

/// The highest layer that is pure.
const PURE_LAYER: u64 = 1;

/// Crates that bring the world in.
const WORLD: &[&str] = &[
    "async-trait",
    "axum",
    "futures",
    "hyper",
    "kube",
    "object_store",
    "rand",
    "rdkafka",
    "reqwest",
    "rocksdb",
    "tokio",
    "tonic",
    "tracing-subscriber",
];

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &tree.project.packages {
        let pure = package.layer.is_some_and(|layer| layer <= PURE_LAYER);
        let shipped = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.edge != Edge::Dev);
        for dependency in
            shipped.filter(|dependency| pure && WORLD.contains(&dependency.name.as_str()))
        {
            let message = format!(
                "a pure crate depends on `{}`: take what it gives as an argument",
                dependency.name
            );
            findings.push(Finding::in_file(
                package.manifest.to_string_lossy(),
                message,
            ));
        }
    }
    findings
}

fn impure() -> Vec<(&'static str, String)> {
    let table = "[dependencies]\ntokio = { path = \"../../../runtime/tokio\" }\n";
    vec![
        (
            "plane/control/decide/Cargo.toml",
            manifest("decide", Some(1), table),
        ),
        ("runtime/tokio/Cargo.toml", manifest("tokio", Some(0), "")),
        (
            "runtime/tokio/src/lib.rs",
            "//! Goes by the name of an async runtime.\n".to_owned(),
        ),
    ]
}
