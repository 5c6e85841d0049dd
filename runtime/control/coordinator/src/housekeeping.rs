//! Work at the rim that no decision waits for: garbage collection (P12), orphans of declined tries, savepoint copies.

use std::collections::VecDeque;

use highwater_protocol::export::{ExportDecision, decide_export, exported};
use highwater_protocol::gc::{Gc, GcEffect, GcEnd, GcEvent, Reach};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::{RelativePath, SavepointPaths};
use highwater_protocol::steps::Step;
use highwater_storage::{FileDigest, ObjectPath, PutOutcome, get_verified};
use highwater_worker::StopHook;

use crate::status::WaitBoard;
use crate::store::{JobStore, StoreError, backoff, is_worth_waiting};

/// How a collection ended, and what stood in its way.
#[derive(Debug)]
pub struct Collected {
    /// Its end.
    pub end: GcEnd,
    /// The object that could not be read, listed or deleted, and why.
    pub trouble: Option<String>,
}

/// Runs one collection to its end. Effects are performed in order, all of them.
pub async fn collect(store: JobStore, mut gc: Gc, first: Vec<GcEffect>) -> Collected {
    let mut effects = VecDeque::from(first);
    let mut trouble = None;
    while let Some(effect) = effects.pop_front() {
        let event = match effect {
            GcEffect::Done(end) => return Collected { end, trouble },
            GcEffect::List => {
                seen(store.list().await, &mut trouble).map_or(GcEvent::Failed, GcEvent::Listed)
            }
            GcEffect::ReadManifest(wanted) => {
                let read = seen(store.manifest(&wanted).await, &mut trouble);
                let reach = read.map(|manifest| Box::new(Reach::of(&manifest)));
                GcEvent::ManifestRead(wanted.name, reach)
            }
            GcEffect::ReadHead => {
                let read = seen(store.read_head().await, &mut trouble).flatten();
                GcEvent::HeadRead(read.map(|found| Box::new(found.head)))
            }
            GcEffect::Delete(paths) => seen(delete(&store, &paths).await, &mut trouble)
                .map_or(GcEvent::Failed, |()| GcEvent::Deleted),
        };
        effects.extend(gc.step(event));
    }
    Collected {
        end: GcEnd::Unfinished,
        trouble,
    }
}

/// What the store answered, or nothing; why not is kept for people, the first reason of a collection.
fn seen<T>(answer: Result<T, StoreError>, trouble: &mut Option<String>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) => {
            let reason = highwater_worker::slot::error_chain(&error);
            tracing::warn!(reason, "garbage is left for the next collection");
            trouble.get_or_insert(reason);
            None
        }
    }
}

/// Deletes objects of a job. Objects that are gone count as deleted.
pub async fn delete(store: &JobStore, paths: &[RelativePath]) -> Result<(), StoreError> {
    let mut objects = Vec::with_capacity(paths.len());
    for path in paths {
        objects.push(store.object(path)?);
    }
    Ok(store.storage().delete_many(&objects).await?)
}

/// When a savepoint was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Now.
    Now,
    /// Before: it was found complete.
    Before,
}

/// Copies a confirmed checkpoint out as a savepoint, unless it is there already: closed under reference, its own manifest
/// written last. Waits for a store that does not answer for a while, and says so to `waits` where somebody looks there.
///
/// A copy that is left where it is stands as one whose process was killed.
///
/// # Errors
/// When the store does not answer for long, a file is damaged or missing, or a savepoint of this name with another
/// content exists. Nothing that cannot be read back as it was written is copied out.
pub async fn export(
    store: &JobStore,
    manifest: &Manifest,
    target: &SavepointPaths,
    waits: Option<&WaitBoard>,
    stop: &StopHook,
) -> Result<Copied, StoreError> {
    let mut tries = 1;
    loop {
        match export_once(store, manifest, target, stop).await {
            Err(error) if is_worth_waiting(&error, tries) => {
                if let Some(waits) = waits {
                    let what = format!("the copy of savepoint {}", target.folder());
                    let reason = highwater_worker::slot::error_chain(&error);
                    waits.waits(&what, &reason, tries);
                }
                tries += 1;
                tokio::time::sleep(backoff(tries)).await;
            }
            ended => return ended,
        }
    }
}

async fn export_once(
    store: &JobStore,
    manifest: &Manifest,
    target: &SavepointPaths,
    stop: &StopHook,
) -> Result<Copied, StoreError> {
    let path = ObjectPath::parse(&target.manifest())?;
    let taken = || StoreError::SavepointExists {
        path: path.to_string(),
    };
    match look(store, manifest, &path).await? {
        ExportDecision::Complete => return Ok(Copied::Before),
        ExportDecision::Taken => return Err(taken()),
        ExportDecision::Copy => {}
    }
    for (path, entry) in &manifest.files {
        let from = store.object(path)?;
        let to = ObjectPath::parse(&target.object(path))?;
        let digest = FileDigest {
            length: entry.length,
            checksum: entry.checksum.0,
        };
        let bytes = get_verified(store.storage(), &from, digest).await?;
        stop(Step::X1);
        store.storage().put(&to, bytes).await?;
    }
    let (bytes, _) = exported(manifest).encode();
    stop(Step::X2);
    let written = store.storage().put_new(&path, bytes.into()).await?;
    if matches!(written, PutOutcome::Written(_)) {
        return Ok(Copied::Now);
    }
    match (look(store, manifest, &path).await?, written) {
        (ExportDecision::Complete, _) => Ok(Copied::Now),
        // Not there, and nobody knows whether it will be: that is no savepoint of somebody else.
        (ExportDecision::Copy, PutOutcome::Unknown(error)) => Err(error.into()),
        _ => Err(taken()),
    }
}

