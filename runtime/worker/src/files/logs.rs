//! The sink logs of a job, for driver threads: each call waits for the rim.

use bytes::Bytes;
use highwater_protocol::manifest::LogObject;
use highwater_protocol::paths::RelativePath;
use highwater_storage::StorageError;
use highwater_types::{Classified, ErrorKind};

use super::JobFiles;
use crate::sink::{LogStore, LogStoreError};

/// The sink logs of a job, for driver threads.
pub struct BlockingLogs {
    files: JobFiles,
    rim: tokio::runtime::Handle,
}

impl BlockingLogs {
    /// Logs that are stored through the runtime at the rim.
    pub const fn new(files: JobFiles, rim: tokio::runtime::Handle) -> Self {
        Self { files, rim }
    }
}

fn log_error(operation: &'static str, path: &RelativePath, error: &StorageError) -> LogStoreError {
    let (path, reason) = (path.to_string(), crate::slot::error_chain(error));
    if error.kind() == ErrorKind::Corrupt {
        LogStoreError::Damaged { path, reason }
    } else {
        LogStoreError::Unavailable {
            operation,
            path,
            reason,
        }
    }
}

impl LogStore for BlockingLogs {
    fn store(&self, path: &RelativePath, bytes: Vec<u8>) -> Result<(), LogStoreError> {
        let stored = self
            .rim
            .block_on(self.files.store(path, Bytes::from(bytes)));
        stored
            .map(|_| ())
            .map_err(|error| log_error("store", path, &error))
    }

    fn fetch(&self, object: &LogObject) -> Result<Vec<u8>, LogStoreError> {
        let fetched = self
            .rim
            .block_on(self.files.fetch(&object.path, object.file));
        let bytes = fetched.map_err(|error| log_error("read", &object.path, &error))?;
        Ok(bytes.to_vec())
    }
}
