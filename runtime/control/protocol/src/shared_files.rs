//! Which files of its local store an operator subtask refers to in its next checkpoint, and which it stores anew.
//!
//! Called by the worker, one machine for each operator subtask of an attempt: [`SharedFiles`] follows the life of
//! checkpoints, [`Referable`] is what one try may refer to, as a value that another thread plans with.
//!
//! The rules. A try refers only to files that every manifest which may be in `head` when it completes has (L2): those of
//! the last checkpoint that is known to be complete, less what a younger undecided try does not have in the same place. A
//! file of the checkpoint that was restored is referred to only after its bytes were compared: the store may be another
//! one that uses the same names. An object whose live share fell below half is left behind, so what a checkpoint
//! holds is never more than twice the files of its stores.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::CheckpointId;

use crate::manifest::{FileEntry, FilePart, StoreParts};
use crate::mutant::{Mutant, planted};
use crate::paths::RelativePath;

/// Files below this size share an object with others, in bytes.
pub const SMALL_BYTES: u64 = 1 << 20;
/// An object of small files that has reached this size takes no more, in bytes.
pub const PACK_BYTES: u64 = 16 << 20;
/// Changeable files ride in an object of unchangeable ones if they are at most this share of it: they are dead in the next
/// checkpoint.
const RIDE_SHARE: u64 = 4;

/// The files of a store as a checkpoint holds them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HeldFiles {
    store: String,
    parts: BTreeMap<String, FilePart>,
    objects: BTreeMap<RelativePath, FileEntry>,
}

impl HeldFiles {
    /// What a checkpoint holds, with the objects of its parts. A part whose object is not there is never referred to.
    pub fn new(store: &StoreParts, objects: BTreeMap<RelativePath, FileEntry>) -> Self {
        let parts = store.parts.iter();
        Self {
            store: store.store.clone(),
            parts: parts
                .map(|part| (part.name.clone(), part.clone()))
                .collect(),
            objects,
        }
    }

    /// Nothing: the state of the subtask lies in the checkpoint without a local store.
    pub fn none() -> Self {
        Self::default()
    }
}

/// One file of a frozen local store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalFile {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Whether the store never changes a file of this name.
    pub is_immutable: bool,
}

/// What one try may refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referable {
    held: HeldFiles,
    is_proven: bool,
}

/// How the files of a frozen store get into a checkpoint. Each is in it once.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FilePlan {
    /// They are there already.
    pub referenced: Vec<FilePart>,
    /// The objects that they lie in.
    pub kept: BTreeMap<RelativePath, FileEntry>,
    /// Each of these becomes one object, its files one after another.
    pub objects: Vec<Vec<LocalFile>>,
}

impl Referable {
    /// A try that refers to nothing.
    pub fn nothing() -> Self {
        Self {
            held: HeldFiles::none(),
            is_proven: true,
        }
    }

    /// The files that are worth a comparison: if the local bytes are those of the part, the try may refer to it.
    pub fn unproven(&self, store: &str, files: &[LocalFile]) -> Vec<FilePart> {
        if self.is_proven {
            return Vec::new();
        }
        let candidates = self.candidates(store, files);
        candidates.into_values().cloned().collect()
    }

    /// Plans a try. `equal` names the files that were compared and found equal.
    pub fn plan(&self, store: &str, files: &[LocalFile], equal: &BTreeSet<String>) -> FilePlan {
        let mut candidates = self.candidates(store, files);
        candidates.retain(|name, _| self.is_proven || equal.contains(*name));
        let mut live: BTreeMap<&RelativePath, u64> = BTreeMap::new();
        for part in candidates.values() {
            *live.entry(&part.path).or_default() += part.length;
        }
        candidates.retain(|_, part| {
            let object = self.held.objects.get(&part.path);
            object.is_some_and(|object| live[&part.path].saturating_mul(2) >= object.length)
        });
        let mut kept = self.held.objects.clone();
        let used: BTreeSet<_> = candidates.values().map(|part| &part.path).collect();
        kept.retain(|path, _| used.contains(path));
        let missing = files
            .iter()
            .filter(|file| !candidates.contains_key(file.name.as_str()));
        let objects = packs(missing);
        FilePlan {
            referenced: candidates.into_values().cloned().collect(),
            kept,
            objects,
        }
    }

