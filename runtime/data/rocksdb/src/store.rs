//! The store of one operator subtask: a database with a column family for each state.
//!
//! Owned by the keyed backend of the subtask, on its slot thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_state::{Backing, BackingError, Freezing, StateDescriptor, StateStore, StoreReport};
use highwater_types::ProcessingTime;
use rocksdb::BoundColumnFamily;

use crate::error::RocksError;
use crate::expiry::{RowExpiry, StoreClock};
use crate::factory::Opener;
use crate::frozen::RocksFreezing;
use crate::rows::RocksRows;
use crate::shared::{Db, Shared};

/// Front of the name of a column family: whether its rows carry their last access. Compaction must know the form of
/// stored rows from the store itself, since a job may declare another than they were written in.
const TIMED: &str = "timed:";
const UNTIMED: &str = "plain:";

/// What the store knows of one state.
pub(crate) struct OpenedFamily {
    pub(crate) expiry: RowExpiry,
    pub(crate) is_open: bool,
}

/// The column families of a database by name.
pub(crate) type Families = BTreeMap<String, OpenedFamily>;

/// The column family that holds a state, in either form.
pub(crate) fn family_of<'a>(db: &'a Db, state: &str) -> Option<Arc<BoundColumnFamily<'a>>> {
    names(state).iter().find_map(|name| db.cf_handle(name))
}

fn names(state: &str) -> [String; 2] {
    [TIMED, UNTIMED].map(|form| format!("{form}{state}"))
}

/// The store of one operator subtask.
pub(crate) struct RocksStore {
    shared: Arc<Shared>,
    opener: Arc<Opener>,
    clock: StoreClock,
    families: Families,
}

impl RocksStore {
    pub(crate) fn new(
        shared: Shared,
        opener: Arc<Opener>,
        clock: StoreClock,
        families: Families,
    ) -> Self {
        Self {
            shared: Arc::new(shared),
            opener,
            clock,
            families,
        }
    }

    fn open_rows(&mut self, state: &StateDescriptor) -> Result<RocksRows, RocksError> {
        let [timed, untimed] = names(&state.name);
        let (name, other) = if state.ttl.is_some() {
            (timed, untimed)
        } else {
            (untimed, timed)
        };
        let at = self.shared.at("the opening of a state");
        if self.families.contains_key(&other) {
            let reason = format!(
                "the rows of `{}` lie under `{other}` and would be read as `{name}`: read them from the files of the \
                 checkpoint and write them anew",
                state.name
            );
            return Err(at.unexpected(reason));
        }
        if !self.families.contains_key(&name) {
            let expiry = RowExpiry::new(&self.clock);
            let options = self.opener.resources.column_family(expiry.clone());
            self.shared
                .write("the making of a state", |db| db.create_cf(&name, &options))?;
            let family = OpenedFamily {
                expiry,
                is_open: false,
            };
            self.families.insert(name.clone(), family);
        }
        let opened = self
            .families
            .get_mut(&name)
            .filter(|family| !family.is_open)
            .ok_or_else(|| at.unexpected(format!("`{}` is open already", state.name)))?;
        opened.is_open = true;
        opened.expiry.set(state);
        Ok(RocksRows::new(Arc::clone(&self.shared), name))
    }

    fn drop_rows(&mut self, state: &str) -> Result<(), RocksError> {
        for name in names(state) {
            match self.families.get(&name) {
                None => {}
                Some(family) if family.is_open => {
                    let at = self.shared.at("the removal of a state");
                    return Err(at.unexpected(format!("`{state}` is open")));
                }
                Some(_) => {
                    self.shared
                        .write("the removal of a state", |db| db.drop_cf(&name))?;
                    self.families.remove(&name);
                }
            }
        }
        Ok(())
    }

    /// The sum of a property over all states. It is shown only, so that one which is not known counts as 0.
    fn sum(&self, property: &str) -> u64 {
        let db = self.shared.unchecked();
        let families = self.families.keys().filter_map(|name| db.cf_handle(name));
        families
            .filter_map(|family| db.property_int_value_cf(&family, property).ok().flatten())
            .sum()
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
        })
    }

    fn report(&self) -> StoreReport {
        StoreReport {
            disk_bytes: self.sum("rocksdb.total-sst-files-size"),
            memory_bytes: self.sum("rocksdb.cur-size-all-mem-tables")
                + self.sum("rocksdb.estimate-table-readers-mem"),
            compaction_pending_bytes: self.sum("rocksdb.estimate-pending-compaction-bytes"),
        }
    }
}
