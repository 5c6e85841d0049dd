//! Length and checksum of a file, and reads that check both: nothing of a checkpoint is used unverified.

use bytes::Bytes;
use highwater_types::key::hash_bytes;

use crate::error::StorageError;
use crate::path::ObjectPath;
use crate::storage::ObjectStorage;

/// What a manifest keeps of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileDigest {
    /// Bytes.
    pub length: u64,
    /// XXH3-64 with seed 0 over the bytes.
    pub checksum: u64,
}

impl FileDigest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            length: bytes.len() as u64,
            checksum: hash_bytes(bytes).0,
        }
    }
}

/// Reads the file that a manifest names, and checks it.
///
/// # Errors
/// `Corrupt` when the file is missing or its length or checksum differ; else as [`ObjectStorage::get`].
pub async fn get_verified(
    storage: &dyn ObjectStorage,
    path: &ObjectPath,
    wanted: FileDigest,
) -> Result<Bytes, StorageError> {
    let named = || format!("{}/{path}", storage.location());
    let Some(object) = storage.get(path).await? else {
        return Err(StorageError::Missing { object: named() });
    };
    let found = FileDigest::of(&object.bytes);
    if found != wanted {
        return Err(StorageError::Damaged {
            object: named(),
            wanted_length: wanted.length,
            wanted: wanted.checksum,
            found_length: found.length,
            found: found.checksum,
        });
    }
    Ok(object.bytes)
}

#[cfg(test)]
mod tests {
    use highwater_types::{Classified, ErrorKind};

    use super::*;
    use crate::memory::MemoryStorage;

    #[tokio::test]
    async fn a_missing_cut_or_flipped_file_is_corrupt() {
        let storage = MemoryStorage::default();
        let path = ObjectPath::parse("data/1").unwrap();
        let digest = FileDigest::of(b"state");
        let missing = get_verified(&storage, &path, digest).await.unwrap_err();
        assert!(
            missing.to_string().contains("memory:///data/1"),
            "{missing}"
        );
        assert_eq!(missing.kind(), ErrorKind::Corrupt);
        for (bytes, good) in [
            (&b"state"[..], true),
            (b"statf", false),
            (b"stat", false),
            (b"", false),
        ] {
            storage.put(&path, Bytes::from_static(bytes)).await.unwrap();
            let read = get_verified(&storage, &path, digest).await;
            assert_eq!(read.is_ok(), good);
            if let Err(error) = read {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
    }
}
