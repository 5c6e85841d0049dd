//! A job on several workers, each with its own slots and its own data plane, in one process: exact without faults, with failing
//! attempts, with workers that die, and with one that is given up and works on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_coordinator::fleet::driver::{FleetHandle, Joined, WorkerLink, start as start_fleet};
use highwater_coordinator::fleet::{HeldPart, Member};
use highwater_coordinator::shape::fleet_shape;
use highwater_coordinator::{
    CoordinatorHandle, CoordinatorSettings, CoordinatorSetup, GoesPast, JobOutcome, JobPhase,
    RescaleWish, Workers,
};
use highwater_network::{DataPlane, LinkSettings};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::JobPaths;
use highwater_protocol::placement::WorkerOffer;
use highwater_protocol::steps::Step;
use highwater_state::Store;
use highwater_storage::ObjectStorage;
use highwater_tls::Wire;
use highwater_types::{JobIdentity, Nonce, StopMode, WorkerIndex};
use highwater_worker::files::JobFiles;
use highwater_worker::{
    Clock, StopHook, SystemClock, WorkerCommand, WorkerHandle, WorkerSettings, WorkerSetup,
};
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use crate::exactly_once::{Faults, World};
use crate::job::{RESUME, end_of, settings, suspend};
use crate::job_end::{FirstEnd, Gated, ask, stop};
use crate::rescale::{asked, on_request, rescale, runs_at, to};

const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A worker of this process, as its fleet speaks to it.
struct Direct(Arc<WorkerHandle>);

impl WorkerLink for Direct {
    fn send(&self, command: WorkerCommand) -> Result<(), String> {
        self.0.send(command);
        Ok(())
    }
}

/// A job with its fleet.
struct Cluster {
    program: JobProgram,
    storage: Arc<dyn ObjectStorage>,
    fleet: FleetHandle,
    seed: u128,
    /// Held as long as the test: the threads of a worker end with its last handle, or with the command to.
    workers: Vec<Crew>,
}

/// A worker of this process.
struct Crew {
    joined: Joined,
    worker: Arc<WorkerHandle>,
    member: Member,
    /// Whom it speaks to, and under which number.
    ear: Arc<Mutex<(FleetHandle, Joined)>>,
}

impl Cluster {
    fn start(world: &World, program: JobProgram, seed: u128) -> (CoordinatorHandle, Self) {
        Self::start_with(world, program, seed, no_hook())
    }

    /// The same, with a hook that is told of each step of the coordinator.
    fn start_with(
        world: &World,
        program: JobProgram,
        seed: u128,
        hook: StopHook,
    ) -> (CoordinatorHandle, Self) {
        let manner = (GoesPast::AnyEnd, hook);
        let (handle, fleet) = lead_as(&world.storage, program.clone(), seed, manner);
        let cluster = Self {
            program,
            storage: Arc::clone(&world.storage),
            fleet,
            seed: seed + 1,
            workers: Vec::new(),
        };
        (handle, cluster)
    }

    /// The coordinator ends as a process that is killed, and another one leads. Its workers come to it as they do after they have lost
    /// the one before, except for those that `comes` leaves out.
    async fn take_over(
        &mut self,
        killed: CoordinatorHandle,
        comes: impl Fn(usize) -> bool,
    ) -> CoordinatorHandle {
        let attempt = killed.status.borrow().attempt;
        killed.ended.abort();
        assert!(killed.ended.await.unwrap_err().is_cancelled());
        self.seed += 1_000;
        let (handle, fleet) = lead(&self.storage, self.program.clone(), self.seed);
        self.fleet = fleet.clone();
        for (at, crew) in self.workers.iter_mut().enumerate() {
            if !comes(at) {
                continue;
            }
            let worker = crew.joined.worker;
            let is_spare = crew.member.offer.name == "spare";
            crew.member.holds = (!is_spare).then_some(HeldPart { attempt, worker });
            crew.joined = crew.join(&fleet).await;
        }
        handle
    }

