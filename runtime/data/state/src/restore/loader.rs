//! Taking the rows of one stored state into the state that was opened, whatever form they come in.
//!
//! Called by [`Restored::load`](super::Restored::load). Rows of an older schema are rewritten on the way. No more than a
//! portion of them is in memory besides what the state holds itself, except where a state changed the order of its rows.

use highwater_types::migrate::migrate;
use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::{DecodeError, KeyGroup, KeyGroupRange, ProcessingTime};

use super::OwnRows;
use crate::backing::{Backing, RowKey};
use crate::cell::StoredForm;
use crate::descriptor::{StateDescriptor, StateKind};
use crate::error::{BackingError, StateError, StateName};
use crate::keyed::KeyedState;
use crate::snapshot::rows::{GroupRows, next_row, push_row};
use crate::snapshot::{GroupBlock, RowOrder, StateHeader};
use crate::store::FrozenStore;

/// Bytes of rows that are taken in at once.
const PORTION_BYTES: usize = 256 * 1_024;

/// Rows of the own store that are looked at at once.
const PORTION_ROWS: usize = 1_024;

/// Takes the rows of one stored state into the state that was opened.
pub(super) struct Loader<'a> {
    pub(super) name: &'a StateName,
    pub(super) header: &'a StateHeader,
    pub(super) descriptor: &'a StateDescriptor,
    pub(super) migrates: bool,
    pub(super) form: StoredForm,
    pub(super) state: &'a mut dyn KeyedState,
}

impl Loader<'_> {
    /// Takes in framed rows of one key group.
    pub(super) fn load(&mut self, group: KeyGroup, rows: &[u8]) -> Result<(), StateError> {
        if !self.migrates {
            return self.state.load(group, rows, &self.form);
        }
        let migrated = migrate_rows(rows, self.header, self.descriptor);
        let migrated = migrated.map_err(|source| StateError::row(self.name, group, source))?;
        self.state.load(group, &migrated, &self.form)
    }

    /// Takes in the rows of a store that is only read.
    pub(super) fn load_frozen(
        &mut self,
        reader: &mut dyn FrozenStore,
        groups: KeyGroupRange,
        order: RowOrder,
    ) -> Result<(), StateError> {
        let (name, mut portion, mut loaded) = (self.name, Portion::of(order), Ok(()));
        let visited = reader.visit(&name.state, groups, &mut |key, value| {
            if loaded.is_ok() {
                loaded = portion.push(self.name, (key, value), |group, rows| {
                    self.load(group, rows)
                });
            }
        });
        visited.map_err(|source| read_error(name, source))?;
        loaded?;
        portion.end(|group, rows| self.load(group, rows))
    }

    /// Leaves the rows in the own store, rewrites them there, or takes them out of it, as the opened state needs. Looks at no
    /// other key groups than `groups`: what lies there of others was taken in from elsewhere.
    pub(super) fn load_own(
        &mut self,
        own: &mut dyn OwnRows,
        groups: KeyGroupRange,
        order: RowOrder,
    ) -> Result<(), StateError> {
        let is_as_it_was = !self.migrates && self.form.timed == self.form.keeps_time;
        let is_paged = self.state.is_paged();
        if is_paged && order == self.state.row_order() && is_as_it_was {
            return self.state.adopt_stored(groups);
        }
        let rows = own.open()?;
        if is_paged && order != self.state.row_order() {
            return self.reorder_own(rows, groups, order);
        }
        self.load_all(rows, groups, order)?;
        if is_paged {
            return Ok(());
        }
        own.remove()
    }

    /// Takes in rows of the own store that lie in another order than the opened state has them: all of them pass through
    /// memory, because old and new rows would lie among each other.
    fn reorder_own(
        &mut self,
        mut rows: Box<dyn Backing>,
        groups: KeyGroupRange,
        order: RowOrder,
    ) -> Result<(), StateError> {
        let all = (&first_of(groups.start), &first_of(groups.end));
        let mut held = Vec::new();
        let scanned = rows.scan(all, usize::MAX, &mut |key, value| {
            held.push((key.clone(), value.to_vec()));
        });
        scanned.map_err(|source| read_error(self.name, source))?;
        let dropped = rows.drop_range(all.0, all.1);
        dropped.map_err(|source| StateError::backing(self.name.clone(), "write to", source))?;
        let mut portion = Portion::of(order);
        for (key, value) in &held {
            portion.push(self.name, (key, value), |group, rows| {
                self.load(group, rows)
            })?;
        }
        portion.end(|group, rows| self.load(group, rows))
    }

    /// Takes in the rows of the own store, portion by portion.
    fn load_all(
        &mut self,
        mut rows: Box<dyn Backing>,
        groups: KeyGroupRange,
        order: RowOrder,
    ) -> Result<(), StateError> {
        let (mut from, behind) = (first_of(groups.start), first_of(groups.end));
        loop {
            let (mut read, mut found) = (Vec::new(), 0);
            let scanned = rows.scan((&from, &behind), PORTION_ROWS, &mut |key, value| {
                read.push((key.clone(), value.to_vec()));
                found += 1;
            });
            scanned.map_err(|source| read_error(self.name, source))?;
            let mut portion = Portion::of(order);
            for (key, value) in &read {
                portion.push(self.name, (key, value), |group, rows| {
                    self.load(group, rows)
                })?;
            }
            portion.end(|group, rows| self.load(group, rows))?;
            let Some((last, _)) = read.pop().filter(|_| found == PORTION_ROWS) else {
                return Ok(());
            };
            from = last;
            from.bytes.push(0);
        }
    }
}

