//! `soak`: one job for a long time at half of what it can do, with more state than memory, killed again and again.
//!
//! Called by `cargo xtask soak`. The acts and the judge are those of the drills; this file adds what only a long run
//! shows: that memory stays where it is once it is warm, from process to process and, behind the last kill, within one that
//! lives on undisturbed; that the state has really outgrown its budget, and that nothing is left behind after dozens of
//! kills. The rule: the rate is half of what this machine reached a minute before, not a number from elsewhere, and what
//! was too short to be known is not passed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use harbor_fleet::generator::Profile;
use highwater_connectors::Random;
use highwater_testkit::process::wait_until;

use super::args::{Backend, Backing};
use super::cluster::Cluster;
use super::drill::{PARALLELISM, finish};
use super::feed::Rate;
use super::judge::{Verdict, judge};
use super::lanes::random_seed;
use super::scene::{Halt, RunName, Scene};
use super::testbed::Testbed;
use crate::verdict::say;

/// Payments by which the greatest rate is found.
const PROBE: u64 = 2_000_000;
/// Event time that passes in a second, in milliseconds: a window lasts ten seconds.
const EVENT_MS: i64 = 60_000;
/// A partition that brings nothing for this long is idle: longer than the machine ever keeps a reader waiting.
const IDLE_MS: &str = "20000";
/// A process lives this long, in seconds, unless it is the last.
const LIFE: (u64, u64) = (20, 60);
/// Memory of a process is what it has behind this age.
const WARM: Duration = Duration::from_secs(15);
/// How far memory may be above that of the second quarter of the run, in percent.
const DRIFT_PERCENT: f64 = 2.0;
/// Lives that a quarter must have for its memory to be known.
const LIVES_LEAST: usize = 3;
/// The last process lives on for this part of the minutes more, and nobody kills it.
const STILL_PART: u64 = 6;
/// Looks at its memory behind the warm-up, one a second, that it must have for its drift to be known.
const LOOKS_LEAST: usize = 120;
/// How far its memory may be in the last quarter above that of the second, in percent. Within minutes a cache that fills and
/// empties moves by more than between the medians of whole lives.
const STILL_DRIFT_PERCENT: f64 = 5.0;

/// Runs the fraud scorer for long on a real Kafka and a real S3 store, killed every 20 to 60 seconds, and judges it.
#[derive(Clone, Debug, Parser)]
pub(super) struct Soak {
    /// Always `soak`
    #[arg(hide = true)]
    command: String,
    /// How long processes are killed; payments are written for a sixth longer, while the last one lives on
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: u64,
    /// Payments a second [default: half of the greatest rate, which is measured first]
    #[arg(long)]
    rate: Option<f64>,
    /// How many users there are: their spend is the state that outgrows memory
    #[arg(long, default_value_t = 1_000_000)]
    users: u32,
    /// Decides payments and instants [default: random, printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the directory of a run that passed too
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    backing: Backing,
}

/// One process, from start to kill.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// When it was killed, from the start of the soak.
    at: Duration,
    /// Memory in use at the end of its life, in bytes.
    resident: u64,
}

/// What was found beside the verdict of the judge.
#[derive(Clone, Debug, Default)]
struct Found {
    lives: Vec<Life>,
    /// Memory of the last process, second by second behind its warm-up, in bytes.
    last: Vec<u64>,
    /// Bytes on local disk, the most.
    local: u64,
}

/// Runs the soak. Returns a summary.
///
/// # Errors
/// When anything is not as promised.
pub(super) fn run(args: &Soak) -> anyhow::Result<String> {
    let seed = args.seed.unwrap_or_else(random_seed);
    let root = tempfile::Builder::new()
        .prefix("highwater-soak-")
        .tempdir()
        .context("a temporary directory")?
        .keep();
    say(&format!("seed {seed}, working in {}\n", root.display()));
    let testbed = Testbed::start(root.clone(), args.backing.clone(), None)?;
    let cluster = Cluster::at(&testbed.bootstrap())?;
    let (rate, of) = if let Some(rate) = args.rate {
        (rate, "as told".to_owned())
    } else {
        let most = of_halt(greatest_rate(&testbed, &cluster, args, seed))?;
        (most / 2.0, format!("half of {most:.0}"))
    };
    ensure!(rate >= 1.0, "{rate} payments a second are too few");
    say(&format!(
        "{} min at {rate:.0} payments a second ({of}), {} users\n",
        args.minutes, args.users
    ));
    let (verdict, found, kills) = of_halt(soak(&testbed, &cluster, args, (seed, rate)))?;
    let summary = format!(
        "{} min at {rate:.0} payments a second ({of}), {kills}, lost {}, doubled {}, {} records pending at kills, {}",
        args.minutes,
        verdict.lost,
        verdict.doubled,
        verdict.pending,
        found.shown()
    );
    let wrong = [verdict.violations, found.violations(args)?].concat();
    if !wrong.is_empty() {
        bail!(
            "{summary}; {}; seed {seed}, logs in {}",
            wrong.join("; "),
            root.display()
        );
    }
    if !args.keep {
        fs::remove_dir_all(&root).context("the directory of the run")?;
    }
    Ok(summary)
}

