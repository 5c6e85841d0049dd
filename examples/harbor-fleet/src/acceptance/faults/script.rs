//! How each experiment is played: kills, freezes, cuts, elections. What changes the job, its load or its certificates lies in
//! [`super::changes`].
//!
//! Every script has the same shape: the processes begin, one of them freezes right before a step, the fault is made, the frozen one
//! goes on or is killed, the fault heals, and output that was written after it is waited for.

use std::time::Duration;

use highwater_protocol::steps::Step;

use super::arming::{Arming, Role, freeze_at};
use super::catalogue::{Play, Way, Who};
use super::changes;
use super::cut::{Cut, Partition, between, one_way, resets, service};
use super::fleet::{FIRST, Fleet, Halt, PATIENCE, SECOND};
use super::machine::Machine;
use super::spans::{Span, Times};

/// The exit code of a leader that another has followed.
const FENCED: i32 = 4;
/// A leader that wakes learns within this time that it is none any more.
const FENCED_WITHIN: Duration = Duration::from_secs(30);

/// Plays a run, up to the point at which everything has recovered.
pub(super) fn play(fleet: &mut Fleet<'_>, play: Play) -> Result<(), Halt> {
    match play {
        Play::Kill(who, step) => kill(fleet, who, step),
        Play::Recovery(step) => recovery(fleet, step),
        Play::FreezeLeader(step) => freeze_leader(fleet, step),
        Play::FreezeWorker(step) => freeze_worker(fleet, step),
        Play::LateCommit(step) => late_commit(fleet, step),
        Play::CutControl(step) => cut_control(fleet, step),
        Play::CutStore(step) => cut_store(fleet, step),
        Play::OneWay(way, step) => one_direction(fleet, way, step),
        Play::CutLink(step) => link(fleet, step, (between, Span::Partition)),
        Play::ResetLink(step) => link(fleet, step, (resets, Span::Reset)),
        Play::Candidates => candidates(fleet),
        Play::Rescale(who, step) => changes::rescale(fleet, who, step),
        Play::Parallelisms => changes::parallelisms(fleet),
        Play::OutOfMemory(step) => changes::out_of_memory(fleet, step),
        Play::Starved(step) => changes::starved(fleet, step),
        Play::Blocked => changes::blocked(fleet),
        Play::HotKey(step) | Play::Wide(step) => kill(fleet, Who::Worker, step),
        Play::Panic(place) => changes::panics(fleet, place),
        Play::Rotate => changes::rotate(fleet),
        Play::Stranger => changes::stranger(fleet),
    }
}

/// Has somebody freeze right before a step, where the fault begins.
pub(super) fn begin_at(fleet: &mut Fleet<'_>, step: Step) -> Result<Machine, Halt> {
    let arming = Arming::at(step, &mut fleet.random);
    fleet.begin(&arming)?;
    let caught = fleet.catch(Role::of(step))?;
    fleet.hit()?;
    Ok(caught)
}

/// The worker that a fault meets: the one that froze, or one that runs tasks.
pub(super) fn victim(fleet: &mut Fleet<'_>, caught: Machine) -> Result<Machine, Halt> {
    if Role::Worker.is_at(caught) {
        return Ok(caught);
    }
    fleet.busy_other_than(caught)
}

/// The coordinator that leads: the one that froze, or the one that holds the lease.
pub(super) fn leader(fleet: &Fleet<'_>, caught: Machine) -> Result<Machine, Halt> {
    if Role::Coordinator.is_at(caught) {
        return Ok(caught);
    }
    let nobody = || Halt::invalid("nobody led at the fault");
    fleet.leader().ok_or_else(nobody)
}

fn kill(fleet: &mut Fleet<'_>, who: Who, step: Step) -> Result<(), Halt> {
    let caught = begin_at(fleet, step)?;
    let victims = match who {
        Who::Leader => vec![leader(fleet, caught)?],
        Who::Worker => vec![victim(fleet, caught)?],
        Who::Workers => fleet.living_as(Role::Worker),
        Who::All => fleet.living(),
    };
    for victim in &victims {
        fleet.kill(*victim)?;
    }
    if !victims.contains(&caught) {
        fleet.thaw(caught)?;
    }
    fleet.replace(&victims)?;
    fleet.recovered()
}

/// A coordinator is killed at a step of its recovery, then the one that follows it, and so on; the last one goes on.
fn recovery(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    fleet.begin_running(&Arming::second_at(step))?;
    fleet.hit()?;
    // Without one of its workers the attempt cannot be taken over: the next leader has to recover.
    let lost = fleet.busy_other_than(FIRST)?;
    fleet.kill(lost)?;
    let (mut leads, mut next) = (FIRST, SECOND);
    let times = fleet.pace.times(Times::Recoveries);
    for time in 1..=times {
        fleet.kill(leads)?;
        let caught = fleet.catch(Role::Coordinator)?;
        if caught != next {
            return Err(Halt::Invalid(format!("{caught} froze, and {next} was to")));
        }
        if time == 1 {
            fleet.start(lost, None)?;
        }
        let stop_at = (time < times).then(|| freeze_at(step));
        fleet.start(leads, stop_at.as_deref())?;
        (leads, next) = (next, leads);
    }
    fleet.thaw(leads)?;
    fleet.recovered()
}

fn freeze_leader(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    let old = begin_at(fleet, step)?;
    let epoch = fleet.chain.epoch();
    fleet.pass(Span::FrozenCoordinator)?;
    if fleet.chain.epoch() <= epoch {
        return Err(Halt::invalid(
            "nobody led in the place of the frozen leader before it woke",
        ));
    }
    fleet.let_end(old);
    fleet.thaw(old)?;
    let ended = fleet.wait_at_most(FENCED_WITHIN, |fleet| Ok(fleet.end_of(old).is_some()))?;
    let code = fleet.end_of(old).and_then(|status| status.code());
    if !ended || code != Some(FENCED) {
        let text = format!("O6: the old leader ended with {code:?}, and {FENCED} is due");
        fleet.wrong.push(text);
    }
    if ended {
        fleet.start(old, None)?;
    }
    fleet.recovered()
}

