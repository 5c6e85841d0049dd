//! The store as the protocol's machines see it: performs reads and writes and translates what came of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use highwater_protocol::election::{LeaseRead, LeaseRecord};
use highwater_protocol::head::{Head, HeadError, ManifestRef};
use highwater_protocol::head_write::{
    HeadWriteEffect, HeadWriteEvent, PutOutcome, ReadOutcome, Refusal, VersionTag, Versioned,
};
use highwater_protocol::manifest::{Manifest, ManifestError, SourceState};
use highwater_protocol::paths::{self, JobPaths, ManifestName, RelativePath};
use highwater_protocol::recovery::StoreView;
use highwater_protocol::sealed::SealError;
use highwater_protocol::source_start::SourceStart;
use highwater_storage::{self as storage, ObjectPath, ObjectStorage, StorageError, Version};
use highwater_types::{Classified, Epoch, ErrorKind, OperatorUid};
use tokio::sync::watch;

use crate::lease::LeaseStore;
use crate::setup::JobFailure;
use crate::start::{failed, failure};
use crate::status::{JobStatus, WaitBoard};

/// Tries of a read that a job cannot start without, and of the copy of a savepoint.
const TRIES_MAX: u32 = 8;
/// The first delay between two tries; doubles up to the largest.
const DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why the store could not answer a question that the job cannot go on without.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer or refuses.
    #[error("the checkpoint store cannot be used")]
    Storage(#[from] StorageError),
    /// The head object is damaged.
    #[error("the head object of job {job} cannot be read; restore it from a copy of the store")]
    Head {
        /// The job.
        job: String,
        /// What is wrong.
        #[source]
        source: HeadError,
    },
    /// A manifest is missing or damaged.
    #[error("manifest {name} cannot be read")]
    Manifest {
        /// The manifest.
        name: ManifestName,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The start of an added source is damaged.
    #[error("the start of source {uid} cannot be read; restore it from a copy of the store")]
    Start {
        /// The source.
        uid: OperatorUid,
        /// What is wrong.
        #[source]
        source: SealError,
    },
    /// A savepoint of this name exists and is another one.
    #[error("the savepoint manifest {path} exists already; choose another name")]
    SavepointExists {
        /// Its manifest.
        path: String,
    },
    /// A manifest that `head` names is gone.
    #[error(
        "manifest {name} is missing although head names it; restore it from a copy of the store"
    )]
    ManifestMissing {
        /// The manifest.
        name: ManifestName,
    },
}

impl Classified for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Storage(error) => error.kind(),
            Self::Head { source, .. } => source.kind(),
            Self::Manifest { source, .. } => source.kind(),
            Self::Start { source, .. } => source.kind(),
            Self::ManifestMissing { .. } => ErrorKind::Corrupt,
            Self::SavepointExists { .. } => ErrorKind::Invalid,
        }
    }
}

/// The objects of one job.
#[derive(Clone, Debug)]
pub struct JobStore {
    storage: Arc<dyn ObjectStorage>,
    paths: JobPaths,
}

/// What is said when `head` is gone under a leader.
pub(crate) const HEAD_GONE: &str =
    "the head object was deleted; restore it from a copy of the store";

/// A newer leader owns the job.
pub(crate) fn deposed(by: Epoch) -> JobFailure {
    let message = format!(
        "another coordinator took the job in epoch {by}; this one ends and changes nothing"
    );
    failure(ErrorKind::Fenced, message)
}

fn tag_of(version: &Version) -> VersionTag {
    VersionTag(Arc::from(version.as_str()))
}

/// How long to wait before try `tries` (from 1) of a write.
pub fn backoff(tries: u32) -> Duration {
    if tries <= 1 {
        return Duration::ZERO;
    }
    (DELAY.0 * 2u32.saturating_pow(tries.min(16) - 2)).min(DELAY.1)
}

