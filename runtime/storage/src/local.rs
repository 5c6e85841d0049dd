//! A store in a local directory, safe between threads and processes that share it.
//!
//! A write goes to a staging file, is synced, and is renamed into place under an exclusive lock, so a crash at any point
//! leaves the old object or the whole new one. The lock is `flock` on one file: the kernel releases it when its holder
//! dies. The version of an object is its length and checksum. Everything of the driver lives in `.highwater` below the
//! directory, a name that no object path can have.
//!
//! All file work runs on the blocking pool. Not for network file systems without working `flock`; the start-up probe
//! cannot see two machines.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use crate::digest::FileDigest;
use crate::error::StorageError;
use crate::path::ObjectPath;
use crate::storage::{Object, ObjectEntry, ObjectStorage, PutOutcome, Version};

const OWN_FOLDER: &str = ".highwater";

/// An object of so many bytes leaves the page cache once it is on disk: checkpoints are read after a failure, and until then
/// would push out what the local state is read from.
const LARGE: usize = 1 << 20;

/// Objects as files below a directory.
#[derive(Clone, Debug)]
pub struct LocalStorage {
    inner: Arc<Directory>,
}

#[derive(Debug)]
struct Directory {
    root: PathBuf,
    location: String,
    staged: AtomicU64,
}

/// What must hold for a staged file to take its place.
enum Condition {
    None,
    Absent,
    Is(Version),
}

/// Holds a lock file; dropping it releases the lock.
struct LockGuard(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl LocalStorage {
    /// Opens `root`, making the directory when it is missing, and removes staging files of writers that died.
    ///
    /// Blocks on file work; call it while starting.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        let directory = Directory {
            location: root.display().to_string(),
            root: root.to_owned(),
            staged: AtomicU64::new(0),
        };
        directory.prepare()?;
        Ok(Self {
            inner: Arc::new(directory),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Directory) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let directory = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&directory)).await;
        done.unwrap_or_else(|broken| {
            Err(StorageError::Unavailable {
                operation,
                object: self.inner.location.clone(),
                reason: format!("the file task did not finish: {broken}"),
            })
        })
    }

    async fn put_conditionally(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<PutOutcome, StorageError> {
        let path = path.clone();
        self.run("conditional write", move |directory| {
            let staged = directory.stage(&path, &bytes)?;
            directory.place(staged, &path, &condition)
        })
        .await
    }
}

impl Directory {
    fn file(&self, path: &ObjectPath) -> PathBuf {
        self.root.join(path.as_str())
    }

    fn staging(&self) -> PathBuf {
        self.root.join(OWN_FOLDER).join("staging")
    }

    fn failed(
        &self,
        operation: &'static str,
        path: &ObjectPath,
        source: io::Error,
    ) -> StorageError {
        StorageError::Io {
            operation,
            object: self.file(path).display().to_string(),
            source,
        }
    }

    fn prepare(&self) -> Result<(), StorageError> {
        let failed = |operation, source| StorageError::Io {
            operation,
            object: self.location.clone(),
            source,
        };
        fs::create_dir_all(self.staging()).map_err(|error| failed("create", error))?;
        // Staging files of living writers are protected by their shared lock; without one, all of them are leftovers.
        let lock = self
            .lock_file("staging.lock")
            .map_err(|error| failed("open", error))?;
        if lock.try_lock().is_ok() {
            let sweep = || -> io::Result<()> {
                for entry in fs::read_dir(self.staging())? {
                    fs::remove_file(entry?.path())?;
                }
                Ok(())
            };
            sweep().map_err(|error| failed("sweep of staging files", error))?;
        }
        Ok(())
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        let path = self.root.join(OWN_FOLDER).join(name);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(path)
    }

    fn lock(&self) -> io::Result<LockGuard> {
        let file = self.lock_file("write.lock")?;
        file.lock()?;
        Ok(LockGuard(file))
    }