fn freeze_worker(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    let frozen = begin_at(fleet, step)?;
    fleet.pass(Span::FrozenWorker)?;
    if !fleet.has_new_output()? {
        return Err(Halt::invalid(
            "its tasks did not go on elsewhere before it woke",
        ));
    }
    fleet.thaw(frozen)?;
    fleet.recovered()
}

/// A worker freezes before it ends a transaction, and ends it while another session is opened or read in its place.
fn late_commit(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    const CHECKPOINT: u64 = 4;
    // The recovery comes behind the checkpoint at which the worker freezes.
    let leader = Arming::leader_at(step, CHECKPOINT - 1);
    let arming = Arming::workers_at(Step::P10, CHECKPOINT, &mut fleet.random).and_leader(leader);
    fleet.begin(&arming)?;
    let worker = fleet.catch(Role::Worker)?;
    fleet.hit()?;
    let leader = fleet.catch(Role::Coordinator)?;
    fleet.thaw(worker)?;
    fleet.pass(Span::LateCommit)?;
    fleet.thaw(leader)?;
    fleet.recovered()
}

/// Lets the frozen one go on under cuts, and heals them after a while. Cuts that met nothing make the run invalid.
fn under(
    fleet: &mut Fleet<'_>,
    partition: Partition,
    (frozen, span): (Machine, Span),
) -> Result<(), Halt> {
    fleet.thaw(frozen)?;
    fleet.pass(span)?;
    let met = partition.heal()?;
    fleet.notes.push(format!("{met} packets met the cut"));
    if met == 0 {
        return Err(Halt::invalid("the cut met no packet"));
    }
    Ok(())
}

/// All that a worker and coordinators say to each other.
fn control(fleet: &Fleet<'_>, worker: Machine) -> Vec<Cut> {
    let coordinators = fleet.living_as(Role::Coordinator);
    let cuts = coordinators.into_iter().map(|one| between(worker, one));
    cuts.flatten().collect()
}

fn cut_control(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    let caught = begin_at(fleet, step)?;
    let worker = victim(fleet, caught)?;
    let partition = fleet.cut(control(fleet, worker))?;
    under(fleet, partition, (caught, Span::Partition))?;
    fleet.recovered()
}

fn one_direction(fleet: &mut Fleet<'_>, way: Way, step: Step) -> Result<(), Halt> {
    let caught = begin_at(fleet, step)?;
    let worker = victim(fleet, caught)?;
    let coordinators = fleet.living_as(Role::Coordinator);
    let cuts = coordinators.into_iter().map(|coordinator| match way {
        Way::ToWorker => one_way(coordinator, worker),
        Way::ToCoordinator => one_way(worker, coordinator),
    });
    let partition = fleet.cut(cuts)?;
    under(fleet, partition, (caught, Span::Partition))?;
    fleet.recovered()
}

fn cut_store(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    let caught = begin_at(fleet, step)?;
    let worker = victim(fleet, caught)?;
    let partition = fleet.cut(service(worker, fleet.ground.s3_port()?))?;
    under(fleet, partition, (caught, Span::Partition))?;
    let status = fleet.status().unwrap_or_default();
    let restarts = status["restarts"].as_u64().unwrap_or(0);
    match status["checkpoints"]["last_failure"].as_str() {
        Some(told) => {
            fleet.notes.push(format!("O11: {told}"));
            if !told.contains("task") {
                let text = format!("O11: the failure of a checkpoint names no task: {told}");
                fleet.wrong.push(text);
            }
        }
        None if restarts > 0 => fleet.notes.push("O11: the attempt failed".to_owned()),
        None => return Err(Halt::invalid("no checkpoint failed of it")),
    }
    fleet.recovered()
}

/// What is cut between two machines.
type CutsBetween = fn(Machine, Machine) -> [Cut; 2];

/// Cuts the link between two workers that run tasks.
fn link(fleet: &mut Fleet<'_>, step: Step, (cuts, span): (CutsBetween, Span)) -> Result<(), Halt> {
    let caught = begin_at(fleet, step)?;
    let worker = victim(fleet, caught)?;
    let other = fleet.busy_other_than(worker)?;
    let partition = fleet.cut(cuts(worker, other))?;
    under(fleet, partition, (caught, span))?;
    fleet.recovered()
}

/// All coordinators die, and all of them and one more start at once, again and again.
fn candidates(fleet: &mut Fleet<'_>) -> Result<(), Halt> {
    const ALL: [Machine; 3] = [FIRST, SECOND, Machine::Coordinator(3)];
    fleet.begin_running(&Arming::none())?;
    for _ in 0..fleet.pace.times(Times::Elections) {
        let before = fleet.chain.epoch();
        fleet.hit()?;
        for machine in ALL {
            fleet.kill(machine)?;
        }
        for machine in ALL {
            fleet.start(machine, None)?;
        }
        fleet.wait("one of three candidates leads", PATIENCE, |fleet| {
            Ok(fleet.chain.epoch() > before)
        })?;
        fleet.recovered()?;
        let (epoch, living) = (fleet.chain.epoch(), fleet.living_as(Role::Coordinator));
        if living.len() < ALL.len() {
            return Err(Halt::invalid("a candidate ended before another led"));
        }
        if epoch != before + 1 {
            let text = format!("O6: {} epochs for one generation", epoch - before);
            fleet.wrong.push(text);
        }
    }
    Ok(())
}
