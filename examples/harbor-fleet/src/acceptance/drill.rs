//! The drills, each as the acts of one run.

use std::time::Duration;

use harbor_fleet::generator::Profile;
use highwater_connectors::Random;
use highwater_protocol::steps::Step;

use super::args::Drill;
use super::cluster::Cluster;
use super::disk;
use super::feed::{Logs, Rate};
use super::judge::{Verdict, judge};
use super::rescale;
use super::scene::{Halt, Kill, MustPend, RunName, Scene};
use super::testbed::Testbed;
use super::vectors;

/// Subtasks of the job, where the drill does not say otherwise.
pub(super) const PARALLELISM: u32 = 2;
/// The acknowledgements of one of two workers for a checkpoint: each runs a subtask of the four tasks of the job.
const ACKS: u64 = 4;
/// The first of the 20 checkpoints of a run that is disturbed, and how many later ones may be.
const FIRST: u64 = 3;
const SPREAD: u64 = 9;

/// A run to be made.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) drill: Drill,
    /// Which run of the drill, from 0.
    pub(super) index: u32,
    /// Which try of the run, from 0.
    pub(super) tried: u32,
    /// Decides payments and instants.
    pub(super) seed: u64,
}

/// What a finished run shows.
pub(super) struct Shown {
    pub(super) verdict: Verdict,
    /// Where the process was ended, and how long until records flowed again.
    pub(super) kills: Vec<(String, Option<Duration>)>,
    /// How long records stood still at each rescale that nothing disturbed.
    pub(super) pauses: Vec<Duration>,
}

impl Order {
    /// Its name for people.
    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.drill.name(), self.index + 1)
    }

    /// The command line that makes this run alone, with its payments and its first instants.
    pub(super) fn again(&self) -> String {
        let name = self.drill.name();
        let (seed, run) = (self.seed, self.index + 1);
        format!("--drill {name} --seed {seed} --run {run}")
    }

    /// Its name.
    pub(super) fn name(&self) -> RunName {
        let drill = self.drill.name().to_ascii_lowercase();
        // Shifted after each four, so that steps that take turns meet both.
        let rule = if (self.index + self.index / 4).is_multiple_of(2) {
            "process"
        } else {
            "window"
        };
        RunName {
            text: format!("{drill}-{}-{}", self.index + 1, self.tried),
            rule,
        }
    }

    /// Chance: the same for the same order.
    fn random(&self) -> Random {
        let drill = self.drill as u64;
        Random::new(self.seed ^ (drill << 32) ^ (u64::from(self.tried) << 40))
    }

    /// Makes the run.
    pub(super) fn run(&self, testbed: &Testbed, cluster: &Cluster) -> Result<Shown, Halt> {
        if self.drill == Drill::Vectors {
            return vectors::run(testbed, cluster, &self.name());
        }
        let input = (self.profile(), Rate::CI);
        let mut scene = Scene::open(testbed, cluster, &self.name(), input, self.random())?;
        let logs = self.play(&mut scene)?;
        let verdict = judge(&scene, &logs)?;
        if verdict.violations.is_empty() {
            let mut topics = scene.topics.all(0);
            let (head, _) = scene.store.last()?;
            topics.push((format!("hw.{}.markers", head.lineage), 1));
            let names: Vec<_> = topics.into_iter().map(|(name, _)| name).collect();
            cluster.delete(&names)?;
            scene.store.remove()?;
        }
        let kills = scene.kills.iter();
        Ok(Shown {
            verdict,
            kills: kills
                .map(|Kill { step, recovery, .. }| (step.clone(), *recovery))
                .collect(),
            pauses: scene.pauses.clone(),
        })
    }

    /// The CI profile. Drills that start the job more often take longer, so their input goes on for longer, as dense.
    fn profile(&self) -> Profile {
        let ci = Profile {
            seed: self.seed,
            ..Profile::ci()
        };
        let times = match self.drill {
            Drill::Rescale | Drill::LiveRescale | Drill::Backends => 3,
            Drill::RandomKill | Drill::Drain | Drill::DiskFull => 2,
            _ => 1,
        };
        Profile {
            payments: times * ci.payments,
            span_ms: times as i64 * ci.span_ms,
            ..ci
        }
    }

    /// The acts of the drill, up to the drained end.
    fn play(&self, scene: &mut Scene<'_>) -> Result<Logs, Halt> {
        let checkpoint = FIRST + scene.random.below(SPREAD);
        let nth = |random: &mut Random, most: u64| 1 + random.below(most);
        match self.drill {
            Drill::RandomKill => return random_kills(scene),
            Drill::Rescale => return rescale::stopped(scene),
            Drill::LiveRescale => return rescale::live(scene, self.index),
            Drill::Drain => return drain(scene),
            Drill::Backends => return disk::backends(scene),
            Drill::DiskFull => return disk::full(scene),
            Drill::Alignment => {
                // The first barrier of a checkpoint at a task: the other input is not there yet.
                let task = nth(&mut scene.random, 4);
                stop_once(scene, checkpoint, (Step::P3, task))?;
            }
            Drill::PreCommit => {
                let step = [Step::P4, Step::P5, Step::P6, Step::P7][self.index as usize % 4];
                let most = if step == Step::P7 { 1 } else { 8 };
                let time = nth(&mut scene.random, most);
                stop_once(scene, checkpoint, (step, time))?;
            }
            Drill::Completed => stop_once(scene, checkpoint, (Step::P9, 1))?,
            Drill::HalfCommitted => {
                let step = [Step::P10, Step::P11][self.index as usize % 2];
                let time = nth(&mut scene.random, 2) + u64::from(step == Step::P10);
                stop_once(scene, checkpoint, (step, time))?;
            }
            Drill::Steps => self.named_step(scene, checkpoint)?,
            Drill::Vectors => unreachable!("they have no scene"),
        }
        finish(scene)
    }

    /// Each step in turn.
    fn named_step(&self, scene: &mut Scene<'_>, checkpoint: u64) -> Result<(), Halt> {
        let step = Step::ALL[self.index as usize % Step::ALL.len()];
        if step >= Step::R1 {
            let first = stop_at(scene, checkpoint, (Step::P9, 1));
            scene.start(PARALLELISM, Some(&first))?;
            scene.wait_stop("P9", MustPend::Yes)?;
            let second = step.to_string();
            scene.start(PARALLELISM, Some(&second))?;
            scene.wait_stop(&second, MustPend::No)?;
            scene.start(PARALLELISM, None)?;
            return Ok(scene.wait_running()?);
        }
        stop_once(scene, checkpoint, (step, 1))
    }
}

