//! Pauses: how long checkpoints keep the tasks with state from their records, over thousands of them under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::figures::Pauses;
use super::job::Setup;
use crate::flink::tail;
use crate::http::Note;
use crate::metrics::Metrics;

const JOB: &str = "pauses";
const INTERVAL: &str = "100ms";
const PATIENCE: Duration = Duration::from_hours(1);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const PAUSE: &str = "highwater_task_checkpoint_pause_seconds";

/// Runs until `count` checkpoints are complete, at `rate` records a second over uniform keys.
///
/// The first of the time fills the state, so pauses while it grows are in the figures.
pub(super) fn measure(setup: &Setup, count: u64, rate: f64) -> Result<Pauses> {
    let mut job = setup.command(JOB, INTERVAL)?;
    job.parameter("rate", rate);
    let log = "log-pauses";
    let mut child = setup.spawn(&mut job, log)?;
    let note = Note::of(&setup.folder.path().join("run"), JOB);
    let found = watch(setup, &note, count, || match child.try_wait()? {
        None => Ok(()),
        Some(status) => {
            let said = tail(&setup.folder.path().join(log));
            bail!("the job ended with {status}: {said}")
        }
    });
    child.kill()?;
    child.wait()?;
    found
}

fn watch(
    setup: &Setup,
    note: &Note,
    count: u64,
    mut lives: impl FnMut() -> Result<()>,
) -> Result<Pauses> {
    let started = Instant::now();
    loop {
        lives()?;
        ensure!(
            started.elapsed() < PATIENCE,
            "{count} checkpoints did not come in {} min",
            PATIENCE.as_secs() / 60
        );
        std::thread::sleep(LOOK_EVERY);
        // Before the server listens nobody answers.
        let Ok(text) = note.get("/v1/status") else {
            continue;
        };
        let status: Value = serde_json::from_str(&text)?;
        let of = |name: &str| status["checkpoints"][name].as_u64();
        let completed = of("completed_count").context("the status has no count of checkpoints")?;
        if completed < count {
            continue;
        }
        let metrics = Metrics::parse_with(&note.get("/metrics")?, "operator=\"book\"");
        // Not a number where the job does not tell: such a bar is missed.
        let quantile = |share: f64| {
            let bucket = metrics.quantile(PAUSE, share);
            bucket.map_or(f64::NAN, |(_, upper)| upper)
        };
        return Ok(Pauses {
            checkpoints: completed,
            failed: of("failed_count").unwrap_or_default(),
            gigabytes: setup.keys as f64 * crate::state_job::ROW_BYTES as f64 / 1e9,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            most: quantile(1.0),
        });
    }
}
