//! Tests of the worker where a part of it fails: every failure is told, and every attempt can be cancelled.

use std::sync::Mutex;
use std::time::Duration;

use highwater_api::StreamEnvironment;
use highwater_connectors::{
    BlackholeSink, ConnectorError, ElementsSource, ExternalIdentity, KnownMarkers, Marker,
    MarkerPosition, MarkerReading, MemoryOutput, OutputBatch, OutputTarget, Sink, SinkFacts,
    SinkWriter, TargetError, WriterContext,
};
use highwater_graph::PlanDefaults;
use highwater_graph::check::Checkpoints;
use highwater_operators::{KeyedPart, OperatorSnapshot};
use highwater_protocol::hash::ContentHash;
use highwater_protocol::paths::JobPaths;
use highwater_protocol::recovery::SlotDuty;
use highwater_protocol::sink_slot::Purpose;
use highwater_state::{LocalDir, StoreFile, StoreFiles};
use highwater_storage::MemoryStorage;
use highwater_types::{
    Epoch, Guarantee, Lineage, MaxParallelism, Nonce, OperatorUid, Parallelism, Parallelisms,
};

use super::*;
use crate::clock::ManualClock;
use crate::messages::{History, MarkerPlace};

const ATTEMPT: AttemptId = AttemptId(1);
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone)]
enum Fault {
    /// The second slot has no target.
    SecondTarget,
    /// No session opens without a panic.
    Panic,
    /// No session opens before the test says so, and then not without a panic.
    Held(Arc<Held>),
}

/// A call of a sink that does not return until it is let go.
struct Held {
    entered: SyncSender<()>,
    let_go: Mutex<Receiver<()>>,
}

struct FaultySink(Fault);

fn refusal() -> ConnectorError {
    ConnectorError::Unavailable {
        object: "the outside".to_owned(),
        reason: "it was told to".to_owned(),
    }
}

impl Sink for FaultySink {
    type Record = u64;

    fn facts(&self) -> SinkFacts {
        SinkFacts {
            connector: "faulty",
            object: "nothing".to_owned(),
            guarantee: Guarantee::ExactlyOnce,
        }
    }

    fn writer(&self, _: &WriterContext) -> Result<SinkWriter<u64>, ConnectorError> {
        Err(refusal())
    }

    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        match &self.0 {
            Fault::SecondTarget if context.subtask.0 > 0 => Err(refusal()),
            Fault::SecondTarget => Ok(Some(Box::new(MemoryOutput::new().target(context)))),
            Fault::Panic => Ok(Some(Box::new(Panicking(None)))),
            Fault::Held(held) => Ok(Some(Box::new(Panicking(Some(Arc::clone(held)))))),
        }
    }
}

/// Panics, maybe held up before.
struct Panicking(Option<Arc<Held>>);

impl OutputTarget for Panicking {
    fn expect_markers(&mut self, _: KnownMarkers) {}

    fn identity(&mut self) -> Result<ExternalIdentity, TargetError> {
        panic!("the target has a bug")
    }

    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError> {
        panic!("the target has a bug")
    }

    fn open_session(&mut self) -> Result<(), TargetError> {
        if let Some(held) = &self.0 {
            held.entered.send(()).unwrap();
            held.let_go.lock().unwrap().recv().unwrap();
        }
        panic!("the target has a bug")
    }

    fn write_sync(&mut self) -> Result<(), TargetError> {
        panic!("the target has a bug")
    }

    fn read_markers(&mut self, _: MarkerPosition) -> Result<MarkerReading, TargetError> {
        panic!("the target has a bug")
    }

    fn begin(&mut self) -> Result<(), TargetError> {
        panic!("the target has a bug")
    }

    fn send(&mut self, _: &OutputBatch) -> Result<(), TargetError> {
        panic!("the target has a bug")
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        panic!("the target has a bug")
    }

    fn commit(&mut self, _: Marker) -> Result<MarkerPosition, TargetError> {
        panic!("the target has a bug")
    }

    fn abort(&mut self) -> Result<(), TargetError> {
        panic!("the target has a bug")
    }
}

fn uid() -> OperatorUid {
    OperatorUid::parse("out").unwrap()
}

fn slot(slot: u32) -> SlotKey {
    SlotKey { sink: uid(), slot }
}

fn rim() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap()
}