/// The first key that a row of a key group may have.
const fn first_of(group: u16) -> RowKey {
    RowKey {
        group: KeyGroup(group),
        bytes: Vec::new(),
    }
}

/// Rows of one key group on their way into a state.
struct Portion {
    order: RowOrder,
    group: KeyGroup,
    rows: Vec<u8>,
    key: Vec<u8>,
}

impl Portion {
    /// Of rows that lie in this order.
    const fn of(order: RowOrder) -> Self {
        Self {
            order,
            group: KeyGroup(0),
            rows: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Adds a row; hands over what was there before when it is of another group, or enough.
    fn push(
        &mut self,
        name: &StateName,
        (key, value): (&RowKey, &[u8]),
        load: impl FnOnce(KeyGroup, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let is_over = self.group != key.group || self.rows.len() >= PORTION_BYTES;
        let handed = if is_over { self.end(load) } else { Ok(()) };
        self.group = key.group;
        self.key.clear();
        let read = self.order.to_key_first(&key.bytes, &mut self.key);
        read.map_err(|source| StateError::row(name, key.group, source))?;
        push_row(&self.key, value, &mut self.rows);
        handed
    }

    fn end(
        &mut self,
        load: impl FnOnce(KeyGroup, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let loaded = if self.rows.is_empty() {
            Ok(())
        } else {
            load(self.group, &self.rows)
        };
        self.rows.clear();
        loaded
    }
}

/// The rows of a store that is only read, as blocks in memory.
pub(super) fn blocks_of(
    name: &StateName,
    reader: &mut dyn FrozenStore,
    groups: KeyGroupRange,
    order: RowOrder,
) -> Result<Vec<GroupBlock>, StateError> {
    let (mut rows, mut row_key, mut refused) = (GroupRows::new(groups), Vec::new(), Ok(()));
    let visited = reader.visit(&name.state, groups, &mut |key, value| {
        row_key.clear();
        match order.to_key_first(&key.bytes, &mut row_key) {
            Ok(()) => {
                rows.push(key.group, &row_key, value);
            }
            Err(source) => refused = Err(StateError::row(name, key.group, source)),
        }
    });
    visited.map_err(|source| read_error(name, source))?;
    refused?;
    let blocks = groups.groups().zip(rows.groups);
    let filled = blocks.filter(|(_, buffer)| buffer.count > 0);
    let sealed = filled.map(|(group, buffer)| {
        let sorted = buffer.sorted();
        let (bytes, _) = sorted.map_err(|source| StateError::row(name, group, source))?;
        Ok(GroupBlock::new(group, buffer.count, bytes))
    });
    sealed.collect()
}

pub(super) fn read_error(name: &StateName, source: BackingError) -> StateError {
    StateError::backing(name.clone(), "read from", source)
}

/// Rewrites the values of rows; keys, and so the order, stay.
fn migrate_rows(
    mut rows: &[u8],
    stored: &StateHeader,
    declared: &StateDescriptor,
) -> Result<Vec<u8>, DecodeError> {
    let (mut out, mut value) = (Vec::with_capacity(rows.len()), Vec::new());
    while !rows.is_empty() {
        let (key, old) = next_row(&mut rows)?;
        value.clear();
        migrate_value(old, stored, declared, &mut value)?;
        push_row(key, &value, &mut out);
    }
    Ok(out)
}

fn migrate_value(
    mut old: &[u8],
    stored: &StateHeader,
    declared: &StateDescriptor,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let input = &mut old;
    let parts = match stored.kind {
        StateKind::List | StateKind::Map => {
            let count = decode_length(input)?;
            encode_length(count, out);
            count
        }
        _ => 1,
    };
    for _ in 0..parts {
        if stored.timed {
            out.extend_from_slice(take(input, size_of::<ProcessingTime>(), "last access")?);
        }
        for (old, new) in stored.schemas.values.iter().zip(&declared.schemas.values) {
            migrate(old, new, input, out)?;
        }
    }
    Ok(())
}
