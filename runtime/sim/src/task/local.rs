//! The local store of an aggregating task: one file for each key group, written anew under a new name when the group
//! has changed.
//!
//! Called by the snapshot. What a checkpoint refers to and what it stores, the production machine decides. A task that goes
//! on with restored files goes on with their names; any other begins with the first name again, so that names say nothing.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::hash::ContentHash;
use highwater_protocol::manifest::{FilePart, StoreParts};
use highwater_protocol::paths::RelativePath;
use highwater_protocol::shared_files::{HeldFiles, LocalFile, SharedFiles};
use highwater_types::{CheckpointId, KeyGroup};

use super::entry;
use crate::codec::encode_group;
use crate::workload::KeyState;

const STORE: &str = "sim";

/// The files of a task.
#[derive(Clone)]
pub(super) struct LocalStore {
    machine: SharedFiles,
    files: BTreeMap<KeyGroup, (String, Vec<u8>)>,
    written: u64,
}

/// A frozen store on its way into a checkpoint.
pub(super) struct Frozen {
    /// The groups that have a file.
    pub(super) groups: Vec<KeyGroup>,
    /// The files as the checkpoint holds them.
    pub(super) store: StoreParts,
    /// The same for the machine.
    pub(super) held: HeldFiles,
    /// The objects that are stored.
    pub(super) objects: Vec<(RelativePath, Vec<u8>)>,
    /// The objects that are named.
    pub(super) named: BTreeMap<RelativePath, highwater_protocol::manifest::FileEntry>,
}

/// The key group of a file.
pub(crate) fn group_of(name: &str) -> Option<KeyGroup> {
    let (group, _) = name.split_once('.')?;
    group.parse().ok().map(KeyGroup)
}

/// The file of a key group.
pub(crate) fn file_of(store: &StoreParts, group: KeyGroup) -> Option<&FilePart> {
    let mut parts = store.parts.iter();
    parts.find(|part| group_of(&part.name) == Some(group))
}

impl LocalStore {
    /// A store of an attempt that begins with a checkpoint; nothing is in it yet.
    pub(super) fn new(restored: CheckpointId) -> Self {
        Self {
            machine: SharedFiles::start(restored, HeldFiles::none()),
            files: BTreeMap::new(),
            written: 0,
        }
    }

    /// What the checkpoint that was restored holds. `files` are those that the store goes on with, or none.
    pub(super) fn restored(
        &mut self,
        restored: CheckpointId,
        held: HeldFiles,
        files: BTreeMap<KeyGroup, (String, Vec<u8>)>,
    ) {
        self.machine = SharedFiles::start(restored, held);
        let numbers = files
            .values()
            .filter_map(|(name, _)| name.split('.').nth(1)?.parse().ok());
        self.written = numbers.max().unwrap_or(0);
        self.files = files;
    }

    pub(super) fn freeze(
        &mut self,
        id: CheckpointId,
        state: &BTreeMap<KeyGroup, BTreeMap<u32, KeyState>>,
        path: impl Fn(usize) -> RelativePath,
    ) -> Frozen {
        for (&group, states) in state {
            let bytes = encode_group(states.iter());
            if self.files.get(&group).is_none_or(|(_, old)| *old != bytes) {
                self.written += 1;
                let name = format!("{group}.{}", self.written);
                self.files.insert(group, (name, bytes));
            }
        }
        let files: Vec<_> = self.files.values().map(local_file).collect();
        let referable = self.machine.begin(id);
        let unproven = referable.unproven(STORE, &files);
        let contents: BTreeMap<&str, &[u8]> = self
            .files
            .values()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        let is_equal =
            |part: &&FilePart| ContentHash::of(contents[part.name.as_str()]) == part.checksum;
        let equal = unproven
            .iter()
            .filter(is_equal)
            .map(|part| part.name.clone());
        let plan = referable.plan(STORE, &files, &equal.collect::<BTreeSet<_>>());
        let (mut parts, mut named, mut objects) = (plan.referenced, plan.kept, Vec::new());
        for (at, of) in plan.objects.into_iter().enumerate() {
            let (path, mut object) = (path(at), Vec::new());
            for file in of {
                let bytes = contents[file.name.as_str()];
                parts.push(FilePart {
                    name: file.name,
                    is_immutable: true,
                    path: path.clone(),
                    offset: object.len() as u64,
                    length: file.length,
                    checksum: ContentHash::of(bytes),
                });
                object.extend_from_slice(bytes);
            }
            named.insert(path.clone(), entry(&object));
            objects.push((path, object));
        }
        let store = StoreParts {
            store: STORE.to_owned(),
            parts,
        };
        Frozen {
            groups: self.files.keys().copied().collect(),
            held: HeldFiles::new(&store, named.clone()),
            store,
            objects,
            named,
        }
    }

    #[must_use]
    pub(super) fn stored(&mut self, id: CheckpointId, held: HeldFiles) -> bool {
        self.machine.stored(id, held)
    }

    pub(super) fn completed(&mut self, id: CheckpointId) {
        self.machine.completed(id);
    }

    pub(super) fn declined(&mut self, id: CheckpointId) {
        self.machine.declined(id);
    }
}

fn local_file((name, bytes): &(String, Vec<u8>)) -> LocalFile {
    LocalFile {
        name: name.clone(),
        length: bytes.len() as u64,
        is_immutable: true,
    }
}
