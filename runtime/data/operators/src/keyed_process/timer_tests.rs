//! Random timers on the heap and over a local store: they fire in the same order, through barriers, crashes, rescales and changes
//! of the store.

use std::sync::Arc;

use highwater_state::contract::SlowMissFactory;
use highwater_state::{MemoryBudget, Store};
use highwater_types::{MaxParallelism, Parallelism};
use proptest::prelude::*;

use super::*;
use crate::snapshot::OperatorSnapshot;
use crate::testing::{Harness, HarnessSetup, deal};

/// A key, whether its timer is set or deleted, and the time of it.
type Request = (i64, bool, i64);
/// Key and time.
type Fired = (i64, i64);

/// Sets and deletes timers as it is told. A timer for a time that divides by 7 sets another one.
struct Timed;

impl KeyedProcessFunction<i64, Request, Fired> for Timed {
    fn on_record(
        &mut self,
        (_, is_set, time): Request,
        context: &mut KeyedContext<'_, i64, Fired>,
    ) -> Result<(), UserError> {
        if is_set {
            context.register_event_timer(EventTime(time));
        } else {
            context.delete_event_timer(EventTime(time));
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        context: &mut KeyedContext<'_, i64, Fired>,
    ) -> Result<(), UserError> {
        let FiredTimer::Event(time) = timer else {
            return Ok(());
        };
        context.emit((*context.key(), time.0));
        if time.0 % 7 == 0 {
            context.register_event_timer(EventTime(time.0 + 1));
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Requests(Vec<Request>),
    Watermark(i64),
    /// A checkpoint, and a crash behind it: the job comes back at this parallelism, over a store or on the heap.
    Restart(u32, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let request = (0..40i64, proptest::bool::weighted(0.8), 0..300i64);
    prop_oneof![
        6 => proptest::collection::vec(request, 0..100).prop_map(Step::Requests),
        3 => (0..300i64).prop_map(Step::Watermark),
        1 => (1..4u32, any::<bool>()).prop_map(|(n, is_local)| Step::Restart(n, is_local)),
    ]
}

fn deploy(
    parallelism: u32,
    is_local: bool,
    saved: Option<&[OperatorSnapshot]>,
) -> Vec<Harness<Request, Fired>> {
    let shares = saved.map(|saved| deal(saved, parallelism));
    let subtask = |subtask: u32| {
        let factory = Arc::new(SlowMissFactory::default());
        let setup = HarnessSetup {
            subtask,
            parallelism,
            restored: shares
                .as_ref()
                .map(|shares| shares[subtask as usize].clone()),
            budget: MemoryBudget::with_cache(u64::MAX, 1),
            store: if is_local {
                Store::Local { factory }
            } else {
                Store::Heap {
                    reads: Some(factory),
                }
            },
            ..HarnessSetup::default()
        };
        Harness::new(setup, |context| {
            KeyedProcess::open(&context, |request: &Request| request.0, Timed)
        })
    };
    (0..parallelism).map(subtask).collect()
}

fn sorted(mut fired: Vec<Vec<Fired>>) -> Vec<Vec<Fired>> {
    for step in &mut fired {
        step.sort_unstable();
    }
    fired
}

/// What fires at each step: on one subtask that stays where it is, or through all restarts.
fn run(steps: &[Step], is_local: Option<bool>) -> Vec<Vec<Fired>> {
    let mut fleet = deploy(1, is_local.unwrap_or(true), None);
    let mut fired = Vec::new();
    for step in steps.iter().chain([&Step::Watermark(i64::MAX)]) {
        let parallelism = Parallelism(fleet.len() as u32);
        match step {
            Step::Requests(requests) => {
                for (at, harness) in fleet.iter_mut().enumerate() {
                    let is_own = |request: &&Request| {
                        let group = request.0.key_hash().group(MaxParallelism::DEFAULT);
                        MaxParallelism::DEFAULT.owner(group, parallelism).0 as usize == at
                    };
                    let own = requests.iter().filter(is_own);
                    let own: Vec<_> = own.map(|&request| (request, EventTime(0))).collect();
                    harness.push_keyed(own, |request| request.0);
                }
            }
            Step::Watermark(millis) => {
                for harness in &mut fleet {
                    harness.watermark(*millis);
                }
            }
            Step::Restart(parallelism, to_local) => {
                let saved: Vec<_> = fleet.iter_mut().map(Harness::snapshot).collect();
                let (parallelism, to_local) = match is_local {
                    Some(is_local) => (1, is_local),
                    None => (*parallelism, *to_local),
                };
                fleet = deploy(parallelism, to_local, Some(&saved));
            }
        }
        let now = fleet.iter_mut().flat_map(Harness::take_output);
        fired.push(now.map(|(fired, _)| fired).collect());
    }
    fired
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn t06_timers_over_a_store_fire_in_the_order_of_the_heap(
        steps in proptest::collection::vec(step(), 0..24),
    ) {
        let on_heap = run(&steps, Some(false));
        prop_assert_eq!(&run(&steps, Some(true)), &on_heap);
        let moved = sorted(run(&steps, None));
        prop_assert_eq!(moved, sorted(on_heap), "through rescales and changes of the store");
    }
}

#[test]
fn st23_a_hundred_thousand_timers_do_not_stay_in_memory_and_all_fire_in_order() {
    const CHUNKS: i64 = 20;
    const EACH: i64 = 5_000;
    let mut fleet = deploy(1, true, None);
    let harness = &mut fleet[0];
    let mut most = 0;
    for chunk in 0..CHUNKS {
        // Times come in no order; none divides by 7.
        let requests = (0..EACH).map(|at| {
            let key = (at * CHUNKS + chunk) * 7_919 % (EACH * CHUNKS);
            ((key, true, key * 7 + 1), EventTime(0))
        });
        harness.push_keyed(requests, |request| request.0);
        most = most.max(harness.report().state_bytes);
    }
    assert!(most < 8 << 20, "{most} bytes");
    let snapshot = harness.snapshot();
    let mut fleet = deploy(1, true, Some(&[snapshot]));
    fleet[0].watermark(i64::MAX);
    let fired = fleet[0].take_output();
    let expected = (0..EACH * CHUNKS).map(|key| ((key, key * 7 + 1), EventTime(key * 7 + 1)));
    assert!(fired.into_iter().eq(expected), "each once, by time");
}
