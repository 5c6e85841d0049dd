//! The source and sink contracts, and the connectors that need no client library.
//!
//! In reading order: errors, the source contract (enumerator on the coordinator, reader on a slot thread), the sink
//! contract (encoder on a slot thread, output target on a thread of its own), the batches of serialised output that
//! travel between the two. Decisions about commits are not here: they are machines of `highwater-protocol`.

pub mod error;
pub mod output;
pub mod sink;
pub mod source;

pub use error::ConnectorError;
pub use output::{OutputBatch, OutputRecord};
pub use sink::{
    DirectWriter, Encoder, ExternalIdentity, Guarantee, Marker, MarkerKind, MarkerPosition, MarkerReading,
    OutputTarget, Sink, SinkFacts, SinkWriter, TargetError, WriterContext,
};
pub use source::{
    BadRecords, Boundedness, DeadLetter, Discovery, ReaderContext, ReaderPoll, Source, SourceFacts,
    SourceOutput, SourceReader, Split, SplitEnumerator, SplitIndex, WakeHandle,
};
