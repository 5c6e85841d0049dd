//! Starts from a savepoint: back in the same job, as a fork elsewhere, a second time, and everything that is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_coordinator::{JobFailure, JobOutcome, JobStatus, SavepointWish, SnapshotWish, Wish};
use highwater_protocol::head::Head;
use highwater_protocol::paths::SavepointPaths;
use highwater_protocol::recovery::{SavepointWord, TakeAgain};
use highwater_protocol::steps::Step;
use highwater_storage::ObjectPath;
use highwater_types::{ErrorKind, StopMode};
use tokio::sync::oneshot;

use crate::damage::{Counted, HARMS, Harm, World, counting, on};
use crate::job::suspend;

pub(crate) fn from(place: &str, word: SavepointWord) -> Wish {
    let place = SavepointPaths::at("savepoints", place).unwrap();
    let again = TakeAgain::No;
    Wish::Savepoint(SavepointWish { place, word, again })
}

/// Runs until two checkpoints are complete, takes a savepoint, and goes on until something newer is committed.
pub(crate) async fn with_savepoint(world: &World, name: &str) {
    let handle = world.start(on(), crate::job::RESUME);
    let mut status = handle.status.clone();
    let two = |status: &JobStatus| status.checkpoints.completed_count >= 2;
    status.wait_for(two).await.unwrap();
    let (answer, answered) = oneshot::channel();
    let name = name.to_owned();
    let request = SnapshotWish::Savepoint { name }.asked(answer);
    handle.requests.send(request).await.unwrap();
    let id = answered.await.unwrap().unwrap();
    let newer = |status: &JobStatus| {
        status
            .checkpoints
            .completed
            .is_some_and(|at| at.number > id.number + 1)
    };
    status.wait_for(newer).await.unwrap();
    suspend(handle).await;
}

async fn run(world: &World, wish: Wish) -> Result<JobOutcome, JobFailure> {
    crate::job::end_of(world.start(on(), wish)).await
}