/// Whether workers perform this step; the others are those of their coordinator.
const fn is_of_workers(step: Step) -> bool {
    matches!(
        step,
        Step::P3 | Step::P4 | Step::P5 | Step::P6 | Step::P10 | Step::P11
    )
}

/// Where a process ends itself that comes to a step of this checkpoint, or behind it, for the so-manieth time.
fn stop_at(scene: &Scene<'_>, checkpoint: u64, (step, time): (Step, u64)) -> String {
    if scene.spec.workers.is_some() && is_of_workers(step) {
        // A worker meets no step of its coordinator: its acknowledgements tell it how many checkpoints there were.
        return format!("P6:{},{step}:{time}", checkpoint * ACKS);
    }
    match step {
        Step::P1 => format!("P1:{checkpoint}"),
        step if step > Step::P8 => format!("P8:{checkpoint},{step}:{time}"),
        step => format!("P1:{checkpoint},{step}:{time}"),
    }
}

/// Runs until the process ends itself at a step, and has it go on.
fn stop_once(
    scene: &mut Scene<'_>,
    checkpoint: u64,
    (step, time): (Step, u64),
) -> Result<(), Halt> {
    let stop_at = stop_at(scene, checkpoint, (step, time));
    scene.start(PARALLELISM, Some(&stop_at))?;
    scene.wait_stop(&step.to_string(), MustPend::Yes)?;
    scene.start(PARALLELISM, None)?;
    Ok(scene.wait_running()?)
}

pub(super) fn finish(scene: &mut Scene<'_>) -> Result<Logs, Halt> {
    let logs = scene.wait_read()?;
    scene.drain()?;
    Ok(logs)
}

fn random_kills(scene: &mut Scene<'_>) -> Result<Logs, Halt> {
    scene.start(PARALLELISM, None)?;
    for most in [5, 3] {
        scene.wait_checkpoints(2)?;
        scene.pass_time(Duration::from_secs(most));
        scene.kill()?;
        scene.start(PARALLELISM, None)?;
        scene.wait_running()?;
    }
    finish(scene)
}

fn drain(scene: &mut Scene<'_>) -> Result<Logs, Halt> {
    scene.start(PARALLELISM, None)?;
    scene.wait_checkpoints(2)?;
    scene.pass_time(Duration::from_secs(3));
    scene.kill()?;
    scene.start(PARALLELISM, None)?;
    scene.wait_running()?;
    scene.pass_time(Duration::from_secs(6));
    if !scene.is_fed() {
        return Err(Halt::Invalid("the input ended before the stop".to_owned()));
    }
    scene.drain()?;
    Ok(scene.end_input()?)
}
