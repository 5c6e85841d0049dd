//! The page of figures in the repository. It names no path and no host; ratios hold longer than what they are made of.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::figures::Table;
use super::{MIB, Plan, flink};
use crate::flink::VERSION;
use crate::machine::{bars_as_rows, machine, today};

/// Writes the page.
pub(super) fn write(file: &Path, table: &Table, plan: &Plan, command: &str) -> Result<()> {
    std::fs::write(file, text(table, plan, command)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

fn text(table: &Table, plan: &Plan, command: &str) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "# State in memory and state that outgrows it\n")?;
    writeln!(
        text,
        "Written by `{command}` on {}, on {}. Highwater {}, backend {}; Flink {VERSION}, RocksDB. Each figure is the \
         median of all rounds with least and most; both sides ran in turn in one call, and the accounts of every run were \
         compared with an independent count before its time was used. Compare ratios: an absolute figure holds for one \
         machine and what else it did.\n",
        today()?,
        machine()?,
        env!("CARGO_PKG_VERSION"),
        plan.backend.name(),
    )?;
    writeln!(
        text,
        "Each record reads, changes and writes the account of a key (64 bytes, value state in a keyed process function, on \
         both sides). Each side has {} MiB for state and runs inside a limit of {} MiB that the kernel enforces, page cache \
         included. CPU time is that of the whole process tree, compaction threads included. The size of state counts bytes \
         of rows. Checkpoints each {} s, exactly once, incremental where the backend can.\n",
        plan.budget / MIB,
        plan.limit / MIB,
        plan.checkpoint_seconds
    )?;
    let more = plan.peer_settings.iter().map(String::as_str);
    let common = crate::flink::SETTINGS.iter().chain(flink::SETTINGS);
    let settings: Vec<_> = common.copied().chain(more).collect();
    writeln!(
        text,
        "Flink runs with a heap of {} MiB beside {} MiB of managed memory, jemalloc, the parallel collector, and `{}`. Both \
         sides skip as many records behind those that give each key its account before their rates begin.\n",
        flink::HEAP_MIB,
        plan.budget / MIB,
        settings.join("`, `")
    )?;
    bars_as_rows(&mut text, table.bars())?;
    writeln!(
        text,
        "\n| case | figure | Highwater | Flink |\n|---|---|---|---|"
    )?;
    for line in table.lines() {
        writeln!(text, "| {} |", line.join(" | "))?;
    }
    Ok(text)
}
