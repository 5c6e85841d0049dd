//! A savepoint as the copy of a checkpoint: what its manifest says, and whether the copy is still to be made.
//!
//! Called by whoever copies a confirmed checkpoint out: the leader that was asked, or a later one that finds the name in
//! the manifest of `head`. The rule: a copy is made again and again with the same bytes until its manifest is there, and
//! the savepoint of somebody else is never touched.

use crate::manifest::{Manifest, SlotOutput, SnapshotKind};

/// What is left to do for a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportDecision {
    /// Its files are copied, then its manifest is written.
    Copy,
    /// It is complete.
    Complete,
    /// Another savepoint has its name.
    Taken,
}

/// The manifest of a savepoint of `checkpoint`: nothing of it is pending any more, so it needs no log.
pub fn exported(checkpoint: &Manifest) -> Manifest {
    let mut copy = checkpoint.clone();
    copy.kind = SnapshotKind::Export;
    copy.parent = None;
    copy.savepoint = None;
    copy.starts = None;
    // A start from a savepoint begins as it is configured.
    copy.rescaled = None;
    for sink in copy.sinks.values_mut() {
        for output in sink.slots.values_mut() {
            *output = SlotOutput::Empty;
        }
    }
    copy
}

/// Decides by what lies under the name of the savepoint's manifest, which is written last.
pub fn decide_export(checkpoint: &Manifest, found: Option<&[u8]>) -> ExportDecision {
    let Some(bytes) = found else {
        return ExportDecision::Copy;
    };
    // Another version may write the same manifest with other bytes.
    match Manifest::decode(bytes) {
        Ok(manifest) if manifest == exported(checkpoint) => ExportDecision::Complete,
        _ => ExportDecision::Taken,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use highwater_types::{
        CheckpointId, Epoch, JobIdentity, KeyGroupRange, Lineage, MaxParallelism, OperatorUid,
        Parallelism,
    };

    use super::*;
    use crate::hash::ContentHash;
    use crate::manifest::{
        FileEntry, FilePart, KeyedFile, ManifestTitle, OperatorState, StoreParts,
    };
    use crate::paths::RelativePath;
    use crate::rescale::Rescaled;

    fn checkpoint(number: u64) -> Manifest {
        let mut manifest = Manifest::new(ManifestTitle {
            identity: JobIdentity::parse("job").unwrap(),
            lineage: Lineage(1),
            id: CheckpointId {
                number,
                epoch: Epoch(1),
            },
            kind: SnapshotKind::Savepoint,
            parent: None,
            graph: ContentHash(1),
        });
        manifest.savepoint = Some("one".to_owned());
        manifest
    }

    #[test]
    fn a_savepoint_has_every_object_that_the_files_of_its_local_stores_lie_in() {
        let mut checkpoint = checkpoint(3);
        let (head, object) = ("data/1-1/agg.0/3-keyed.0", "data/1-1/agg.0/2-keyed.0.0");
        let [head, object] = [head, object].map(|path| RelativePath::parse(path).unwrap());
        let entry = FileEntry {
            length: 4,
            checksum: ContentHash(1),
        };
        checkpoint.files.insert(head.clone(), entry);
        checkpoint.files.insert(object.clone(), entry);
        let part = FilePart {
            name: "1.sst".to_owned(),
            is_immutable: true,
            path: object,
            offset: 0,
            length: 4,
            checksum: ContentHash(1),
        };
        let keyed = KeyedFile {
            path: head,
            range: KeyGroupRange { start: 0, end: 8 },
            groups: Vec::new(),
            store: Some(StoreParts {
                store: "rocksdb".to_owned(),
                parts: vec![part],
            }),
        };
        let operator = OperatorState {
            parallelism: Parallelism(1),
            max_parallelism: MaxParallelism::try_new(8).unwrap(),
            key: None,
            states: Vec::new(),
            form: String::new(),
            keyed: vec![keyed],
            lists: Vec::new(),
        };
        let uid = OperatorUid::parse("agg").unwrap();
        checkpoint.operators.insert(uid, operator);
        let copy = exported(&checkpoint);
        assert_eq!(copy.files, checkpoint.files);
        assert_eq!(copy.check(), Ok(()), "closed under reference");
    }

    #[test]
    fn a_copy_is_made_until_its_manifest_is_there() {
        let wanted = checkpoint(3);
        let bytes = exported(&wanted).encode().0;
        assert_eq!(decide_export(&wanted, None), ExportDecision::Copy);
        assert_eq!(
            decide_export(&wanted, Some(&bytes)),
            ExportDecision::Complete
        );
    }

    #[test]
    fn a_savepoint_of_another_checkpoint_or_of_unknown_bytes_is_left_alone() {
        let (wanted, other) = (checkpoint(3), exported(&checkpoint(4)).encode().0);
        for found in [other.as_slice(), b"", b"notes of somebody"] {
            assert_eq!(decide_export(&wanted, Some(found)), ExportDecision::Taken);
        }
    }

    #[test]
    fn a_savepoint_begins_as_it_is_configured() {
        let mut checkpoint = checkpoint(3);
        let to = |parallelism| {
            let uid = OperatorUid::parse("agg").unwrap();
            BTreeMap::from([(uid, Parallelism(parallelism))])
        };
        checkpoint.rescaled = Some(Rescaled {
            configured: to(1),
            to: to(2),
        });
        assert_eq!(exported(&checkpoint).rescaled, None);
        let bytes = exported(&checkpoint).encode().0;
        let found = decide_export(&checkpoint, Some(&bytes));
        assert_eq!(found, ExportDecision::Complete);
    }

    #[test]
    fn a_savepoint_owes_no_copy_of_itself() {
        assert_eq!(exported(&checkpoint(3)).savepoint, None);
    }
}
