//! The `rocksdb` state backend: the store behind the tables of an operator subtask whose state may outgrow memory.
//!
//! Made by the worker as one [`RocksFactory`] for all of its slots; called through the seam of `highwater-state`
//! (`StoreFactory`, `StateStore`, `Backing`), which says what holds. One database for each subtask, one column family
//! for each state, a row key is the key group (2 bytes, big-endian) and the encoded key and namespace.
//!
//! Rules that this crate keeps:
//!
//! - The local disk is a cache. There is no write-ahead log, and no store is opened on files that a checkpoint did not verify.
//! - An error is final: the store that met one, also in the background, refuses every later call by name. The
//!   attempt fails, and state comes back from the last checkpoint into a new store.
//! - All databases of a worker live in one memory budget and share few background threads.
//!
//! What the settings of RocksDB are and why stands in `tuning`, with figures.

mod error;
mod expiry;
mod factory;
mod frozen;
mod key;
mod pack;
mod rows;
mod shared;
mod store;
mod tuning;

pub use error::RocksError;
pub use factory::RocksFactory;
pub use tuning::RocksOptions;