/// How often each window was counted; every count is right.
fn counts(records: &[Counted]) -> BTreeMap<(u64, i64), usize> {
    let mut counts = BTreeMap::new();
    for &(key, start, _) in records {
        *counts.entry((key, start)).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back_repeats_the_output_after_the_savepoint_once_and_only_when_told() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    let (before, at) = (world.committed(), world.head().await);
    let refused = run(&world, from("one", SavepointWord::Unsaid)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("--go-back"), "{refused}");
    assert_eq!(world.head().await, at, "a refusal changes nothing");

    let back = from("one", SavepointWord::GoBack);
    assert_eq!(run(&world, back.clone()).await, Ok(JobOutcome::Finished));
    let after = world.head().await;
    assert!(after.number > at.number && after.lineage == at.lineage);
    assert_eq!(origin(&after), "savepoints/one");
    let (all, earlier) = (counts(&world.committed()), counts(&before));
    let mut repeated = 0;
    for (window, times) in &all {
        let most = 1 + earlier.get(window).copied().unwrap_or(0);
        assert!(*times <= most, "{window:?} appeared {times} times");
        repeated += usize::from(*times > 1);
    }
    assert!(
        repeated > 0,
        "invalid run: nothing came after the savepoint"
    );
    world.assert_exact_once_deduplicated();

    // The same words again go on: everything is read.
    let (read, number) = (world.committed().len(), after.number);
    assert_eq!(run(&world, back).await, Ok(JobOutcome::Finished));
    assert_eq!(world.committed().len(), read, "it went back a second time");
    assert!(world.head().await.number >= number);
}

fn origin(head: &Head) -> &str {
    head.origin.as_ref().map_or("", |origin| &origin.savepoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_output_is_confirmed_before_a_job_goes_back() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    world.die_pending().await;
    let (pending, before) = (world.head().await, world.committed().len());
    let hook = |step| assert!(step != Step::P7, "killed before the manifest");
    let wish = from("one", SavepointWord::GoBack);
    let died = world.start(Arc::new(hook), wish).ended.await;
    assert!(died.is_err(), "it ran on");
    let confirmed = world.head().await;
    assert_eq!(
        confirmed.number, pending.number,
        "the choice was not made yet"
    );
    assert!(!confirmed.has_pending_output());
    assert!(world.committed().len() > before);
    let back = from("one", SavepointWord::GoBack);
    assert_eq!(run(&world, back).await, Ok(JobOutcome::Finished));
    world.assert_exact_once_deduplicated();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_found_before_a_job_that_goes_back_publishes_the_other_slot() {
    for harm in HARMS {
        let world = World::in_memory();
        with_savepoint(&world, "one").await;
        world.die_pending().await;
        world.harm(&world.log_of(1).await, harm).await;
        let (hook, voided) = counting(Step::P10);
        let back = from("one", SavepointWord::GoBack);
        let ended = crate::job::end_of(world.start(hook, back)).await;
        assert_eq!(ended, Ok(JobOutcome::Finished), "{harm:?}");
        assert_eq!(voided.load(Ordering::Relaxed), 2, "given up by both slots");
        world.assert_exact_once_deduplicated();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_that_nobody_needs_does_not_keep_a_job_from_going_back() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    world.die_pending().await;
    world.commit(0).await;
    world.harm(&world.log_of(0).await, Harm::Flipped).await;
    let back = from("one", SavepointWord::GoBack);
    assert_eq!(run(&world, back).await, Ok(JobOutcome::Finished));
    world.assert_exact_once_deduplicated();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x53_a_moved_savepoint_forks_after_everything_else_is_deleted() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    let old = world.head().await;
    world
        .move_everything("savepoints/one", "archive/2026/kept")
        .await;
    let other = world.elsewhere();
    assert_eq!(
        run(&other, from("archive/2026/kept", SavepointWord::Unsaid)).await,
        Ok(JobOutcome::Finished)
    );
    let forked = other.head().await;
    assert_ne!(forked.lineage, old.lineage);
    assert_eq!(origin(&forked), "archive/2026/kept");
    // What came before the savepoint is not in the fork; what came after it is there once.
    let (records, all) = (other.committed(), counts(&other.committed()));
    assert_eq!(records.len(), all.len(), "a window was counted twice");
    assert!(!records.is_empty());
    let before = counts(&world.committed());
    assert!(all.keys().any(|window| !before.contains_key(window)));
    other.assert_counts_right();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_over_a_job_with_state_leaves_it_behind_once() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    let old = world.head().await;
    let fork = from("one", SavepointWord::Fork);
    assert_eq!(run(&world, fork.clone()).await, Ok(JobOutcome::Finished));
    let forked = world.head().await;
    assert_ne!(forked.lineage, old.lineage);
    let count = world.committed().len();
    assert_eq!(run(&world, fork).await, Ok(JobOutcome::Finished));
    assert_eq!(world.head().await.lineage, forked.lineage);
    assert_eq!(world.committed().len(), count, "it forked a second time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_missing_savepoint_is_refused_by_file_and_changes_nothing() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    let before = world.head().await;
    let missing = run(&world, from("two", SavepointWord::GoBack)).await;
    let missing = missing.unwrap_err();
    assert!(missing.message.contains("savepoints/two"), "{missing}");
    assert_eq!(missing.kind, ErrorKind::Invalid);
    for path in world.files_below("savepoints/one").await {
        let object = ObjectPath::parse(&path).unwrap();
        let whole = world.storage.get(&object).await.unwrap().unwrap().bytes;
        let mut bytes = whole.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        world.storage.put(&object, bytes.into()).await.unwrap();
        for word in [SavepointWord::GoBack, SavepointWord::Fork] {
            let refused = run(&world, from("one", word)).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Corrupt, "{refused}");
            assert!(refused.message.contains("savepoints/one"), "{refused}");
        }
        world.storage.put(&object, whole).await.unwrap();
    }
    assert_eq!(world.head().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_stops_nothing() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    let (hook, _) = counting(Step::P1);
    let handle = world.start(hook, crate::job::RESUME);
    let mut status = handle.status.clone();
    let running = |status: &JobStatus| status.phase.word() == "running";
    status.wait_for(running).await.unwrap();
    let (answer, answered) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode: StopMode::Drain,
        savepoint: Some("one".to_owned()),
    }
    .asked(answer);
    handle.requests.send(stop).await.unwrap();
    let refused = answered.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("another name"), "{refused}");
    let ended = crate::job::end_of(handle).await;
    assert_eq!(ended, Ok(JobOutcome::Finished), "it ran on to its own end");
    world.assert_exact();
}

/// The process dies right before its first, second, ... step of going back to a savepoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_at_any_step_takes_the_savepoint_once() {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    let mut takes = BTreeSet::new();
    for fatal in 1.. {
        let reached = AtomicU64::new(0);
        let hook = move |step| {
            let due = reached.fetch_add(1, Ordering::Relaxed) + 1 == fatal;
            assert!(!due, "the process is killed at {step}, step {fatal}");
        };
        let wish = from("one", SavepointWord::GoBack);
        let died = world.start(Arc::new(hook), wish).ended.await;
        let head = world.head().await;
        takes.extend(head.origin.map(|origin| origin.taken_as));
        if let Ok(ended) = died {
            assert_eq!(ended, Ok(JobOutcome::Finished));
            assert!(fatal > 8, "invalid run: it ended at step {fatal}");
            break;
        }
    }
    assert_eq!(takes.len(), 1, "taken as {takes:?}");
    world.assert_exact_once_deduplicated();
}

/// A world whose newest checkpoint is being given up while the one before it is damaged, too.
async fn given_up_for_a_damaged_one() -> World {
    let world = World::in_memory();
    with_savepoint(&world, "one").await;
    world.die_pending().await;
    let parent = world.manifest().await.parent.unwrap();
    let older = world.store().manifest(&parent).await.unwrap();
    let older = older.files.keys().next().unwrap().clone();
    world.harm(&world.state_file().await, Harm::Flipped).await;
    let hook = |step| assert!(step != Step::P10, "killed before the first void marker");
    assert!(world.dies(Arc::new(hook)).await);
    assert!(world.head().await.giving_up.is_some(), "invalid run");
    world.harm(&older, Harm::Flipped).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_takes_the_place_of_what_is_given_up_although_the_checkpoint_before_is_damaged()
{
    let world = given_up_for_a_damaged_one().await;
    let before = world.head().await;
    let stopped = world.runs(on()).await.unwrap_err();
    assert_eq!(stopped.kind, ErrorKind::Corrupt);
    for part in ["StateDamaged", "`--go-back`", "`--fork`", "`--fresh`"] {
        assert!(stopped.message.contains(part), "{part}: {stopped}");
    }
    // Whoever takes the savepoint dies before each step that is not one of a start, then somebody takes it.
    for fatal in [Step::R5, Step::P10, Step::P7, Step::P8] {
        let hook = move |step| assert!(step != fatal, "killed at {step}");
        let back = from("one", SavepointWord::GoBack);
        let died = world.start(Arc::new(hook), back).ended.await;
        assert!(
            died.is_err_and(|died| died.is_panic()),
            "{fatal}: it ran on"
        );
        let head = world.head().await;
        assert_eq!((head.number, head.origin), (before.number, None), "{fatal}");
        assert!(head.giving_up.is_some(), "{fatal}");
    }
    let (hook, voided) = counting(Step::P10);
    let back = world.start(hook, from("one", SavepointWord::GoBack));
    assert_eq!(crate::job::end_of(back).await, Ok(JobOutcome::Finished));
    assert_eq!(voided.load(Ordering::Relaxed), 0, "they were void by then");
    let after = world.head().await;
    assert_eq!(origin(&after), "savepoints/one");
    assert_eq!(
        (after.lineage, after.giving_up.is_none()),
        (before.lineage, true)
    );
    world.assert_exact_once_deduplicated();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_for_a_damaged_checkpoint_is_left_behind_by_a_fork() {
    let world = given_up_for_a_damaged_one().await;
    let ended = run(&world, from("one", SavepointWord::Fork)).await;
    assert_eq!(ended, Ok(JobOutcome::Finished));
    assert_eq!(world.head().await.giving_up, None);
}
