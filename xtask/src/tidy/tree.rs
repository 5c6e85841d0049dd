//! Everything a rule may look at: the text files of the workspace and what cargo knows of its packages.
//!
//! Read once for each run of tidy and never changed. Build output and version control are left out; a file that is no
//! text is left out too, since no rule has anything to say about it.

use std::path::Path;

use anyhow::{Context, Result};

use super::source::Source;
use crate::project::Project;

/// One text file.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Its path relative to the workspace, with `/`.
    pub(super) path: String,
    /// Its content.
    pub(super) text: String,
    /// The two views of a Rust file.
    pub(super) rust: Option<Source>,
}

impl File {
    /// The last part of the path.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether the file exists for tests or benches alone, so that size budgets do not bind it.
    pub(super) fn is_test(&self) -> bool {
        let folders = self
            .path
            .split('/')
            .any(|part| matches!(part, "tests" | "benches"));
        folders || self.name() == "tests.rs"
    }

    /// Whether the file is an input of a test that compiles it on purpose, and so belongs to no crate.
    pub(super) fn is_fixture(&self) -> bool {
        self.path.split_once("/tests/").is_some_and(|(_, below)| {
            let mut parts = below.split('/');
            parts.any(|part| matches!(part, "ui" | "fixtures" | "compile_fail" | "pass"))
        })
    }

    /// The line of the byte at `offset`, from 1.
    pub(super) fn line_of(text: &str, offset: usize) -> usize {
        text[..offset].matches('\n').count() + 1
    }
}

/// The workspace as rules see it.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// What cargo knows.
    pub(super) project: Project,
    /// The text files, in the order of their paths.
    pub(super) files: Vec<File>,
}

impl Tree {
    /// Reads the workspace.
    pub(super) fn load(project: &Project) -> Result<Self> {
        let mut files = Vec::new();
        collect(&project.root, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self {
            project: project.clone(),
            files,
        })
    }

    /// The file at `path`.
    pub(super) fn file(&self, path: &str) -> Option<&File> {
        let at = self
            .files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .ok()?;
        Some(&self.files[at])
    }

    /// The Rust files that belong to a crate, with their views.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&File, &Source)> {
        let files = self.files.iter().filter(|file| !file.is_fixture());
        files.filter_map(|file| Some((file, file.rust.as_ref()?)))
    }

    /// The files whose name ends in `ending`.
    pub(super) fn ending<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = &'a File> {
        self.files
            .iter()
            .filter(move |file| file.path.ends_with(ending))
    }
}

/// In a linked worktree it is a file that names a folder of this machine.
const VERSION_CONTROL: &str = ".git";

fn collect(folder: &Path, prefix: &str, files: &mut Vec<File>) -> Result<()> {
    let reading = || format!("cannot read the folder `{}`", folder.display());
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry
            .file_type()
            .with_context(|| format!("cannot look at `{path}`"))?;
        if kind.is_dir() && !is_left_out(&name) {
            collect(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() && name != VERSION_CONTROL {
            let bytes =
                std::fs::read(entry.path()).with_context(|| format!("cannot read `{path}`"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                let rust = is_rust(&path).then(|| Source::new(&text));
                files.push(File { path, text, rust });
            }
        }
    }
    Ok(())
}

fn is_left_out(folder: &str) -> bool {
    folder == "target"
        || (folder.starts_with('.') && !matches!(folder, ".ci" | ".cargo" | ".github"))
}

fn is_rust(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs")
}
