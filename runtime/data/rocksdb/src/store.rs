//! The store of one operator subtask: a database with a column family for each state.
//!
//! Owned by the keyed backend of the subtask, on its slot thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_state::{
    Backing, BackingError, Freezing, StateDescriptor, StateStore, StorePlace, StoreReport,
};
use highwater_types::ProcessingTime;
use rocksdb::{BoundColumnFamily, DEFAULT_COLUMN_FAMILY_NAME};

use crate::error::RocksError;
use crate::expiry::{RowExpiry, StoreClock};
use crate::factory::Opener;
use crate::frozen::RocksFreezing;
use crate::rows::RocksRows;
use crate::shared::{Db, Shared};
use crate::tuning::{MERGING, index_bytes};

/// Front of the name of every column family that holds a state: RocksDB has names of its own. It says in which form the values are
/// stored: packed. Before they were, it was `state:`.
const STATE: &str = "packed:";

/// Whether a column family is one that this version reads.
pub(crate) fn is_known(family: &str) -> bool {
    family == DEFAULT_COLUMN_FAMILY_NAME || family.starts_with(STATE)
}

/// The column families of the states of a database, by name, with what compaction knows of each.
pub(crate) type Families = BTreeMap<String, RowExpiry>;

/// The column family that holds a state.
pub(crate) fn family_of<'a>(db: &'a Db, state: &str) -> Option<Arc<BoundColumnFamily<'a>>> {
    db.cf_handle(&name_of(state))
}

fn name_of(state: &str) -> String {
    format!("{STATE}{state}")
}

/// The store of one operator subtask.
pub(crate) struct RocksStore {
    shared: Arc<Shared>,
    opener: Arc<Opener>,
    clock: StoreClock,
    families: Families,
    /// Bytes of the indexes and filters of this store that are in the sum of all stores, as of its last freeze.
    index_bytes: u64,
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        self.opener
            .resources
            .replace_index_bytes(self.index_bytes, 0);
    }
}

impl RocksStore {
    pub(crate) fn new(
        shared: Shared,
        opener: Arc<Opener>,
        (clock, families): (StoreClock, Families),
    ) -> Self {
        Self {
            shared: Arc::new(shared),
            opener,
            clock,
            families,
            index_bytes: 0,
        }
    }

    fn open_rows(&mut self, state: &StateDescriptor) -> Result<RocksRows, RocksError> {
        let name = name_of(&state.name);
        if !self.families.contains_key(&name) {
            let expiry = RowExpiry::new(&self.clock);
            let options = self
                .opener
                .resources
                .column_family(expiry.clone(), self.shared.is_in_parts());
            let options = options
                .map_err(|error| self.shared.at("the making of a state").unexpected(error))?;
            self.shared
                .write("the making of a state", |db| db.create_cf(&name, &options))?;
            self.families.insert(name.clone(), expiry);
        }
        if let Some(expiry) = self.families.get(&name) {
            expiry.set(state);
        }
        Ok(RocksRows::new(Arc::clone(&self.shared), name))
    }

    fn drop_rows(&mut self, state: &str) -> Result<(), RocksError> {
        let name = name_of(state);
        if self.families.remove(&name).is_some() {
            self.shared
                .write("the removal of a state", |db| db.drop_cf(&name))?;
        }
        Ok(())
    }

    /// Removes the rows of key groups that are not those of the subtask. Files with nothing else go at once, but for those at the top; in
    /// the others the rows are hidden, and go when those are merged, which may begin from here on.
    ///
    /// Also of states that nobody has opened: their rows are in the next freeze too.
    pub(crate) fn drop_foreign(&self, place: &StorePlace) -> Result<(), RocksError> {
        for name in self.families.keys() {
            let rows = RocksRows::new(Arc::clone(&self.shared), name.clone());
            for groups in place.foreign() {
                rows.drop_groups(groups)?;
            }
        }
        let families: Vec<_> = self.families.keys().cloned().collect();
        self.shared
            .set_options("the start of merges", &families, &MERGING)
    }

    /// The column families whose indexes and filters go into parts from now on, because they have outgrown the memory.
    fn outgrown(&mut self) -> Vec<String> {
        let rows = self.sum("rocksdb.estimate-num-keys");
        let new = index_bytes(rows, self.sum("rocksdb.total-sst-files-size"));
        let old = std::mem::replace(&mut self.index_bytes, new);
        let all = self.opener.resources.replace_index_bytes(old, new);
        if self.shared.is_in_parts() || !self.opener.resources.wants_parts(all) {
            return Vec::new();
        }
        self.shared.set_in_parts();
        self.families.keys().cloned().collect()
    }

    /// Does at once, for a store that was reopened, what a freeze does later.
    pub(crate) fn split_what_outgrew(&mut self) -> Result<(), RocksError> {
        let outgrown = self.outgrown();
        self.shared.split_indexes(&outgrown)
    }

    /// The sum of a property over all states. It is shown, and tells when indexes are better split: one that is not known
    /// counts as 0.
    fn sum(&self, property: &str) -> u64 {
        let db = self.shared.db();
        let families = self.families.keys().filter_map(|name| db.cf_handle(name));
        families
            .filter_map(|family| db.property_int_value_cf(&family, property).ok().flatten())
            .sum()
    }

    fn running_compactions(&self) -> u64 {
        let running = self
            .shared
            .db()
            .property_int_value("rocksdb.num-running-compactions");
        running.ok().flatten().unwrap_or_default()
    }
}

impl StateStore for RocksStore {
    fn open(&mut self, state: &StateDescriptor) -> Result<Box<dyn Backing>, BackingError> {
        self.shared.check("the opening of a state")?;
        Ok(Box::new(self.open_rows(state)?))
    }

    fn drop_state(&mut self, name: &str) -> Result<(), BackingError> {
        self.shared.check("the removal of a state")?;
        Ok(self.drop_rows(name)?)
    }

    fn set_time(&mut self, now: ProcessingTime) {
        self.clock.set(now);
    }

    fn freeze(&mut self) -> Box<dyn Freezing> {
        Box::new(RocksFreezing {
            shared: Arc::clone(&self.shared),
            opener: Arc::clone(&self.opener),
            into_parts: self.outgrown(),
        })
    }

    fn report(&self) -> StoreReport {
        StoreReport {
            disk_bytes: self.sum("rocksdb.total-sst-files-size"),
            memory_bytes: self.sum("rocksdb.cur-size-all-mem-tables")
                + self.sum("rocksdb.estimate-table-readers-mem"),
            compactions: self.running_compactions() + self.sum("rocksdb.compaction-pending"),
            write_waits: self.shared.waits(),
        }
    }
}

#[cfg(test)]
mod tests;
