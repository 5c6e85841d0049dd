//! The rows of one state in a local store: what lies behind a table.
//!
//! The typed table is then a write-back cache. The store sees bytes only and is called in bulk: one read for all
//! misses of a chunk, writes in batches sorted by key group and key, never one call per record. The heap backend has no
//! store behind its tables.
//!
//! The laws are those of the [store](crate::StateStore) that the rows are in.

use highwater_types::KeyGroup;

use crate::error::BackingError;

/// The key of a stored row: the key group, and the encoded key followed by the encoded namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// The key group; rows sort by it first, so that a rescale is a range operation.
    pub group: KeyGroup,
    /// The encoded key and namespace.
    pub bytes: Vec<u8>,
}

/// A change of one stored row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowWrite {
    /// Which row.
    pub key: RowKey,
    /// Its new value; `None` = deleted.
    pub value: Option<Vec<u8>>,
}

/// A store behind the table of one state.
pub trait Backing: Send {
    /// Reads many rows at once: appends one answer for each of `keys`, which are sorted and distinct.
    ///
    /// # Errors
    /// Of the kind that the store reports; the attempt fails with it.
    fn fetch(
        &mut self,
        keys: &[RowKey],
        found: &mut Vec<Option<Vec<u8>>>,
    ) -> Result<(), BackingError>;

    /// Writes a batch; keys are sorted and distinct.
    ///
    /// # Errors
    /// Of the kind that the store reports; the attempt fails with it.
    fn write(&mut self, rows: &[RowWrite]) -> Result<(), BackingError>;

    /// Calls `visit` for the first `limit` rows from the first key of `range` on and before the second, in order of keys.
    ///
    /// # Errors
    /// Of the kind that the store reports; the attempt fails with it.
    fn scan(
        &mut self,
        range: (&RowKey, &RowKey),
        limit: usize,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError>;

    /// Removes all rows from `from` on and before `until`, at a cost that does not depend on how many they are.
    ///
    /// # Errors
    /// Of the kind that the store reports; the attempt fails with it.
    fn drop_range(&mut self, from: &RowKey, until: &RowKey) -> Result<(), BackingError>;
}

/// What is called for each row that is read: key and value.
pub type VisitRow<'a> = &'a mut dyn FnMut(&RowKey, &[u8]);