/// Whether a read, or a copy, that failed is tried again, and says so in the log.
pub(crate) fn is_worth_waiting(error: &StoreError, tries: u32) -> bool {
    let again = error.kind() == ErrorKind::Transient && tries < TRIES_MAX;
    if again {
        let error = highwater_worker::slot::error_chain(error);
        tracing::warn!(tries, error, "waiting for the checkpoint store");
    }
    again
}

/// Where the troubles of a head write are told: nobody else hears of them while it is undecided.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Option<watch::Sender<JobStatus>>);

impl Troubles {
    /// Tells them in `checkpoints.last_failure` of a status.
    pub const fn new(status: watch::Sender<JobStatus>) -> Self {
        Self(Some(status))
    }

    fn tell(&self, what: &str, kind: ErrorKind, error: &dyn std::error::Error) {
        let error = highwater_worker::slot::error_chain(error);
        tracing::warn!(error, "{what}");
        let next = match kind {
            ErrorKind::Invalid => "correct the keys or permissions of the store",
            ErrorKind::Exhausted => "give the store more room",
            _ => "tried again by itself",
        };
        if let Some(status) = &self.0 {
            let text = format!("{what}: {error}; {next}");
            status.send_modify(|status| status.checkpoints.last_failure = Some(text));
        }
    }

    /// An error of a conditional write: it was certainly not applied.
    fn refused(&self, error: &StorageError) -> PutOutcome {
        self.tell("head was not written", error.kind(), error);
        PutOutcome::Refused(Refusal {
            kind: error.kind(),
            reason: highwater_worker::slot::error_chain(error),
        })
    }
}

impl JobStore {
    /// The objects below the prefix of a job.
    pub fn new(storage: Arc<dyn ObjectStorage>, paths: JobPaths) -> Self {
        Self { storage, paths }
    }

    /// The store below.
    pub fn storage(&self) -> &dyn ObjectStorage {
        self.storage.as_ref()
    }

    /// Where an object of the job is.
    pub fn object(&self, path: &RelativePath) -> Result<ObjectPath, StorageError> {
        ObjectPath::parse(&self.paths.object(path))
    }

    fn head_path(&self) -> Result<ObjectPath, StorageError> {
        ObjectPath::parse(&self.paths.head())
    }

    /// Reads `head` once.
    pub async fn read_head(&self) -> Result<Option<Versioned>, StoreError> {
        let Some(object) = self.storage.get(&self.head_path()?).await? else {
            return Ok(None);
        };
        let head = Head::decode(&object.bytes).map_err(|source| StoreError::Head {
            job: self.paths.prefix().to_owned(),
            source,
        })?;
        Ok(Some(Versioned {
            head,
            tag: tag_of(&object.version),
        }))
    }

    /// Reads the lease once.
    async fn read_lease(&self) -> Result<LeaseRead, StorageError> {
        let path = ObjectPath::parse(&self.paths.lease())?;
        let Some(object) = self.storage.get(&path).await? else {
            return Ok(LeaseRead::Absent);
        };
        let tag = tag_of(&object.version);
        Ok(match serde_json::from_slice(&object.bytes) {
            Ok(record) => LeaseRead::Found(record, tag),
            Err(error) => {
                tracing::warn!(%error, object = %path, "the lease cannot be read; it is written anew once its time is over");
                LeaseRead::Unreadable(tag)
            }
        })
    }

    /// Writes the lease once.
    async fn put_lease(
        &self,
        record: &LeaseRecord,
        if_match: Option<&VersionTag>,
    ) -> Result<storage::PutOutcome, StorageError> {
        let path = ObjectPath::parse(&self.paths.lease())?;
        let bytes = serde_json::to_vec(record).expect("a record of texts and numbers is JSON");
        self.put_on(&path, bytes.into(), if_match).await
    }

