//! `state`: an account of 64 bytes for each key, read, changed and written with each record, against Flink on RocksDB.
//!
//! Started by `cargo xtask bench state`. Both sides run in turn, each inside one memory limit of the kernel, page cache
//! included, with the same budget for state. Before a time of a run is used, its digest (the final state of every key) is
//! compared with what an independent count says. The first records give each key its account, as many on both sides warm
//! up, and rates are those of the records behind. The rule: no limit, no figure; nothing measured over less than a few
//! checkpoints; a missed bar fails the verdict by name.

mod cases;
mod expected;
mod figures;
mod flink;
mod ours;
mod page;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use self::cases::{Case, Keys};
use self::expected::Expected;
use self::figures::{Measured, Row, Table};
use crate::flink::{Flink, VERSION};
use crate::program::{Backend, disk_below, tell};
use crate::state_job::{Payments, Ranks};

const MIB: u64 = 1 << 20;

/// Intervals of checkpoints that a rate must span.
const CHECKPOINTS_LEAST: u64 = 3;

/// Measures keyed state that fits into memory and that does not: a seeded generator, key_by, an account of 64 bytes for
/// each key (value state in a keyed process function), a tally.
///
/// Both sides get the same budget for state (Flink: managed memory, ours: state.memory) and run in one memory limit each
/// (a control group of the kernel: page cache counts). Flink: RocksDB, incremental checkpoints, bloom filters, object
/// reuse, jemalloc. Figures: events per CPU-second of the whole process tree, memory, disk, share of
/// records that were served from memory. The last line is the verdict.
#[derive(Debug, Parser)]
#[command(
    name = "state",
    after_help = "Examples:\n  cargo xtask bench state --quick --backend heap --cases cached\n  \
                  cargo xtask bench state --against flink --page bench/state.md"
)]
struct Arguments {
    /// Runs this peer in turn with our side and compares; fetched once with Maven into the user's cache.
    #[arg(long)]
    against: Option<Peer>,
    /// Our backend of state.
    #[arg(long, value_enum, default_value = "rocksdb")]
    backend: Backend,
    /// Which cases, separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "cached,four,ten"
    )]
    cases: Vec<cases::Size>,
    /// How keys are drawn, separated by commas: every case with each.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "uniform,zipf"
    )]
    keys: Vec<Keys>,
    /// How often each side runs a case; the largest runs once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Memory for state on each side, MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..))]
    budget: u64,
    /// Memory that each side may have beside the budget, page cache included, MiB.
    #[arg(long, default_value_t = 768, value_parser = clap::value_parser!(u64).range(64..))]
    beside: u64,
    /// Multiplies the records of every case; below 1 a rate may hold less than a few checkpoints.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// One round, a budget of 64 MiB, an eighth of the records: for a first look.
    #[arg(long)]
    quick: bool,
    /// The seed of the keys.
    #[arg(long, default_value_t = crate::job::SEED)]
    seed: u64,
    /// Between two checkpoints of either side, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_interval: u64,
    /// Where the programs keep their files, on a disk [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Runs the peer only: for its tuning.
    #[arg(long, requires = "against")]
    peer_only: bool,
    /// A setting more for the peer, such as state.backend.rocksdb.thread.num=2; goes before its own.
    #[arg(long, value_name = "NAME=VALUE")]
    peer_setting: Vec<String>,
    /// Writes the figures as a page into this file.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// Flink 2.3 DataStream on RocksDB, tuned.
    Flink,
}

/// What holds for all cases.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    backend: Backend,
    /// Bytes for state on each side.
    budget: u64,
    /// Bytes that each side may have, page cache included.
    limit: u64,
    checkpoint_seconds: u64,
    scale: f64,
    /// A rate must be that of so many seconds or more.
    stretch_least: f64,
    work: PathBuf,
    peer_settings: Vec<String>,
}

