//! A job that is taken over while its leader goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use highwater_coordinator::{CoordinatorHandle, JobOutcome, JobRequest, JobStatus};
use highwater_protocol::steps::Step;
use highwater_types::ErrorKind;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::block_in_place;

use crate::damage::{World, on};
use crate::job::{RESUME, end_of};

/// Waits until the job has completed a checkpoint more than now; on a thread that a runtime's task holds.
fn one_more(status: &watch::Receiver<JobStatus>) {
    let mut status = status.clone();
    let before = status.borrow().checkpoints.completed_count;
    let more = |status: &JobStatus| status.checkpoints.completed_count > before;
    block_in_place(|| Handle::current().block_on(async { status.wait_for(more).await.map(drop) }))
        .unwrap();
}

async fn running(world: &World) -> CoordinatorHandle {
    let handle = world.slowly(|| world.start(on(), RESUME));
    let running = |status: &JobStatus| status.checkpoints.completed_count > 0;
    let mut status = handle.status.clone();
    status.wait_for(running).await.unwrap();
    handle
}

/// Takes the job over; right before each of the first `outrun` claims is written, the old leader moves `head` on.
fn takes_over(world: &World, old: &CoordinatorHandle, outrun: u32) -> CoordinatorHandle {
    let (left, status) = (AtomicU32::new(outrun), old.status.clone());
    let hook = move |step| {
        let outruns = |left: u32| left.checked_sub(1);
        let (on_set, on_fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        if step == Step::R2 && left.fetch_update(on_set, on_fetch, outruns).is_ok() {
            one_more(&status);
        }
    };
    world.start(Arc::new(hook), RESUME)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_that_the_running_leader_outran_is_made_again() {
    let world = World::in_memory();
    let old = running(&world).await;
    let new = takes_over(&world, &old, 3);
    assert_eq!(end_of(new).await, Ok(JobOutcome::Finished));
    let deposed = end_of(old).await.unwrap_err();
    assert_eq!(deposed.kind, ErrorKind::Fenced, "{deposed}");
    world.assert_counts_right();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_that_is_outrun_each_time_is_given_up_by_name() {
    let world = World::in_memory();
    let old = running(&world).await;
    let new = takes_over(&world, &old, u32::MAX);
    let refused = end_of(new).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Fenced, "{refused}");
    assert!(refused.message.contains("stop that one first"), "{refused}");
    assert_eq!(world.head().await.epoch.0, 1, "nothing was claimed");
    old.requests.send(JobRequest::Cancel).await.unwrap();
    assert_eq!(end_of(old).await, Ok(JobOutcome::Cancelled));
}
