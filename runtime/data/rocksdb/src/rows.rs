//! The rows of one state in its column family.
//!
//! Called by the table of the state on its slot thread, in bulk. Rows are sorted and distinct, which RocksDB is told.
//!
//! Blocks of rows do not fill the cache of the store while its indexes and filters are whole: the table above is the cache of rows,
//! and an index that was pushed out would be read whole for every key, since a read that fills nothing does not bring it back.
//! In parts they come in as they are read, so such reads fill the cache.
//!
//! Batches go through the write buffer, however large. A table written aside and ingested costs more below 32,768 rows
//! (16 + 24 bytes, CPU of all threads: 3.8 us a row against 1.1 at 1,024 rows, 1.4 against 1.1 at 4,096), the same from there
//! on (0.9), and adds a file at the top for each.

use std::sync::Arc;

use highwater_state::{Backing, BackingError, RowKey, RowWrite, VisitRow};
use highwater_types::{KeyGroup, KeyGroupRange};
use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions, WriteBatch, WriteOptions};

use crate::error::RocksError;
use crate::key;
use crate::pack::{pack, unpack};
use crate::shared::{Db, Shared};

/// Keys of one MultiGet: it pins the blocks of all of them until they are copied.
const FETCH_KEYS: usize = 1_024;

/// Bytes of one write batch. A write buffer is looked at between batches only, so that one batch is far below it.
const BATCH_BYTES: usize = 256 << 10;

/// Bytes that a scan reads ahead. A window that fires scans a few KiB to some MiB.
const SCAN_READAHEAD: usize = 128 << 10;

/// The rows of one state.
pub(crate) struct RocksRows {
    shared: Arc<Shared>,
    family: String,
    write_options: WriteOptions,
    /// Options of a fetch while indexes and filters are whole, and of one when they are in parts.
    fetch_whole: ReadOptions,
    fetch_in_parts: ReadOptions,
    /// Stored keys of a fetch, one behind the other, and where each ends.
    keys: Vec<u8>,
    ends: Vec<usize>,
    packed: Vec<u8>,
}

impl RocksRows {
    pub(crate) fn new(shared: Arc<Shared>, family: String) -> Self {
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        write_options.set_no_slowdown(true);
        let mut fetch_whole = ReadOptions::default();
        fetch_whole.fill_cache(false);
        Self {
            shared,
            family,
            write_options,
            fetch_whole,
            fetch_in_parts: ReadOptions::default(),
            keys: Vec::new(),
            ends: Vec::new(),
            packed: Vec::new(),
        }
    }

    fn fetch_some(
        &mut self,
        keys: &[RowKey],
        found: &mut Vec<Option<Vec<u8>>>,
    ) -> Result<(), RocksError> {
        self.keys.clear();
        self.ends.clear();
        for key in keys {
            key::encode(key, &mut self.keys);
            self.ends.push(self.keys.len());
        }
        let mut start = 0;
        let stored = self.ends.iter().map(|&end| {
            let key = &self.keys[start..end];
            start = end;
            key
        });
        self.shared.check("a read")?;
        let db = self.shared.db();
        let family = self.shared.family(db, &self.family)?;
        let options = if self.shared.is_in_parts() {
            &self.fetch_in_parts
        } else {
            &self.fetch_whole
        };
        let rows = db.batched_multi_get_cf_opt(&family, stored, true, options);
        for row in rows {
            let row =
                row.map_err(|error| self.shared.fail(self.shared.at("a read").status(&error)))?;
            let row = match row {
                None => None,
                Some(packed) => {
                    let mut value = Vec::with_capacity(2 * packed.len());
                    if !unpack(&packed, &mut value) {
                        return Err(self.shared.fail(self.shared.at("a read").damaged(NO_VALUE)));
                    }
                    Some(value)
                }
            };
            found.push(row);
        }
        Ok(())
    }

