//! Sliced state: one table for each namespace, for windows that many keys share.
//!
//! A window that fires is one scan and a window that closes is dropped whole, with no timer and no lookup per key. The
//! stored form is that of value state with the same types. For namespaces that differ from key to key (sessions) use the other
//! states with a namespace.
//!
//! With a local store the tables are caches over rows with the namespace in front. What leaves while the store may not
//! be written, from the barrier until it is frozen, stays in it and is hidden; it is removed as soon as that ends. So firing
//! never waits for a checkpoint.

mod drain;
mod rows;

use std::collections::BTreeMap;

use highwater_types::{DecodeError, Key, KeyGroup, KeyGroupRange, KeyHash, ProcessingTime, Record};

use self::drain::{Drain, Portion};
use self::rows::{SharedRows, SliceRows};
use super::{KeyedState, OpenState, StateReport};
use crate::budget::{Relief, Relieved};
use crate::cell::StoredForm;
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::error::{BackingError, StateError, StateName};
use crate::snapshot::order::{behind, namespace_prefix, read_namespace};
use crate::snapshot::rows::{GroupRows, next_row};
use crate::snapshot::{RowOrder, SavedRows, StateHeader, UnsealedState};
use crate::table::{Namespace, StateTable, StoreBehind, TableSetup};

/// Whether a slice that is drained in pieces holds more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// The slice is empty and gone.
    All,
    /// There are more entries.
    Part,
}

struct Slice<K, V> {
    table: StateTable<K, (), V>,
    /// Its rows in the store, if there is one.
    rows: Option<SliceRows>,
    /// How far it is drained, where that needs to be known.
    drain: Option<Box<Drain<K>>>,
}

/// Whether a snapshot is being saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// None is. Whether the store may be written says `is_withheld`.
    Open,
    /// A barrier of this time has passed, and the snapshot is being saved.
    Saving(ProcessingTime),
}

/// One table of values for each namespace.
pub struct SlicedState<K, N, V> {
    slices: BTreeMap<N, Slice<K, V>>,
    /// Dropped, but still owed to the running snapshot.
    retired: Vec<StateTable<K, (), V>>,
    /// What the tables that are gone have counted.
    gone: StateReport,
    setup: TableSetup,
    store: Option<SharedRows>,
    phase: Phase,
    /// Nothing may be written to the store.
    is_withheld: bool,
    fault: Option<StateError>,
}

impl<K: Key, N: Namespace + Ord, V: Record> OpenState for SlicedState<K, N, V> {
    const KEEPS_TTL: bool = false;

    fn open(mut setup: TableSetup) -> Self {
        let behind = setup.backing.take();
        Self {
            slices: BTreeMap::new(),
            retired: Vec::new(),
            gone: StateReport {
                name: setup.descriptor.name.clone(),
                ..StateReport::default()
            },
            store: behind.map(|behind| SharedRows::new(behind.rows, setup.range)),
            setup,
            phase: Phase::Open,
            is_withheld: false,
            fault: None,
        }
    }

    fn shape() -> (StateKind, StateSchemas) {
        (StateKind::Value, StateSchemas::of::<K, N, V>())
    }
}

impl<K: Key, V: Record> Slice<K, V> {
    /// Makes a slice that is being drained one as any other.
    #[cold]
    fn settle(&mut self) -> Result<(), StateError> {
        match (self.drain.take(), &self.rows) {
            (Some(drain), Some(rows)) => drain.settle((&mut self.table, rows)),
            _ => Ok(()),
        }
    }

    fn is_blank(&self) -> bool {
        self.table.is_blank() && self.rows.as_ref().is_none_or(SliceRows::is_unwritten)
    }

    fn used_bytes(&self) -> usize {
        self.table.used_bytes() + self.drain.as_ref().map_or(0, |drain| drain.bytes())
    }
}

impl<K: Key, N: Namespace + Ord, V: Record> SlicedState<K, N, V> {
    /// The table of a namespace, made when absent. With a store it is a cache: see [`StateTable::prepare_chunk`].
    pub fn slice(&mut self, namespace: &N) -> &mut StateTable<K, (), V> {
        if !self.slices.contains_key(namespace) {
            let slice = self.new_slice(namespace);
            self.slices.insert(namespace.clone(), slice);
        }
        self.settled(namespace)
            .expect("the slice is there or was made above")
    }

