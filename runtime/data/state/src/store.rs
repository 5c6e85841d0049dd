//! The seam of a local store: what lies behind the tables of an operator subtask when its state may outgrow memory.
//!
//! Implemented by a log-structured merge tree on local disk, and by a fake in `contract`; called by the backend. The store
//! of a subtask holds the rows of each of its states ([`Backing`]), and is frozen as a whole at a checkpoint.
//!
//! Laws. A read sees every batch written before it. [`StateStore::freeze`] followed by [`Freezing::freeze`] captures every
//! batch written before the first call and none after, if nothing is written until the second returns: the caller
//! withholds its writes meanwhile, reads go on. What the second costs depends on what was written since the last one,
//! not on the amount of data. A frozen store never changes, whatever happens to the one that it was taken of. The suite in
//! `contract` checks all of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_types::{KeyGroupRange, OperatorUid, ProcessingTime, SubtaskIndex};
use serde::{Deserialize, Serialize};

use crate::backing::{Backing, VisitRow};
use crate::descriptor::StateDescriptor;
use crate::error::BackingError;

/// A directory on local disk that is removed, with all that it holds, when its last owner lets go of it.
///
/// Local disk is a cache: a directory that could not be removed costs room, and the next start of the worker finds it.
#[derive(Clone, Debug)]
pub struct LocalDir(Arc<Owned>);

#[derive(Debug)]
struct Owned(PathBuf);

impl Drop for Owned {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let dir = self.0.display();
                tracing::warn!(%dir, %error, "a local directory is left for the next start to remove");
            }
        }
    }
}

impl LocalDir {
    /// Makes a directory, and those above it.
    ///
    /// # Errors
    /// When it exists already or cannot be made.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above)?;
        }
        std::fs::create_dir(&path)?;
        Ok(Self::own(path))
    }

    /// Takes over a directory that exists already, or is about to be made by somebody else.
    pub fn own(path: PathBuf) -> Self {
        Self(Arc::new(Owned(path)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.0
    }
}

/// One file of a frozen store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreFile {
    /// Its name in the directory: no path.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Whether this name stands for these bytes for as long as the store lives: a checkpoint that has them already
    /// need not store them again. Such a file may be shared by hard link, any other is copied.
    pub is_immutable: bool,
    /// Whether the store was opened with this file, from a checkpoint: other bytes than those there are damage.
    pub is_restored: bool,
}

/// The files of a frozen store, in a directory of their own. Only the store that wrote them understands them.
#[derive(Clone, Debug)]
pub struct StoreFiles {
    /// The store that wrote them, as settings name it: `rocksdb`.
    pub store: String,
    /// Where they lie.
    pub dir: LocalDir,
    /// All of them, in order of names.
    pub files: Vec<StoreFile>,
}

/// The store of one operator subtask.
pub trait StateStore: Send {
    /// Opens the rows of one state, with what the store was reopened with.
    ///
    /// # Errors
    /// Of the kind that the store reports; the state is not opened.
    fn open(&mut self, state: &StateDescriptor) -> Result<Box<dyn Backing>, BackingError>;

    /// Removes the rows of a state that is not opened any more.
    ///
    /// # Errors
    /// Of the kind that the store reports; the subtask does not start.
    fn drop_state(&mut self, name: &str) -> Result<(), BackingError>;

    /// Tells the processing time, by which compaction removes what is expired.
    fn set_time(&mut self, now: ProcessingTime);

    /// Begins to freeze all states. Reads and writes no row: the work is done by what it returns, on another thread, and the
    /// caller writes nothing until that is done.
    fn freeze(&mut self) -> Box<dyn Freezing>;

    /// What the store takes and did.
    fn report(&self) -> StoreReport;
}

/// A store that is being frozen.
pub trait Freezing: Send {
    /// Freezes it: flushes what is in memory, fixes the files.
    ///
    /// # Errors
    /// Of the kind that the store reports; the snapshot fails with it.
    fn freeze(self: Box<Self>) -> Result<Box<dyn FrozenStore>, BackingError>;
}

/// All states of a store as of one moment. May be read on another thread.
pub trait FrozenStore: Send {
    /// Calls `visit` once for each row of `state` in `groups`, in order of keys.
    ///
    /// # Errors
    /// Of the kind that the store reports; the snapshot fails with it.
    fn visit(
        &mut self,
        state: &str,
        groups: KeyGroupRange,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError>;

    /// The files: what an incremental checkpoint keeps.
    ///
    /// # Errors
    /// Of the kind that the store reports; the snapshot fails with it.
    fn files(&self) -> Result<StoreFiles, BackingError>;
}

/// What a store takes and did, for metrics. Bytes and counts since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Bytes on local disk.
    pub disk_bytes: u64,
    /// Bytes of its write buffers, which count against what all stores share too, and of what its readers hold beside that.
    pub memory_bytes: u64,
    /// Compactions that run, and states that wait for one.
    pub compactions: u64,
    /// Times that a writer waited for compaction, a moment each: the wait goes on while they grow.
    pub write_waits: u64,
}