/// The folder of the savepoint that `manifest` was asked for as, if it is not there complete: a job that goes on from
/// anything but `manifest` does not make it any more.
pub async fn dropped(store: &JobStore, below: &str, manifest: &Manifest) -> Option<String> {
    let name = manifest.savepoint.as_deref()?;
    // A name that is no folder was never copied either.
    let Ok(target) = SavepointPaths::parse(below, name) else {
        return Some(name.to_owned());
    };
    let found = match ObjectPath::parse(&target.manifest()) {
        Ok(path) => look(store, manifest, &path).await,
        Err(error) => Err(error.into()),
    };
    match found {
        Ok(ExportDecision::Complete) => None,
        Ok(ExportDecision::Copy | ExportDecision::Taken) => Some(target.folder().to_owned()),
        Err(error) => {
            let reason = highwater_worker::slot::error_chain(&error);
            tracing::warn!(reason, "whether the savepoint is there could not be read");
            Some(target.folder().to_owned())
        }
    }
}

/// Says of [`dropped`] that it is not made any more.
pub async fn tell_dropped(store: &JobStore, below: &str, manifest: &Manifest) {
    if let Some(savepoint) = dropped(store, below, manifest).await {
        tracing::warn!(
            savepoint,
            checkpoint = %manifest.id,
            "a savepoint is not made: it was asked for at a checkpoint that the job does not go on from, and its process \
             ended before the copy; ask for it again when the job runs"
        );
    }
}

async fn look(
    store: &JobStore,
    manifest: &Manifest,
    path: &ObjectPath,
) -> Result<ExportDecision, StoreError> {
    let found = store.storage().get(path).await?;
    Ok(decide_export(
        manifest,
        found.as_ref().map(|found| found.bytes.as_ref()),
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use highwater_protocol::hash::ContentHash;
    use highwater_protocol::manifest::{FileEntry, ManifestTitle, SnapshotKind};
    use highwater_protocol::paths::{DataWriter, JobPaths};
    use highwater_storage::{MemoryStorage, ObjectStorage};
    use highwater_types::{
        AttemptId, CheckpointId, Classified, Epoch, ErrorKind, JobIdentity, Lineage, OperatorUid,
        SubtaskIndex,
    };

    use super::*;

    fn on() -> StopHook {
        Arc::new(|_| {})
    }

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
        export(&store, &manifest, &target, None, &on())
            .await
            .unwrap();
        export(&store, &manifest, &target, None, &on())
            .await
            .unwrap();
        manifest.lineage = Lineage(2);
        let other = export(&store, &manifest, &target, None, &on())
            .await
            .unwrap_err();
        assert!(matches!(other, StoreError::SavepointExists { .. }));
    }

    #[tokio::test]
    async fn a_collection_that_cannot_read_a_retained_manifest_names_it() {
        use highwater_protocol::gc::Retention;
        use highwater_protocol::head::{Head, ManifestRef, SlotCounts};
        use highwater_protocol::paths::ManifestName;
        use highwater_types::Nonce;

        let (store, manifest) = checkpoint(b"state", b"state").await;
        let (bytes, hash) = manifest.encode();
        let name = ManifestName {
            epoch: Epoch(1),
            number: 0,
            nonce: Nonce(7),
        };
        let mut rotten = bytes;
        rotten[0] ^= 1;
        store.write_manifest(&name, rotten).await.unwrap();
        let reference = ManifestRef { name, hash };
        let identity = JobIdentity::parse("job").unwrap();
        let head = Head::first(identity, Lineage(1), reference, SlotCounts::new(), Nonce(8));
        let (gc, first) = Gc::start(&head, Retention::DEFAULT, head.number + 1);
        let Collected { trouble, .. } = collect(store, gc, first).await;
        let trouble = trouble.expect("somebody is told");
        assert!(trouble.contains(&name.to_string()), "{trouble}");
    }

    #[tokio::test]
    async fn a_rotten_file_is_not_copied_into_a_savepoint() {
        let (store, manifest) = checkpoint(b"stale", b"state").await;
        let target = SavepointPaths::parse("savepoints", "one").unwrap();
        let error = export(&store, &manifest, &target, None, &on())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let manifest = ObjectPath::parse(&target.manifest()).unwrap();
        assert_eq!(store.storage().get(&manifest).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_savepoint_that_is_owed_and_not_there_is_named_when_it_is_dropped() {
        let (store, mut manifest) = checkpoint(b"state", b"state").await;
        assert_eq!(dropped(&store, "savepoints", &manifest).await, None);
        manifest.savepoint = Some("one".to_owned());
        let folder = Some("savepoints/one".to_owned());
        assert_eq!(dropped(&store, "savepoints", &manifest).await, folder);
        let target = SavepointPaths::parse("savepoints", "one").unwrap();
        export(&store, &manifest, &target, None, &on())
            .await
            .unwrap();
        assert_eq!(dropped(&store, "savepoints", &manifest).await, None);
        manifest.lineage = Lineage(2);
        assert_eq!(dropped(&store, "savepoints", &manifest).await, folder);
    }
}
