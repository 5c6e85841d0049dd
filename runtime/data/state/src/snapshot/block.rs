//! The rows of one state and key group in a snapshot: in memory, or in a file on local disk until they are wanted.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use highwater_types::KeyGroup;
use highwater_types::key::hash_bytes;

use crate::error::{StateError, StateName};

/// The bytes of a whole snapshot.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotBytes {
    Memory(Arc<Vec<u8>>),
    File(Arc<File>),
}

/// The rows of one state and key group: sorted by encoded key, framed, summed up.
#[derive(Clone, Debug)]
pub struct GroupBlock {
    /// The key group.
    pub group: KeyGroup,
    /// How many rows.
    pub count: u64,
    /// XXH3-64 of the bytes.
    pub checksum: u64,
    bytes: SnapshotBytes,
    range: Range<usize>,
}

impl GroupBlock {
    pub(crate) fn new(group: KeyGroup, count: u64, bytes: Vec<u8>) -> Self {
        Self {
            group,
            count,
            checksum: hash_bytes(&bytes).0,
            range: 0..bytes.len(),
            bytes: SnapshotBytes::Memory(Arc::new(bytes)),
        }
    }

    /// A block inside a snapshot that was read: its checksum is compared when the bytes are used.
    pub(crate) fn inside(
        (group, count, checksum): (KeyGroup, u64, u64),
        bytes: SnapshotBytes,
        range: Range<usize>,
    ) -> Self {
        Self {
            group,
            count,
            checksum,
            bytes,
            range,
        }
    }

    /// How many bytes.
    pub fn length(&self) -> u64 {
        self.range.len() as u64
    }

    /// The bytes, if they have their checksum.
    ///
    /// # Errors
    /// `Corrupt` otherwise; `Transient` when local disk cannot be read.
    pub fn verified(&self, name: &StateName) -> Result<Cow<'_, [u8]>, StateError> {
        let what = || format!("key group {} of {name}", self.group);
        let bytes = self.read().map_err(|source| StateError::LocalFile {
            what: what(),
            source,
        })?;
        let found = hash_bytes(&bytes).0;
        if found != self.checksum {
            return Err(StateError::Checksum {
                what: what(),
                expected: self.checksum,
                found,
            });
        }
        Ok(bytes)
    }

    fn read(&self) -> std::io::Result<Cow<'_, [u8]>> {
        match &self.bytes {
            SnapshotBytes::Memory(bytes) => Ok(Cow::Borrowed(&bytes[self.range.clone()])),
            SnapshotBytes::File(file) => {
                let mut bytes = vec![0; self.range.len()];
                file.read_exact_at(&mut bytes, self.range.start as u64)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// The block with its verified bytes in memory.
    ///
    /// # Errors
    /// As [`GroupBlock::verified`].
    pub(crate) fn in_memory(&self, name: &StateName) -> Result<Self, StateError> {
        let bytes = self.verified(name)?.into_owned();
        Ok(Self::new(self.group, self.count, bytes))
    }

    /// The bytes of a block in memory, unchecked.
    ///
    /// # Panics
    /// If they lie in a file: only what was made here, or brought into memory, is written again.
    pub(crate) fn held(&self) -> &[u8] {
        match &self.bytes {
            SnapshotBytes::Memory(bytes) => &bytes[self.range.clone()],
            SnapshotBytes::File(_) => panic!("a block of a file is written again from memory only"),
        }
    }
}
