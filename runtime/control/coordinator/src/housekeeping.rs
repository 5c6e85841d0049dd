//! Work at the rim that no decision waits for: garbage collection (P12), orphans of declined tries, savepoint copies.

use highwater_protocol::gc::{Gc, GcEffect, GcEnd, GcEvent, Reach};
use highwater_protocol::head::Head;
use highwater_protocol::manifest::{Manifest, SlotOutput, SnapshotKind};
use highwater_protocol::paths::{RelativePath, SavepointPaths};
use highwater_storage::ObjectPath;
use highwater_storage::PutOutcome;

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
/// When the store does not answer, or a savepoint of this name with another content exists.
pub async fn export(
    store: &JobStore,
    manifest: &Manifest,
    target: &SavepointPaths,
) -> Result<(), StoreError> {
    for path in manifest.files.keys() {
        let from = store.object(path)?;
        let to = ObjectPath::parse(&target.object(path))?;
        let object = store.storage().get(&from).await?;
        let object = object.ok_or_else(|| highwater_storage::StorageError::Missing {
            object: format!("{}/{from}", store.storage().location()),
        })?;
        store.storage().put(&to, object.bytes).await?;
    }
    let (bytes, _) = exported(manifest).encode();
    let path = ObjectPath::parse(&target.manifest())?;
    let written = store.storage().put_new(&path, bytes.clone().into()).await?;
    match written {
        PutOutcome::Written(_) => Ok(()),
        PutOutcome::Conflict | PutOutcome::Unknown(_) => {
            let found = store.storage().get(&path).await?;
            if found.is_some_and(|found| found.bytes.as_ref() == bytes.as_slice()) {
                return Ok(());
            }
            Err(StoreError::SavepointExists {
                path: path.to_string(),
            })
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