fn setup(
    fault: Fault,
    rim: &tokio::runtime::Runtime,
) -> (WorkerSetup, mpsc::Receiver<WorkerEvent>) {
    setup_with(FaultySink(fault), rim)
}

fn setup_with(
    sink: impl Sink<Record = u64>,
    rim: &tokio::runtime::Runtime,
) -> (WorkerSetup, mpsc::Receiver<WorkerEvent>) {
    let mut env = StreamEnvironment::new();
    env.source("numbers", ElementsSource::new([1u64]))
        .sink("out", sink);
    let defaults = PlanDefaults {
        parallelism: Parallelism(2),
        max_parallelism: MaxParallelism::DEFAULT,
        checkpoints: Checkpoints::On,
    };
    let job = JobIdentity::parse("test-job").unwrap();
    let storage = Arc::new(MemoryStorage::default());
    let (events, told) = mpsc::channel(64);
    let setup = WorkerSetup {
        program: env.compile(defaults).unwrap(),
        job: job.clone(),
        settings: WorkerSettings {
            slots: 1,
            state_bytes_max: 1 << 20,
            store_bytes_max: 0,
            spool_bytes_max: 1 << 20,
        },
        clock: Arc::new(ManualClock::default()),
        files: JobFiles::new(storage, JobPaths::new(job)),
        rim: rim.handle().clone(),
        local: None,
        store: Store::heap(),
        nonces: NonceStream::new(Nonce(1)),
        plane: None,
        events,
        stop: Arc::new(|_| {}),
    };
    (setup, told)
}

fn deployment() -> Box<Deployment> {
    let markers = MarkerPlace {
        place: "memory".to_owned(),
        from: 0,
    };
    Box::new(Deployment {
        epoch: Epoch(1),
        attempt: ATTEMPT,
        shape: ContentHash(1),
        parallelism: BTreeMap::new(),
        lineage: Lineage(1),
        restored: id(0),
        history: History::FirstStart,
        unmatched: highwater_protocol::recovery::UnmatchedState::Refuse,
        states: BTreeMap::new(),
        splits: BTreeMap::new(),
        complete: Vec::new(),
        markers: BTreeMap::from([(uid(), markers)]),
        logs: Vec::new(),
        standing: Standing::Alone,
    })
}

fn id(number: u64) -> CheckpointId {
    CheckpointId {
        number,
        epoch: Epoch(1),
    }
}

/// Runs an attempt up to `Confirm` with these duties, expects its failure, and cancels it.
fn failure_of(fault: Fault, duties: Vec<SlotDuty>) -> FailureReport {
    let rim = rim();
    let (setup, mut told) = setup(fault, &rim);
    let worker = start(setup).unwrap();
    let mut next = || {
        let told = rim.block_on(async { tokio::time::timeout(LIMIT, told.recv()).await });
        told.ok().flatten()
    };
    worker.send(WorkerCommand::Prepare(deployment()));
    assert!(matches!(next(), Some(WorkerEvent::Verified(ATTEMPT, _))));
    worker.send(WorkerCommand::Confirm(ATTEMPT, duties));
    let failed = next();
    // Nothing is built yet, so there is no slice to drop: the answer waits for the drivers only.
    worker.send(WorkerCommand::Cancel(ATTEMPT));
    let cancelled = match next() {
        Some(WorkerEvent::Cancelling(ATTEMPT, waits_for)) => {
            assert!(waits_for.contains("sink"), "{waits_for}");
            next()
        }
        told => told,
    };
    worker.shut_down();
    // A driver that was never told to end must not keep a failed test from ending.
    rim.shutdown_background();
    assert!(
        matches!(cancelled, Some(WorkerEvent::Cancelled(ATTEMPT))),
        "{cancelled:?}"
    );
    let Some(WorkerEvent::Failed(ATTEMPT, report)) = failed else {
        panic!("{failed:?}")
    };
    *report
}

#[test]
fn drivers_of_a_partly_failed_opening_end_with_the_attempt() {
    let report = failure_of(Fault::SecondTarget, Vec::new());
    assert_eq!(report.subtask, SubtaskIndex(1));
    assert!(report.message.contains("it was told to"), "{report:?}");
}

