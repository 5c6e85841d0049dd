//! Every driver that needs no server keeps the contract; broken stores are refused by the probe.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use highwater_storage::{
    LocalStorage, MemoryStorage, Object, ObjectEntry, ObjectPath, ObjectStorage, PutOutcome,
    StorageError, Version, contract, probe,
};
use highwater_types::{Classified, ErrorKind, Nonce};

fn folder() -> ObjectPath {
    ObjectPath::parse("suite/run-1").expect("the path is valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_contract() {
    let storage = Arc::new(MemoryStorage::default());
    contract::run(storage, &folder()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_local_directory_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let storage = Arc::new(LocalStorage::open(root.path()).unwrap());
    contract::run(storage, &folder()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_openers_of_one_directory_never_both_win() {
    let root = tempfile::tempdir().unwrap();
    let path = ObjectPath::parse("job/head").unwrap();
    let storages = [(); 2].map(|()| LocalStorage::open(root.path()).unwrap());
    for round in 0..200 {
        let race = storages.clone().map(|storage| {
            let path = path.clone();
            async move {
                storage
                    .put_new(&path, Bytes::from(format!("{round}")))
                    .await
            }
        });
        let [first, second] = race;
        let (first, second) = tokio::join!(first, second);
        let won = |outcome| matches!(outcome, Ok(PutOutcome::Written(_)));
        assert!(won(first) ^ won(second), "round {round}");
        storages[0].delete(&path).await.unwrap();
    }
}

#[tokio::test]
async fn the_probe_accepts_good_stores_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let local = LocalStorage::open(root.path()).unwrap();
    let memory = MemoryStorage::default();
    let storages: [&dyn ObjectStorage; 2] = [&local, &memory];
    for storage in storages {
        probe(storage, Nonce(7)).await.unwrap();
        assert_eq!(storage.list(None).await.unwrap(), []);
    }
}

/// How the store below misbehaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    IgnoresConditions,
    Forbids,
    AnswersUnclearly,
    HidesFromListings,
}

#[derive(Debug)]
struct Broken {
    inner: MemoryStorage,
    fault: Fault,
}

#[async_trait]
impl ObjectStorage for Broken {
    fn location(&self) -> &'static str {
        "s3://broken/jobs"
    }

    async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        let (operation, object) = ("create if absent", format!("s3://broken/jobs/{path}"));
        match self.fault {
            Fault::Forbids => Err(StorageError::Refused {
                operation,
                object,
                reason: "403 AccessDenied".to_owned(),
            }),
            Fault::AnswersUnclearly => Ok(PutOutcome::Unknown(StorageError::Unavailable {
                operation,
                object,
                reason: "503 SlowDown".to_owned(),
            })),
            _ => self.inner.put_new(path, bytes).await,
        }
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        version: &Version,
    ) -> Result<PutOutcome, StorageError> {
        if self.fault == Fault::IgnoresConditions {
            self.inner.put(path, bytes).await?;
            let object = self.inner.get(path).await?;
            let object = object.expect("the object was just written");
            return Ok(PutOutcome::Written(object.version));
        }
        self.inner.put_if(path, bytes, version).await
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StorageError> {
        self.inner.put(path, bytes).await
    }

    async fn get(&self, path: &ObjectPath) -> Result<Option<Object>, StorageError> {
        self.inner.get(path).await
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
        match self.fault {
            Fault::HidesFromListings => Ok(Vec::new()),
            _ => self.inner.list(folder).await,
        }
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.inner.delete(path).await
    }
}

#[tokio::test]
async fn the_probe_refuses_with_location_operation_and_reason() {
    for (fault, kind, parts) in [
        (
            Fault::IgnoresConditions,
            ErrorKind::Invalid,
            ["replace a stale version", "ignores the condition"],
        ),
        (
            Fault::Forbids,
            ErrorKind::Invalid,
            ["create if absent", "403 AccessDenied"],
        ),
        (
            Fault::AnswersUnclearly,
            ErrorKind::Transient,
            ["create if absent", "503 SlowDown"],
        ),
        (
            Fault::HidesFromListings,
            ErrorKind::Invalid,
            [": list:", "not listed"],
        ),
    ] {
        let storage = Broken {
            inner: MemoryStorage::default(),
            fault,
        };
        let error = probe(&storage, Nonce(1)).await.unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{message}");
        assert!(message.contains("s3://broken/jobs"), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(
            storage.inner.list(None).await.unwrap(),
            [],
            "{fault:?} leaves nothing"
        );
    }
}