/// Which subtask a store is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlace {
    /// The operator.
    pub uid: OperatorUid,
    /// Its subtask.
    pub subtask: SubtaskIndex,
    /// The key groups of the subtask.
    pub range: KeyGroupRange,
    /// The key groups of the rows in the files from which it goes on: its own, unless the parallelism has changed. Says
    /// nothing where there are no files.
    pub held: KeyGroupRange,
}

impl StorePlace {
    /// The key groups of the files that are not those of the subtask: before and behind its own, where there are any.
    pub fn foreign(&self) -> impl Iterator<Item = KeyGroupRange> + use<> {
        let (own, held) = (self.range, self.held);
        let before = KeyGroupRange {
            start: held.start,
            end: held.end.min(own.start),
        };
        let behind = KeyGroupRange {
            start: held.start.max(own.end),
            end: held.end,
        };
        let sides = [before, behind].into_iter();
        sides.filter(|side| side.start < side.end)
    }
}

/// Makes the stores of a worker, out of one memory budget. Shared by its slots.
pub trait StoreFactory: fmt::Debug + Send + Sync {
    /// The store, as settings name it.
    fn name(&self) -> &'static str;

    /// An empty store.
    ///
    /// # Errors
    /// Of the kind that the store reports; the subtask does not start.
    fn create(&self, place: &StorePlace) -> Result<Box<dyn StateStore>, BackingError>;

    /// A store that goes on from verified files. They are its own from here on.
    ///
    /// Rows of the key groups [`StorePlace::foreign`] are gone when this returns, for good and at a cost that does not depend
    /// on how many they are: no read shows one, nor does a frozen store, nor a store that goes on from its files or reads
    /// them. Where there is no such group nothing is written.
    ///
    /// # Errors
    /// Of the kind that the store reports; `Corrupt` when it does not understand the files, `Invalid` when another version
    /// wrote them.
    fn reopen(
        &self,
        place: &StorePlace,
        files: StoreFiles,
    ) -> Result<Box<dyn StateStore>, BackingError>;

    /// Reads verified files of any key groups, changing nothing.
    ///
    /// # Errors
    /// Of the kind that the store reports; `Corrupt` when it does not understand the files, `Invalid` when another version
    /// wrote them.
    fn read(&self, files: StoreFiles) -> Result<Box<dyn FrozenStore>, BackingError>;

    /// Bytes of memory that all of its stores take together, what they share included.
    fn used_bytes(&self) -> u64;
}

/// Where the state of a subtask rests.
#[derive(Clone, Debug)]
pub enum Store {
    /// In memory only.
    Heap {
        /// Reads the state of a checkpoint that a local store has written.
        reads: Option<Arc<dyn StoreFactory>>,
    },
    /// In a local store, with the tables of the states as caches inside the budget.
    Local {
        /// Makes the store.
        factory: Arc<dyn StoreFactory>,
    },
}

impl Store {
    /// In memory only, and nothing else can be read.
    pub const fn heap() -> Self {
        Self::Heap { reads: None }
    }

    /// Bytes of memory that all local stores take together, the shared cache included; the tables of the states not.
    pub fn used_bytes(&self) -> u64 {
        match self {
            Self::Heap { reads } => reads.as_ref().map_or(0, |factory| factory.used_bytes()),
            Self::Local { factory } => factory.used_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_directory_goes_with_its_last_owner() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/b");
        let dir = LocalDir::create(path.clone()).unwrap();
        std::fs::write(path.join("file"), b"x").unwrap();
        let other = dir.clone();
        drop(dir);
        assert!(path.join("file").exists());
        drop(other);
        assert!(!path.exists());
        assert!(above.path().join("a").exists());
    }

    #[test]
    fn key_groups_of_others_lie_before_and_behind_the_own_ones() {
        let range = |(start, end)| KeyGroupRange { start, end };
        let foreign = |own, held| {
            let place = StorePlace {
                uid: OperatorUid::parse("count").unwrap(),
                subtask: SubtaskIndex(0),
                range: range(own),
                held: range(held),
            };
            let sides = place.foreign().map(|side| (side.start, side.end));
            sides.collect::<Vec<_>>()
        };
        assert!(foreign((0, 6), (0, 6)).is_empty(), "an ordinary restore");
        assert_eq!(foreign((0, 6), (0, 12)), [(6, 12)]);
        assert_eq!(foreign((4, 8), (0, 12)), [(0, 4), (8, 12)]);
        assert_eq!(foreign((4, 8), (6, 12)), [(8, 12)], "a part is its own");
        assert_eq!(foreign((4, 8), (0, 5)), [(0, 4)]);
        assert!(foreign((0, 12), (3, 6)).is_empty(), "all is its own");
        assert_eq!(foreign((4, 8), (8, 12)), [(8, 12)], "none of it is");
        assert_eq!(foreign((8, 12), (4, 8)), [(4, 8)], "none of it is");
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_taken() {
        let above = tempfile::tempdir().unwrap();
        let refused = LocalDir::create(above.path().to_owned()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(above.path().exists());
    }
}
