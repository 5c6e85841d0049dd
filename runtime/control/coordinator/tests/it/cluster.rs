//! A job on several workers, each with its own slots and its own data plane, in one process: exact without faults, with failing
//! attempts, with workers that die, and with one that is given up and works on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_coordinator::fleet::Member;
use highwater_coordinator::fleet::driver::{FleetHandle, WorkerLink, start as start_fleet};
use highwater_coordinator::shape::fleet_shape;
use highwater_coordinator::{CoordinatorHandle, CoordinatorSetup, JobOutcome, JobPhase, Workers};
use highwater_network::{DataPlane, LinkSettings};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::JobPaths;
use highwater_protocol::placement::WorkerOffer;
use highwater_state::Store;
use highwater_storage::ObjectStorage;
use highwater_tls::Wire;
use highwater_types::{JobIdentity, Nonce, WorkerIndex};
use highwater_worker::files::JobFiles;
use highwater_worker::{
    Clock, SystemClock, WorkerCommand, WorkerHandle, WorkerSettings, WorkerSetup,
};
use tokio::sync::mpsc;

use crate::exactly_once::{Faults, World};
use crate::job::{RESUME, end_of, settings, suspend};

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
    workers: Vec<(WorkerIndex, Arc<WorkerHandle>)>,
}

impl Cluster {
    fn start(world: &World, program: JobProgram, seed: u128) -> (CoordinatorHandle, Self) {
        let (events, incoming) = mpsc::channel(1_024);
        let passes = NonceStream::new(Nonce(seed));
        let fleet = start_fleet(fleet_shape(&program), passes, events).unwrap();
        let cluster = Self {
            program: program.clone(),
            storage: Arc::clone(&world.storage),
            fleet: fleet.handle(),
            seed: seed + 1,
            workers: Vec::new(),
        };
        let handle = highwater_coordinator::start(CoordinatorSetup {
            program,
            job: JobIdentity::parse("test-job").unwrap(),
            settings: settings(),
            storage: Arc::clone(&world.storage),
            wish: RESUME,
            worker: Workers::Fleet(fleet),
            events: incoming,
            clock: Arc::new(SystemClock::new()),
            seed: Nonce(seed + 1),
            stop: Arc::new(|_| {}),
        });
        (handle, cluster)
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
        };
        let (fleet, link) = (self.fleet.clone(), Direct(Arc::clone(&worker)));
        let joining = tokio::task::spawn_blocking(move || {
            let number = fleet.join(member, Box::new(link), |_| true).unwrap();
            (fleet, number)
        });
        let (fleet, number) = joining.await.unwrap();
        let mut told = told;
        std::thread::spawn(move || {
            while let Some(event) = told.blocking_recv() {
                fleet.said(number, event);
            }
        });
        self.workers.push((number, worker));
        number
    }

    /// The worker is gone: for the fleet, and if `dies` also in truth.
    async fn lose(&mut self, number: WorkerIndex, dies: bool) {
        let at = self
            .workers
            .iter()
            .position(|(of, _)| *of == number)
            .unwrap();
        if dies {
            let (_, worker) = self.workers.remove(at);
            worker.send(WorkerCommand::Shutdown);
        }
        let fleet = self.fleet.clone();
        let left = move || fleet.left(number, "the test says so".to_owned());
        tokio::task::spawn_blocking(left).await.unwrap();
    }
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
