//! The source and sink contracts, and the connectors that need no client library.
//!
//! In reading order: errors, the source contract (enumerator on the coordinator, reader on a slot thread), the sink
//! contract (encoder on a slot thread, output target on a thread of its own), the batches of serialised output that
//! travel between the two, the formats of payloads and the clock of readers that wait. Then the connectors, and the
//! suites that hold every connector to its contract. Decisions about commits are not here: they are machines of
//! `highwater-protocol`.

pub mod dead_letter;
pub mod error;
pub mod output;
pub mod sink;
pub mod source;

pub mod clock;
pub mod format;

pub mod elements;
pub mod file_log;
pub mod generator;
pub mod intake;

pub mod blackhole;
pub mod collect;
pub mod file_sink;
pub mod memory_target;
pub mod print;

#[cfg(any(test, feature = "test-util"))]
pub mod contract;

pub use blackhole::BlackholeSink;
pub use clock::{Clock, ManualClock, SystemClock};
pub use collect::{CollectSink, Collected};
pub use dead_letter::DeadLetter;
pub use elements::ElementsSource;
pub use error::ConnectorError;
pub use file_log::{FileLogSource, FileLogWriter};
pub use file_sink::{CommittedFile, FileSink, FileTarget, committed_files};
pub use format::{Binary, DecodeFailure, DecodeRecord, ValueEncoder, ValueFormat};
pub use generator::{Generate, GeneratorSource, Random, RecordsPerSecond};
pub use highwater_types::{Boundedness, Guarantee};
pub use intake::{BadInput, BadRecords, Intake, Origin, RawInput, Refused};
pub use memory_target::MemoryOutput;
pub use output::{OutputBatch, OutputRecord};
pub use print::PrintSink;
pub use sink::{
    DirectWriter, Encoder, ExternalIdentity, KnownMarkers, Marker, MarkerKind, MarkerPosition,
    MarkerReading, OutputTarget, RequiredMarkers, Sink, SinkFacts, SinkWriter, TargetError,
    WriterContext,
};
pub use source::{
    Discovery, ReaderContext, ReaderFigures, ReaderPoll, Source, SourceFacts, SourceOutput,
    SourceReader, Split, SplitEnumerator, SplitIndex, WakeHandle,
};
