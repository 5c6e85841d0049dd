//! The page of figures in the repository: what was measured, by which command, on what kind of machine.
//!
//! It names no path and no host, and gives the peer as a ratio first: absolute figures hold for one machine only.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::figures::Figures;
use crate::flink;
use crate::machine::{bars_as_rows, machine, today};

/// Writes the page.
pub(super) fn write(file: &Path, figures: &Figures, command: &str) -> Result<()> {
    std::fs::write(file, text(figures, command, &machine()?, &today()?)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

fn text(figures: &Figures, command: &str, machine: &str, today: &str) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "# Count by key, a million keys\n")?;
    writeln!(
        text,
        "Written by `{command}` on {today}, on {machine}. Highwater {}{}. Each figure is \
         the median of {} rounds with least and most; all sides ran in turn in one call, and the output of every run was \
         compared with an independent count before its time was used. Compare ratios: an absolute figure holds for one \
         machine and what else it did.\n",
        env!("CARGO_PKG_VERSION"),
        if figures.has_peer {
            format!(
                ", Flink {} (DataStream, parallel collector, object reuse, heap state)",
                flink::VERSION
            )
        } else {
            String::new()
        },
        figures.rounds.len()
    )?;
    bars_as_rows(&mut text, figures.bars())?;
    writeln!(text, "\n| figure | value |\n|---|---|")?;
    for (name, value) in figures.lines() {
        writeln!(text, "| {name} | {value} |")?;
    }
    Ok(text)
}
