//! Where a source begins that was added to a job: resolved once, durable before its first record flows.
//!
//! Called by the opening of an attempt. Checkpoint 0 holds the starts of the first program only (schedule 17). A later
//! program may have a source that the checkpoint it goes on from does not know: every attempt from that checkpoint, in
//! any process, reads the same start from here. The next checkpoint holds its position like that of any other source.

use highwater_types::OperatorUid;
use serde::{Deserialize, Serialize};

use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, SnapshotKind, SourceState};
use crate::paths::ManifestName;
use crate::sealed::{SealError, SealKind, seal, unseal};

const FORMAT: u32 = 1;
const KIND: SealKind = SealKind {
    what: "the start of an added source",
    format: FORMAT,
    bytes_max: MANIFEST_BYTES_MAX,
};

/// The resolved start of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceStart {
    format: u32,
    written_by: String,
    /// The source.
    pub uid: OperatorUid,
    /// Where it begins.
    pub state: SourceState,
}

impl SourceStart {
    /// The start of `uid` at `state`.
    pub fn new(uid: OperatorUid, state: SourceState) -> Self {
        Self {
            format: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            uid,
            state,
        }
    }

    /// The bytes of the object. Equal starts have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    /// Reads the object.
    ///
    /// # Errors
    /// When the bytes are damaged, or written by a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        unseal(KIND, bytes)
    }
}

/// The checkpoint that starts belong to when `manifest`, found under `name`, is gone on from. After *Going back* it is
/// the one whose state came back, however often it did: records that were read since are given up with their output,
/// and are read again.
pub fn base(manifest: &Manifest, name: ManifestName) -> ManifestName {
    base_elsewhere(manifest).unwrap_or(name)
}

/// [`base`], if it is not `manifest` itself. One that came back and does not say it is of a format below 4.
pub(crate) fn base_elsewhere(manifest: &Manifest) -> Option<ManifestName> {
    match (manifest.starts, manifest.kind) {
        (None, SnapshotKind::Rebased) => manifest.parent.map(|parent| parent.name),
        (starts, _) => starts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of format 1: they are read for ever.
    #[test]
    fn golden_start_is_read() {
        let uid = OperatorUid::parse("late").unwrap();
        let start = SourceStart {
            written_by: "0.1.0".to_owned(),
            ..SourceStart::new(uid, SourceState::default())
        };
        let golden = concat!(
            r#"{"format":1,"written_by":"0.1.0","uid":"late","state":{"enumerator":"","splits":{}},"#,
            r#""checksum":"cc9e0b89620e1428"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(start.encode()).unwrap(), golden);
        assert_eq!(SourceStart::decode(golden.as_bytes()).unwrap(), start);
        let other = golden.replace("late", "lata");
        assert!(SourceStart::decode(other.as_bytes()).is_err());
    }
}
