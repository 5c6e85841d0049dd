//! Timers over a local store: each is a row, and only the near future is in memory.
//!
//! Called by the timers of keyed operators where state rests in a store. The rows of a key group lie in the order in which
//! they fire, by time, then hash, then key. Of each group the first [`NEAR_MAX`] are in memory; more come in by a scan when
//! those are gone. Changes wait in a buffer that is written in batches, at a barrier at the latest: then the store is all
//! there is, and what changes until it is frozen waits in the buffer. Setting and deleting a timer of the far future reads
//! nothing: a row is written whether it was there or not. The rule: the timers before the horizon of a group are all in memory,
//! and a row in the store counts unless the buffer says otherwise.

mod group;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::marker::PhantomData;

use highwater_types::{
    DecodeError, Key, KeyGroup, KeyGroupRange, KeyHash, MaxParallelism, OperatorUid,
    ProcessingTime, Record,
};

use self::group::{Group, NEAR_MAX};
use super::{KeyedState, OpenState, StateReport};
use crate::backing::{Backing, RowKey, RowWrite};
use crate::cell::StoredForm;
use crate::descriptor::{StateDescriptor, StateKind, StateSchemas};
use crate::error::{BackingError, StateError, StateName};
use crate::snapshot::order::{split_time, write_time};
use crate::snapshot::rows::next_row;
use crate::snapshot::{RowOrder, SavedRows, StateHeader, UnsealedState};
use crate::table::TableSetup;

/// Changes at which they are written to the store.
const BATCH_ROWS: usize = 4_096;

/// A timer that is due: its time, the hash of its key, and the key.
pub type DueTimer<K> = (i64, KeyHash, K);

/// The timers of one time domain of one operator subtask, over a local store. In a snapshot they are value state with the time
/// as namespace.
pub struct TimerState<K> {
    backing: Box<dyn Backing>,
    uid: OperatorUid,
    descriptor: StateDescriptor,
    range: KeyGroupRange,
    max_parallelism: MaxParallelism,
    groups: Vec<Group>,
    /// The first timer of each group that has any in memory, with its place in `groups`.
    heads: BTreeSet<(Vec<u8>, usize)>,
    /// Timers in memory.
    near: usize,
    is_saving: bool,
    is_withheld: bool,
    written: u64,
    scanned: u64,
    fault: Option<StateError>,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> OpenState for TimerState<K> {
    const KEEPS_TTL: bool = false;

    /// # Panics
    /// If there is no local store: on the heap timers are a table with an index.
    fn open(setup: TableSetup) -> Self {
        let behind = setup.backing.expect("timers of the heap are a table");
        Self {
            backing: behind.rows,
            uid: setup.uid,
            descriptor: setup.descriptor,
            range: setup.range,
            max_parallelism: setup.max_parallelism,
            groups: setup.range.groups().map(|_| Group::default()).collect(),
            heads: BTreeSet::new(),
            near: 0,
            is_saving: false,
            is_withheld: false,
            written: 0,
            scanned: 0,
            fault: None,
            key: PhantomData,
        }
    }

    fn shape() -> (StateKind, StateSchemas) {
        (StateKind::Value, StateSchemas::of::<K, i64, ()>())
    }
}

impl<K: Key> TimerState<K> {
    /// Sets a timer, unless it is set already.
    pub fn register(&mut self, hash: KeyHash, key: &K, time: i64) {
        let Some(at) = self.place_of(hash) else {
            return;
        };
        let row = row_of(hash, key, time);
        self.change(at, |group| group.register(row));
    }

    /// Takes a timer back, if it is set.
    pub fn delete(&mut self, hash: KeyHash, key: &K, time: i64) {
        let Some(at) = self.place_of(hash) else {
            return;
        };
        let row = row_of(hash, key, time);
        self.change(at, |group| group.delete(&row));
    }

    /// The time of the first timer.
    pub fn peek_time(&self) -> Option<i64> {
        let (row, _) = self.heads.first()?;
        Some(time_of(row))
    }

    /// Takes the first timer that is due at `upto`: by time, then by hash, then by encoded key.
    pub fn pop_due(&mut self, upto: i64) -> Option<DueTimer<K>> {
        let (row, at) = self.heads.first()?;
        if time_of(row) > upto {
            return None;
        }
        let (row, at) = (row.clone(), *at);
        let read = read_row::<K>(&row);
        self.change(at, |group| group.delete(&row));
        match read {
            Ok(timer) => Some(timer),
            Err(source) => {
                let error = StateError::row(&self.name(), self.group_at(at), source);
                self.fault.get_or_insert(error);
                None
            }
        }
    }

