//! The cache of fetched programs: one folder per program and version, filled once under a lock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::TestbedError;
use crate::process::log_tail;

/// A folder that keeps what was fetched.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache in `root`.
    pub const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cache of this user: `~/.cache/highwater/testbed`.
    ///
    /// # Errors
    /// When the user has no home folder.
    pub fn of_user() -> Result<Self, TestbedError> {
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let home = home.ok_or_else(|| {
            TestbedError::State(
                "this user has no home folder; set HOME to an absolute path".to_owned(),
            )
        })?;
        Ok(Self::at(home.join(".cache/highwater/testbed")))
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder `name`, after `fill` filled a staging folder for it; filled before = nothing is done.
    ///
    /// Safe between processes: the first one fetches, the others wait. A fetch that broke off leaves no folder.
    ///
    /// # Errors
    /// Those of `fill`, or when the cache cannot be written.
    pub fn folder(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), TestbedError>,
    ) -> Result<PathBuf, TestbedError> {
        let folder = self.root.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        fs::create_dir_all(&self.root).map_err(TestbedError::io("create", &self.root))?;
        let lock_path = self.root.join(format!("{name}.lock"));
        let lock = File::create(&lock_path).map_err(TestbedError::io("create", &lock_path))?;
        lock.lock().map_err(TestbedError::io("lock", &lock_path))?;
        if folder.is_dir() {
            return Ok(folder);
        }
        let staging = self.root.join(format!("{name}.staging"));
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(TestbedError::io("remove", &staging))?;
        }
        fs::create_dir_all(&staging).map_err(TestbedError::io("create", &staging))?;
        fill(&staging)?;
        fs::rename(&staging, &folder).map_err(TestbedError::io("rename", &staging))?;
        Ok(folder)
    }
}

/// Runs a program to its end, with its output in `log`.
///
/// # Errors
/// `Step` with the end of the log when the program fails.
pub fn run_logged(step: &str, command: &mut Command, log: &Path) -> Result<(), TestbedError> {
    let file = File::create(log).map_err(TestbedError::io("create", log))?;
    let twin = file.try_clone().map_err(TestbedError::io("open", log))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(twin)
        .status();
    let program = PathBuf::from(command.get_program());
    if status.map_err(TestbedError::io("run", &program))?.success() {
        return Ok(());
    }
    Err(TestbedError::Step {
        step: step.to_owned(),
        log: log_tail(log),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_filled_once_and_a_broken_fill_leaves_none() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path().join("cache"));
        let broken = cache.folder("tool-1", |staging| {
            fs::write(staging.join("half"), b"x").unwrap();
            Err(TestbedError::State("no network".to_owned()))
        });
        assert!(broken.is_err());
        assert!(!cache.root().join("tool-1").exists());
        let filled = cache.folder("tool-1", |staging| {
            assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
            fs::write(staging.join("whole"), b"x").unwrap();
            Ok(())
        });
        assert!(filled.unwrap().join("whole").exists());
        let again = cache.folder("tool-1", |_| panic!("it is filled already"));
        assert!(again.is_ok());
    }

    #[test]
    fn a_program_that_fails_shows_the_end_of_its_log() {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        let error = run_logged("the step", &mut command, &root.path().join("log")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the step failed; the end of its log:\nthe reason"
        );
    }
}