    fn write_all(&mut self, rows: &[RowWrite]) -> Result<(), RocksError> {
        let db = self.shared.db();
        let family = self.shared.family(db, &self.family)?;
        self.shared.check("a write")?;
        self.shared.await_compaction("a write", &family)?;
        let mut batch = WriteBatch::default();
        for row in rows {
            self.keys.clear();
            key::encode(&row.key, &mut self.keys);
            match &row.value {
                Some(value) => {
                    self.packed.clear();
                    pack(value, &mut self.packed);
                    batch.put_cf(&family, &self.keys, &self.packed);
                }
                None => batch.delete_cf(&family, &self.keys),
            }
            if batch.size_in_bytes() >= BATCH_BYTES {
                self.write_batch(&batch)?;
                batch.clear();
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.write_batch(&batch)
    }

    fn write_batch(&self, batch: &WriteBatch) -> Result<(), RocksError> {
        // A batch is gone with the call even if it must be repeated; copying it costs 3 ns a row.
        self.shared.write("a write", |db| {
            db.write_opt(WriteBatch::from_data(batch.data()), &self.write_options)
        })
    }

    /// Removes all rows of these key groups.
    pub(crate) fn drop_groups(&self, groups: KeyGroupRange) -> Result<(), RocksError> {
        let first_of = |group| RowKey {
            group: KeyGroup(group),
            bytes: Vec::new(),
        };
        self.drop_rows(&first_of(groups.start), &first_of(groups.end))
    }

    fn drop_rows(&self, from: &RowKey, until: &RowKey) -> Result<(), RocksError> {
        let db = self.shared.db();
        let family = self.shared.family(db, &self.family)?;
        let (first, end) = (key::encoded(from), key::encoded(until));
        self.shared.write("a drop of rows", |db| {
            db.delete_range_cf_opt(&family, &first, &end, &self.write_options)
        })?;
        // Whole key groups went: files that hold nothing else go at once. What they may have hidden is in the range too,
        // and hidden by the deletion above. The end counts as inside for this call.
        match key::before(&end) {
            Some(last) if from.group != until.group && first < last => {
                self.shared.write("a drop of files", |db| {
                    db.delete_file_in_range_cf(&family, &first, &last)
                })
            }
            _ => Ok(()),
        }
    }
}

impl Backing for RocksRows {
    fn fetch(
        &mut self,
        keys: &[RowKey],
        found: &mut Vec<Option<Vec<u8>>>,
    ) -> Result<(), BackingError> {
        for some in keys.chunks(FETCH_KEYS) {
            self.fetch_some(some, found)?;
        }
        Ok(())
    }

    fn write(&mut self, rows: &[RowWrite]) -> Result<(), BackingError> {
        Ok(self.write_all(rows)?)
    }

    fn scan(
        &mut self,
        (from, until): (&RowKey, &RowKey),
        limit: usize,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError> {
        if from >= until || limit == 0 {
            return Ok(());
        }
        self.shared.check("a scan")?;
        let db = self.shared.db();
        let family = self.shared.family(db, &self.family)?;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(key::encoded(until));
        options.set_readahead_size(SCAN_READAHEAD);
        options.fill_cache(self.shared.is_in_parts());
        let mut rows = db.raw_iterator_cf_opt(&family, options);
        rows.seek(key::encoded(from));
        let scanned = each_row(&mut rows, limit, visit);
        scanned.map_err(|error| {
            let at = self.shared.at("a scan");
            self.shared.fail(error.at(at)).into()
        })
    }

    fn drop_range(&mut self, from: &RowKey, until: &RowKey) -> Result<(), BackingError> {
        if from < until {
            self.drop_rows(from, until)?;
        }
        Ok(())
    }
}

/// What is said of a stored value that is none.
const NO_VALUE: &str = "a value is not packed";

/// Why rows could not be iterated.
pub(crate) enum IterationError {
    Status(rocksdb::Error),
    Key,
    Value,
}

impl IterationError {
    pub(crate) fn at(self, at: crate::error::At<'_>) -> RocksError {
        match self {
            Self::Status(error) => at.status(&error),
            Self::Key => at.damaged("a key is shorter than a key group"),
            Self::Value => at.damaged(NO_VALUE),
        }
    }
}

/// Calls `visit` for up to `limit` rows from where `rows` stands.
pub(crate) fn each_row(
    rows: &mut DBRawIteratorWithThreadMode<'_, Db>,
    limit: usize,
    visit: VisitRow<'_>,
) -> Result<(), IterationError> {
    let mut key = RowKey {
        group: KeyGroup(0),
        bytes: Vec::new(),
    };
    let mut unpacked = Vec::new();
    for _ in 0..limit {
        let Some((stored, value)) = rows.item() else {
            break;
        };
        if !key::decode_into(stored, &mut key) {
            return Err(IterationError::Key);
        }
        unpacked.clear();
        if !unpack(value, &mut unpacked) {
            return Err(IterationError::Value);
        }
        visit(&key, &unpacked);
        rows.next();
    }
    rows.status().map_err(IterationError::Status)
}