    /// Calls `visit` with the keys of up to `limit` of the timers in memory that are due at `upto`, the first ones, in any order.
    pub fn visit_due(&self, upto: i64, limit: usize, mut visit: impl FnMut(KeyHash, K)) {
        let is_due = |row: &&Vec<u8>| time_of(row) <= upto;
        let heads = self.heads.iter().take_while(|(row, _)| is_due(&row));
        let mut due: Vec<&[u8]> = Vec::new();
        for (_, at) in heads {
            let near = self.groups[*at].near().take_while(is_due);
            due.extend(near.map(Vec::as_slice));
        }
        if due.len() > limit {
            due.select_nth_unstable(limit);
            due.truncate(limit);
        }
        for row in due {
            if let Ok((_, hash, key)) = read_row(row) {
                visit(hash, key);
            }
        }
    }

    /// How many timers are in memory: no more than wait in all.
    pub const fn len(&self) -> usize {
        self.near
    }

    /// Whether no timer waits.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    fn group_at(&self, at: usize) -> KeyGroup {
        KeyGroup(self.range.start + at as u16)
    }

    fn name(&self) -> StateName {
        StateName {
            uid: self.uid.clone(),
            state: self.descriptor.name.clone(),
        }
    }

    /// The place of the group of a key among the own ones.
    fn place_of(&mut self, hash: KeyHash) -> Option<usize> {
        let group = hash.group(self.max_parallelism);
        if self.range.contains(group) {
            return Some((group.0 - self.range.start) as usize);
        }
        let (name, range) = (self.name(), self.range);
        self.fault
            .get_or_insert(StateError::ForeignGroup { name, group, range });
        None
    }

    /// Changes a group, and keeps its first timer in memory and among the heads.
    fn change(&mut self, at: usize, change: impl FnOnce(&mut Group)) {
        let before = self.groups[at].first().cloned();
        self.near -= self.groups[at].len();
        change(&mut self.groups[at]);
        self.refill(at);
        self.near += self.groups[at].len();
        let after = self.groups[at].first();
        if before.as_ref() == after {
            return;
        }
        if let Some(before) = before {
            self.heads.remove(&(before, at));
        }
        if let Some(after) = after {
            self.heads.insert((after.clone(), at));
        }
    }

    /// Brings in more timers of a group that has none in memory, if the store has any.
    fn refill(&mut self, at: usize) {
        let number = self.group_at(at);
        while let Some(from) = self.groups[at].wanted() {
            let (from, behind) = (
                RowKey {
                    group: number,
                    bytes: from,
                },
                RowKey {
                    group: KeyGroup(number.0 + 1),
                    bytes: Vec::new(),
                },
            );
            let mut rows = Vec::new();
            let mut visit = |key: &RowKey, _: &[u8]| rows.push(key.bytes.clone());
            let scanned = self.backing.scan((&from, &behind), NEAR_MAX, &mut visit);
            if let Err(source) = scanned {
                self.raise("read from", source);
                return;
            }
            self.scanned += rows.len() as u64;
            self.groups[at].admit(from.bytes, rows);
        }
    }

    /// Keeps the first error for the end of the chunk.
    #[cold]
    fn raise(&mut self, operation: &'static str, source: BackingError) {
        let name = self.name();
        self.fault
            .get_or_insert_with(|| StateError::backing(name, operation, source));
    }

    fn pending(&self) -> usize {
        self.groups.iter().map(Group::pending).sum()
    }

    /// Writes the changes that wait.
    fn flush(&mut self) {
        let mut batch = Vec::new();
        for at in 0..self.groups.len() {
            let group = self.group_at(at);
            for (bytes, is_set) in self.groups[at].take_pending() {
                batch.push(RowWrite {
                    key: RowKey { group, bytes },
                    value: is_set.then(Vec::new),
                });
            }
            if batch.len() >= BATCH_ROWS {
                self.write(&batch);
                batch.clear();
            }
        }
        self.write(&batch);
    }