fn of_halt<T>(result: Result<T, Halt>) -> anyhow::Result<T> {
    result.map_err(|halt| match halt {
        Halt::Failed(error) => error,
        Halt::Invalid(reason) => anyhow::anyhow!(reason),
    })
}

fn profile(args: &Soak, seed: u64, payments: u64, seconds: i64) -> Profile {
    Profile {
        seed,
        payments,
        malformed: payments / 10_000,
        users: args.users,
        span_ms: seconds * EVENT_MS,
        silence: None,
        ..Profile::ci()
    }
}

fn open<'a>(
    (testbed, cluster): (&'a Testbed, &'a Cluster),
    name: &str,
    input: (Profile, Rate),
    seed: u64,
) -> anyhow::Result<Scene<'a>> {
    let name = RunName {
        text: name.to_owned(),
        rule: "process",
    };
    let mut scene = Scene::open(testbed, cluster, &name, input, Random::new(seed))?;
    scene.spec.interval = "5s";
    scene.spec.parameters.push(("idle-ms", IDLE_MS.to_owned()));
    Ok(scene)
}

/// Payments a second with all of them waiting in the topic, between a tenth and nine tenths of them.
fn greatest_rate(
    testbed: &Testbed,
    cluster: &Cluster,
    args: &Soak,
    seed: u64,
) -> Result<f64, Halt> {
    let input = (profile(args, seed, PROBE, 60), Rate::AtOnce);
    let mut scene = open((testbed, cluster), "soak-probe", input, seed)?;
    scene.wait("the payments of the probe are written", |scene| {
        !scene.is_fed()
    })?;
    scene.start(PARALLELISM, None)?;
    let mut reach = |share: f64| -> anyhow::Result<(Duration, f64)> {
        let mut read = 0.0;
        scene.wait("the payments of the probe are read", |scene| {
            let status = scene.spec.status(testbed.rim());
            read = status.map_or(0.0, |status| status["records_in"].as_f64().unwrap_or(0.0));
            read >= share * PROBE as f64
        })?;
        Ok((testbed.clock.now(), read))
    };
    let (first, last) = (reach(0.1)?, reach(0.9)?);
    finish(&mut scene)?;
    clean_up(&scene)?;
    let seconds = last.0.saturating_sub(first.0).as_secs_f64();
    if seconds <= 0.0 {
        return Err(Halt::Invalid(
            "the probe was too short to have a rate".to_owned(),
        ));
    }
    Ok((last.1 - first.1) / seconds)
}

/// Removes topics and checkpoints of a scene.
fn clean_up(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut topics = scene.topics.all(0);
    let (head, _) = scene.store.last()?;
    topics.push((format!("hw.{}.markers", head.lineage), 1));
    let names: Vec<_> = topics.into_iter().map(|(name, _)| name).collect();
    scene.cluster.delete(&names)?;
    scene.store.remove()
}

