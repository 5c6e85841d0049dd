//! `cluster`: what it costs that a job runs on several processes, and how long it stands still when one of them is lost, when the
//! leader is lost, or when it is rescaled.
//!
//! Started by `cargo xtask bench cluster`. Each process is this program as a job binary, with a store in a local directory. The
//! parts can be chosen; each starts processes of its own and ends them by their ids. Times that begin in one process and end in
//! another are those of the clock that all processes of a machine have in common. The rule: a part that comes to nothing fails the
//! verdict and leaves no page, and the other parts are measured all the same.

mod crew;
mod deployment;
mod figures;
mod job;
mod latency;
mod load;
mod memory;
mod pulses;
mod recovery;
mod rescale;
mod takeover;
mod throughput;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

pub(crate) use self::job::{build_count, build_latency, build_state};

use self::figures::Figures;
use crate::machine::{bars_as_rows, commit, machine, today};
use crate::program::{disk_below, refuse, tell};
use crate::state_job::keys_of;

/// Measures a job on several processes: the cost of the wire, latency across it, recovery after a worker was killed, takeover after
/// the leader was killed, the pause of a rescale, memory of an idle job, the deployment of many subtasks.
///
/// Coordinators and workers are processes of this machine, the store is a local directory. Large state lies in local stores
/// (`rocksdb`). The last line is the verdict.
#[derive(Debug, Parser)]
#[command(
    name = "cluster",
    after_help = "Examples:\n  cargo xtask bench cluster --quick\n  \
                  cargo xtask bench cluster --parts rescale,recovery --rounds 5\n  \
                  cargo xtask bench cluster --page bench/cluster.md"
)]
struct Arguments {
    /// What is measured, separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "throughput,latency,recovery,takeover,rescale,memory,deployment"
    )]
    parts: Vec<Part>,
    /// How often throughput, recovery, takeover and rescale are measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Records of one run for throughput.
    #[arg(long, default_value_t = 800_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// How many keys are counted.
    #[arg(long, default_value_t = crate::job::KEYS, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    keys: u64,
    /// The seed of keys and payments.
    #[arg(long, default_value_t = crate::job::SEED)]
    seed: u64,
    /// State for recovery and rescale in GB (10^9 bytes of rows).
    #[arg(long, default_value_t = 1.0)]
    size: f64,
    /// Records a second while that state is under load.
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// Memory for that state in each worker, MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..))]
    budget: u64,
    /// Subtasks of the deployment, in two tasks.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(4..=1_400))]
    subtasks: u32,
    /// One round, a tenth of the records and of the state, short latencies: for a first look.
    #[arg(long)]
    quick: bool,
    /// Where the processes keep their files, on a disk [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Writes the figures as a page into this file.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Part {
    /// One process against two workers: records a second, CPU time of a record.
    Throughput,
    /// Latency across two workers at a tenth and at a half of what they can do.
    Latency,
    /// A worker is killed and comes back, with its local files and without them.
    Recovery,
    /// The leader is killed while another coordinator stands by.
    Takeover,
    /// From two subtasks to four on the same workers, and back.
    Rescale,
    /// A coordinator and a worker with nothing to do.
    Memory,
    /// Many subtasks at once.
    Deployment,
}

/// What holds for all parts.
#[derive(Clone, Debug)]
struct Plan {
    work: PathBuf,
    rounds: u32,
    records: u64,
    keys: u64,
    seed: u64,
    /// Keys of large state.
    state_keys: u64,
    rate: f64,
    /// Bytes of memory for large state in each worker.
    budget: u64,
    subtasks: u32,
    is_quick: bool,
}

impl Arguments {
    fn plan(&self) -> Result<Plan> {
        let share = if self.quick { 10 } else { 1 };
        let (size, rate) = (self.size, self.rate);
        let state_keys = keys_of(size) / share;
        ensure!(
            state_keys > 0 && size < 100.0,
            "--size is {size}; it is above 0 and below 100 GB"
        );
        ensure!(rate > 0.0, "--rate is {rate}; it is above 0");
        Ok(Plan {
            work: self.work_dir.clone().unwrap_or_else(std::env::temp_dir),
            rounds: if self.quick { 1 } else { self.rounds },
            records: (self.records / share).max(1),
            keys: self.keys,
            seed: self.seed,
            state_keys,
            rate,
            budget: self.budget << 20,
            subtasks: self.subtasks,
            is_quick: self.quick,
        })
    }

    /// What was chosen, each once, in the order in which it is measured.
    fn chosen(&self) -> Vec<Part> {
        let mut parts = self.parts.clone();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// The command line that measures the same again, without the files that this one wrote.
    fn shown(&self) -> String {
        let parts: Vec<_> = self.chosen().into_iter().map(Part::name).collect();
        format!(
            "cargo xtask bench cluster{} --parts {} --rounds {} --records {} --keys {} --seed {} --size {} --rate {} --budget {} \
             --subtasks {}",
            if self.quick { " --quick" } else { "" },
            parts.join(","),
            self.rounds,
            self.records,
            self.keys,
            self.seed,
            self.size,
            self.rate,
            self.budget,
            self.subtasks
        )
    }
}

impl Part {
    /// Its name on the command line.
    const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Recovery => "recovery",
            Self::Takeover => "takeover",
            Self::Rescale => "rescale",
            Self::Memory => "memory",
            Self::Deployment => "deployment",
        }
    }

    /// Measures it.
    fn measure(self, plan: &Plan, figures: &mut Figures) -> Result<()> {
        match self {
            Self::Throughput => figures.throughput = throughput::measure(plan)?,
            Self::Latency => {
                let most = match figures.rate_of_two_workers() {
                    Some(most) => most,
                    None => throughput::rate_of_two_workers(plan)?,
                };
                figures.latency = latency::measure(plan, most)?;
            }
            Self::Recovery => figures.recovery = recovery::measure(plan)?,
            Self::Takeover => figures.takeovers = takeover::measure(plan)?,
            Self::Rescale => figures.rescales = rescale::measure(plan)?,
            Self::Memory => figures.memory = Some(memory::measure(plan)?),
            Self::Deployment => figures.deployment = Some(deployment::measure(plan)?),
        }
        Ok(())
    }
}

