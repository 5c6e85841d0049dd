//! The contract suite of [`ObjectStorage`]: every driver runs it, on its own folder of a real store.
//!
//! A check panics with what broke. Call [`run`] from a test of the driver.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::error::StorageError;
use crate::path::ObjectPath;
use crate::storage::{ObjectEntry, ObjectStorage, PutOutcome, Version};

const WRITERS: usize = 32;
const ROUNDS: usize = 10;

/// Runs every check inside `folder`, which must be empty, and leaves it empty.
///
/// # Panics
/// When the store breaks the contract.
pub async fn run(storage: Arc<dyn ObjectStorage>, folder: &ObjectPath) {
    let suite = Suite {
        storage,
        folder: folder.clone(),
    };
    suite.creates_once().await;
    suite.replaces_only_the_named_version().await;
    suite.reads_what_was_written().await;
    suite.reads_exact_ranges().await;
    suite.lists_whole_segments_only().await;
    suite.deletes_all_that_is_named().await;
    suite.one_of_many_creators_wins().await;
    suite.one_of_many_writers_wins_each_round().await;
    assert_eq!(
        suite.listed("").await,
        [] as [ObjectEntry; 0],
        "the suite cleans up"
    );
}

struct Suite {
    storage: Arc<dyn ObjectStorage>,
    folder: ObjectPath,
}

fn written(outcome: Result<PutOutcome, StorageError>) -> Version {
    match outcome {
        Ok(PutOutcome::Written(version)) => version,
        other => panic!("a write whose condition holds was not written: {other:?}"),
    }
}

fn refused(outcome: &Result<PutOutcome, StorageError>) {
    assert!(
        matches!(outcome, Ok(PutOutcome::Conflict)),
        "a write whose condition does not hold must be a conflict: {outcome:?}"
    );
}

impl Suite {
    fn path(&self, name: &str) -> ObjectPath {
        self.folder.join(name).expect("a test path is valid")
    }

    async fn read(&self, name: &str) -> Option<Bytes> {
        let read = self.storage.get(&self.path(name)).await;
        read.expect("a read answers").map(|object| object.bytes)
    }

    async fn write(&self, name: &str, text: &'static str) {
        let path = self.path(name);
        let put = self.storage.put(&path, Bytes::from_static(text.as_bytes()));
        put.await.expect("a write answers");
    }

    async fn remove(&self, name: &str) {
        let removed = self.storage.delete(&self.path(name)).await;
        removed.expect("a delete answers");
    }

    async fn listed(&self, below: &str) -> Vec<ObjectEntry> {
        let folder = if below.is_empty() {
            self.folder.clone()
        } else {
            self.path(below)
        };
        self.storage
            .list(Some(&folder))
            .await
            .expect("a listing answers")
    }

    async fn creates_once(&self) {
        let path = self.path("create");
        written(self.storage.put_new(&path, Bytes::from_static(b"1")).await);
        refused(&self.storage.put_new(&path, Bytes::from_static(b"2")).await);
        assert_eq!(self.read("create").await.as_deref(), Some(&b"1"[..]));
        self.remove("create").await;
        written(self.storage.put_new(&path, Bytes::from_static(b"3")).await);
        self.remove("create").await;
    }