impl Arguments {
    fn plan(&self) -> Result<Plan> {
        let budget = if self.quick { 64 } else { self.budget };
        let scale = if self.quick {
            self.scale / 8.0
        } else {
            self.scale
        };
        ensure!(scale > 0.0, "--scale is {}; it is above 0", self.scale);
        let work = self.work_dir.clone().unwrap_or_else(std::env::temp_dir);
        disk_below(&work)?;
        let is_whole = !self.quick && scale >= 1.0;
        Ok(Plan {
            seed: self.seed,
            backend: self.backend,
            budget: budget * MIB,
            limit: (budget + self.beside) * MIB,
            checkpoint_seconds: self.checkpoint_interval,
            scale,
            stretch_least: if is_whole {
                (CHECKPOINTS_LEAST * self.checkpoint_interval) as f64
            } else {
                0.0
            },
            work,
            peer_settings: self.peer_setting.clone(),
        })
    }

    fn rounds(&self, case: Case) -> u32 {
        if self.quick || case.size == cases::Size::Ten {
            1
        } else {
            self.rounds
        }
    }

    /// The command line that measures the same again, without the files that this one wrote.
    fn shown(&self) -> String {
        let mut words = vec!["cargo xtask bench state".to_owned()];
        if self.against.is_some() {
            words.push("--against flink".to_owned());
        }
        if self.peer_only {
            words.push("--peer-only".to_owned());
        }
        if self.quick {
            words.push("--quick".to_owned());
        }
        words.push(format!("--backend {}", self.backend.name()));
        let cases = self.cases.iter().map(|size| size.name());
        words.push(format!("--cases {}", cases.collect::<Vec<_>>().join(",")));
        let keys = self.keys.iter().map(|keys| keys.option());
        words.push(format!("--keys {}", keys.collect::<Vec<_>>().join(",")));
        words.push(format!("--rounds {} --scale {}", self.rounds, self.scale));
        words.push(format!("--budget {} --beside {}", self.budget, self.beside));
        words.push(format!("--seed {}", self.seed));
        words.push(format!(
            "--checkpoint-interval {}",
            self.checkpoint_interval
        ));
        words.extend(
            self.peer_setting
                .iter()
                .map(|one| format!("--peer-setting {one}")),
        );
        words.join(" ")
    }
}

/// Runs the benchmark that the command line asks for.
pub(crate) fn main() -> ExitCode {
    match Arguments::try_parse_from(std::env::args_os().skip(1)) {
        Ok(arguments) => tell(measure(&arguments)),
        Err(refusal) => crate::program::refuse(&refusal),
    }
}

/// Measures and prints everything. Returns the names of missed bars.
fn measure(arguments: &Arguments) -> Result<Vec<String>> {
    let plan = arguments.plan()?;
    let peer = match arguments.against {
        Some(Peer::Flink) => Some(Flink::prepare()?),
        None => None,
    };
    println!(
        "each side: {} MiB for state, {} MiB in all with page cache",
        plan.budget / MIB,
        plan.limit / MIB
    );
    if !arguments.peer_only {
        results_first(&plan, peer.as_ref())?;
    }
    let mut table = Table::new(plan.budget);
    for case in cases::all(&arguments.cases, &arguments.keys) {
        let rounds = arguments.rounds(case);
        for round in 1..=rounds {
            let row = one_round(&plan, case, peer.as_ref(), arguments.peer_only)?;
            println!(
                "{}, round {round} of {rounds}: {}",
                case.name(),
                row.shown()
            );
            table.add(case, row);
        }
    }
    println!("\n{table}");
    if let Some(file) = &arguments.page {
        page::write(file, &table, &plan, &arguments.shown())?;
    }
    Ok(table.bars().filter_map(|bar| bar.missed()).collect())
}

/// Keys, and records behind those that give each its account, that are compared before anything is timed.
const COMPARED: (u64, u64) = (200_000, 2_000_000);

