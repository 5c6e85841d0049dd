//! The deployment of a job of many subtasks: from the moment at which the last slots are there until every subtask has a record.
//!
//! Half of the subtasks are sources, the other half count behind an exchange of all with all. The coordinator orders the
//! deployment as soon as the worker joins that brings the last slots, and says so in its log, which is read all the time. The
//! rule: records come at a rate that two cores have room for, so that starting is what is measured; of 250 subtasks the last one
//! waits for its first record about 0.15 s.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Plan;
use super::crew::{Cluster, Spec, noted, wait, wait_each};
use super::pulses::all_flow;
use crate::machine_clock::seconds;
use crate::process_figures::ProcessFigures;

/// Between two looks into the log of the coordinator.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const RECORDS_PER_SECOND: f64 = 10_000.0;
/// What the coordinator says of a worker that has come.
const JOINED: &str = "worker joined";

/// One deployment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deployed {
    /// All subtasks.
    pub(super) subtasks: u32,
    /// Until the first subtask behind the exchange had a record, in seconds.
    pub(super) first: f64,
    /// Until the last one had.
    pub(super) last: f64,
    /// From the start of the process that brought the last slots until the last one had.
    pub(super) from_start: f64,
    /// The most memory of coordinator and workers together, MiB.
    pub(super) peak_mib: f64,
}

/// Deploys once.
pub(super) fn measure(plan: &Plan) -> Result<Deployed> {
    // Two tasks of the same parallelism, on two workers.
    let parallelism = plan.subtasks / 2;
    let spec = Spec {
        job: "cluster-count",
        parallelism,
        slots: parallelism.div_ceil(2),
        settings: Vec::new(),
        state: None,
        parameters: vec![
            ("keys", plan.keys.to_string()),
            ("seed", plan.seed.to_string()),
            ("rate", RECORDS_PER_SECOND.to_string()),
            ("splits", parallelism.to_string()),
        ],
    };
    let cluster = Cluster::new(&plan.work, spec, 1)?;
    let mut crew = vec![cluster.coordinator(0)?, cluster.worker("one")?];
    wait("the first worker", &mut crew, |crew| {
        Ok(crew[0].said(JOINED)? > 0)
    })?;
    let started = seconds();
    crew.push(cluster.worker("two")?);
    wait_each(LOOK_EVERY, "the second worker", &mut crew, |crew| {
        Ok(crew[0].said(JOINED)? > 1)
    })?;
    let ordered = seconds();
    let mut flow = None;
    wait("records in every subtask", &mut crew, |crew| {
        flow = all_flow(&noted(crew)?, parallelism, started);
        Ok(flow.is_some())
    })?;
    let (first, last) = flow.context("records flow")?;
    let mut peak_kib = 0;
    for process in &crew {
        peak_kib += ProcessFigures::of(process.id())?.peak_kib;
    }
    let deployed = Deployed {
        subtasks: 2 * parallelism,
        first: first - ordered,
        last: last - ordered,
        from_start: last - started,
        peak_mib: peak_kib as f64 / 1_024.0,
    };
    println!(
        "  {} subtasks: first record behind the exchange after {:.2} s, one in every subtask after {:.2} s",
        deployed.subtasks, deployed.first, deployed.last
    );
    Ok(deployed)
}
