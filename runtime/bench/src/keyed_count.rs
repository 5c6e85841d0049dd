//! `keyed-count`: count by key over a million keys, against Flink, with every bar printed as met or missed.
//!
//! Started by `cargo xtask bench keyed-count`. Each measured job is a process of its own, ours started as in production
//! with the commands of a job binary. In each round both sides run in turn, and the digest of all output of every run
//! is compared with what an independent count says before a time of that run is used. The rule: a bar is data
//! ([`crate::bars`]), and a missed one fails the verdict by name.

mod figures;
mod flink;
mod kafka;
mod oracle;
mod ours;
mod page;
mod profile;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};

pub(crate) use self::oracle::Expected;

use self::figures::{Figures, Idle, Pair};
use self::ours::Job;
use crate::flink::{Flink, VERSION};
use crate::program::{refuse, tell};
use crate::report::Run;
use crate::spread::Spread;

/// Measures count by key: a seeded generator, key_by, a running count for each of a million keys, a tally.
///
/// Exactly-once checkpoints are taken each 10 s into a local directory, with two subtasks, state in memory, status
/// server and metrics on. The first fifth of each run is warm-up and does not count. Figures: events per CPU-second
/// (user and system time of the whole process), wall rate, latency from the time at which a record was due at a tenth of
/// the rate found, time from process start to first output, memory and CPU of an idle job. The last line is the verdict.
#[derive(Debug, Parser)]
#[command(
    name = "keyed-count",
    after_help = "Examples:\n  cargo xtask bench keyed-count --quick\n  \
                  cargo xtask bench keyed-count --against flink\n  \
                  cargo xtask bench keyed-count --against flink --profile profile.txt --page bench/keyed-count.md"
)]
struct Arguments {
    /// Runs this peer in turn with our side and compares; fetched once with Maven into the user's cache.
    #[arg(long)]
    against: Option<Peer>,
    /// How often each side runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Records of one run of our side; the default lasts about 30 s on two cores.
    #[arg(long, default_value_t = 800_000_000)]
    records: u64,
    /// Records of one run of the peer.
    #[arg(long, default_value_t = 100_000_000)]
    peer_records: u64,
    /// One round with an eighth of the records: for a first look, too short for checkpoints.
    #[arg(long)]
    quick: bool,
    /// How many keys.
    #[arg(long, default_value_t = crate::job::KEYS, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    keys: u64,
    /// The seed of the keys.
    #[arg(long, default_value_t = crate::job::SEED)]
    seed: u64,
    /// Leaves out the start from a real Kafka broker, which needs Java and Maven.
    #[arg(long)]
    without_kafka: bool,
    /// Writes where our CPU time goes into this file, by `perf`.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Writes the figures as a page into this file.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

impl Arguments {
    /// The command line that measures the same again, without the files that this one wrote.
    fn shown(&self) -> String {
        let mut words = vec!["cargo xtask bench keyed-count".to_owned()];
        if self.against.is_some() {
            words.push("--against flink".to_owned());
        }
        if self.quick {
            words.push("--quick".to_owned());
        }
        if self.without_kafka {
            words.push("--without-kafka".to_owned());
        }
        words.push(format!(
            "--rounds {} --records {}",
            self.rounds, self.records
        ));
        words.push(format!("--peer-records {}", self.peer_records));
        words.push(format!("--keys {} --seed {}", self.keys, self.seed));
        words.join(" ")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// Flink 2.3 DataStream, tuned: parallel collector, object reuse, state on the heap.
    Flink,
}

/// Runs the benchmark that the command line asks for.
pub(crate) fn main() -> ExitCode {
    match Arguments::try_parse_from(std::env::args_os().skip(1)) {
        Ok(arguments) => tell(measure(&arguments)),
        Err(refusal) => refuse(&refusal),
    }
}

/// Measures and prints everything. Returns the names of missed bars.
fn measure(arguments: &Arguments) -> Result<Vec<String>> {
    let share = if arguments.quick { 8 } else { 1 };
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let plan = Plan {
        keys: arguments.keys,
        seed: arguments.seed,
        ours: arguments.records / share,
        peer: arguments.peer_records / share,
    };
    ensure!(
        plan.ours > 0 && plan.peer > 0,
        "there are no records to count"
    );
    let peer = match arguments.against {
        Some(Peer::Flink) => Some(Flink::prepare()?),
        None => None,
    };
    let mut figures = Figures::new(peer.is_some());
    results_first(&plan, peer.as_ref())?;
    for round in 1..=rounds {
        let pair = one_round(&plan, peer.as_ref())?;
        println!("round {round} of {rounds}: {}", pair.shown());
        figures.rounds.push(pair);
    }
    let rate = Spread::of(figures.rounds.iter().map(|pair| pair.count.wall_rate)).median;
    figures.latency = Some(ours::latency(&plan, rate / 10.0)?);
    figures.first_output = Some(ours::first_output(&plan)?);
    if !arguments.without_kafka {
        figures.first_output_kafka = Some(kafka::first_output(&plan)?);
    }
    figures.idle = Some(ours::idle()?);
    println!("\n{}", figures.shown());
    if let Some(file) = &arguments.profile {
        println!("{}", profile::write(&plan, file)?);
    }
    if let Some(file) = &arguments.page {
        page::write(file, &figures, &arguments.shown())?;
    }
    Ok(figures.bars().filter_map(|bar| bar.missed()).collect())
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
struct Plan {
    keys: u64,
    seed: u64,
    /// Records of our side.
    ours: u64,
    /// Records of the peer.
    peer: u64,
}

/// Records that are compared before anything is timed.
const COMPARED: u64 = 10_000_000;

/// Both sides count the same records, and their output is the same as that of an independent count.
fn results_first(plan: &Plan, peer: Option<&Flink>) -> Result<()> {
    let expected = Expected::count(plan.seed, plan.keys, COMPARED);
    let ours = ours::run(Job::Count, plan, COMPARED)?;
    expected.check("Highwater", &ours)?;
    let mut who = "an independent count".to_owned();
    if let Some(flink) = peer {
        let theirs = flink::run(flink, Job::Count, plan, COMPARED)?;
        expected.check("Flink", &theirs)?;
        if theirs.digest != ours.digest {
            bail!(
                "the two sides differ: {:x} and {:x}",
                ours.digest,
                theirs.digest
            );
        }
        who = format!("Flink {VERSION} and {who}");
    }
    println!(
        "results: {COMPARED} records, digest {:016x}, the same as {who}",
        ours.digest
    );
    Ok(())
}

/// Each side once, in turn: the count and the generator alone.
fn one_round(plan: &Plan, peer: Option<&Flink>) -> Result<Pair> {
    let checked = |who: &str, run: Run, records: u64| -> Result<Run> {
        Expected::count(plan.seed, plan.keys, records).check(who, &run)?;
        Ok(run)
    };
    let count = ours::run(Job::Count, plan, plan.ours)?;
    let count = checked("Highwater", count, plan.ours)?;
    let generate = ours::run(Job::Generate, plan, plan.ours)?;
    let peer = match peer {
        None => None,
        Some(flink) => {
            let count = flink::run(flink, Job::Count, plan, plan.peer)?;
            let count = checked("Flink", count, plan.peer)?;
            Some((count, flink::run(flink, Job::Generate, plan, plan.peer)?))
        }
    };
    Ok(Pair {
        count,
        generate,
        peer,
    })
}
