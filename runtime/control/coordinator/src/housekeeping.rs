//! Work at the rim that no decision waits for: garbage collection (P12), orphans of declined tries, savepoint copies.

use highwater_protocol::gc::{Gc, GcEffect, GcEnd, GcEvent, Reach};
use highwater_protocol::head::Head;
use highwater_protocol::manifest::{Manifest, SlotOutput, SnapshotKind};
use highwater_protocol::paths::{RelativePath, SavepointPaths};
use highwater_storage::{FileDigest, ObjectPath, PutOutcome, get_verified};

use crate::store::{JobStore, StoreError};

/// Runs one collection to its end.
pub async fn collect(store: JobStore, mut gc: Gc, first: Vec<GcEffect>) -> GcEnd {
    let mut effects = first;
    loop {
        let Some(effect) = effects.pop() else {
            return GcEnd::Unfinished;
        };
        let event = match effect {
            GcEffect::Done(end) => return end,
            GcEffect::List => store.list().await.map_or(GcEvent::Failed, GcEvent::Listed),
            GcEffect::ReadManifest(wanted) => {
                let reach = store.manifest(&wanted).await.ok();
                let reach = reach.map(|manifest| Box::new(Reach::of(&manifest)));
                GcEvent::ManifestRead(wanted.name, reach)
            }
            GcEffect::ReadHead => GcEvent::HeadRead(read_head(&store).await),
            GcEffect::Delete(paths) => match delete(&store, &paths).await {
                Ok(()) => GcEvent::Deleted,
                Err(error) => {
                    let error = highwater_worker::slot::error_chain(&error);
                    tracing::warn!(error, "garbage is left for the next collection");
                    GcEvent::Failed
                }
            },
        };
        effects = gc.step(event);
    }
}

async fn read_head(store: &JobStore) -> Option<Box<Head>> {
    let found = store.read_head().await.ok().flatten();
    found.map(|found| Box::new(found.head))
}

/// Deletes objects of a job. Objects that are gone count as deleted.
pub async fn delete(store: &JobStore, paths: &[RelativePath]) -> Result<(), StoreError> {
    let mut objects = Vec::with_capacity(paths.len());
    for path in paths {
        objects.push(store.object(path)?);
    }
    Ok(store.storage().delete_many(&objects).await?)
}

/// Copies a confirmed checkpoint out as a savepoint: closed under reference, its own manifest written last.
///
/// # Errors
/// When the store does not answer, a file is damaged or missing, or a savepoint of this name with another content
/// exists. Nothing that cannot be read back as it was written is copied out.
pub async fn export(
    store: &JobStore,
    manifest: &Manifest,
    target: &SavepointPaths,
) -> Result<(), StoreError> {
    for (path, entry) in &manifest.files {
        let from = store.object(path)?;
        let to = ObjectPath::parse(&target.object(path))?;
        let digest = FileDigest {
            length: entry.length,
            checksum: entry.checksum.0,
        };
        let bytes = get_verified(store.storage(), &from, digest).await?;
        store.storage().put(&to, bytes).await?;
    }
    let (bytes, _) = exported(manifest).encode();
    let path = ObjectPath::parse(&target.manifest())?;
    let written = store.storage().put_new(&path, bytes.clone().into()).await?;
    match written {
        PutOutcome::Written(_) => Ok(()),
        PutOutcome::Conflict | PutOutcome::Unknown(_) => {
            match (store.storage().get(&path).await?, written) {
                (Some(found), _) if found.bytes.as_ref() == bytes.as_slice() => Ok(()),
                // Not there, and nobody knows whether it will be: that is no savepoint of somebody else.
                (None, PutOutcome::Unknown(error)) => Err(error.into()),
                _ => Err(StoreError::SavepointExists {
                    path: path.to_string(),
                }),
            }
        }
    }
}

/// The manifest of a savepoint: nothing of it is pending any more, so it needs no log.
fn exported(manifest: &Manifest) -> Manifest {
    let mut copy = manifest.clone();
    copy.kind = SnapshotKind::Export;
    copy.parent = None;
    for sink in copy.sinks.values_mut() {
        for output in sink.slots.values_mut() {
            *output = SlotOutput::Empty;
        }
    }
    copy
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use highwater_protocol::hash::ContentHash;
    use highwater_protocol::manifest::{FileEntry, ManifestTitle};
    use highwater_protocol::paths::{DataWriter, JobPaths};
    use highwater_storage::{MemoryStorage, ObjectStorage};
    use highwater_types::{
        AttemptId, CheckpointId, Classified, Epoch, ErrorKind, JobIdentity, Lineage, OperatorUid,
        SubtaskIndex,
    };

    use super::*;

    /// A checkpoint of one file, `stored` in the store under the checksum of `written`.
    async fn checkpoint(stored: &'static [u8], written: &[u8]) -> (JobStore, Manifest) {
        let identity = JobIdentity::parse("job").unwrap();
        let storage: Arc<dyn ObjectStorage> = Arc::new(MemoryStorage::default());
        let store = JobStore::new(storage, JobPaths::new(identity.clone()));
        let epoch = Epoch(1);
        let mut manifest = Manifest::new(ManifestTitle {
            identity,
            lineage: Lineage(1),
            id: CheckpointId { number: 1, epoch },
            kind: SnapshotKind::Checkpoint,
            parent: None,
            graph: ContentHash(1),
        });
        let writer = DataWriter {
            epoch,
            attempt: AttemptId(1),
            uid: OperatorUid::parse("agg").unwrap(),
            subtask: SubtaskIndex(0),
        };
        let path = writer.file(1, "state");
        let object = store.object(&path).unwrap();
        store.storage().put(&object, stored.into()).await.unwrap();
        let entry = FileEntry {
            length: written.len() as u64,
            checksum: ContentHash::of(written),
        };
        manifest.files.insert(path, entry);
        (store, manifest)
    }

    #[tokio::test]
    async fn a_savepoint_is_written_once_and_again_with_the_same_content_only() {
        let (store, mut manifest) = checkpoint(b"state", b"state").await;
        let target = SavepointPaths::parse("savepoints", "one").unwrap();
        export(&store, &manifest, &target).await.unwrap();
        export(&store, &manifest, &target).await.unwrap();
        manifest.lineage = Lineage(2);
        let other = export(&store, &manifest, &target).await.unwrap_err();
        assert!(matches!(other, StoreError::SavepointExists { .. }));
    }

    #[tokio::test]
    async fn a_rotten_file_is_not_copied_into_a_savepoint() {
        let (store, manifest) = checkpoint(b"stale", b"state").await;
        let target = SavepointPaths::parse("savepoints", "one").unwrap();
        let error = export(&store, &manifest, &target).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let manifest = ObjectPath::parse(&target.manifest()).unwrap();
        assert_eq!(store.storage().get(&manifest).await.unwrap(), None);
    }
}
