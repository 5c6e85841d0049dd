//! How the other experiments are played: those that change the parallelism of the job, what its processes are bound by, its load, its
//! own code or its certificates.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use highwater_protocol::steps::Step;
use highwater_testkit::{ControlGroup, TestbedError};

use super::arming::{Arming, Role};
use super::catalogue::Who;
use super::certificates::Certificates;
use super::conditions::{FEW_GROUPS, INTERVAL, PARALLELISM, WORKER_BYTES};
use super::cut::{resets, service};
use super::fleet::{FIRST, Fleet, Halt, PATIENCE};
use super::machine::Machine;
use super::process::Process;
use super::script::{begin_at, leader, victim};
use super::spans::Span;

/// The parallelism that is wanted in X50.
const RESCALED: u32 = 2;
/// So often a leader is asked to change a setting: it may be followed by another meanwhile.
const CHANGES_MAX: u32 = 5;
/// How much of a processor a starved coordinator has, in percent.
const STARVED_PERCENT: u64 = 5;
/// Room in a group for what its process asks for until the bound is met.
const ROOM_BYTES: u64 = 4 << 20;
/// A worker holds at most so much of its bound as memory of its own, in percent.
const HELD_PERCENT_MAX: u64 = 90;
/// Something is met within this time, or not at all.
const MET_WITHIN: Duration = Duration::from_secs(30);
/// Eats memory in a group, where the kernel ends everybody else first.
const HOG: &str = r#"echo $$ > "$1" && echo -1000 > /proc/$$/oom_score_adj && exec tail /dev/zero"#;

/// How wide the job runs: its widest task.
fn parallelism(fleet: &Fleet<'_>) -> Option<u64> {
    let graph = fleet.ask(fleet.leader()?, "/v1/graph")?;
    let tasks = graph["tasks"].as_array()?.iter();
    tasks.filter_map(|task| task["parallelism"].as_u64()).max()
}

/// Waits until the job tells how wide it runs, and returns that.
fn told_parallelism(fleet: &mut Fleet<'_>) -> Result<u64, Halt> {
    let mut told = None;
    fleet.wait("the job tells its parallelism", PATIENCE, |fleet| {
        told = parallelism(fleet);
        Ok(told.is_some())
    })?;
    Ok(told.unwrap_or_default())
}

/// A rescale loses somebody at a step; the job ends at what it had or at what was wanted.
pub(super) fn rescale(fleet: &mut Fleet<'_>, who: Who, step: Step) -> Result<(), Halt> {
    // No checkpoint comes by itself: the first one is that of the rescale.
    fleet.begin(&Arming::at_first(step))?;
    records_flow(fleet)?;
    fleet.pass(Span::Down)?;
    let wanted = RESCALED.to_string();
    let words: [&str; 3] = ["rescale", "--parallelism", &wanted];
    let mut command = fleet.spec.call(FIRST, &words)?;
    let caught = fleet.catch(Role::of(step))?;
    if command.ended()?.is_some() {
        return Err(Halt::invalid("the rescale was answered before the fault"));
    }
    fleet.hit()?;
    let lost = match who {
        Who::Leader | Who::Workers | Who::All => leader(fleet, caught)?,
        Who::Worker => victim(fleet, caught)?,
    };
    fleet.kill(lost)?;
    if lost != caught {
        fleet.thaw(caught)?;
    }
    let interval = fleet.pace.setting(Span::CheckpointInterval);
    fleet.spec.set(INTERVAL, &interval);
    fleet.replace(&[lost])?;
    take_checkpoints(fleet, &interval)?;
    fleet.recovered()?;
    let told = told_parallelism(fleet)?;
    fleet.notes.push(format!("ended at parallelism {told}"));
    if ![PARALLELISM, RESCALED].map(u64::from).contains(&told) {
        let text =
            format!("X50: the job runs at {told}, neither at what it had nor at what was wanted");
        fleet.wrong.push(text);
    }
    Ok(())
}

/// Waits until records flow.
fn records_flow(fleet: &mut Fleet<'_>) -> Result<(), Halt> {
    fleet.wait("records flow", PATIENCE, |fleet| {
        let status = fleet.status();
        Ok(status.is_some_and(|status| status["phase"] == "running"))
    })
}

/// Has the leader, whichever it is by now, take checkpoints by itself.
fn take_checkpoints(fleet: &mut Fleet<'_>, interval: &str) -> Result<(), Halt> {
    let change = format!("checkpoint.interval={interval}");
    for _ in 0..CHANGES_MAX {
        records_flow(fleet)?;
        let leader = fleet.leader().context("nobody leads")?;
        if fleet.run(leader, &["config", &change])? {
            return Ok(());
        }
    }
    Err(anyhow!("the interval of checkpoints could not be changed; see commands.log").into())
}

