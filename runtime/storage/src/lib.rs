//! Object stores with conditional writes behind one trait.
//!
//! In reading order: errors, paths, the trait and its outcomes, the drivers (memory, local directory, S3), locations
//! that users write, the start-up probe, verified reads, and the contract suite that every driver runs.
//!
//! The one rule: a conditional write answers `Written`, `Conflict` or `Unknown`, and `Conflict` means that this very
//! request changed nothing. Nothing here retries a conditional write, reads the environment or keeps a clock.

#[cfg(feature = "test-util")]
pub mod contract;
pub mod digest;
pub mod error;
pub mod local;
pub mod location;
pub mod memory;
pub mod path;
pub mod probe;
#[cfg(feature = "s3")]
pub mod s3;
pub mod storage;

pub use digest::{FileDigest, LOOKS_MAX, get_verified};
pub use error::StorageError;
pub use local::LocalStorage;
pub use location::{Location, S3Options, Secret, open};
pub use memory::MemoryStorage;
pub use path::ObjectPath;
pub use probe::probe;
#[cfg(feature = "s3")]
pub use s3::S3Storage;
pub use storage::{Object, ObjectEntry, ObjectStorage, PutOutcome, Version};
