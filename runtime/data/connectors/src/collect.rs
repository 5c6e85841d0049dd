//! The collect sink: gathers records in memory, for tests.
//!
//! The at-least-once form holds what was written, repetitions included. The exactly-once form goes the whole way of a
//! transactional sink (encoder, target, marker) to a [`MemoryOutput`]; its handle sees committed output only.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_types::{Chunk, EventTime, Guarantee, Record};

use crate::error::ConnectorError;
use crate::format::{Binary, ValueEncoder};
use crate::memory_target::MemoryOutput;
use crate::sink::{DirectWriter, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext};

/// The most records that are gathered: a test that forgets its limit fails instead of filling the memory.
pub const COLLECTED_RECORDS_MAX: usize = 1_000_000;

enum Place<T> {
    Written(Arc<Mutex<Vec<(T, EventTime)>>>),
    Committed(MemoryOutput),
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Written(records) => Self::Written(Arc::clone(records)),
            Self::Committed(output) => Self::Committed(output.clone()),
        }
    }
}

/// What a collect sink has gathered. Cheap to clone.
pub struct Collected<T> {
    place: Place<T>,
}

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Self {
            place: self.place.clone(),
        }
    }
}

impl<T: Record> Collected<T> {
    /// The records with their event times: in the order of writing, or, exactly-once, by slot and checkpoint.
    ///
    /// # Errors
    /// `Corrupt` when committed bytes are no records.
    pub fn timed(&self) -> Result<Vec<(T, EventTime)>, ConnectorError> {
        match &self.place {
            Place::Written(records) => Ok(lock(records).clone()),
            Place::Committed(output) => {
                let committed = output.committed();
                let outputs = committed.iter().flat_map(|(.., batch)| batch.iter());
                let decoded = outputs.map(|output| {
                    let record = T::decode(&mut output.value.unwrap_or_default());
                    record.map(|record| (record, output.time))
                });
                decoded
                    .collect::<Result<_, _>>()
                    .map_err(|error| ConnectorError::State {
                        object: "collect sink".to_owned(),
                        reason: error.to_string(),
                    })
            }
        }
    }

    /// The records alone.
    ///
    /// # Errors
    /// As [`Collected::timed`].
    pub fn records(&self) -> Result<Vec<T>, ConnectorError> {
        let timed = self.timed()?;
        Ok(timed.into_iter().map(|(record, _)| record).collect())
    }
}

impl<T> fmt::Debug for Collected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Written(records) => write!(f, "Collected({} records)", lock(records).len()),
            Place::Committed(output) => write!(f, "Collected({output:?})"),
        }
    }
}

/// A sink that gathers records in memory.
pub struct CollectSink<T> {
    place: Place<T>,
}

impl<T> Clone for CollectSink<T> {
    fn clone(&self) -> Self {
        Self {
            place: self.place.clone(),
        }
    }
}

impl<T: Record> CollectSink<T> {
    /// A sink that shows records as soon as they are written, again after a failure.
    pub fn at_least_once() -> (Self, Collected<T>) {
        Self::into(Place::Written(Arc::default()))
    }

    /// A sink that shows records when their checkpoint is committed.
    pub fn exactly_once() -> (Self, Collected<T>) {
        Self::into(Place::Committed(MemoryOutput::new()))
    }

    fn into(place: Place<T>) -> (Self, Collected<T>) {
        let collected = Collected {
            place: place.clone(),
        };
        (Self { place }, collected)
    }
}

impl<T> fmt::Debug for CollectSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CollectSink")
    }
}

impl<T: Record> Sink for CollectSink<T> {
    type Record = T;

    fn facts(&self) -> SinkFacts {
        SinkFacts {
            connector: "collect",
            object: "memory".to_owned(),
            guarantee: match self.place {
                Place::Written(_) => Guarantee::AtLeastOnce,
                Place::Committed(_) => Guarantee::ExactlyOnce,
            },
        }
    }

    fn writer(&self, _: &WriterContext) -> Result<SinkWriter<T>, ConnectorError> {
        Ok(match &self.place {
            Place::Written(records) => SinkWriter::Direct(Box::new(CollectWriter {
                records: Arc::clone(records),
            })),
            Place::Committed(_) => SinkWriter::Transactional(Box::new(ValueEncoder::new(Binary))),
        })
    }

    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(match &self.place {
            Place::Written(_) => None,
            Place::Committed(output) => Some(Box::new(output.target(context))),
        })
    }
}

struct CollectWriter<T> {
    records: Arc<Mutex<Vec<(T, EventTime)>>>,
}

impl<T> DirectWriter<T> for CollectWriter<T> {
    fn write(&mut self, chunk: &mut Chunk<T>) -> Result<(), ConnectorError> {
        let mut records = lock(&self.records);
        if records.len() + chunk.len() > COLLECTED_RECORDS_MAX {
            return Err(ConnectorError::Configuration {
                connector: "collect sink".to_owned(),
                reason: format!(
                    "more than {COLLECTED_RECORDS_MAX} records; bound the source or write to files"
                ),
            });
        }
        records.extend(chunk.drain().map(|(record, time, _)| (record, time)));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

fn lock<T>(records: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::writer_context;
    use crate::output::OutputBatch;
    use crate::sink::{Marker, MarkerKind};

    fn chunk(records: &[u32]) -> Chunk<u32> {
        let mut chunk = Chunk::new();
        for &record in records {
            chunk.push(record, EventTime(i64::from(record)));
        }
        chunk
    }

    #[test]
    fn written_records_are_seen_at_once_up_to_the_limit() {
        let (sink, collected) = CollectSink::at_least_once();
        let SinkWriter::Direct(mut writer) = sink.writer(&writer_context(0)).unwrap() else {
            panic!("at-least-once writes at once");
        };
        writer.write(&mut chunk(&[1, 2])).unwrap();
        assert_eq!(collected.records().unwrap(), [1, 2]);
        let many: Vec<u32> = (0..COLLECTED_RECORDS_MAX as u32).collect();
        assert!(writer.write(&mut chunk(&many)).is_err());
    }

    #[test]
    fn committed_records_are_seen_when_they_are_committed() {
        let (sink, collected) = CollectSink::exactly_once();
        let SinkWriter::Transactional(mut encoder) = sink.writer(&writer_context(0)).unwrap()
        else {
            panic!("exactly-once is transactional");
        };
        let mut target = sink.target(&writer_context(0)).unwrap().unwrap();
        let mut batch = OutputBatch::default();
        encoder.encode(&mut chunk(&[7, 8]), &mut batch).unwrap();
        target.open_session().unwrap();
        target.begin().unwrap();
        target.send(&batch).unwrap();
        assert!(collected.records().unwrap().is_empty());
        let marker = Marker {
            number: 1,
            kind: MarkerKind::Output,
            epoch: 1,
            attempt: 1,
        };
        target.commit(marker).unwrap();
        let expected = [(7, EventTime(7)), (8, EventTime(8))];
        assert_eq!(collected.timed().unwrap(), expected);
    }
}
