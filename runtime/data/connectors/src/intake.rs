//! The one seam through which bad input passes: what a source does with input that is no usable record.
//!
//! Readers of bytes (file log, Kafka) decode through [`Intake`]; the head of every source task refuses records whose event
//! time lies too far in the future. Both ask [`BadInput`], so a policy means the same at every source. A record that is
//! refused is counted once and its position is passed like that of any other: what a restored reader refuses again is
//! what the lost attempt had refused, so dead letters are as exactly-once as records.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;
use highwater_types::{EventTime, Record};

use crate::dead_letter::DeadLetter;
use crate::error::{ConnectorError, excerpt};
use crate::format::DecodeRecord;
use crate::source::SourceOutput;

/// The largest payload that a source decodes unless told otherwise, in bytes.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// What to do with a record that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BadRecords {
    /// The job fails, naming split, position and the first 200 bytes.
    #[default]
    Fail,
    /// The raw record goes to the dead-letter output, with split, position and reason.
    DeadLetter,
    /// The record is dropped and counted.
    Drop,
}

/// What a source refuses, and what becomes of it.
///
/// Refused are: a payload that is none (a deletion, where the source makes records of values only), that is larger than
/// `record_bytes_max`, or that the decoder does not take (malformed, wrong types, missing fields); and a record whose event
/// time is more than `future_limit_ms` ahead of processing time: it would move the watermark so far that everything behind
/// it is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadInput {
    /// What becomes of it.
    pub policy: BadRecords,
    /// The largest payload, in bytes.
    pub record_bytes_max: usize,
    /// How far ahead of processing time an event time may be, in milliseconds; `None` = as far as it likes.
    pub future_limit_ms: Option<i64>,
}

impl BadInput {
    /// Fails at the first bad record, and takes any event time.
    pub const FAIL: Self = Self {
        policy: BadRecords::Fail,
        record_bytes_max: RECORD_BYTES_MAX,
        future_limit_ms: None,
    };

    /// Does with refused input what the policy says.
    ///
    /// # Errors
    /// `Invalid`, naming split, position, reason and the first bytes, where the policy is to fail.
    #[cold]
    pub fn refuse<T>(
        &self,
        refused: Refused<'_>,
        out: &mut SourceOutput<T>,
    ) -> Result<(), ConnectorError> {
        match self.policy {
            BadRecords::Fail => {
                return Err(ConnectorError::BadRecord {
                    object: refused.split.to_string(),
                    position: refused.position,
                    reason: refused.reason,
                    excerpt: excerpt(refused.payload),
                });
            }
            BadRecords::DeadLetter => {
                let letter = DeadLetter {
                    split: refused.split.clone(),
                    position: refused.position,
                    reason: refused.reason,
                    payload: refused.payload.to_vec(),
                };
                out.dead_letters.push(letter, EventTime::NONE);
            }
            BadRecords::Drop => out.dropped += 1,
        }
        Ok(())
    }
}

/// A limit in whole milliseconds, as [`BadInput`] has it.
pub fn whole_millis(limit: Duration) -> i64 {
    i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)
}

/// Input that is refused.
#[derive(Clone, Debug)]
pub struct Refused<'a> {
    /// The split it was read from.
    pub split: &'a CompactString,
    /// Its position in the split.
    pub position: u64,
    /// Its bytes, as far as they are kept.
    pub payload: &'a [u8],
    /// Why.
    pub reason: String,
}

/// Where a record came from: told when it is refused after it was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its position in the split.
    pub position: u64,
    /// Its bytes as they were read; `None` where the source makes records without bytes.
    pub payload: Option<Vec<u8>>,
}

/// One payload as it was read.
#[derive(Clone, Copy, Debug)]
pub struct RawInput<'a> {
    /// Its position in the split.
    pub position: u64,
    /// The time that the system gave it.
    pub time: EventTime,
    /// Its bytes; `None` = there are none.
    pub payload: Option<&'a [u8]>,
}