/// One subtask, more subtasks than keys, as many as key groups, and back, one after another while records flow.
pub(super) fn parallelisms(fleet: &mut Fleet<'_>) -> Result<(), Halt> {
    fleet.begin_running(&Arming::none())?;
    for wanted in [1, FEW_GROUPS, RESCALED] {
        fleet.hit()?;
        let leader = fleet.leader().context("nobody leads")?;
        let text = wanted.to_string();
        if !fleet.run(leader, &["rescale", "--parallelism", &text])? {
            return Err(anyhow!("the rescale to {wanted} was refused; see commands.log").into());
        }
        fleet.recovered()?;
        let told = told_parallelism(fleet)?;
        if told != u64::from(wanted) {
            let text = format!("X51: the job runs at {told}, and {wanted} is due");
            fleet.wrong.push(text);
        }
    }
    Ok(())
}

/// The kernel ends the leader for want of memory while acknowledgements arrive.
pub(super) fn out_of_memory(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    let caught = begin_at(fleet, step)?;
    if leader(fleet, caught)? != FIRST {
        return Err(Halt::invalid("another leads than the one that is bound"));
    }
    let group = bound(fleet)?;
    group.limit_memory(group.held()? + ROOM_BYTES)?;
    let members = group.members();
    // It does not come back by itself: it would come back bound.
    fleet.let_end(FIRST);
    let mut hog = Command::new("sh");
    hog.args(["-c", HOG, "sh"]).arg(members);
    let mut hog = Process::start(&mut hog, &fleet.spec.folder.join("hog.log"))?;
    fleet.thaw(caught)?;
    let ended = fleet.wait_at_most(MET_WITHIN, |fleet| Ok(fleet.end_of(FIRST).is_some()));
    hog.kill()?;
    drop(hog);
    let ended = ended?;
    let group = bound(fleet)?;
    if !ended || group.killed_for_memory()? == 0 {
        return Err(Halt::invalid("the kernel did not end the leader"));
    }
    // The next one is not bound.
    fleet.groups.remove(&FIRST);
    fleet.start(FIRST, None)?;
    fleet.recovered()
}

/// The group of the first leader.
fn bound<'a>(fleet: &'a Fleet<'_>) -> anyhow::Result<&'a ControlGroup> {
    let group = fleet.groups.get(&FIRST);
    group.context("the group of the first leader")
}

/// The leader has little of the processor while acknowledgements arrive.
pub(super) fn starved(fleet: &mut Fleet<'_>, step: Step) -> Result<(), Halt> {
    let caught = begin_at(fleet, step)?;
    let group = bound(fleet)?;
    let before = group.throttled()?;
    group.limit_processor(STARVED_PERCENT)?;
    fleet.thaw(caught)?;
    let passed = fleet.pass(Span::Starved);
    let group = bound(fleet)?;
    group.free_processor()?;
    passed?;
    let periods = group.throttled()? - before;
    fleet.notes.push(format!("starved in {periods} periods"));
    if periods == 0 {
        return Err(Halt::invalid("the leader wanted no more than it had"));
    }
    fleet.recovered()
}

/// Much input comes, and the broker is not reached for a while: neither sinks nor sources get on.
pub(super) fn blocked(fleet: &mut Fleet<'_>) -> Result<(), Halt> {
    fleet.begin_running(&Arming::none())?;
    let port = fleet.ground.kafka_port()?;
    let workers = fleet.living_as(Role::Worker);
    fleet.hit()?;
    let cuts = workers.iter().flat_map(|worker| service(*worker, port));
    let partition = fleet.cut(cuts)?;
    let (length, mut most) = (fleet.pace.length(Span::Blocked), 0);
    fleet.wait_at_most(length, |fleet| {
        most = held(fleet)?.max(most);
        Ok(false)
    })?;
    if partition.heal()? == 0 {
        return Err(Halt::invalid("the cut met no packet"));
    }
    fleet.recovered()?;
    most = held(fleet)?.max(most);
    let (mib, percent) = (most >> 20, most * 100 / WORKER_BYTES);
    let text = format!("a worker held up to {mib} MiB of its own, {percent} % of its bound");
    if percent > HELD_PERCENT_MAX {
        fleet.wrong.push(format!("O10: {text}"));
    }
    fleet.notes.push(text);
    let killed = fleet.groups.values().map(ControlGroup::killed_for_memory);
    let killed = killed.sum::<Result<u64, TestbedError>>()?;
    if killed > 0 {
        let text = format!("O10: {killed} processes were ended for want of memory");
        fleet.wrong.push(text);
    }
    Ok(())
}

