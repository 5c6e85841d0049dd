//! Records of one partition as they came: byte slices with offsets and timestamps.
//!
//! The hand-over between fetching and decoding. Whatever fetches (the client library today, a native fetch path later)
//! fills batches; whatever decodes reads slices.

use highwater_connectors::SplitIndex;
use highwater_types::EventTime;
use highwater_types::chunk::CHUNK_RECORDS_MAX;

/// A batch is full with so many bytes, whatever the number of records.
const BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    time: EventTime,
    end: usize,
    has_value: bool,
}

/// Records of one split, in order of offset; at most a chunk.
#[derive(Debug)]
pub(super) struct RecordBatch {
    split: SplitIndex,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawRecord<'a> {
    pub(super) offset: i64,
    pub(super) time: EventTime,
    /// `None` = a record without value: a deletion.
    pub(super) value: Option<&'a [u8]>,
}

impl RecordBatch {
    pub(super) const fn new(split: SplitIndex) -> Self {
        Self {
            split,
            bytes: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// The memory of a batch that was read, for the next one.
    pub(super) fn reuse(mut self, split: SplitIndex) -> Self {
        self.split = split;
        self.bytes.clear();
        self.entries.clear();
        self
    }

    pub(super) const fn split(&self) -> SplitIndex {
        self.split
    }

    /// Bytes of the values.
    pub(super) const fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.entries.len() >= CHUNK_RECORDS_MAX || self.bytes.len() >= BYTES_MAX
    }

    pub(super) fn push(&mut self, record: &RawRecord<'_>) {
        self.bytes
            .extend_from_slice(record.value.unwrap_or_default());
        self.entries.push(Entry {
            offset: record.offset,
            time: record.time,
            end: self.bytes.len(),
            has_value: record.value.is_some(),
        });
    }

    /// The records in order.
    pub(super) fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let value = &self.bytes[start..entry.end];
            start = entry.end;
            RawRecord {
                offset: entry.offset,
                time: entry.time,
                value: entry.has_value.then_some(value),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in_also_after_reuse() {
        let record = |offset, value| RawRecord {
            offset,
            time: EventTime(offset * 10),
            value,
        };
        let all = [
            record(5, Some(&b"abc"[..])),
            record(7, None),
            record(8, Some(b"")),
        ];
        let mut batch = RecordBatch::new(SplitIndex(1));
        for one in &all {
            batch.push(one);
        }
        assert_eq!(batch.records().collect::<Vec<_>>(), all);
        assert_eq!(batch.byte_count(), 3);
        let mut batch = batch.reuse(SplitIndex(2));
        assert!(batch.is_empty() && batch.split() == SplitIndex(2));
        batch.push(&all[0]);
        assert_eq!(batch.records().collect::<Vec<_>>(), all[..1]);
    }

    #[test]
    fn a_batch_is_full_by_count_or_by_bytes() {
        let record = |value| RawRecord {
            offset: 0,
            time: EventTime(0),
            value: Some(value),
        };
        let mut many = RecordBatch::new(SplitIndex(0));
        for _ in 0..CHUNK_RECORDS_MAX {
            assert!(!many.is_full());
            many.push(&record(b"x"));
        }
        assert!(many.is_full());
        let mut large = RecordBatch::new(SplitIndex(0));
        large.push(&record(&vec![0; BYTES_MAX]));
        assert!(large.is_full());
    }
}
