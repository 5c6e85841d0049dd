//! A source that is added to a job with state begins where it was first resolved to begin, whatever fails before its
//! first checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_api::{JobProgram, StreamEnvironment};
use highwater_connectors::clock::SystemClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{
    CollectSink, Collected, ConnectorError, Discovery, ReaderContext, ReaderPoll, Source,
    SourceFacts, SourceOutput, SourceReader, Split, SplitEnumerator, SplitIndex,
};
use highwater_coordinator::JobOutcome;
use highwater_coordinator::store::JobStore;
use highwater_protocol::paths::{JobPaths, manifest};
use highwater_protocol::steps::Step;
use highwater_storage::{MemoryStorage, ObjectStorage};
use highwater_types::{Boundedness, CheckpointId, ErrorKind, EventTime, JobIdentity};

use crate::job::{end_of, program_of, start_with};

/// A topic that holds nothing any more.
const EXPIRED: u64 = u64::MAX;

/// A topic of which one record is read: the last that is there when the start is resolved. Each look finds a new one.
#[derive(Clone)]
struct Latest(Arc<AtomicU64>);

impl Source for Latest {
    type Record = u64;

    fn facts(&self) -> SourceFacts {
        SourceFacts {
            connector: "latest",
            object: "a topic".to_owned(),
            boundedness: Boundedness::Bounded,
        }
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        Ok(Box::new(LatestEnumerator {
            topic: self.clone(),
            is_resolved: false,
        }))
    }

    fn reader(&self, _: &ReaderContext) -> Result<Box<dyn SourceReader<u64>>, ConnectorError> {
        Ok(Box::new(LatestReader::default()))
    }
}

struct LatestEnumerator {
    topic: Latest,
    is_resolved: bool,
}

impl SplitEnumerator for LatestEnumerator {
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError> {
        self.is_resolved = !state.is_empty();
        Ok(())
    }

    fn check(&mut self, splits: &[Split]) -> Result<(), ConnectorError> {
        if self.topic.0.load(Ordering::SeqCst) != EXPIRED || splits.is_empty() {
            return Ok(());
        }
        Err(ConnectorError::PositionLost {
            object: "a topic".to_owned(),
            position: 0,
            reason: "retention has passed it".to_owned(),
        })
    }

    fn discover(&mut self) -> Result<Discovery, ConnectorError> {
        let mut splits = Vec::new();
        if !std::mem::replace(&mut self.is_resolved, true) {
            let latest = self.topic.0.fetch_add(1, Ordering::SeqCst);
            splits.push(Split {
                id: "only".into(),
                position: latest.to_le_bytes().to_vec(),
            });
        }
        Ok(Discovery {
            splits,
            complete: true,
        })
    }

    fn snapshot(&self) -> Vec<u8> {
        vec![1]
    }

    fn interval(&self) -> Option<Duration> {
        None
    }
}

/// Delivers the position of its split as the one record.
#[derive(Default)]
struct LatestReader {
    splits: Vec<(Split, bool)>,
    no_more: bool,
}

impl SourceReader<u64> for LatestReader {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        self.splits
            .extend(splits.into_iter().map(|split| (split, false)));
        Ok(())
    }

    fn no_more_splits(&mut self) {
        self.no_more = true;
    }

    fn poll(&mut self, out: &mut SourceOutput<u64>) -> Result<ReaderPoll, ConnectorError> {
        let open = self.splits.iter_mut().enumerate().find(|(_, of)| !of.1);
        if let Some((at, (split, ended))) = open {
            *ended = true;
            let record = u64::from_le_bytes(split.position[..].try_into().unwrap());
            out.records.push(record, EventTime::NONE);
            return Ok(ReaderPoll::SplitEnded(SplitIndex(at as u32)));
        }
        Ok(if self.no_more {
            ReaderPoll::EndOfInput
        } else {
            ReaderPoll::Nothing
        })
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        let open = self.splits.iter().filter(|(_, ended)| !ended);
        Ok(open.map(|(split, _)| split.clone()).collect())
    }

    fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
        Ok(())
    }
}

fn number_of(index: u64, _: &mut Random) -> (u64, EventTime) {
    (index, EventTime(index as i64))
}

struct Job {
    storage: Arc<dyn ObjectStorage>,
    numbers: (CollectSink<u64>, Collected<u64>),
    late: (CollectSink<u64>, Collected<u64>),
    topic: Latest,
}

impl Job {
    fn new() -> Self {
        Self {
            storage: Arc::new(MemoryStorage::default()),
            numbers: CollectSink::exactly_once(),
            late: CollectSink::exactly_once(),
            topic: Latest(Arc::new(AtomicU64::new(100))),
        }
    }

