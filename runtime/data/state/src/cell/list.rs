//! The cell of list state: elements, each with its last access when the state is timed.

use highwater_types::record::{decode_length, encode_length};
use highwater_types::{DecodeError, ProcessingTime, Record};

use super::{Cell, CellForm, StoredForm, Swept};
use crate::ttl::Expiry;

/// The most elements that a decoder reserves room for before it has seen them.
const RESERVE_MAX: usize = 1_024;

/// A list in a table.
#[derive(Clone, Debug)]
pub struct ListCell<T> {
    items: Vec<T>,
    /// One for each item when the state is timed, else none.
    stamps: Vec<ProcessingTime>,
    /// Heap bytes of the items, kept current so that adding stays cheap.
    items_heap: usize,
}

impl<T: Record> ListCell<T> {
    pub(crate) const fn new() -> Self {
        Self {
            items: Vec::new(),
            stamps: Vec::new(),
            items_heap: 0,
        }
    }

    /// Adds an element; `stamp` is its last access when the state is timed.
    pub(crate) fn push(&mut self, item: T, stamp: Option<ProcessingTime>) {
        self.items_heap += item.heap_bytes();
        self.items.push(item);
        self.stamps.extend(stamp);
    }

    /// All elements, expired ones included.
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    pub(crate) fn into_items(self) -> Vec<T> {
        self.items
    }

    /// Moves the last access of every element.
    pub(crate) fn restamp(&mut self, now: ProcessingTime) {
        self.stamps.fill(now);
    }

    fn live<'a>(&'a self, expiry: Option<&'a Expiry>) -> impl Iterator<Item = (usize, &'a T)> + 'a {
        let lives =
            move |at: usize| expiry.is_none_or(|expiry| !expiry.is_expired(self.stamps[at]));
        self.items
            .iter()
            .enumerate()
            .filter(move |&(at, _)| lives(at))
    }
}

impl<T: Record> Cell for ListCell<T> {
    fn heap_bytes(&self) -> usize {
        let stamps = self.stamps.capacity() * size_of::<ProcessingTime>();
        self.items.capacity() * size_of::<T>() + stamps + self.items_heap
    }

    fn write(&self, _: ProcessingTime, form: &CellForm, out: &mut Vec<u8>) -> bool {
        let count = match form.expiry {
            None => self.items.len(),
            Some(_) => self.live(form.expiry.as_ref()).count(),
        };
        if count == 0 {
            return false;
        }
        encode_length(count as u64, out);
        for (at, item) in self.live(form.expiry.as_ref()) {
            if form.timed {
                self.stamps[at].encode(out);
            }
            item.encode(out);
        }
        true
    }

    fn read(input: &mut &[u8], form: &StoredForm) -> Result<(Self, ProcessingTime), DecodeError> {
        let count = decode_length(input)? as usize;
        let mut cell = Self::new();
        cell.items.reserve(count.min(RESERVE_MAX));
        for _ in 0..count {
            let stamp = form.read_stamp(input)?;
            cell.push(T::decode(input)?, form.keeps_time.then_some(stamp));
        }
        Ok((cell, form.now))
    }

    fn inspect(&self, _: ProcessingTime, expiry: &Expiry) -> Swept {
        let live = self.live(Some(expiry)).count();
        match live {
            0 => Swept::Gone,
            all if all == self.items.len() => Swept::Whole,
            _ => Swept::Parts,
        }
    }

    fn sweep(&mut self, expiry: &Expiry) {
        let mut kept = 0;
        for at in 0..self.items.len() {
            if !expiry.is_expired(self.stamps[at]) {
                self.items.swap(kept, at);
                self.stamps.swap(kept, at);
                kept += 1;
            }
        }
        self.items.truncate(kept);
        self.stamps.truncate(kept);
        self.items_heap = self.items.iter().map(Record::heap_bytes).sum();
    }
}
