//! The file log: partitions of JSON lines in a directory, as a small stand-in for a Kafka topic.
//!
//! `<root>/<topic>/<partition>.jsonl`; a partition is a split and its position a byte offset. The source ends at the size
//! the files have when the job first starts, or when the file `_end` says that no partition will grow any more, or never.
//! In a log that grows a torn last line waits for its newline; in one that is there as a whole it is the last record.
//!
//! A file may only grow. A file that shrank or was replaced by a shorter one is an error, never a silent restart.

mod enumerator;
mod lines;
mod reader;
mod split;
#[cfg(test)]
mod tests;
mod topic;
mod writer;

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use highwater_types::{Boundedness, Record};

use self::enumerator::FileLogEnumerator;
use self::reader::FileLogReader;
use self::topic::TopicDirectory;
pub use self::writer::FileLogWriter;
use crate::clock::Clock;
use crate::error::ConnectorError;
use crate::format::DecodeRecord;
use crate::intake::{BadInput, BadRecords, whole_millis};
use crate::source::{ReaderContext, Source, SourceFacts, SourceReader, SplitEnumerator};

/// When a file log has been read to its end.
#[derive(Clone)]
pub(crate) enum LogEnd {
    /// At the bytes that are there when the job first starts.
    Present,
    /// When the end marker exists and everything is read.
    Marker(Arc<dyn Clock>),
    /// Never.
    Never(Arc<dyn Clock>),
}

impl LogEnd {
    /// What the state of an enumerator keeps of it.
    const fn code(&self) -> u8 {
        match self {
            Self::Present => 0,
            Self::Marker(_) => 1,
            Self::Never(_) => 2,
        }
    }

    fn clock(&self) -> Option<&Arc<dyn Clock>> {
        match self {
            Self::Present => None,
            Self::Marker(clock) | Self::Never(clock) => Some(clock),
        }
    }
}

/// A source that reads a file log.
pub struct FileLogSource<T, D> {
    topic: TopicDirectory,
    decoder: Arc<D>,
    end: LogEnd,
    bad_input: BadInput,
    records: PhantomData<fn() -> T>,
}

impl<T, D> Clone for FileLogSource<T, D> {
    fn clone(&self) -> Self {
        Self {
            topic: self.topic.clone(),
            decoder: Arc::clone(&self.decoder),
            end: self.end.clone(),
            bad_input: self.bad_input,
            records: PhantomData,
        }
    }
}

impl<T: Record, D: DecodeRecord<T>> FileLogSource<T, D> {
    /// Reads `<root>/<topic>` up to what is there when the job first starts. A record that cannot be decoded fails.
    ///
    /// A last line without newline is not there yet: it is not read.
    pub fn bounded(root: impl AsRef<Path>, topic: &str, decoder: D) -> Self {
        Self::ending(root.as_ref(), topic, decoder, LogEnd::Present)
    }

    /// Follows `<root>/<topic>` until its end marker exists.
    pub fn until_end_marker(
        root: impl AsRef<Path>,
        topic: &str,
        decoder: D,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::ending(root.as_ref(), topic, decoder, LogEnd::Marker(clock))
    }

    /// Follows `<root>/<topic>` for ever.
    pub fn continuous(
        root: impl AsRef<Path>,
        topic: &str,
        decoder: D,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::ending(root.as_ref(), topic, decoder, LogEnd::Never(clock))
    }

    /// What becomes of a record that cannot be decoded.
    #[must_use]
    pub const fn bad_records(mut self, policy: BadRecords) -> Self {
        self.bad_input.policy = policy;
        self
    }

    /// Refuses lines of more than `bytes` bytes; 16 MiB, which is the most, without this.
    #[must_use]
    pub const fn record_bytes_max(mut self, bytes: usize) -> Self {
        self.bad_input.record_bytes_max = bytes;
        self
    }

    /// Refuses records whose event time is further ahead of processing time than `limit`. Without it none is refused.
    #[must_use]
    pub fn future_limit(mut self, limit: Duration) -> Self {
        self.bad_input.future_limit_ms = Some(whole_millis(limit));
        self
    }

    fn ending(root: &Path, topic: &str, decoder: D, end: LogEnd) -> Self {
        Self {
            topic: TopicDirectory::new(root, topic),
            decoder: Arc::new(decoder),
            end,
            bad_input: BadInput::FAIL,
            records: PhantomData,
        }
    }
}

impl<T: Record, D: DecodeRecord<T>> Source for FileLogSource<T, D> {
    type Record = T;

    fn facts(&self) -> SourceFacts {
        SourceFacts {
            connector: "file-log",
            object: format!(
                "topic {} in {}",
                self.topic.name(),
                self.topic.path().display()
            ),
            boundedness: match self.end {
                LogEnd::Present | LogEnd::Marker(_) => Boundedness::Bounded,
                LogEnd::Never(_) => Boundedness::Unbounded,
            },
        }
    }

    fn bad_input(&self) -> BadInput {
        self.bad_input
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        let (topic, end) = (self.topic.clone(), self.end.clone());
        Ok(Box::new(FileLogEnumerator::new(topic, end)))
    }

    fn reader(&self, context: &ReaderContext) -> Result<Box<dyn SourceReader<T>>, ConnectorError> {
        Ok(Box::new(FileLogReader::new(self, context.wake.clone())))
    }
}