/// The run itself, judged.
fn soak(
    testbed: &Testbed,
    cluster: &Cluster,
    args: &Soak,
    (seed, rate): (u64, f64),
) -> Result<(Verdict, Found, String), Halt> {
    let kills_until = Duration::from_mins(args.minutes);
    let seconds = args.minutes * 60 + args.minutes * 60 / STILL_PART;
    let payments = (rate * seconds as f64) as u64;
    let input = (
        profile(args, seed, payments, seconds as i64),
        Rate::PerSecond(rate),
    );
    let mut scene = open((testbed, cluster), "soak", input, seed)?;
    scene.start(PARALLELISM, None)?;
    scene.wait_running()?;
    let (started, mut found) = (testbed.clock.now(), Found::default());
    while scene.is_fed() && testbed.clock.now().saturating_sub(started) < kills_until {
        let length = LIFE.0 + scene.random.below(LIFE.1 - LIFE.0 + 1);
        let looks = live(&mut scene, Duration::from_secs(length))?;
        found.local = found
            .local
            .max(bytes_below(&scene.spec.local(), &mut HashSet::new()));
        let at = testbed.clock.now().saturating_sub(started);
        match scene.kill() {
            Ok(()) => {}
            // The input has ended meanwhile.
            Err(Halt::Invalid(_)) if !scene.is_fed() => break,
            Err(halt) => return Err(halt),
        }
        let resident = looks.iter().rev().take(LOOKS).max().copied();
        found
            .lives
            .extend(resident.map(|resident| Life { at, resident }));
        scene.start(PARALLELISM, None)?;
        scene.wait_running()?;
        say(&format!(
            "{:.0} min, {} kills\n",
            at.as_secs_f64() / 60.0,
            scene.kills.len()
        ));
    }
    found.last = live(&mut scene, Duration::MAX)?;
    let logs = finish(&mut scene)?;
    let verdict = judge(&scene, &logs)?;
    if verdict.violations.is_empty() {
        clean_up(&scene)?;
    }
    let mut recoveries: Vec<_> = scene
        .kills
        .iter()
        .filter_map(|kill| kill.recovery)
        .collect();
    recoveries.sort_unstable();
    let median = recoveries
        .get(recoveries.len() / 2)
        .copied()
        .unwrap_or_default();
    let most = recoveries.last().copied().unwrap_or_default();
    let kills = format!(
        "{} kills, records flowed again after {:.1} s ({:.1} s)",
        scene.kills.len(),
        median.as_secs_f64(),
        most.as_secs_f64()
    );
    Ok((verdict, found, kills))
}

/// Looks at the memory of a process before its end, of which the most counts.
const LOOKS: usize = 5;

/// Lets the process live, at most while payments are written. Returns what its memory was each second since it was warm.
fn live(scene: &mut Scene<'_>, length: Duration) -> anyhow::Result<Vec<u64>> {
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    let began = scene.testbed.clock.now();
    let age = |scene: &Scene<'_>| scene.testbed.clock.now().saturating_sub(began);
    let mut looks = Vec::new();
    while age(scene) < length && scene.is_fed() {
        if let Some(ended) = scene.ended()? {
            bail!("the job ended by itself ({ended})\n{}", scene.spec.tail());
        }
        wait_until(LOOK_EVERY, || false);
        if age(scene) >= WARM {
            let process = scene.process_id().context("nothing runs")?;
            looks.push(resident(process)?);
        }
    }
    Ok(looks)
}

/// Memory of its own, without pages of files.
fn resident(process: u32) -> anyhow::Result<u64> {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(&file).with_context(|| file.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{file} has no RssAnon"))? * 1_024)
}

/// Bytes on disk below a folder; hard links of one file count once. What vanishes meanwhile counts nothing.
fn bytes_below(folder: &Path, met: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path(), met),
        Ok(metadata) if met.insert((metadata.dev(), metadata.ino())) => metadata.blocks() * 512,
        _ => 0,
    });
    bytes.sum()
}

const MIB: f64 = (1 << 20) as f64;

/// How far the second is above the first, in percent.
fn drift((first, second): (f64, f64)) -> f64 {
    (second / first - 1.0) * 100.0
}

impl Found {
    /// Memory in the second and in the last quarter of the run, as medians over lives; `None` = too few of them.
    fn memory(&self) -> Option<(f64, f64)> {
        let end = self.lives.last()?.at;
        let median = |from: Duration, until: Duration| {
            let lives = self.lives.iter();
            let inside = lives.filter(|life| from < life.at && life.at <= until);
            let mut resident: Vec<_> = inside.map(|life| life.resident).collect();
            resident.sort_unstable();
            let is_known = resident.len() >= LIVES_LEAST;
            is_known.then(|| resident[resident.len() / 2] as f64)
        };
        Some((median(end / 4, end / 2)?, median(end * 3 / 4, end)?))
    }

    fn drift_percent(&self) -> Option<f64> {
        Some(drift(self.memory()?))
    }

