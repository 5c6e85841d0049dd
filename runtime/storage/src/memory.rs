//! A store in memory: for local runs without durability and for tests. Lost with the process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StorageError;
use crate::path::ObjectPath;
use crate::storage::{Object, ObjectEntry, ObjectStorage, PutOutcome, Version};

const LOCATION: &str = "memory://";

#[derive(Debug, Default)]
struct Objects {
    by_path: BTreeMap<ObjectPath, (u64, Bytes)>,
    writes: u64,
}

impl Objects {
    fn write(&mut self, path: &ObjectPath, bytes: Bytes) -> Version {
        self.writes += 1;
        self.by_path.insert(path.clone(), (self.writes, bytes));
        version(self.writes)
    }
}

fn version(write: u64) -> Version {
    Version::new(write.to_string())
}

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    objects: Mutex<Objects>,
}

impl MemoryStorage {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        // Every critical section leaves the map whole, so a panic elsewhere does not spoil it.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ObjectStorage for MemoryStorage {
    fn location(&self) -> &'static str {
        LOCATION
    }

    async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        let mut objects = self.lock();
        if objects.by_path.contains_key(path) {
            return Ok(PutOutcome::Conflict);
        }
        Ok(PutOutcome::Written(objects.write(path, bytes)))
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        wanted: &Version,
    ) -> Result<PutOutcome, StorageError> {
        let mut objects = self.lock();
        match objects.by_path.get(path) {
            Some((write, _)) if version(*write) == *wanted => {
                Ok(PutOutcome::Written(objects.write(path, bytes)))
            }
            _ => Ok(PutOutcome::Conflict),
        }
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StorageError> {
        self.lock().write(path, bytes);
        Ok(())
    }

    async fn get(&self, path: &ObjectPath) -> Result<Option<Object>, StorageError> {
        let objects = self.lock();
        Ok(objects.by_path.get(path).map(|(write, bytes)| Object {
            bytes: bytes.clone(),
            version: version(*write),
        }))
    }

    async fn get_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        let objects = self.lock();
        let Some((_, bytes)) = objects.by_path.get(path) else {
            return Ok(None);
        };
        let length = bytes.len() as u64;
        if range.start > range.end || range.end > length {
            return Err(StorageError::Range {
                object: format!("{LOCATION}/{path}"),
                length,
                start: range.start,
                end: range.end,
            });
        }
        Ok(Some(bytes.slice(range.start as usize..range.end as usize)))
    }

    async fn stat(&self, path: &ObjectPath) -> Result<Option<ObjectEntry>, StorageError> {
        let objects = self.lock();
        Ok(objects.by_path.get(path).map(|(_, bytes)| ObjectEntry {
            path: path.clone(),
            length: bytes.len() as u64,
        }))
    }

    async fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<ObjectEntry>, StorageError> {
        let objects = self.lock();
        let inside = objects
            .by_path
            .iter()
            .filter(|(path, _)| folder.is_none_or(|folder| path.is_below(folder)));
        Ok(inside
            .map(|(path, (_, bytes))| ObjectEntry {
                path: path.clone(),
                length: bytes.len() as u64,
            })
            .collect())
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.lock().by_path.remove(path);
        Ok(())
    }
}