/// What the first slot has to confirm.
fn duty() -> SlotDuty {
    let slot = slot(0);
    let task = TaskId {
        vertex: uid(),
        subtask: SubtaskIndex(0),
    };
    SlotDuty {
        slot,
        task,
        id: id(1),
        log: Vec::new(),
        from: 0,
        purpose: Purpose::Confirm,
    }
}

#[test]
fn an_end_that_is_told_twice_waits_for_the_drivers_all_the_same() {
    let ((entered, has_entered), (go, let_go)) = (sync_channel(1), sync_channel(1));
    let let_go = Mutex::new(let_go);
    let held = Arc::new(Held { entered, let_go });
    let rim = rim();
    let (setup, mut told) = setup(Fault::Held(held), &rim);
    let worker = start(setup).unwrap();
    let mut next = |limit| {
        let told = rim.block_on(async { tokio::time::timeout(limit, told.recv()).await });
        told.ok().flatten()
    };
    worker.send(WorkerCommand::Prepare(deployment()));
    assert!(matches!(next(LIMIT), Some(WorkerEvent::Verified(..))));
    worker.send(WorkerCommand::Confirm(ATTEMPT, vec![duty()]));
    has_entered.recv_timeout(LIMIT).unwrap();
    for _ in 0..2 {
        worker.send(WorkerCommand::Cancel(ATTEMPT));
        let told = next(LIMIT);
        assert!(
            matches!(told, Some(WorkerEvent::Cancelling(..))),
            "{told:?}"
        );
    }
    let early = next(Duration::from_millis(300));
    go.send(()).unwrap();
    // A thread that was not let go would keep a failed test from ending.
    assert!(early.is_none(), "the sink has not returned: {early:?}");
    let ended = next(LIMIT);
    assert!(
        matches!(ended, Some(WorkerEvent::Cancelled(_))),
        "{ended:?}"
    );
    worker.shut_down();
}

#[test]
fn a_panic_of_a_driver_fails_the_attempt() {
    let report = failure_of(Fault::Panic, vec![duty()]);
    assert_eq!(report.subtask, SubtaskIndex(0));
    assert!(
        report.message.contains("the target has a bug"),
        "{report:?}"
    );
}

#[test]
fn a_job_off_the_loop_that_panics_is_answered() {
    let rim = rim();
    let (setup, told) = setup(Fault::Panic, &rim);
    let (mut worker, answers) = by_hand(setup);
    worker.prepare(deployment());
    let fetched = answers.recv_timeout(LIMIT).unwrap();
    assert!(matches!(fetched, WorkerInput::Fetched(ATTEMPT, Ok(_))));
    let job = || panic!("the store has a bug");
    let task = worker.current.as_ref().unwrap().holder(&slot(0));
    let lost = |message| Err(PartFailure::lost(message));
    worker.off_loop(job, lost, move |result| WorkerInput::Stored {
        task,
        attempt: ATTEMPT,
        id: id(1),
        result,
    });
    let WorkerInput::Stored { result, .. } = answers.recv_timeout(LIMIT).unwrap() else {
        panic!("the job answers")
    };
    assert!(result.unwrap_err().message.contains("the store has a bug"));
    drop(told);
}

/// A worker whose loop is driven by the test.
fn by_hand(setup: WorkerSetup) -> (Worker, Receiver<WorkerInput>) {
    let (inputs, answers) = sync_channel(4);
    let worker = Worker {
        setup,
        inputs,
        slots: Vec::new(),
        current: None,
        kept: KeptFiles::default(),
        board: FigureBoard::default(),
    };
    (worker, answers)
}

/// A checkpoint of a local store with one file: what the worker answers.
fn checkpoint(
    number: u64,
    (worker, answers, told): (
        &mut Worker,
        &Receiver<WorkerInput>,
        &mut mpsc::Receiver<WorkerEvent>,
    ),
    between: impl FnOnce(&mut Worker),
) -> WorkerEvent {
    let root = tempfile::tempdir().unwrap();
    let dir = LocalDir::create(root.path().join("frozen")).unwrap();
    std::fs::write(dir.path().join("1.sst"), b"rows").unwrap();
    let file = StoreFile {
        name: "1.sst".to_owned(),
        length: 4,
        is_immutable: true,
        is_restored: false,
    };
    let files = StoreFiles {
        store: "plain".to_owned(),
        dir,
        files: vec![file],
    };
    let state = OperatorSnapshot {
        keyed: vec![KeyedPart::InStore {
            head: b"head".to_vec(),
            files,
        }],
        lists: Vec::new(),
        ..OperatorSnapshot::default()
    };
    let task = worker.current.as_ref().unwrap().holder(&slot(0));
    let snapshot = TaskEvent::Snapshot {
        id: id(number),
        operators: vec![(task.vertex.clone(), state)],
        splits: None,
    };
    worker.slot_event(SlotEvent {
        slot: SlotIndex(0),
        attempt: ATTEMPT,
        kind: SlotEventKind::Task(task, snapshot),
    });
    let WorkerInput::Stored {
        task,
        attempt,
        id,
        result,
    } = answers.recv_timeout(LIMIT).unwrap()
    else {
        panic!("the part is stored")
    };
    between(worker);
    worker.stored(task, attempt, id, result);
    told.try_recv().unwrap()
}

