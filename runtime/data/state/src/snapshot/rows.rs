//! Rows on their way into a snapshot: one buffer for each key group, in the order in which they were saved.
//!
//! A row is `length of key, key, length of value, value` with LEB128 lengths. Sorting by key, which makes the bytes of a
//! key group canonical, happens when the snapshot is sealed: off the slot thread if the caller likes.

use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::{DecodeError, KeyGroup, KeyGroupRange};

/// The rows of one key group.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowBuffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: u64,
}

/// The rows of all key groups of a subtask.
#[derive(Clone, Debug)]
pub(crate) struct GroupRows {
    pub(crate) range: KeyGroupRange,
    pub(crate) groups: Vec<RowBuffer>,
}

/// Appends one row.
pub(crate) fn push_row(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    encode_length(key.len() as u64, out);
    out.extend_from_slice(key);
    encode_length(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Reads the next row: key and value.
pub(crate) fn next_row<'a>(input: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    let length = decode_length(input)? as usize;
    let key = take(input, length, "row key")?;
    let length = decode_length(input)? as usize;
    let value = take(input, length, "row value")?;
    Ok((key, value))
}

impl GroupRows {
    pub(crate) fn new(range: KeyGroupRange) -> Self {
        Self {
            range,
            groups: vec![RowBuffer::default(); range.len()],
        }
    }

    /// Adds a row. Returns false when the group is not one of this subtask.
    pub(crate) fn push(&mut self, group: KeyGroup, key: &[u8], value: &[u8]) -> bool {
        if !self.range.contains(group) {
            return false;
        }
        let buffer = &mut self.groups[(group.0 - self.range.start) as usize];
        buffer.push(key, value);
        true
    }

    /// Adds the rows of `other`, of the same subtask.
    pub(crate) fn append(&mut self, other: Self) {
        for (into, from) in self.groups.iter_mut().zip(other.groups) {
            into.count += from.count;
            if into.bytes.is_empty() {
                into.bytes = from.bytes;
            } else {
                into.bytes.extend_from_slice(&from.bytes);
            }
        }
    }
}

impl RowBuffer {
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        push_row(key, value, &mut self.bytes);
        self.count += 1;
    }

    /// The rows sorted by key, and whether any key occurs twice.
    pub(crate) fn sorted(&self) -> Result<(Vec<u8>, Distinct), DecodeError> {
        let mut rows = Vec::with_capacity(self.count as usize);
        let mut input = self.bytes.as_slice();
        while !input.is_empty() {
            let start = input;
            let (key, _) = next_row(&mut input)?;
            rows.push((key, &start[..start.len() - input.len()]));
        }
        rows.sort_unstable_by_key(|&(key, _)| key);
        let twice = rows.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for (_, row) in &rows {
            bytes.extend_from_slice(row);
        }
        let distinct = if twice { Distinct::No } else { Distinct::Yes };
        Ok((bytes, distinct))
    }
}

/// Whether keys occur once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distinct {
    Yes,
    No,
}
