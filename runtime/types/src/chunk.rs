//! Chunks: the unit of flow. Up to 1,024 records with header arrays beside them.
//!
//! Sources fill chunks, operators drain them, exchange scatters them. The header arrays run parallel to the records:
//! one event time each, and one key hash each once the stream is keyed. A buffer is lent downstream by `&mut`, drained
//! there and filled again, so the steady state allocates nothing.
//!
//! Invariant: `times.len() == records.len()`, and `hashes` is either empty or as long.

use crate::key::KeyHash;
use crate::time::EventTime;

/// How many records a full chunk holds.
pub const CHUNK_RECORDS_MAX: usize = 1_024;

/// Records with their headers.
#[derive(Clone, Debug)]
pub struct Chunk<T> {
    records: Vec<T>,
    times: Vec<EventTime>,
    hashes: Vec<KeyHash>,
}

impl<T> Default for Chunk<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Chunk<T> {
    /// An empty chunk that owns no memory yet.
    pub const fn new() -> Self {
        Self {
            records: Vec::new(),
            times: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// An empty chunk with room for a full load of unkeyed records.
    pub fn with_room() -> Self {
        Self {
            records: Vec::with_capacity(CHUNK_RECORDS_MAX),
            times: Vec::with_capacity(CHUNK_RECORDS_MAX),
            hashes: Vec::new(),
        }
    }

    /// How many records.
    #[inline]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether no further record should be added.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.records.len() >= CHUNK_RECORDS_MAX
    }

    /// Whether every record carries its key hash.
    #[inline]
    pub const fn is_keyed(&self) -> bool {
        self.hashes.len() == self.records.len()
    }

    /// Adds a record of an unkeyed stream.
    #[inline]
    pub fn push(&mut self, record: T, time: EventTime) {
        debug_assert!(
            self.hashes.is_empty(),
            "an unkeyed record may not enter a keyed chunk"
        );
        self.records.push(record);
        self.times.push(time);
    }

    /// Adds a record of a keyed stream.
    #[inline]
    pub fn push_keyed(&mut self, record: T, time: EventTime, hash: KeyHash) {
        debug_assert!(
            self.is_keyed(),
            "a keyed record may not enter an unkeyed chunk"
        );
        self.records.push(record);
        self.times.push(time);
        self.hashes.push(hash);
    }

    /// The records.
    #[inline]
    pub fn records(&self) -> &[T] {
        &self.records
    }

    /// The records, to change in place.
    #[inline]
    pub fn records_mut(&mut self) -> &mut [T] {
        &mut self.records
    }

    /// The event times, one for each record.
    #[inline]
    pub fn times(&self) -> &[EventTime] {
        &self.times
    }

    /// The event times, to assign in place.
    #[inline]
    pub fn times_mut(&mut self) -> &mut [EventTime] {
        &mut self.times
    }

    /// Lets `assign` set the event time of every record.
    pub fn assign_times(&mut self, assign: impl FnOnce(&[T], &mut [EventTime])) {
        assign(&self.records, &mut self.times);
    }

    /// The key hashes: one for each record of a keyed stream, else none.
    #[inline]
    pub fn hashes(&self) -> &[KeyHash] {
        &self.hashes
    }

    /// Replaces the key hashes by `hash` of each record: what `key_by` does.
    pub fn rekey(&mut self, mut hash: impl FnMut(&T) -> KeyHash) {
        self.hashes.clear();
        self.hashes.extend(self.records.iter().map(&mut hash));
    }

    /// Forgets the key hashes: the stream is no longer keyed.
    pub fn unkey(&mut self) {
        self.hashes.clear();
    }

    /// Takes all records out, with time and (where keyed, else 0) hash, keeping the memory for the next load.
    pub fn drain(&mut self) -> impl Iterator<Item = (T, EventTime, KeyHash)> + '_ {
        let hashes = self.hashes.drain(..).chain(std::iter::repeat(KeyHash(0)));
        let headed = self.records.drain(..).zip(self.times.drain(..)).zip(hashes);
        headed.map(|((record, time), hash)| (record, time, hash))
    }

