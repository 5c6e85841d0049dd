//! A stop with a savepoint whose process dies before the copy: the next start makes the savepoint, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use highwater_coordinator::{JobOutcome, JobRequest, JobStatus, SavepointWish, SnapshotWish, Wish};
use highwater_protocol::export::exported;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::SavepointPaths;
use highwater_protocol::recovery::{SavepointWord, TakeAgain};
use highwater_protocol::steps::Step;
use highwater_storage::{FileDigest, ObjectPath, get_verified};
use highwater_types::{ErrorKind, StopMode};
use tokio::sync::oneshot;

use crate::damage::{Harm, World, on};
use crate::job::{RESUME, end_of};
use crate::savepoint::{from, with_savepoint};
use crate::second_look::{Lie, Unsteady};

fn place() -> SavepointPaths {
    SavepointPaths::parse("savepoints", "one").unwrap()
}

/// Whether the step is one of the copy.
fn of_the_copy(step: Step) -> bool {
    Step::SAVEPOINT.contains(&step)
}

/// Stops with savepoint `one` once a checkpoint is complete; the process dies right before the `fatal`th step after it
/// was told, of those that `counts` counts. `false` = it ended before.
async fn dies_stopping(
    world: &World,
    mode: StopMode,
    counts: fn(Step) -> bool,
    fatal: u64,
) -> bool {
    let (armed, reached) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
    let of_hook = Arc::clone(&armed);
    let hook = move |step| {
        let counts = of_hook.load(Ordering::SeqCst) && counts(step);
        let due = counts && reached.fetch_add(1, Ordering::SeqCst) + 1 == fatal;
        assert!(!due, "the process is killed at {step}, step {fatal}");
    };
    let handle = world.slowly(|| world.start(Arc::new(hook), RESUME));
    let mut status = handle.status.clone();
    let running = |status: &JobStatus| {
        status.phase.word() == "running" && status.checkpoints.completed_count > 0
    };
    status.wait_for(running).await.unwrap();
    let (answer, _answered) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode,
        savepoint: Some("one".to_owned()),
    }
    .asked(answer);
    handle.requests.send(stop).await.unwrap();
    let stopping = |status: &JobStatus| status.phase.word() == "stopping";
    status.wait_for(stopping).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    match handle.ended.await {
        Err(error) => error.is_panic(),
        // What copies is a task of its own: its end ends the job.
        Ok(Err(failure)) => {
            assert!(failure.message.contains("killed at X"), "{failure}");
            true
        }
        Ok(Ok(ended)) => {
            assert_eq!(ended, JobOutcome::Stopped);
            false
        }
    }
}

/// A world whose newest checkpoint was taken for savepoint `one`, which is not there: the process died before the first
/// file was copied.
async fn owing(mode: StopMode) -> World {
    let world = World::in_memory();
    assert!(dies_stopping(&world, mode, of_the_copy, 1).await);
    assert!(owes(&world).await.is_some());
    world
}

/// The manifest of `head`, if its savepoint is not there.
async fn owes(world: &World) -> Option<Manifest> {
    let manifest = world.manifest().await;
    let is_asked = manifest.savepoint.as_deref() == Some("one");
    (is_asked && savepoint(world).await.is_none()).then_some(manifest)
}

async fn savepoint(world: &World) -> Option<Manifest> {
    let path = ObjectPath::parse(&place().manifest()).unwrap();
    let found = world.storage.get(&path).await.unwrap()?;
    Some(Manifest::decode(&found.bytes).unwrap())
}

