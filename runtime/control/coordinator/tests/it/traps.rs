//! Semantic traps that show only in a whole job, named after their numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_api::{JobProgram, StreamEnvironment};
use highwater_connectors::clock::SystemClock;
use highwater_connectors::generator::{GeneratorSource, Random, RecordsPerSecond};
use highwater_connectors::{
    BadRecords, CollectSink, Collected, DecodeFailure, FileLogSource, Source,
};
use highwater_coordinator::{JobOutcome, JobRequest};
use highwater_operators::{
    AsyncLookup, Count, LookupOptions, LookupOrder, UserError, WindowContext, emit_result,
};
use highwater_storage::{MemoryStorage, ObjectStorage};
use highwater_time::WatermarkStrategy;
use highwater_types::EventTime;
use highwater_window::Tumbling;

use crate::job::{end_of, program_of, start};

fn storage() -> Arc<dyn ObjectStorage> {
    Arc::new(MemoryStorage::default())
}

/// A source of `count` numbers in two splits; without a rate it is as fast as the job takes them.
fn numbers(name: &str, count: u64, rate: Option<f64>) -> impl Source<Record = u64> {
    let number = |index: u64, _: &mut Random| (index, EventTime(index as i64));
    let source = GeneratorSource::builder(name, 7, number)
        .count(count)
        .splits(2);
    let source = match rate {
        None => source,
        Some(rate) => {
            let clock = Arc::new(SystemClock::start().unwrap());
            source.paced(RecordsPerSecond::try_new(rate).unwrap(), clock)
        }
    };
    source.build().unwrap()
}

/// The largest count of each key: what a rolling count ends with.
fn largest(counts: impl IntoIterator<Item = (u64, u64)>) -> BTreeMap<u64, u64> {
    let mut all = BTreeMap::new();
    for (key, count) in counts {
        let known = all.entry(key).or_insert(0);
        *known = count.max(*known);
    }
    all
}

const FAST: u64 = 100_000;
const SLOW: u64 = 60;

/// The fast stream fills every channel behind it; the slow one brings its barrier late, so the fast one is held by the
/// alignment with all credit used up. Barriers still pass, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t39_an_alignment_with_all_credit_used_up_still_completes() {
    let (sink, collected) = CollectSink::<(u64, u64)>::exactly_once();
    let program = program_of(2, |env| {
        // Wide records: a channel's bytes are used up before its places are.
        let wide = |number: u64| ((number % 5, 1_u64), "x".repeat(100));
        let fast = env.source("fast", numbers("fast", FAST, None));
        let slow = env.source("slow", numbers("slow", SLOW, Some(40.0)));
        let fast = fast.map(wide).rebalance();
        fast.union(&slow.map(wide).rebalance())
            .key_by(|(counted, _)| counted.0)
            .reduce("count", |into, more| into.0.1 += more.0.1)
            .map(|(counted, _)| counted)
            .sink("counts", sink);
    });
    let handle = start(program, &storage(), 10);
    let status = handle.status.clone();
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    let checkpoints = status.borrow().checkpoints.clone();
    assert!(
        checkpoints.completed_count >= 2 && checkpoints.failed_count == 0,
        "invalid run: {checkpoints:?}"
    );
    let expected = (0..5).map(|key| (key, (FAST + SLOW) / 5)).collect();
    assert_eq!(largest(collected.records().unwrap()), expected);
}

/// Four times what a channel may hold in flight.
const LARGE_BYTES: usize = 1 << 20;
const OUTPUTS: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t40_a_record_with_a_million_outputs_and_records_larger_than_a_channel_let_barriers_through()
 {
    let (many, outputs) = CollectSink::<u64>::exactly_once();
    let (large, lengths) = CollectSink::<u64>::exactly_once();
    let program = program_of(2, |env| {
        let numbers = env.source("numbers", numbers("numbers", 30, Some(20.0)));
        numbers
            .flat_map(|number, out| {
                let count = if number == 5 { OUTPUTS } else { 1 };
                for at in 0..count {
                    out.emit(at);
                }
                Ok(())
            })
            .rebalance()
            .filter(|at| at % 1_000 == 999)
            .sink("many", many);
        numbers
            .map(|number| (number, "x".repeat(LARGE_BYTES)))
            .key_by(|record| record.0)
            .reduce("last", |into, more| *into = more.clone())
            .map(|record| record.1.len() as u64)
            .sink("large", large);
    });
    let handle = start(program, &storage(), 20);
    let status = handle.status.clone();
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    let checkpoints = status.borrow().checkpoints.clone();
    assert!(
        checkpoints.completed_count >= 2 && checkpoints.failed_count == 0,
        "invalid run: {checkpoints:?}"
    );
    let mut outputs = outputs.records().unwrap();
    outputs.sort_unstable();
    let expected: Vec<_> = (0..OUTPUTS).filter(|at| at % 1_000 == 999).collect();
    assert_eq!(outputs, expected);
    assert_eq!(lengths.records().unwrap(), vec![LARGE_BYTES as u64; 30]);
}

