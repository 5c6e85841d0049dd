//! What every page of figures says: the machine, the day and the commit, with nothing that names a host, and the bars.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;

use crate::bars::{Bar, Bound};

/// The class of this machine: cores and kind of processor.
pub(crate) fn machine() -> Result<String> {
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

/// The date, in UTC.
pub(crate) fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The commit that the sources are of, with a word more where they differ from it.
pub(crate) fn commit() -> String {
    let told = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let told = told.ok().filter(|told| !told.is_empty());
    told.unwrap_or_else(|| "unknown".to_owned())
}

/// The bars as rows of a table.
pub(crate) fn bars_as_rows(text: &mut String, bars: impl Iterator<Item = Bar>) -> Result<()> {
    writeln!(text, "| bar | promised | found | |\n|---|---|---|---|")?;
    for bar in bars {
        let (sign, bound) = match bar.bound {
            Bound::AtLeast(bound) => ("at least", bound),
            Bound::AtMost(bound) => ("at most", bound),
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
    Ok(())
}