    /// Reads `head`, waiting for the store, and checks that it is of `epoch`. Says so to `waits` where somebody looks there.
    ///
    /// # Errors
    /// `Fenced` when a newer leader owns the job, `Corrupt` when `head` is gone or damaged.
    pub async fn assert_leading(
        &self,
        epoch: Epoch,
        waits: Option<&WaitBoard>,
    ) -> Result<(), JobFailure> {
        let mut tries = 1;
        let found = loop {
            match self.read_head().await {
                Ok(found) => break found,
                Err(error) if error.kind() == ErrorKind::Transient => {
                    let error = highwater_worker::slot::error_chain(&error);
                    if let Some(waits) = waits {
                        waits.waits("the checkpoint store", &error, tries);
                    } else {
                        tracing::warn!(error, "waiting for the checkpoint store");
                    }
                    tries += 1;
                    tokio::time::sleep(backoff(tries)).await;
                }
                Err(error) => return Err(failed(&error)),
            }
        };
        if let Some(waits) = waits {
            waits.goes_on();
        }
        match found.map(|found| found.head.epoch) {
            Some(found) if found == epoch => Ok(()),
            Some(found) => Err(deposed(found)),
            None => Err(failure(ErrorKind::Corrupt, HEAD_GONE)),
        }
    }

    /// Reads what a leader decides its start by, trying a few times.
    pub async fn view(&self) -> Result<StoreView, StoreError> {
        let mut tries = 1;
        loop {
            match self.view_once().await {
                Err(error) if is_worth_waiting(&error, tries) => {
                    tries += 1;
                    tokio::time::sleep(backoff(tries)).await;
                }
                result => return result,
            }
        }
    }

    /// The epoch in which `head` says that the job has ended, if it does; tries a few times.
    ///
    /// # Errors
    /// When the store does not answer, or `head` is damaged or of a newer version.
    pub async fn found_ended(&self) -> Result<Option<Epoch>, StoreError> {
        let head = self.view().await?.head.map(|found| found.head);
        Ok(head.and_then(|head| head.ended.map(|_| head.epoch)))
    }

    async fn view_once(&self) -> Result<StoreView, StoreError> {
        let head = self.read_head().await?;
        let manifests = if head.is_some() {
            Vec::new()
        } else {
            self.list_manifests().await?
        };
        Ok(StoreView { head, manifests })
    }

    async fn list_manifests(&self) -> Result<Vec<ManifestName>, StoreError> {
        let folder = ObjectPath::parse(&self.paths.manifests())?;
        let listed = self.storage.list(Some(&folder)).await?;
        let names = listed.iter().filter_map(|entry| {
            let path = self.paths.relative(entry.path.as_str())?;
            ManifestName::parse(path.as_str().strip_prefix("manifests/")?)
        });
        Ok(names.collect())
    }

    /// Lists every object of the job.
    pub async fn list(&self) -> Result<Vec<RelativePath>, StoreError> {
        let folder = ObjectPath::parse(self.paths.prefix())?;
        let listed = self.storage.list(Some(&folder)).await?;
        Ok(listed
            .iter()
            .filter_map(|entry| self.paths.relative(entry.path.as_str()))
            .collect())
    }

    /// Reads the manifest that `head` or a child names, trying a few times; one that seems damaged is read again.
    pub async fn manifest(&self, wanted: &ManifestRef) -> Result<Manifest, StoreError> {
        let (mut tries, mut looks) = (1, 1);
        loop {
            match self.manifest_once(wanted).await {
                Err(error) if error.kind() == ErrorKind::Corrupt && looks < storage::LOOKS_MAX => {
                    let error = highwater_worker::slot::error_chain(&error);
                    tracing::warn!(error, looks, "reading the manifest again");
                    looks += 1;
                    tokio::time::sleep(DELAY.0).await;
                }
                Err(error) if is_worth_waiting(&error, tries) => {
                    tries += 1;
                    tokio::time::sleep(backoff(tries)).await;
                }
                result => return result,
            }
        }
    }

