//! A store that answers wrongly for a moment: no checkpoint is given up for it.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use highwater_coordinator::JobOutcome;
use highwater_protocol::paths::RelativePath;
use highwater_protocol::steps::Step;
use highwater_storage::{
    Object, ObjectEntry, ObjectPath, ObjectStorage, PutOutcome, StorageError, Version,
};

use crate::damage::{HARMS, Harm, World, counting};

/// One wrong answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lie {
    /// As if this had happened to the object.
    Harmed(Harm),
    /// No answer.
    Silent,
}

/// Answers reads of one object wrongly as long as there are lies left, then as it is.
#[derive(Debug)]
pub(crate) struct Unsteady {
    inner: Arc<dyn ObjectStorage>,
    path: ObjectPath,
    lies: Mutex<Vec<Lie>>,
    steady: Mutex<Option<SyncSender<()>>>,
}

impl Unsteady {
    /// Puts itself between the world and its store. Lies are told from the last to the first.
    pub(crate) fn before(world: &mut World, path: &RelativePath, lies: Vec<Lie>) -> Arc<Self> {
        let path = world.store().object(path).unwrap();
        let inner = Arc::clone(&world.storage);
        let lies = Mutex::new(lies);
        let steady = Mutex::new(None);
        let unsteady = Arc::new(Self {
            inner,
            path,
            lies,
            steady,
        });
        let store: Arc<Self> = Arc::clone(&unsteady);
        world.storage = store;
        unsteady
    }

    /// Tells these lies from now on.
    pub(crate) fn lie(&self, lies: Vec<Lie>) {
        *self.lies.lock().unwrap() = lies;
    }

    /// Says when the last lie is told.
    pub(crate) fn tells_when_steady(&self, told: SyncSender<()>) {
        *self.steady.lock().unwrap() = Some(told);
    }

    fn lies_left(&self) -> usize {
        self.lies.lock().unwrap().len()
    }
}

#[async_trait]
impl ObjectStorage for Unsteady {
    fn location(&self) -> &str {
        self.inner.location()
    }

    async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        self.inner.put_new(path, bytes).await
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        version: &Version,
    ) -> Result<PutOutcome, StorageError> {
        self.inner.put_if(path, bytes, version).await
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StorageError> {
        self.inner.put(path, bytes).await
    }

    async fn get(&self, path: &ObjectPath) -> Result<Option<Object>, StorageError> {
        let found = self.inner.get(path).await?;
        let lie = (*path == self.path).then(|| self.lies.lock().unwrap().pop());
        let (Some(lie), Some(mut object)) = (lie.flatten(), found.clone()) else {
            return Ok(found);
        };
        if self.lies_left() == 0
            && let Some(told) = self.steady.lock().unwrap().take()
        {
            told.send(()).unwrap();
        }
        let mut bytes = object.bytes.to_vec();
        match lie {
            Lie::Harmed(Harm::Gone) => return Ok(None),
            Lie::Harmed(Harm::Cut) => bytes.truncate(bytes.len() - 1),
            Lie::Harmed(Harm::Flipped) => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
            }
            Lie::Silent => {
                return Err(StorageError::Unavailable {
                    operation: "read",
                    object: path.to_string(),
                    reason: "503 SlowDown".to_owned(),
                });
            }
        }
        object.bytes = bytes.into();
        Ok(Some(object))
    }

    async fn get_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        self.inner.get_range(path, range).await
    }

    async fn stat(&self, path: &ObjectPath) -> Result<Option<ObjectEntry>, StorageError> {
        self.inner.stat(path).await
    }

    async fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<ObjectEntry>, StorageError> {
        self.inner.list(folder).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.inner.delete(path).await
    }
}

/// Every kind of file of the pending checkpoint: state, log, manifest.
async fn files_of(world: &World) -> [RelativePath; 3] {
    [
        world.state_file().await,
        world.log_of(1).await,
        world.manifest_file().await,
    ]
}

/// Tells the lies about one kind of file; the job goes on from that checkpoint all the same.
async fn gives_nothing_up(kind: usize, lies: &[Lie]) {
    let mut world = World::pending().await;
    let path = files_of(&world).await[kind].clone();
    let unsteady = Unsteady::before(&mut world, &path, lies.to_vec());
    let (hook, voided) = counting(Step::P10);
    assert_eq!(
        world.runs(hook).await,
        Ok(JobOutcome::Finished),
        "{path} {lies:?}"
    );
    assert_eq!(unsteady.lies_left(), 0, "{path} {lies:?}: invalid run");
    assert_eq!(voided.load(Ordering::Relaxed), 0, "{path} {lies:?}");
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wrong_answer_of_the_store_gives_no_checkpoint_up() {
    for harm in HARMS {
        for kind in 0..3 {
            gives_nothing_up(kind, &[Lie::Harmed(harm)]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_the_second_look_has_not_said_damaged() {
    let flipped = Lie::Harmed(Harm::Flipped);
    for kind in 0..3 {
        gives_nothing_up(kind, &[flipped, Lie::Silent, flipped]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_is_seen_at_every_look_is_believed() {
    let mut world = World::pending().await;
    let path = world.state_file().await;
    let before = world.head().await;
    let looks = vec![Lie::Harmed(Harm::Flipped); highwater_storage::LOOKS_MAX as usize];
    let unsteady = Unsteady::before(&mut world, &path, looks);
    let (hook, voided) = counting(Step::P10);
    assert_eq!(world.runs(hook).await, Ok(JobOutcome::Finished));
    assert_eq!(unsteady.lies_left(), 0, "read as often as said and no more");
    assert_eq!(voided.load(Ordering::Relaxed), 2);
    assert!(world.head().await.number > before.number + 1);
    world.assert_exact();
}