    /// Memory of the last process in the second and in the last quarter of its life, as medians; `None` = it was too short.
    fn last_memory(&self) -> Option<(f64, f64)> {
        let quarter = self.last.len() / 4;
        if self.last.len() < LOOKS_LEAST {
            return None;
        }
        let median = |looks: &[u64]| {
            let mut looks = looks.to_vec();
            looks.sort_unstable();
            looks[looks.len() / 2] as f64
        };
        let second = median(&self.last[quarter..2 * quarter]);
        Some((second, median(&self.last[3 * quarter..])))
    }

    fn shown(&self) -> String {
        let mut text = match self.memory().zip(self.drift_percent()) {
            Some(((second, last), drift)) => format!(
                "memory {:.0} MiB in the second quarter, {:.0} MiB in the last ({drift:+.1} %)",
                second / MIB,
                last / MIB
            ),
            None => "too short to know how memory drifts".to_owned(),
        };
        if let Some((second, last)) = self.last_memory() {
            let drift = drift((second, last));
            let (second, last) = (second / MIB, last / MIB);
            write!(
                text,
                ", {second:.0} and {last:.0} MiB within the last process ({drift:+.1} %)"
            )
            .unwrap_or_default();
        }
        if self.local > 0 {
            write!(
                text,
                ", at most {:.0} MiB on local disk",
                self.local as f64 / MIB
            )
            .unwrap_or_default();
        }
        text
    }

    /// What is not as promised. In memory only, state grows with its keys, and its memory is not judged.
    fn violations(&self, args: &Soak) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        if args.backing.backend == Backend::Heap {
            return Ok(wrong);
        }
        let memory = args.backing.memory_bytes()?;
        if self.local <= memory {
            wrong.push(format!(
                "the state never outgrew its memory of {:.0} MiB: give more users or less memory",
                memory as f64 / MIB
            ));
        }
        let drifts = [
            (
                "from process to process",
                self.drift_percent(),
                DRIFT_PERCENT,
            ),
            (
                "within the last process",
                self.last_memory().map(drift),
                STILL_DRIFT_PERCENT,
            ),
        ];
        for (place, drift, most) in drifts {
            match drift {
                None => wrong.push(format!(
                    "the run was too short to know how memory drifts {place}: give 30 minutes or more"
                )),
                Some(drift) if drift > most => {
                    wrong.push(format!("memory drifts by {drift:.1} % {place}, at most {most} % is allowed"));
                }
                Some(_) => {}
            }
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(resident: impl Fn(u64) -> u64) -> Found {
        let lives = (1..=40).map(|at| Life {
            at: Duration::from_secs(at * 30),
            resident: resident(at),
        });
        Found {
            lives: lives.collect(),
            last: vec![100_000; 300],
            local: 1 << 30,
        }
    }

    fn args(more: &[&str]) -> Soak {
        Soak::try_parse_from(["harbor-fleet", "soak"].iter().chain(more)).unwrap()
    }

    #[test]
    fn memory_that_grows_behind_the_warm_up_is_a_violation() {
        let on_disk = args(&["--backend", "rocksdb"]);
        let steady = found(|at| if at < 8 { at * 10_000 } else { 100_000 + at });
        assert_eq!(steady.violations(&on_disk).unwrap(), Vec::<String>::new());
        let growing = found(|at| 100_000 + at * 1_000);
        let wrong = growing.violations(&on_disk).unwrap().join(" ");
        assert!(wrong.contains("from process to process"), "{wrong}");
        let mut leaking = steady;
        leaking.last = (0..300).map(|at| 100_000 + at * 100).collect();
        let wrong = leaking.violations(&on_disk).unwrap();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("within the last process"), "{wrong:?}");
    }

    #[test]
    fn state_that_fits_into_memory_proves_nothing() {
        let mut small = found(|_| 100_000);
        small.local = 1 << 20;
        let wrong = small.violations(&args(&["--backend", "rocksdb"])).unwrap();
        assert!(wrong.join(" ").contains("never outgrew"), "{wrong:?}");
    }

    #[test]
    fn a_short_run_says_that_it_does_not_know() {
        let mut short = found(|_| 100_000);
        short.lives.truncate(5);
        short.last.truncate(100);
        assert_eq!(short.memory(), None);
        assert!(short.shown().contains("too short"));
        let wrong = short.violations(&args(&["--backend", "rocksdb"])).unwrap();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }
}