    /// Starts a worker with so many slots. Its number.
    async fn add(&mut self, name: &str, slots: u32) -> WorkerIndex {
        let plane = DataPlane::bind(HERE, LinkSettings::default(), Wire::Clear)
            .await
            .unwrap();
        let address = plane.address().to_string();
        let job = JobIdentity::parse("test-job").unwrap();
        let (events, told) = mpsc::channel(1_024);
        self.seed += 1;
        let worker = highwater_worker::start(WorkerSetup {
            program: self.program.clone(),
            job: job.clone(),
            settings: WorkerSettings {
                slots,
                state_bytes_max: 1 << 30,
                store_bytes_max: 0,
                spool_bytes_max: 1 << 24,
            },
            clock: Arc::new(SystemClock::new()) as Arc<dyn Clock>,
            files: JobFiles::new(Arc::clone(&self.storage), JobPaths::new(job)),
            rim: tokio::runtime::Handle::current(),
            local: None,
            store: Store::heap(),
            nonces: NonceStream::new(Nonce(self.seed << 32)),
            plane: Some(Arc::new(plane)),
            events,
            stop: Arc::new(|_| {}),
        });
        let worker = Arc::new(worker.unwrap());
        let member = Member {
            offer: WorkerOffer {
                name: name.to_owned(),
                slots,
            },
            address,
            holds: None,
        };
        let mut crew = Crew {
            joined: NOBODY,
            worker,
            member,
            ear: Arc::new(Mutex::new((self.fleet.clone(), NOBODY))),
        };
        crew.joined = crew.join(&self.fleet).await;
        let (mut told, ear) = (told, Arc::clone(&crew.ear));
        std::thread::spawn(move || {
            while let Some(event) = told.blocking_recv() {
                let (fleet, joined) = ear.lock().unwrap().clone();
                fleet.said(joined, event);
            }
        });
        let number = crew.joined.worker;
        self.workers.push(crew);
        number
    }

    /// The worker wants to go: it does once it is told to.
    async fn leave(&self, number: WorkerIndex) {
        let crew = self.workers.iter();
        let crew = crew.map(|crew| crew.joined);
        let joined = crew.into_iter().find(|of| of.worker == number).unwrap();
        let fleet = self.fleet.clone();
        let leaves = move || fleet.leaving(joined);
        tokio::task::spawn_blocking(leaves).await.unwrap();
    }

    /// The worker is gone: for the fleet, and if `dies` also in truth.
    async fn lose(&mut self, number: WorkerIndex, dies: bool) {
        let at = self
            .workers
            .iter()
            .position(|crew| crew.joined.worker == number)
            .unwrap();
        let joined = self.workers[at].joined;
        if dies {
            let crew = self.workers.remove(at);
            crew.worker.send(WorkerCommand::Shutdown);
        }
        let fleet = self.fleet.clone();
        let left = move || fleet.left(joined, "the test says so".to_owned());
        tokio::task::spawn_blocking(left).await.unwrap();
    }
}

/// Before it has joined.
const NOBODY: Joined = Joined {
    worker: WorkerIndex(0),
    serial: 0,
};

impl Crew {
    /// Joins a fleet, and speaks to that from then on.
    async fn join(&self, fleet: &FleetHandle) -> Joined {
        let (fleet, link) = (fleet.clone(), Direct(Arc::clone(&self.worker)));
        let (member, ear) = (self.member.clone(), Arc::clone(&self.ear));
        let joining = tokio::task::spawn_blocking(move || {
            // What the worker tells meanwhile waits until it is known over which connection.
            let mut ear = ear.lock().unwrap();
            let joined = fleet.join(member, Box::new(link), |_| true).unwrap();
            *ear = (fleet, joined);
            joined
        });
        joining.await.unwrap()
    }
}

/// Starts a coordinator with a fleet.
fn lead(
    storage: &Arc<dyn ObjectStorage>,
    program: JobProgram,
    seed: u128,
) -> (CoordinatorHandle, FleetHandle) {
    lead_as(storage, program, seed, (GoesPast::AnyEnd, no_hook()))
}

fn no_hook() -> StopHook {
    Arc::new(|_| {})
}

