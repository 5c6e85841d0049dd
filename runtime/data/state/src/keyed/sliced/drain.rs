//! Draining a slice whose rows lie in memory and in a store, in portions, each entry once.
//!
//! Called by sliced state. The keys in memory are first sorted into their key groups, a few sub-tables a portion. Then the
//! groups are merged with a scan of the store in order of (group, key); what is in memory is newer. All before the place that
//! is reached is drained, all behind it is not: so a barrier between two portions removes one range, and what was drained
//! behind a barrier stays in the store until that is frozen. The rule: nobody looks into or writes to a slice that is being drained
//! without settling it first.

use std::cmp::Ordering;

use highwater_types::{
    Key, KeyGroup, KeyGroupRange, KeyHash, MaxParallelism, ProcessingTime, Record,
};

use super::rows::{SliceRows, SliceScan};
use crate::cell::{Cell, StoredForm};
use crate::error::{BackingError, StateError};
use crate::table::StateTable;

/// Sub-tables whose keys are sorted in one portion: up to some ten thousand keys.
const TABLES_PER_PORTION: usize = 4;

/// Key groups that one portion goes over.
const GROUPS_PER_PORTION: usize = 128;

/// Rows that settling reads at once.
const SETTLE_ROWS: usize = 1_024;

type Slice<K, V> = StateTable<K, (), V>;

/// How far a slice is drained.
pub(super) struct Drain<K> {
    range: KeyGroupRange,
    max_parallelism: MaxParallelism,
    /// Sub-tables whose keys are in `keys`.
    sorted_tables: usize,
    /// The keys in memory by key group.
    keys: Vec<Vec<K>>,
    /// The keys in memory of the group that is being drained, the last first, with their bytes.
    current: Option<Vec<(Vec<u8>, K)>>,
    /// The group that is being drained.
    group: KeyGroup,
    /// All keys of that group before these bytes are drained.
    from: Vec<u8>,
}

/// What a portion came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Portion {
    /// The slice holds nothing more.
    Last,
    /// It may.
    More,
}

/// A scan of one group.
struct Scan {
    rows: std::iter::Peekable<std::vec::IntoIter<(Vec<u8>, Vec<u8>)>>,
    /// Whether it came to the end of the group.
    is_whole: bool,
}

impl<K: Key> Drain<K> {
    pub(super) fn begin(range: KeyGroupRange, max_parallelism: MaxParallelism) -> Self {
        Self {
            range,
            max_parallelism,
            sorted_tables: 0,
            keys: range.groups().map(|_| Vec::new()).collect(),
            current: None,
            group: KeyGroup(range.start),
            from: Vec::new(),
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let keys = self
            .keys
            .iter()
            .map(|keys| keys.capacity() * size_of::<K>());
        let current = self.current.as_ref().map_or(0, |current| {
            current.len() * (size_of::<(Vec<u8>, K)>() + 16)
        });
        keys.sum::<usize>() + current
    }

    /// Hands over up to `limit` entries.
    pub(super) fn portion<V: Record>(
        &mut self,
        (table, rows): (&mut Slice<K, V>, &SliceRows),
        limit: usize,
        take: &mut dyn FnMut(KeyHash, K, V),
    ) -> Result<Portion, StateError> {
        table.flush_pending()?;
        if self.sorted_tables < table.sub_tables() {
            self.sort_some(table);
            if self.sorted_tables < table.sub_tables() {
                return Ok(Portion::More);
            }
        }
        let mut left = limit;
        for _ in 0..GROUPS_PER_PORTION {
            if !self.range.contains(self.group) {
                return Ok(Portion::Last);
            }
            if left == 0 {
                return Ok(Portion::More);
            }
            left -= self.drain_group((table, rows), left, take)?;
        }
        Ok(Portion::More)
    }

    fn sort_some<V: Record>(&mut self, table: &Slice<K, V>) {
        let end = table
            .sub_tables()
            .min(self.sorted_tables + TABLES_PER_PORTION);
        for at in self.sorted_tables..end {
            table.visit_sub_table(at, |hash, key| {
                let group = hash.group(self.max_parallelism);
                self.keys[(group.0 - self.range.start) as usize].push(key.clone());
            });
        }
        self.sorted_tables = end;
    }

    /// Hands over up to `limit` entries of the group, and goes on to the next one at its end. Returns how many.
    fn drain_group<V: Record>(
        &mut self,
        (table, rows): (&mut Slice<K, V>, &SliceRows),
        limit: usize,
        take: &mut dyn FnMut(KeyHash, K, V),
    ) -> Result<usize, StateError> {
        let scanned = rows.scan_group(self.group, &self.from, limit);
        let scanned = scanned.map_err(|source| read_error(table, source))?;
        let mut scan = Scan {
            is_whole: scanned.len() < limit,
            rows: scanned.into_iter().peekable(),
        };
        let at = (self.group.0 - self.range.start) as usize;
        let mut current = match self.current.take() {
            Some(current) => current,
            None => in_order(std::mem::take(&mut self.keys[at])),
        };
        let mut count = 0;
        while count < limit {
            let Some(next) = self.next_entry(table, &mut current, &mut scan)? else {
                break;
            };
            if let Some((hash, key, value)) = next {
                count += 1;
                take(hash, key, value);
            }
        }
        if scan.is_whole && scan.rows.peek().is_none() && current.is_empty() {
            self.group = KeyGroup(self.group.0 + 1);
            self.from.clear();
        } else {
            self.current = Some(current);
        }
        Ok(count)
    }

    /// Moves behind the next key of the group. `None` = nothing is known of what comes next; `Some(None)` = it holds no entry.
    #[expect(clippy::type_complexity, reason = "an entry that may be there")]
    fn next_entry<V: Record>(
        &mut self,
        table: &mut Slice<K, V>,
        current: &mut Vec<(Vec<u8>, K)>,
        scan: &mut Scan,
    ) -> Result<Option<Option<(KeyHash, K, V)>>, StateError> {
        let order = match (current.last(), scan.rows.peek()) {
            (None, None) => return Ok(None),
            (Some(_), None) if !scan.is_whole => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((held, _)), Some((stored, _))) => held.cmp(stored),
        };
        let held = if order.is_le() { current.pop() } else { None };
        let row = if order.is_ge() {
            scan.rows.next()
        } else {
            None
        };
        let passed = held.as_ref().map(|(bytes, _)| bytes);
        let passed = passed.or_else(|| row.as_ref().map(|(bytes, _)| bytes));
        self.from.clear();
        self.from.extend(passed.into_iter().flatten());
        self.from.push(0);
        let key = match (held, &row) {
            (Some((_, key)), _) => key,
            (None, Some((bytes, _))) => self.read_key(table, bytes)?,
            (None, None) => return Ok(None),
        };
        let hash = key.key_hash();
        if let Some(value) = table.take_without_trace(hash, &key, &()) {
            return Ok(Some(Some((hash, key, value))));
        }
        let Some((_, value)) = row.filter(|_| !table.is_removed(hash, &key, &())) else {
            return Ok(Some(None));
        };
        let value = self.read_value(table, &value)?;
        Ok(Some(Some((hash, key, value))))
    }

