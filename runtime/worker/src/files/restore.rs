//! Fetches and verifies the state of an attempt (R5), as far as it is not on local disk already.
//!
//! Called off the loop. The rule: every byte is compared with the manifest before a record flows, wherever it came from.
//! Damage of an object is told as damage; a local file that does not match is no damage, it is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use highwater_operators::{RestoredOperator, RestoredPart};
use highwater_protocol::hash::ContentHash;
use highwater_protocol::manifest::{FileEntry, FilePart};
use highwater_protocol::paths::RelativePath;
use highwater_protocol::shared_files::HeldFiles;
use highwater_state::{LocalDir, StoreFile, StoreFiles};

use super::{JobFiles, OBJECTS_AT_ONCE, RestoreError, blocking};
use crate::local_dirs::{LocalDirError, LocalDirs, LocalIndex, place};
use crate::messages::{
    OperatorSubtask, RestoredBytes, RestoredKeyed, RestoredState, RestoredStore,
};

/// A snapshot file of this size goes to local disk, if there is one, and not into memory. In bytes.
const LARGE_BYTES: u64 = 8 << 20;

/// Questions whether an object is there that are on their way at once.
const LOOKS_AT_ONCE: usize = 16;

/// The state of an attempt, verified.
#[derive(Debug, Default)]
pub struct Restored {
    /// What each operator subtask gets back.
    pub operators: BTreeMap<OperatorSubtask, RestoredOperator>,
    /// What the checkpoint holds of the local stores whose files an operator subtask gets back: its own store goes on from one of
    /// them, if it is of the same kind.
    pub held: BTreeMap<OperatorSubtask, Vec<HeldFiles>>,
    /// Where the bytes came from.
    pub bytes: RestoredBytes,
}

/// Where restored files go, and where they may be already.
#[derive(Clone, Debug)]
pub struct LocalPlace {
    dirs: LocalDirs,
    index: Arc<LocalIndex>,
}

impl LocalPlace {
    /// The directory of this process; files are looked for in `index` and in what dead processes left.
    pub fn new(dirs: LocalDirs, mut index: LocalIndex) -> Self {
        dirs.offer(&mut index);
        let index = Arc::new(index);
        Self { dirs, index }
    }
}

/// Fetches and verifies the state of operator subtasks. A file that several of them need is fetched once.
///
/// # Errors
/// With the first subtask that needs the file. `Corrupt` when an object is missing or damaged: nothing of it was used. Else as the object store or local disk refuse;
/// `Invalid` when the files of a local store are to be restored and there is no local directory.
pub async fn restore(
    files: &JobFiles,
    local: Option<&LocalPlace>,
    states: BTreeMap<OperatorSubtask, RestoredState>,
) -> Result<Restored, (OperatorSubtask, RestoreError)> {
    let mut distinct = BTreeMap::new();
    for (subtask, state) in &states {
        for file in &state.keyed {
            distinct.insert(file.path.clone(), (subtask.clone(), file.clone()));
        }
    }
    let wanted = distinct.into_values().map(|(subtask, file)| async {
        let fetched = fetch(files, local, file).await;
        fetched.map_err(|error| (subtask, error))
    });
    let fetched: Vec<Fetched> = futures::stream::iter(wanted.collect::<Vec<_>>())
        .buffer_unordered(OBJECTS_AT_ONCE)
        .try_collect()
        .await?;
    let mut restored = Restored::default();
    for one in &fetched {
        restored.bytes.fetched += one.bytes.fetched;
        restored.bytes.local += one.bytes.local;
    }
    let mut fetched: BTreeMap<_, _> = fetched
        .into_iter()
        .map(|one| (one.path.clone(), one))
        .collect();
    for (subtask, state) in states {
        let mut operator = RestoredOperator {
            keyed: Vec::with_capacity(state.keyed.len()),
            lists: state.lists,
        };
        for file in &state.keyed {
            let one = fetched.get_mut(&file.path);
            let one = one.unwrap_or_else(|| unreachable!("{} was fetched", file.path));
            let given = one.give(local);
            operator
                .keyed
                .push(given.map_err(|error| (subtask.clone(), error))?);
        }
        let stores = state.keyed.iter().filter(|file| file.store.is_some());
        let held: Vec<_> = stores
            .map(|file| fetched[&file.path].held.clone())
            .collect();
        if !held.is_empty() {
            restored.held.insert(subtask.clone(), held);
        }
        restored.operators.insert(subtask, operator);
    }
    Ok(restored)
}

