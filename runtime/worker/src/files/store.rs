//! Stores a task's part of a checkpoint (P5): snapshot files, and the files of local stores that are not stored yet.
//!
//! Called off the loop, on a thread that may block. Few objects of a local store are in memory at once, whatever the size of
//! the state. A part that cannot be stored whole is not stored at all: its objects are orphans that the collection finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use highwater_operators::{
    KeyedPart, ListStateSnapshot, OperatorSnapshot, Redistribution, SnapshotPieces,
};
use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::TaskSnapshot;
use highwater_protocol::manifest::{
    Blob, FileEntry, FilePart, HexBytes, KeyedFile, ListMode, ListState, StoreParts,
};
use highwater_protocol::paths::{DataWriter, RelativePath};
use highwater_protocol::shared_files::{FilePlan, HeldFiles, LocalFile, Referable};
use highwater_state::StoreFiles;
use highwater_storage::StorageError;
use highwater_types::{KeyGroupRange, OperatorUid, SubtaskIndex};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{JobFiles, OBJECTS_AT_ONCE, PartError, TaskPart, blocking, finished};
use crate::local_dirs::checksum_of;

/// A task's part that is stored.
#[derive(Debug, Default)]
pub struct StoredPart {
    /// What it puts into the manifest.
    pub snapshot: TaskSnapshot,
    /// For each operator with a local store: what the checkpoint holds of it, and the local files themselves.
    pub stores: BTreeMap<OperatorUid, (HeldFiles, StoreFiles)>,
}

/// Stores the files of a task's part; what they are goes into the manifest.
///
/// # Errors
/// As the object store, the local disk or the state refuse. Nothing of the part may be acknowledged then.
pub fn store_part(
    files: &JobFiles,
    rim: &Handle,
    mut part: TaskPart,
) -> Result<StoredPart, PartError> {
    let mut stored = StoredPart::default();
    for (uid, state) in std::mem::take(&mut part.operators) {
        let mut operator = OperatorPart {
            files,
            rim,
            writer: DataWriter {
                epoch: part.id.epoch,
                attempt: part.attempt,
                uid: uid.clone(),
                subtask: part.task.subtask,
            },
            number: part.id.number,
            range: part.range,
            referable: part.referable.remove(&uid).unwrap_or_default(),
            made: &mut stored,
        };
        operator.store(state)?;
    }
    if let Some(splits) = part.splits {
        let positions: BTreeMap<_, _> = splits
            .into_iter()
            .map(|split| (split.id.to_string(), HexBytes(split.position)))
            .collect();
        let of = part.task.vertex.clone();
        stored.snapshot.splits.insert(of, positions);
    }
    Ok(stored)
}

/// The state of one operator subtask on its way.
struct OperatorPart<'a> {
    files: &'a JobFiles,
    rim: &'a Handle,
    writer: DataWriter,
    number: u64,
    range: KeyGroupRange,
    referable: Vec<Referable>,
    made: &'a mut StoredPart,
}

