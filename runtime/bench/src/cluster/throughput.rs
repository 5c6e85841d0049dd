//! What it costs that records cross from one process to another: the same count in one process and on two workers.
//!
//! Both sides run in turn with two slot threads in all, and the output of each run is compared with an independent count before
//! its times are used. Half of the records cross. The rule: CPU time is that of all processes of the job, the coordinator included.

use anyhow::{Context, Result};

use super::Plan;
use super::crew::{self, Cluster, Process, Spec, noted};
use super::pulses::{moment_of, records_at};
use crate::keyed_count::Expected;
use crate::line::value_at;
use crate::machine_clock::seconds;
use crate::process_figures::ProcessFigures;

/// Records before this share of them are warm-up.
const WARM_UP: f64 = 0.2;
/// Behind this share the first process may be idle already.
const LAST: f64 = 0.95;

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Records a second.
    pub(super) rate: f64,
    /// CPU time of a record, in nanoseconds.
    pub(super) cpu_nanos: f64,
}

/// Both sides once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) one_process: Cost,
    pub(super) two_workers: Cost,
}

/// Measures both sides in turn.
pub(super) fn measure(plan: &Plan) -> Result<Vec<Round>> {
    let expected = Expected::count(plan.seed, plan.keys, plan.records);
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds {
        let round = Round {
            one_process: one_process(plan, expected).context("one process")?,
            two_workers: two_workers(plan, expected).context("two workers")?,
        };
        let (one, two) = (round.one_process, round.two_workers);
        println!(
            "  round {number} of {}: one process {:.2} M/s, {:.1} ns of CPU a record; two workers {:.2} M/s, {:.1} ns",
            plan.rounds,
            one.rate / 1e6,
            one.cpu_nanos,
            two.rate / 1e6,
            two.cpu_nanos
        );
        rounds.push(round);
    }
    Ok(rounds)
}

/// Records a second of two workers, for whoever needs no more than that.
pub(super) fn rate_of_two_workers(plan: &Plan) -> Result<f64> {
    let expected = Expected::count(plan.seed, plan.keys, plan.records);
    Ok(two_workers(plan, expected)?.rate)
}

fn spec(plan: &Plan, slots: u32) -> Spec {
    Spec {
        job: "cluster-count",
        parallelism: 2,
        slots,
        settings: vec!["--log-level", "warn"],
        state: None,
        parameters: vec![
            ("count", plan.records.to_string()),
            ("keys", plan.keys.to_string()),
            ("seed", plan.seed.to_string()),
        ],
    }
}

fn one_process(plan: &Plan, expected: Expected) -> Result<Cost> {
    let cluster = Cluster::new(&plan.work, spec(plan, 2), 0)?;
    cost(&mut [cluster.run()?], plan, expected)
}

fn two_workers(plan: &Plan, expected: Expected) -> Result<Cost> {
    let cluster = Cluster::new(&plan.work, spec(plan, 1), 1)?;
    let (coordinator, one) = (cluster.coordinator(0)?, cluster.worker("one")?);
    let mut crew = [coordinator, one, cluster.worker("two")?];
    cost(&mut crew, plan, expected)
}

/// Waits for the end of a run, and says what it cost if its output is right.
fn cost(crew: &mut [Process], plan: &Plan, expected: Expected) -> Result<Cost> {
    let mut used = vec![0.0; crew.len()];
    let mut cpu = Vec::new();
    crew::finish(crew, |all| {
        for (used, process) in used.iter_mut().zip(all) {
            // A process that has ended has nothing more to say.
            if let Ok(figures) = ProcessFigures::of(process.id()) {
                *used = figures.cpu.as_secs_f64();
            }
        }
        cpu.push((seconds(), used.iter().sum::<f64>()));
    })?;
    let all = noted(crew)?;
    let ends = all.iter().filter_map(|pulses| pulses.end());
    let (records, digest) = ends.fold((0u64, 0u64), |(records, digest), end| {
        (records + end.records, digest.wrapping_add(end.digest))
    });
    expected.compare("the job", records, digest)?;
    let moment = |share: f64| moment_of(&all, plan.records as f64 * share);
    let (from, to) = moment(WARM_UP)
        .zip(moment(LAST))
        .context("the job noted no records")?;
    let used = value_at(&cpu, to).zip(value_at(&cpu, from));
    let (after, before) = used.context("the run is too short: give more --records")?;
    let done = records_at(&all, to) - records_at(&all, from);
    Ok(Cost {
        rate: done / (to - from),
        cpu_nanos: (after - before) * 1e9 / done,
    })
}
