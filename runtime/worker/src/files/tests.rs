//! Tests of storing and restoring with files of a fake local store: plain files in a directory.

use std::collections::BTreeSet;
use std::path::Path;

use highwater_operators::{
    KeyedPart, OperatorError, OperatorSnapshot, RestoredOperator, RestoredPart, SnapshotPieces,
};
use highwater_protocol::job::TaskSnapshot;
use highwater_protocol::manifest::{KeyedFile, OperatorState};
use highwater_protocol::recovery::assign;
use highwater_state::{LocalDir, StoreFile, StoreFiles};
use highwater_storage::MemoryStorage;
use highwater_types::{
    Classified, Epoch, ErrorKind, JobIdentity, MaxParallelism, Nonce, Parallelism, SubtaskIndex,
};
use tokio::runtime::Runtime;

use super::*;
use crate::local_dirs::{LocalDirs, LocalIndex};
use crate::messages::{
    OperatorSubtask, RestoredBytes, RestoredKeyed, RestoredState, RestoredStore,
};

mod restoring;
mod storing;

const RANGE: KeyGroupRange = KeyGroupRange { start: 0, end: 8 };

fn uid() -> OperatorUid {
    OperatorUid::parse("count").unwrap()
}

fn subtask(index: u32) -> OperatorSubtask {
    OperatorSubtask {
        uid: uid(),
        subtask: SubtaskIndex(index),
    }
}

fn id(number: u64) -> CheckpointId {
    CheckpointId {
        number,
        epoch: Epoch(1),
    }
}

/// Bytes that differ by `seed`.
fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at as u8).wrapping_mul(31) ^ seed)
        .collect()
}

/// A worker's disk, its object store, and one operator subtask with a store of plain files.
struct Bench {
    root: tempfile::TempDir,
    rim: Runtime,
    storage: Arc<MemoryStorage>,
    files: JobFiles,
    dirs: LocalDirs,
    store: LocalDir,
    /// Whether the store goes on with files of a checkpoint.
    is_reopened: bool,
    attempt: AttemptFiles,
    kept: KeptFiles,
}

impl Bench {
    fn new() -> Self {
        let rim = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let storage = Arc::new(MemoryStorage::default());
        let job = JobIdentity::parse("fleet").unwrap();
        let root = tempfile::tempdir().unwrap();
        let dirs = LocalDirs::open(root.path(), &job, Nonce(1)).unwrap();
        let objects: Arc<dyn ObjectStorage> = Arc::<MemoryStorage>::clone(&storage);
        Self {
            root,
            rim,
            files: JobFiles::new(objects, JobPaths::new(job)),
            storage,
            store: dirs.fresh("store").unwrap(),
            is_reopened: false,
            dirs,
            attempt: AttemptFiles::start(id(0), BTreeMap::new()),
            kept: KeptFiles::default(),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.store.path().join(name), bytes).unwrap();
    }

