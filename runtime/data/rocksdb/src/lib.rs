//! The `rocksdb` state backend.