    /// Writes the bytes to a file of their own and syncs it. Nothing is visible yet.
    fn stage(&self, path: &ObjectPath, bytes: &[u8]) -> Result<Staged, StorageError> {
        let failed = |error| self.failed("staging", path, error);
        let shared = self.lock_file("staging.lock").map_err(failed)?;
        shared.lock_shared().map_err(failed)?;
        let (mut file, name) = loop {
            let number = self.staged.fetch_add(1, Ordering::Relaxed);
            let name = self
                .staging()
                .join(format!("{}-{number}", std::process::id()));
            // Processes of different containers may share an id: the exclusive create decides, not the name.
            match File::create_new(&name) {
                Ok(file) => break (file, name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        };
        let staged = Staged {
            name,
            version: version_of(bytes),
            moved: false,
            _shared: LockGuard(shared),
        };
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        if bytes.len() >= LARGE {
            // Advice only: where it is refused, the pages stay until others need the room.
            let _is_taken = fadvise(&file, 0, None, Advice::DontNeed);
        }
        Ok(staged)
    }

    /// Renames a staged file into place when the condition holds.
    fn place(
        &self,
        mut staged: Staged,
        path: &ObjectPath,
        condition: &Condition,
    ) -> Result<PutOutcome, StorageError> {
        let failed = |error| self.failed("write", path, error);
        let file = self.file(path);
        let version = staged.version.clone();
        let _lock = self.lock().map_err(failed)?;
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => !file.try_exists().map_err(failed)?,
            Condition::Is(wanted) => match fs::read(&file) {
                Ok(bytes) => version_of(&bytes) == *wanted,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(failed(error)),
            },
        };
        if !holds {
            return Ok(PutOutcome::Conflict);
        }
        let folder = file.parent().unwrap_or(&self.root);
        self.create_folder(folder).map_err(failed)?;
        // From here on a failure does not tell whether the new name is, or will be, on disk.
        let placed = fs::rename(&staged.name, &file).and_then(|()| {
            staged.moved = true;
            sync_folder(folder)
        });
        Ok(match placed {
            Ok(()) => PutOutcome::Written(version),
            Err(error) => PutOutcome::Unknown(failed(error)),
        })
    }

    /// Makes a folder and its missing parents, each synced into its own parent.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        if folder != self.root {
            self.create_folder(parent)?;
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => sync_folder(parent),
        }
    }

    fn remove(&self, path: &ObjectPath) -> io::Result<()> {
        let _lock = self.lock()?;
        let file = self.file(path);
        match fs::remove_file(&file) {
            Err(error) if !absent(&error) => return Err(error),
            Err(_) => return Ok(()),
            Ok(()) => {}
        }
        let mut folder = file.parent();
        while let Some(empty) = folder.filter(|folder| *folder != self.root) {
            // A folder that still holds something stays, and with it all its parents.
            if fs::remove_dir(empty).is_err() {
                break;
            }
            folder = empty.parent();
        }
        folder.map_or(Ok(()), sync_folder)
    }

    fn walk(&self, folder: &Path, found: &mut Vec<ObjectEntry>) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if absent(&error) => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let file = entry.path();
            let inside = file.strip_prefix(&self.root).ok().and_then(Path::to_str);
            // Names that no object can have are not ours: the driver's own folder, and files of other programs.
            let Some(path) = inside.and_then(|text| ObjectPath::parse(text).ok()) else {
                continue;
            };
            match entry.metadata() {
                Ok(facts) if facts.is_dir() => self.walk(&file, found)?,
                Ok(facts) => found.push(ObjectEntry {
                    path,
                    length: facts.len(),
                }),
                // Deleted while the listing ran.
                Err(error) if absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        let failed = |error| self.failed("read", path, error);
        let file = match File::open(self.file(path)) {
            Err(error) if absent(&error) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let length = file.metadata().map_err(failed)?.len();
        if range.start > range.end || range.end > length {
            return Err(StorageError::Range {
                object: self.file(path).display().to_string(),
                length,
                start: range.start,
                end: range.end,
            });
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)
            .map_err(failed)?;
        Ok(Some(Bytes::from(bytes)))
    }
}

/// A file with the new content that is not in place yet; removed when dropped before that.
struct Staged {
    name: PathBuf,
    version: Version,
    moved: bool,
    _shared: LockGuard,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.moved {
            // A file that stays is swept by the next process that opens the directory.
            drop(fs::remove_file(&self.name));
        }
    }
}

