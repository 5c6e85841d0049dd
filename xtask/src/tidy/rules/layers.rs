//! Layer edges: a crate may depend on lower layers, and on its own layer only where this file says so.
//!
//! The layer stands in each manifest under `[package.metadata.highwater]`. Edges for tests may also reach the test kit,
//! which ships with nothing. A new entry in [`SAME_LAYER`] is a change of architecture: it needs a reason here and a
//! line in `ARCHITECTURE.md`.

use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};
use crate::project::{Edge, Project};

pub(super) const RULE: Rule = Rule {
    name: "layers",
    why: "a dependency points down, so that a layer can be read and tested without those above it",
    check,
    plants: &[
        Plant {
            what: "an upward edge",
            files: upward,
        },
        Plant {
            what: "an edge within a layer that nobody allowed",
            files: sideways,
        },
        Plant {
            what: "a crate without a layer",
            files: without_layer,
        },
    ],
};

/// The top layer, the edge: what stands there may use what else stands there.
const EDGE_LAYER: u64 = 4;

/// Crates of layer 2 that every other crate of layer 2 may use.
const SHARED: &[(&str, &str)] = &[
    (
        "highwater-tls",
        "every mechanism that listens or connects shows one certificate",
    ),
    ("highwater-metrics", "every mechanism counts what it does"),
    (
        "highwater-storage",
        "every mechanism that keeps bytes keeps them through one set of drivers",
    ),
];

/// Edges within one layer: from, to, reason. An entry that no manifest uses is a finding.
const SAME_LAYER: &[(&str, &str, &str)] = &[
    (
        "highwater-derive",
        "highwater-types",
        "the tests of the derive compile against the trait that it implements",
    ),
    (
        "highwater-operators",
        "highwater-connectors",
        "the source operator polls a reader, the sink operator drives a writer",
    ),
    (
        "highwater-operators",
        "highwater-state",
        "the next stop inward on the record's path",
    ),
    (
        "highwater-coordinator",
        "highwater-worker",
        "it speaks the worker's messages; a crate of their own once they cross the network",
    ),
    (
        "highwater-rpc",
        "highwater-coordinator",
        "a session is the way between a worker and the fleet of a coordinator",
    ),
    (
        "highwater-rpc",
        "highwater-worker",
        "it carries the worker's messages",
    ),
    (
        "highwater-exchange",
        "highwater-operators",
        "the writer of a channel is the downstream of a chain",
    ),
    (
        "highwater-exchange",
        "highwater-connectors",
        "a channel wakes a task by the same handle as a reader does",
    ),
    (
        "highwater-network",
        "highwater-exchange",
        "a link moves the frames of channels between workers",
    ),
    (
        "highwater-network",
        "highwater-connectors",
        "its tests wake the ends of a channel as a slot does",
    ),
    (
        "highwater-network",
        "highwater-operators",
        "its tests look at the errors that a task would see",
    ),
    (
        "highwater-kafka",
        "highwater-connectors",
        "Kafka is one implementation of the source and sink contracts",
    ),
    (
        "highwater-rocksdb",
        "highwater-state",
        "RocksDB is one implementation of the seam behind the tables",
    ),
    (
        "highwater-connectors",
        "highwater-json",
        "a dead letter is a record of the engine, and a sink of JSON takes it as it takes a job's own",
    ),
    (
        "highwater-api",
        "highwater-connectors",
        "the builder takes sources and sinks",
    ),
    (
        "highwater-api",
        "highwater-exchange",
        "the builder knows the types that cross a channel, so it makes the channels",
    ),
    (
        "highwater-api",
        "highwater-operators",
        "user-function traits live beside the operator that calls them (docs/adr/0006)",
    ),
    (
        "highwater-api",
        "highwater-state",
        "state descriptors are part of what a job author writes",
    ),
];

/// Crates that exist for tests alone; test edges may point up to them.
const FOR_TESTS: &[&str] = &["highwater-testkit"];

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = idle_entries(&tree.project).collect::<Vec<_>>();
    for package in &tree.project.packages {
        let manifest = package.manifest.to_string_lossy();
        let Some(layer) = package.layer else {
            let message = "has no layer: add `[package.metadata.highwater] layer = N`";
            findings.push(Finding::in_file(manifest, message));
            continue;
        };
        for dependency in &package.dependencies {
            let target = tree.project.package(&dependency.name);
            let Some(below) = target.and_then(|target| target.layer) else {
                continue;
            };
            let name = dependency.name.as_str();
            let for_tests = dependency.edge == Edge::Dev && FOR_TESTS.contains(&name);
            if for_tests || name == package.name {
                continue;
            }
            if below > layer {
                let message = format!(
                    "layer {layer} depends on `{name}` of layer {below}: turn the edge round or move the shared part down"
                );
                findings.push(Finding::in_file(manifest.as_ref(), message));
            } else if below == layer && !is_allowed(&package.name, name, layer) {
                let message = format!(
                    "depends on `{name}` of the same layer {layer}, which SAME_LAYER in xtask/src/tidy/rules/layers.rs does not allow"
                );
                findings.push(Finding::in_file(manifest.as_ref(), message));
            }
        }
    }
    findings
}

/// Allowed edges between two members that do not depend on each other any more.
fn idle_entries(project: &Project) -> impl Iterator<Item = Finding> {
    let idle = SAME_LAYER.iter().filter(|(from, to, _)| {
        let depends = project.package(from).map(|package| {
            package
                .dependencies
                .iter()
                .any(|dependency| dependency.name == *to)
        });
        depends == Some(false) && project.package(to).is_some()
    });
    idle.map(|(from, to, _)| {
        let message =
            format!("nothing needs the edge `{from}` -> `{to}` any more: delete its entry");
        Finding::in_file("xtask/src/tidy/rules/layers.rs", message)
    })
}

fn is_allowed(from: &str, to: &str, layer: u64) -> bool {
    layer >= EDGE_LAYER
        || SHARED.iter().any(|(name, _)| *name == to)
        || SAME_LAYER.iter().any(|(a, b, _)| (*a, *b) == (from, to))
}

fn upward() -> Vec<(&'static str, String)> {
    let edge = "[dependencies]\npeer = { path = \"../peer\" }\n";
    vec![("runtime/words/Cargo.toml", manifest("words", Some(0), edge))]
}

fn sideways() -> Vec<(&'static str, String)> {
    let edge = "[dependencies]\nwords = { path = \"../../../runtime/words\" }\npeer = { path = \"../../../runtime/peer\" }\n";
    vec![(
        "plane/data/flow/Cargo.toml",
        manifest("flow", Some(2), edge),
    )]
}

fn without_layer() -> Vec<(&'static str, String)> {
    vec![("runtime/peer/Cargo.toml", manifest("peer", None, ""))]
}

/// A manifest of the fixture.
pub(in super::super) fn manifest(name: &str, layer: Option<u64>, tables: &str) -> String {
    let layer = layer.map_or(String::new(), |layer| {
        format!("[package.metadata.highwater]\nlayer = {layer}\n")
    });
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{layer}{tables}"
    )
}
