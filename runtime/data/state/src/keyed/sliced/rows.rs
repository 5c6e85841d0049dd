//! The rows of the slices of one state in a local store: one store for all, each slice with its namespace in front.
//!
//! Owned by sliced state; each slice's table has a handle. Knows in which key groups a slice has rows, so that a read of a
//! group without is none, and dropping a slice is one range per group with rows. The rule: a slice that was dropped while its
//! rows could not be removed is hidden from a slice of the same namespace until they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_types::{KeyGroup, KeyGroupRange};

use crate::backing::{Backing, RowKey, RowWrite, VisitRow};
use crate::error::BackingError;
use crate::snapshot::order::behind;

/// A set of key groups of one subtask.
#[derive(Clone, Debug, Default)]
struct Groups(Vec<u64>);

impl Groups {
    fn insert(&mut self, at: usize) {
        let word = at / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (at % 64);
    }

    fn remove(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word &= !(1 << (at % 64));
        }
    }

    fn contains(&self, at: usize) -> bool {
        let word = self.0.get(at / 64);
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }
}

struct Shared {
    backing: Box<dyn Backing>,
    range: KeyGroupRange,
    /// The key groups in which a slice may have rows, by the beginning of their keys.
    written: BTreeMap<Vec<u8>, Groups>,
    /// Slices that were dropped and whose rows are there yet.
    doomed: BTreeSet<Vec<u8>>,
    /// How often doomed slices were removed.
    burials: u64,
}

/// The rows of all slices.
#[derive(Clone)]
pub(super) struct SharedRows(Arc<Mutex<Shared>>);

/// The rows of one slice: a [`Backing`] with keys less the namespace.
#[derive(Clone)]
pub(super) struct SliceRows {
    shared: SharedRows,
    prefix: Vec<u8>,
    /// The number of burials when this slice began, if one of the same namespace was doomed: until the next the rows are not
    /// of this one.
    hidden_at: Option<u64>,
}

/// The first `limit` rows of a range: keys less the namespace, and values.
pub(super) type SliceScan = Vec<(Vec<u8>, Vec<u8>)>;

impl SharedRows {
    pub(super) fn new(backing: Box<dyn Backing>, range: KeyGroupRange) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            backing,
            range,
            written: BTreeMap::new(),
            doomed: BTreeSet::new(),
            burials: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Held by one thread at a time, and nothing in it is half done when a call panics but its store.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of the slice whose keys begin with `prefix`.
    pub(super) fn slice(&self, prefix: Vec<u8>) -> SliceRows {
        let shared = self.lock();
        let hidden_at = shared.doomed.contains(&prefix).then_some(shared.burials);
        drop(shared);
        SliceRows {
            shared: self.clone(),
            prefix,
            hidden_at,
        }
    }

    /// The beginning of the key of the first row of `group` from `from` on.
    pub(super) fn first_row(
        &self,
        group: KeyGroup,
        from: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, BackingError> {
        let mut first = None;
        let range = (&RowKey { group, bytes: from }, &end_of(group));
        let mut shared = self.lock();
        let mut visit = |key: &RowKey, _: &[u8]| first = Some(key.bytes.clone());
        shared.backing.scan(range, 1, &mut visit)?;
        Ok(first)
    }

    /// Notes that a slice has rows in `group`.
    pub(super) fn note_written(&self, prefix: &[u8], group: KeyGroup) {
        self.lock().note_written(prefix, group);
    }

    /// Removes the rows of all slices that are doomed.
    pub(super) fn bury(&self) -> Result<(), BackingError> {
        let mut shared = self.lock();
        while let Some(prefix) = shared.doomed.pop_first() {
            shared.remove_slice(&prefix)?;
        }
        shared.burials += 1;
        Ok(())
    }
}

impl Shared {
    fn at(&self, group: KeyGroup) -> usize {
        (group.0 - self.range.start) as usize
    }

    fn note_written(&mut self, prefix: &[u8], group: KeyGroup) {
        let at = self.at(group);
        if let Some(groups) = self.written.get_mut(prefix) {
            groups.insert(at);
            return;
        }
        let mut groups = Groups::default();
        groups.insert(at);
        self.written.insert(prefix.to_vec(), groups);
    }

    fn has_rows(&self, prefix: &[u8], group: KeyGroup) -> bool {
        let groups = self.written.get(prefix);
        self.range.contains(group) && groups.is_some_and(|held| held.contains(self.at(group)))
    }

    fn remove_slice(&mut self, prefix: &[u8]) -> Result<(), BackingError> {
        for group in self.range.groups() {
            if self.has_rows(prefix, group) {
                self.remove_rows(prefix, group, None)?;
            }
        }
        self.written.remove(prefix);
        Ok(())
    }

    /// Removes the rows of a slice in one group, those before `until` or all.
    fn remove_rows(
        &mut self,
        prefix: &[u8],
        group: KeyGroup,
        until: Option<&[u8]>,
    ) -> Result<(), BackingError> {
        let end = match until {
            Some(until) => RowKey {
                group,
                bytes: [prefix, until].concat(),
            },
            None => end_of_slice(prefix, group),
        };
        let bytes = prefix.to_vec();
        self.backing.drop_range(&RowKey { group, bytes }, &end)
    }
}

/// The first key behind a group.
const fn end_of(group: KeyGroup) -> RowKey {
    RowKey {
        group: KeyGroup(group.0 + 1),
        bytes: Vec::new(),
    }
}

fn end_of_slice(prefix: &[u8], group: KeyGroup) -> RowKey {
    behind(prefix).map_or_else(|| end_of(group), |bytes| RowKey { group, bytes })
}

impl SliceRows {
    fn is_hidden(&self, shared: &Shared) -> bool {
        self.hidden_at == Some(shared.burials)
    }

