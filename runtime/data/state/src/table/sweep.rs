//! Cleanup of expired values in pieces, between chunks.

use highwater_types::{Key, ProcessingTime};

use super::directory::Position;
use super::{Namespace, StateTable};
use crate::cell::{Cell, Swept};
use crate::ttl::Expiry;

/// The most entries that one call looks at: keeps the pause between two chunks short.
const ENTRIES_MAX: usize = 4_096;

impl<K: Key, N: Namespace, C: Cell> StateTable<K, N, C> {
    /// Looks at some entries for each access since the last call and removes what is expired.
    pub(super) fn sweep_expired(&mut self, now: ProcessingTime) {
        let accesses = std::mem::take(&mut self.accesses) as usize;
        let Some(ttl) = self.descriptor.ttl else {
            return;
        };
        let budget = accesses.saturating_mul(ttl.cleanup.entries_per_access as usize);
        let budget = budget.min(ENTRIES_MAX).min(self.directory.len());
        let expiry = Expiry { ttl, now };
        for _ in 0..budget {
            let Some(position) = self.next_to_sweep() else {
                return;
            };
            let stamp = self.directory.stamp(position);
            match self.cell(position).inspect(stamp, &expiry) {
                Swept::Whole => {}
                Swept::Parts => self.modify(position, |cell| cell.sweep(&expiry)),
                Swept::Gone => self.remove_expired(position),
            }
        }
    }

    /// The entry after the one looked at last: downwards within a sub-table, because removal moves later entries down.
    fn next_to_sweep(&mut self) -> Option<Position> {
        let tables = self.directory.tables.len() as u32;
        for _ in 0..=tables {
            let sub = &self.directory.tables[self.swept.table as usize];
            let mut at = self.swept.at.min(sub.slots() as u32);
            while at > 0 {
                at -= 1;
                if sub.get(at as usize).is_some() {
                    self.swept.at = at;
                    return Some(self.swept);
                }
            }
            let table = (self.swept.table + 1) % tables;
            let at = self.directory.tables[table as usize].slots() as u32;
            self.swept = Position { table, at };
        }
        None
    }
}
