//! Takeover after the leader was killed, with a second coordinator standing by: whether records go on, and when the next
//! checkpoint is complete.
//!
//! Records are counted by the workers themselves, fifty times a second. Killed and standing by change places in each round. The
//! rule: that no subtask began anew is told as such, beside the longest gap.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Plan;
use super::crew::{Cluster, Process, Spec, noted, run_on, wait};
use super::pulses::longest_gap_of_any;
use crate::machine_clock::seconds;

/// How long the lease lasts, as a setting and in seconds.
const LEASE: &str = "10s";
pub(super) const LEASE_SECONDS: f64 = 10.0;
const INTERVAL: &str = "1s";
/// How long records flow before a kill; gaps before it are looked for in this time.
const STEADY: Duration = Duration::from_secs(6);
/// Behind the checkpoint, so that the last look of each worker lies behind it.
const AFTER: Duration = Duration::from_millis(200);
const RECORDS_PER_SECOND: f64 = 100_000.0;
/// What a coordinator says that has gone on with what the workers run.
const ADOPTS: &str = "goes on with the attempt that workers hold";

/// One takeover.
#[derive(Clone, Copy, Debug)]
pub(super) struct TakenOver {
    /// The longest time without a record on one of the workers, from the kill until the checkpoint, in seconds.
    pub(super) gap: f64,
    /// The same in the time before the kill.
    pub(super) gap_before: f64,
    /// Subtasks of the sink that began anew.
    pub(super) begun_anew: usize,
    /// From the kill until the next leader had a complete checkpoint, in seconds.
    pub(super) checkpoint: f64,
}

fn spec(plan: &Plan) -> Spec {
    Spec {
        job: "cluster-count",
        parallelism: 2,
        slots: 1,
        settings: vec!["--checkpoint-interval", INTERVAL, "--lease-duration", LEASE],
        state: None,
        parameters: vec![
            ("keys", plan.keys.to_string()),
            ("seed", plan.seed.to_string()),
            ("rate", RECORDS_PER_SECOND.to_string()),
            ("splits", "2".to_owned()),
        ],
    }
}

/// Kills one leader after another.
pub(super) fn measure(plan: &Plan) -> Result<Vec<TakenOver>> {
    let cluster = Cluster::new(&plan.work, spec(plan), 2)?;
    let mut first = [cluster.coordinator(0)?];
    wait("a leader", &mut first, |crew| {
        Ok(crew[0].said("takes workers")? > 0)
    })?;
    let [first] = first;
    let mut coordinators = [first, cluster.coordinator(1)?];
    let mut workers = [cluster.worker("one")?, cluster.worker("two")?];
    wait("a job that runs", &mut workers, |_| {
        Ok(cluster.is(0, "running"))
    })?;
    let mut all = Vec::new();
    for round in 1..=plan.rounds {
        let leader = (round as usize - 1) % 2;
        wait("a coordinator that stands by", &mut coordinators, |_| {
            Ok(cluster.is(1 - leader, "standby"))
        })?;
        let found = one(&cluster, &mut coordinators, &mut workers, leader)?;
        println!(
            "  round {round} of {}: longest gap {:.0} ms (before it {:.0} ms), {} subtasks began anew, next checkpoint after {:.2} s",
            plan.rounds,
            found.gap * 1e3,
            found.gap_before * 1e3,
            found.begun_anew,
            found.checkpoint
        );
        all.push(found);
        coordinators[leader] = cluster.coordinator(leader)?;
    }
    Ok(all)
}

fn one(
    cluster: &Cluster,
    coordinators: &mut [Process; 2],
    workers: &mut [Process; 2],
    leader: usize,
) -> Result<TakenOver> {
    run_on(workers, STEADY)?;
    let complete = |seat: usize| {
        let status = cluster.status(seat);
        status.and_then(|status| status["checkpoints"]["completed_count"].as_u64())
    };
    let before = complete(leader).context("the leader does not answer")?;
    ensure!(before > 0, "the leader has no checkpoint");
    let killed = seconds();
    coordinators[leader].kill()?;
    let next = 1 - leader;
    let said = coordinators[next].said(ADOPTS)?;
    wait("a checkpoint of the next leader", workers, |_| {
        coordinators[next].lives("a checkpoint of it")?;
        Ok(complete(next).is_some_and(|count| count > 0))
    })?;
    let completed = seconds();
    ensure!(
        coordinators[next].said(ADOPTS)? > said,
        "the next leader did not go on with what the workers run"
    );
    run_on(workers, AFTER)?;
    let all = noted(workers)?;
    let gap = |span| longest_gap_of_any(&all, span);
    let opened = all
        .iter()
        .map(|pulses| pulses.opened_within((killed, completed)));
    Ok(TakenOver {
        gap: gap((killed, completed)),
        gap_before: gap((killed - STEADY.as_secs_f64(), killed)),
        begun_anew: opened.sum(),
        checkpoint: completed - killed,
    })
}
