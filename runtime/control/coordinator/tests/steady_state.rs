//! A whole pipeline allocates nothing for a record: source, exchange, keyed state and sink on real slot threads, as
//! coordinator and worker run them. Alone in its binary, because it counts the allocations of the whole process.
//!
//! The clock of the job stands still, so that nothing happens by time (figures, checkpoints) while records are counted.

#![allow(
    clippy::unwrap_used,
    reason = "tests may unwrap; the lint knows unit tests only"
)]

#[path = "it/job.rs"]
#[allow(dead_code, reason = "the other tests start their jobs otherwise")]
mod job;

use std::alloc::System;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use highwater_connectors::generator::{GeneratorSource, Random};
use highwater_connectors::sink::{
    DirectWriter, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext,
};
use highwater_connectors::{ConnectorError, Guarantee};
use highwater_coordinator::JobOutcome;
use highwater_storage::{MemoryStorage, ObjectStorage};
use highwater_types::{Chunk, EventTime};
use highwater_worker::ManualClock;
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Records until tables and buffers have their size.
const WARM_UP: u64 = 1_000_000;
/// Records that are watched.
const WATCHED: u64 = 2_000_000;
const KEYS: u64 = 20_000;
/// What may be allocated over all watched records: a ring that fills for the first time takes a few further buffers. One
/// allocation for each chunk would come to some 4,000, one for each record to [`WATCHED`].
const ALLOCATIONS_MAX: usize = 400;

type Counted = (u64, u64);

/// Counts records over all subtasks; looks at the allocator when the watched ones begin and end.
struct Watch {
    seen: AtomicU64,
    begun: OnceLock<Stats>,
    ended: SyncSender<(Stats, Stats)>,
}

#[derive(Clone)]
struct WatchSink(Arc<Watch>);

impl Sink for WatchSink {
    type Record = Counted;

    fn facts(&self) -> SinkFacts {
        SinkFacts {
            connector: "watch",
            object: "nothing".to_owned(),
            guarantee: Guarantee::AtLeastOnce,
        }
    }

    fn writer(&self, _: &WriterContext) -> Result<SinkWriter<Counted>, ConnectorError> {
        Ok(SinkWriter::Direct(Box::new(self.clone())))
    }

    fn target(&self, _: &WriterContext) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(None)
    }
}

impl DirectWriter<Counted> for WatchSink {
    fn write(&mut self, chunk: &mut Chunk<Counted>) -> Result<(), ConnectorError> {
        let count = chunk.len() as u64;
        let before = self.0.seen.fetch_add(count, Ordering::SeqCst);
        let passes = |mark: u64| before < mark && mark <= before + count;
        if passes(WARM_UP) {
            self.0.begun.get_or_init(|| ALLOCATOR.stats());
        }
        if passes(WARM_UP + WATCHED) {
            let begun = *self.0.begun.get().expect("the warm-up came before");
            let told = self.0.ended.send((begun, ALLOCATOR.stats()));
            told.expect("the test waits");
        }
        chunk.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[test]
fn a_record_on_its_way_through_a_running_job_allocates_nothing() {
    let (ended, stats) = sync_channel(1);
    let watch = WatchSink(Arc::new(Watch {
        seen: AtomicU64::new(0),
        begun: OnceLock::new(),
        ended,
    }));
    let program = job::program_of(2, |env| {
        let key = |_: u64, random: &mut Random| (random.below(KEYS), EventTime::NONE);
        let source = GeneratorSource::builder("keys", 1, key).count(WARM_UP + WATCHED + 100_000);
        env.source("keys", source.build().unwrap())
            .map(|key| (key, 1))
            .key_by(|counted: &Counted| counted.0)
            .reduce("count", |held, new| held.1 += new.1)
            .sink("watch", watch);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(async {
        let storage: Arc<dyn ObjectStorage> = Arc::new(MemoryStorage::default());
        let clock = Arc::new(ManualClock::default());
        job::end_of(job::start_by(program, &storage, 1, clock)).await
    });
    assert_eq!(outcome.unwrap(), JobOutcome::Finished);
    let (begun, ended) = stats.recv().expect("the watched records have passed");
    let change = ended - begun;
    let allocations = change.allocations + change.reallocations;
    assert!(
        allocations <= ALLOCATIONS_MAX,
        "{allocations} allocations for {WATCHED} records"
    );
    let before = ALLOCATOR.stats();
    drop(std::hint::black_box(vec![0u8; 100]));
    let counted = (ALLOCATOR.stats() - before).allocations;
    assert!(counted >= 1, "the counter counts");
}
