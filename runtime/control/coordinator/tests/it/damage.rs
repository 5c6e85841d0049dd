//! A world whose newest checkpoint is complete and not yet committed, and everything that can be wrong with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_api::{JobProgram, StreamEnvironment};
use highwater_connectors::clock::SystemClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{
    CollectSink, FileSink, Marker, MarkerKind, MarkerPosition, OutputBatch, OutputTarget, Sink,
    WriterContext, committed_files,
};
use highwater_coordinator::store::JobStore;
use highwater_coordinator::{CoordinatorHandle, CoordinatorSettings, JobFailure, JobOutcome, Wish};
use highwater_operators::{Count, WindowContext};
use highwater_protocol::head::Head;
use highwater_protocol::manifest::{Manifest, SlotOutput};
use highwater_protocol::paths::{JobPaths, RelativePath, manifest as manifest_path};
use highwater_protocol::steps::Step;
use highwater_storage::{MemoryStorage, ObjectPath, ObjectStorage};
use highwater_time::WatermarkStrategy;
use highwater_types::{EventTime, JobIdentity, Parallelism, SubtaskIndex};
use highwater_window::Tumbling;
use highwater_worker::StopHook;

use crate::job::{Manner, RESUME, end_of, program_of, start_in, start_wishing, start_with};

const RECORDS: u64 = 6_000;
const KEYS: u64 = 7;
const WINDOW_MS: i64 = 50;
const PARALLELISM: u32 = 2;

pub(crate) type Counted = (u64, i64, u64);

fn record_of(index: u64, _: &mut Random) -> (u64, EventTime) {
    (index, EventTime(index as i64))
}

/// Counts records per key and window; each count is committed by one of two slots.
/// Records a second of a job that is to end soon.
const QUICK: u64 = 12_000;
/// Records a second of one that is still running when something else has happened.
const SLOW: u64 = 300;

fn build(
    env: &mut StreamEnvironment,
    sink: impl Sink<Record = Counted>,
    (window_ms, rate): (i64, u64),
) {
    let clock = Arc::new(SystemClock::start().unwrap());
    let source = GeneratorSource::builder("numbers", 7, record_of)
        .count(RECORDS)
        .splits(3)
        .paced(RecordsPerSecond::try_new(rate as f64).unwrap(), clock);
    env.source("numbers", source.build().unwrap())
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(10), |index| {
            EventTime(*index as i64)
        })
        .key_by(|index| index % KEYS)
        .window_of(Tumbling::try_new(window_ms))
        .aggregate(
            "count",
            Count,
            |count, context: &mut WindowContext<'_, u64, Counted>| {
                let (key, start) = (*context.key(), context.window().start);
                context.emit((key, start, count));
                Ok(())
            },
        )
        .sink("counts", sink);
}

/// What can happen to a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Harm {
    Flipped,
    Cut,
    Gone,
}

pub(crate) const HARMS: [Harm; 3] = [Harm::Flipped, Harm::Cut, Harm::Gone];

pub(crate) struct World {
    pub(crate) storage: Arc<dyn ObjectStorage>,
    program: Arc<dyn Fn(i64, u64) -> JobProgram>,
    window_ms: i64,
    committed: Arc<dyn Fn() -> Vec<Counted>>,
    seeds: AtomicU64,
    rate: AtomicU64,
}

impl World {
    pub(crate) fn in_memory() -> Self {
        let (sink, collected) = CollectSink::exactly_once();
        Self {
            storage: Arc::new(MemoryStorage::default()),
            program: Arc::new(move |window_ms, rate| {
                program_of(PARALLELISM, |env| {
                    build(env, sink.clone(), (window_ms, rate));
                })
            }),
            window_ms: WINDOW_MS,
            committed: Arc::new(move || collected.records().unwrap()),
            seeds: AtomicU64::new(1),
            rate: AtomicU64::new(QUICK),
        }
    }

