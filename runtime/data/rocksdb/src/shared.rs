//! One database with what all who use it must know: where it lies, and whether it has failed.
//!
//! Shared by a store, the rows of its states and its freezes: the slot thread, and the thread of a freeze, which may be one that
//! was given up. Rule: the first error, in the foreground or in the background, is kept, and every later call is refused with it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use highwater_state::LocalDir;
use highwater_types::{Classified, ErrorKind};
use rocksdb::{BoundColumnFamily, DBWithThreadMode, MultiThreaded, WaitForCompactOptions};

use crate::error::{At, RocksError};
use crate::tuning::{FILES_AT_TOP, IN_PARTS};

pub(crate) type Db = DBWithThreadMode<MultiThreaded>;

/// The first error that RocksDB logged: the only place where an error in the background has a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoggedError(Arc<OnceLock<String>>);

impl LoggedError {
    /// Takes a line of the log of level warning or above.
    pub(crate) fn hear(&self, message: &str) {
        if STATUSES.iter().any(|status| message.contains(status)) {
            self.0.get_or_init(|| message.trim().to_owned());
        }
    }
}

/// How the text of an error begins that a flush or a compaction may meet.
const STATUSES: [&str; 2] = ["IO error", "Corruption"];

#[derive(Debug)]
struct Failure {
    message: String,
    kind: ErrorKind,
}

/// An open database. Closed before its directory goes.
pub(crate) struct Shared {
    db: Db,
    dir: LocalDir,
    errors: LoggedError,
    failed: OnceLock<Failure>,
    /// Whether new files have their indexes and filters in parts. Never turns back.
    in_parts: AtomicBool,
    /// Times that a writer waited for flushes and compactions.
    waits: AtomicU64,
    /// The tables that the database was opened with.
    restored: BTreeSet<String>,
}

/// How many errors met flushes and compactions since the database was opened.
const BACKGROUND_ERRORS: &str = "rocksdb.background-errors";

/// How many files lie at the top level, as text.
const COUNT_AT_TOP: &str = "rocksdb.num-files-at-level0";

/// From this many files on a writer waits: four times what a merge takes.
const FILES_AT_TOP_MAX: u32 = 4 * FILES_AT_TOP;

/// How long a writer waits before it looks again whether something failed.
const WAIT_MICROS: u64 = 10_000;

impl Shared {
    /// A database that was opened with the tables of these names.
    pub(crate) fn new(
        db: Db,
        dir: LocalDir,
        errors: LoggedError,
        restored: BTreeSet<String>,
    ) -> Self {
        Self {
            restored,
            db,
            dir,
            errors,
            failed: OnceLock::new(),
            in_parts: AtomicBool::new(false),
            waits: AtomicU64::new(0),
        }
    }

    /// Whether a file of this name was there when the database was opened. No other file ever has its name.
    pub(crate) fn is_restored(&self, name: &str) -> bool {
        self.restored.contains(name)
    }

    /// Times that a writer waited, up to [`WAIT_MICROS`] each.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether new files have their indexes and filters in parts, or will have them in a moment.
    pub(crate) fn is_in_parts(&self) -> bool {
        self.in_parts.load(Ordering::Relaxed)
    }

    /// Says that the options of all column families are about to change to [`IN_PARTS`].
    pub(crate) fn set_in_parts(&self) {
        self.in_parts.store(true, Ordering::Relaxed);
    }

    /// Tells column families to keep indexes and filters in parts.
    pub(crate) fn split_indexes(&self, families: &[String]) -> Result<(), RocksError> {
        self.set_options("the splitting of indexes", families, &IN_PARTS)
    }

    /// Changes options of column families that are open. Writes a file for each.
    pub(crate) fn set_options(
        &self,
        operation: &'static str,
        families: &[String],
        options: &[(&str, &str)],
    ) -> Result<(), RocksError> {
        for name in families {
            self.write(operation, |db| {
                let family = db.cf_handle(name);
                family.map_or(Ok(()), |family| db.set_options_cf(&family, options))
            })?;
        }
        Ok(())
    }