    fn settled(&mut self, namespace: &N) -> Option<&mut StateTable<K, (), V>> {
        let slice = self.slices.get_mut(namespace)?;
        if slice.drain.is_some()
            && let Err(error) = slice.settle()
        {
            self.fault.get_or_insert(error);
        }
        Some(&mut slice.table)
    }

    /// The namespaces that have a table, in order.
    pub fn namespaces(&self) -> impl Iterator<Item = &N> {
        self.slices.keys()
    }

    /// The value of a key in a namespace.
    pub fn get(&mut self, hash: KeyHash, key: &K, namespace: &N) -> Option<&V> {
        self.settled(namespace)?.get(hash, key, &())
    }

    /// Removes up to `limit` entries of a namespace and hands them over, so that a big window fires in pieces. There may be
    /// pieces of less, also of none, before the last. Between two pieces there may be barriers, and drains of other namespaces;
    /// any other access of this one costs what was drained.
    ///
    /// # Errors
    /// Of the store's kind; `Corrupt` when a row cannot be decoded. What was not handed over is still there.
    pub fn drain(
        &mut self,
        namespace: &N,
        limit: usize,
        mut take: impl FnMut(KeyHash, K, V),
    ) -> Result<Drained, StateError> {
        let (setup, phase) = (&self.setup, self.phase);
        let Some(slice) = self.slices.get_mut(namespace) else {
            return Ok(Drained::All);
        };
        let portion = match &slice.rows {
            Some(rows)
                if slice.drain.is_some() || !is_in_memory(&mut slice.table, rows, phase)? =>
            {
                let drain = slice.drain.get_or_insert_with(|| {
                    Box::new(Drain::begin(setup.range, setup.max_parallelism))
                });
                drain.portion((&mut slice.table, rows), limit, &mut take)?
            }
            _ => {
                slice.table.drain_without_trace(limit, take);
                if slice.table.is_empty() {
                    Portion::Last
                } else {
                    Portion::More
                }
            }
        };
        if portion == Portion::More {
            return Ok(Drained::Part);
        }
        debug_assert!(slice.table.is_empty(), "every entry was handed over");
        self.drop_slice(namespace);
        Ok(Drained::All)
    }

    /// Drops a namespace with all its entries.
    pub fn drop_slice(&mut self, namespace: &N) {
        let Some(slice) = self.slices.remove(namespace) else {
            return;
        };
        let is_saving = slice.table.is_saving();
        if let Some(rows) = &slice.rows {
            if is_saving || self.is_withheld {
                rows.doom();
            } else if let Err(source) = rows.remove_all() {
                self.raise("write to", source);
            }
        }
        if is_saving {
            self.retired.push(slice.table);
        } else {
            keep_counts(&mut self.gone, &slice.table);
        }
    }

    /// Lets go of the tables that no snapshot is owed any more.
    fn forget_retired(&mut self) {
        for table in self.retired.drain(..) {
            keep_counts(&mut self.gone, &table);
        }
    }

    fn new_slice(&self, namespace: &N) -> Slice<K, V> {
        let rows = self
            .store
            .as_ref()
            .map(|store| store.slice(namespace_prefix(namespace)));
        let is_empty = rows.as_ref().is_none_or(SliceRows::is_unwritten);
        let backing = rows.clone().map(|rows| StoreBehind {
            rows: Box::new(rows),
            is_empty,
        });
        let mut table = StateTable::new(TableSetup {
            uid: self.setup.uid.clone(),
            descriptor: self.setup.descriptor.clone(),
            range: self.setup.range,
            max_parallelism: self.setup.max_parallelism,
            backing,
        });
        if rows.is_none() {
            let mut suffix = Vec::new();
            namespace.encode(&mut suffix);
            table.set_suffix(suffix);
        } else if let Phase::Saving(now) = self.phase {
            // It owes nothing, and writes nothing before the store is frozen.
            table.begin_snapshot(now);
        }
        table.withhold_writes(self.is_withheld);
        Slice {
            table,
            rows,
            drain: None,
        }
    }

    fn tables(&self) -> impl Iterator<Item = &StateTable<K, (), V>> {
        let slices = self.slices.values().map(|slice| &slice.table);
        slices.chain(&self.retired)
    }

