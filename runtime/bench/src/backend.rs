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
use highwater_state::contract::{SlowMissFactory, check_backend, check_steps, seeded_steps};
use highwater_state::{Store, StoreFactory};

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
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
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
    /// Makes the function that makes the store of each subtask of each attempt.
    open: fn() -> Result<Make>,
}

type Make = Box<dyn FnMut() -> Store>;

/// Less than one entry: everything is evicted after every chunk.
const NOTHING_STAYS: usize = 64;

const KINDS: &[Kind] = &[
    Kind {
        name: "heap",
        open: || Ok(Box::new(Store::heap)),
    },
    Kind {
        name: "fake-small-cache",
        open: || Ok(over(Arc::new(SlowMissFactory::default()), NOTHING_STAYS)),
    },
    Kind {
        name: "fake-large-cache",
        open: || Ok(over(Arc::new(SlowMissFactory::default()), usize::MAX)),
    },
    Kind {
        name: "fake-and-heap-in-turn",
        open: || Ok(in_turn(Arc::new(SlowMissFactory::default()), NOTHING_STAYS)),
    },
];

fn over(factory: Arc<dyn StoreFactory>, cache_bytes: usize) -> Make {
    Box::new(move || Store::Local {
        factory: Arc::clone(&factory),
        cache_bytes,
    })
}

/// Each subtask of each attempt on the other of the two: what one left, the other restores.
fn in_turn(factory: Arc<dyn StoreFactory>, cache_bytes: usize) -> Make {
    let mut on_heap = false;
    Box::new(move || {
        on_heap = !on_heap;
        if on_heap {
            return Store::Heap {
                reads: Some(Arc::clone(&factory)),
            };
        }
        Store::Local {
            factory: Arc::clone(&factory),
            cache_bytes,
        }
    })
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
        "{} backends, the contract suite and {cases} random runs of {} steps each, {digests} canonical digests equal to those of \
         the heap",
        kinds.len(),
        arguments.steps
    ))
}

/// The suite and all cases of a backend, on every core. How many digests were equal.
fn one_kind(kind: &Kind, arguments: &Arguments) -> Result<u64> {
    let mut make = (kind.open)().with_context(|| kind.name.to_owned())?;
    guarded(|| check_backend(&mut make)).with_context(|| format!("{}: the suite", kind.name))?;
    let (next, compared) = (AtomicU64::new(0), AtomicU64::new(0));
    let lane = || -> Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= arguments.cases {
                return Ok(());
            }
            let seed = arguments.first + at;
            let digests = one_case(kind, seed, arguments.steps).with_context(|| {
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

/// One random run on the backend, on the model and on the heap. How many digests there were.
fn one_case(kind: &Kind, seed: u64, steps: usize) -> Result<u64> {
    let steps = seeded_steps(seed, steps);
    let mut make = (kind.open)()?;
    let digests = guarded(|| check_steps(&mut make, &steps))?;
    let on_heap = guarded(|| check_steps(&mut Store::heap, &steps)).context("on the heap")?;
    if digests != on_heap {
        bail!("the canonical digests differ from those of the heap");
    }
    Ok(digests.len() as u64)
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
            assert!(one_case(kind, 5, 40).unwrap() > 0, "{}", kind.name);
        }
    }

    #[test]
    fn what_the_suite_panics_with_is_the_error() {
        let error = guarded(|| assert_eq!(1, 2, "one is not two")).unwrap_err();
        assert!(error.to_string().contains("one is not two"), "{error}");
    }
}