/// The same, where it goes on only after some ends of the job, with a hook that is told of each step of the coordinator.
fn lead_as(
    storage: &Arc<dyn ObjectStorage>,
    program: JobProgram,
    seed: u128,
    manner: (GoesPast, StopHook),
) -> (CoordinatorHandle, FleetHandle) {
    lead_by(storage, program, seed, (manner, settings()))
}

/// The same, where only what is asked for is a checkpoint.
fn lead_on_request(
    storage: &Arc<dyn ObjectStorage>,
    program: JobProgram,
    seed: u128,
    manner: (GoesPast, StopHook),
) -> (CoordinatorHandle, FleetHandle) {
    lead_by(storage, program, seed, (manner, on_request()))
}

fn lead_by(
    storage: &Arc<dyn ObjectStorage>,
    program: JobProgram,
    seed: u128,
    ((goes_past, hook), settings): ((GoesPast, StopHook), CoordinatorSettings),
) -> (CoordinatorHandle, FleetHandle) {
    let (events, incoming) = mpsc::channel(1_024);
    let passes = NonceStream::new(Nonce(seed));
    let fleet = start_fleet(fleet_shape(&program), passes, events).unwrap();
    let to_join = fleet.handle();
    let handle = highwater_coordinator::start(CoordinatorSetup {
        program,
        job: JobIdentity::parse("test-job").unwrap(),
        settings,
        storage: Arc::clone(storage),
        wish: RESUME,
        goes_past,
        worker: Workers::Fleet(fleet),
        events: incoming,
        end_board: None,
        outlived_max: Some(Duration::from_secs(4)),
        clock: Arc::new(SystemClock::new()),
        seed: Nonce(seed + 1),
        stop: hook,
    });
    (handle, to_join)
}