impl OperatorPart<'_> {
    fn store(&mut self, state: OperatorSnapshot) -> Result<(), PartError> {
        for (at, piece) in state.keyed.into_iter().enumerate() {
            match piece {
                KeyedPart::Bytes(bytes) => {
                    let path = self.path(&format!("keyed.{at}"));
                    let entry = self
                        .rim
                        .block_on(self.files.store(&path, Bytes::from(bytes)))?;
                    self.add(path, entry, self.range, None);
                }
                KeyedPart::InStore { head, files } => self.store_files(at, head, files)?,
                KeyedPart::Pieces(pieces) => self.store_pieces(at, pieces)?,
            }
        }
        let (uid, subtask) = (self.writer.uid.clone(), self.writer.subtask);
        let lists = state
            .lists
            .into_iter()
            .map(|list| stored_list(list, subtask));
        let lists: Vec<_> = lists.collect();
        if !lists.is_empty() {
            self.made
                .snapshot
                .lists
                .entry(uid)
                .or_default()
                .extend(lists);
        }
        Ok(())
    }

    fn path(&self, file: &str) -> RelativePath {
        self.writer.file(self.number, file)
    }

    fn add(
        &mut self,
        path: RelativePath,
        entry: FileEntry,
        range: KeyGroupRange,
        store: Option<StoreParts>,
    ) {
        let snapshot = &mut self.made.snapshot;
        snapshot.files.insert(path.clone(), entry);
        let file = KeyedFile {
            path,
            range,
            groups: Vec::new(),
            store,
        };
        let uid = self.writer.uid.clone();
        snapshot.keyed.entry(uid).or_default().push(file);
    }

    /// Stores the pieces of a large state: while one is on its way, the next is made.
    fn store_pieces(
        &mut self,
        at: usize,
        mut pieces: Box<dyn SnapshotPieces>,
    ) -> Result<(), PartError> {
        let mut start = self.range.start;
        let mut on_way: Option<OnWay> = None;
        for index in 0.. {
            let next = pieces.next_piece().map_err(|source| PartError::State {
                uid: self.writer.uid.clone(),
                source: Box::new(source),
            })?;
            if let Some(before) = on_way.take() {
                self.arrived(before)?;
            }
            let Some((range, bytes)) = next else { break };
            if range.start != start || range.is_empty() || range.end > self.range.end {
                return Err(self.wrong_pieces(start, &range.to_string()));
            }
            start = range.end;
            let path = self.path(&format!("keyed.{at}.{index}"));
            let (files, to) = (self.files.clone(), path.clone());
            let put = self
                .rim
                .spawn(async move { files.store(&to, Bytes::from(bytes)).await });
            on_way = Some((range, path, put));
        }
        if start != self.range.end {
            return Err(self.wrong_pieces(start, "nothing"));
        }
        Ok(())
    }

    fn arrived(&mut self, (range, path, put): OnWay) -> Result<(), PartError> {
        let entry = finished(self.rim.block_on(put))??;
        self.add(path, entry, range, None);
        Ok(())
    }

    fn wrong_pieces(&self, start: u16, found: &str) -> PartError {
        PartError::Pieces {
            uid: self.writer.uid.clone(),
            wanted: self.range,
            start,
            found: found.to_owned(),
        }
    }

    /// Stores what is new of a local store, and refers to the rest.
    fn store_files(
        &mut self,
        at: usize,
        head: Vec<u8>,
        files: StoreFiles,
    ) -> Result<(), PartError> {
        let plan = plan_of(&files, &self.referable)?;
        let objects = plan.objects.into_iter().enumerate();
        let uploads = objects.map(|(index, object)| {
            let path = self.path(&format!("keyed.{at}.{index}"));
            upload(self.files, &files, path, object)
        });
        let uploads = futures::stream::iter(uploads.collect::<Vec<_>>());
        let stored = uploads.buffer_unordered(OBJECTS_AT_ONCE).try_collect();
        let stored: Vec<(RelativePath, FileEntry, Vec<FilePart>)> = self.rim.block_on(stored)?;
        let (mut parts, mut objects) = (plan.referenced, plan.kept);
        for (path, entry, of) in stored {
            objects.insert(path, entry);
            parts.extend(of);
        }
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        let store = StoreParts {
            store: files.store.clone(),
            parts,
        };
        let path = self.path(&format!("keyed.{at}"));
        let entry = self
            .rim
            .block_on(self.files.store(&path, Bytes::from(head)))?;
        let named = objects.iter().map(|(path, entry)| (path.clone(), *entry));
        self.made.snapshot.files.extend(named);
        let in_store = HeldFiles::new(&store, objects);
        self.add(path, entry, self.range, Some(store));
        let uid = self.writer.uid.clone();
        self.made.stores.insert(uid, (in_store, files));
        Ok(())
    }
}

type OnWay = (
    KeyGroupRange,
    RelativePath,
    JoinHandle<Result<FileEntry, StorageError>>,
);

fn local_file(file: &highwater_state::StoreFile) -> LocalFile {
    LocalFile {
        name: file.name.clone(),
        length: file.length,
        is_immutable: file.is_immutable,
    }
}

/// How the files of a store get into a checkpoint, should it have gone on from a certain restored one.
struct Guess {
    plan: FilePlan,
    /// How many of the files that the store was restored with have the bytes of those of that one.
    sound: usize,
    /// One of them that has other bytes.
    changed: Option<PathBuf>,
}

