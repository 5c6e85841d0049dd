//! `rest`: the OpenAPI document and the server, compared by a fuzz that the document drives.
//!
//! Started by `cargo xtask acceptance rest`. A real job answers on loopback, without authentication and with tokens; schemathesis
//! asks every operation for what the document allows and for what it does not, and compares each answer with the document.
//! What would end the job is asked for in two ways: so that it must be refused while the job goes on, and so that it is
//! granted, of a job that is started again each time. The rule: no answer is a server error, none differs from the document,
//! and a job that nobody may end runs on as before.

mod fuzz;
mod graph;
mod place;
mod report;
mod run;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use highwater_testkit::Schemathesis;

pub(crate) use self::graph::build;

use self::fuzz::Fuzz;
use self::place::{Place, keep};
use self::report::{Report, findings};
use self::run::{Amount, Asks, RUNS, Run};
use crate::program::refuse;

/// Asks a real job on loopback for everything that its OpenAPI document allows and does not allow, and compares each answer
/// with the document.
///
/// Without authentication, with a token that may write, with one that may only read, and with none. Stops that are granted
/// are asked of a job that is started again each time. Needs Python 3.11 with venv; the first start fetches schemathesis
/// into the user's cache. The last line is the verdict.
#[derive(Debug, Parser)]
#[command(
    name = "rest",
    after_help = "Examples:\n  cargo xtask acceptance rest --quick\n  \
                  cargo xtask acceptance rest --only write --seed 7 --examples 200"
)]
struct Arguments {
    /// Requests that are drawn for each operation, beside those at the edges of the document.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    examples: u32,
    /// What is drawn follows from it, and from what the job answers.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Fewer requests, about a minute in all.
    #[arg(long, conflicts_with = "examples")]
    quick: bool,
    /// Only the run of this name.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Requests drawn with `--quick`.
const EXAMPLES_QUICK: u32 = 8;
/// A stop that is granted costs a start of the job: so many fewer are drawn.
const STOPS_SHARE: u32 = 2;

impl Arguments {
    fn amount(&self, asks: Asks) -> Amount {
        let examples = if self.quick {
            EXAMPLES_QUICK
        } else {
            self.examples
        };
        Amount {
            seed: self.seed,
            examples: match asks {
                Asks::Everything => examples,
                Asks::Stops => examples / STOPS_SHARE,
            },
            is_quick: self.quick,
        }
    }

    /// The command line that asks for one run again.
    fn again(&self, run: &Run) -> String {
        let amount = if self.quick {
            "--quick".to_owned()
        } else {
            format!("--examples {}", self.examples)
        };
        let (name, seed) = (run.name, self.seed);
        format!("cargo xtask acceptance rest --only {name} --seed {seed} {amount}")
    }
}

/// Runs what the command line asks for.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(refusal) => return refuse(&refusal),
    };
    let (word, text) = match check(&arguments) {
        Ok(text) => ("pass", text),
        Err(error) => ("fail", format!("{error:#}").replace('\n', " ")),
    };
    println!("VERDICT {word}: {text}");
    ExitCode::from(u8::from(word == "fail"))
}

/// Runs what was asked for in a folder of its own, which stays where something was found.
fn check(arguments: &Arguments) -> Result<String> {
    let only = arguments.only.as_deref();
    let runs = RUNS.iter();
    let runs: Vec<_> = runs
        .filter(|run| only.is_none_or(|only| only == run.name))
        .collect();
    if runs.is_empty() {
        let names: Vec<_> = RUNS.iter().map(|run| run.name).collect();
        bail!("no run has this name; there is: {}", names.join(", "));
    }
    let schemathesis = Schemathesis::fetch()?;
    println!("{}, seed {}", Schemathesis::version(), arguments.seed);
    let folder = tempfile::Builder::new()
        .prefix("highwater-rest-")
        .tempdir()?;
    let told = all(arguments, &runs, &schemathesis, folder.path());
    if told.is_err() {
        let folder = folder.keep();
        println!(
            "documents, settings, reports and logs: {}",
            folder.display()
        );
    }
    told
}

