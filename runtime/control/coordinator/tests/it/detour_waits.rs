//! What a job waits for on its way back to an older state: it hears a stop, and nothing is waited for without a bound.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_coordinator::{JobOutcome, JobRequest, JobStatus, RestartStrategy};
use highwater_protocol::paths::RelativePath;
use highwater_protocol::steps::Step;
use highwater_types::ErrorKind;

use crate::damage::{Harm, World, on};
use crate::job::{RESUME, end_of, settings};
use crate::second_look::{Lie, Unsteady};

/// Waits until `arrival` is told of, off the runtime; whoever arrives later may still tell.
pub(crate) async fn until(arrival: Receiver<()>) -> Receiver<()> {
    let arrived = tokio::task::spawn_blocking(move || arrival.recv().map(|()| arrival));
    arrived.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_heard_while_a_job_on_its_way_back_waits_for_its_next_try() {
    let mut world = World::pending().await;
    world.harm(&world.state_file().await, Harm::Flipped).await;
    // What takes its place is verified first, and the store does not answer: the next try is an hour away.
    let parent = world.manifest().await.parent.unwrap();
    let older = world.store().manifest(&parent).await.unwrap();
    let older = older.files.keys().next().unwrap().clone();
    let (told, arrival) = sync_channel(1);
    Unsteady::before(&mut world, &older, vec![Lie::Silent]).tells_when_steady(told);
    let mut patient = settings();
    patient.restart = RestartStrategy::Exponential {
        first: Duration::from_hours(1),
        most: Duration::from_hours(1),
        reset_after: Duration::from_hours(1),
        restarts_max: None,
    };
    let handle = world.start_with(patient, on());
    until(arrival).await;
    handle.requests.send(JobRequest::Cancel).await.unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Cancelled));
    assert_eq!((world.marker(0).await, world.marker(1).await), (None, None));
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_never_answers_does_not_hold_the_end_of_a_job_on_its_way_back_up_for_ever() {
    let world = World::pending().await;
    world.harm(&world.state_file().await, Harm::Flipped).await;
    let (told, arrival) = sync_channel(2);
    let (go, gate) = sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    // The void marker of each slot does not return from the sink before the test is over.
    let stands = move |step| {
        if step == Step::P10 {
            told.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap_err();
        }
    };
    let mut settings = settings();
    settings.cancellation_timeout = Duration::from_millis(100);
    let handle = world.start_with(settings, Arc::new(stands));
    let arrival = until(arrival).await;
    handle.requests.send(JobRequest::Cancel).await.unwrap();
    let failure = end_of(handle).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Bug, "{failure}");
    for part in [
        "did not end within 100 ms",
        "does not return",
        "sink slot counts/0 in task count/0",
        "start again",
    ] {
        assert!(failure.message.contains(part), "{part}: {failure}");
    }
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
    drop((go, arrival));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_heard_while_a_job_on_its_way_back_waits_for_the_store() {
    let mut world = World::pending().await;
    world.harm(&world.state_file().await, Harm::Flipped).await;
    let steady = Arc::clone(&world.storage);
    let head = RelativePath::parse("head").unwrap();
    let unsteady = Unsteady::before(&mut world, &head, Vec::new());
    // The store does not answer any more once the region finds the damage: whether it still leads is asked first.
    let hook = Arc::clone(&unsteady);
    let goes_silent = move |step| {
        if step == Step::R5 {
            hook.lie(vec![Lie::Silent; 1_000]);
        }
    };
    let handle = world.start(Arc::new(goes_silent), RESUME);
    let mut status = handle.status.clone();
    let waits = |status: &JobStatus| {
        let waits = status.waits_for.as_deref();
        waits.is_some_and(|waits| waits.contains("the checkpoint store"))
    };
    let shown = tokio::time::timeout(Duration::from_secs(20), status.wait_for(waits)).await;
    shown.expect("the status says what is waited for").unwrap();
    handle.requests.send(JobRequest::Cancel).await.unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Cancelled));
    world.storage = steady;
    assert_eq!((world.marker(0).await, world.marker(1).await), (None, None));
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}
