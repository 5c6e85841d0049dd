//! Serialises records on the slot thread: value, key, partition, deletion. One that can never be taken is refused here.

use std::any::TypeId;
use std::sync::Arc;

use highwater_connectors::{ConnectorError, Encoder, OutputBatch, OutputRecord, ValueFormat};
use highwater_types::{Chunk, Record};

use super::limit::RecordLimit;
use super::partition::Partitions;

/// The key of a sink without keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoKey;

impl<T> ValueFormat<T> for NoKey {
    fn write(&self, _: &T, _: &mut Vec<u8>) {}
}

/// Whether `K` writes keys.
pub(super) fn is_keyed<K: 'static>() -> bool {
    TypeId::of::<K>() != TypeId::of::<NoKey>()
}

/// The encoder of one subtask.
pub(super) struct KafkaEncoder<T, V, K> {
    value: Arc<V>,
    key: Arc<K>,
    deletion: Option<fn(&T) -> bool>,
    partitions: Partitions,
    limit: RecordLimit,
    value_bytes: Vec<u8>,
    key_bytes: Vec<u8>,
}

impl<T, V, K> KafkaEncoder<T, V, K> {
    pub(super) const fn new(
        value: Arc<V>,
        key: Arc<K>,
        deletion: Option<fn(&T) -> bool>,
        partitions: Partitions,
        limit: RecordLimit,
    ) -> Self {
        Self {
            value,
            key,
            deletion,
            partitions,
            limit,
            value_bytes: Vec::new(),
            key_bytes: Vec::new(),
        }
    }
}

impl<T: Record, V: ValueFormat<T>, K: ValueFormat<T>> Encoder<T> for KafkaEncoder<T, V, K> {
    fn encode(
        &mut self,
        chunk: &mut Chunk<T>,
        out: &mut OutputBatch,
    ) -> Result<(), ConnectorError> {
        let keyed = is_keyed::<K>();
        let of_chunk = if keyed {
            0
        } else {
            self.partitions.next_chunk()
        };
        for (record, time, _) in chunk.drain() {
            self.value_bytes.clear();
            let deletes = self.deletion.is_some_and(|deletion| deletion(&record));
            if !deletes {
                self.value.write(&record, &mut self.value_bytes);
            }
            let mut output = OutputRecord::of_value(&self.value_bytes);
            output.time = time;
            if keyed {
                self.key_bytes.clear();
                self.key.write(&record, &mut self.key_bytes);
                output.key = Some(&self.key_bytes);
                output.partition = Some(self.partitions.of_key(&self.key_bytes));
            } else {
                output.partition = Some(of_chunk);
            }
            if deletes {
                output.value = None;
            }
            self.limit.check(&output)?;
            out.push(&output);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{EventTime, SubtaskIndex};

    use super::*;

    fn text(record: &String, out: &mut Vec<u8>) {
        out.extend_from_slice(record.as_bytes());
    }

    #[expect(clippy::ptr_arg, reason = "formats take the record type as it is")]
    fn first_letter(record: &String, out: &mut Vec<u8>) {
        out.extend(record.bytes().next());
    }

    /// Of a client as it is.
    fn limit() -> RecordLimit {
        RecordLimit::new(
            "kafka topic t".to_owned(),
            &rdkafka::ClientConfig::new(),
            None,
        )
    }

    #[test]
    fn a_record_that_can_never_be_taken_is_refused_before_it_is_output() {
        let partitions = Partitions::new(1, SubtaskIndex(0));
        let (value, key) = (Arc::new(text), Arc::new(first_letter));
        let mut encoder = KafkaEncoder::new(value, key, None, partitions, limit());
        let mut out = OutputBatch::default();
        // The letter of the key and what the client adds count too.
        let mut fits = chunk(&[&"x".repeat(999_963)]);
        encoder.encode(&mut fits, &mut out).unwrap();
        let mut large = chunk(&[&"x".repeat(999_964)]);
        let refused = encoder.encode(&mut large, &mut out).unwrap_err();
        assert!(refused.to_string().contains("kafka topic t"), "{refused}");
        assert_eq!(out.count(), 1);
    }

    fn chunk(records: &[&str]) -> Chunk<String> {
        let mut chunk = Chunk::new();
        for record in records {
            chunk.push((*record).to_owned(), EventTime(9));
        }
        chunk
    }

    #[test]
    fn keys_choose_the_partition_and_deletions_have_no_value() {
        let partitions = Partitions::new(8, SubtaskIndex(0));
        let deletion: fn(&String) -> bool = |record| record.ends_with('-');
        let (value, key) = (Arc::new(text), Arc::new(first_letter));
        let mut encoder = KafkaEncoder::new(value, key, Some(deletion), partitions, limit());
        let mut out = OutputBatch::default();
        let mut records = chunk(&["a1", "b1", "a-"]);
        encoder.encode(&mut records, &mut out).unwrap();
        assert!(records.is_empty());
        let records: Vec<_> = out.iter().collect();
        assert_eq!(records[0].key, Some(&b"a"[..]));
        assert_eq!(records[0].value, Some(&b"a1"[..]));
        assert_eq!((records[2].key, records[2].value), (Some(&b"a"[..]), None));
        assert_eq!(records[0].partition, records[2].partition);
        assert_eq!(records[1].time, EventTime(9));
    }

    #[test]
    fn without_keys_a_chunk_stays_together() {
        let partitions = Partitions::new(2, SubtaskIndex(0));
        let mut encoder =
            KafkaEncoder::new(Arc::new(text), Arc::new(NoKey), None, partitions, limit());
        let mut out = OutputBatch::default();
        encoder.encode(&mut chunk(&["a", "b"]), &mut out).unwrap();
        encoder.encode(&mut chunk(&["c"]), &mut out).unwrap();
        let placed: Vec<_> = out
            .iter()
            .map(|record| (record.partition, record.key))
            .collect();
        assert_eq!(placed, [(Some(0), None), (Some(0), None), (Some(1), None)]);
    }
}
