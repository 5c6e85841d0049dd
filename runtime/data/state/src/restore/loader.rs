//! Taking the rows of one stored state into the state that was opened, whatever form they come in.
//!
//! Called by [`Restored::load`](super::Restored::load). Rows of an older schema are rewritten on the way. No more than a
//! portion of them is in memory besides what the state holds itself.

use highwater_types::migrate::migrate;
use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::{DecodeError, KeyGroup, KeyGroupRange, ProcessingTime};

use super::OwnRows;
use crate::backing::RowKey;
use crate::cell::StoredForm;
use crate::descriptor::{StateDescriptor, StateKind};
use crate::error::{BackingError, StateError, StateName};
use crate::keyed::KeyedState;
use crate::snapshot::rows::{GroupRows, next_row, push_row};
use crate::snapshot::{GroupBlock, StateHeader};
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
        let migrated = migrated.map_err(|source| StateError::Decode {
            what: format!("a row of {} in key group {group}", self.name),
            source,
        })?;
        self.state.load(group, &migrated, &self.form)
    }

    /// Takes in the rows of a store that is only read.
    pub(super) fn load_frozen(
        &mut self,
        reader: &mut dyn FrozenStore,
        groups: KeyGroupRange,
    ) -> Result<(), StateError> {
        let (name, mut portion, mut loaded) = (self.name, Portion::default(), Ok(()));
        let visited = reader.visit(&name.state, groups, &mut |key, value| {
            if loaded.is_ok() {
                loaded = portion.push(key, value, |group, rows| self.load(group, rows));
            }
        });
        visited.map_err(|source| read_error(name, source))?;
        loaded?;
        portion.end(|group, rows| self.load(group, rows))
    }

    /// Leaves the rows in the own store, rewrites them there, or takes them out of it, as the opened state needs.
    pub(super) fn load_own(&mut self, own: &mut dyn OwnRows) -> Result<(), StateError> {
        let is_as_it_was = !self.migrates && self.form.timed == self.form.keeps_time;
        if self.state.is_paged() && is_as_it_was {
            return Ok(());
        }
        let mut rows = own.open()?;
        let behind = RowKey {
            group: KeyGroup(u16::MAX),
            bytes: Vec::new(),
        };
        let mut from = RowKey {
            group: KeyGroup(0),
            bytes: Vec::new(),
        };
        loop {
            let (mut read, mut found) = (Vec::new(), 0);
            let scanned = rows.scan((&from, &behind), PORTION_ROWS, &mut |key, value| {
                read.push((key.clone(), value.to_vec()));
                found += 1;
            });
            scanned.map_err(|source| read_error(self.name, source))?;
            let mut portion = Portion::default();
            for (key, value) in &read {
                portion.push(key, value, |group, rows| self.load(group, rows))?;
            }
            portion.end(|group, rows| self.load(group, rows))?;
            let Some((last, _)) = read.pop() else {
                break;
            };
            if found < PORTION_ROWS {
                break;
            }
            from = last;
            from.bytes.push(0);
        }
        if self.state.is_paged() {
            return Ok(());
        }
        drop(rows);
        own.remove()
    }
}

/// Rows of one key group on their way into a state.
#[derive(Default)]
struct Portion {
    group: KeyGroup,
    rows: Vec<u8>,
}

impl Portion {
    /// Adds a row; hands over what was there before when it is of another group, or enough.
    fn push(
        &mut self,
        key: &RowKey,
        value: &[u8],
        load: impl FnOnce(KeyGroup, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let is_over = self.group != key.group || self.rows.len() >= PORTION_BYTES;
        let handed = if is_over { self.end(load) } else { Ok(()) };
        self.group = key.group;
        push_row(&key.bytes, value, &mut self.rows);
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
) -> Result<Vec<GroupBlock>, StateError> {
    let mut rows = GroupRows::new(groups);
    let visited = reader.visit(&name.state, groups, &mut |key, value| {
        rows.push(key.group, &key.bytes, value);
    });
    visited.map_err(|source| read_error(name, source))?;
    let blocks = groups.groups().zip(rows.groups);
    let filled = blocks.filter(|(_, buffer)| buffer.count > 0);
    Ok(filled
        .map(|(group, buffer)| GroupBlock::new(group, buffer.count, buffer.bytes))
        .collect())
}

pub(super) fn read_error(name: &StateName, source: BackingError) -> StateError {
    StateError::Backing {
        name: name.clone(),
        operation: "read from",
        kind: source.kind(),
        source,
    }
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
