//! Length and checksum of a file, and reads that check both: nothing of a checkpoint is used unverified.
//!
//! Called by whoever restores, confirms or copies a checkpoint. The rule: damage is believed only after several looks,
//! since a checkpoint may be given up for it; a store that does not answer says nothing about a file.

use std::time::Duration;

use bytes::Bytes;
use highwater_types::key::hash_bytes;
use highwater_types::{Classified, ErrorKind};

use crate::error::StorageError;
use crate::path::ObjectPath;
use crate::storage::ObjectStorage;

/// How often a file is read before its damage is believed.
pub const LOOKS_MAX: u32 = 3;
/// The wait before the next look: whatever answered for the store may have changed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

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

/// Reads the file that a manifest names, and checks it; one that seems damaged is read again.
///
/// # Errors
/// `Corrupt` when the file is missing or its length or checksum differ, at each of [`LOOKS_MAX`] looks; else as
/// [`ObjectStorage::get`].
pub async fn get_verified(
    storage: &dyn ObjectStorage,
    path: &ObjectPath,
    wanted: FileDigest,
) -> Result<Bytes, StorageError> {
    let mut looks = 1;
    loop {
        match look(storage, path, wanted).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && looks < LOOKS_MAX => {
                tracing::warn!(%error, looks, "reading the file again");
                looks += 1;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            result => return result,
        }
    }
}

async fn look(
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
