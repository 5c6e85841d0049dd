//! The contract of a store: what checkpoints need from it, and nothing more.
//!
//! Implemented by the drivers of this crate and by fault injectors of tests; called by the coordinator (head, manifests,
//! garbage collection) and by workers (data, sink log). The law is in the trait; `contract` tests it.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StorageError;
use crate::path::ObjectPath;

/// Names one content of an object; opaque. Two writes of equal bytes may share a version, so a body that is replaced
/// conditionally carries a counter or nonce.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// Wraps what a driver uses to name a version, such as an `ETag`.
    pub fn new(tag: impl Into<String>) -> Self {
        Self(tag.into())
    }

    /// The driver's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a conditional write.
#[derive(Debug)]
#[must_use = "a conditional write may have lost or be undecided"]
pub enum PutOutcome {
    /// It is applied and durable; the object now has this version.
    Written(Version),
    /// The condition did not hold: this request changed nothing. (A retry by a proxy in between cannot be seen from
    /// here: a writer that keeps a nonce in the body reads it back in either case.)
    Conflict,
    /// It may be applied, may be applied later, or may never be: read the object back and look for your own nonce.
    Unknown(StorageError),
}

/// A whole object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The content.
    pub bytes: Bytes,
    /// The version to name in the next conditional write.
    pub version: Version,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectEntry {
    /// Where it is.
    pub path: ObjectPath,
    /// How many bytes it holds.
    pub length: u64,
}

/// A store of objects below one location.
///
/// Law. Every write is atomic and durable when it returns: readers see the old object or the whole new one. Of any number
/// of concurrent conditional writes against one version at most one is `Written`. Reads see every write that returned
/// before they began. Listings are complete and sorted, and hold only objects *inside* the folder asked for.
///
/// # Cancel safety
/// A dropped write is a write whose outcome is unknown. Reads may be dropped at any time.
#[async_trait]
pub trait ObjectStorage: fmt::Debug + Send + Sync {
    /// The location, as a user would write it, for messages.
    fn location(&self) -> &str;

    /// Creates `path`; `Conflict` when it exists. Tried once.
    async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StorageError>;

    /// Replaces `path` when its version still is `version`; `Conflict` when it is not or the object is gone. Tried once.
    async fn put_if(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        version: &Version,
    ) -> Result<PutOutcome, StorageError>;

    /// Writes an object whose name is used for this content only, so that writing it again changes nothing. Retried.
    async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StorageError>;

    /// The whole object, or `None` when there is none.
    async fn get(&self, path: &ObjectPath) -> Result<Option<Object>, StorageError>;

    /// Exactly the bytes of `range`, or `None` when there is no object.
    ///
    /// # Errors
    /// `Corrupt` when the object is shorter than `range`.
    async fn get_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError>;

    /// Whether the object exists, and its length.
    async fn stat(&self, path: &ObjectPath) -> Result<Option<ObjectEntry>, StorageError>;

    /// All objects inside `folder` at any depth (`None`: in the whole location), sorted by path. An object at exactly
    /// `folder` and objects that merely start with the same letters are not inside.
    async fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<ObjectEntry>, StorageError>;

    /// Removes an object; one that does not exist is removed already.
    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError>;

    /// Removes objects. All are tried; the first error is returned.
    async fn delete_many(&self, paths: &[ObjectPath]) -> Result<(), StorageError> {
        let mut result = Ok(());
        for path in paths {
            let removed = self.delete(path).await;
            result = result.and(removed);
        }
        result
    }
}
