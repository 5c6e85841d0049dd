//! Words of the engine: the plain values that every other crate speaks in.
//!
//! Layer 0. Depends on value crates only; knows no clock, no thread, no file and no async. In reading order: errors,
//! identifiers, time, keys, records and their schemas, chunks, and the elements that ride between chunks.

pub mod chunk;
pub mod element;
pub mod error;
pub mod id;
pub mod key;
pub mod migrate;
pub mod promise;
pub mod record;
pub mod schema;
pub mod time;

pub use chunk::Chunk;
pub use element::{BarrierKind, CheckpointBarrier, StopMode, StreamStatus};
pub use error::{Classified, ErrorKind};
pub use id::{
    AttemptId, CheckpointId, Epoch, JobIdentity, Lineage, Nonce, OperatorUid, Parallelism,
    Parallelisms, SavepointName, SlotIndex, SubtaskIndex, WorkerIndex,
};
pub use key::{Grouping, Key, KeyGroup, KeyGroupRange, KeyHash, MaxParallelism};
pub use migrate::Compatibility;
pub use promise::{Boundedness, Guarantee};
pub use record::{DecodeError, Record};
pub use schema::{DataType, Field, Schema, SchemaFingerprint};
pub use time::{EventTime, ProcessingTime, Watermark};
