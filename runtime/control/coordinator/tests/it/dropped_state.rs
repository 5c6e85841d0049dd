//! One state of an operator that its job does not open any more: refused by name, or dropped by the user's word.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_api::JobProgram;
use highwater_connectors::clock::SystemClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{CollectSink, Source};
use highwater_coordinator::{CoordinatorHandle, JobOutcome, JobStatus};
use highwater_operators::{KeyedContext, KeyedProcessFunction, OpenContext, UserError};
use highwater_protocol::recovery::UnmatchedState;
use highwater_state::{StateHandle, ValueState};
use highwater_storage::{MemoryStorage, ObjectStorage};
use highwater_types::{ErrorKind, EventTime};
use highwater_worker::StopHook;

use crate::job::{RESUME, end_of, program_of, settings, start_as, suspend};

const RECORDS: u64 = 600;
const KEYS: u64 = 5;

fn numbers() -> impl Source<Record = u64> {
    let number = |index: u64, _: &mut Random| (index, EventTime(index as i64));
    let clock = Arc::new(SystemClock::start().unwrap());
    let source = GeneratorSource::builder("numbers", 7, number)
        .count(RECORDS)
        .splits(2)
        .paced(RecordsPerSecond::try_new(2_000.0).unwrap(), clock);
    source.build().unwrap()
}

type Number = StateHandle<ValueState<u64, (), u64>>;

/// Counts the records of each key, and adds them up where it is told to.
#[derive(Clone, Default)]
struct Tally {
    adds: bool,
    count: Option<Number>,
    sum: Option<Number>,
}

impl KeyedProcessFunction<u64, u64, (u64, u64)> for Tally {
    fn open(&mut self, context: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.count = Some(context.value("count", None)?);
        if self.adds {
            self.sum = Some(context.value("sum", None)?);
        }
        Ok(())
    }

    fn on_record(
        &mut self,
        number: u64,
        context: &mut KeyedContext<'_, u64, (u64, u64)>,
    ) -> Result<(), UserError> {
        let add = |by: u64| {
            move |held: &mut u64| {
                *held += by;
                *held
            }
        };
        if let Some(sum) = self.sum {
            context.state(sum).update(|| 0, add(number));
        }
        let handle = self.count.ok_or("opened before the first record")?;
        let count = context.state(handle).update(|| 0, add(1));
        context.emit((number % KEYS, count));
        Ok(())
    }
}

fn program(adds: bool, sink: CollectSink<(u64, u64)>) -> JobProgram {
    program_of(2, |env| {
        let tally = Tally {
            adds,
            ..Tally::default()
        };
        env.source("numbers", numbers())
            .key_by(|number| number % KEYS)
            .process("tally", tally)
            .sink("counts", sink);
    })
}

fn start(
    program: JobProgram,
    storage: &Arc<dyn ObjectStorage>,
    seed: u128,
    unmatched: UnmatchedState,
) -> CoordinatorHandle {
    let on: StopHook = Arc::new(|_| {});
    let mut settings = settings();
    settings.restore.unmatched = unmatched;
    start_as(program, storage, (seed, on), RESUME, settings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_not_opened_any_more_is_refused_by_name_or_dropped_alone() {
    let (sink, collected) = CollectSink::exactly_once();
    let storage: Arc<dyn ObjectStorage> = Arc::new(MemoryStorage::default());
    let before = program(true, sink.clone());
    let handle = start(before, &storage, 1_000, UnmatchedState::Refuse);
    let mut status = handle.status.clone();
    let two = |status: &JobStatus| status.checkpoints.completed_count >= 2;
    status.wait_for(two).await.unwrap();
    suspend(handle).await;
    let read = collected.records().unwrap().len();
    assert!(read > 0 && read < RECORDS as usize, "invalid run: {read}");

    let without = program(false, sink.clone());
    let refused = start(without, &storage, 2_000, UnmatchedState::Refuse);
    let refused = end_of(refused).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
    for part in ["operator `tally`", "`sum`", "--allow-unmatched-state"] {
        assert!(refused.message.contains(part), "{part}: {refused}");
    }
    assert!(!refused.message.contains("`count`"), "{refused}");

    let without = program(false, sink);
    let ended = end_of(start(without, &storage, 3_000, UnmatchedState::Drop)).await;
    assert_eq!(ended, Ok(JobOutcome::Finished));
    let mut counts = BTreeMap::<u64, Vec<u64>>::new();
    for (key, count) in collected.records().unwrap() {
        counts.entry(key).or_default().push(count);
    }
    assert_eq!(counts.len() as u64, KEYS, "{:?}", counts.keys());
    for (key, mut counts) in counts {
        counts.sort_unstable();
        let all: Vec<_> = (1..=RECORDS / KEYS).collect();
        assert_eq!(counts, all, "the other state of key {key} was kept");
    }
}