    fn read_key<V: Record>(&self, table: &Slice<K, V>, mut bytes: &[u8]) -> Result<K, StateError> {
        K::decode(&mut bytes).map_err(|source| StateError::row(&table.name(), self.group, source))
    }

    fn read_value<V: Record>(
        &self,
        table: &Slice<K, V>,
        mut bytes: &[u8],
    ) -> Result<V, StateError> {
        let form = StoredForm {
            timed: false,
            keeps_time: false,
            now: ProcessingTime(0),
        };
        let read = <V as Cell>::read(&mut bytes, &form);
        let (value, _) =
            read.map_err(|source| StateError::row(&table.name(), self.group, source))?;
        Ok(value)
    }

    /// Removes what is drained from the store: at a barrier.
    pub(super) fn remove_drained<V: Record>(
        &self,
        (table, rows): (&mut Slice<K, V>, &SliceRows),
    ) -> Result<(), StateError> {
        table.flush_pending()?;
        rows.remove_before(self.group, &self.from)
            .map_err(|source| StateError::backing(table.name(), "write to", source))
    }

    /// Turns what is drained, and not yet removed from the store, into removals of the table: from here on it is a slice as
    /// any other. Costs what was drained; no operator does that to a slice that it fires.
    pub(super) fn settle<V: Record>(
        mut self,
        (table, rows): (&mut Slice<K, V>, &SliceRows),
    ) -> Result<(), StateError> {
        table.flush_pending()?;
        let (last, until) = (self.group, std::mem::take(&mut self.from));
        for group in self.range.groups().take_while(|&group| group <= last) {
            self.group = group;
            let mut from = Vec::new();
            loop {
                let scanned = rows.scan_group(group, &from, SETTLE_ROWS);
                let scanned: SliceScan = scanned.map_err(|source| read_error(table, source))?;
                let is_drained = |bytes: &[u8]| group < last || bytes < until.as_slice();
                let goes_on = scanned.len() == SETTLE_ROWS;
                let Some((end, _)) = scanned.last() else {
                    break;
                };
                from = [end.as_slice(), &[0]].concat();
                for (bytes, _) in scanned.iter().filter(|(bytes, _)| is_drained(bytes)) {
                    let key = self.read_key(table, bytes)?;
                    table.note_removed(key.key_hash(), key, ());
                }
                if !goes_on || !is_drained(&from) {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Keys with their bytes, the last first.
fn in_order<K: Key>(keys: Vec<K>) -> Vec<(Vec<u8>, K)> {
    let encoded = keys.into_iter().map(|key| {
        let mut bytes = Vec::new();
        key.encode(&mut bytes);
        (bytes, key)
    });
    let mut current: Vec<_> = encoded.collect();
    current.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    current.dedup_by(|a, b| a.0 == b.0);
    current
}

fn read_error<K: Key, V: Record>(table: &Slice<K, V>, source: BackingError) -> StateError {
    StateError::backing(table.name(), "read from", source)
}