    /// The database: whoever calls it checks first, and reports what fails.
    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    /// Does something that writes. An error in the background, before or meanwhile, is its error.
    ///
    /// RocksDB may answer that the write would have to wait, when `run` says so to its options: then the wait is here. A
    /// writer that waits inside of RocksDB holds up what RocksDB does to recover from a full disk, which it waits for.
    pub(crate) fn write<R>(
        &self,
        operation: &'static str,
        mut run: impl FnMut(&Db) -> Result<R, rocksdb::Error>,
    ) -> Result<R, RocksError> {
        self.check(operation)?;
        loop {
            self.check_background(operation)?;
            match run(&self.db) {
                Ok(result) => {
                    self.check_background(operation)?;
                    return Ok(result);
                }
                Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => {
                    self.await_background(operation)?;
                }
                Err(error) => return Err(self.fail(self.at(operation).status(&error))),
            }
        }
    }

    /// Waits until the state of `family` has few enough files that every reader must ask: what holds back a writer that
    /// outruns compaction.
    pub(crate) fn await_compaction(
        &self,
        operation: &'static str,
        family: &Arc<BoundColumnFamily<'_>>,
    ) -> Result<(), RocksError> {
        let at = self.at(operation);
        loop {
            let value = self.db.property_value_cf(family, COUNT_AT_TOP);
            let value = value.map_err(|error| self.fail(at.status(&error)))?;
            let files = value.and_then(|files| files.parse::<u32>().ok());
            match files {
                None => return Err(self.fail(at.unexpected("RocksDB does not count its files"))),
                Some(files) if files < FILES_AT_TOP_MAX => return Ok(()),
                Some(_) => self.await_background(operation)?,
            }
        }
    }

    /// Waits a little for flushes and compactions, or until they are done.
    fn await_background(&self, operation: &'static str) -> Result<(), RocksError> {
        self.check_background(operation)?;
        self.waits.fetch_add(1, Ordering::Relaxed);
        let mut options = WaitForCompactOptions::default();
        options.set_timeout(WAIT_MICROS);
        match self.db.wait_for_compact(&options) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == rocksdb::ErrorKind::TimedOut => Ok(()),
            Err(error) => Err(self.fail(self.at(operation).status(&error))),
        }
    }

    /// The column family of a state.
    pub(crate) fn family<'a>(
        &self,
        db: &'a Db,
        name: &str,
    ) -> Result<Arc<BoundColumnFamily<'a>>, RocksError> {
        db.cf_handle(name).ok_or_else(|| {
            let reason = format!("the column family `{name}` is gone while its state is open");
            self.fail(self.at("an access").unexpected(reason))
        })
    }

    pub(crate) fn at(&self, operation: &'static str) -> At<'_> {
        At {
            operation,
            dir: self.dir.path(),
        }
    }

    /// Takes the store out of use for `error`.
    pub(crate) fn fail(&self, error: RocksError) -> RocksError {
        self.failed.get_or_init(|| Failure {
            message: error.to_string(),
            kind: error.kind(),
        });
        error
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<(), RocksError> {
        self.failed.get().map_or(Ok(()), |failure| {
            Err(RocksError::Refused {
                operation,
                dir: self.dir.path().to_owned(),
                first: failure.message.clone(),
                kind: failure.kind,
            })
        })
    }

    /// Takes the store out of use when a flush or a compaction failed. Takes the mutex of the database: a few times a batch.
    pub(crate) fn check_background(&self, operation: &'static str) -> Result<(), RocksError> {
        let at = self.at(operation);
        match self.db.property_int_value(BACKGROUND_ERRORS) {
            Ok(Some(0)) => Ok(()),
            Ok(Some(_)) => Err(self.fail(at.logged(self.errors.0.get().map(String::as_str)))),
            Ok(None) => {
                Err(self.fail(at.unexpected("RocksDB does not count its background errors")))
            }
            Err(error) => Err(self.fail(at.status(&error))),
        }
    }
}
