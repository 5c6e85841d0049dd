//! Pauses: how long checkpoints keep the tasks with state from their records, over thousands of them under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figures::Pauses;
use super::job::{ONLY_WHEN_ASKED, Running, Setup};
use crate::metrics::Metrics;

const INTERVAL: &str = "100ms";
const PATIENCE: Duration = Duration::from_hours(1);
/// Between two times at which what is due by then may be read.
const DUE_EVERY: Duration = Duration::from_millis(20);
/// As often are records made due between two looks at the status.
const LOOK_EVERY: usize = 25;
const PAUSE: &str = "highwater_task_checkpoint_pause_seconds";

/// Fills the state, and then runs until `count` checkpoints are complete while `rate` records a second may be read.
///
/// The keys come in one order again and again: with less memory than state none of them is found in memory, which is the
/// hardest case. What the job does not keep up with is in the figures as a lower rate.
pub(super) fn measure(setup: &Setup, count: u64, rate: f64) -> Result<Pauses> {
    let mut filling = Running::start(setup, 0, 0, ONLY_WHEN_ASKED)?;
    filling.advance(setup.keys)?;
    filling.checkpoint()?;
    filling.kill()?;
    let mut paced = Running::start(setup, 1, setup.keys, INTERVAL)?;
    let found = pace(&mut paced, setup, count, rate);
    paced.kill()?;
    found
}

fn pace(job: &mut Running<'_>, setup: &Setup, count: u64, rate: f64) -> Result<Pauses> {
    let started = Instant::now();
    let mut allowed = 0;
    for turn in 1.. {
        job.lives("enough checkpoints")?;
        ensure!(
            started.elapsed() < PATIENCE,
            "{count} checkpoints did not come in {} min",
            PATIENCE.as_secs() / 60
        );
        std::thread::sleep(DUE_EVERY);
        let seconds = started.elapsed().as_secs_f64();
        let due = (seconds * rate) as u64;
        job.allow(due - allowed)?;
        allowed = due;
        if turn % LOOK_EVERY != 0 {
            continue;
        }
        let status = job.status()?;
        let of = |name: &str| status["checkpoints"][name].as_u64();
        let completed = of("completed_count").context("the status has no count of checkpoints")?;
        if completed < count {
            continue;
        }
        let metrics = job.metrics_of("operator=\"book\"")?;
        return Ok(Pauses {
            checkpoints: completed,
            failed: of("failed_count").unwrap_or_default(),
            gigabytes: setup.keys as f64 * crate::state_job::ROW_BYTES as f64 / 1e9,
            rate_due: rate,
            rate: job.records()? as f64 / seconds,
            quantiles: [0.5, 0.99, 0.999, 1.0].map(|share| pause(&metrics, share)),
        });
    }
    unreachable!("turns are counted without an end")
}

/// The upper bound in seconds of the bucket in which a share of the pauses lies: not a number where the job does not tell,
/// and such a bar is missed.
fn pause(metrics: &Metrics, share: f64) -> f64 {
    let bucket = metrics.quantile(PAUSE, share);
    bucket.map_or(f64::NAN, |(_, upper)| upper)
}