    /// Output in files below `folder`, checkpoints in a local store beside it.
    pub(crate) fn in_files(folder: &Path) -> Self {
        let (out, state) = (folder.join("out"), folder.join("state"));
        let line = |(key, start, count): &Counted, line: &mut Vec<u8>| {
            line.extend_from_slice(format!("{key} {start} {count}").as_bytes());
        };
        let parse = |line: Vec<u8>| -> Counted {
            let line = String::from_utf8(line).unwrap();
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            (
                word().parse().unwrap(),
                word().parse().unwrap(),
                word().parse().unwrap(),
            )
        };
        let target = out.clone();
        Self {
            storage: Arc::new(highwater_storage::LocalStorage::open(&state).unwrap()),
            program: Arc::new(move |window_ms, rate| {
                let sink = FileSink::new(&target, line);
                program_of(PARALLELISM, |env| build(env, sink, (window_ms, rate)))
            }),
            window_ms: WINDOW_MS,
            committed: Arc::new(move || {
                let files = committed_files(&out).unwrap();
                let lines = files.iter().flat_map(|file| file.lines().unwrap());
                lines.map(parse).collect()
            }),
            seeds: AtomicU64::new(1),
            rate: AtomicU64::new(QUICK),
        }
    }

    fn job(&self) -> JobProgram {
        (self.program)(self.window_ms, self.rate.load(Ordering::Relaxed))
    }

    /// The jobs that `starts` starts do not come to the end of their input in the time of a test.
    pub(crate) fn slowly<T>(&self, starts: impl FnOnce() -> T) -> T {
        self.rate.store(SLOW, Ordering::Relaxed);
        let started = starts();
        self.rate.store(QUICK, Ordering::Relaxed);
        started
    }

    fn seed(&self) -> u128 {
        u128::from(self.seeds.fetch_add(1, Ordering::Relaxed)) * 1_000
    }

    /// Starts the job as a process of its own.
    pub(crate) fn start(&self, hook: StopHook, wish: Wish) -> CoordinatorHandle {
        start_wishing(self.job(), &self.storage, (self.seed(), hook), wish)
    }

    /// Starts the job as a process of its own with these settings, its worker with a hook.
    pub(crate) fn start_with(
        &self,
        settings: CoordinatorSettings,
        inside: StopHook,
    ) -> CoordinatorHandle {
        let manner = Manner {
            hook: on(),
            wish: RESUME,
            clock: Arc::new(highwater_worker::SystemClock::new()),
            settings,
            inside,
            goes_on_after_end: true,
            end_board: None,
        };
        start_in(self.job(), &self.storage, self.seed(), manner)
    }

    /// The same world under a program with windows of another size.
    pub(crate) fn with_windows_of(&self, window_ms: i64) -> Self {
        Self {
            storage: Arc::clone(&self.storage),
            program: Arc::clone(&self.program),
            window_ms,
            committed: Arc::clone(&self.committed),
            seeds: AtomicU64::new(2_000),
            rate: AtomicU64::new(QUICK),
        }
    }

    /// A world without any output yet, over the same store.
    pub(crate) fn elsewhere(&self) -> Self {
        Self {
            storage: Arc::clone(&self.storage),
            seeds: AtomicU64::new(1_000),
            ..Self::in_memory()
        }
    }

    pub(crate) async fn files_below(&self, folder: &str) -> Vec<String> {
        let folder = ObjectPath::parse(folder).unwrap();
        let listed = self.storage.list(Some(&folder)).await.unwrap();
        listed.iter().map(|entry| entry.path.to_string()).collect()
    }

    /// Moves a folder; everything else in the store is deleted.
    pub(crate) async fn move_everything(&self, from: &str, to: &str) {
        for path in self.files_below(from).await {
            let object = ObjectPath::parse(&path).unwrap();
            let bytes = self.storage.get(&object).await.unwrap().unwrap().bytes;
            let moved = ObjectPath::parse(&path.replace(from, to)).unwrap();
            self.storage.put(&moved, bytes).await.unwrap();
        }
        let all = self.storage.list(None).await.unwrap();
        let rest = all.into_iter().map(|entry| entry.path);
        let rest: Vec<_> = rest.filter(|path| !path.as_str().starts_with(to)).collect();
        self.storage.delete_many(&rest).await.unwrap();
    }

