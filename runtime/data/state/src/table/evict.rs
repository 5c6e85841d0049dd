//! Eviction: how a table that is a cache over a store gives memory back. Nothing here runs on the heap.
//!
//! A hand goes over the entries and drops those that were last used before a tick of the shared budget. What is dirty is
//! first written, together with the dirty victims behind it, in batches of [`CLEAN_ROWS`] rows: they stay in memory, clean
//! and as old as they are, until the hand reaches them. While a snapshot runs, entries written after the barrier
//! stay, because the store may not see them before it is frozen; while it is being frozen only clean ones go.

use highwater_types::Key;

use super::directory::{Position, table_hash};
use super::filter::Filter;
use super::marks::Mark;
use super::recency::Pass;
use super::sub_table::SubTable;
use super::{Namespace, StateTable};
use crate::budget::{Relief, Relieved};
use crate::cell::Cell;

/// Rows of a batch that cleans ahead of the hand: sorted and written in about 1 ms by a log-structured merge tree. Batches
/// of 32 times as many cost as much for each row.
const CLEAN_ROWS: usize = 1_024;

/// Slots that cleaning looks at for one batch.
const CLEAN_SLOTS: usize = 65_536;

/// Pending removals at which so many are written to the store.
const REMOVALS_MAX: usize = 1_024;

/// The filter of what only the store has may take this part of the bytes of the entries.
const FILTER_SHARE: usize = 8;

/// When there are less than this part of them for its size, it is given up.
const FILTER_SHARE_LEAST: usize = 2;

/// Bytes of a filter that are never too many.
const FILTER_SMALL: usize = 16 * 1_024;

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    /// Ends a chunk of a cache: forgets what was absent, writes removals when they are many.
    pub(super) fn end_chunk_of_cache(&mut self) {
        let entries = self.used_bytes() - self.fixed_bytes();
        let Some(paging) = self.paging.as_mut() else {
            return;
        };
        paging.forget_absent();
        paging.likely.end_chunk();
        let filter = paging.only_stored.as_ref().map_or(0, Filter::bytes);
        if filter > FILTER_SMALL && filter > entries / FILTER_SHARE_LEAST {
            paging.only_stored = None;
        }
        let is_due = paging.removed.len() > REMOVALS_MAX && !paging.is_withheld;
        if is_due && self.saving.is_none() {
            self.save_removals(REMOVALS_MAX);
        }
    }

    /// Gives back up to what is wanted of `relief`, of what was last used before its tick.
    pub(crate) fn relieve(&mut self, relief: &mut Relief) -> Relieved {
        let Some(paging) = self.paging.as_mut() else {
            return Relieved::All;
        };
        paging.recency.note(relief.tick, &mut self.marks);
        let older = paging.recency.begin_of(relief.stale);
        let mut pass = paging.recency.pass;
        if pass.stale != relief.stale || (pass.is_done && older.is_none()) {
            pass = Pass::new(relief.stale);
        }
        if pass.is_done {
            return Relieved::All;
        }
        let relieved = self.sweep_victims(&mut pass, older, relief);
        pass.is_done = relieved == Relieved::All;
        if let Some(paging) = self.paging.as_mut() {
            paging.recency.pass = pass;
        }
        relieved
    }

    fn sweep_victims(
        &mut self,
        pass: &mut Pass,
        older: Option<Mark>,
        relief: &mut Relief,
    ) -> Relieved {
        while let Some(sub) = self.directory.tables.get(pass.hand.table as usize) {
            pass.hand.at = pass.hand.at.min(sub.slots() as u32);
            while pass.hand.at > 0 {
                if relief.wanted == 0 || relief.slots == 0 {
                    return Relieved::Part;
                }
                relief.slots -= 1;
                let at = Position {
                    at: pass.hand.at - 1,
                    ..pass.hand
                };
                if let Some(mark) = self.victim(at, older) {
                    if mark.is_dirty() {
                        if relief.rows == 0 {
                            return Relieved::Part;
                        }
                        self.clean_ahead(at, older, relief);
                    }
                    relief.wanted = relief.wanted.saturating_sub(self.drop_entry(at) as u64);
                }
                pass.hand = at;
            }
            self.directory.shrink(pass.hand.table);
            pass.hand = Position {
                table: pass.hand.table + 1,
                at: u32::MAX,
            };
        }
        Relieved::All
    }

    /// The mark of the entry in a slot if it may go: now when it is clean, after it is written when it is dirty.
    fn victim(&self, at: Position, older: Option<Mark>) -> Option<Mark> {
        let entry = self.directory.tables[at.table as usize].get(at.at as usize)?;
        let is_old = older.is_none_or(|older| entry.mark < older);
        let may_go = is_old && (!entry.mark.is_dirty() || self.may_write(entry.mark));
        may_go.then_some(entry.mark)
    }

    /// Whether a dirty entry with this mark may be written to the store now.
    fn may_write(&self, mark: Mark) -> bool {
        let is_withheld = self.paging.as_ref().is_none_or(|held| held.is_withheld);
        !is_withheld && (self.saving.is_none() || self.is_owed(mark))
    }

    /// Writes the dirty victims from `from` on, downwards and then in the sub-tables behind it.
    fn clean_ahead(&mut self, from: Position, older: Option<Mark>, relief: &mut Relief) {
        let (mut rows, mut slots) = (CLEAN_ROWS, CLEAN_SLOTS);
        let mut at = from.at + 1;
        for table in from.table..self.directory.tables.len() as u32 {
            while at > 0 && rows > 0 && slots > 0 {
                at -= 1;
                slots -= 1;
                let position = Position { table, at };
                if let Some(mark) = self.victim(position, older)
                    && mark.is_dirty()
                {
                    self.write_out(position);
                    self.directory.entry_mut(position).mark = mark.cleaned();
                    rows -= 1;
                }
            }
            let next = self.directory.tables.get(table as usize + 1);
            at = next.map_or(0, SubTable::slots) as u32;
        }
        let written = CLEAN_ROWS - rows;
        relief.rows = relief.rows.saturating_sub(written);
        if let Some(paging) = self.paging.as_mut() {
            paging.counts.evicted_dirty += written as u64;
        }
        self.flush();
    }

    /// Drops a clean entry. Returns the bytes that it took.
    fn drop_entry(&mut self, position: Position) -> usize {
        let entry = self.directory.remove(position);
        let heap = entry.key.heap_bytes() + entry.namespace.heap_bytes() + entry.value.heap_bytes();
        self.heap_bytes -= heap;
        self.note_stored(table_hash(entry.hash(), &entry.namespace));
        if let Some(paging) = self.paging.as_mut() {
            paging.counts.evicted += 1;
        }
        self.entry_bytes() + heap
    }

    /// The store has rows that the table never saw: from now on only the store knows what it holds.
    pub(crate) fn expect_stored(&mut self) {
        if let Some(paging) = self.paging.as_mut() {
            paging.only_stored = None;
        }
    }

    /// Notes that only the store has the key that is placed by `placed`.
    pub(super) fn note_stored(&mut self, placed: u64) {
        let table = self.directory.table_of(placed);
        self.directory.tables[table as usize].is_complete = false;
        let room = (self.directory.len() * self.entry_bytes() + self.heap_bytes) / FILTER_SHARE;
        if let Some(paging) = self.paging.as_mut()
            && let Some(filter) = paging.only_stored.as_mut()
            && !filter.insert(placed, room)
        {
            paging.only_stored = None;
        }
    }
}