fn none() -> Arc<Faults> {
    Arc::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_put_out_what_one_would() {
    let world = World::new();
    let (handle, mut cluster) = Cluster::start(&world, world.program(4, &none()), 10);
    cluster.add("a", 2).await;
    cluster.add("b", 2).await;
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_fail_on_one_worker_begin_again_on_all() {
    let world = World::new();
    let faults = Arc::new(Faults {
        every: 3_000,
        ..Faults::default()
    });
    let (handle, mut cluster) = Cluster::start(&world, world.program(3, &faults), 20);
    for name in ["a", "b", "c"] {
        cluster.add(name, 1).await;
    }
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_slots_and_says_so() {
    let world = World::new();
    let (mut handle, mut cluster) = Cluster::start(&world, world.program(3, &none()), 30);
    cluster.add("a", 2).await;
    let waits = handle.status.wait_for(|status| {
        let text = status.waits_for.as_deref().unwrap_or_default();
        text.contains("3 slots are needed, 2 are there")
    });
    let waits = tokio::time::timeout(Duration::from_mins(1), waits).await;
    drop(waits.expect("it says what it waits for").unwrap());
    cluster.add("b", 1).await;
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

/// A job of four subtasks that takes some seconds, once it runs on two workers.
async fn running(world: &World, seed: u128) -> (CoordinatorHandle, Cluster, [WorkerIndex; 2]) {
    let program = world.paced(4, &none(), 8_000.0);
    let (mut handle, mut cluster) = Cluster::start(world, program, seed);
    let workers = [cluster.add("a", 2).await, cluster.add("b", 2).await];
    goes_on(&mut handle).await;
    (handle, cluster, workers)
}

/// Waits until an attempt that has not completed anything yet completes checkpoints.
async fn goes_on(handle: &mut CoordinatorHandle) {
    let before = handle.status.borrow().checkpoints.completed_count;
    let goes_on = handle.status.wait_for(|status| {
        let more = status.checkpoints.completed_count > before + 3;
        let has_ended = matches!(status.phase, JobPhase::Finished | JobPhase::Failed { .. });
        has_ended || (status.phase == JobPhase::Running && more)
    });
    let goes_on = tokio::time::timeout(Duration::from_mins(1), goes_on).await;
    drop(goes_on.expect("the job goes on").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_die_are_replaced_and_nothing_is_lost_or_doubled() {
    let world = World::new();
    let (mut handle, mut cluster, [first, second]) = running(&world, 40).await;
    cluster.lose(second, true).await;
    let third = cluster.add("b", 2).await;
    goes_on(&mut handle).await;
    cluster.lose(first, true).await;
    cluster.add("a", 2).await;
    goes_on(&mut handle).await;
    cluster.lose(third, true).await;
    cluster.add("c", 2).await;
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_given_up_and_works_on_changes_nothing() {
    let world = World::new();
    let (handle, mut cluster, [_, second]) = running(&world, 50).await;
    cluster.lose(second, false).await;
    cluster.add("b", 2).await;
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_with_other_workers_and_another_parallelism() {
    let world = World::new();
    let (handle, _first, _) = running(&world, 60).await;
    suspend(handle).await;
    let (handle, mut cluster) = Cluster::start(&world, world.program(3, &none()), 70);
    for name in ["x", "y", "z"] {
        cluster.add(name, 1).await;
    }
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_die_one_after_another_leave_their_attempt_to_the_next() {
    let world = World::new();
    let (mut handle, mut cluster, _) = running(&world, 80).await;
    let attempt = handle.status.borrow().attempt;
    for _ in 0..4 {
        handle = cluster.take_over(handle, |_| true).await;
        goes_on(&mut handle).await;
        let status = handle.status.borrow();
        assert_eq!(status.attempt, attempt, "nothing began anew");
        assert!(status.failures.last().is_none(), "{:?}", status.failures);
    }
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_come_to_the_new_leader_makes_it_begin_a_new_attempt() {
    let world = World::new();
    let (handle, mut cluster, _) = running(&world, 90).await;
    let attempt = handle.status.borrow().attempt;
    let mut handle = cluster.take_over(handle, |at| at == 0).await;
    // The one that stays away works on: it changes nothing.
    cluster.add("c", 2).await;
    goes_on(&mut handle).await;
    assert!(handle.status.borrow().attempt > attempt);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_a_takeover_fails_the_attempt_that_was_adopted() {
    let world = World::new();
    let (handle, mut cluster, [_, second]) = running(&world, 100).await;
    let attempt = handle.status.borrow().attempt;
    let mut handle = cluster.take_over(handle, |_| true).await;
    goes_on(&mut handle).await;
    cluster.lose(second, true).await;
    cluster.add("b", 2).await;
    goes_on(&mut handle).await;
    assert!(handle.status.borrow().attempt > attempt);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_free_and_come_first_take_no_number_that_the_attempt_needs() {
    let world = World::new();
    let (handle, mut cluster, _) = running(&world, 110).await;
    let attempt = handle.status.borrow().attempt;
    let spare = cluster.workers.len();
    cluster.add("spare", 1).await;
    cluster.workers.rotate_left(spare);
    let mut handle = cluster.take_over(handle, |_| true).await;
    goes_on(&mut handle).await;
    assert_eq!(handle.status.borrow().attempt, attempt);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

/// A worker that only notes what it is told.
struct Ear(SyncSender<WorkerCommand>);

impl WorkerLink for Ear {
    fn send(&self, command: WorkerCommand) -> Result<(), String> {
        self.0.send(command).map_err(|error| error.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_dead_leader_are_told_to_end_by_one_that_finds_the_job_ended() {
    let world = World::new();
    let (handle, _cluster, _) = running(&world, 120).await;
    let attempt = handle.status.borrow().attempt;
    suspend(handle).await;
    let program = world.program(4, &none());
    let manner = (GoesPast::NoEnd, no_hook());
    let (handle, fleet) = lead_as(&world.storage, program, 130, manner);
    // A worker that was not told, and comes a while after the new leader has found the end.
    let mut status = handle.status.clone();
    let found = status.wait_for(|status| status.phase == JobPhase::Stopped);
    drop(found.await.unwrap());
    let (ear, told) = sync_channel(1_024);
    let member = Member {
        offer: WorkerOffer {
            name: "a".to_owned(),
            slots: 2,
        },
        address: HERE.to_string(),
        holds: Some(HeldPart {
            attempt,
            worker: WorkerIndex(0),
        }),
    };
    let join = move || fleet.join(member, Box::new(Ear(ear)), |_| true);
    tokio::task::spawn_blocking(join).await.unwrap().unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
    let told: Vec<_> = told.try_iter().collect();
    assert!(
        matches!(told[..], [WorkerCommand::Shutdown]),
        "it is told to end, and nothing else: {told:?}"
    );
}

/// How far a recovery is that a test waits for.
const NOT_YET: u8 = 0;
const DUE: u8 = 1;
const UNDER_WAY: u8 = 2;

/// Has the copy of the savepoint end at the first session of a recovery, and the first write of the end refused when its state is to be fetched.
fn between(store: &Arc<Gated>, recovery: &Arc<AtomicU8>) -> StopHook {
    let (store, recovery) = (Arc::clone(store), Arc::clone(recovery));
    let (told, copied) = sync_channel(1);
    *store.copied.lock().unwrap() = Some(told);
    let copied = Mutex::new(copied);
    Arc::new(move |step| match (step, recovery.load(Ordering::SeqCst)) {
        (Step::R3, DUE) => {
            recovery.store(UNDER_WAY, Ordering::SeqCst);
            store.copy.add_permits(1);
            let copied = copied.lock().unwrap();
            block_in_place(|| copied.recv_timeout(Duration::from_secs(20)).unwrap());
        }
        (Step::R5, UNDER_WAY) => store.answer.add_permits(1),
        _ => {}
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_recovery_that_meets_the_write_of_the_end_goes_on_if_that_is_refused() {
    let mut world = World::new();
    let store = Gated::before(&mut world.storage, FirstEnd::Refused);
    let recovery = Arc::new(AtomicU8::new(NOT_YET));
    let hook = between(&store, &recovery);
    let program = world.paced(4, &none(), 8_000.0);
    let (mut handle, mut cluster) = Cluster::start_with(&world, program, 140, hook);
    cluster.add("a", 2).await;
    let second = cluster.add("b", 2).await;
    goes_on(&mut handle).await;
    let attempt = handle.status.borrow().attempt;
    let answered = ask(&handle, stop(StopMode::Suspend, Some("one"))).await;
    store.copying.acquire().await.unwrap().forget();
    recovery.store(DUE, Ordering::SeqCst);
    cluster.lose(second, true).await;
    cluster.add("b", 2).await;
    let status = handle.status.clone();
    let answered = tokio::time::timeout(Duration::from_mins(1), answered).await;
    answered.expect("the recovery goes on").unwrap().unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));
    assert_eq!(recovery.load(Ordering::SeqCst), UNDER_WAY, "invalid run");
    assert!(status.borrow().attempt > attempt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescale_waits_for_the_slots_that_it_needs_and_is_given_up_without_them() {
    let world = World::new();
    let (mut handle, mut cluster, _) = running(&world, 150).await;
    let attempt = handle.status.borrow().attempt;
    let at_once = RescaleWish {
        slots_within: Duration::ZERO,
        ..to(6)
    };
    let refused = rescale(&handle, at_once).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("6 slots are needed, 4 are there"),
        "{refused}"
    );
    goes_on(&mut handle).await;
    assert_eq!(
        handle.status.borrow().attempt,
        attempt,
        "it goes on as it was"
    );
    let answered = asked(&handle, to(6)).await;
    cluster.add("c", 2).await;
    answered.await.unwrap().unwrap();
    assert_eq!(runs_at(&handle), 6);
    goes_on(&mut handle).await;
    rescale(&handle, to(2)).await.unwrap();
    assert_eq!(runs_at(&handle), 2);
    assert!(handle.status.borrow().failures.last().is_none());
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_after_a_rescale_leaves_the_attempt_at_its_parallelism_to_the_next() {
    let world = World::new();
    let (handle, mut cluster, _) = running(&world, 160).await;
    rescale(&handle, to(3)).await.unwrap();
    let attempt = handle.status.borrow().attempt;
    let mut handle = cluster.take_over(handle, |_| true).await;
    goes_on(&mut handle).await;
    assert_eq!(
        handle.status.borrow().attempt,
        attempt,
        "nothing began anew"
    );
    assert_eq!(runs_at(&handle), 3);
    rescale(&handle, to(4)).await.unwrap();
    assert_eq!(runs_at(&handle), 4);
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_has_its_tasks_moved_and_no_attempt_fails() {
    let world = World::new();
    let (mut handle, mut cluster, [first, second]) = running(&world, 170).await;
    let attempt = handle.status.borrow().attempt;
    cluster.add("c", 2).await;
    cluster.leave(second).await;
    let elsewhere = handle.status.wait_for(|status| status.attempt > attempt);
    let elsewhere = tokio::time::timeout(Duration::from_mins(1), elsewhere).await;
    drop(elsewhere.expect("it goes on elsewhere").unwrap());
    goes_on(&mut handle).await;
    // Without others the job waits for slots, and goes on when some come.
    cluster.leave(first).await;
    let waits = handle.status.wait_for(|status| {
        let text = status.waits_for.as_deref().unwrap_or_default();
        text.contains("4 slots are needed, 2 are there")
    });
    let waits = tokio::time::timeout(Duration::from_mins(1), waits).await;
    drop(waits.expect("it says what it waits for").unwrap());
    let refused = rescale(&handle, to(2)).await.unwrap_err();
    assert!(refused.to_string().contains("waits for slots"), "{refused}");
    cluster.add("d", 2).await;
    goes_on(&mut handle).await;
    let status = handle.status.borrow().clone();
    assert_eq!((status.restarts, status.failures.last()), (0, None));
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rescale_whose_slots_have_gone_before_its_manifest_is_written_is_given_up() {
    let world = World::new();
    let (reached, held) = (AtomicU8::new(NOT_YET), Arc::new(AtomicU8::new(NOT_YET)));
    let (told, due) = tokio::sync::oneshot::channel();
    let (go_on, goes) = sync_channel::<()>(1);
    let gate = (Mutex::new(Some(told)), Mutex::new(goes), Arc::clone(&held));
    // The first manifest after the rescale was asked for waits until the worker has left.
    let hook: StopHook = Arc::new(move |step| {
        let (told, goes, held) = &gate;
        let is_first = || reached.swap(UNDER_WAY, Ordering::SeqCst) == NOT_YET;
        if step == Step::P7 && held.load(Ordering::SeqCst) == DUE && is_first() {
            told.lock().unwrap().take().unwrap().send(()).unwrap();
            let goes = goes.lock().unwrap();
            block_in_place(|| goes.recv_timeout(Duration::from_secs(20)).unwrap());
        }
    });
    let program = world.paced(2, &none(), 8_000.0);
    let manner = (GoesPast::AnyEnd, hook);
    let (handle, fleet) = lead_on_request(&world.storage, program.clone(), 180, manner);
    let mut cluster = Cluster {
        program,
        storage: Arc::clone(&world.storage),
        fleet,
        seed: 181,
        workers: Vec::new(),
    };
    cluster.add("a", 2).await;
    let mut status = handle.status.clone();
    let runs = status.wait_for(|status| status.phase == JobPhase::Running);
    drop(runs.await.unwrap());
    let attempt = handle.status.borrow().attempt;
    // It runs no share of the attempt.
    let spare = cluster.add("b", 2).await;
    held.store(DUE, Ordering::SeqCst);
    let answered = asked(&handle, to(4)).await;
    due.await.unwrap();
    cluster.leave(spare).await;
    // What is asked of the fleet is done in order.
    cluster.add("c", 1).await;
    go_on.send(()).unwrap();
    let refused = answered.await.unwrap().unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("4 slots are needed, 3 are there any more"),
        "{refused}"
    );
    assert_eq!(
        (runs_at(&handle), handle.status.borrow().attempt),
        (2, attempt)
    );
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Finished));
    world.assert_exact();
}
