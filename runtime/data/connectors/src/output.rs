//! Serialised output: what an encoder makes once and a sink keeps in spool and log until its commit is confirmed.
//!
//! A batch is one byte buffer. Each record in it is: flags (1 byte: key present, value present), partition (i32, -1 =
//! the target chooses), timestamp (i64), key length and bytes, value length and bytes, header count and pairs; lengths
//! are varints. The same bytes are sent, stored in the sink log and sent again after a recovery.

use highwater_types::EventTime;
use highwater_types::record::{DecodeError, Record, decode_length, encode_length, take};

const HAS_KEY: u8 = 1;
const HAS_VALUE: u8 = 2;

/// One record of output, borrowed from its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord<'a> {
    /// The partition; `None` = the target chooses by key.
    pub partition: Option<i32>,
    /// The event time; `EventTime::NONE` = the target's own time.
    pub time: EventTime,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` = a deletion.
    pub value: Option<&'a [u8]>,
    /// Header names and values.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> OutputRecord<'a> {
    /// A record with a value only.
    pub const fn of_value(value: &'a [u8]) -> Self {
        Self {
            partition: None,
            time: EventTime::NONE,
            key: None,
            value: Some(value),
            headers: Vec::new(),
        }
    }
}

/// Serialised records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputBatch {
    bytes: Vec<u8>,
    count: u64,
}

impl OutputBatch {
    /// How many records.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there is no record.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Drops all records, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Appends a record.
    pub fn push(&mut self, record: &OutputRecord<'_>) {
        let flag = |present, bit| if present { bit } else { 0 };
        self.bytes
            .push(flag(record.key.is_some(), HAS_KEY) | flag(record.value.is_some(), HAS_VALUE));
        record.partition.unwrap_or(-1).encode(&mut self.bytes);
        record.time.encode(&mut self.bytes);
        for part in [record.key, record.value].into_iter().flatten() {
            self.push_bytes(part);
        }
        encode_length(record.headers.len() as u64, &mut self.bytes);
        for (name, value) in &record.headers {
            self.push_bytes(name);
            self.push_bytes(value);
        }
        self.count += 1;
    }

    /// Appends all records of `other`.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count += other.count;
    }

    /// Takes bytes that a sink log kept, after checking that they are whole records.
    ///
    /// # Errors
    /// `Corrupt` when a record is cut or damaged.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let mut rest = bytes.as_slice();
        let mut count = 0;
        while !rest.is_empty() {
            read(&mut rest)?;
            count += 1;
        }
        Ok(Self { bytes, count })
    }

    /// The records in order.
    ///
    /// # Panics
    /// Never: the bytes were written by `push` or checked by `from_bytes`.
    pub fn iter(&self) -> impl Iterator<Item = OutputRecord<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| read(&mut rest).expect("a batch holds whole records"))
        })
    }

    fn push_bytes(&mut self, part: &[u8]) {
        encode_length(part.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(part);
    }
}

fn read_bytes<'a>(input: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], DecodeError> {
    let length = decode_length(input)?;
    take(input, usize::try_from(length).unwrap_or(usize::MAX), what)
}

fn read<'a>(input: &mut &'a [u8]) -> Result<OutputRecord<'a>, DecodeError> {
    let flags = take(input, 1, "output flags")?[0];
    if flags > (HAS_KEY | HAS_VALUE) {
        return Err(DecodeError::Value {
            what: "output flags",
            value: u64::from(flags),
        });
    }
    let partition = i32::decode(input)?;
    let time = EventTime::decode(input)?;
    let key = (flags & HAS_KEY != 0)
        .then(|| read_bytes(input, "output key"))
        .transpose()?;
    let value = (flags & HAS_VALUE != 0)
        .then(|| read_bytes(input, "output value"))
        .transpose()?;
    let count = decode_length(input)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((
            read_bytes(input, "header name")?,
            read_bytes(input, "header value")?,
        ));
    }
    Ok(OutputRecord {
        partition: (partition >= 0).then_some(partition),
        time,
        key,
        value,
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_a_cut_batch_is_refused() {
        let mut batch = OutputBatch::default();
        let full = OutputRecord {
            partition: Some(3),
            time: EventTime(-5),
            key: Some(b"k"),
            value: None,
            headers: vec![(b"h", b"v")],
        };
        batch.push(&full);
        batch.push(&OutputRecord::of_value(b"value"));
        let back = OutputBatch::from_bytes(batch.bytes().to_vec()).unwrap();
        assert_eq!(back, batch);
        let records: Vec<_> = back.iter().collect();
        assert_eq!(records, [full, OutputRecord::of_value(b"value")]);
        for cut in 1..batch.bytes().len() {
            let partial = OutputBatch::from_bytes(batch.bytes()[..cut].to_vec());
            assert!(partial.is_err() || partial.unwrap().count() == 1);
        }
    }
}
