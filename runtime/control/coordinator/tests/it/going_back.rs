//! *Going back* in whole jobs: any damaged file of the newest checkpoint leads to the one before it with every output
//! once, whenever a process dies on the way; output that is visible is never rewound.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use highwater_coordinator::JobOutcome;
use highwater_protocol::steps::Step;
use highwater_types::ErrorKind;

use crate::damage::{HARMS, Harm, World, counting, on};
use crate::job::{RESUME, end_of};

/// Runs the damaged world and checks that it went back, `voids` slots giving their output up, with exact output.
async fn goes_back(world: &World, voids: u64, what: &str) {
    let before = world.head().await;
    let (hook, voided) = counting(Step::P10);
    let ended = world.runs(hook).await;
    assert_eq!(ended, Ok(JobOutcome::Finished), "{what}");
    assert_eq!(voided.load(Ordering::Relaxed), voids, "{what}");
    let after = world.head().await;
    assert!(after.number > before.number + 1, "{what}: number fell");
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x36_a_damaged_state_file_goes_back() {
    for harm in HARMS {
        let world = World::pending().await;
        world.harm(&world.state_file().await, harm).await;
        goes_back(&world, 2, &format!("state {harm:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x36_a_damaged_sink_log_goes_back_while_nothing_is_visible() {
    for harm in HARMS {
        let world = World::pending().await;
        world.harm(&world.log_of(1).await, harm).await;
        goes_back(&world, 2, &format!("log {harm:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x36_a_damaged_manifest_goes_back_to_the_one_that_head_names_before_it() {
    for harm in HARMS {
        let world = World::pending().await;
        world.harm(&world.manifest_file().await, harm).await;
        goes_back(&world, 2, &format!("manifest {harm:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x36_the_file_sink_goes_back_too() {
    for kind in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let world = World::in_files(folder.path());
        world.die_pending().await;
        let path = match kind {
            0 => world.state_file().await,
            1 => world.log_of(0).await,
            _ => world.manifest_file().await,
        };
        world.harm(&path, Harm::Flipped).await;
        goes_back(&world, 2, path.as_str()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedule_21_with_one_slot_committed_it_stops_and_changes_nothing() {
    let world = World::pending().await;
    world.commit(0).await;
    let (before, path) = (world.head().await, world.state_file().await);
    let whole = world.harm(&path, Harm::Flipped).await;
    for _ in 0..2 {
        let stopped = world.runs(on()).await.unwrap_err();
        assert!(
            stopped.message.contains("PartlyCommitted") && stopped.message.contains("counts/0"),
            "{stopped}"
        );
        assert_eq!(stopped.kind, ErrorKind::Invalid);
        let after = world.head().await;
        assert_eq!(
            (after.number, after.manifest, after.confirmed),
            (before.number, before.manifest, before.confirmed)
        );
        assert_eq!(world.marker(1).await, None, "nothing was given up");
    }
    world.mend(&path, whole).await;
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_cannot_be_read_beside_visible_output_stops_too() {
    let world = World::pending().await;
    world.commit(1).await;
    let path = world.manifest_file().await;
    let whole = world.harm(&path, Harm::Gone).await;
    let stopped = world.runs(on()).await.unwrap_err();
    assert!(stopped.message.contains("PartlyCommitted"), "{stopped}");
    world.mend(&path, whole).await;
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_that_nobody_needs_harms_nobody() {
    let world = World::pending().await;
    world.commit(0).await;
    world.harm(&world.log_of(0).await, Harm::Cut).await;
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_that_is_needed_beside_visible_output_stops_by_name() {
    let world = World::pending().await;
    world.commit(0).await;
    let path = world.log_of(1).await;
    let whole = world.harm(&path, Harm::Gone).await;
    let stopped = world.runs(on()).await.unwrap_err();
    assert!(
        stopped.message.contains("SinkLogDamaged") && stopped.message.contains("counts/1"),
        "{stopped}"
    );
    world.mend(&path, whole).await;
    assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_damaged_checkpoints_stop_before_anything_is_given_up() {
    let world = World::pending().await;
    let newest = world.state_file().await;
    let parent = world.manifest().await.parent.unwrap();
    let older = world.store().manifest(&parent).await.unwrap();
    let older = older.files.keys().next().unwrap().clone();
    world.harm(&newest, Harm::Flipped).await;
    let whole = world.harm(&older, Harm::Flipped).await;
    let stopped = world.runs(on()).await.unwrap_err();
    assert!(stopped.message.contains("StateDamaged"), "{stopped}");
    assert_eq!(stopped.kind, ErrorKind::Corrupt);
    assert_eq!((world.marker(0).await, world.marker(1).await), (None, None));
    world.mend(&older, whole).await;
    goes_back(&world, 2, "the older one is whole again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_marker_in_recovery_finishes_what_an_older_leader_began() {
    let world = World::pending().await;
    for slot in 0..2 {
        world.give_up(slot).await;
    }
    goes_back(&world, 0, "both slots are void already").await;
}

/// Dies right before a step of going back is reached for the `nth` time; the damage is mended before the next start.
async fn dies_and_is_mended(step: Step, nth: u64) -> World {
    let world = World::pending().await;
    let path = world.state_file().await;
    let whole = world.harm(&path, Harm::Flipped).await;
    let reached = AtomicU64::new(0);
    let hook = move |at| {
        let due = at == step && reached.fetch_add(1, Ordering::Relaxed) + 1 == nth;
        assert!(!due, "the process is killed at {step}");
    };
    assert!(world.dies(Arc::new(hook)).await, "invalid run");
    world.mend(&path, whole).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_before_the_choice_has_given_nothing_up() {
    let world = dies_and_is_mended(Step::P8, 1).await;
    assert_eq!(world.head().await.giving_up, None);
    assert_eq!((world.marker(0).await, world.marker(1).await), (None, None));
    let (hook, voided) = counting(Step::P10);
    assert_eq!(world.runs(hook).await, Ok(JobOutcome::Finished));
    assert_eq!(
        voided.load(Ordering::Relaxed),
        0,
        "it went on from the mended file"
    );
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_choice_that_is_in_head_is_carried_out_although_the_damage_is_mended() {
    let after_the_choice = [(Step::P10, 1), (Step::P10, 2), (Step::P7, 1), (Step::P8, 2)];
    for (step, nth) in after_the_choice {
        let what = format!("dies at {step} {nth}");
        let world = dies_and_is_mended(step, nth).await;
        let before = world.head().await;
        let chosen = before.giving_up.as_deref().expect(&what);
        assert_eq!(chosen.given_up, before.manifest, "{what}");
        // One slot was void when it died: the output of the other may not come any more.
        world.give_up(0).await;
        assert_eq!(world.runs(on()).await, Ok(JobOutcome::Finished), "{what}");
        let after = world.head().await;
        assert!(after.number > before.number + 1, "{what}: it went back");
        assert_eq!(after.giving_up, None, "{what}");
        world.assert_exact();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_choice_is_carried_out_although_the_manifest_can_no_longer_be_read() {
    let world = dies_and_is_mended(Step::P10, 1).await;
    let path = world.manifest_file().await;
    world.harm(&path, Harm::Gone).await;
    goes_back(&world, 2, "the manifest is gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_processes_that_go_back_only_the_younger_gives_up() {
    // The older one stands still right before the choice, or right before its first void marker.
    for still in [Step::P8, Step::P10] {
        let world = World::pending().await;
        world.harm(&world.state_file().await, Harm::Flipped).await;
        let (arrived, arrival) = sync_channel(1);
        let (go, gone) = sync_channel::<()>(1);
        let gone = Mutex::new(Some(gone));
        let hook = move |at| {
            let waits = (at == still).then(|| gone.lock().unwrap().take()).flatten();
            if let Some(gone) = waits {
                arrived.send(()).unwrap();
                gone.recv().unwrap();
            }
        };
        let older = world.start(Arc::new(hook), RESUME);
        let arrival = tokio::task::spawn_blocking(move || arrival.recv());
        arrival.await.unwrap().unwrap();
        goes_back(&world, 2, &format!("the older one stands at {still}")).await;
        let head = world.head().await;
        go.send(()).unwrap();
        let deposed = end_of(older).await.unwrap_err();
        assert_eq!(deposed.kind, ErrorKind::Fenced, "{still}: {deposed}");
        assert_eq!(world.head().await, head, "{still}");
        world.assert_exact();
    }
}

/// The process dies right before its first, second, ... step, each time a new one starts on what was left.
async fn dies_at_every_step(world: World) {
    let mut longest = 0;
    for fatal in 1.. {
        let reached = AtomicU64::new(0);
        let hook = move |step| {
            let due = reached.fetch_add(1, Ordering::Relaxed) + 1 == fatal;
            assert!(!due, "the process is killed at {step}, step {fatal}");
        };
        if !world.dies(Arc::new(hook)).await {
            assert!(fatal > 12, "invalid run: it ended at step {fatal}");
            break;
        }
        longest = longest.max(world.head().await.number);
        assert_eq!(longest, world.head().await.number, "the number fell");
    }
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_before_and_after_every_step_of_going_back_changes_no_output() {
    let world = World::pending().await;
    world.harm(&world.state_file().await, Harm::Flipped).await;
    dies_at_every_step(world).await;
    let world = World::pending().await;
    world.harm(&world.manifest_file().await, Harm::Cut).await;
    dies_at_every_step(world).await;
}