    fn write(&mut self, batch: &[RowWrite]) {
        if batch.is_empty() {
            return;
        }
        debug_assert!(
            !self.is_withheld,
            "nothing is written while the store is frozen"
        );
        self.written += batch.len() as u64;
        if let Err(source) = self.backing.write(batch) {
            self.raise("write to", source);
        }
    }

    fn take_fault(&mut self) -> Result<(), StateError> {
        self.fault.take().map_or(Ok(()), Err)
    }

    fn load_row(&mut self, group: KeyGroup, rows: &mut &[u8]) -> Result<(), DecodeError> {
        let (mut bytes, _) = next_row(rows)?;
        let (key, time) = (K::decode(&mut bytes)?, i64::decode(&mut bytes)?);
        let hash = key.key_hash();
        if hash.group(self.max_parallelism) != group {
            return Err(DecodeError::Value {
                what: "key group of a key",
                value: u64::from(group.0),
            });
        }
        self.register(hash, &key, time);
        Ok(())
    }
}

fn row_of<K: Key>(hash: KeyHash, key: &K, time: i64) -> Vec<u8> {
    let mut row = Vec::new();
    write_time(time, hash.0, &mut row);
    key.encode(&mut row);
    row
}

/// The time of a row that was made or read here.
fn time_of(mut row: &[u8]) -> i64 {
    split_time(&mut row).map_or(i64::MIN, |(time, _)| time)
}

fn read_row<K: Key>(mut row: &[u8]) -> Result<DueTimer<K>, DecodeError> {
    let (time, hash) = split_time(&mut row)?;
    let key = K::decode(&mut row)?;
    if key.key_hash().0 != hash {
        return Err(DecodeError::Value {
            what: "hash of the key of a timer",
            value: hash,
        });
    }
    Ok((time, KeyHash(hash), key))
}

impl<K: Key> KeyedState for TimerState<K> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }

    fn is_paged(&self) -> bool {
        true
    }

    fn withhold_writes(&mut self, withheld: bool) {
        self.is_withheld = withheld;
    }

    fn row_order(&self) -> RowOrder {
        RowOrder::Time
    }

    fn adopt_stored(&mut self, groups: KeyGroupRange) -> Result<(), StateError> {
        // Of no other group: what is known of one whose timers were loaded would not hold any more.
        for group in groups.intersection(self.range).groups() {
            let at = (group.0 - self.range.start) as usize;
            self.change(at, Group::expect_stored);
        }
        self.take_fault()
    }

    fn used_bytes(&self) -> usize {
        self.groups.iter().map(Group::bytes).sum()
    }

    fn report(&self) -> StateReport {
        StateReport {
            name: self.descriptor.name.clone(),
            entries: self.len() as u64,
            bytes: self.used_bytes() as u64,
            misses: self.scanned,
            rows_written: self.written,
            ..StateReport::default()
        }
    }

    /// Writes what waits: a batch at most, because it is written whenever there is one.
    fn begin_snapshot(&mut self, _: ProcessingTime) {
        self.flush();
        self.is_saving = true;
    }

    fn advance_snapshot(&mut self, budget: usize) -> Option<usize> {
        Some(budget)
    }

    fn take_snapshot(&mut self) -> Result<UnsealedState, StateError> {
        self.take_fault()?;
        if !std::mem::take(&mut self.is_saving) {
            return Err(StateError::NoSnapshot {
                uid: self.uid.clone(),
            });
        }
        Ok(UnsealedState {
            header: StateHeader::of(&self.descriptor),
            rows: SavedRows::InStore(RowOrder::Time, None),
        })
    }

    fn abort_snapshot(&mut self) {
        self.is_saving = false;
    }

    fn load(&mut self, group: KeyGroup, mut rows: &[u8], _: &StoredForm) -> Result<(), StateError> {
        while !rows.is_empty() {
            self.load_row(group, &mut rows)
                .map_err(|source| StateError::row(&self.name(), group, source))?;
        }
        if self.pending() >= BATCH_ROWS {
            self.flush();
        }
        self.take_fault()
    }

    fn after_chunk(&mut self, _: ProcessingTime) -> Result<(), StateError> {
        let is_held = self.is_saving || self.is_withheld;
        if !is_held && self.pending() >= BATCH_ROWS {
            self.flush();
        }
        self.take_fault()
    }

    fn warm_keys(&self, _: &[KeyHash]) {
        // The first timers are in memory, and no other is read.
    }
}