/// Decodes payloads and refuses the bad ones. One for each reader.
pub struct Intake<T, D: DecodeRecord<T>> {
    decoder: Arc<D>,
    scratch: D::Scratch,
    rules: BadInput,
    /// The positions of the records of the last poll, where a record may still be refused.
    positions: Vec<u64>,
    records: PhantomData<fn() -> T>,
}

impl<T, D: DecodeRecord<T>> Intake<T, D> {
    /// An intake by these rules.
    pub fn new(decoder: Arc<D>, rules: BadInput) -> Self {
        Self {
            decoder,
            scratch: D::Scratch::default(),
            rules,
            positions: Vec::new(),
            records: PhantomData,
        }
    }

    /// A poll begins.
    pub fn begin(&mut self) {
        self.positions.clear();
    }

    /// Decodes a payload into `out`, or refuses it.
    ///
    /// # Errors
    /// Those of [`BadInput::refuse`].
    #[inline]
    pub fn take(
        &mut self,
        split: &CompactString,
        raw: RawInput<'_>,
        out: &mut SourceOutput<T>,
    ) -> Result<(), ConnectorError> {
        let reason = match raw.payload {
            None => "the record has no value".to_owned(),
            Some(payload) if payload.len() > self.rules.record_bytes_max => format!(
                "it has {} bytes, more than the {} that the source takes",
                payload.len(),
                self.rules.record_bytes_max
            ),
            Some(payload) => match self.decoder.decode(payload, &mut self.scratch) {
                Ok(record) => {
                    out.records.push(record, raw.time);
                    if self.rules.future_limit_ms.is_some() {
                        self.positions.push(raw.position);
                    }
                    return Ok(());
                }
                Err(failure) => failure.reason,
            },
        };
        let refused = Refused {
            split,
            position: raw.position,
            payload: raw.payload.unwrap_or_default(),
            reason,
        };
        self.rules.refuse(refused, out)
    }

    /// Refuses input that never became a payload.
    ///
    /// # Errors
    /// Those of [`BadInput::refuse`].
    pub fn refuse(
        &self,
        refused: Refused<'_>,
        out: &mut SourceOutput<T>,
    ) -> Result<(), ConnectorError> {
        self.rules.refuse(refused, out)
    }

    /// The position of record `at` of the last poll.
    ///
    /// # Panics
    /// If the last poll brought no such record, or the rules refuse nothing that was decoded.
    pub fn position_of(&self, at: usize) -> u64 {
        self.positions[at]
    }
}

impl<T: Record> SourceOutput<T> {
    /// Refuses the decoded records whose event time is beyond `latest`; `origin` tells where each came from.
    ///
    /// Returns how many there were.
    ///
    /// # Errors
    /// Those of [`BadInput::refuse`] and of `origin`.
    #[cold]
    pub fn refuse_beyond(
        &mut self,
        latest: EventTime,
        rules: &BadInput,
        split: &CompactString,
        mut origin: impl FnMut(usize) -> Result<Origin, ConnectorError>,
    ) -> Result<u64, ConnectorError> {
        let mut chunk = std::mem::take(&mut self.records);
        let mut count = 0;
        for (at, (record, time, _)) in chunk.drain().enumerate() {
            if time <= latest {
                self.records.push(record, time);
                continue;
            }
            count += 1;
            let origin = origin(at)?;
            let payload = origin.payload.unwrap_or_else(|| {
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                bytes
            });
            let reason = format!(
                "its event time {} ms is {} ms later than the source takes, which is {} ms ahead of the clock",
                time.0,
                time.0.saturating_sub(latest.0),
                rules.future_limit_ms.unwrap_or_default(),
            );
            let refused = Refused {
                split,
                position: origin.position,
                payload: &payload,
                reason,
            };
            rules.refuse(refused, self)?;
        }
        Ok(count)
    }
}