    /// Whether the slice has no rows.
    pub(super) fn is_unwritten(&self) -> bool {
        let shared = self.shared.lock();
        let groups = shared.written.get(&self.prefix);
        self.is_hidden(&shared) || groups.is_none_or(Groups::is_empty)
    }

    /// The rows of one group from `from` on.
    pub(super) fn scan_group(
        &self,
        group: KeyGroup,
        from: &[u8],
        limit: usize,
    ) -> Result<SliceScan, BackingError> {
        let mut rows = SliceScan::new();
        let mut shared = self.shared.lock();
        if self.is_hidden(&shared) || !shared.has_rows(&self.prefix, group) {
            return Ok(rows);
        }
        let bytes = [&self.prefix, from].concat();
        let range = (&RowKey { group, bytes }, &end_of_slice(&self.prefix, group));
        let mut visit = |key: &RowKey, value: &[u8]| {
            rows.push((key.bytes[self.prefix.len()..].to_vec(), value.to_vec()));
        };
        shared.backing.scan(range, limit, &mut visit)?;
        Ok(rows)
    }

    /// Removes the rows of the groups before `group`, and those of it before `until`.
    pub(super) fn remove_before(&self, group: KeyGroup, until: &[u8]) -> Result<(), BackingError> {
        let mut shared = self.shared.lock();
        if self.is_hidden(&shared) {
            return Ok(());
        }
        for at in shared.range.groups().take_while(|&at| at <= group) {
            if !shared.has_rows(&self.prefix, at) {
                continue;
            }
            if at == group {
                shared.remove_rows(&self.prefix, at, Some(until))?;
                break;
            }
            shared.remove_rows(&self.prefix, at, None)?;
            let place = shared.at(at);
            if let Some(groups) = shared.written.get_mut(&self.prefix) {
                groups.remove(place);
            }
        }
        Ok(())
    }

    /// Removes all rows.
    pub(super) fn remove_all(&self) -> Result<(), BackingError> {
        let mut shared = self.shared.lock();
        if self.is_hidden(&shared) {
            return Ok(());
        }
        shared.remove_slice(&self.prefix)
    }

    /// Removes all rows, later: see [`SharedRows::bury`].
    pub(super) fn doom(&self) {
        let mut shared = self.shared.lock();
        shared.doomed.insert(self.prefix.clone());
    }

    fn full(&self, key: &RowKey) -> RowKey {
        RowKey {
            group: key.group,
            bytes: [&self.prefix, key.bytes.as_slice()].concat(),
        }
    }
}

impl Backing for SliceRows {
    fn fetch(
        &mut self,
        keys: &[RowKey],
        found: &mut Vec<Option<Vec<u8>>>,
    ) -> Result<(), BackingError> {
        let mut shared = self.shared.lock();
        let is_hidden = self.is_hidden(&shared);
        let may_have = |key: &&RowKey| !is_hidden && shared.has_rows(&self.prefix, key.group);
        let asked: Vec<_> = keys.iter().map(|key| may_have(&key)).collect();
        let full: Vec<_> = keys
            .iter()
            .filter(may_have)
            .map(|key| self.full(key))
            .collect();
        let mut read = Vec::with_capacity(full.len());
        if !full.is_empty() {
            shared.backing.fetch(&full, &mut read)?;
        }
        let mut read = read.into_iter();
        found.extend(asked.into_iter().map(|is_asked| {
            let value = is_asked.then(|| read.next());
            value.flatten().flatten()
        }));
        Ok(())
    }

    fn write(&mut self, rows: &[RowWrite]) -> Result<(), BackingError> {
        let mut shared = self.shared.lock();
        assert!(
            !self.is_hidden(&shared),
            "a slice writes behind the rows of one that was dropped"
        );
        let mut full = Vec::with_capacity(rows.len());
        for row in rows {
            if row.value.is_some() {
                shared.note_written(&self.prefix, row.key.group);
            } else if !shared.has_rows(&self.prefix, row.key.group) {
                continue;
            }
            full.push(RowWrite {
                key: self.full(&row.key),
                value: row.value.clone(),
            });
        }
        if full.is_empty() {
            return Ok(());
        }
        shared.backing.write(&full)
    }

    fn scan(
        &mut self,
        (from, until): (&RowKey, &RowKey),
        limit: usize,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError> {
        let mut left = limit;
        let mut group = from.group;
        while left > 0 && group <= until.group {
            let start = if group == from.group {
                &from.bytes[..]
            } else {
                &[]
            };
            let rows = self.scan_group(group, start, left)?;
            let is_before = |key: &Vec<u8>| group < until.group || *key < until.bytes;
            for (bytes, value) in rows.into_iter().filter(|(key, _)| is_before(key)) {
                left -= 1;
                visit(&RowKey { group, bytes }, &value);
            }
            group = KeyGroup(group.0 + 1);
            if !self.shared.lock().range.contains(group) {
                break;
            }
        }
        Ok(())
    }

    fn drop_range(&mut self, from: &RowKey, until: &RowKey) -> Result<(), BackingError> {
        let mut shared = self.shared.lock();
        if self.is_hidden(&shared) {
            return Ok(());
        }
        for group in shared.range.groups() {
            if group < from.group || group > until.group {
                continue;
            }
            let start = if group == from.group {
                &from.bytes[..]
            } else {
                &[]
            };
            let bytes = [&self.prefix, start].concat();
            let end = if group == until.group {
                self.full(until)
            } else {
                end_of_slice(&self.prefix, group)
            };
            shared.backing.drop_range(&RowKey { group, bytes }, &end)?;
        }
        Ok(())
    }
}
