//! Memory of a coordinator and a worker whose job has nothing to read.

use std::time::Duration;

use anyhow::Result;

use super::Plan;
use super::crew::{Cluster, Spec, run_on, wait};
use crate::process_figures::ProcessFigures;

/// How long it has had nothing to do when it is looked at.
const SETTLE: Duration = Duration::from_secs(15);

/// What one process has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Memory in use, MiB.
    pub(super) resident_mib: f64,
    /// The most that was in use.
    pub(super) peak_mib: f64,
}

impl Held {
    fn of(id: u32) -> Result<Self> {
        let figures = ProcessFigures::of(id)?;
        Ok(Self {
            resident_mib: figures.resident_kib as f64 / 1_024.0,
            peak_mib: figures.peak_kib as f64 / 1_024.0,
        })
    }
}

/// What both have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) coordinator: Held,
    pub(super) worker: Held,
}

/// Starts the job, lets it rest, and looks.
pub(super) fn measure(plan: &Plan) -> Result<Memory> {
    let spec = Spec {
        job: "idle",
        parallelism: 2,
        slots: 2,
        settings: Vec::new(),
        state: None,
        parameters: Vec::new(),
    };
    let cluster = Cluster::new(&plan.work, spec, 1)?;
    let mut crew = [cluster.coordinator(0)?, cluster.worker("one")?];
    wait("a job that runs", &mut crew, |_| {
        Ok(cluster.is(0, "running"))
    })?;
    run_on(&mut crew, SETTLE)?;
    let memory = Memory {
        coordinator: Held::of(crew[0].id())?,
        worker: Held::of(crew[1].id())?,
    };
    println!(
        "  coordinator {:.1} MiB (peak {:.1}), worker {:.1} MiB (peak {:.1})",
        memory.coordinator.resident_mib,
        memory.coordinator.peak_mib,
        memory.worker.resident_mib,
        memory.worker.peak_mib
    );
    Ok(memory)
}
