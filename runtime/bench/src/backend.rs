//! `backend`: the contract suite and the model test of every backend of keyed state, at full size.
//!
//! Started by `cargo xtask acceptance backend`. A case is a random run from a seed: chunks of accesses to all kinds of
//! state, barriers, snapshots that writes go on beside, aborted snapshots, crashes with another parallelism. Each step is
//! compared with a plain model, and the canonical digests of all snapshots with those of the heap. The rule: a case that
//! fails prints the line that repeats it alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::contract::{
    SlowMissFactory, check_backend, check_steps, check_store, on_heap, over, seeded_steps,
};
use highwater_state::{MemoryBudget, Store, StoreFactory};
use tempfile::TempDir;

use crate::program::refuse;

/// Drives every backend of keyed state and a plain model with the same random operations, snapshots, crashes and
/// rescales, and compares results and canonical digests.
///
/// The last line is the verdict.
#[derive(Debug, Parser)]
#[command(
    name = "backend",
    after_help = "Examples:\n  cargo xtask acceptance backend\n  \
                  cargo xtask acceptance backend --only heap --cases 1 --first 17"
)]
struct Arguments {
    /// Random runs on each backend.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,
    /// Steps of a run; one is a chunk of up to 47 accesses, a barrier, a snapshot, a crash and so on.
    #[arg(long, default_value_t = 120)]
    steps: usize,
    /// The seed of the first run; each later one has the next.
    #[arg(long, default_value_t = 1_000)]
    first: u64,
    /// Only the backend of this name.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// One way to keep state.
struct Kind {
    name: &'static str,
    store: Below,
    /// Bytes that the tables of a subtask may hold between chunks.
    cache_bytes: u64,
    /// Each subtask of each attempt on heap and store in turn: what one left, the other restores.
    is_in_turn: bool,
}

/// What is below the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Nothing,
    /// A store in memory that is only good at bulk.
    Fake,
    /// RocksDB on local disk.
    Rocks,
}

/// Less than one entry: everything is evicted after every chunk.
const NOTHING_STAYS: u64 = 64;
/// About a third of what a run holds.
const SOME_STAY: u64 = 6_000;
/// Memory of RocksDB, so little that write buffers are flushed now and then.
const ROCKS_BYTES: u64 = 8 << 20;

const KINDS: &[Kind] = &[
    Kind::new("heap", Below::Nothing, u64::MAX),
    Kind::new("fake-small-cache", Below::Fake, NOTHING_STAYS),
    Kind::new("fake-middle-cache", Below::Fake, SOME_STAY),
    Kind::new("fake-large-cache", Below::Fake, u64::MAX),
    Kind::new("fake-and-heap-in-turn", Below::Fake, NOTHING_STAYS).in_turn(),
    Kind::new("rocksdb-small-cache", Below::Rocks, NOTHING_STAYS),
    Kind::new("rocksdb-middle-cache", Below::Rocks, SOME_STAY),
    Kind::new("rocksdb-large-cache", Below::Rocks, u64::MAX),
    Kind::new("rocksdb-and-heap-in-turn", Below::Rocks, NOTHING_STAYS).in_turn(),
];

impl Kind {
    const fn new(name: &'static str, store: Below, cache_bytes: u64) -> Self {
        Self {
            name,
            store,
            cache_bytes,
            is_in_turn: false,
        }
    }

    const fn in_turn(mut self) -> Self {
        self.is_in_turn = true;
        self
    }
}

/// A kind with its store, which all its cases share as the subtasks of a worker do.
struct Opened<'a> {
    kind: &'a Kind,
    factory: Option<Arc<dyn StoreFactory>>,
    _folder: Option<TempDir>,
}

impl<'a> Opened<'a> {
    fn of(kind: &'a Kind) -> Result<Self> {
        let (mut factory, mut folder) = (None::<Arc<dyn StoreFactory>>, None);
        match kind.store {
            Below::Nothing => {}
            Below::Fake => factory = Some(Arc::new(SlowMissFactory::default())),
            Below::Rocks => {
                let below = folder_in_memory()?;
                let rocks = RocksFactory::new(RocksOptions {
                    local_dir: below.path().to_owned(),
                    memory_bytes: ROCKS_BYTES,
                    background_threads: 1,
                });
                factory = Some(Arc::new(rocks?));
                folder = Some(below);
            }
        }
        Ok(Self {
            kind,
            factory,
            _folder: folder,
        })
    }

    /// The function that makes the store of each subtask of each attempt of a case.
    fn make(&self) -> impl FnMut() -> (Store, MemoryBudget) {
        let (mut on_heap, in_turn) = (self.factory.is_none(), self.kind.is_in_turn);
        move || {
            on_heap ^= in_turn;
            match &self.factory {
                Some(factory) if !on_heap => over(Arc::clone(factory), self.kind.cache_bytes),
                reads => {
                    let reads = reads.clone();
                    (Store::Heap { reads }, MemoryBudget::unlimited())
                }
            }
        }
    }