    fn tables_mut(&mut self) -> impl Iterator<Item = &mut StateTable<K, (), V>> {
        let slices = self.slices.values_mut().map(|slice| &mut slice.table);
        slices.chain(self.retired.iter_mut())
    }

    fn load_row(
        &mut self,
        group: KeyGroup,
        rows: &mut &[u8],
        form: &StoredForm,
    ) -> Result<(), DecodeError> {
        let (mut key, mut value) = next_row(rows)?;
        let (key, namespace) = (K::decode(&mut key)?, N::decode(&mut key)?);
        self.slice(&namespace)
            .load_entry((group, &key, &()), &mut value, form)?;
        // A rewrite in place: until the new row is written the old one lies there, and a slice that is dropped takes it along.
        if let Some(store) = &self.store
            && self.setup.range.contains(group)
        {
            store.note_written(&namespace_prefix(&namespace), group);
        }
        Ok(())
    }

    fn range(&self) -> KeyGroupRange {
        self.setup.range
    }

    fn name(&self) -> StateName {
        StateName {
            uid: self.setup.uid.clone(),
            state: self.setup.descriptor.name.clone(),
        }
    }

    /// Keeps the first error for the end of the chunk.
    #[cold]
    fn raise(&mut self, operation: &'static str, source: BackingError) {
        let name = self.name();
        self.fault
            .get_or_insert_with(|| StateError::backing(name, operation, source));
    }

    fn take_fault(&mut self) -> Result<(), StateError> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Removes what was dropped while the store could not be written.
    fn bury(&mut self) {
        let buried = self.store.as_ref().map(SharedRows::bury);
        if let Some(Err(source)) = buried {
            self.raise("write to", source);
        }
    }

    /// Removes what is drained of slices from the store: it does not belong to the snapshot that begins.
    fn remove_drained(&mut self) {
        for slice in self.slices.values_mut() {
            if let (Some(drain), Some(rows)) = (&slice.drain, &slice.rows)
                && let Err(error) = drain.remove_drained((&mut slice.table, rows))
            {
                self.fault.get_or_insert(error);
            }
        }
    }

