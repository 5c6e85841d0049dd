//! List state: a list for each key and namespace; elements expire one by one.
//!
//! Source: Flink `ListState`, `TtlListState`.

use highwater_types::{Key, Record};

use super::{OpenState, keyed_state_by_table, prepare_by_table};
use crate::cell::{Cell, ListCell, Swept};
use crate::context::KeyContext;
use crate::descriptor::{StateKind, StateSchemas};
use crate::table::{Namespace, Position, StateTable, TableSetup};
use crate::ttl::{Expiry, TtlVisibility};

/// A list for each key and namespace. Absent and empty are the same.
pub struct ListState<K, N, T> {
    table: StateTable<K, N, ListCell<T>>,
}

impl<K: Key, N: Namespace, T: Record> OpenState for ListState<K, N, T> {
    fn open(setup: TableSetup) -> Self {
        Self {
            table: StateTable::new(setup),
        }
    }

    fn shape() -> (StateKind, StateSchemas) {
        (StateKind::List, StateSchemas::of::<K, N, T>())
    }
}

impl<K: Key, N: Namespace, T: Record> ListState<K, N, T> {
    prepare_by_table!(K, N);

    /// The elements in order of addition; none when absent or expired.
    pub fn get(&mut self, at: KeyContext<'_, K, N>) -> &[T] {
        let Some(position) = self.find_live(&at) else {
            return &[];
        };
        if self
            .table
            .descriptor()
            .ttl
            .is_some_and(|ttl| ttl.refreshes_on_read())
        {
            self.table.modify(position, |list| list.restamp(at.now));
        }
        self.table.cell(position).items()
    }

    /// Adds an element.
    pub fn add(&mut self, at: KeyContext<'_, K, N>, item: T) {
        self.add_all(at, [item]);
    }

    /// Adds elements in order.
    pub fn add_all(&mut self, at: KeyContext<'_, K, N>, items: impl IntoIterator<Item = T>) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return;
        }
        self.table.note_access();
        let stamp = self.table.is_timed().then_some(at.now);
        let place = (at.hash, at.key, at.namespace);
        let position = match self.table.find(at.hash, at.key, at.namespace) {
            Some(position) => position,
            None => self.table.insert_new(place, ListCell::new(), at.now),
        };
        self.table.modify(position, |list| {
            items.for_each(|item| list.push(item, stamp));
        });
    }

    /// Replaces the list.
    pub fn update(&mut self, at: KeyContext<'_, K, N>, items: impl IntoIterator<Item = T>) {
        self.clear(at);
        self.add_all(at, items);
    }

    /// Removes the list. Returns its elements, less the expired ones.
    pub fn take(&mut self, at: KeyContext<'_, K, N>) -> Vec<T> {
        match self.find_live(&at) {
            Some(position) => self.table.remove(position).into_items(),
            None => Vec::new(),
        }
    }

    /// Removes the list.
    pub fn clear(&mut self, at: KeyContext<'_, K, N>) {
        if let Some(position) = self.table.find(at.hash, at.key, at.namespace) {
            self.table.remove(position);
        }
    }

    /// Where the list is, after removing what may not be seen any more.
    fn find_live(&mut self, at: &KeyContext<'_, K, N>) -> Option<Position> {
        let position = self.table.find(at.hash, at.key, at.namespace)?;
        let Some(ttl) = self.table.descriptor().ttl else {
            return Some(position);
        };
        self.table.note_access();
        if ttl.visibility == TtlVisibility::ReturnIfNotCleaned {
            return Some(position);
        }
        let expiry = Expiry { ttl, now: at.now };
        match self.table.cell(position).inspect(at.now, &expiry) {
            Swept::Whole => Some(position),
            Swept::Parts => {
                self.table.modify(position, |list| list.sweep(&expiry));
                Some(position)
            }
            Swept::Gone => {
                self.table.remove_expired(position);
                None
            }
        }
    }
}

keyed_state_by_table!(impl [K: Key, N: Namespace, T: Record] for ListState<K, N, T>);