    fn first(&self, env: &mut StreamEnvironment) {
        let clock = Arc::new(SystemClock::start().unwrap());
        let rate = RecordsPerSecond::try_new(4_000.0).unwrap();
        let source = GeneratorSource::builder("numbers", 7, number_of).count(2_000);
        let source = source.paced(rate, clock).build().unwrap();
        env.source("numbers", source)
            .sink("all", self.numbers.0.clone());
    }

    fn second(&self) -> JobProgram {
        program_of(1, |env| {
            self.first(env);
            env.source("late", self.topic.clone())
                .sink("late-records", self.late.0.clone());
        })
    }

    /// Runs `program` until it reaches step P7 for the `fatal`th time.
    async fn dies(&self, program: JobProgram, seed: u128, fatal: u64) {
        self.dies_at((Step::P7, fatal), program, seed).await;
    }

    /// Runs `program` until it reaches a step for the `fatal`th time.
    async fn dies_at(&self, (at, fatal): (Step, u64), program: JobProgram, seed: u128) {
        let reached = AtomicU64::new(0);
        let hook = move |step| {
            let due = step == at && reached.fetch_add(1, Ordering::SeqCst) + 1 == fatal;
            assert!(!due, "the process is killed at its step {at:?} {fatal}");
        };
        let handle = start_with(program, &self.storage, seed, Arc::new(hook));
        let died = handle.ended.await.unwrap_err();
        assert!(died.is_panic(), "invalid run: {died}");
    }

    /// Deletes the manifest that `head` names: the job has to go back.
    async fn lose_newest_manifest(&self) {
        let identity = JobIdentity::parse("test-job").unwrap();
        let store = JobStore::new(Arc::clone(&self.storage), JobPaths::new(identity));
        let head = store.read_head().await.unwrap().unwrap().head;
        let object = store.object(&manifest(&head.manifest.name)).unwrap();
        self.storage.delete_many(&[object]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedule_17_an_added_source_resolves_its_start_once_whatever_dies_before_its_checkpoint() {
    let job = Job::new();
    let first = program_of(1, |env| job.first(env));
    job.dies(first, 1_000, 3).await;
    for process in 2..5 {
        job.dies(job.second(), process * 1_000, 1).await;
    }
    let last = start_with(job.second(), &job.storage, 9_000, Arc::new(|_| {}));
    assert_eq!(end_of(last).await, Ok(JobOutcome::Finished));
    assert_eq!(
        job.late.1.records().unwrap(),
        [100],
        "its first start counts"
    );
    assert_eq!(
        job.topic.0.load(Ordering::SeqCst),
        101,
        "it was resolved once"
    );
    let mut numbers = job.numbers.1.records().unwrap();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..2_000));
}

/// A state whose positions have expired is refused before a record flows, and before anything is given up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_has_expired_is_refused_before_records_flow() {
    let job = Job::new();
    let first = program_of(1, |env| job.first(env));
    job.dies(first, 1_000, 3).await;
    job.dies(job.second(), 2_000, 1).await;
    job.topic.0.store(EXPIRED, Ordering::SeqCst);
    let hook = |step| assert!(step != Step::R7, "records flow");
    let refused = start_with(job.second(), &job.storage, 3_000, Arc::new(hook));
    let refused = end_of(refused).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Corrupt);
    assert!(
        refused.message.contains("retention has passed it"),
        "{refused}"
    );
    job.topic.0.store(101, Ordering::SeqCst);
    let last = start_with(job.second(), &job.storage, 4_000, Arc::new(|_| {}));
    assert_eq!(end_of(last).await, Ok(JobOutcome::Finished));
    assert_eq!(job.late.1.records().unwrap(), [100]);
}

/// The program gains the source before the first going back, or after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_source_begins_once_however_often_the_job_goes_back() {
    for is_before in [false, true] {
        let job = Job::new();
        let first = program_of(1, |env| job.first(env));
        if is_before {
            job.dies(first, 1_000, 3).await;
            job.dies_at((Step::P9, 1), job.second(), 1_500).await;
        } else {
            job.dies_at((Step::P9, 3), first, 1_000).await;
        }
        for process in 2..4 {
            job.lose_newest_manifest().await;
            job.dies_at((Step::P9, 1), job.second(), process * 1_000)
                .await;
        }
        job.lose_newest_manifest().await;
        let last = start_with(job.second(), &job.storage, 9_000, Arc::new(|_| {}));
        assert_eq!(end_of(last).await, Ok(JobOutcome::Finished));
        // A look at the state that is to take the place of another one finds a record, too.
        let first = if is_before { 100 } else { 101 };
        let late = job.late.1.records().unwrap();
        assert_eq!(late, [first], "its first start counts: {is_before}");
        let mut numbers = job.numbers.1.records().unwrap();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..2_000));
    }
}