/// Runs the benchmark that the command line asks for.
pub(crate) fn main() -> ExitCode {
    match Arguments::try_parse_from(std::env::args_os().skip(1)) {
        Ok(arguments) => tell(measure(&arguments)),
        Err(refusal) => refuse(&refusal),
    }
}

/// Measures and prints everything. Returns the names of missed bars and of parts that came to nothing.
fn measure(arguments: &Arguments) -> Result<Vec<String>> {
    let plan = arguments.plan()?;
    disk_below(&plan.work)?;
    let (mut figures, mut missed) = (Figures::default(), Vec::new());
    for part in arguments.chosen() {
        println!("{}:", part.name());
        if let Err(error) = part.measure(&plan, &mut figures) {
            let words = format!("{}: {error:#}", part.name()).replace('\n', " ");
            println!("  {words}");
            missed.push(words);
        }
    }
    println!("\n{figures}");
    match &arguments.page {
        Some(file) if missed.is_empty() => write_page(file, &figures, (&plan, arguments))?,
        Some(_) => println!("no page is written: a part came to nothing"),
        None => {}
    }
    missed.extend(figures.bars().filter_map(|bar| bar.missed()));
    Ok(missed)
}

fn write_page(
    file: &Path,
    figures: &Figures,
    (plan, arguments): (&Plan, &Arguments),
) -> Result<()> {
    use std::fmt::Write as _;
    let mut text = String::new();
    writeln!(text, "# A job on several processes\n")?;
    writeln!(
        text,
        "Written by `{}` on {}, on {}. Highwater {}, commit {}. Coordinators and workers are processes of one machine, the store is a \
         local directory. Large state: {} accounts of 64 bytes in `rocksdb`, {} MiB of memory for it in each of two workers, {} records \
         a second, each of which reads, changes and writes the account that was not touched for longest. Settings that are not named \
         are the defaults. Figures of several rounds are medians with least and most; a bar is judged by the worst of all rounds.\n",
        arguments.shown(),
        today()?,
        machine()?,
        env!("CARGO_PKG_VERSION"),
        commit(),
        plan.state_keys,
        plan.budget >> 20,
        plan.rate,
    )?;
    writeln!(
        text,
        "Throughput: the count by key of `keyed-count`, two slot threads in all; half of the records cross to the other worker. \
         Latency: from the time at which a record was due to that at which its result is in the sink, of records that crossed. \
         Recovery: from `kill -9` of one of two workers, which is started again at once; *visible* is output of an exactly-once file \
         sink, with a checkpoint each 2 s; the restart waits for the second that a first failure waits. Takeover: from `kill -9` of the leader, with a lease of 10 s and a checkpoint each second. \
         Rescale: the longest time in which a worker had no record, sampled each 20 ms. The output of throughput, recovery and \
         rescale was compared with an independent count.\n"
    )?;
    bars_as_rows(&mut text, figures.bars())?;
    writeln!(text, "\n| figure | value |\n|---|---|")?;
    for (name, value) in figures.lines() {
        writeln!(text, "| {name} | {value} |")?;
    }
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::parse_from(["cluster"].iter().chain(words).copied())
    }

    #[test]
    fn parts_are_measured_once_and_in_their_order() {
        let chosen = arguments(&["--parts", "rescale,throughput,rescale"]).chosen();
        assert_eq!(chosen, [Part::Throughput, Part::Rescale]);
        let all: Vec<_> = Part::value_variants().to_vec();
        assert_eq!(arguments(&[]).chosen(), all);
    }

    #[test]
    fn a_part_has_the_name_that_the_command_line_knows() {
        for part in Part::value_variants() {
            let known = part.to_possible_value().unwrap();
            assert_eq!(known.get_name(), part.name());
        }
    }

    #[test]
    fn the_page_names_the_command_that_measures_the_same() {
        let first = arguments(&["--quick", "--parts", "memory", "--page", "page.md"]).shown();
        assert!(!first.contains("--page"), "{first}");
        let words: Vec<_> = first.split(' ').skip(4).collect();
        assert_eq!(arguments(&words).shown(), first);
    }

    #[test]
    fn state_and_a_rate_that_are_none_are_refused() {
        for (option, what) in [("--size=0", "--size is 0"), ("--rate=NaN", "--rate is NaN")] {
            let refused = arguments(&[option]).plan().unwrap_err().to_string();
            assert!(refused.starts_with(what), "{refused}");
        }
    }

    #[test]
    fn a_first_look_has_a_tenth_of_everything() {
        let plan = |words: &[&str]| arguments(words).plan().unwrap();
        let (quick, whole) = (plan(&["--quick"]), plan(&[]));
        assert_eq!((quick.rounds, whole.rounds), (1, 3));
        assert_eq!(quick.records * 10, whole.records);
        assert_eq!(quick.state_keys, whole.state_keys / 10);
    }
}
