//! Formats: how the payload of one record becomes a value, and how a value becomes a payload.
//!
//! Sources that read bytes (file log, Kafka) are generic over [`DecodeRecord`], sinks that write bytes over
//! [`ValueFormat`], so no record pays a virtual call. JSON implements both outside this crate; a closure implements
//! each of them for a format of the job's own.

use std::fmt;
use std::marker::PhantomData;

use highwater_types::{Chunk, Record};

use crate::error::ConnectorError;
use crate::output::{OutputBatch, OutputRecord};
use crate::sink::Encoder;

/// Why a payload is no record. The source adds where the payload was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DecodeFailure {
    /// What is wrong, for the person who wrote the record.
    pub reason: String,
}

impl DecodeFailure {
    /// A failure with this reason.
    #[cold]
    pub fn new(reason: impl fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
        }
    }
}

/// Reads one record from its payload.
///
/// Law: the result depends on `payload` only; `scratch` saves allocations and nothing else.
pub trait DecodeRecord<T>: Send + Sync + 'static {
    /// Memory that a reader lends to every call. One per reader, made when the reader is made.
    type Scratch: Default;

    /// Decodes the whole payload.
    ///
    /// # Errors
    /// A failure that says what is wrong with the payload; the policy of the source decides what becomes of it.
    fn decode(&self, payload: &[u8], scratch: &mut Self::Scratch) -> Result<T, DecodeFailure>;
}

impl<T, F> DecodeRecord<T> for F
where
    F: Fn(&[u8]) -> Result<T, DecodeFailure> + Send + Sync + 'static,
{
    type Scratch = ();

    #[inline]
    fn decode(&self, payload: &[u8], (): &mut ()) -> Result<T, DecodeFailure> {
        self(payload)
    }
}

/// Writes one record as a payload.
pub trait ValueFormat<T>: Send + Sync + 'static {
    /// Appends the payload of `record`.
    fn write(&self, record: &T, out: &mut Vec<u8>);
}

impl<T, F> ValueFormat<T> for F
where
    F: Fn(&T, &mut Vec<u8>) + Send + Sync + 'static,
{
    #[inline]
    fn write(&self, record: &T, out: &mut Vec<u8>) {
        self(record, out);
    }
}

/// The engine's own binary encoding: exact for every record type, readable only with its schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binary;

impl<T: Record> DecodeRecord<T> for Binary {
    type Scratch = ();

    fn decode(&self, mut payload: &[u8], (): &mut ()) -> Result<T, DecodeFailure> {
        let record = T::decode(&mut payload).map_err(DecodeFailure::new)?;
        if payload.is_empty() {
            Ok(record)
        } else {
            let count = payload.len();
            Err(DecodeFailure::new(format_args!(
                "{count} bytes follow the record"
            )))
        }
    }
}

impl<T: Record> ValueFormat<T> for Binary {
    fn write(&self, record: &T, out: &mut Vec<u8>) {
        record.encode(out);
    }
}

/// The encoder of sinks whose output is a value and nothing else: one payload for each record, with its event time.
#[derive(Debug)]
pub struct ValueEncoder<T, F> {
    format: F,
    payload: Vec<u8>,
    records: PhantomData<fn(T)>,
}

impl<T, F: ValueFormat<T>> ValueEncoder<T, F> {
    /// An encoder that writes in `format`.
    pub const fn new(format: F) -> Self {
        Self {
            format,
            payload: Vec::new(),
            records: PhantomData,
        }
    }
}

impl<T, F: ValueFormat<T>> Encoder<T> for ValueEncoder<T, F> {
    fn encode(
        &mut self,
        chunk: &mut Chunk<T>,
        out: &mut OutputBatch,
    ) -> Result<(), ConnectorError> {
        for (record, time, _) in chunk.drain() {
            self.payload.clear();
            self.format.write(&record, &mut self.payload);
            let mut output = OutputRecord::of_value(&self.payload);
            output.time = time;
            out.push(&output);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::EventTime;

    use super::*;

    #[test]
    fn a_closure_is_a_format_in_both_directions() {
        let text = |payload: &[u8]| {
            String::from_utf8(payload.to_vec()).map_err(|_| DecodeFailure::new("not UTF-8"))
        };
        assert_eq!(text.decode(b"abc", &mut ()), Ok("abc".to_owned()));
        assert_eq!(
            text.decode(b"\xff", &mut ()).unwrap_err().reason,
            "not UTF-8"
        );

        let plain = |record: &String, out: &mut Vec<u8>| out.extend_from_slice(record.as_bytes());
        let mut encoder = ValueEncoder::new(plain);
        let mut chunk = Chunk::new();
        chunk.push("x".to_owned(), EventTime(7));
        let mut batch = OutputBatch::default();
        encoder.encode(&mut chunk, &mut batch).unwrap();
        assert!(chunk.is_empty());
        let record = batch.iter().next().unwrap();
        assert_eq!((record.value, record.time), (Some(&b"x"[..]), EventTime(7)));
    }

    #[test]
    fn binary_refuses_bytes_behind_the_record() {
        let mut payload = Vec::new();
        Binary.write(&5u32, &mut payload);
        assert_eq!(
            DecodeRecord::<u32>::decode(&Binary, &payload, &mut ()),
            Ok(5)
        );
        payload.push(0);
        assert!(DecodeRecord::<u32>::decode(&Binary, &payload, &mut ()).is_err());
    }
}