    /// Finds the slices that the store holds in `groups`: in each key group it jumps from one namespace to the next. A slice
    /// that was loaded from elsewhere before learns that it does not know all of its rows.
    fn find_stored(&mut self, store: &SharedRows, groups: KeyGroupRange) -> Result<(), StateError> {
        for group in groups.groups() {
            let mut from = Vec::new();
            loop {
                let first = store.first_row(group, from);
                let first = first
                    .map_err(|source| StateError::backing(self.name(), "read from", source))?;
                let Some(row) = first else { break };
                let read = read_namespace::<N>(&row);
                let (namespace, prefix) = read.map_err(|source| self.row_error(group, source))?;
                store.note_written(prefix, group);
                self.slice(&namespace).expect_stored();
                match behind(prefix) {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn row_error(&self, group: KeyGroup, source: DecodeError) -> StateError {
        StateError::row(&self.name(), group, source)
    }

    /// The saved rows of all slices; with a store, in which order they lie there.
    fn saved_rows(&mut self) -> Result<SavedRows, StateError> {
        let mut all = GroupRows::new(self.range());
        let mut refused = Ok(());
        for table in self.tables_mut().filter(|table| table.is_saving()) {
            match table.take_snapshot().map(|saved| saved.rows) {
                Ok(SavedRows::Rows(rows)) => all.append(rows),
                Ok(SavedRows::Blocks(_) | SavedRows::InStore(..)) => {}
                Err(error) => refused = Err(error),
            }
        }
        refused?;
        if self.store.is_some() {
            return Ok(SavedRows::InStore(RowOrder::Namespace, None));
        }
        Ok(SavedRows::Rows(all))
    }
}

/// Keeps what a table that goes has counted, so that no count of the state ever falls.
fn keep_counts<K: Key, V: Record>(gone: &mut StateReport, table: &StateTable<K, (), V>) {
    gone.add(&StateReport {
        entries: 0,
        bytes: 0,
        ..table.report()
    });
}

/// Whether no row of a slice is in the store, nor will be while it is drained.
fn is_in_memory<K: Key, V: Record>(
    table: &mut StateTable<K, (), V>,
    rows: &SliceRows,
    phase: Phase,
) -> Result<bool, StateError> {
    table.flush_pending()?;
    Ok(phase == Phase::Open && rows.is_unwritten())
}

impl<K: Key, N: Namespace + Ord, V: Record> KeyedState for SlicedState<K, N, V> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.setup.descriptor
    }

    fn is_paged(&self) -> bool {
        self.store.is_some()
    }

    fn withhold_writes(&mut self, withheld: bool) {
        self.is_withheld = withheld && self.is_paged();
        let tables = self.tables_mut();
        tables.for_each(|table| table.withhold_writes(withheld));
        if !withheld && self.phase == Phase::Open {
            self.bury();
        }
    }

    fn row_order(&self) -> RowOrder {
        RowOrder::Namespace
    }

    fn adopt_stored(&mut self, groups: KeyGroupRange) -> Result<(), StateError> {
        match self.store.clone() {
            Some(store) => self.find_stored(&store, groups.intersection(self.range())),
            None => Ok(()),
        }
    }

    fn used_bytes(&self) -> usize {
        let slices = self.slices.values().map(Slice::used_bytes);
        let retired = self.retired.iter().map(StateTable::used_bytes);
        slices.chain(retired).sum()
    }

    fn fixed_bytes(&self) -> usize {
        let fixed = |slice: &Slice<K, V>| {
            let table = &slice.table;
            table.fixed_bytes() + slice.used_bytes() - table.used_bytes()
        };
        let slices = self.slices.values().map(fixed);
        let retired = self.retired.iter().map(StateTable::used_bytes);
        slices.chain(retired).sum()
    }

    fn report(&self) -> StateReport {
        let mut report = self.gone.clone();
        self.tables().for_each(|table| report.add(&table.report()));
        report
    }

    fn begin_snapshot(&mut self, now: ProcessingTime) {
        self.remove_drained();
        self.phase = Phase::Saving(now);
        let slices = self.slices.values_mut();
        slices.for_each(|slice| slice.table.begin_snapshot(now));
    }

    fn advance_snapshot(&mut self, mut budget: usize) -> Option<usize> {
        for table in self.tables_mut() {
            budget = table.advance_snapshot(budget)?;
        }
        Some(budget)
    }

    fn take_snapshot(&mut self) -> Result<UnsealedState, StateError> {
        if self.phase == Phase::Open {
            return Err(StateError::NoSnapshot {
                uid: self.setup.uid.clone(),
            });
        }
        self.take_fault()?;
        let rows = self.saved_rows()?;
        self.phase = Phase::Open;
        self.forget_retired();
        Ok(UnsealedState {
            header: StateHeader::of(&self.setup.descriptor),
            rows,
        })
    }

    fn abort_snapshot(&mut self) {
        self.phase = Phase::Open;
        let slices = self.slices.values_mut();
        slices.for_each(|slice| slice.table.abort_snapshot());
        self.forget_retired();
        self.bury();
    }

    fn load(
        &mut self,
        group: KeyGroup,
        mut rows: &[u8],
        form: &StoredForm,
    ) -> Result<(), StateError> {
        while !rows.is_empty() {
            self.load_row(group, &mut rows, form)
                .map_err(|source| self.row_error(group, source))?;
        }
        self.tables_mut().try_for_each(StateTable::take_fault)
    }

    fn after_chunk(&mut self, now: ProcessingTime) -> Result<(), StateError> {
        self.take_fault()?;
        let is_paged = self.is_paged();
        let gone = &mut self.gone;
        self.slices.retain(|_, slice| {
            let stays = if is_paged {
                !slice.is_blank()
            } else {
                !slice.table.is_empty() || slice.table.is_saving()
            };
            if !stays {
                keep_counts(gone, &slice.table);
            }
            stays
        });
        let mut slices = self.slices.values_mut();
        slices.try_for_each(|slice| slice.table.after_chunk(now))
    }

    fn relieve(&mut self, relief: &mut Relief) -> Result<Relieved, StateError> {
        let mut relieved = Relieved::All;
        for slice in self.slices.values_mut() {
            if slice.table.relieve(relief) == Relieved::Part {
                relieved = Relieved::Part;
            }
            slice.table.take_fault()?;
        }
        Ok(relieved)
    }

    fn warm_keys(&self, _: &[KeyHash]) {
        // Which slices a chunk is for is known to the operator alone, and it prepares them itself.
    }
}
