//! `instructions`: how many instructions a record costs on its way through a whole slice, against a checked-in number.
//!
//! Times are noise on a shared machine; instructions are not. The slice of [`one_thread`] runs under valgrind, which
//! counts alike on every machine of one architecture, with two numbers of records: the difference over the difference is
//! the cost of a record, without start and end. A lock, an allocation or a virtual call for each record costs tens of
//! instructions and leaves the tolerance; a slower algorithm does too. The rule: the number moves only with `--write`,
//! in the commit that says why.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::one_thread;

/// The least and most records that are run. The keys are all there behind the first.
const RECORDS: (u64, u64) = (1_500_000, 2_500_000);
/// How far a number may be from the checked-in one.
const TOLERANCE: f64 = 0.04;
/// Where the number is kept, from the root of the repository.
const BASELINE: &str = "bench/instructions.txt";

/// Counts the instructions of a record from the generator over an exchange and keyed state to the sink.
///
/// Needs valgrind (`apt-get install valgrind`). Fails when the number is more than 4 % from the one in
/// `bench/instructions.txt`, in either direction: fewer is good news that belongs into the file.
#[derive(Debug, Parser)]
#[command(name = "instructions")]
struct Arguments {
    /// Writes the number as the new one to hold.
    #[arg(long)]
    write: bool,
    /// Only runs the slice, with this many records: what is counted.
    #[arg(long, hide = true)]
    run: Option<u64>,
}

/// Runs the benchmark that the command line asks for.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(refusal) => {
            let told = refusal.print();
            let wrong = told.is_err() || refusal.use_stderr();
            return ExitCode::from(if wrong { 2 } else { 0 });
        }
    };
    if let Some(records) = arguments.run {
        return match one_thread::run(records) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let (word, text) = match measure(arguments.write) {
        Ok(text) => ("pass", text),
        Err(error) => ("fail", format!("{error:#}").replace('\n', " ")),
    };
    println!("VERDICT {word}: {text}");
    ExitCode::from(u8::from(word == "fail"))
}

fn measure(write: bool) -> Result<String> {
    let (few, many) = (counted(RECORDS.0)?, counted(RECORDS.1)?);
    let each = many.saturating_sub(few) as f64 / (RECORDS.1 - RECORDS.0) as f64;
    let file = baseline()?;
    if write {
        std::fs::write(&file, format!("{each:.1}\n"))?;
        return Ok(format!(
            "{each:.1} instructions a record, written to {BASELINE}"
        ));
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("{BASELINE} is missing"))?;
    let held: f64 = text.trim().parse().context("not a number")?;
    let off = each / held - 1.0;
    ensure!(
        off.abs() <= TOLERANCE,
        "{each:.1} instructions a record, {held:.1} in {BASELINE}: {:+.1} %; mend it, or say why in the commit that \
         takes `cargo xtask bench instructions --write`",
        off * 100.0
    );
    Ok(format!(
        "{each:.1} instructions a record, {held:.1} in {BASELINE}"
    ))
}

fn baseline() -> Result<PathBuf> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.ancestors().nth(2);
    Ok(root
        .context("the crate lies two folders deep")?
        .join(BASELINE))
}

/// The instructions of a run with this many records.
fn counted(records: u64) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind");
    command.arg(format!(
        "--callgrind-out-file={}",
        folder.path().join("out").display()
    ));
    command.arg(std::env::current_exe()?);
    command.args(["instructions", "--run", &records.to_string()]);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("install valgrind: apt-get install valgrind")
        }
        Err(error) => return Err(error).context("valgrind does not start"),
    };
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "valgrind ended with {}: {told}",
        output.status
    );
    let line = told.lines().find_map(|line| line.split_once("Collected :"));
    let number = line.and_then(|(_, number)| number.trim().parse().ok());
    number.context("valgrind told no number of instructions")
}