/// One file of keyed state that is here.
struct Fetched {
    path: RelativePath,
    part: RestoredPart,
    is_given: bool,
    held: HeldFiles,
    bytes: RestoredBytes,
}

impl Fetched {
    /// The part, for one subtask more. Each gets store files of its own, for a store may go on with them.
    fn give(&mut self, local: Option<&LocalPlace>) -> Result<RestoredPart, RestoreError> {
        let is_first = !std::mem::replace(&mut self.is_given, true);
        match (&self.part, local) {
            (RestoredPart::InStore { head, files }, Some(local)) if !is_first => {
                let dir = local.dirs.fresh("restored")?;
                for file in &files.files {
                    let from = files.dir.path().join(&file.name);
                    let to = dir.path().join(&file.name);
                    place(&from, &to, file.is_immutable)
                        .map_err(LocalDirError::at("write", &to))?;
                }
                Ok(RestoredPart::InStore {
                    head: Arc::clone(head),
                    files: StoreFiles {
                        dir,
                        ..files.clone()
                    },
                })
            }
            (part, _) => Ok(part.clone()),
        }
    }
}

async fn fetch(
    files: &JobFiles,
    local: Option<&LocalPlace>,
    file: RestoredKeyed,
) -> Result<Fetched, RestoreError> {
    let RestoredKeyed { path, entry, store } = file;
    let (mut reusable, mut bytes) = (HeldFiles::none(), RestoredBytes::default());
    let part = match (store, local) {
        (None, Some(local)) if entry.length >= LARGE_BYTES => {
            let _room = files.room(entry.length).await;
            let dir = local.dirs.fresh("restored")?;
            let (name, whole) = ("snapshot", files.fetch(&path, entry).await?);
            write(dir.path(), vec![(name.to_owned(), whole)]).await?;
            RestoredPart::File {
                name: name.to_owned(),
                dir,
            }
        }
        (None, _) => RestoredPart::Bytes(Arc::new(files.fetch(&path, entry).await?.to_vec())),
        (Some(store), None) => {
            return Err(RestoreError::NoLocalDir {
                path,
                store: store.parts.store,
            });
        }
        (Some(store), Some(local)) => {
            let head = Arc::new(files.fetch(&path, entry).await?.to_vec());
            let placed = fetch_store(files, local, &store).await?;
            (reusable, bytes) = (placed.held, placed.bytes);
            RestoredPart::InStore {
                head,
                files: placed.files,
            }
        }
    };
    bytes.fetched += entry.length;
    Ok(Fetched {
        path,
        part,
        is_given: false,
        held: reusable,
        bytes,
    })
}

struct Placed {
    files: StoreFiles,
    held: HeldFiles,
    bytes: RestoredBytes,
}

