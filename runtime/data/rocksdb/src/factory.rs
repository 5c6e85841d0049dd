//! Opens databases: the empty ones of new subtasks, those that go on from a checkpoint, and those that are only read.
//!
//! One for a worker. Rule: files that were handed in are compared with what was said of them, and whatever RocksDB does
//! not understand of them is `Corrupt`. What another version wrote is whole, and `Invalid`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_state::{
    BackingError, FrozenStore, LocalDir, StateStore, StoreFactory, StoreFiles, StorePlace,
};
use rocksdb::{ColumnFamilyDescriptor, DEFAULT_COLUMN_FAMILY_NAME, Options};

use crate::error::{At, RocksError};
use crate::expiry::{RowExpiry, StoreClock};
use crate::frozen::RocksFrozen;
use crate::shared::{Db, LoggedError, Shared};
use crate::store::{Families, RocksStore, is_known};
use crate::tuning::{Resources, RocksOptions};

/// The store, as settings and checkpoints name it. Never changes.
pub(crate) const NAME: &str = "rocksdb";

/// Makes the stores of a worker on local disk, out of one memory budget.
pub struct RocksFactory {
    opener: Arc<Opener>,
}

impl RocksFactory {
    /// Takes the memory and the threads. Makes no file.
    ///
    /// # Errors
    /// `Bug` when RocksDB refuses to start.
    pub fn new(options: RocksOptions) -> Result<Self, RocksError> {
        let at = At {
            operation: "the start of the store",
            dir: &options.local_dir,
        };
        let resources = Resources::new(&options).map_err(|error| at.status(&error))?;
        Ok(Self {
            opener: Arc::new(Opener {
                options,
                resources,
                made: AtomicU64::new(0),
            }),
        })
    }

    pub(crate) fn create_store(&self, place: &StorePlace) -> Result<RocksStore, RocksError> {
        let label = format!("{}-{}", place.uid, place.subtask);
        Opener::create(&self.opener, self.opener.new_dir(&label))
    }

    pub(crate) fn reopen_store(
        &self,
        place: &StorePlace,
        files: StoreFiles,
    ) -> Result<RocksStore, RocksError> {
        check_files(&files)?;
        Opener::reopen(&self.opener, place, files)
    }
}

impl fmt::Debug for RocksFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksFactory")
            .field("options", &self.opener.options)
            .finish_non_exhaustive()
    }
}

impl StoreFactory for RocksFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn create(&self, place: &StorePlace) -> Result<Box<dyn StateStore>, BackingError> {
        Ok(Box::new(self.create_store(place)?))
    }

    fn reopen(
        &self,
        place: &StorePlace,
        files: StoreFiles,
    ) -> Result<Box<dyn StateStore>, BackingError> {
        Ok(Box::new(self.reopen_store(place, files)?))
    }

    fn read(&self, files: StoreFiles) -> Result<Box<dyn FrozenStore>, BackingError> {
        check_files(&files)?;
        Ok(Box::new(RocksFrozen::open(
            Arc::clone(&self.opener),
            files,
        )?))
    }

    /// Blocks, indexes, filters and write buffers.
    fn used_bytes(&self) -> u64 {
        self.opener.resources.cache.get_usage() as u64
    }
}

/// Compares the files with what is said of them: RocksDB notices a missing or short file late and by number.
fn check_files(files: &StoreFiles) -> Result<(), RocksError> {
    let at = At {
        operation: "the opening of stored files",
        dir: files.dir.path(),
    };
    if files.store != NAME {
        let reason = format!("they are files of `{}`, not of `{NAME}`", files.store);
        return Err(at.damaged(reason));
    }
    for file in &files.files {
        let found = match std::fs::metadata(files.dir.path().join(&file.name)) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(at.damaged(format!("file `{}` is missing", file.name)));
            }
            Err(error) => return Err(at.io(&error)),
        };
        if found != file.length {
            let (name, length) = (&file.name, file.length);
            let reason = format!("file `{name}` has {found} bytes, not {length}");
            return Err(at.damaged(reason));
        }
    }
    Ok(())
}

/// What the factory and all that it made open databases with.
pub(crate) struct Opener {
    options: RocksOptions,
    pub(crate) resources: Resources,
    /// Directories that were named.
    made: AtomicU64,
}

