//! A job that is rescaled while records flow: exact, at the parallelism that was asked for, whoever dies on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use highwater_coordinator::{
    CoordinatorHandle, CoordinatorSettings, JobOutcome, JobRequest, JobStatus, RequestAnswer,
    RequestRefused, RescaleWish, SnapshotWish,
};
use highwater_protocol::steps::Step;
use highwater_types::{Classified as _, ErrorKind, OperatorUid, Parallelism, Parallelisms};
use highwater_worker::SystemClock;
use tokio::sync::oneshot;

use crate::exactly_once::{Faults, World};
use crate::job::{Manner, end_of, settings, start, start_in, suspend};

/// Records of a second: slow enough not to end before it is asked.
const SLOWLY: f64 = 6_000.0;

pub(crate) fn to(parallelism: u32) -> RescaleWish {
    RescaleWish {
        parallelism: Some(Parallelism(parallelism)),
        operators: Parallelisms::new(),
        slots_within: Duration::from_mins(1),
    }
}

/// Asks for it. What comes of it is heard later.
pub(crate) async fn asked(
    handle: &CoordinatorHandle,
    wish: RescaleWish,
) -> oneshot::Receiver<RequestAnswer> {
    let (answer, answered) = oneshot::channel();
    let request = SnapshotWish::Rescale(wish).asked(answer);
    handle.requests.send(request).await.unwrap();
    answered
}

pub(crate) async fn rescale(handle: &CoordinatorHandle, wish: RescaleWish) -> RequestAnswer {
    let answered = tokio::time::timeout(Duration::from_mins(1), asked(handle, wish).await).await;
    answered.expect("a rescale is answered").unwrap()
}

/// The largest parallelism of what runs.
pub(crate) fn runs_at(handle: &CoordinatorHandle) -> u32 {
    let plan = handle.plan.borrow();
    let vertices = plan.job.vertices().iter();
    vertices.map(|vertex| vertex.parallelism.0).max().unwrap()
}