/// Puts the files of a store into a directory: from local disk where they are, else out of their objects.
async fn fetch_store(
    files: &JobFiles,
    local: &LocalPlace,
    store: &RestoredStore,
) -> Result<Placed, RestoreError> {
    let dir = local.dirs.fresh("restored")?;
    let parts = &store.parts.parts;
    let found = found_here(local, &dir, parts).await?;
    let mut bytes = RestoredBytes::default();
    let mut missing: BTreeMap<&RelativePath, Vec<&FilePart>> = BTreeMap::new();
    for part in parts {
        if found.contains(&part.name) {
            bytes.local += part.length;
        } else {
            missing.entry(&part.path).or_default().push(part);
        }
    }
    let objects = store.objects.iter();
    let (wanted, unread): (Vec<_>, Vec<_>) =
        objects.partition(|(path, _)| missing.contains_key(path));
    bytes.fetched += wanted.iter().map(|(_, entry)| entry.length).sum::<u64>();
    let fetches = wanted
        .iter()
        .map(|(path, entry)| fetch_object(files, &dir, (path, **entry), &missing[path]));
    futures::stream::iter(fetches.collect::<Vec<_>>())
        .buffer_unordered(OBJECTS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    let mut sound = owned(wanted);
    sound.extend(still_there(files, unread).await?);
    let placed = parts.iter().map(|part| StoreFile {
        name: part.name.clone(),
        length: part.length,
        is_immutable: part.is_immutable,
        is_restored: true,
    });
    let mut placed: Vec<_> = placed.collect();
    placed.sort();
    Ok(Placed {
        files: StoreFiles {
            store: store.parts.store.clone(),
            dir,
            files: placed,
        },
        held: HeldFiles::new(&store.parts, sound),
        bytes,
    })
}

/// Those objects that are there with their length. The next checkpoint refers to no other: what lies in them is stored
/// again from local disk.
async fn still_there(
    files: &JobFiles,
    objects: Vec<(&RelativePath, &FileEntry)>,
) -> Result<BTreeMap<RelativePath, FileEntry>, RestoreError> {
    let looks = objects.into_iter().map(|(path, entry)| async move {
        let is_there = files.is_there(path, *entry).await?;
        if !is_there {
            tracing::warn!(%path, "an object of the checkpoint is missing; its files are here and are stored again");
        }
        Ok::<_, RestoreError>(is_there.then(|| (path.clone(), *entry)))
    });
    let found: Vec<Option<_>> = futures::stream::iter(looks.collect::<Vec<_>>())
        .buffer_unordered(LOOKS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

fn owned(objects: Vec<(&RelativePath, &FileEntry)>) -> BTreeMap<RelativePath, FileEntry> {
    let objects = objects.into_iter();
    objects
        .map(|(path, entry)| (path.clone(), *entry))
        .collect()
}

/// The names of those files that local disk has; they are in `dir` now.
async fn found_here(
    local: &LocalPlace,
    dir: &LocalDir,
    parts: &[FilePart],
) -> Result<BTreeSet<String>, RestoreError> {
    let tries = parts.iter().map(|part| {
        let (index, part, dir) = (Arc::clone(&local.index), part.clone(), dir.clone());
        async move {
            let take = move || {
                let to = dir.path().join(&part.name);
                let wanted = (part.name.as_str(), part.length, part.checksum);
                index
                    .take(wanted, part.is_immutable, &to)
                    .then_some(part.name)
            };
            blocking(take).await
        }
    });
    let taken = futures::stream::iter(tries.collect::<Vec<_>>()).buffer_unordered(OBJECTS_AT_ONCE);
    let taken: Vec<Option<String>> = taken.try_collect().await?;
    Ok(taken.into_iter().flatten().collect())
}

/// Fetches an object whole, verifies it, and writes the files of it that are missing.
async fn fetch_object(
    files: &JobFiles,
    dir: &LocalDir,
    (path, entry): (&RelativePath, FileEntry),
    parts: &[&FilePart],
) -> Result<(), RestoreError> {
    let _room = files.room(entry.length).await;
    let whole = files.fetch(path, entry).await?;
    let mut written = Vec::with_capacity(parts.len());
    for part in parts {
        let (from, until) = (part.offset as usize, part.offset + part.length);
        let bytes = whole.slice(from..until as usize);
        if ContentHash::of(&bytes) != part.checksum {
            return Err(RestoreError::Part {
                name: part.name.clone(),
                path: path.clone(),
            });
        }
        written.push((part.name.clone(), bytes));
    }
    write(dir.path(), written).await
}

/// Writes files that are not there yet, on a thread that may block.
async fn write(dir: &Path, files: Vec<(String, Bytes)>) -> Result<(), RestoreError> {
    let dir = dir.to_owned();
    let work = move || {
        for (name, bytes) in files {
            let path = dir.join(name);
            let created = File::create_new(&path);
            let written = created.and_then(|mut file| file.write_all(&bytes));
            written.map_err(LocalDirError::at("write", &path))?;
        }
        Ok(())
    };
    blocking(work).await?.map_err(RestoreError::Local)
}