/// The memory of its own that the largest of the bound processes holds.
fn held(fleet: &Fleet<'_>) -> Result<u64, Halt> {
    let mut most = 0;
    for group in fleet.groups.values() {
        most = group.anonymous()?.max(most);
    }
    Ok(most)
}

/// A function of the job panics once, in one of the processes.
pub(super) fn panics(fleet: &mut Fleet<'_>, place: &str) -> Result<(), Halt> {
    fleet.begin_running(&Arming::none())?;
    fleet.hit()?;
    let trap = fleet.spec.folder.join("trap");
    let draft = fleet.spec.folder.join("trap.draft");
    let set = fs::write(&draft, place).and_then(|()| fs::rename(&draft, &trap));
    set.context("the trap")?;
    if !fleet.wait_at_most(MET_WITHIN, |_| Ok(!trap.exists()))? {
        return Err(Halt::invalid("no record came to the trap"));
    }
    fleet.recovered()
}

/// Has all machines get certificates of another authority, step by step, and then has one of them connect anew.
pub(super) fn rotate(fleet: &mut Fleet<'_>) -> Result<(), Halt> {
    fleet.begin_running(&Arming::none())?;
    let (epoch, restarts) = (fleet.chain.epoch(), restarts_told(fleet)?);
    let machines = fleet.living();
    let folder = fleet.spec.folder.join("certificates");
    let next = Certificates::new(folder);
    let old = fleet.spec.certificates.as_ref();
    let old = old.context("the run has certificates")?;
    for machine in &machines {
        next.trust(*machine, Some(old))?;
    }
    settle(fleet)?;
    for machine in &machines {
        next.sign(*machine)?;
    }
    settle(fleet)?;
    for machine in &machines {
        next.trust(*machine, None)?;
    }
    fleet.spec.certificates = Some(next);
    settle(fleet)?;
    if (fleet.chain.epoch(), restarts_told(fleet)?) != (epoch, restarts) {
        let text = "O9: the job began again while certificates were exchanged";
        fleet.wrong.push(text.to_owned());
    }
    fleet.hit()?;
    let worker = fleet.busy_other_than(Machine::Hub)?;
    let others = machines.into_iter().filter(|machine| *machine != worker);
    let partition = fleet.cut(others.flat_map(|other| resets(worker, other)))?;
    fleet.pass(Span::Reset)?;
    if partition.heal()? == 0 {
        return Err(Halt::invalid("no connection was reset"));
    }
    fleet.recovered()
}

/// How many attempts have failed under this leader.
fn restarts_told(fleet: &mut Fleet<'_>) -> Result<u64, Halt> {
    let mut told = None;
    fleet.wait("the job tells how it does", PATIENCE, |fleet| {
        told = fleet
            .status()
            .and_then(|status| status["restarts"].as_u64());
        Ok(told.is_some())
    })?;
    Ok(told.unwrap_or_default())
}

/// Waits until some more checkpoints are complete.
fn settle(fleet: &mut Fleet<'_>) -> Result<(), Halt> {
    const CHECKPOINTS: u64 = 2;
    let wanted = fleet.chain.number() + CHECKPOINTS;
    fleet.wait("checkpoints complete", PATIENCE, |fleet| {
        Ok(fleet.chain.number() >= wanted)
    })
}

/// A worker with certificates of another authority comes to the job.
pub(super) fn stranger(fleet: &mut Fleet<'_>) -> Result<(), Halt> {
    const REFUSED: &str = "a connection was refused";
    fleet.begin_running(&Arming::none())?;
    fleet.hit()?;
    let (machine, folder) = (Machine::Worker(3), fleet.spec.folder.join("strange"));
    let others = Certificates::new(folder);
    others.equip(machine)?;
    let process = fleet.spec.start_stranger(machine, &others)?;
    fleet.pass(Span::Stranger)?;
    drop(process);
    let log = fs::read_to_string(fleet.spec.log_of(FIRST)).context("what the leader says")?;
    if !log.contains(REFUSED) {
        return Err(Halt::invalid("the stranger did not come"));
    }
    let is_in = |line: &str| line.contains("worker joined") && line.contains("stranger");
    if log.lines().any(is_in) {
        let text = "X72: a worker of another authority was taken";
        fleet.wrong.push(text.to_owned());
    }
    fleet.recovered()
}