    /// Takes all records out with their time, keeping the memory for the next load. Key hashes are forgotten.
    #[inline]
    pub fn drain_unkeyed(&mut self) -> impl Iterator<Item = (T, EventTime)> + '_ {
        self.hashes.clear();
        self.records.drain(..).zip(self.times.drain(..))
    }

    /// Takes all records of a keyed stream out, with time and hash, keeping the memory for the next load.
    ///
    /// # Panics
    /// If the chunk is not keyed: its records would be lost.
    #[inline]
    pub fn drain_keyed(&mut self) -> impl Iterator<Item = (T, EventTime, KeyHash)> + '_ {
        assert_eq!(
            self.hashes.len(),
            self.records.len(),
            "each record of a keyed chunk has a hash"
        );
        let headed = self.records.drain(..).zip(self.times.drain(..));
        let headed = headed.zip(self.hashes.drain(..));
        headed.map(|((record, time), hash)| (record, time, hash))
    }

    /// Keeps the records for which `keep` holds, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let keyed = !self.hashes.is_empty();
        let mut kept = 0;
        for at in 0..self.records.len() {
            if keep(&self.records[at]) {
                self.records.swap(kept, at);
                self.times.swap(kept, at);
                if keyed {
                    self.hashes.swap(kept, at);
                }
                kept += 1;
            }
        }
        self.truncate(kept);
    }

    /// Drops the records behind the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.records.truncate(count);
        self.times.truncate(count);
        self.hashes.truncate(count);
    }

    /// Moves the records from `at` on to the end of `other`.
    pub fn split_off_into(&mut self, at: usize, other: &mut Self) {
        other.records.extend(self.records.drain(at..));
        other.times.extend(self.times.drain(at..));
        let hashes_at = at.min(self.hashes.len());
        other.hashes.extend(self.hashes.drain(hashes_at..));
    }

    /// Drops all records, keeping the memory.
    pub fn clear(&mut self) {
        self.truncate(0);
    }
}

impl<T: Clone> Chunk<T> {
    /// Makes `self` a copy of `other`, reusing memory.
    pub fn copy_from(&mut self, other: &Self) {
        self.records.clone_from(&other.records);
        self.times.clone_from(&other.times);
        self.hashes.clone_from(&other.hashes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(values: &[i32]) -> Chunk<i32> {
        let mut chunk = Chunk::new();
        for &value in values {
            chunk.push_keyed(value, EventTime(i64::from(value)), KeyHash(value as u64));
        }
        chunk
    }

    #[test]
    fn retain_keeps_headers_with_their_records() {
        let mut chunk = keyed(&[1, 2, 3, 4, 5]);
        chunk.retain(|value| value % 2 == 1);
        assert_eq!(chunk.records(), [1, 3, 5]);
        assert_eq!(chunk.times(), [EventTime(1), EventTime(3), EventTime(5)]);
        assert_eq!(chunk.hashes(), [KeyHash(1), KeyHash(3), KeyHash(5)]);
    }

    #[test]
    fn a_drained_chunk_is_empty_and_whole_for_the_next_load() {
        let mut chunk = keyed(&[1, 2]);
        assert_eq!(chunk.drain().count(), 2);
        assert!(chunk.is_empty() && chunk.is_keyed());
        chunk.push(9, EventTime(0));
        assert_eq!(chunk.len(), 1);
    }

    #[test]
    fn split_moves_the_tail() {
        let (mut chunk, mut tail) = (keyed(&[1, 2, 3]), Chunk::new());
        chunk.split_off_into(1, &mut tail);
        assert_eq!((chunk.records(), tail.records()), (&[1][..], &[2, 3][..]));
        assert!(chunk.is_keyed() && tail.is_keyed());
    }
}