/// How the files of a store get into a checkpoint: it has gone on from the restored one whose bytes its files have.
///
/// # Errors
/// When a file cannot be read, or is one that the store was restored with and is not that any more: it may not take the place of the
/// sound one.
fn plan_of(files: &StoreFiles, referable: &[Referable]) -> Result<FilePlan, PartError> {
    let local: Vec<_> = files.files.iter().map(local_file).collect();
    let guesses = referable.iter().map(|one| guess(files, &local, one));
    let guesses = guesses.collect::<Result<Vec<_>, _>>()?;
    // What is sound for another one is sound for the right one too, which has more of the files: of two that have as many sound ones the
    // right one is that of which a file has changed.
    let best = guesses.into_iter().max_by_key(|guess| {
        let has_changed = guess.changed.is_some();
        (guess.sound, has_changed, guess.plan.referenced.len())
    });
    match best {
        Some(Guess {
            changed: Some(path),
            ..
        }) => Err(PartError::LocalChanged { path }),
        Some(Guess { plan, .. }) => Ok(plan),
        None => Ok(Referable::nothing().plan(&files.store, &local, &BTreeSet::new())),
    }
}

fn guess(
    files: &StoreFiles,
    local: &[LocalFile],
    referable: &Referable,
) -> Result<Guess, PartError> {
    let restored = files.files.iter().filter(|file| file.is_restored);
    let restored: BTreeSet<_> = restored.map(|file| file.name.as_str()).collect();
    let (mut equal, mut sound, mut changed) = (BTreeSet::new(), 0, None);
    for part in referable.unproven(&files.store, local) {
        let path = files.dir.path().join(&part.name);
        let is_restored = restored.contains(part.name.as_str());
        let found = checksum_of(&path).map_err(PartError::local(&path))?;
        if found == (part.length, part.checksum) {
            sound += usize::from(is_restored);
            equal.insert(part.name);
        } else if is_restored {
            changed = Some(path);
        }
    }
    Ok(Guess {
        plan: referable.plan(&files.store, local, &equal),
        sound,
        changed,
    })
}

/// Puts files one after another into an object.
async fn upload(
    files: &JobFiles,
    from: &StoreFiles,
    path: RelativePath,
    object: Vec<LocalFile>,
) -> Result<(RelativePath, FileEntry, Vec<FilePart>), PartError> {
    let _room = files
        .room(object.iter().map(|file| file.length).sum())
        .await;
    let (dir, of) = (from.dir.clone(), path.clone());
    let read = blocking(move || read_object(dir.path(), &of, &object)).await?;
    let (bytes, parts) = read?;
    let entry = files.store(&path, Bytes::from(bytes)).await?;
    Ok((path, entry, parts))
}

fn read_object(
    dir: &Path,
    path: &RelativePath,
    object: &[LocalFile],
) -> Result<(Vec<u8>, Vec<FilePart>), PartError> {
    let length: u64 = object.iter().map(|file| file.length).sum();
    let mut bytes = Vec::with_capacity(length as usize);
    let mut parts = Vec::with_capacity(object.len());
    for file in object {
        let offset = bytes.len();
        read_file(&dir.join(&file.name), file.length, &mut bytes)?;
        parts.push(FilePart {
            name: file.name.clone(),
            is_immutable: file.is_immutable,
            path: path.clone(),
            offset: offset as u64,
            length: file.length,
            checksum: ContentHash::of(&bytes[offset..]),
        });
    }
    Ok((bytes, parts))
}

/// Appends a file that has exactly this length.
fn read_file(path: &Path, wanted: u64, bytes: &mut Vec<u8>) -> Result<(), PartError> {
    let file = File::open(path).map_err(PartError::local(path))?;
    // One byte more than there may be shows a file that is too long.
    let read = file.take(wanted.saturating_add(1)).read_to_end(bytes);
    let found = read.map_err(PartError::local(path))? as u64;
    if found == wanted {
        return Ok(());
    }
    Err(PartError::LocalLength {
        path: path.to_owned(),
        wanted,
        found,
    })
}

fn stored_list(list: ListStateSnapshot, subtask: SubtaskIndex) -> ListState {
    ListState {
        name: list.name,
        mode: match list.redistribution {
            Redistribution::Split => ListMode::Split,
            Redistribution::Union => ListMode::Union,
        },
        subtask,
        elements: list
            .items
            .into_iter()
            .map(|item| Blob::Inline(HexBytes(item)))
            .collect(),
    }
}