/// Both sides book the same payments, and every account is that of an independent count.
fn results_first(plan: &Plan, peer: Option<&Flink>) -> Result<()> {
    for keys in [Keys::Uniform, Keys::Zipf] {
        let work = Work::new(plan, (keys, COMPARED.0), 0, COMPARED.1)?;
        let (ours, _) = ours::finish(plan, &work)?;
        work.expected.check("Highwater", &ours)?;
        let mut who = "an independent count".to_owned();
        if let Some(flink) = peer {
            let (theirs, _) = flink::finish(flink, plan, &work)?;
            work.expected.check("Flink", &theirs)?;
            who = format!("Flink {VERSION} and {who}");
        }
        println!(
            "results, {}: {} records, digest of all accounts {:016x}, the same as {who}",
            keys.name(),
            work.records,
            ours.digest
        );
    }
    Ok(())
}

/// What one run has to do.
#[derive(Debug)]
struct Work {
    payments: Payments,
    /// Records that are in no rate: those that give each key its account, and those that warm up.
    unmeasured: u64,
    /// All records; an even number.
    records: u64,
    expected: Expected,
    /// Holds the table of ranks, if there is one.
    folder: tempfile::TempDir,
}

impl Work {
    fn new(plan: &Plan, (keys, count): (Keys, u64), warm_up: u64, measured: u64) -> Result<Self> {
        let folder = tempfile::tempdir_in(&plan.work)?;
        let ranks = (keys == Keys::Zipf).then(|| Arc::new(Ranks::zipf(count)));
        if let Some(ranks) = &ranks {
            let written = ranks.write(&folder.path().join("ranks"));
            written.context("the table of ranks")?;
        }
        let payments = Payments { keys: count, ranks };
        let unmeasured = count + warm_up;
        let records = (unmeasured + measured).next_multiple_of(2);
        let expected = Expected::count(plan.seed, &payments, records);
        Ok(Self {
            payments,
            unmeasured,
            records,
            expected,
            folder,
        })
    }

    fn ranks(&self) -> Option<PathBuf> {
        let file = || self.folder.path().join("ranks");
        self.payments.ranks.is_some().then(file)
    }

    /// The arguments that both jobs know by the same names.
    fn arguments(&self, seed: u64) -> Vec<(&'static str, String)> {
        let mut given = vec![
            ("count", self.records.to_string()),
            ("keys", self.payments.keys.to_string()),
            ("seed", seed.to_string()),
        ];
        given.extend(
            self.ranks()
                .map(|file| ("ranks", file.display().to_string())),
        );
        given
    }
}

/// Each side once, in turn.
fn one_round(plan: &Plan, case: Case, peer: Option<&Flink>, peer_only: bool) -> Result<Row> {
    let keys = case.keys_of(plan.budget);
    let records = case.records(plan.scale);
    let run = |who: &str, measured: u64, start: &dyn Fn(&Work) -> Result<Measured>| {
        let work = Work::new(plan, (case.keys, keys), records.warm_up, measured)?;
        let found = start(&work).with_context(|| format!("{who}, {}", case.name()))?;
        work.expected.check(who, &found.run)?;
        anyhow::Ok(found)
    };
    let ours = if peer_only {
        None
    } else {
        Some(run("Highwater", records.ours, &|work| {
            ours::run(plan, work)
        })?)
    };
    let peer = match peer {
        None => None,
        Some(flink) => Some(run("Flink", records.peer, &|work| {
            flink::run(flink, plan, work)
        })?),
    };
    Ok(Row { ours, peer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_the_command_that_measures_the_same() {
        let shown = |words: &[&str]| Arguments::parse_from(words.iter().copied()).shown();
        let alone = ["state", "--against", "flink", "--peer-only"];
        assert!(shown(&alone).contains("--against flink --peer-only "));
        assert!(!shown(&alone[..3]).contains("--peer-only"));
    }
}