fn absent(error: &io::Error) -> bool {
    // An object below a path that is itself an object does not exist either.
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn version_of(bytes: &[u8]) -> Version {
    let digest = FileDigest::of(bytes);
    Version::new(format!("{:x}-{:016x}", digest.length, digest.checksum))
}

#[async_trait]
impl ObjectStorage for LocalStorage {
    fn location(&self) -> &str {
        &self.inner.location
    }

    async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        self.put_conditionally(path, bytes, Condition::Absent).await
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        version: &Version,
    ) -> Result<PutOutcome, StorageError> {
        self.put_conditionally(path, bytes, Condition::Is(version.clone()))
            .await
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StorageError> {
        match self.put_conditionally(path, bytes, Condition::None).await? {
            PutOutcome::Written(_) | PutOutcome::Conflict => Ok(()),
            PutOutcome::Unknown(error) => Err(error),
        }
    }

    async fn get(&self, path: &ObjectPath) -> Result<Option<Object>, StorageError> {
        let path = path.clone();
        self.run("read", move |directory| {
            match fs::read(directory.file(&path)) {
                Ok(bytes) => Ok(Some(Object {
                    version: version_of(&bytes),
                    bytes: Bytes::from(bytes),
                })),
                Err(error) if absent(&error) => Ok(None),
                Err(error) => Err(directory.failed("read", &path, error)),
            }
        })
        .await
    }

    async fn get_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        let path = path.clone();
        self.run("read", move |directory| directory.read_range(&path, range))
            .await
    }

    async fn stat(&self, path: &ObjectPath) -> Result<Option<ObjectEntry>, StorageError> {
        let path = path.clone();
        self.run("stat", move |directory| {
            match fs::metadata(directory.file(&path)) {
                Ok(facts) if facts.is_file() => Ok(Some(ObjectEntry {
                    path,
                    length: facts.len(),
                })),
                Ok(_) => Ok(None),
                Err(error) if absent(&error) => Ok(None),
                Err(error) => Err(directory.failed("stat", &path, error)),
            }
        })
        .await
    }

    async fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<ObjectEntry>, StorageError> {
        let folder = folder.cloned();
        self.run("list", move |directory| {
            let start = folder
                .as_ref()
                .map_or_else(|| directory.root.clone(), |at| directory.file(at));
            let mut found = Vec::new();
            directory
                .walk(&start, &mut found)
                .map_err(|source| StorageError::Io {
                    operation: "list",
                    object: start.display().to_string(),
                    source,
                })?;
            found.sort_unstable();
            Ok(found)
        })
        .await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        let path = path.clone();
        self.run("delete", move |directory| {
            directory
                .remove(&path)
                .map_err(|error| directory.failed("delete", &path, error))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::parse(text).unwrap()
    }

    #[tokio::test]
    async fn leftovers_of_a_dead_writer_are_swept_and_never_listed() {
        let root = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(root.path()).unwrap();
        let staging = root.path().join(OWN_FOLDER).join("staging");
        fs::write(staging.join("4711-0"), b"half").unwrap();
        assert_eq!(storage.list(None).await.unwrap(), []);
        LocalStorage::open(root.path()).unwrap();
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    }

    #[test]
    fn staging_files_of_a_living_writer_survive_a_second_open() {
        let root = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(root.path()).unwrap();
        let staged = storage.inner.stage(&path("a"), b"bytes").unwrap();
        LocalStorage::open(root.path()).unwrap();
        let placed = storage.inner.place(staged, &path("a"), &Condition::Absent);
        assert!(matches!(placed, Ok(PutOutcome::Written(_))));
        assert_eq!(fs::read(root.path().join("a")).unwrap(), b"bytes");
    }

    #[tokio::test]
    async fn a_lost_conditional_write_leaves_no_staging_file() {
        let root = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(root.path()).unwrap();
        storage
            .put(&path("a/b"), Bytes::from_static(b"1"))
            .await
            .unwrap();
        let lost = storage
            .put_new(&path("a/b"), Bytes::from_static(b"2"))
            .await;
        assert!(matches!(lost, Ok(PutOutcome::Conflict)));
        let staging = root.path().join(OWN_FOLDER).join("staging");
        assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn deleting_the_last_object_removes_its_folders() {
        let root = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(root.path()).unwrap();
        storage
            .put(&path("a/b/c"), Bytes::from_static(b"1"))
            .await
            .unwrap();
        storage
            .put(&path("a/d"), Bytes::from_static(b"1"))
            .await
            .unwrap();
        storage.delete(&path("a/b/c")).await.unwrap();
        assert!(!root.path().join("a/b").exists());
        assert!(root.path().join("a/d").exists());
    }
}