#[test]
fn completions_and_declines_reach_the_files_of_the_attempt() {
    let rim = rim();
    let (setup, mut told) = setup(Fault::Panic, &rim);
    let (mut worker, answers) = by_hand(setup);
    worker.prepare(deployment());
    let WorkerInput::Fetched(attempt, restored) = answers.recv_timeout(LIMIT).unwrap() else {
        panic!("the state is fetched")
    };
    worker.fetched(attempt, restored);
    assert!(matches!(
        told.try_recv(),
        Ok(WorkerEvent::Verified(ATTEMPT, _))
    ));
    let own = |snapshot: &TaskSnapshot, number: u64| {
        let own = format!("/{number}-");
        snapshot
            .files
            .keys()
            .filter(|path| path.as_str().contains(&own))
            .count()
    };
    let acked =
        |worker: &mut Worker, told: &mut mpsc::Receiver<WorkerEvent>, number| match checkpoint(
            number,
            (worker, &answers, told),
            |_| {},
        ) {
            WorkerEvent::Acked { snapshot, .. } => own(&snapshot, number),
            other => panic!("{other:?}"),
        };
    assert_eq!(acked(&mut worker, &mut told, 1), 2, "head and file");
    worker.command(WorkerCommand::Declined(ATTEMPT, id(1)));
    assert_eq!(
        acked(&mut worker, &mut told, 2),
        2,
        "what was declined is stored again"
    );
    worker.command(WorkerCommand::Completed(ATTEMPT, id(2)));
    assert_eq!(
        acked(&mut worker, &mut told, 3),
        1,
        "the file is there, only the head is new"
    );
    let declined = |worker: &mut Worker| worker.command(WorkerCommand::Declined(ATTEMPT, id(4)));
    let late = checkpoint(4, (&mut worker, &answers, &mut told), declined);
    assert!(
        matches!(late, WorkerEvent::Refused { id: of, .. } if of == id(4)),
        "{late:?}"
    );
    rim.shutdown_background();
}