    /// The suites: that of stores on the one that keeps files, and that of backends.
    fn suites(&self) -> Result<()> {
        if let Some(factory) = &self.factory
            && self.kind.store == Below::Rocks
        {
            guarded(|| check_store(factory.as_ref())).context("the suite of stores")?;
        }
        guarded(|| check_backend(&mut self.make())).context("the suite of backends")
    }

    /// One random run on the backend, on the model and, if that is another backend, on the heap. How many digests were equal to
    /// those of the heap.
    fn case(&self, seed: u64, steps: usize) -> Result<u64> {
        let steps = seeded_steps(seed, steps);
        let digests = guarded(|| check_steps(&mut self.make(), &steps))?;
        if self.factory.is_none() {
            return Ok(0);
        }
        let on_heap = guarded(|| check_steps(&mut on_heap, &steps)).context("on the heap")?;
        if digests != on_heap {
            bail!("the canonical digests differ from those of the heap");
        }
        Ok(digests.len() as u64)
    }
}

/// Runs what the command line asks for.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(refusal) => return refuse(&refusal),
    };
    let (word, text) = match check(&arguments) {
        Ok(text) => ("pass", text),
        Err(error) => ("fail", format!("{error:#}").replace('\n', " ")),
    };
    println!("VERDICT {word}: {text}");
    ExitCode::from(u8::from(word == "fail"))
}

fn check(arguments: &Arguments) -> Result<String> {
    let only = arguments.only.as_deref();
    let kinds = KINDS
        .iter()
        .filter(|kind| only.is_none_or(|only| only == kind.name));
    let kinds: Vec<_> = kinds.collect();
    if kinds.is_empty() {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        bail!("no backend has this name; there is: {}", names.join(", "));
    }
    // What a case panics with is said once, with the line that repeats it.
    std::panic::set_hook(Box::new(|_| {}));
    println!(
        "{:<24} {:>8} {:>8} {:>12} {:>9}",
        "backend", "suite", "cases", "digests", "seconds"
    );
    let (mut cases, mut digests) = (0, 0);
    for kind in &kinds {
        let started = Instant::now();
        let compared = one_kind(kind, arguments)?;
        println!(
            "{:<24} {:>8} {:>8} {:>12} {:>9.1}",
            kind.name,
            "passed",
            arguments.cases,
            compared,
            started.elapsed().as_secs_f64()
        );
        cases += arguments.cases;
        digests += compared;
    }
    Ok(format!(
        "{} backends, the contract suites and {cases} random runs of {} steps each, {digests} canonical digests equal to those of \
         the heap",
        kinds.len(),
        arguments.steps
    ))
}

/// The suite and all cases of a backend, on every core. How many digests were equal.
fn one_kind(kind: &Kind, arguments: &Arguments) -> Result<u64> {
    let opened = Opened::of(kind).with_context(|| kind.name.to_owned())?;
    opened.suites().with_context(|| kind.name.to_owned())?;
    let (next, compared) = (AtomicU64::new(0), AtomicU64::new(0));
    let lane = || -> Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= arguments.cases {
                return Ok(());
            }
            let seed = arguments.first + at;
            let digests = opened.case(seed, arguments.steps).with_context(|| {
                format!(
                    "{}, seed {seed}; again: --only {} --cases 1 --first {seed} --steps {}",
                    kind.name, kind.name, arguments.steps
                )
            })?;
            compared.fetch_add(digests, Ordering::Relaxed);
        }
    };
    let cores = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..cores).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| match lane.join() {
            Ok(ended) => ended,
            Err(_) => bail!("a lane panicked"),
        })
    })?;
    Ok(compared.into_inner())
}

/// Where the system keeps files in memory.
const IN_MEMORY: &str = "/dev/shm";

/// A folder in memory where there is one: a run opens and closes hundreds of databases, and each waits for its disk.
fn folder_in_memory() -> std::io::Result<TempDir> {
    tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir())
}

/// Turns a panic of the suite into an error with its words.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        let words = payload.downcast_ref::<String>().cloned();
        let words = words.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        anyhow::anyhow!(words.unwrap_or_else(|| "the suite panicked".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_a_name_of_its_own_and_passes_a_short_run() {
        for (at, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[at + 1..].iter().all(|other| other.name != kind.name));
            let opened = Opened::of(kind).unwrap();
            let (compared, is_heap) = (opened.case(5, 40).unwrap(), opened.factory.is_none());
            assert_eq!(compared == 0, is_heap, "{}", kind.name);
        }
    }

    #[test]
    fn what_the_suite_panics_with_is_the_error() {
        let error = guarded(|| assert_eq!(1, 2, "one is not two")).unwrap_err();
        assert!(error.to_string().contains("one is not two"), "{error}");
    }
}