    pub(crate) fn committed(&self) -> Vec<Counted> {
        (self.committed)()
    }

    /// Every count is right, however often it appeared.
    pub(crate) fn assert_counts_right(&self) {
        let expected = expected();
        for (key, start, count) in self.committed() {
            assert_eq!(expected.get(&(key, start)), Some(&count), "{key} {start}");
        }
    }

    /// Every window appeared at least once, with the right count.
    pub(crate) fn assert_exact_once_deduplicated(&self) {
        self.assert_counts_right();
        let found: BTreeMap<_, _> = self
            .committed()
            .iter()
            .map(|&(key, start, count)| ((key, start), count))
            .collect();
        assert_eq!(found, expected());
    }

    /// Runs the job as a process of its own until `hook` panics: the process dies there. `false` = it finished before.
    pub(crate) async fn dies(&self, hook: StopHook) -> bool {
        let handle = start_with(self.job(), &self.storage, self.seed(), hook);
        let ended = tokio::time::timeout(std::time::Duration::from_mins(1), handle.ended).await;
        let ended = ended.expect("the process dies within a minute");
        match ended {
            Err(error) if error.is_panic() => true,
            Ok(Ok(JobOutcome::Finished)) => false,
            ended => panic!("it ran on: {ended:?}"),
        }
    }

    /// Runs the job as a process of its own, to its end.
    pub(crate) async fn runs(&self, hook: StopHook) -> Result<JobOutcome, JobFailure> {
        end_of(start_with(self.job(), &self.storage, self.seed(), hook)).await
    }

    /// Dies right before the first commit of a checkpoint in which every slot has output.
    pub(crate) async fn pending() -> Self {
        let world = Self::in_memory();
        world.die_pending().await;
        world
    }

    pub(crate) async fn die_pending(&self) {
        let commits = AtomicU64::new(0);
        let hook = move |step| {
            let due = step == Step::P9 && commits.fetch_add(1, Ordering::Relaxed) == 8;
            assert!(!due, "the process is killed at P9");
        };
        assert!(self.dies(Arc::new(hook)).await, "it finished before");
        let (head, manifest) = (self.head().await, self.manifest().await);
        let logs = manifest.sinks.values().flat_map(|sink| sink.slots.values());
        let logs = logs.filter(|output| output.is_log()).count();
        assert!(
            head.has_pending_output() && logs == PARALLELISM as usize && !manifest.files.is_empty(),
            "invalid run: {head:?}, {logs} logs"
        );
    }

    pub(crate) fn store(&self) -> JobStore {
        let job = JobIdentity::parse("test-job").unwrap();
        JobStore::new(Arc::clone(&self.storage), JobPaths::new(job))
    }

    pub(crate) async fn head(&self) -> Head {
        self.store().read_head().await.unwrap().unwrap().head
    }

    pub(crate) async fn manifest(&self) -> Manifest {
        let named = self.head().await.manifest;
        self.store().manifest(&named).await.unwrap()
    }

    pub(crate) async fn state_file(&self) -> RelativePath {
        self.manifest().await.files.keys().next().unwrap().clone()
    }

    pub(crate) async fn log_of(&self, slot: u32) -> RelativePath {
        match &self.manifest().await.sinks.values().next().unwrap().slots[&slot] {
            SlotOutput::Log(parts) => parts[0].path.clone(),
            SlotOutput::Empty => panic!("slot {slot} has no output"),
        }
    }

    pub(crate) async fn manifest_file(&self) -> RelativePath {
        manifest_path(&self.head().await.manifest.name)
    }