#[test]
fn an_attempt_that_is_sent_twice_or_beside_another_ends_no_thread() {
    let rim = rim();
    let (setup, mut told) = setup(Fault::Panic, &rim);
    let worker = start(setup).unwrap();
    let mut next = || {
        let told = rim.block_on(async { tokio::time::timeout(LIMIT, told.recv()).await });
        told.ok().flatten()
    };
    worker.send(WorkerCommand::Prepare(deployment()));
    worker.send(WorkerCommand::Prepare(deployment()));
    assert!(matches!(next(), Some(WorkerEvent::Verified(ATTEMPT, _))));
    let mut other = deployment();
    other.attempt = AttemptId(2);
    worker.send(WorkerCommand::Prepare(other));
    let refused = next();
    let Some(WorkerEvent::Failed(AttemptId(2), report)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(report.kind, ErrorKind::Bug);
    worker.shut_down();
    rim.shutdown_background();
}

fn parallelisms(numbers: u32, out: u32) -> Parallelisms {
    let one = |uid, count| (OperatorUid::parse(uid).unwrap(), Parallelism(count));
    Parallelisms::from([one("numbers", numbers), one("out", out)])
}

/// The tasks that come to the end of their input in an attempt at this parallelism, so many.
fn tasks_at(parallelism: Parallelisms, count: usize) -> BTreeSet<String> {
    let rim = rim();
    let (setup, mut told) = setup_with(BlackholeSink::new().0, &rim);
    let worker = start(setup).unwrap();
    let mut next = || {
        let told = rim.block_on(async { tokio::time::timeout(LIMIT, told.recv()).await });
        told.ok().flatten()
    };
    let numbers = OperatorUid::parse("numbers").unwrap();
    let sources = parallelism.get(&numbers).map_or(2, |of| of.0);
    let splits = (0..sources).map(SubtaskIndex).map(|subtask| {
        let uid = numbers.clone();
        (OperatorSubtask { uid, subtask }, Vec::new())
    });
    worker.send(WorkerCommand::Prepare(Box::new(Deployment {
        parallelism,
        splits: splits.collect(),
        complete: vec![numbers],
        ..*deployment()
    })));
    assert!(matches!(next(), Some(WorkerEvent::Verified(ATTEMPT, _))));
    worker.send(WorkerCommand::Confirm(ATTEMPT, Vec::new()));
    worker.send(WorkerCommand::Open(ATTEMPT));
    assert!(matches!(next(), Some(WorkerEvent::Opened(ATTEMPT))));
    worker.send(WorkerCommand::Run(ATTEMPT));
    let mut ended = BTreeSet::new();
    while ended.len() < count {
        let told = next();
        let Some(WorkerEvent::InputEnded(ATTEMPT, task)) = told else {
            panic!("{told:?} after {ended:?}")
        };
        ended.insert(task.to_string());
    }
    worker.send(WorkerCommand::Cancel(ATTEMPT));
    loop {
        match next() {
            Some(WorkerEvent::Cancelling(ATTEMPT, _)) => {}
            Some(WorkerEvent::Cancelled(ATTEMPT)) => break,
            other => panic!("{other:?} after {ended:?}"),
        }
    }
    worker.shut_down();
    ended
}

#[test]
fn a_deployment_at_another_parallelism_builds_other_subtasks() {
    let set = |tasks: &[&str]| -> BTreeSet<String> {
        tasks.iter().map(|task| (*task).to_owned()).collect()
    };
    let configured = tasks_at(Parallelisms::new(), 2);
    assert_eq!(configured, set(&["numbers/0", "numbers/1"]));
    let three = tasks_at(parallelisms(3, 3), 3);
    assert_eq!(three, set(&["numbers/0", "numbers/1", "numbers/2"]));
    // Unequal numbers of subtasks are no chain.
    let unequal = tasks_at(parallelisms(1, 3), 4);
    assert_eq!(unequal, set(&["numbers/0", "out/0", "out/1", "out/2"]));
}

#[test]
fn slots_and_key_groups_are_those_of_the_attempt() {
    let rim = rim();
    let (setup, told) = setup(Fault::Panic, &rim);
    let (mut worker, answers) = by_hand(setup);
    worker.prepare(Box::new(Deployment {
        parallelism: parallelisms(4, 4),
        ..*deployment()
    }));
    let fetched = answers.recv_timeout(LIMIT).unwrap();
    assert!(matches!(fetched, WorkerInput::Fetched(ATTEMPT, Ok(_))));
    let held = worker.current.as_ref().unwrap();
    let task = held.holder(&slot(3));
    assert_eq!(task.subtask, SubtaskIndex(3));
    assert_eq!(held.holder(&slot(5)).subtask, SubtaskIndex(1));
    let groups = MaxParallelism::DEFAULT.range(SubtaskIndex(3), Parallelism(4));
    assert_eq!(held.range_of(&task), groups);
    drop(told);
}

#[test]
fn a_parallelism_that_the_program_cannot_run_at_fails_the_attempt_as_a_bug() {
    let rim = rim();
    let (setup, mut told) = setup(Fault::Panic, &rim);
    let (mut worker, _answers) = by_hand(setup);
    let nobody = OperatorUid::parse("nobody").unwrap();
    worker.prepare(Box::new(Deployment {
        parallelism: Parallelisms::from([(nobody, Parallelism(1))]),
        ..*deployment()
    }));
    let failed = told.try_recv();
    let Ok(WorkerEvent::Failed(ATTEMPT, report)) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(report.kind, ErrorKind::Bug);
    assert!(report.message.contains("`nobody`"), "{report:?}");
    worker.command(WorkerCommand::Cancel(ATTEMPT));
    let ended = told.try_recv();
    assert!(
        matches!(ended, Ok(WorkerEvent::Cancelled(ATTEMPT))),
        "{ended:?}"
    );
}