async fn completed(handle: &CoordinatorHandle, count: u64) {
    let mut status = handle.status.clone();
    let enough = |status: &JobStatus| status.checkpoints.completed_count >= count;
    let waited = tokio::time::timeout(Duration::from_mins(1), status.wait_for(enough)).await;
    drop(waited.expect("checkpoints complete").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_up_and_down_while_records_flow() {
    let world = World::new();
    let program = world.paced(2, &Arc::default(), SLOWLY);
    let handle = start(program, &world.storage, 10);
    completed(&handle, 1).await;
    for parallelism in [4, 1, 3] {
        rescale(&handle, to(parallelism)).await.unwrap();
        assert_eq!(runs_at(&handle), parallelism);
    }
    let status = handle.status.borrow().clone();
    assert_eq!(status.redeployments.count, 3);
    assert_eq!((status.restarts, status.failures.last()), (0, None));
    let before = status.checkpoints.completed_count;
    completed(&handle, before + 2).await;
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operator_alone_is_rescaled() {
    let world = World::new();
    let program = world.paced(2, &Arc::default(), SLOWLY);
    let handle = start(program, &world.storage, 20);
    completed(&handle, 1).await;
    let count = OperatorUid::parse("count").unwrap();
    let wish = RescaleWish {
        parallelism: None,
        operators: Parallelisms::from([(count.clone(), Parallelism(5))]),
        slots_within: Duration::ZERO,
    };
    rescale(&handle, wish).await.unwrap();
    let at = handle.plan.borrow().parallelisms();
    assert_eq!(at[&count], Parallelism(5));
    assert_eq!(
        at[&OperatorUid::parse("numbers").unwrap()],
        Parallelism(2),
        "the others stay"
    );
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x52_a_rescale_among_failures_savepoints_and_other_rescales_is_exact() {
    let world = World::new();
    let faults = Arc::new(Faults {
        next: 1_000.into(),
        every: 1_700,
    });
    let handle = start(world.paced(2, &faults, SLOWLY), &world.storage, 30);
    completed(&handle, 1).await;
    let first = asked(&handle, to(3)).await;
    let (sender, savepoint) = oneshot::channel();
    let name = "between".to_owned();
    let wish = SnapshotWish::Savepoint { name }.asked(sender);
    handle.requests.send(wish).await.unwrap();
    let second = asked(&handle, to(4)).await;
    first.await.unwrap().unwrap();
    savepoint.await.unwrap().unwrap();
    match second.await.unwrap() {
        Ok(_) => assert_eq!(runs_at(&handle), 4),
        Err(refused) => {
            assert!(matches!(refused, RequestRefused::Busy(_)), "{refused}");
            rescale(&handle, to(4)).await.unwrap();
        }
    }
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_refused_and_what_runs_already_is_granted() {
    let world = World::new();
    let program = world.paced(2, &Arc::default(), SLOWLY);
    let handle = start(program, &world.storage, 40);
    completed(&handle, 1).await;
    let attempt = handle.status.borrow().attempt;
    for (wish, word) in [
        (to(0), "parallelism 0"),
        (to(100_000), "100000"),
        (
            RescaleWish {
                operators: Parallelisms::from([(
                    OperatorUid::parse("counts-of").unwrap(),
                    Parallelism(2),
                )]),
                ..to(3)
            },
            "counts-of",
        ),
    ] {
        let refused = rescale(&handle, wish).await.unwrap_err();
        assert!(matches!(refused, RequestRefused::Rescale(_)), "{refused}");
        assert!(refused.to_string().contains(word), "{refused}");
    }
    rescale(&handle, to(2)).await.unwrap();
    assert_eq!(handle.status.borrow().attempt, attempt, "nothing began");
    suspend(handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescale_holds_until_the_job_is_configured_otherwise() {
    let world = World::new();
    let program = || world.paced(2, &Arc::default(), SLOWLY);
    let handle = start(program(), &world.storage, 50);
    completed(&handle, 1).await;
    rescale(&handle, to(4)).await.unwrap();
    suspend(handle).await;
    // As it was configured: it goes on as it was rescaled.
    let handle = start(program(), &world.storage, 60);
    completed(&handle, 1).await;
    assert_eq!(runs_at(&handle), 4);
    suspend(handle).await;
    // Somebody says something else.
    let handle = start(world.paced(3, &Arc::default(), SLOWLY), &world.storage, 70);
    completed(&handle, 1).await;
    assert_eq!(runs_at(&handle), 3);
    suspend(handle).await;
    // What does not hold any more does not come back.
    let handle = start(world.program(2, &Arc::default()), &world.storage, 80);
    completed(&handle, 1).await;
    assert_eq!(runs_at(&handle), 2);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

/// Only what is asked for is a checkpoint.
pub(crate) fn on_request() -> CoordinatorSettings {
    let mut settings = settings();
    settings.checkpoint.interval_ms = 600_000;
    settings
}

/// Dies right before the act that this step names, the given time that it comes after the job runs.
async fn dies_at(step: Step, time: u32, expected: u32) {
    const NOT_YET: u32 = u32::MAX;
    let world = World::new();
    let left = Arc::new(AtomicU32::new(NOT_YET));
    let seen = Arc::clone(&left);
    let mut manner = Manner::by(Arc::new(SystemClock::new()));
    manner.settings = on_request();
    manner.hook = Arc::new(move |reached| {
        if reached == step && seen.load(Ordering::SeqCst) != NOT_YET {
            let before = seen.fetch_sub(1, Ordering::SeqCst);
            assert!(before != 1, "killed at {step}");
        }
    });
    let program = world.paced(2, &Arc::default(), SLOWLY);
    let handle = start_in(program, &world.storage, 100, manner);
    let mut status = handle.status.clone();
    let runs = status.wait_for(|status| status.phase.word() == "running");
    drop(runs.await.unwrap());
    // What was read since its barrier is output of the next checkpoint.
    let (answer, taken) = oneshot::channel();
    let first = SnapshotWish::Checkpoint.asked(answer);
    handle.requests.send(first).await.unwrap();
    taken.await.unwrap().unwrap();
    left.store(time, Ordering::SeqCst);
    let answered = asked(&handle, to(4)).await;
    let ended = tokio::time::timeout(Duration::from_mins(1), handle.ended).await;
    let ended = ended.unwrap_or_else(|_| panic!("it does not reach {step} for time {time}"));
    assert!(ended.unwrap_err().is_panic(), "{step}");
    assert!(answered.await.is_err(), "{step}: nobody is told anything");
    let handle = start(world.program(2, &Arc::default()), &world.storage, 200);
    completed(&handle, 1).await;
    assert_eq!(runs_at(&handle), expected, "{step} for time {time}");
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn x50_a_leader_that_dies_before_head_is_written_is_followed_at_the_old_parallelism() {
    for step in [Step::P1, Step::P2, Step::P7, Step::P8] {
        dies_at(step, 1, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn x50_a_leader_that_dies_after_head_is_written_is_followed_at_the_new_parallelism() {
    // The second write of `head` says that all is confirmed.
    for (step, time) in [
        (Step::P9, 1),
        (Step::P8, 2),
        (Step::R3, 1),
        (Step::R3, 3),
        (Step::R5, 1),
        (Step::R6, 1),
        (Step::R7, 1),
    ] {
        dies_at(step, time, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescale_that_is_cut_off_by_the_end_of_its_coordinator_is_refused() {
    let world = World::new();
    let program = world.paced(2, &Arc::default(), SLOWLY);
    let handle = start(program, &world.storage, 300);
    completed(&handle, 1).await;
    let answered = asked(&handle, to(4)).await;
    handle.requests.send(JobRequest::Cancel).await.unwrap();
    if let Err(refused) = answered.await.unwrap() {
        assert_eq!(refused.kind(), ErrorKind::Transient, "{refused}");
    }
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Cancelled);
    let handle = start(world.program(2, &Arc::default()), &world.storage, 310);
    assert_eq!(end_of(handle).await.unwrap(), JobOutcome::Finished);
    world.assert_exact();
}
