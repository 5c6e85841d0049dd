//! The page of figures in the repository: what was measured, by which command, on what kind of machine.
//!
//! It names no path and no host, and gives the peer as a ratio first: absolute figures hold for one machine only.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::figures::Figures;
use super::flink;

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
    writeln!(text, "| bar | promised | found | |\n|---|---|---|---|")?;
    for bar in figures.bars() {
        let (sign, bound) = match bar.bound {
            super::bars::Bound::AtLeast(bound) => ("at least", bound),
            super::bars::Bound::AtMost(bound) => ("at most", bound),
        };
        let word = if bar.missed().is_some() {
            "**missed**"
        } else {
            "met"
        };
        let (unit, value) = (bar.unit, bar.value);
        writeln!(
            text,
            "| {} | {sign} {bound}{unit} | {value:.2}{unit} | {word} |",
            bar.name
        )?;
    }
    writeln!(text, "\n| figure | value |\n|---|---|")?;
    for (name, value) in figures.lines() {
        writeln!(text, "| {name} | {value} |")?;
    }
    Ok(text)
}

/// The class of this machine: cores and kind of processor.
fn machine() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("an unnamed processor", |rest| {
        rest.trim_start_matches([' ', '\t', ':'])
    });
    Ok(format!("{cores} cores of {model}"))
}

fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
