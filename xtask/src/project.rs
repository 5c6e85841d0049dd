//! The workspace as cargo sees it: packages, layers, dependency edges, targets.
//!
//! Every command starts here. The facts come from `cargo metadata --no-deps`, which reads manifests only and needs
//! neither network nor lock file; paths are kept relative to the workspace root so that output is the same everywhere.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What kind of edge a dependency is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Part of what ships.
    Normal,
    /// For tests, examples and benches only.
    Dev,
    /// For the build script only.
    Build,
}

/// One line of a dependency table.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    /// The package that is depended on.
    pub(crate) name: String,
    /// Which table it stands in.
    pub(crate) edge: Edge,
}

/// One thing that cargo can build.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// `lib`, `bin`, `example`, `test`, `bench`, `custom-build` or `proc-macro`.
    pub(crate) kind: String,
    /// Its root file, relative to the workspace.
    pub(crate) source: PathBuf,
}

/// One member of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its manifest, relative to the workspace.
    pub(crate) manifest: PathBuf,
    /// Its layer, from `[package.metadata.highwater]`.
    pub(crate) layer: Option<u64>,
    /// Everything in its dependency tables, members of the workspace or not.
    pub(crate) dependencies: Vec<Dependency>,
    /// What it builds.
    pub(crate) targets: Vec<Target>,
}

impl Package {
    /// The folder of the package, relative to the workspace.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest.parent().unwrap_or_else(|| Path::new(""))
    }
}

/// The workspace.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    /// The absolute path of the workspace root.
    pub(crate) root: PathBuf,
    /// The absolute path of the target directory (`CARGO_TARGET_DIR` where set).
    pub(crate) target: PathBuf,
    /// The members, in the order of their names.
    pub(crate) packages: Vec<Package>,
}

impl Project {
    /// Reads the workspace that `from` lies in.
    pub(crate) fn load(from: &Path) -> Result<Self> {
        let output = Command::new(cargo())
            .args([
                "metadata",
                "--no-deps",
                "--offline",
                "--format-version",
                "1",
            ])
            .current_dir(from)
            .output()
            .context("cannot start cargo; is Rust installed?")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cargo metadata failed: {complaint}"
        );
        let facts: Value =
            serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
        let root = PathBuf::from(text(&facts, "workspace_root")?);
        let mut packages = list(&facts, "packages")
            .iter()
            .map(|package| read_package(package, &root))
            .collect::<Result<Vec<_>>>()?;
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        let target = PathBuf::from(text(&facts, "target_directory")?);
        Ok(Self {
            root,
            target,
            packages,
        })
    }

    /// The member of that name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// Whether `package` builds a program called `binary`.
    pub(crate) fn has_binary(&self, package: &str, binary: &str) -> bool {
        self.package(package).is_some_and(|package| {
            package
                .targets
                .iter()
                .any(|target| target.kind == "bin" && target.name == binary)
        })
    }
}

/// The cargo that started this program, so that the toolchain stays the same.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

fn read_package(facts: &Value, root: &Path) -> Result<Package> {
    let name = text(facts, "name")?.to_owned();
    let dependencies = list(facts, "dependencies")
        .iter()
        .map(|dependency| {
            let edge = match dependency.get("kind").and_then(Value::as_str) {
                None => Edge::Normal,
                Some("dev") => Edge::Dev,
                Some(_) => Edge::Build,
            };
            Ok(Dependency {
                name: text(dependency, "name")?.to_owned(),
                edge,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let targets = list(facts, "targets")
        .iter()
        .map(|target| {
            let kind = list(target, "kind")
                .first()
                .and_then(Value::as_str)
                .unwrap_or("lib");
            Ok(Target {
                name: text(target, "name")?.to_owned(),
                kind: kind.to_owned(),
                source: relative(text(target, "src_path")?, root),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Package {
        manifest: relative(text(facts, "manifest_path")?, root),
        layer: facts
            .pointer("/metadata/highwater/layer")
            .and_then(Value::as_u64),
        name,
        dependencies,
        targets,
    })
}

fn relative(path: &str, root: &Path) -> PathBuf {
    let path = Path::new(path);
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}

fn text<'a>(facts: &'a Value, key: &str) -> Result<&'a str> {
    facts
        .get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("cargo metadata has no text `{key}`"))
}

fn list<'a>(facts: &'a Value, key: &str) -> &'a [Value] {
    facts
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
