//! Random windows through checkpoints that are taken while they fire, crashes, rescales and changes of the store: the results are
//! those of a run on the heap that nothing interrupts.

use std::sync::Arc;

use highwater_state::contract::SlowMissFactory;
use highwater_state::{MemoryBudget, Store};
use highwater_types::{MaxParallelism, Parallelism};
use highwater_window::Sliding;
use proptest::prelude::*;

use super::*;
use crate::aggregate_function::Count;
use crate::error::UserError;
use crate::snapshot::OperatorSnapshot;
use crate::testing::{Harness, HarnessSetup, deal};

type Pair = (i64, i64);
type Fired = (i64, i64, u64);

/// One input of the job, and what happens to the job at it.
#[derive(Clone, Debug)]
struct Step {
    input: Input,
    /// A checkpoint whose barrier comes before the input, and which is taken after so many portions of what that fires.
    barrier: Option<u8>,
    /// A crash behind the input; the job comes back at this parallelism, over a store or on the heap.
    crash: Option<(u32, bool)>,
}

#[derive(Clone, Debug)]
enum Input {
    Records(Vec<Pair>),
    Watermark(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let records = proptest::collection::vec((0..60i64, 0..200i64), 0..60);
    let input = prop_oneof![
        3 => records.prop_map(Input::Records),
        2 => (0..200i64).prop_map(Input::Watermark),
    ];
    let barrier = proptest::option::weighted(0.5, 0..9u8);
    let crash = proptest::option::weighted(0.2, (1..4u32, any::<bool>()));
    (input, barrier, crash).prop_map(|(input, barrier, crash)| Step {
        input,
        barrier,
        crash,
    })
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a window function")]
fn with_place(result: u64, context: &mut WindowContext<'_, i64, Fired>) -> Result<(), UserError> {
    let place = (*context.key(), context.window().start);
    context.emit((place.0, place.1, result));
    Ok(())
}

struct Job {
    subtasks: Vec<Harness<Pair, Fired>>,
    lateness: i64,
    /// The last checkpoint, and the input behind it.
    saved: Option<(Vec<OperatorSnapshot>, usize)>,
    /// Results before the last checkpoint.
    committed: Vec<Fired>,
    /// Results since.
    since: Vec<Fired>,
}

impl Job {
    fn deploy(&mut self, parallelism: u32, is_local: bool) {
        let saved = self.saved.as_ref();
        let shares = saved.map(|(snapshots, _)| deal(snapshots, parallelism));
        self.subtasks.clear();
        for subtask in 0..parallelism {
            let factory = Arc::new(SlowMissFactory::default());
            let setup = HarnessSetup {
                subtask,
                parallelism,
                restored: shares
                    .as_ref()
                    .map(|shares| shares[subtask as usize].clone()),
                budget: MemoryBudget::with_cache(u64::MAX, 3_000),
                store: if is_local {
                    Store::Local { factory }
                } else {
                    Store::Heap {
                        reads: Some(factory),
                    }
                },
                ..HarnessSetup::default()
            };
            let lateness = AllowedLateness(self.lateness);
            self.subtasks.push(Harness::new(setup, |context| {
                let parts = WindowParts {
                    assigner: Sliding::try_new(40, 20).unwrap(),
                    contents: Aggregated(Count),
                    function: with_place,
                    key_of: |pair: &Pair| pair.0,
                };
                let options = WindowOptions::event_time().with_lateness(lateness);
                Window::open(&context, parts, options)
            }));
        }
    }

    fn fired(harness: &mut Harness<Pair, Fired>) -> Vec<Fired> {
        let output = harness.take_output().into_iter();
        output.map(|(fired, _)| fired).collect()
    }

    /// Gives an input to all subtasks. A barrier comes before it: what it fires goes on while the snapshot is saved.
    fn input(&mut self, at: usize, input: &Input, barrier: Option<u8>) {
        let parallelism = Parallelism(self.subtasks.len() as u32);
        let mut snapshots = Vec::new();
        for (subtask, harness) in self.subtasks.iter_mut().enumerate() {
            if barrier.is_some() {
                harness.barrier();
            }
            let mut progress = give((subtask, parallelism), harness, input);
            if let Some(after) = barrier {
                progress = turns(harness, progress, usize::from(after));
                let early = harness.collect_portion();
                progress = turns(harness, progress, 2);
                snapshots.push(early.unwrap_or_else(|| harness.collect()));
            }
            assert_eq!(turns(harness, progress, usize::MAX), Progress::Done);
        }
        if barrier.is_some() {
            self.committed.append(&mut self.since);
            self.saved = Some((snapshots, at));
        }
        for harness in &mut self.subtasks {
            self.since.extend(Self::fired(harness));
        }
    }
}

/// Gives a subtask what it owns of an input.
fn give(
    (subtask, parallelism): (usize, Parallelism),
    harness: &mut Harness<Pair, Fired>,
    input: &Input,
) -> Progress {
    match input {
        Input::Records(records) => {
            let is_own = |(key, _): &&Pair| {
                let group = key.key_hash().group(MaxParallelism::DEFAULT);
                MaxParallelism::DEFAULT.owner(group, parallelism).0 as usize == subtask
            };
            let own = records.iter().filter(is_own);
            let own: Vec<_> = own.map(|&pair| (pair, EventTime(pair.1))).collect();
            harness.push_keyed(own, |pair| pair.0);
            Progress::Done
        }
        Input::Watermark(millis) => harness.watermark_call(*millis),
    }
}

/// Gives up to `count` turns while there is work.
fn turns(harness: &mut Harness<Pair, Fired>, mut progress: Progress, count: usize) -> Progress {
    for _ in 0..count {
        if progress == Progress::Done {
            break;
        }
        progress = harness.turn();
    }
    progress
}

/// The results of a run, in order of key and window.
fn run(steps: &[Step], lateness: i64, is_local: bool) -> Vec<Fired> {
    let mut job = Job {
        subtasks: Vec::new(),
        lateness,
        saved: None,
        committed: Vec::new(),
        since: Vec::new(),
    };
    job.deploy(2, is_local);
    let mut crashes: Vec<_> = steps.iter().map(|step| step.crash).collect();
    let mut at = 0;
    while at < steps.len() {
        job.input(at, &steps[at].input, steps[at].barrier);
        at += 1;
        if let Some((parallelism, is_local)) = crashes[at - 1].take() {
            job.since.clear();
            at = job.saved.as_ref().map_or(0, |(_, next)| *next);
            job.deploy(parallelism, is_local);
        }
    }
    job.input(at, &Input::Watermark(i64::MAX), None);
    job.committed.append(&mut job.since);
    job.committed.sort_unstable();
    job.committed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn t03_windows_over_a_store_are_those_of_the_heap_through_crashes_and_rescales(
        steps in proptest::collection::vec(step(), 0..20),
        lateness in prop_oneof![Just(0i64), Just(50)],
    ) {
        let undisturbed = steps.iter().map(|step| Step {
            barrier: None,
            crash: None,
            ..step.clone()
        });
        let expected = run(&undisturbed.collect::<Vec<_>>(), lateness, false);
        prop_assert_eq!(run(&steps, lateness, true), expected);
    }
}