    /// The store as of now: hard links, but for what changes.
    fn freeze(&self) -> StoreFiles {
        let dir = self.dirs.fresh("frozen").unwrap();
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.store.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_immutable = name.contains("sst");
            let to = dir.path().join(&name);
            crate::local_dirs::place(&entry.path(), &to, is_immutable).unwrap();
            files.push(StoreFile {
                name,
                length: entry.metadata().unwrap().len(),
                is_immutable,
                is_restored: is_immutable && self.is_reopened,
            });
        }
        files.sort();
        StoreFiles {
            store: "plain".to_owned(),
            dir,
            files,
        }
    }

    fn part(&mut self, number: u64, keyed: Vec<KeyedPart>) -> TaskPart {
        let state = OperatorSnapshot {
            keyed,
            lists: Vec::new(),
            ..OperatorSnapshot::default()
        };
        let operators = vec![(uid(), state)];
        TaskPart {
            task: TaskId {
                vertex: uid(),
                subtask: SubtaskIndex(0),
            },
            attempt: AttemptId(1),
            id: id(number),
            range: RANGE,
            referable: self.attempt.begin(id(number), SubtaskIndex(0), &operators),
            operators,
            splits: None,
        }
    }

    fn in_store(&self) -> KeyedPart {
        KeyedPart::InStore {
            head: b"the head".to_vec(),
            files: self.freeze(),
        }
    }

    fn store_part(&self, part: TaskPart) -> Result<StoredPart, PartError> {
        store_part(&self.files, self.rim.handle(), part)
    }

    fn store(&mut self, number: u64) -> Result<StoredPart, PartError> {
        let keyed = vec![self.in_store()];
        let part = self.part(number, keyed);
        self.store_part(part)
    }

    /// A checkpoint that completes.
    fn complete(&mut self, number: u64) -> TaskSnapshot {
        let stored = self.store(number).unwrap();
        assert!(
            self.attempt
                .stored(id(number), SubtaskIndex(0), stored.stores)
        );
        self.attempt.completed(id(number), &mut self.kept);
        stored.snapshot
    }

    fn restore(
        &self,
        states: BTreeMap<OperatorSubtask, RestoredState>,
        index: LocalIndex,
    ) -> Result<Restored, RestoreError> {
        let local = LocalPlace::new(self.dirs.clone(), index);
        let restored = self
            .rim
            .block_on(restore(&self.files, Some(&local), states));
        restored.map_err(|(_, error)| error)
    }

    /// Changes an object behind the back of whoever stored it.
    fn tamper(&self, path: &RelativePath, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let object = self.files.object(path).unwrap();
        self.rim.block_on(async {
            let old = self.storage.get(&object).await.unwrap().unwrap();
            match change(old.bytes.to_vec()) {
                Some(new) => self.storage.put(&object, Bytes::from(new)).await.unwrap(),
                None => self.storage.delete(&object).await.unwrap(),
            }
        });
    }
}

/// Bytes of objects that the checkpoint stored itself.
fn new_bytes(number: u64, snapshot: &TaskSnapshot) -> u64 {
    let own = format!("/{number}-");
    let own = snapshot
        .files
        .iter()
        .filter(|(path, _)| path.as_str().contains(&own));
    own.map(|(_, entry)| entry.length).sum()
}

/// What each subtask gets back at this parallelism, as the coordinator hands it out.
fn handed_out(
    snapshot: &TaskSnapshot,
    parallelism: u32,
) -> BTreeMap<OperatorSubtask, RestoredState> {
    let operator = OperatorState {
        parallelism: Parallelism(1),
        max_parallelism: MaxParallelism::try_new(8).unwrap(),
        key: None,
        states: Vec::new(),
        form: String::new(),
        keyed: snapshot.keyed[&uid()].clone(),
        lists: Vec::new(),
    };
    let shares = assign::keyed(&operator, Parallelism(parallelism));
    let state = |files: Vec<KeyedFile>| RestoredState {
        keyed: files
            .into_iter()
            .map(|file| restored(snapshot, file))
            .collect(),
        lists: Vec::new(),
    };
    let shares = shares.into_iter().enumerate();
    shares
        .map(|(index, share)| (subtask(index as u32), state(share.files)))
        .collect()
}

fn restored(snapshot: &TaskSnapshot, file: KeyedFile) -> RestoredKeyed {
    let objects = file.parts().iter().map(|part| part.path.clone());
    let objects = objects
        .map(|path| (path.clone(), snapshot.files[&path]))
        .collect();
    RestoredKeyed {
        entry: snapshot.files[&file.path],
        path: file.path,
        store: file.store.map(|parts| RestoredStore { parts, objects }),
    }
}

/// The files of a directory.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let read = entries.map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    });
    read.collect()
}

fn in_store(operator: &RestoredOperator) -> &StoreFiles {
    match &operator.keyed[..] {
        [RestoredPart::InStore { head, files }] => {
            assert_eq!(***head, *b"the head");
            files
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn objects_on_their_way_share_a_room_of_bytes_and_a_larger_one_goes_alone() {
    use futures::FutureExt as _;

    let files = Bench::new().files.with_room(10 << 10);
    let first = files.room(6 << 10).now_or_never().unwrap();
    assert!(files.room(5 << 10).now_or_never().is_none(), "no room");
    let second = files.room(4 << 10).now_or_never().unwrap();
    drop(first);
    let beside = files.room(1 << 40).now_or_never();
    assert!(beside.is_none(), "something is on its way");
    drop(second);
    let alone = files.room(1 << 40).now_or_never().unwrap();
    assert!(files.room(1).now_or_never().is_none());
    drop(alone);
    assert!(files.room(0).now_or_never().is_some());
}