    fn candidates<'a>(
        &'a self,
        store: &str,
        files: &'a [LocalFile],
    ) -> BTreeMap<&'a str, &'a FilePart> {
        let is_same_store = self.held.store == store;
        let files = files
            .iter()
            .filter(|file| is_same_store && file.is_immutable);
        let known = files.filter_map(|file| {
            let part = self.held.parts.get(&file.name)?;
            let is_same = part.is_immutable && part.length == file.length;
            is_same.then_some((file.name.as_str(), part))
        });
        known.collect()
    }
}

fn packs<'a>(files: impl Iterator<Item = &'a LocalFile>) -> Vec<Vec<LocalFile>> {
    let (small, mut objects) = (&mut Vec::new(), Vec::new());
    for file in files {
        if file.length < SMALL_BYTES {
            small.push(file);
        } else {
            objects.push(vec![file.clone()]);
        }
    }
    let (lasting, changing): (Vec<_>, Vec<_>) = small.drain(..).partition(|file| file.is_immutable);
    let mut packed = filled(&lasting);
    let mut riding = filled(&changing);
    if let (Some(last), [rider]) = (packed.last_mut(), &mut riding[..])
        && bytes_of(rider) * RIDE_SHARE <= bytes_of(last)
    {
        last.append(rider);
        riding.clear();
    }
    objects.extend(packed);
    objects.extend(riding);
    objects
}

fn bytes_of(files: &[LocalFile]) -> u64 {
    files.iter().map(|file| file.length).sum()
}

fn filled(files: &[&LocalFile]) -> Vec<Vec<LocalFile>> {
    let mut packs: Vec<Vec<LocalFile>> = Vec::new();
    let mut room = 0;
    for &file in files {
        if room == 0 || packs.is_empty() {
            packs.push(Vec::new());
            room = PACK_BYTES;
        }
        room = room.saturating_sub(file.length);
        if let Some(pack) = packs.last_mut() {
            pack.push(file.clone());
        }
    }
    packs
}

/// Follows the checkpoints of one operator subtask through one attempt.
#[derive(Clone, Debug)]
pub struct SharedFiles {
    last: u64,
    held: HeldFiles,
    is_proven: bool,
    tries: BTreeMap<CheckpointId, Option<HeldFiles>>,
}

impl SharedFiles {
    /// An attempt that begins with what `restored` holds. It counts as completed.
    pub const fn start(restored: CheckpointId, held: HeldFiles) -> Self {
        Self {
            last: restored.number,
            held,
            is_proven: false,
            tries: BTreeMap::new(),
        }
    }

    /// A try begins: what it may refer to. Tries that are not stored by now are over: the leader has one at a time.
    pub fn begin(&mut self, id: CheckpointId) -> Referable {
        self.tries.retain(|_, held| held.is_some());
        let mut held = self.held.clone();
        for other in self.tries.values().flatten() {
            held.parts
                .retain(|name, part| other.parts.get(name) == Some(part));
        }
        let is_proven = self.is_proven || !self.tries.is_empty();
        if planted(Mutant::DeclinedFilesShared) {
            held = self
                .tries
                .values()
                .flatten()
                .last()
                .unwrap_or(&held)
                .clone();
        }
        self.tries.insert(id, None);
        Referable { held, is_proven }
    }

    /// The files of a try are stored. Whether it may be acknowledged: one that was declined or overtaken may not.
    #[must_use]
    pub fn stored(&mut self, id: CheckpointId, held: HeldFiles) -> bool {
        let waiting = self.tries.get_mut(&id).filter(|held| held.is_none());
        waiting.map(|waiting| *waiting = Some(held)).is_some()
    }

    /// A checkpoint is complete: the last one, unless a younger one is already.
    pub fn completed(&mut self, id: CheckpointId) {
        if id.number <= self.last {
            return;
        }
        self.last = id.number;
        self.is_proven = true;
        // A checkpoint that this subtask did not take part in holds nothing of it.
        self.held = self.tries.remove(&id).flatten().unwrap_or_default();
        self.tries.retain(|other, _| other.number > id.number);
    }

    /// A try was given up: its objects go.
    pub fn declined(&mut self, id: CheckpointId) {
        if !planted(Mutant::DeclinedFilesShared) {
            self.tries.remove(&id);
        }
    }
}

#[cfg(test)]
#[path = "shared_files/tests.rs"]
mod tests;