    /// Damages a file; gives back what it was.
    pub(crate) async fn harm(&self, path: &RelativePath, harm: Harm) -> bytes::Bytes {
        let object = self.store().object(path).unwrap();
        let whole = self.storage.get(&object).await.unwrap().unwrap().bytes;
        let mut bytes = whole.to_vec();
        match harm {
            Harm::Flipped => bytes[whole.len() / 2] ^= 0x10,
            Harm::Cut => bytes.truncate(whole.len() - 1),
            Harm::Gone => {
                self.storage.delete_many(&[object]).await.unwrap();
                return whole;
            }
        }
        self.storage.put(&object, bytes.into()).await.unwrap();
        whole
    }

    pub(crate) async fn mend(&self, path: &RelativePath, bytes: bytes::Bytes) {
        let object = self.store().object(path).unwrap();
        self.storage.put(&object, bytes).await.unwrap();
    }

    /// A new session of a slot, as another process would open it.
    pub(crate) async fn session(&self, slot: u32) -> Box<dyn OutputTarget> {
        let program = self.job();
        let plan = program.plan();
        let node = plan.sinks().next().unwrap();
        let context = WriterContext {
            job: JobIdentity::parse("test-job").unwrap(),
            lineage: self.head().await.lineage,
            uid: plan.uid(node).clone(),
            subtask: SubtaskIndex(slot),
            parallelism: Parallelism(PARALLELISM),
        };
        let target = program.sink(node).unwrap().target(&context).unwrap();
        let mut target = target.unwrap();
        target.open_session().unwrap();
        target
    }

    /// What the markers of a slot say about the checkpoint in `head`.
    pub(crate) async fn marker(&self, slot: u32) -> Option<MarkerKind> {
        let number = self.head().await.number;
        let mut target = self.session(slot).await;
        target.write_sync().unwrap();
        let read = target.read_markers(MarkerPosition::default()).unwrap();
        let found = read.markers.iter().find(|(of, _)| *of == number);
        found.map(|(_, kind)| *kind)
    }

    /// Commits the pending output of one slot, as its own worker would have done a moment later.
    pub(crate) async fn commit(&self, slot: u32) {
        let (head, log) = (self.head().await, self.log_of(slot).await);
        let object = self.store().object(&log).unwrap();
        let bytes = self.storage.get(&object).await.unwrap().unwrap().bytes;
        let mut target = self.session(slot).await;
        target.begin().unwrap();
        let batch = OutputBatch::from_bytes(bytes.to_vec()).unwrap();
        target.send(&batch).unwrap();
        target.flush().unwrap();
        let marker = Marker {
            number: head.number,
            kind: MarkerKind::Output,
            epoch: head.epoch.0,
            attempt: 1,
        };
        target.commit(marker).unwrap();
    }

    /// Commits the void marker of one slot for the checkpoint in `head`.
    pub(crate) async fn give_up(&self, slot: u32) {
        let head = self.head().await;
        let mut target = self.session(slot).await;
        target.begin().unwrap();
        let marker = Marker {
            number: head.number,
            kind: MarkerKind::Void,
            epoch: head.epoch.0,
            attempt: 1,
        };
        target.commit(marker).unwrap();
    }

    /// The committed output is that of a run without faults.
    pub(crate) fn assert_exact(&self) {
        let counted = (self.committed)();
        let found: BTreeMap<_, _> = counted
            .iter()
            .map(|&(key, start, count)| ((key, start), count))
            .collect();
        assert_eq!(counted.len(), found.len(), "a window was counted twice");
        assert_eq!(found, expected());
    }
}

/// What a run without faults counts.
fn expected() -> BTreeMap<(u64, i64), u64> {
    let mut expected = BTreeMap::<(u64, i64), u64>::new();
    for index in 0..RECORDS {
        let start = index as i64 / WINDOW_MS * WINDOW_MS;
        *expected.entry((index % KEYS, start)).or_default() += 1;
    }
    expected
}

/// Goes on at every step.
pub(crate) fn on() -> StopHook {
    Arc::new(|_| {})
}

/// Counts how often a step is reached.
pub(crate) fn counting(step: Step) -> (StopHook, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let hook = move |reached| {
        counted.fetch_add(u64::from(reached == step), Ordering::Relaxed);
    };
    (Arc::new(hook), count)
}