/// The savepoint is the one of `checkpoint`, whole to the last byte.
async fn assert_complete(world: &World, checkpoint: &Manifest) {
    let found = savepoint(world).await.expect("the savepoint is there");
    assert_eq!(found, exported(checkpoint));
    for (path, entry) in &found.files {
        let object = ObjectPath::parse(&place().object(path)).unwrap();
        let digest = FileDigest {
            length: entry.length,
            checksum: entry.checksum.0,
        };
        let whole = get_verified(world.storage.as_ref(), &object, digest).await;
        whole.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// A job that forks from it runs to its end.
async fn forks(world: &World) {
    let wish = Wish::Savepoint(SavepointWish {
        place: place(),
        word: SavepointWord::Fork,
        again: TakeAgain::No,
    });
    let ended = end_of(world.elsewhere().start(on(), wish)).await;
    assert_eq!(ended, Ok(JobOutcome::Finished));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_stop_that_dies_at_any_step_has_its_savepoint_after_the_next_start() {
    for fatal in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let world = World::in_files(folder.path());
        if !dies_stopping(&world, StopMode::Drain, |_| true, fatal).await {
            assert!(fatal > 4, "invalid run: it ended at step {fatal}");
            break;
        }
        let checkpoint = world.manifest().await;
        if !checkpoint.drained {
            // The stop was not complete: nothing was promised.
            assert_eq!(checkpoint.savepoint, None);
            continue;
        }
        is_made_once(&world, &checkpoint).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_dies_before_any_file_or_its_manifest_is_made_once() {
    for fatal in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let world = World::in_files(folder.path());
        let died = dies_stopping(&world, StopMode::Drain, of_the_copy, fatal).await;
        let checkpoint = world.manifest().await;
        // Once for each file, and once for the manifest.
        let steps = checkpoint.files.len() as u64 + 1;
        assert_eq!(died, fatal <= steps, "step {fatal} of {steps}");
        if !died {
            assert!(steps > 2, "invalid run: {steps}");
            assert_complete(&world, &checkpoint).await;
            break;
        }
        assert_eq!(owes(&world).await.as_ref(), Some(&checkpoint));
        let made = world.files_below("savepoints").await.len() as u64;
        assert_eq!(made, fatal - 1, "what was copied before");
        is_made_once(&world, &checkpoint).await;
    }
}

/// The next start makes the savepoint, the one after it nothing.
async fn is_made_once(world: &World, checkpoint: &Manifest) {
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
    assert_complete(world, checkpoint).await;
    assert!(!world.head().await.has_pending_output());
    let before = world.files_below("savepoints").await;
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
    assert_eq!(world.files_below("savepoints").await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_broke_off_after_any_file_is_finished() {
    let world = owing(StopMode::Drain).await;
    let checkpoint = world.manifest().await;
    let files: Vec<_> = checkpoint.files.keys().cloned().collect();
    assert!(files.len() > 1, "invalid run: {files:?}");
    for copied in 0..=files.len() {
        for (at, path) in files.iter().take(copied).enumerate() {
            let from = world.store().object(path).unwrap();
            let mut bytes = world.storage.get(&from).await.unwrap().unwrap().bytes;
            if at + 1 == copied {
                // The last one of a store that does not write whole objects.
                bytes.truncate(bytes.len() / 2);
            }
            let to = ObjectPath::parse(&place().object(path)).unwrap();
            world.storage.put(&to, bytes).await.unwrap();
        }
        assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
        assert_complete(&world, &checkpoint).await;
        if copied == files.len() {
            break;
        }
        let made = world.files_below("savepoints").await;
        let made = made.iter().map(|path| ObjectPath::parse(path).unwrap());
        let made: Vec<_> = made.collect();
        world.storage.delete_many(&made).await.unwrap();
    }
    forks(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_heard_while_the_copy_waits_for_the_store() {
    let mut world = owing(StopMode::Drain).await;
    let checkpoint = world.manifest().await;
    let steady = Arc::clone(&world.storage);
    let path = checkpoint.files.keys().next().unwrap().clone();
    Unsteady::before(&mut world, &path, vec![Lie::Silent; 1_000]);
    let handle = world.start(on(), RESUME);
    let mut status = handle.status.clone();
    let waits = |status: &JobStatus| {
        let waits = status.waits_for.as_deref();
        waits.is_some_and(|waits| waits.contains("savepoints/one"))
    };
    status.wait_for(waits).await.unwrap();
    let (answer, answered) = oneshot::channel();
    let asked = SnapshotWish::Checkpoint.asked(answer);
    handle.requests.send(asked).await.unwrap();
    let refused = answered.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("drained"), "{refused}");
    handle.requests.send(JobRequest::Cancel).await.unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Cancelled));
    assert_eq!(savepoint(&world).await, None);
    world.storage = steady;
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
    assert_complete(&world, &checkpoint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_job_makes_its_savepoint_and_reads_on() {
    let world = owing(StopMode::Suspend).await;
    let checkpoint = world.manifest().await;
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
    assert_complete(&world, &checkpoint).await;
    assert!(world.head().await.number > checkpoint.id.number);
    forks(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_somebody_else_has_taken_meanwhile_is_told_and_not_touched() {
    let other: &[u8] = b"a savepoint of somebody else";
    for mode in [StopMode::Drain, StopMode::Suspend] {
        let world = owing(mode).await;
        let (head, path) = (world.head().await, place().manifest());
        let path = ObjectPath::parse(&path).unwrap();
        world.storage.put(&path, other.into()).await.unwrap();
        let ended = world.runs(on()).await;
        let found = world.storage.get(&path).await.unwrap().unwrap().bytes;
        assert_eq!(found.as_ref(), other);
        if mode == StopMode::Suspend {
            assert_eq!(ended, Ok(JobOutcome::Finished), "it was told to read on");
            continue;
        }
        let refused = ended.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
        for part in ["savepoints/one", "out of the way"] {
            assert!(refused.message.contains(part), "{refused}");
        }
        assert_eq!(world.head().await.manifest, head.manifest);
        world.storage.delete_many(&[path]).await.unwrap();
        assert_eq!(world.runs(on()).await, Ok(JobOutcome::Stopped));
        assert_complete(&world, &world.manifest().await).await;
    }
}

/// A world that can go back to savepoint `zero` while its newest checkpoint owes savepoint `one`.
async fn owing_before_going_back() -> (World, Wish) {
    let world = World::in_memory();
    with_savepoint(&world, "zero").await;
    assert!(dies_stopping(&world, StopMode::Suspend, of_the_copy, 1).await);
    assert!(owes(&world).await.is_some(), "invalid run");
    (world, from("zero", SavepointWord::GoBack))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_goes_back_by_its_users_will_makes_the_savepoint_that_it_owes_first() {
    let (world, back) = owing_before_going_back().await;
    let checkpoint = world.manifest().await;
    let hook = |step| assert!(step != Step::P7, "killed before it goes back");
    let died = world.start(Arc::new(hook), back.clone()).ended.await;
    assert!(died.is_err_and(|died| died.is_panic()), "it ran on");
    assert_complete(&world, &checkpoint).await;
    assert_eq!(world.head().await.number, checkpoint.id.number);
    let ended = end_of(world.start(on(), back)).await;
    assert_eq!(ended, Ok(JobOutcome::Finished));
    assert_complete(&world, &checkpoint).await;
    forks(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_does_not_go_back_over_a_savepoint_whose_name_is_taken() {
    let (world, back) = owing_before_going_back().await;
    let checkpoint = world.manifest().await;
    let path = ObjectPath::parse(&place().manifest()).unwrap();
    let other: &[u8] = b"a savepoint of somebody else";
    world.storage.put(&path, other.into()).await.unwrap();
    let refused = end_of(world.start(on(), back.clone())).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid, "{refused}");
    for part in ["savepoints/one", "out of the way"] {
        assert!(refused.message.contains(part), "{refused}");
    }
    assert_eq!(world.manifest().await, checkpoint, "it went back");
    world.storage.delete_many(&[path]).await.unwrap();
    let ended = end_of(world.start(on(), back)).await;
    assert_eq!(ended, Ok(JobOutcome::Finished));
    assert_complete(&world, &checkpoint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_that_can_never_be_made_does_not_keep_a_job_from_going_back() {
    let (world, back) = owing_before_going_back().await;
    world.harm(&world.state_file().await, Harm::Flipped).await;
    let ended = end_of(world.start(on(), back)).await;
    assert_eq!(ended, Ok(JobOutcome::Finished));
    assert_eq!(savepoint(&world).await, None);
}