    async fn manifest_once(&self, wanted: &ManifestRef) -> Result<Manifest, StoreError> {
        let path = self.object(&paths::manifest(&wanted.name))?;
        let object = self.storage.get(&path).await?;
        let object = object.ok_or(StoreError::ManifestMissing { name: wanted.name })?;
        Manifest::decode_named(&object.bytes, wanted.hash).map_err(|source| StoreError::Manifest {
            name: wanted.name,
            source,
        })
    }

    /// Writes a manifest under its own name (P7).
    pub async fn write_manifest(
        &self,
        name: &ManifestName,
        bytes: Vec<u8>,
    ) -> Result<(), StoreError> {
        let path = self.object(&paths::manifest(name))?;
        Ok(self.storage.put(&path, Bytes::from(bytes)).await?)
    }

    /// Reads the start of an added source, if it was resolved before.
    pub async fn source_start(
        &self,
        base: &ManifestName,
        uid: &OperatorUid,
    ) -> Result<Option<SourceState>, StoreError> {
        let path = self.object(&paths::source_start(base, uid))?;
        let Some(object) = self.storage.get(&path).await? else {
            return Ok(None);
        };
        let start = SourceStart::decode(&object.bytes).map_err(|source| StoreError::Start {
            uid: uid.clone(),
            source,
        })?;
        Ok(Some(start.state))
    }

    /// Makes the start of an added source durable. `false` = another attempt has resolved it before: that one counts.
    ///
    /// # Errors
    /// When the store does not answer; whether it was written is not known then, and the start may not be used.
    pub async fn keep_source_start(
        &self,
        base: &ManifestName,
        start: &SourceStart,
    ) -> Result<bool, StoreError> {
        let path = self.object(&paths::source_start(base, &start.uid))?;
        let bytes = Bytes::from(start.encode());
        match self.storage.put_new(&path, bytes).await? {
            storage::PutOutcome::Written(_) => Ok(true),
            storage::PutOutcome::Conflict => Ok(false),
            storage::PutOutcome::Unknown(error) => Err(error.into()),
        }
    }

    /// Performs one step of a head write and tells what came of it.
    ///
    /// # Panics
    /// If the effect is a decision: there is nothing to perform.
    pub async fn perform(&self, effect: HeadWriteEffect, troubles: &Troubles) -> HeadWriteEvent {
        match effect {
            HeadWriteEffect::Put {
                body,
                if_match,
                tries,
            } => {
                tokio::time::sleep(backoff(tries)).await;
                HeadWriteEvent::Put(self.put_head(&body, if_match, troubles).await)
            }
            HeadWriteEffect::Read { tries } => {
                tokio::time::sleep(backoff(tries)).await;
                HeadWriteEvent::Read(match self.read_head().await {
                    Ok(Some(found)) => ReadOutcome::Value(Box::new(found)),
                    Ok(None) => ReadOutcome::Absent,
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        ReadOutcome::Corrupt(highwater_worker::slot::error_chain(&error))
                    }
                    Err(error) => {
                        troubles.tell("head cannot be read", error.kind(), &error);
                        ReadOutcome::Failed
                    }
                })
            }
            HeadWriteEffect::Decided(outcome) => panic!("{outcome:?} is not to be performed"),
        }
    }

    /// Puts an object that still has the tag, or that does not exist where there is none.
    async fn put_on(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        if_match: Option<&VersionTag>,
    ) -> Result<storage::PutOutcome, StorageError> {
        match if_match {
            None => self.storage.put_new(path, bytes).await,
            Some(tag) => {
                let version = Version::new(tag.0.as_ref());
                self.storage.put_if(path, bytes, &version).await
            }
        }
    }

    async fn put_head(
        &self,
        body: &Head,
        if_match: Option<VersionTag>,
        troubles: &Troubles,
    ) -> PutOutcome {
        let bytes = Bytes::from(body.encode());
        let path = match self.head_path() {
            Ok(path) => path,
            Err(error) => return troubles.refused(&error),
        };
        match self.put_on(&path, bytes, if_match.as_ref()).await {
            Ok(storage::PutOutcome::Written(version)) => PutOutcome::Applied(tag_of(&version)),
            Ok(storage::PutOutcome::Conflict) => PutOutcome::Precondition,
            Ok(storage::PutOutcome::Unknown(error)) => {
                let what = "whether head was written is not known";
                troubles.tell(what, error.kind(), &error);
                PutOutcome::Ambiguous
            }
            Err(error) => troubles.refused(&error),
        }
    }
}

