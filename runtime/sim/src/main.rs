//! `highwater-sim`: runs seeds of the simulator and says whether the protocol held.
//!
//! The last line is the verdict. A failing seed is printed with the command that repeats it.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use highwater_sim::{SeedReport, Totals, regression_seeds, run_seed, run_seeds};

/// Runs the production machines of the protocol in a simulated world of faults.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// How many seeds to run; with planted bugs, at most so many for each [default: 1000, for bugs 5000]
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Runs this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes what happens in the run of one seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs every planted bug until an oracle catches it.
    #[arg(long)]
    mutants: bool,
    /// Plants this bug only; with --seed in one run.
    #[arg(long)]
    mutant: Option<String>,
    /// Threads over which seeds are divided.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A panic of a machine is a finding of its run; the report says it once.
    std::panic::set_hook(Box::new(|_| {}));
    let passed = if options.mutants || options.mutant.is_some() {
        planted::run(&options)
    } else if let Some(seed) = options.seed {
        one(seed, options.trace)
    } else {
        many(&options)
    };
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(seed: u64, trace: bool) -> bool {
    let report = run_seed(seed, trace);
    for violation in &report.violations {
        say(&format!("  {violation}"));
    }
    let SeedReport {
        checkpoints,
        events,
        trace_hash,
        restores,
        ..
    } = &report;
    let passed = report.violations.is_empty();
    let word = if passed { "pass" } else { "fail" };
    say(&format!(
        "VERDICT {word}: seed {seed}, {checkpoints} checkpoints, {restores} attempts, {events} events, trace hash \
         {trace_hash:016x}"
    ));
    passed
}

fn many(options: &Options) -> bool {
    let mut failures = Vec::new();
    let regressions = regression_seeds();
    for &seed in &regressions {
        let report = run_seed(seed, false);
        if !report.violations.is_empty() {
            failures.push(report);
        }
    }
    let totals = run_seeds(
        options.start,
        options.seeds.unwrap_or(1_000),
        options.threads,
        || {},
    );
    failures.extend(totals.failures.iter().cloned());
    say_totals(&totals, regressions.len());
    for report in failures.iter().take(10) {
        say(&format!("seed {}: {}", report.seed, report.violations[0]));
    }
    match failures.first() {
        None => {
            let median = totals.checkpoints_median();
            say(&format!(
                "VERDICT pass: {} seeds, median {median} checkpoints",
                totals.runs
            ));
        }
        Some(first) => say(&format!(
            "VERDICT fail: {} of {} seeds; repeat: highwater-sim --seed {} --trace",
            failures.len(),
            totals.runs,
            first.seed
        )),
    }
    failures.is_empty()
}

fn say_totals(totals: &Totals, regressions: usize) {
    say(&format!(
        "seeds: {}, regression seeds: {regressions}, events: {}",
        totals.runs, totals.events
    ));
    let checkpoints: u64 = totals.checkpoints.iter().sum();
    say(&format!(
        "checkpoints: {checkpoints}, median per seed {}, with files of older ones: {}",
        totals.checkpoints_median(),
        totals.sharing
    ));
    say(&format!(
        "attempts: {}, adoptions: {}, went back: {}, of them to savepoints: {}, savepoints and stops: {}, \
         named stops: {}",
        totals.restores,
        totals.adoptions,
        totals.rebased,
        totals.taken,
        totals.requests,
        totals.named_stops
    ));
    say(&format!(
        "redeployments: {}, of them rescales: {}",
        totals.redeployments, totals.rescales
    ));
    let steps: Vec<String> = totals
        .stopped_at
        .iter()
        .map(|(step, count)| format!("{step} {count}"))
        .collect();
    say(&format!("processes stopped at steps: {}", steps.join(", ")));
}

#[cfg(not(feature = "mutants"))]
mod planted {
    use super::{Options, say};

    pub(super) fn run(_: &Options) -> bool {
        say("VERDICT fail: built without planted bugs; build with --features mutants");
        false
    }
}

#[cfg(feature = "mutants")]
mod planted {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use highwater_protocol::mutant::{Mutant, select};
    use highwater_sim::hunt;

    use super::{Options, one, say};

    pub(super) fn run(options: &Options) -> bool {
        let chosen: Vec<Mutant> = match options.mutant.as_deref().map(str::parse) {
            None => Mutant::ALL.to_vec(),
            Some(Ok(mutant)) => vec![mutant],
            Some(Err(error)) => {
                say(&format!("VERDICT fail: {error}"));
                return false;
            }
        };
        if let (Some(seed), [mutant]) = (options.seed, &chosen[..]) {
            select(Some(*mutant));
            return !one(seed, options.trace);
        }
        let seeds = options.seeds.unwrap_or(5_000);
        let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..options.threads.max(1) {
                scope.spawn(|| {
                    while let Some(&mutant) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = hunt(mutant, options.start, seeds);
                        say(&found.as_ref().map_or_else(
                            || format!("{mutant}: NOT CAUGHT in {seeds} seeds"),
                            |found| {
                                let (runs, seed) = (found.runs, found.seed);
                                format!(
                                    "{mutant}: caught after {runs} seeds, seed {seed}, {}",
                                    found.text
                                )
                            },
                        ));
                        if found.is_none() {
                            missed.lock().expect("no thread panics here").push(mutant);
                        }
                    }
                });
            }
        });
        let missed = missed.into_inner().expect("all threads have ended");
        let (caught, all) = (chosen.len() - missed.len(), chosen.len());
        let word = if missed.is_empty() { "pass" } else { "fail" };
        say(&format!(
            "VERDICT {word}: {caught} of {all} planted bugs caught, missed {missed:?}"
        ));
        missed.is_empty()
    }
}
