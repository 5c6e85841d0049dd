//! Directories on local disk: what a worker process keeps there, and what dead processes left.
//!
//! Opened once by whoever starts the worker; used by the store of a slot and by the restore. The rule: local disk is a cache.
//! `<root>/<job>/<nonce>/` belongs to one process, which holds a lock on `<root>/<job>/<nonce>.lock` for as long as it lives.
//! What a dead process left is offered for reuse to the one process that holds its lock now, and removed once an
//! attempt runs; what cannot be removed is told and costs room only.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_protocol::hash::ContentHash;
use highwater_state::{LocalDir, StoreFiles};
use highwater_types::{Classified, ErrorKind, JobIdentity, Nonce};

/// How deep below the directory of a dead process files are looked for.
const DEPTH_MAX: u32 = 6;

/// Local disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {operation} {}; `state.local-dir` needs a directory that this process may write, with room for the state of its \
     slots", path.display()
)]
pub struct LocalDirError {
    /// What was attempted.
    pub operation: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl LocalDirError {
    /// Names what was attempted.
    pub fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self {
            operation,
            path,
            source,
        }
    }
}

impl Classified for LocalDirError {
    fn kind(&self) -> ErrorKind {
        use io::ErrorKind as Io;
        match self.source.kind() {
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Exhausted,
            Io::PermissionDenied | Io::ReadOnlyFilesystem | Io::NotADirectory => ErrorKind::Invalid,
            _ => ErrorKind::Transient,
        }
    }
}

/// The local directory of this process, and those of dead ones. Clones are the same.
#[derive(Clone, Debug)]
pub struct LocalDirs(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    path: PathBuf,
    next: AtomicU64,
    stale: Mutex<Vec<Stale>>,
    lock: Lock,
}

/// The directory of a dead process. Nobody else touches it as long as the lock is held.
#[derive(Debug)]
struct Stale {
    path: PathBuf,
    lock: Lock,
}

/// A lock file that is held. Its end gives the lock up, also when the process is killed.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes a lock; `None` = a living process holds it, or took it away meanwhile.
    fn take(path: PathBuf) -> Result<Option<Self>, LocalDirError> {
        let failed = LocalDirError::at("lock", &path);
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(source) => return Err(failed(source)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Whoever removed a dead process's lock file held another lock than the one that is there now.
        let is_there = is_same_file(&file, &path);
        Ok(is_there.then_some(Self { path, _file: file }))
    }

    fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let here = file.metadata().map(|here| (here.dev(), here.ino()));
    let there = std::fs::metadata(path).map(|there| (there.dev(), there.ino()));
    matches!((here, there), (Ok(here), Ok(there)) if here == there)
}

impl Drop for Owned {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.path).and_then(|()| self.lock.remove());
        if let Err(error) = removed {
            let path = self.path.display();
            tracing::warn!(%path, %error, "a local directory is left for the next start to remove");
        }
    }
}

impl LocalDirs {
    /// Makes the directory of this process below `root`, and takes over what dead processes of the job left there.
    ///
    /// # Errors
    /// When it cannot be made; `Invalid` when `root` may not be written, `Exhausted` when it is full.
    pub fn open(root: &Path, job: &JobIdentity, nonce: Nonce) -> Result<Self, LocalDirError> {
        let above = root.join(job.as_str());
        std::fs::create_dir_all(&above).map_err(LocalDirError::at("make", &above))?;
        let path = above.join(nonce.to_string());
        let lock = Lock::take(lock_of(&path))?;
        let lock = lock.ok_or_else(|| {
            LocalDirError::at("lock", &path)(io::Error::from(io::ErrorKind::AlreadyExists))
        })?;
        std::fs::create_dir(&path).map_err(LocalDirError::at("make", &path))?;
        let own = Owned {
            path,
            next: AtomicU64::new(0),
            stale: Mutex::default(),
            lock,
        };
        let stale = stale_in(&above, &own.path)?;
        *own.stale.lock().unwrap_or_else(PoisonError::into_inner) = stale;
        Ok(Self(Arc::new(own)))
    }

