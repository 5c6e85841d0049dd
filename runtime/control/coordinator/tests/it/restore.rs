//! What a restore looks at: the form of each operator that has state, and whether the job was drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_coordinator::{JobOutcome, JobStatus, SnapshotWish};
use highwater_protocol::steps::Step;
use highwater_types::{ErrorKind, StopMode};
use tokio::sync::oneshot;

use crate::damage::{Harm, World, on};
use crate::job::RESUME;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_another_size_is_refused_with_both_sizes() {
    let world = World::pending().await;
    let before = world.head().await;
    let other = world.with_windows_of(70);
    let refused = other.runs(on()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
    for part in ["operator count", "tumbling 70 ms", "tumbling 50 ms"] {
        assert!(refused.message.contains(part), "{refused}");
    }
    assert_eq!(world.head().await, before, "a refusal changes nothing");
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

/// Asks for a drained stop once a checkpoint is complete; `fatal` kills the process from then on.
async fn drained(world: &World, fatal: Option<Step>) {
    let armed = Arc::new(AtomicBool::new(false));
    let (of_hook, has_begun) = (Arc::clone(&armed), AtomicBool::new(false));
    let hook = move |step| {
        if !of_hook.load(Ordering::SeqCst) {
            return;
        }
        // A checkpoint that is under way when the stop is asked for is not the one that is meant.
        has_begun.fetch_or(step == Step::P2, Ordering::SeqCst);
        let due = has_begun.load(Ordering::SeqCst) && Some(step) == fatal;
        assert!(!due, "the process is killed at {step}");
    };
    let handle = world.start(Arc::new(hook), RESUME);
    let mut status = handle.status.clone();
    let running = |status: &JobStatus| {
        status.phase.word() == "running" && status.checkpoints.completed_count > 0
    };
    status.wait_for(running).await.unwrap();
    let (answer, _answered) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode: StopMode::Drain,
        savepoint: None,
    }
    .asked(answer);
    armed.store(true, Ordering::SeqCst);
    handle.requests.send(stop).await.unwrap();
    let ended = handle.ended.await;
    assert_eq!(ended.is_err(), fatal.is_some(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_job_that_dies_before_its_end_confirms_and_ends() {
    let mut pending = 0;
    for _ in 0..8 {
        let world = World::in_memory();
        drained(&world, Some(Step::P9)).await;
        // One that began right before the stop was asked for may have been the fatal one.
        if !world.manifest().await.drained {
            continue;
        }
        pending += 1;
        let (head, before) = (world.head().await, world.committed().len());
        assert!(head.has_pending_output());
        assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
        let (after, committed) = (world.head().await, world.committed());
        assert_eq!((after.number, after.confirmed), (head.number, head.number));
        assert!(committed.len() > before, "its output is visible");
        assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
        assert_eq!(world.committed(), committed, "nothing fires again");
        break;
    }
    assert_eq!(pending, 1, "invalid run: no drained checkpoint was pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_job_with_a_damaged_log_and_nothing_visible_goes_back_and_reads_on() {
    let mut pending = 0;
    for _ in 0..8 {
        let world = World::in_memory();
        drained(&world, Some(Step::P9)).await;
        // One that began right before the stop was asked for may have been the fatal one.
        if !world.manifest().await.drained {
            continue;
        }
        pending += 1;
        world.harm(&world.log_of(1).await, Harm::Flipped).await;
        assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
        world.assert_exact();
        break;
    }
    assert_eq!(pending, 1, "invalid run: no drained checkpoint was pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_drained_says_so_and_fires_nothing_again() {
    let world = World::in_memory();
    drained(&world, None).await;
    let (head, committed) = (world.head().await, world.committed());
    assert!(!head.has_pending_output());
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
    assert_eq!(world.head().await.number, head.number);
    assert_eq!(world.committed(), committed);
}