impl Opener {
    /// A directory that does not exist yet, removed with its last owner.
    pub(crate) fn new_dir(&self, label: &str) -> LocalDir {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        LocalDir::own(self.options.local_dir.join(format!("{number}-{label}")))
    }

    fn create(opener: &Arc<Self>, dir: LocalDir) -> Result<RocksStore, RocksError> {
        let at = At {
            operation: "the making of a store",
            dir: dir.path(),
        };
        let errors = LoggedError::default();
        let mut options = opener.database(at, &errors)?;
        options.create_if_missing(true);
        options.set_error_if_exists(true);
        std::fs::create_dir(dir.path()).map_err(|error| at.io(&error))?;
        let db = Db::open(&options, dir.path()).map_err(|error| at.status(&error))?;
        let shared = Shared::new(db, dir, errors, BTreeSet::new());
        let states = (StoreClock::new(), Families::new());
        Ok(RocksStore::new(shared, Arc::clone(opener), states))
    }

    fn reopen(
        opener: &Arc<Self>,
        place: &StorePlace,
        files: StoreFiles,
    ) -> Result<RocksStore, RocksError> {
        let dir = files.dir;
        let at = At {
            operation: "the reopening of a store",
            dir: dir.path(),
        };
        let errors = LoggedError::default();
        let options = opener.database(at, &errors)?;
        let (clock, mut families) = (StoreClock::new(), Families::new());
        let has_foreign = place.foreign().next().is_some();
        let mut descriptors = Vec::new();
        for name in list_families(at, &options)? {
            let expiry = RowExpiry::new(&clock);
            let mut family = opener.family(at, expiry.clone())?;
            // A file that is being merged does not go: nothing is merged before the rows of others are gone.
            family.set_disable_auto_compactions(has_foreign);
            descriptors.push(ColumnFamilyDescriptor::new(name.as_str(), family));
            if name != DEFAULT_COLUMN_FAMILY_NAME {
                families.insert(name, expiry);
            }
        }
        let db = Db::open_cf_descriptors(&options, dir.path(), descriptors)
            .map_err(|error| at.status_of_files(&error))?;
        let tables = files.files.into_iter().filter(|file| file.is_immutable);
        let restored = tables.map(|file| file.name).collect();
        let shared = Shared::new(db, dir, errors, restored);
        let mut store = RocksStore::new(shared, Arc::clone(opener), (clock, families));
        if has_foreign {
            store.drop_foreign(place)?;
        }
        store.split_what_outgrew()?;
        Ok(store)
    }

    /// Opens a directory without changing anything in it.
    pub(crate) fn open_to_read(&self, dir: &Path) -> Result<Db, RocksError> {
        let at = At {
            operation: "the opening of frozen files",
            dir,
        };
        let options = self.database(at, &LoggedError::default())?;
        let clock = StoreClock::new();
        let families = list_families(at, &options)?;
        let opened = families.iter().map(|name| {
            let options = self.family(at, RowExpiry::new(&clock))?;
            Ok(ColumnFamilyDescriptor::new(name, options))
        });
        let opened = opened.collect::<Result<Vec<_>, RocksError>>()?;
        Db::open_cf_descriptors_read_only(&options, dir, opened, false)
            .map_err(|error| at.status_of_files(&error))
    }

    fn database(&self, at: At<'_>, errors: &LoggedError) -> Result<Options, RocksError> {
        let options = self.resources.database(errors);
        options.map_err(|error| at.unexpected(error))
    }

    /// Options of a column family that is there already.
    fn family(&self, at: At<'_>, expiry: RowExpiry) -> Result<Options, RocksError> {
        let options = self.resources.column_family(expiry, false);
        options.map_err(|error| at.unexpected(error))
    }
}

/// The column families of a directory.
///
/// # Errors
/// `Invalid` when one holds rows in a form that this version does not read: they would pass for another state.
fn list_families(at: At<'_>, options: &Options) -> Result<Vec<String>, RocksError> {
    let found = Db::list_cf(options, at.dir).map_err(|error| at.status_of_files(&error))?;
    match found.iter().find(|name| !is_known(name)) {
        Some(name) => Err(at.form(name)),
        None => Ok(found),
    }
}