    /// The directory of this process. It is removed when the last clone is gone.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes a directory inside that of this process, under a name that was not used before.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn fresh(&self, label: &str) -> Result<LocalDir, LocalDirError> {
        let at = self.0.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path().join(format!("{label}.{at}"));
        LocalDir::create(path.clone()).map_err(LocalDirError::at("make", &path))
    }

    /// Adds the files that dead processes left to what a restore looks through.
    pub fn offer(&self, index: &mut LocalIndex) {
        let stale = self.0.stale.lock().unwrap_or_else(PoisonError::into_inner);
        for left in stale.iter() {
            index.add_folder(&left.path, DEPTH_MAX);
        }
    }

    /// Removes what dead processes left. What cannot be removed is told, and found again at the next start.
    pub fn remove_leftovers(&self) {
        let stale =
            std::mem::take(&mut *self.0.stale.lock().unwrap_or_else(PoisonError::into_inner));
        for left in stale {
            let removed = std::fs::remove_dir_all(&left.path).and_then(|()| left.lock.remove());
            let path = left.path.display();
            match removed {
                Ok(()) => tracing::info!(%path, "removed the local directory of a dead process"),
                Err(error) => tracing::warn!(
                    %path, %error, "the local directory of a dead process takes room and cannot be removed"
                ),
            }
        }
    }
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

fn stale_in(above: &Path, own: &Path) -> Result<Vec<Stale>, LocalDirError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(above).map_err(LocalDirError::at("list", above))? {
        let entry = entry.map_err(LocalDirError::at("list", above))?;
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap_or_default();
        // Other things that lie here are not of this system.
        let is_of_process = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_of_process || path == own || !path.is_dir() {
            continue;
        }
        match Lock::take(lock_of(&path)) {
            Ok(Some(lock)) => found.push(Stale { path, lock }),
            Ok(None) => {}
            // Of another user, perhaps: it costs room, and nothing else.
            Err(error) => {
                let error = crate::slot::error_chain(&error);
                tracing::warn!(path = %path.display(), error, "a local directory of another process is left alone");
            }
        }
    }
    Ok(found)
}

/// Files on local disk by name and length: candidates, nothing more. Whoever uses one compares its bytes first.
#[derive(Clone, Debug, Default)]
pub struct LocalIndex(BTreeMap<(String, u64), Vec<PathBuf>>);

impl LocalIndex {
    /// Adds the files of a frozen store.
    pub fn add(&mut self, files: &StoreFiles) {
        for file in &files.files {
            let path = files.dir.path().join(&file.name);
            let key = (file.name.clone(), file.length);
            self.0.entry(key).or_default().push(path);
        }
    }

    fn add_folder(&mut self, folder: &Path, depth: u32) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            tracing::warn!(folder = %folder.display(), "what lies here cannot be listed and is not reused");
            return;
        };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string());
            match (entry.metadata(), name) {
                (Ok(of), _) if of.is_dir() && depth > 0 => self.add_folder(&path, depth - 1),
                (Ok(of), Ok(name)) if of.is_file() => {
                    self.0.entry((name, of.len())).or_default().push(path);
                }
                _ => {}
            }
        }
    }

    /// Puts a file with this length and checksum at `to`, if there is one: linked if it never changes, else copied. A
    /// file that does not match is no damage: it is left alone.
    pub fn take(
        &self,
        (name, length, checksum): (&str, u64, ContentHash),
        is_immutable: bool,
        to: &Path,
    ) -> bool {
        let candidates = self.0.get(&(name.to_owned(), length));
        candidates.into_iter().flatten().any(|from| {
            let placed = place(from, to, is_immutable);
            let found = placed.and_then(|()| checksum_of(to));
            if found.is_ok_and(|found| found == (length, checksum)) {
                return true;
            }
            if let Err(error) = std::fs::remove_file(to)
                && error.kind() != io::ErrorKind::NotFound
            {
                let path = to.display();
                tracing::warn!(%path, %error, "a copy that does not match cannot be removed");
            }
            false
        })
    }
}

/// Puts the file `from` at `to`: by hard link if it never changes and both are on one disk, else as a copy.
///
/// # Errors
/// As the operating system refuses.
pub fn place(from: &Path, to: &Path, is_immutable: bool) -> io::Result<()> {
    if is_immutable && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map(|_| ())
}

/// Length and checksum of a file, read in pieces.
///
/// # Errors
/// As the operating system refuses.
pub fn checksum_of(path: &Path) -> io::Result<(u64, ContentHash)> {
    let mut hasher = highwater_protocol::hash::ContentHasher::default();
    let length = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok((length, hasher.finish()))
}

#[cfg(test)]
#[path = "local_dirs/tests.rs"]
mod tests;
