//! The blackhole sink: counts records and forgets them. For measurements.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_types::{Chunk, Guarantee, Record};

use crate::error::ConnectorError;
use crate::sink::{DirectWriter, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext};

/// How many records a blackhole has swallowed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Swallowed(Arc<AtomicU64>);

impl Swallowed {
    /// The number of records, over all subtasks and attempts in this process.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A sink that counts and forgets.
pub struct BlackholeSink<T> {
    swallowed: Swallowed,
    records: PhantomData<fn(T)>,
}

impl<T: Record> BlackholeSink<T> {
    /// A blackhole with its count.
    pub fn new() -> (Self, Swallowed) {
        let swallowed = Swallowed::default();
        let sink = Self {
            swallowed: swallowed.clone(),
            records: PhantomData,
        };
        (sink, swallowed)
    }
}

impl<T> fmt::Debug for BlackholeSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlackholeSink({})", self.swallowed.get())
    }
}

impl<T: Record> Sink for BlackholeSink<T> {
    type Record = T;

    fn facts(&self) -> SinkFacts {
        SinkFacts {
            connector: "blackhole",
            object: "nothing".to_owned(),
            guarantee: Guarantee::AtLeastOnce,
        }
    }

    fn writer(&self, _: &WriterContext) -> Result<SinkWriter<T>, ConnectorError> {
        let swallowed = self.swallowed.clone();
        Ok(SinkWriter::Direct(Box::new(BlackholeWriter { swallowed })))
    }

    fn target(&self, _: &WriterContext) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(None)
    }
}

struct BlackholeWriter {
    swallowed: Swallowed,
}

impl<T> DirectWriter<T> for BlackholeWriter {
    fn write(&mut self, chunk: &mut Chunk<T>) -> Result<(), ConnectorError> {
        self.swallowed
            .0
            .fetch_add(chunk.len() as u64, Ordering::Relaxed);
        chunk.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::EventTime;

    use super::*;
    use crate::contract::writer_context;

    #[test]
    fn records_of_all_subtasks_are_counted_and_gone() {
        let (sink, swallowed) = BlackholeSink::new();
        let mut chunk = Chunk::new();
        for subtask in 0..2 {
            let SinkWriter::Direct(mut writer) = sink.writer(&writer_context(subtask)).unwrap()
            else {
                panic!("a blackhole writes at once");
            };
            chunk.push(1u8, EventTime::NONE);
            writer.write(&mut chunk).unwrap();
            assert!(chunk.is_empty());
        }
        assert_eq!(swallowed.get(), 2);
    }
}
