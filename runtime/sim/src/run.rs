//! Runs of seeds: one seed with its swarm configuration, ranges of seeds over threads, planted bugs.
//!
//! Called by the binary and by tests. A panic of a machine is a caught assertion: the run fails with its message. Threads
//! only divide the seeds; each run is single-threaded and depends on its seed alone.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_protocol::steps::Step;

use crate::swarm::Swarm;
use crate::world::{Outcome, World};

/// What a run of one seed showed.
#[derive(Clone, Debug)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// What was wrong, each text beginning with the name of its oracle. Empty = passed.
    pub violations: Vec<String>,
    /// Completed checkpoints.
    pub checkpoints: u64,
    /// A hash of everything that happened: equal for equal seeds.
    pub trace_hash: u64,
    /// How often a process was stopped exactly at a step.
    pub stopped_at: BTreeMap<Step, u64>,
    /// How often each step was reached.
    pub reached: BTreeMap<Step, u64>,
    /// Attempts that were started.
    pub restores: u64,
    /// Takeovers that went on with running attempts.
    pub adoptions: u64,
    /// Checkpoints that were given up for an older state.
    pub rebased: u64,
    /// Savepoints that were gone back to.
    pub taken: u64,
    /// Completed checkpoints that refer to files of older ones.
    pub sharing: u64,
    /// Savepoints and stops that were completed.
    pub requests: u64,
    /// Redeployments behind which tasks run again.
    pub redeployments: u64,
    /// The rescales among them, as their users heard.
    pub rescales: u64,
    /// Whether the job stopped by name.
    pub named_stop: bool,
    /// Events handled.
    pub events: u64,
}

impl SeedReport {
    fn new(seed: u64, outcome: Outcome) -> Self {
        Self {
            seed,
            violations: outcome.violations,
            checkpoints: outcome.checkpoints,
            trace_hash: outcome.hash,
            stopped_at: outcome.stopped_at,
            reached: outcome.reached,
            restores: outcome.restores,
            adoptions: outcome.adoptions,
            rebased: outcome.rebased,
            taken: outcome.taken,
            sharing: outcome.sharing,
            requests: outcome.requests,
            redeployments: outcome.redeployments,
            rescales: outcome.rescales,
            named_stop: outcome.named_stop,
            events: outcome.events,
        }
    }

    /// The oracle that spoke first.
    pub fn oracle(&self) -> Option<&str> {
        self.violations
            .first()
            .and_then(|text| text.split(':').next())
    }
}

/// Runs one seed; with `trace`, every step is written to standard output.
pub fn run_seed(seed: u64, trace: bool) -> SeedReport {
    let run = || World::new(seed, Swarm::of(seed), trace).run();
    let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        });
        let text = text.unwrap_or_else(|| "a panic without a message".to_owned());
        Outcome {
            violations: vec![format!("ASSERT: {text}")],
            ..Outcome::default()
        }
    });
    SeedReport::new(seed, outcome)
}

/// The sum of many runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How many seeds ran.
    pub runs: u64,
    /// The runs that failed, in order of seeds.
    pub failures: Vec<SeedReport>,
    /// Completed checkpoints of each run, sorted.
    pub checkpoints: Vec<u64>,
    /// How often processes were stopped at each step.
    pub stopped_at: BTreeMap<Step, u64>,
    /// Attempts that were started.
    pub restores: u64,
    /// Takeovers that went on with running attempts.
    pub adoptions: u64,
    /// Checkpoints that were given up for an older state.
    pub rebased: u64,
    /// Savepoints that were gone back to.
    pub taken: u64,
    /// Completed checkpoints that refer to files of older ones.
    pub sharing: u64,
    /// Savepoints and stops that were completed.
    pub requests: u64,
    /// Redeployments behind which tasks run again.
    pub redeployments: u64,
    /// The rescales among them, as their users heard.
    pub rescales: u64,
    /// Jobs that stopped by name.
    pub named_stops: u64,
    /// Events handled.
    pub events: u64,
}

impl Totals {
    fn add(&mut self, report: SeedReport) {
        self.runs += 1;
        self.checkpoints.push(report.checkpoints);
        for (step, count) in &report.stopped_at {
            *self.stopped_at.entry(*step).or_default() += count;
        }
        self.restores += report.restores;
        self.adoptions += report.adoptions;
        self.rebased += report.rebased;
        self.taken += report.taken;
        self.sharing += report.sharing;
        self.requests += report.requests;
        self.redeployments += report.redeployments;
        self.rescales += report.rescales;
        self.named_stops += u64::from(report.named_stop);
        self.events += report.events;
        if !report.violations.is_empty() {
            self.failures.push(report);
        }
    }

    fn sorted(mut self) -> Self {
        self.checkpoints.sort_unstable();
        self.failures.sort_by_key(|report| report.seed);
        self
    }

    /// The median of completed checkpoints.
    pub fn checkpoints_median(&self) -> u64 {
        self.checkpoints
            .get(self.checkpoints.len() / 2)
            .copied()
            .unwrap_or(0)
    }
}

/// Runs `count` seeds from `start` on `threads` threads. `setup` runs once on each thread.
pub fn run_seeds(start: u64, count: u64, threads: usize, setup: impl Fn() + Sync) -> Totals {
    let next = AtomicU64::new(0);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                setup();
                let mut own = Totals::default();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    own.add(run_seed(start + at, false));
                }
                let mut all = totals.lock().expect("no run panics while it adds up");
                all.merge(own);
            });
        }
    });
    totals
        .into_inner()
        .expect("all threads have ended")
        .sorted()
}

impl Totals {
    fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.failures.extend(other.failures);
        self.checkpoints.extend(other.checkpoints);
        for (step, count) in other.stopped_at {
            *self.stopped_at.entry(step).or_default() += count;
        }
        self.restores += other.restores;
        self.adoptions += other.adoptions;
        self.rebased += other.rebased;
        self.taken += other.taken;
        self.sharing += other.sharing;
        self.requests += other.requests;
        self.redeployments += other.redeployments;
        self.rescales += other.rescales;
        self.named_stops += other.named_stops;
        self.events += other.events;
    }
}

/// How a planted bug was caught.
#[derive(Clone, Debug)]
pub struct Catch {
    /// The seed that caught it.
    pub seed: u64,
    /// What the oracle said.
    pub text: String,
    /// How many seeds ran until then.
    pub runs: u64,
}

/// Runs seeds with a planted bug until an oracle speaks, at most `count`.
#[cfg(feature = "mutants")]
pub fn hunt(mutant: highwater_protocol::mutant::Mutant, start: u64, count: u64) -> Option<Catch> {
    highwater_protocol::mutant::select(Some(mutant));
    let caught = (0..count).find_map(|at| {
        let report = run_seed(start + at, false);
        let text = report.violations.into_iter().next()?;
        Some(Catch {
            seed: start + at,
            text,
            runs: at + 1,
        })
    });
    highwater_protocol::mutant::select(None);
    caught
}

/// Seeds that failed once: always run, whatever else runs.
pub fn regression_seeds() -> Vec<u64> {
    let lines = include_str!("regressions.txt").lines();
    let seeds = lines
        .filter_map(|line| line.split('#').next())
        .map(str::trim);
    seeds
        .filter(|text| !text.is_empty())
        .filter_map(|text| text.parse().ok())
        .collect()
}