fn all(
    arguments: &Arguments,
    runs: &[&Run],
    schemathesis: &Schemathesis,
    folder: &Path,
) -> Result<String> {
    println!(
        "{:<12} {:>10} {:>8} {:>13} {:>9} {:>7} {:>6} {:>8}",
        "run", "operations", "cases", "server errors", "failures", "errors", "stops", "seconds"
    );
    let (mut cases, mut stops, mut wrong) = (0, 0, Vec::new());
    for run in runs {
        let folder = folder.join(run.name);
        let started = Instant::now();
        let outcome = one(arguments.amount(run.asks), run, schemathesis, &folder);
        let outcome = outcome.with_context(|| run.name)?;
        outcome.print(run, started.elapsed().as_secs_f64());
        cases += outcome.report.cases;
        stops += outcome.stops.unwrap_or(0);
        if let Some(words) = outcome.wrong() {
            println!("again: {}", arguments.again(run));
            wrong.push(format!("{}: {words}", run.name));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(format!(
        "{} runs, {cases} requests, {stops} jobs stopped, 0 server errors, every answer as the document says",
        runs.len()
    ))
}

/// What came of a run.
struct Outcome {
    report: Report,
    /// What schemathesis printed of failures and errors.
    found: String,
    /// What is wrong with the job afterwards.
    harm: Option<String>,
    /// Jobs that were stopped, where that was asked for.
    stops: Option<u32>,
}

impl Outcome {
    /// What is wrong in a few words; `None` = nothing.
    fn wrong(&self) -> Option<String> {
        let report = &self.report;
        let mut wrong = Vec::new();
        if !report.is_clean() {
            let (server, other) = (report.server_errors(), report.failures());
            let errors = report.errors();
            wrong.push(format!(
                "{server} server errors, {other} other failures, {errors} errors"
            ));
        }
        wrong.extend(self.harm.clone());
        (!wrong.is_empty()).then(|| wrong.join(", "))
    }

    fn print(&self, run: &Run, seconds: f64) {
        let report = &self.report;
        let stops = self
            .stops
            .map_or_else(|| "-".to_owned(), |stops| stops.to_string());
        println!(
            "{:<12} {:>10} {:>8} {:>13} {:>9} {:>7} {stops:>6} {seconds:>8.1}",
            run.name,
            report.operations,
            report.cases,
            report.server_errors(),
            report.failures(),
            report.errors()
        );
        for line in report.lines() {
            println!("    {line}");
        }
        if !self.found.is_empty() {
            println!("{}", self.found);
        }
        if let Some(harm) = &self.harm {
            println!("    {harm}");
        }
    }
}

/// One run.
fn one(amount: Amount, run: &Run, schemathesis: &Schemathesis, folder: &Path) -> Result<Outcome> {
    let place = Place::new(folder, run.caller)?;
    let fuzz = Fuzz {
        schemathesis,
        run,
        amount,
        place: &place,
        folder,
    };
    let mut outcome = match run.asks {
        Asks::Everything => everything(&fuzz)?,
        Asks::Stops => stops(&fuzz)?,
    };
    let log = std::fs::read(fuzz.log())?;
    findings(&String::from_utf8_lossy(&log)).clone_into(&mut outcome.found);
    Ok(outcome)
}

/// Asks one job for everything. It runs on.
fn everything(fuzz: &Fuzz<'_>) -> Result<Outcome> {
    let mut job = fuzz.place.start(0)?;
    fuzz.place.wait(|| job.lives())?;
    let report = fuzz.ask(&AtomicBool::new(false))?;
    Ok(Outcome {
        report,
        found: String::new(),
        harm: fuzz.place.harm(&mut job)?,
        stops: None,
    })
}

/// Asks one job after another for its stop.
fn stops(fuzz: &Fuzz<'_>) -> Result<Outcome> {
    let (over, is_gone) = (AtomicBool::new(false), AtomicBool::new(false));
    let (report, stops) = std::thread::scope(|scope| {
        let keeping = scope.spawn(|| {
            let kept = keep(fuzz.place, &over);
            is_gone.store(kept.is_err(), Ordering::Relaxed);
            kept
        });
        let lives = || {
            ensure!(!is_gone.load(Ordering::Relaxed), "the job is gone for good");
            Ok(())
        };
        let report = fuzz.place.wait(lives).and_then(|()| fuzz.ask(&is_gone));
        over.store(true, Ordering::Relaxed);
        let kept = keeping.join();
        // Why the job is gone says more than that it is.
        let stops = kept.map_err(|_| anyhow!("what keeps the job panicked"))??;
        Ok::<_, anyhow::Error>((report?, stops))
    })?;
    Ok(Outcome {
        report,
        found: String::new(),
        harm: (stops == 0).then(|| "no request stopped a job".to_owned()),
        stops: Some(stops),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(harm: Option<&str>) -> Outcome {
        let clean = r#"{"stop_reason": "completed", "operations": {"selected": 1, "tested": 1},
            "test_cases": {"generated": 5}, "failures": [], "errors": []}"#;
        Outcome {
            report: Report::parse(clean).unwrap(),
            found: String::new(),
            harm: harm.map(str::to_owned),
            stops: None,
        }
    }

    #[test]
    fn a_job_that_was_harmed_is_wrong_however_good_its_answers_are() {
        assert_eq!(outcome(None).wrong(), None);
        let wrong = outcome(Some("the job ended")).wrong();
        assert_eq!(wrong.as_deref(), Some("the job ended"));
    }

    #[test]
    fn runs_have_names_of_their_own_and_can_be_asked_for_again() {
        for (at, run) in RUNS.iter().enumerate() {
            assert!(RUNS[at + 1..].iter().all(|other| other.name != run.name));
        }
        let line = ["rest", "--quick", "--seed", "7"];
        let arguments = Arguments::try_parse_from(line).unwrap();
        let again = arguments.again(&RUNS[0]);
        assert_eq!(
            again,
            "cargo xtask acceptance rest --only open --seed 7 --quick"
        );
        assert!(Arguments::try_parse_from(["rest", "--quick", "--examples", "9"]).is_err());
    }

    #[test]
    fn fewer_stops_are_drawn_than_other_requests() {
        let arguments = Arguments::try_parse_from(["rest"]).unwrap();
        let of = |asks| arguments.amount(asks).examples;
        assert!(0 < of(Asks::Stops) && of(Asks::Stops) < of(Asks::Everything));
    }
}
