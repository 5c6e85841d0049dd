//! The ratchet: files and functions that were too long when their limit came, with the length they may have at most.
//!
//! `xtask/ratchet.txt` holds lines of `file <path> <lines>` or `function <path> <name> <lines>`. An entry may only
//! shrink: a thing that grew past its entry is a finding, and so is an entry that is no longer needed. The size rules
//! read it; nothing writes it but a person in a review.

use std::collections::BTreeMap;

use super::Finding;
use super::tree::Tree;

/// Where the list lies.
pub(super) const PATH: &str = "xtask/ratchet.txt";

/// The entries of one kind: the thing, its line in the list and the length it may have.
#[derive(Clone, Debug, Default)]
pub(super) struct Ratchet {
    entries: BTreeMap<String, (usize, usize)>,
}

/// Something with a length.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// How the list names it, without the kind: `<path>` or `<path> <name>`.
    pub(super) name: String,
    /// The file.
    pub(super) path: String,
    /// The line it starts on; 0 for a file.
    pub(super) line: usize,
    /// Its length in lines.
    pub(super) length: usize,
}

impl Ratchet {
    /// Reads the entries of `kind`.
    pub(super) fn read(tree: &Tree, kind: &str) -> Self {
        let text = tree.file(PATH).map_or("", |file| file.text.as_str());
        let mut entries = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let parts = line
                .strip_prefix(kind)
                .and_then(|rest| rest.trim().rsplit_once(' '));
            if let Some((name, Ok(length))) = parts.map(|(name, length)| (name, length.parse())) {
                entries.insert(name.to_owned(), (at + 1, length));
            }
        }
        Self { entries }
    }

    /// Finds what is longer than `limit` and than its entry, and the entries that nothing needs.
    pub(super) fn judge(mut self, measured: &[Measured], limit: usize) -> Vec<Finding> {
        let mut findings = Vec::new();
        for thing in measured.iter().filter(|thing| thing.length > limit) {
            let allowed = self
                .entries
                .remove(&thing.name)
                .map_or(limit, |(_, length)| length);
            if thing.length > allowed {
                let message = format!(
                    "`{}` has {} lines, at most {allowed} are allowed: split it by concept",
                    thing.name, thing.length
                );
                findings.push(Finding::at(thing.path.as_str(), thing.line, message));
            }
        }
        findings.extend(self.entries.into_iter().map(|(name, (line, _))| {
            Finding::at(
                PATH,
                line,
                format!("`{name}` is within the limit now: delete this entry"),
            )
        }));
        findings
    }
}