#[async_trait]
impl LeaseStore for JobStore {
    async fn read(&self) -> LeaseRead {
        self.read_lease().await.unwrap_or_else(|error| {
            let error = highwater_worker::slot::error_chain(&error);
            tracing::warn!(error, "the lease cannot be read");
            LeaseRead::Failed
        })
    }

    async fn write(&self, record: &LeaseRecord, if_match: Option<&VersionTag>) -> PutOutcome {
        match self.put_lease(record, if_match).await {
            Ok(storage::PutOutcome::Written(version)) => PutOutcome::Applied(tag_of(&version)),
            Ok(storage::PutOutcome::Conflict) => PutOutcome::Precondition,
            Ok(storage::PutOutcome::Unknown(error)) => {
                let error = highwater_worker::slot::error_chain(&error);
                tracing::warn!(error, "whether the lease was written is not known");
                PutOutcome::Ambiguous
            }
            Err(error) => PutOutcome::Refused(Refusal {
                kind: error.kind(),
                reason: highwater_worker::slot::error_chain(&error),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_protocol::hash::ContentHash;
    use highwater_protocol::head::SlotCounts;
    use highwater_storage::LocalStorage;
    use highwater_types::{JobIdentity, Lineage, Nonce};

    use super::*;

    fn head() -> Head {
        let name = ManifestName {
            epoch: Epoch(1),
            number: 0,
            nonce: Nonce(1),
        };
        let reference = ManifestRef {
            name,
            hash: ContentHash(1),
        };
        let job = JobIdentity::parse("job").unwrap();
        Head::first(job, Lineage(1), reference, SlotCounts::new(), Nonce(2))
    }

    fn job_store(folder: &std::path::Path) -> JobStore {
        let storage = LocalStorage::open(folder).unwrap();
        let job = JobIdentity::parse("job").unwrap();
        JobStore::new(Arc::new(storage), JobPaths::new(job))
    }

    #[tokio::test]
    async fn a_store_that_refuses_head_for_good_is_told_with_its_kind_and_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let store = job_store(folder.path());
        let place = folder.path().join(store.head_path().unwrap().to_string());
        let parent = place.parent().unwrap();
        std::fs::create_dir_all(parent.parent().unwrap()).unwrap();
        std::fs::write(parent, "a file where the folder of the job belongs").unwrap();
        let (status, shown) = watch::channel(JobStatus::starting());
        let put = HeadWriteEffect::Put {
            body: Box::new(head()),
            if_match: None,
            tries: 1,
        };
        let event = store.perform(put, &Troubles::new(status)).await;
        let HeadWriteEvent::Put(PutOutcome::Refused(refusal)) = event else {
            panic!("{event:?}")
        };
        assert_eq!(refusal.kind, ErrorKind::Invalid, "{refusal}");
        let told = shown.borrow().checkpoints.last_failure.clone().unwrap();
        for part in ["head was not written", "head", "permissions of the store"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_damaged_is_no_failed_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = job_store(folder.path());
        let path = store.head_path().unwrap();
        store.storage().put(&path, "{ rotten".into()).await.unwrap();
        let read = HeadWriteEffect::Read { tries: 1 };
        let event = store.perform(read, &Troubles::default()).await;
        let HeadWriteEvent::Read(ReadOutcome::Corrupt(reason)) = event else {
            panic!("{event:?}")
        };
        assert!(reason.contains("head object of job"), "{reason}");
    }
}