/// Answers after a while, so that a checkpoint finds questions open.
#[derive(Clone)]
struct Slowly;

impl AsyncLookup<u64, u64> for Slowly {
    async fn lookup(&self, number: u64) -> Result<u64, UserError> {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        Ok(number)
    }
}

const ASKED: u64 = 6_000;

/// Barriers do not overtake data in channels, so the only records in flight that a checkpoint holds are the open inputs
/// of a lookup. Restored at another parallelism, what comes of them reaches the owner of its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t41_records_in_flight_are_keyed_again_after_a_change_of_parallelism() {
    let (sink, collected) = CollectSink::<(u64, u64)>::exactly_once();
    let storage = storage();
    // Slow while it is to be cut off, so that it does not end before.
    let program = |parallelism, rate| {
        program_of(parallelism, |env| {
            let options = LookupOptions::new(LookupOrder::Unordered, 64, Duration::from_mins(1));
            env.source("numbers", numbers("numbers", ASKED, rate))
                .lookup("ask", Slowly, options)
                .map(|number| (number % 11, 1_u64))
                .key_by(|counted| counted.0)
                .reduce("count", |into, more| into.1 += more.1)
                .sink("counts", sink.clone());
        })
    };
    for (run, parallelism) in [1, 3, 2].into_iter().enumerate() {
        let handle = start(
            program(parallelism, Some(500.0)),
            &storage,
            100 + run as u128 * 10,
        );
        let mut status = handle.status.clone();
        let running = status
            .wait_for(|status| status.phase.word() == "running")
            .await;
        let known = running.unwrap().checkpoints.completed;
        assert!(
            run == 0 || known.is_some(),
            "a job that goes on tells its checkpoint before it completes the next"
        );
        let reached = status.wait_for(|status| status.checkpoints.completed_count >= 3);
        assert!(reached.await.is_ok(), "the job ended early");
        handle.requests.send(JobRequest::Cancel).await.unwrap();
        assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Cancelled);
    }
    let handle = start(program(4, None), &storage, 900);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    let counts = collected.records().unwrap();
    assert_eq!(counts.len() as u64, ASKED, "one count for each record");
    let of = |key| (0..ASKED).filter(|number| number % 11 == key).count() as u64;
    assert_eq!(largest(counts), (0..11).map(|key| (key, of(key))).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t42_a_finished_job_that_is_started_again_has_nothing_to_do() {
    let (sink, collected) = CollectSink::<u64>::exactly_once();
    let storage = storage();
    for run in 0..2 {
        let program = program_of(2, |env| {
            env.source("numbers", numbers("numbers", 500, None))
                .sink("all", sink.clone());
        });
        let handle = start(program, &storage, 10 + run * 10);
        assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
        let mut all = collected.records().unwrap();
        all.sort_unstable();
        assert_eq!(all, (0..500).collect::<Vec<_>>(), "after run {run}");
    }
}

/// The index of the one record whose clock is far ahead.
const STRAY: u64 = 700;
/// A century, so that the test stays right for some time.
const AHEAD_MS: i64 = 100 * 365 * 86_400_000;

/// 3,000 records that are in order but for one, which comes from a machine whose clock is far ahead.
fn with_stray(
    policy: BadRecords,
    panics: Arc<AtomicBool>,
    (counts, letters): (CollectSink<u64>, CollectSink<u64>),
) -> JobProgram {
    program_of(2, |env| {
        let time = |index: u64| {
            let ahead = if index == STRAY { AHEAD_MS } else { 0 };
            EventTime(1_700_000_000_000 + index as i64 + ahead)
        };
        let record = move |index: u64, _: &mut Random| (index, time(index));
        let clock = Arc::new(SystemClock::start().unwrap());
        let source = GeneratorSource::builder("numbers", 7, record)
            .count(3_000)
            .splits(2)
            .paced(RecordsPerSecond::try_new(6_000.0).unwrap(), clock)
            .bad_records(policy)
            .future_limit(Duration::from_hours(24));
        let strategy = WatermarkStrategy::bounded_out_of_orderness(100);
        let numbers = env
            .source("numbers", source.build().unwrap())
            .watermarks(strategy, move |index| time(*index));
        numbers
            .map(move |index| {
                let now = index == 2_000 && panics.swap(false, Ordering::SeqCst);
                assert!(!now, "planted fault");
                index
            })
            .key_by(|_| 0_u64)
            .window_of(Tumbling::try_new(500))
            .aggregate("count", Count, emit_result)
            .sink("counts", counts);
        let positions = numbers.dead_letters().map(|letter| letter.position);
        positions.sink("letters", letters);
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x68_a_record_far_ahead_moves_no_watermark_and_follows_the_policy_exactly_once() {
    for (policy, expected) in [
        (BadRecords::Drop, &[][..]),
        (BadRecords::DeadLetter, &[STRAY]),
    ] {
        let (counts, counted) = CollectSink::exactly_once();
        let (letters, lettered) = CollectSink::exactly_once();
        let panics = Arc::new(AtomicBool::new(true));
        let program = with_stray(policy, Arc::clone(&panics), (counts, letters));
        let handle = start(program, &storage(), 10);
        assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
        let has_failed = !panics.load(Ordering::SeqCst);
        assert!(has_failed, "invalid run: nothing failed");
        // With its time as a watermark every later record would be late, and gone.
        let mut counted = counted.records().unwrap();
        counted.sort_unstable();
        assert_eq!(counted, [499, 500, 500, 500, 500, 500], "{policy:?}");
        assert_eq!(lettered.records().unwrap(), expected, "{policy:?}");
    }
    let (counts, _) = CollectSink::exactly_once();
    let (letters, _) = CollectSink::exactly_once();
    let program = with_stray(BadRecords::Fail, Arc::default(), (counts, letters));
    let failure = end_of(start(program, &storage(), 10)).await.unwrap_err();
    let text = failure.to_string();
    assert!(
        text.contains("ahead of the clock") && text.contains("record at 700"),
        "{text}"
    );
}

type Counted = (u64, i64, u64);

/// Counts the numbers of a log per key and second of event time. They are out of order by up to 700 ms.
fn count_log(source: FileLogSource<u64, Decoder>, sink: CollectSink<Counted>) -> JobProgram {
    program_of(2, |env: &mut StreamEnvironment| {
        env.source("log", source)
            .watermarks(WatermarkStrategy::bounded_out_of_orderness(700), |number| {
                EventTime(time_of(*number))
            })
            .key_by(|number| number % 7)
            .window_of(Tumbling::try_new(1_000))
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
    })
}

type Decoder = fn(&[u8]) -> Result<u64, DecodeFailure>;

fn decode(line: &[u8]) -> Result<u64, DecodeFailure> {
    let text = std::str::from_utf8(line).map_err(DecodeFailure::new)?;
    text.parse().map_err(DecodeFailure::new)
}

const fn time_of(number: u64) -> i64 {
    number as i64 * 3 - (number as i64 * 37 % 700)
}

/// Appends numbers to two partitions.
fn append(root: &Path, numbers: std::ops::Range<u64>) {
    use std::io::Write as _;
    for partition in 0..2 {
        let mut lines = String::new();
        for number in numbers.clone().filter(|number| number % 2 == partition) {
            lines.push_str(&number.to_string());
            lines.push('\n');
        }
        let path = root.join("log").join(format!("{partition}.jsonl"));
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }
}

fn sorted(collected: &Collected<Counted>) -> Vec<Counted> {
    let mut records = collected.records().unwrap();
    records.sort_unstable();
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t47_a_log_read_at_once_gives_what_the_same_log_gives_while_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("log")).unwrap();
    append(folder.path(), 0..500);
    let (sink, streamed) = CollectSink::exactly_once();
    let clock = Arc::new(SystemClock::start().unwrap());
    let source = FileLogSource::until_end_marker(folder.path(), "log", decode as Decoder, clock);
    let handle = start(count_log(source, sink), &storage(), 10);
    let mut status = handle.status.clone();
    for part in 1..6 {
        // What is appended is read by a job that runs and has completed further checkpoints.
        let known = status.borrow().checkpoints.completed_count;
        let more = status.wait_for(|status| status.checkpoints.completed_count > known);
        assert!(more.await.is_ok(), "the job ended before its log");
        append(folder.path(), part * 500..(part + 1) * 500);
    }
    fs::write(folder.path().join("log").join("_end"), "").unwrap();
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);

    let (sink, batch) = CollectSink::exactly_once();
    let source = FileLogSource::bounded(folder.path(), "log", decode as Decoder);
    let handle = start(count_log(source, sink), &storage(), 20);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    let counted: u64 = sorted(&batch).iter().map(|(.., count)| count).sum();
    assert_eq!(counted, 3_000);
    assert_eq!(sorted(&streamed), sorted(&batch));
}
