//! Latency across two workers, from the time at which a record was due to the time at which its result is there.
//!
//! The source is an open loop, so that whoever is held up is charged with the whole wait. Of the records those count that came
//! from the other worker: they have crossed the wire. Both ends read the clock that all processes have in common.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Plan;
use super::crew::{self, Cluster, Spec, noted};
use crate::latency::Histogram;
use crate::process_figures::waited_for_cpu;
use crate::report::Latency;

/// Shares of the rate of two workers at which it is measured.
pub(super) const SHARES: [f64; 2] = [0.1, 0.5];
/// How long it is measured, warm-up included: two checkpoints.
const SECONDS: f64 = 25.0;
const SECONDS_QUICK: f64 = 8.0;
const WARM_UP_MILLIS: u64 = 4_000;
const WORKERS: [&str; 2] = ["one", "two"];

/// Latency at a share of the rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) share: f64,
    /// Records a second.
    pub(super) rate: f64,
    pub(super) latency: Latency,
    /// How long slot threads could run and had no processor, as a share of the run.
    pub(super) waited: f64,
}

/// Measures at each share of `most` records a second.
pub(super) fn measure(plan: &Plan, most: f64) -> Result<Vec<Loaded>> {
    let mut all = Vec::new();
    for share in SHARES {
        let loaded = at_share(plan, share, (most * share).round())?;
        let [p50, p99, p999] = [loaded.latency.p50, loaded.latency.p99, loaded.latency.p999]
            .map(|micros| micros / 1e3);
        println!(
            "  at {:.0} records/s: p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} ms",
            loaded.rate
        );
        all.push(loaded);
    }
    Ok(all)
}

fn at_share(plan: &Plan, share: f64, rate: f64) -> Result<Loaded> {
    ensure!(rate >= 1_000.0, "{rate} records a second are too few");
    let seconds = if plan.is_quick {
        SECONDS_QUICK
    } else {
        SECONDS
    };
    let spec = Spec {
        job: "cluster-latency",
        parallelism: 2,
        slots: 1,
        settings: vec!["--log-level", "warn"],
        state: None,
        parameters: vec![
            ("keys", plan.keys.to_string()),
            ("seed", plan.seed.to_string()),
            ("rate", rate.to_string()),
            ("count", ((rate * seconds) as u64).to_string()),
            ("skip", WARM_UP_MILLIS.to_string()),
        ],
    };
    let cluster = Cluster::new(&plan.work, spec, 1)?;
    let coordinator = cluster.coordinator(0)?;
    let [one, two] = WORKERS.map(|name| cluster.worker(name));
    let mut crew = [coordinator, one?, two?];
    let mut waited = [Duration::ZERO; WORKERS.len()];
    crew::finish(&mut crew, |all| {
        for (waited, worker) in waited.iter_mut().zip(&all[1..]) {
            // A process that has ended has nothing more to say.
            if let Ok(now) = waited_for_cpu(worker.id(), "slot-") {
                *waited = now.max(*waited);
            }
        }
    })?;
    let mut joined = Histogram::new();
    for worker in &noted(&mut crew)?[1..] {
        let measured = worker.latency();
        joined.join(measured.context("a worker noted no latencies")?);
    }
    let latency = joined.percentiles();
    ensure!(latency.records > 0, "no record has crossed");
    let waited: Duration = waited.iter().sum();
    Ok(Loaded {
        share,
        rate,
        latency,
        waited: waited.as_secs_f64() / WORKERS.len() as f64 / seconds,
    })
}
