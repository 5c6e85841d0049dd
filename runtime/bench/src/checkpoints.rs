//! `checkpoints`: what a checkpoint costs when little, much or all of the state changed, and what a restore costs.
//!
//! Started by `cargo xtask bench checkpoints`. The state job sweeps over its keys exactly as far as a file says, so that
//! between two checkpoints exactly the given share of keys changed; checkpoints go to a real S3 store. A second job takes
//! thousands of checkpoints under load for the pauses. After a restore the accounts are compared with an independent
//! count. The rule: what the job does not tell is shown as not told, never guessed.

mod figures;
mod job;
mod pauses;
mod restore;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use highwater_testkit::S3;

use self::figures::{Checkpoint, Table};
use self::job::{ONLY_WHEN_ASKED, Running, Setup};
use crate::machine::{bars_as_rows, machine, today};
use crate::program::{Backend, disk_below, refuse, tell};
use crate::state_job::{ROW_BYTES, keys_of};

/// Measures checkpoints of large state: bytes and seconds by the share of keys that changed, pauses over thousands of
/// checkpoints, and seconds of a restore from the store and from local files.
///
/// Checkpoints go to a real S3 store on loopback. The last line is the verdict.
#[derive(Debug, Parser)]
#[command(
    name = "checkpoints",
    after_help = "Examples:\n  cargo xtask bench checkpoints --quick --backend heap\n  \
                  cargo xtask bench checkpoints --page bench/checkpoints.md"
)]
struct Arguments {
    /// Our backend of state.
    #[arg(long, value_enum, default_value = "rocksdb")]
    backend: Backend,
    /// Sizes of state in GB (10^9 bytes of rows), separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,10")]
    sizes: Vec<f64>,
    /// Shares of keys that change between two checkpoints, in percent, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0,1,10,100")]
    changed: Vec<u32>,
    /// How often each share is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Checkpoints over which pauses are measured; 0 leaves them out.
    #[arg(long, default_value_t = 2_000)]
    pauses: u64,
    /// Records a second while pauses are measured; more than the machine can process is more than it will.
    #[arg(long, default_value_t = 50_000.0)]
    rate: f64,
    /// Memory for state, MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..))]
    budget: u64,
    /// State of 0.1 GB, one round, 100 pauses: for a first look.
    #[arg(long)]
    quick: bool,
    /// The seed of the payments.
    #[arg(long, default_value_t = crate::job::SEED)]
    seed: u64,
    /// Where the programs keep their files, on a disk [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Writes the figures as a page into this file.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

impl Arguments {
    fn work(&self) -> PathBuf {
        self.work_dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// The command line that measures the same again, without the files that this one wrote.
    fn shown(&self) -> String {
        let sizes: Vec<_> = self.sizes.iter().map(f64::to_string).collect();
        let changed: Vec<_> = self.changed.iter().map(u32::to_string).collect();
        format!(
            "cargo xtask bench checkpoints{} --backend {} --sizes {} --changed {} --rounds {} --pauses {} --rate {} \
             --budget {} --seed {}",
            if self.quick { " --quick" } else { "" },
            self.backend.name(),
            sizes.join(","),
            changed.join(","),
            self.rounds,
            self.pauses,
            self.rate,
            self.budget,
            self.seed
        )
    }
}

/// Runs the benchmark that the command line asks for.
pub(crate) fn main() -> ExitCode {
    match Arguments::try_parse_from(std::env::args_os().skip(1)) {
        Ok(mut arguments) => {
            if arguments.quick {
                arguments.sizes = vec![0.1];
                arguments.rounds = 1;
                arguments.pauses = arguments.pauses.min(100);
            }
            tell(measure(&arguments))
        }
        Err(refusal) => refuse(&refusal),
    }
}

/// Measures and prints everything. Returns the names of missed bars.
fn measure(arguments: &Arguments) -> Result<Vec<String>> {
    ensure!(
        !arguments.sizes.is_empty() && arguments.sizes.iter().all(|size| *size > 0.0),
        "--sizes are GB above 0"
    );
    ensure!(
        arguments.rate > 0.0,
        "--rate is {}; it is above 0",
        arguments.rate
    );
    disk_below(&arguments.work())?;
    let mut table = Table::default();
    for &size in &arguments.sizes {
        one_size(arguments, size, &mut table).with_context(|| format!("{size} GB"))?;
    }
    if arguments.pauses > 0 {
        let setup = setup(arguments, arguments.sizes[0])?;
        table.pauses = Some(pauses::measure(&setup, arguments.pauses, arguments.rate)?);
    }
    println!("\n{table}");
    if let Some(file) = &arguments.page {
        write_page(file, &table, arguments)?;
    }
    Ok(table.bars().filter_map(|bar| bar.missed()).collect())
}

/// Bytes of memory for state of so many GB.
fn budget_of(arguments: &Arguments, size: f64) -> u64 {
    // All state of the heap backend must fit: a row of 74 bytes takes about twice as much there, and as much again is room.
    let needed = match arguments.backend {
        Backend::Heap => keys_of(size) * ROW_BYTES * 4,
        Backend::Rocksdb => 0,
    };
    needed.max(arguments.budget << 20)
}

fn setup(arguments: &Arguments, size: f64) -> Result<Setup> {
    Ok(Setup {
        s3: S3::start_temporary().context("the S3 server")?,
        folder: tempfile::tempdir_in(arguments.work())?,
        backend: arguments.backend,
        budget: budget_of(arguments, size),
        keys: keys_of(size),
        seed: arguments.seed,
    })
}

/// Checkpoints and restores of one size.
fn one_size(arguments: &Arguments, size: f64, table: &mut Table) -> Result<()> {
    let setup = setup(arguments, size)?;
    let mut running = Running::start(&setup, 0, 0, ONLY_WHEN_ASKED)?;
    running.advance(setup.keys)?;
    let mut note = |what: &str, one: Checkpoint| {
        println!("{size} GB, {what}: {one}");
        table
            .checkpoints
            .entry((millis(size), what.to_owned()))
            .or_default()
            .push(one);
    };
    note("all new", running.checkpoint()?);
    running.settle()?;
    note("merged after that", running.checkpoint()?);
    for &percent in &arguments.changed {
        for _ in 0..arguments.rounds {
            running.advance(setup.keys * u64::from(percent) / 100)?;
            note(&format!("{percent} % changed"), running.checkpoint()?);
        }
    }
    for (from, found) in restore::measure(&setup, running)? {
        println!("{size} GB, restore from {from}: {found}");
        table.restores.push((size, from, found));
    }
    Ok(())
}

/// A size as a key that has an order.
fn millis(size: f64) -> u64 {
    (size * 1_000.0).round() as u64
}

fn write_page(file: &Path, table: &Table, arguments: &Arguments) -> Result<()> {
    use std::fmt::Write as _;
    let mut text = String::new();
    let budgets = arguments.sizes.iter().map(|&size| {
        let mib = budget_of(arguments, size) >> 20;
        format!("{mib} MiB for {size} GB")
    });
    writeln!(text, "# Checkpoints of large state\n")?;
    writeln!(
        text,
        "Written by `{}` on {}, on {}. Highwater {}, backend {}, checkpoints in a real S3 store on loopback. Memory for \
         state: {}. Sizes count bytes of rows (74 for a key); seconds are from the trigger to the write of head, medians with \
         least and most. A first checkpoint has what came in, a second one what compaction made of it; then shares of the keys \
         change. The accounts after each restore were compared with an independent count.\n",
        arguments.shown(),
        today()?,
        machine()?,
        env!("CARGO_PKG_VERSION"),
        arguments.backend.name(),
        budgets.collect::<Vec<_>>().join(", "),
    )?;
    bars_as_rows(&mut text, table.bars())?;
    writeln!(
        text,
        "\n| state | checkpoint | written, MB | seconds |\n|---|---|---|---|"
    )?;
    for line in table.checkpoint_lines() {
        writeln!(text, "| {} |", line.join(" | "))?;
    }
    writeln!(text, "\n| figure | value |\n|---|---|")?;
    for line in table.other_lines() {
        writeln!(text, "| {} |", line.join(" | "))?;
    }
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_at_which_nothing_comes_is_refused() {
        for rate in ["0", "-1", "NaN"] {
            let option = format!("--rate={rate}");
            let arguments = Arguments::parse_from(["checkpoints", option.as_str()]);
            let refused = measure(&arguments).unwrap_err().to_string();
            assert_eq!(refused, format!("--rate is {rate}; it is above 0"));
        }
    }

    #[test]
    fn the_heap_gets_as_much_memory_as_all_state_takes() {
        let budget = |backend: &str| {
            let arguments = Arguments::parse_from(["checkpoints", "--backend", backend]);
            budget_of(&arguments, 1.0) >> 20
        };
        assert_eq!(budget("rocksdb"), 512);
        assert!(budget("heap") > 3_000);
    }
}
