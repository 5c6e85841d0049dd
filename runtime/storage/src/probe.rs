//! The start-up probe: refuses a store that cannot hold `head` before any checkpoint depends on it.
//!
//! It writes one object under a name of its own: create if absent, create again (must be refused), read back, replace if
//! unchanged, replace a stale version (must be refused), list, delete. A store that is merely unavailable answers with a
//! transient error instead of a refusal.

use bytes::Bytes;
use highwater_types::{Classified, ErrorKind, Nonce};

use crate::error::StorageError;
use crate::path::ObjectPath;
use crate::storage::{ObjectStorage, PutOutcome, Version};

/// Checks that `storage` keeps the law that checkpoints lean on. `nonce` makes the probe's object unique.
///
/// # Errors
/// `Invalid` naming location, operation and reason when the store refuses or breaks the law; `Transient` when it does
/// not answer clearly.
pub async fn probe(storage: &dyn ObjectStorage, nonce: Nonce) -> Result<(), StorageError> {
    let path = ObjectPath::parse(&format!("probe/{nonce}"))?;
    let probe = Probe { storage, path };
    let checked = probe.check_writes().await;
    let removed = probe.check_delete().await;
    checked.and(removed)
}

struct Probe<'a> {
    storage: &'a dyn ObjectStorage,
    path: ObjectPath,
}

const CREATE: &str = "create if absent";
const CREATE_AGAIN: &str = "create if absent, over an object";
const READ: &str = "read back";
const UPDATE: &str = "replace if unchanged";
const STALE: &str = "replace a stale version";
const LIST: &str = "list";
const DELETE: &str = "delete";

impl Probe<'_> {
    async fn check_writes(&self) -> Result<(), StorageError> {
        let (first, second) = (
            Bytes::from_static(b"probe 1"),
            Bytes::from_static(b"probe 2"),
        );
        let created = self.storage.put_new(&self.path, first.clone()).await;
        let old = self.written(CREATE, created)?;
        let again = self.storage.put_new(&self.path, second.clone()).await;
        self.refused(CREATE_AGAIN, again)?;
        self.read_back(&first, &old).await?;
        let updated = self.storage.put_if(&self.path, second.clone(), &old).await;
        let new = self.written(UPDATE, updated)?;
        let stale = self.storage.put_if(&self.path, first, &old).await;
        self.refused(STALE, stale)?;
        self.read_back(&second, &new).await?;
        let folder = ObjectPath::parse("probe")?;
        let listed = self.storage.list(Some(&folder)).await;
        let listed = listed.map_err(|error| self.failed(LIST, error))?;
        if !listed.iter().any(|entry| entry.path == self.path) {
            return Err(self.broken(LIST, "an object that was just written is not listed"));
        }
        Ok(())
    }

    async fn check_delete(&self) -> Result<(), StorageError> {
        let deleted = self.storage.delete(&self.path).await;
        deleted.map_err(|error| self.failed(DELETE, error))?;
        let left = self.storage.stat(&self.path).await;
        match left.map_err(|error| self.failed(DELETE, error))? {
            None => Ok(()),
            Some(_) => Err(self.broken(DELETE, "the object is still there after it was deleted")),
        }
    }

    async fn read_back(&self, bytes: &Bytes, version: &Version) -> Result<(), StorageError> {
        let read = self.storage.get(&self.path).await;
        match read.map_err(|error| self.failed(READ, error))? {
            Some(object) if object.bytes == *bytes && object.version == *version => Ok(()),
            Some(_) => Err(self.broken(READ, "the object read is not the one written")),
            None => Err(self.broken(READ, "an object that was just written is not there")),
        }
    }

    fn written(
        &self,
        operation: &'static str,
        outcome: Result<PutOutcome, StorageError>,
    ) -> Result<Version, StorageError> {
        match outcome.map_err(|error| self.failed(operation, error))? {
            PutOutcome::Written(version) => Ok(version),
            PutOutcome::Unknown(error) => Err(error),
            PutOutcome::Conflict => Err(self.broken(
                operation,
                "the store refuses a conditional write whose condition holds",
            )),
        }
    }

    fn refused(
        &self,
        operation: &'static str,
        outcome: Result<PutOutcome, StorageError>,
    ) -> Result<(), StorageError> {
        match outcome.map_err(|error| self.failed(operation, error))? {
            PutOutcome::Conflict => Ok(()),
            PutOutcome::Unknown(error) => Err(error),
            PutOutcome::Written(_) => Err(self.broken(
                operation,
                "the store ignores the condition, so two leaders could both win; use a store with conditional writes",
            )),
        }
    }

    fn broken(&self, operation: &'static str, reason: &str) -> StorageError {
        StorageError::Probe {
            location: self.storage.location().to_owned(),
            operation,
            reason: reason.to_owned(),
        }
    }

    /// A refusal keeps its reason under the name of the step; an outage stays an outage.
    fn failed(&self, operation: &'static str, error: StorageError) -> StorageError {
        match error.kind() {
            ErrorKind::Transient => error,
            _ => self.broken(operation, &reason_chain(&error)),
        }
    }
}

fn reason_chain(error: &StorageError) -> String {
    match error {
        StorageError::Io {
            operation, source, ..
        } => format!("{operation} failed: {source}"),
        other => other.to_string(),
    }
}