    async fn replaces_only_the_named_version(&self) {
        let path = self.path("replace");
        let put_if = |text: &'static str, version: Version| {
            let path = &path;
            async move {
                let bytes = Bytes::from_static(text.as_bytes());
                self.storage.put_if(path, bytes, &version).await
            }
        };
        let first = written(self.storage.put_new(&path, Bytes::from_static(b"1")).await);
        let second = written(put_if("2", first.clone()).await);
        assert_ne!(first, second, "another content has another version");
        refused(&put_if("3", first).await);
        let read = self.storage.get(&path).await.expect("a read answers");
        let read = read.expect("the object is there");
        assert_eq!((&read.bytes[..], &read.version), (&b"2"[..], &second));
        self.remove("replace").await;
        refused(&put_if("4", second).await);
        assert_eq!(
            self.read("replace").await,
            None,
            "a refused write creates nothing"
        );
    }

    async fn reads_what_was_written(&self) {
        assert_eq!(self.read("none").await, None);
        let stat = self.storage.stat(&self.path("none")).await;
        assert_eq!(stat.expect("a stat answers"), None);
        for (name, length) in [("empty", 0_usize), ("one", 1), ("large", 3 << 20)] {
            let bytes: Bytes = (0..length).map(|at| (at % 251) as u8).collect();
            let put = self.storage.put(&self.path(name), bytes.clone()).await;
            put.expect("a write answers");
            assert_eq!(self.read(name).await, Some(bytes));
            let stat = self.storage.stat(&self.path(name)).await;
            let entry = stat.expect("a stat answers").expect("the object is there");
            assert_eq!((entry.path, entry.length), (self.path(name), length as u64));
            self.remove(name).await;
        }
    }

    async fn reads_exact_ranges(&self) {
        self.write("range", "0123456789").await;
        let path = self.path("range");
        for (range, bytes) in [(0..4, "0123"), (3..10, "3456789"), (9..10, "9"), (5..5, "")] {
            let read = self.storage.get_range(&path, range).await;
            assert_eq!(
                read.expect("a read answers").as_deref(),
                Some(bytes.as_bytes())
            );
        }
        for beyond in [8..11, 10..12] {
            let read = self.storage.get_range(&path, beyond).await;
            assert!(
                matches!(read, Err(StorageError::Range { length: 10, .. })),
                "{read:?}"
            );
        }
        let none = self.storage.get_range(&self.path("none"), 0..1).await;
        assert_eq!(none.expect("a read answers"), None);
        self.remove("range").await;
    }

    async fn lists_whole_segments_only(&self) {
        let names = ["a/b/1", "a/b/2", "a/bc", "a/b-c/3", "ab", "a/b.d"];
        for name in names {
            self.write(name, "x").await;
        }
        let entries = |names: &[&str]| -> Vec<ObjectEntry> {
            let entry = |name: &&str| ObjectEntry {
                path: self.path(name),
                length: 1,
            };
            names.iter().map(entry).collect()
        };
        assert_eq!(self.listed("a/b").await, entries(&["a/b/1", "a/b/2"]));
        assert_eq!(
            self.listed("a").await,
            entries(&["a/b-c/3", "a/b.d", "a/b/1", "a/b/2", "a/bc"])
        );
        assert_eq!(
            self.listed("ab").await,
            [],
            "an object is not inside itself"
        );
        assert_eq!(self.listed("nowhere").await, []);
        for name in names {
            self.remove(name).await;
        }
    }

    async fn deletes_all_that_is_named(&self) {
        for name in ["d/1", "d/2", "d/3"] {
            self.write(name, "x").await;
        }
        let gone = ["d/1", "d/none", "d/3"].map(|name| self.path(name));
        self.storage
            .delete_many(&gone)
            .await
            .expect("an absent object is no error");
        self.storage
            .delete_many(&[])
            .await
            .expect("deleting nothing works");
        let left: Vec<_> = self
            .listed("d")
            .await
            .into_iter()
            .map(|entry| entry.path)
            .collect();
        assert_eq!(left, [self.path("d/2")]);
        self.remove("d/2").await;
    }

    async fn one_of_many_creators_wins(&self) {
        for round in 0..ROUNDS {
            let path = self.path(&format!("race-{round}"));
            let winners = self.race(&path, round, None).await;
            assert_eq!(winners.len(), 1, "round {round}: exactly one creator wins");
            let read = self.storage.get(&path).await.expect("a read answers");
            assert_eq!(read.map(|object| object.version).as_ref(), winners.first());
            self.storage.delete(&path).await.expect("a delete answers");
        }
    }

    async fn one_of_many_writers_wins_each_round(&self) {
        let path = self.path("head");
        let mut version = written(
            self.storage
                .put_new(&path, Bytes::from_static(b"start"))
                .await,
        );
        for round in 0..ROUNDS {
            let mut winners = self.race(&path, round, Some(version)).await;
            assert_eq!(winners.len(), 1, "round {round}: exactly one writer wins");
            version = winners.remove(0);
        }
        self.remove("head").await;
    }

    /// Many tasks write at once under one condition; the versions of those that won.
    async fn race(
        &self,
        path: &ObjectPath,
        round: usize,
        version: Option<Version>,
    ) -> Vec<Version> {
        let mut tasks = JoinSet::new();
        let start = Arc::new(tokio::sync::Barrier::new(WRITERS));
        for writer in 0..WRITERS {
            let (storage, start) = (Arc::clone(&self.storage), Arc::clone(&start));
            let (path, version) = (path.clone(), version.clone());
            tasks.spawn(async move {
                let bytes = Bytes::from(format!("round {round} writer {writer}"));
                start.wait().await;
                match &version {
                    Some(version) => storage.put_if(&path, bytes, version).await,
                    None => storage.put_new(&path, bytes).await,
                }
            });
        }
        let mut winners = Vec::new();
        for outcome in tasks.join_all().await {
            match outcome {
                Ok(PutOutcome::Written(version)) => winners.push(version),
                Ok(PutOutcome::Conflict) => {}
                // Allowed by the law; the winner's version read back tells whether this one was applied.
                Ok(PutOutcome::Unknown(error)) => drop(error),
                Err(error) => panic!("a race is no error: {error}"),
            }
        }
        winners
    }
}
