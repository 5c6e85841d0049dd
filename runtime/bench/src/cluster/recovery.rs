//! Recovery after a worker was killed: until records flow in every subtask again, and until new output can be seen.
//!
//! The benchmark starts the worker again at once, under its name, with its local files or without them. The delay of the restart is
//! that of a first failure, each time: by default it would double, since the kills follow each other. The rule: a time is from the
//! kill, by the clock that all processes have in common; the first record of a subtask is noted by the process that has it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Plan;
use super::crew::{noted, wait};
use super::load::{Load, PARALLELISM, WORKERS, visible};
use super::pulses::all_flow;
use crate::machine_clock::seconds;

const SETTINGS: [&str; 4] = ["--checkpoint-interval", "2s", "--restart-strategy", "fixed"];
/// Records flow for so long before a kill: there are new checkpoints, and caches are warm.
const STEADY: Duration = Duration::from_secs(8);
/// Which of the workers is killed.
const LOST: usize = 1;
const RESTORE: &str = "highwater_task_restore_seconds";

/// Whether the worker that was killed finds its local files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LocalFiles {
    Kept,
    Gone,
}

impl LocalFiles {
    const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Gone => "gone",
        }
    }
}

/// One recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovered {
    /// Until the last subtask had a record, in seconds.
    pub(super) flow: f64,
    /// Until output could be seen that is newer than the checkpoint that was gone back to, in seconds.
    pub(super) visible: f64,
    /// Of `flow`, the restore of state: from the order until every task had opened its own. Not a number where the job does not
    /// tell.
    pub(super) restore: f64,
    /// Bytes of state from the store and from local disk.
    pub(super) fetched: u64,
    pub(super) local: u64,
}

/// All rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Recovery {
    pub(super) kept: Vec<Recovered>,
    pub(super) gone: Vec<Recovered>,
}

/// Kills a worker again and again, in turn with its local files kept and gone.
pub(super) fn measure(plan: &Plan) -> Result<Recovery> {
    let mut load = Load::start(plan, 1, &SETTINGS)?;
    let mut recovery = Recovery::default();
    for round in 1..=plan.rounds {
        for files in [LocalFiles::Kept, LocalFiles::Gone] {
            let found = one(&mut load, files);
            let found = found.with_context(|| format!("local files {}", files.name()))?;
            println!(
                "  round {round} of {}, local files {}: records flow after {:.2} s (restore {:.2} s; {:.0} MB from the store, \
                 {:.0} MB from local disk), output is visible after {:.2} s",
                plan.rounds,
                files.name(),
                found.flow,
                found.restore,
                found.fetched as f64 / 1e6,
                found.local as f64 / 1e6,
                found.visible
            );
            match files {
                LocalFiles::Kept => recovery.kept.push(found),
                LocalFiles::Gone => recovery.gone.push(found),
            }
        }
    }
    load.finish()?;
    Ok(recovery)
}

fn one(load: &mut Load, files: LocalFiles) -> Result<Recovered> {
    load.run_on(STEADY)?;
    let (out, completed) = (load.out(), load.completed()?);
    let (local, moved) = (
        load.cluster.local(WORKERS[LOST]),
        load.cluster.folder().join("moved"),
    );
    let killed = seconds();
    load.crew[1 + LOST].kill()?;
    if files == LocalFiles::Gone {
        std::fs::rename(&local, &moved).context("the local files")?;
    }
    load.crew[1 + LOST] = load.cluster.worker(WORKERS[LOST])?;
    let (mut flow, mut seen) = (None, None);
    wait("the job after a kill", &mut load.crew, |crew| {
        if seen.is_none() {
            // A directory that changes while it is listed is listed again.
            let newer = visible(&out).is_ok_and(|number| number > completed);
            seen = newer.then(seconds);
        }
        let flows = all_flow(&noted(crew)?, PARALLELISM, killed);
        flow = flows.map(|(_, last)| last);
        Ok(flow.is_some() && seen.is_some())
    })?;
    if files == LocalFiles::Gone {
        std::fs::remove_dir_all(&moved).context("the local files")?;
    }
    let restored = load.status()?["restored"].clone();
    let bytes = |name: &str| restored[name].as_u64().unwrap_or_default();
    let [flow, seen] = [flow, seen].map(|at| at.map_or(f64::NAN, |at| at - killed));
    Ok(Recovered {
        flow,
        visible: seen,
        restore: load.metrics()?.most(RESTORE).unwrap_or(f64::NAN),
        fetched: bytes("fetched_bytes"),
        local: bytes("local_bytes"),
    })
}
