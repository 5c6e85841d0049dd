//! The key context: whose state an access touches, and when.
//!
//! Made by the operator for each record or timer; every access of a state handle takes one, so there is no current key
//! that could be left over from the record before.

use highwater_types::{Key, KeyHash, ProcessingTime};

/// Whose state is accessed: key and namespace, with the processing time for TTL.
#[derive(Debug)]
pub struct KeyContext<'a, K, N = ()> {
    /// The stable hash of `key`, as it rides in the chunk.
    pub hash: KeyHash,
    /// The key.
    pub key: &'a K,
    /// The namespace: the window, or `()`.
    pub namespace: &'a N,
    /// The processing time of this access.
    pub now: ProcessingTime,
}

impl<K, N> Clone for KeyContext<'_, K, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, N> Copy for KeyContext<'_, K, N> {}

impl<'a, K: Key> KeyContext<'a, K> {
    /// The context of `key`, whose hash the chunk carries.
    #[inline]
    pub fn new(hash: KeyHash, key: &'a K, now: ProcessingTime) -> Self {
        debug_assert_eq!(hash, key.key_hash(), "the hash belongs to another key");
        Self {
            hash,
            key,
            namespace: &(),
            now,
        }
    }
}

impl<'a, K, N> KeyContext<'a, K, N> {
    /// The same key in another namespace.
    #[inline]
    pub const fn in_namespace<M>(self, namespace: &'a M) -> KeyContext<'a, K, M> {
        KeyContext {
            hash: self.hash,
            key: self.key,
            namespace,
            now: self.now,
        }
    }
}
