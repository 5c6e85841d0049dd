//! A store that is only good at bulk: proves that the tables fit a log-structured merge tree.
//!
//! Rows lie in memory in key order. It refuses what a real store would be slow at or wrong with: unsorted or repeated
//! keys, and it counts its calls so that a test can see that misses came in bulk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_types::KeyGroupRange;

use crate::backing::{Backing, BackingFactory, FrozenRows, RowKey, RowWrite, VisitRow};
use crate::descriptor::StateDescriptor;
use crate::error::BackingError;

/// How often the stores of a factory were called.
#[derive(Debug, Default)]
pub struct StoreCalls {
    fetches: AtomicU64,
    fetched: AtomicU64,
    writes: AtomicU64,
    written: AtomicU64,
}

impl StoreCalls {
    /// Bulk reads.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Keys that were asked for.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Bulk writes.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Rows that were written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// Opens stores that are only good at bulk.
#[derive(Clone, Debug, Default)]
pub struct SlowMissFactory {
    calls: Arc<StoreCalls>,
}

impl SlowMissFactory {
    /// The calls of all stores that this factory and its clones opened.
    pub fn calls(&self) -> &StoreCalls {
        &self.calls
    }
}

impl BackingFactory for SlowMissFactory {
    fn open(
        &mut self,
        _: &StateDescriptor,
        range: KeyGroupRange,
    ) -> Result<Box<dyn Backing>, BackingError> {
        Ok(Box::new(SlowMissBacking {
            rows: Arc::default(),
            range,
            calls: Arc::clone(&self.calls),
        }))
    }
}

struct SlowMissBacking {
    rows: Arc<BTreeMap<RowKey, Vec<u8>>>,
    range: KeyGroupRange,
    calls: Arc<StoreCalls>,
}

impl Backing for SlowMissBacking {
    fn fetch(
        &mut self,
        keys: &[RowKey],
        found: &mut Vec<Option<Vec<u8>>>,
    ) -> Result<(), BackingError> {
        assert!(!keys.is_empty(), "an empty read");
        assert!(
            keys.is_sorted_by(|a, b| a < b),
            "keys are not sorted and distinct"
        );
        self.calls.fetches.fetch_add(1, Ordering::Relaxed);
        self.calls
            .fetched
            .fetch_add(keys.len() as u64, Ordering::Relaxed);
        found.extend(keys.iter().map(|key| self.rows.get(key).cloned()));
        Ok(())
    }

    fn write(&mut self, rows: &[RowWrite]) -> Result<(), BackingError> {
        assert!(!rows.is_empty(), "an empty batch");
        assert!(
            rows.is_sorted_by(|a, b| a.key < b.key),
            "rows are not sorted and distinct"
        );
        self.calls.writes.fetch_add(1, Ordering::Relaxed);
        self.calls
            .written
            .fetch_add(rows.len() as u64, Ordering::Relaxed);
        let held = Arc::make_mut(&mut self.rows);
        for row in rows {
            assert!(
                self.range.contains(row.key.group),
                "a row of a foreign key group"
            );
            match &row.value {
                Some(value) => held.insert(row.key.clone(), value.clone()),
                None => held.remove(&row.key),
            };
        }
        Ok(())
    }

    fn scan(
        &mut self,
        (from, until): (&RowKey, &RowKey),
        limit: usize,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError> {
        if from < until {
            let rows = self.rows.range(from..until).take(limit);
            rows.for_each(|(key, value)| visit(key, value));
        }
        Ok(())
    }

    fn drop_range(&mut self, from: &RowKey, until: &RowKey) -> Result<(), BackingError> {
        Arc::make_mut(&mut self.rows).retain(|key, _| key < from || key >= until);
        Ok(())
    }

    fn freeze(&mut self) -> Result<Box<dyn FrozenRows>, BackingError> {
        Ok(Box::new(Frozen(Arc::clone(&self.rows))))
    }
}

struct Frozen(Arc<BTreeMap<RowKey, Vec<u8>>>);

impl FrozenRows for Frozen {
    fn visit(&mut self, visit: VisitRow<'_>) -> Result<(), BackingError> {
        self.0.iter().for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}
