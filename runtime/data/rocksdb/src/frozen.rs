//! A store as of one moment: a directory of files that never change.
//!
//! Made by a freeze (hard links beside the database) or of the files of a checkpoint. The files go to an incremental
//! checkpoint, the rows are read for a canonical one, both on another thread than the store's.

use std::path::Path;
use std::sync::Arc;

use highwater_state::{
    BackingError, Freezing, FrozenStore, LocalDir, StoreFile, StoreFiles, VisitRow,
};
use highwater_types::KeyGroupRange;
use rocksdb::ReadOptions;
use rocksdb::checkpoint::Checkpoint;

use crate::error::{At, RocksError};
use crate::factory::{NAME, Opener};
use crate::key;
use crate::rows::each_row;
use crate::shared::{Db, Shared};
use crate::store::family_of;

/// Bytes that a visit reads at a time.
const VISIT_READAHEAD: usize = 2 << 20;

/// Tables: written once, under a name that no other file of the store ever has.
const TABLE: &str = ".sst";

/// The write-ahead log, to which nothing is written.
const LOG: &str = ".log";

/// What a checkpoint of RocksDB writes and nobody reads back: the options as text, 6 KiB for each state.
const OPTIONS_PREFIX: &str = "OPTIONS-";

/// A store that is being frozen.
pub(crate) struct RocksFreezing {
    pub(crate) shared: Arc<Shared>,
    pub(crate) opener: Arc<Opener>,
    /// Column families that are told to keep indexes and filters in parts: it writes a file, and this is not the slot thread.
    pub(crate) into_parts: Vec<String>,
}

impl RocksFreezing {
    fn link(&self) -> Result<StoreFiles, RocksError> {
        const OPERATION: &str = "a freeze";
        // RocksDB makes the directory beside its final name and renames it: both go if that fails.
        let dir = self.opener.new_dir("frozen");
        let _half = LocalDir::own(with_suffix(dir.path(), ".tmp"));
        self.shared.write(OPERATION, |db| {
            Checkpoint::new(db)?.create_checkpoint(dir.path())
        })?;
        let at = At {
            operation: OPERATION,
            dir: dir.path(),
        };
        let files = list(dir.path()).map_err(|error| self.shared.fail(at.io(&error)))?;
        let files = files.into_iter().map(|file| StoreFile {
            is_restored: self.shared.is_restored(&file.name),
            ..file
        });
        Ok(StoreFiles {
            store: NAME.to_owned(),
            dir,
            files: files.collect(),
        })
    }
}

impl Freezing for RocksFreezing {
    fn freeze(self: Box<Self>) -> Result<Box<dyn FrozenStore>, BackingError> {
        self.shared.split_indexes(&self.into_parts)?;
        let files = self.link()?;
        Ok(Box::new(RocksFrozen {
            db: None,
            files,
            opener: Arc::clone(&self.opener),
        }))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The files of a checkpoint in order of names, without those that nobody reads.
fn list(dir: &Path) -> std::io::Result<Vec<StoreFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let length = entry.metadata()?.len();
        let is_empty_log = name.ends_with(LOG) && length == 0;
        if is_empty_log || name.starts_with(OPTIONS_PREFIX) {
            std::fs::remove_file(entry.path())?;
            continue;
        }
        files.push(StoreFile {
            is_immutable: name.ends_with(TABLE),
            is_restored: false,
            length,
            name,
        });
    }
    files.sort();
    Ok(files)
}

/// A store as of one moment.
pub(crate) struct RocksFrozen {
    /// Opened when the first row is asked for; closed before its directory goes.
    db: Option<Db>,
    files: StoreFiles,
    opener: Arc<Opener>,
}

impl RocksFrozen {
    /// Opens files that were handed in.
    pub(crate) fn open(opener: Arc<Opener>, files: StoreFiles) -> Result<Self, RocksError> {
        let db = opener.open_to_read(files.dir.path())?;
        Ok(Self {
            db: Some(db),
            files,
            opener,
        })
    }

    fn visit_rows(
        &mut self,
        state: &str,
        groups: KeyGroupRange,
        visit: VisitRow<'_>,
    ) -> Result<(), RocksError> {
        let db = match self.db.take() {
            Some(db) => db,
            None => self.opener.open_to_read(self.files.dir.path())?,
        };
        let db = self.db.insert(db);
        let at = At {
            operation: "a read of frozen rows",
            dir: self.files.dir.path(),
        };
        let Some(family) = family_of(db, state) else {
            return Err(at.damaged(format!("there is no state `{state}` in it")));
        };
        let (from, until) = key::bounds(groups);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(until);
        options.set_readahead_size(VISIT_READAHEAD);
        // What is read once must not push out what the tables come back for.
        options.fill_cache(false);
        let mut rows = db.raw_iterator_cf_opt(&family, options);
        rows.seek(from);
        each_row(&mut rows, usize::MAX, visit).map_err(|error| error.at(at))
    }
}

impl FrozenStore for RocksFrozen {
    fn visit(
        &mut self,
        state: &str,
        groups: KeyGroupRange,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError> {
        Ok(self.visit_rows(state, groups, visit)?)
    }

    fn files(&self) -> Result<StoreFiles, BackingError> {
        Ok(self.files.clone())
    }
}
