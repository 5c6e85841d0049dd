//! Large state under load: a coordinator and two workers, accounts in local stores, and records that become due at a rate.
//!
//! Used where something happens to a job with state. The keys are swept over: those that come next were not used for longest,
//! which is the hardest case for a cache. The rule: at the end what has become visible is compared with an independent count, so
//! that no figure is told of a job that lost or doubled a record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use highwater::connectors::committed_files;
use serde_json::Value;

use super::Plan;
use super::crew::{self, Cluster, Process, Spec, noted, run_on, wait};
use super::job::is_sampled;
use crate::gated::allow;
use crate::http::StatusServer;
use crate::metrics::Metrics;
use crate::program::Backend;
use crate::state_job::digest_of_sweeps;

/// The workers.
pub(super) const WORKERS: [&str; 2] = ["one", "two"];
/// How many subtasks each operator has at first: one on each worker.
pub(super) const PARALLELISM: u32 = 2;
/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_mins(15);
/// Between two times at which what is due by then may be read.
const DUE_EVERY: Duration = Duration::from_millis(5);
const COMPACTIONS: &str = "highwater_store_compactions";
/// Local stores rest when they have not compacted for so long: figures of a task are a second old at most.
const REST: Duration = Duration::from_secs(3);
/// All that is due was read when nothing has come for so long.
const SILENCE: Duration = Duration::from_secs(2);

/// The files of the job, below the folder in which its processes run.
const GOAL: &str = "goal";
const OUT: &str = "out";

/// The job.
pub(super) struct Load {
    pacer: Option<Pacer>,
    /// The coordinator, and then the workers.
    pub(super) crew: Vec<Process>,
    /// Behind those that write below its folder, which is removed when it is dropped.
    pub(super) cluster: Cluster,
    keys: u64,
    seed: u64,
}

impl Load {
    /// Starts the job with workers of so many slots and with settings beside the defaults, fills its state, and has records become
    /// due from then on.
    pub(super) fn start(plan: &Plan, slots: u32, settings: &[&'static str]) -> Result<Self> {
        let spec = Spec {
            job: "cluster-state",
            parallelism: PARALLELISM,
            slots,
            settings: settings.to_vec(),
            state: Some((Backend::Rocksdb, plan.budget)),
            parameters: vec![
                ("keys", plan.state_keys.to_string()),
                ("seed", plan.seed.to_string()),
                ("goal", GOAL.to_owned()),
                ("out", OUT.to_owned()),
            ],
        };
        let cluster = Cluster::new(&plan.work, spec, 1)?;
        let mut crew = vec![cluster.coordinator(0)?];
        for name in WORKERS {
            crew.push(cluster.worker(name)?);
        }
        let mut load = Self {
            pacer: None,
            crew,
            cluster,
            keys: plan.state_keys,
            seed: plan.seed,
        };
        load.fill().context("the state is filled")?;
        let pacer = Pacer::start(load.goal(), load.keys, plan.rate);
        load.pacer = Some(pacer.context("the pacer")?);
        Ok(load)
    }

    /// Gives each key its account, in a checkpoint and with local stores at rest.
    fn fill(&mut self) -> Result<()> {
        allow(&self.goal(), self.keys)?;
        let keys = self.keys;
        wait("an account for each key", &mut self.crew, |crew| {
            Ok(records(crew)? >= keys)
        })?;
        self.checkpoint()?;
        self.settle()?;
        self.checkpoint()
    }

    fn goal(&self) -> PathBuf {
        self.cluster.folder().join(GOAL)
    }

    /// Where output becomes visible.
    pub(super) fn out(&self) -> PathBuf {
        self.cluster.folder().join(OUT)
    }

    /// Where the job is asked.
    pub(super) fn server(&self) -> StatusServer {
        self.cluster.server(0)
    }

    /// What the job tells of itself.
    pub(super) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.server().get("/v1/status")?)?)
    }

    /// The number of the last complete checkpoint.
    pub(super) fn completed(&self) -> Result<u64> {
        let completed = self.status()?["checkpoints"]["completed"].as_u64();
        completed.context("the status tells of no checkpoint")
    }

    /// What the coordinator tells in figures.
    pub(super) fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.server().get("/metrics")?))
    }

    fn checkpoint(&self) -> Result<()> {
        let taken = self.server().post("/v1/checkpoints", "", PATIENCE);
        taken.map(drop).context("a checkpoint")
    }

    /// Waits until local stores have no compaction to do.
    fn settle(&mut self) -> Result<()> {
        let (server, mut busy) = (self.server(), Instant::now());
        wait("the end of compaction", &mut self.crew, |_| {
            let metrics = Metrics::parse(&server.get("/metrics")?);
            if metrics.sum(COMPACTIONS).is_some_and(|count| count > 0.0) {
                busy = Instant::now();
            }
            Ok(busy.elapsed() >= REST)
        })
    }

    /// Lets the job run on for a while.
    pub(super) fn run_on(&mut self, time: Duration) -> Result<()> {
        run_on(&mut self.crew, time)
    }

    /// Has no more records become due, stops the job with its state, and compares what has become visible with an independent
    /// count.
    pub(super) fn finish(mut self) -> Result<()> {
        let pacer = self.pacer.take().context("records become due")?;
        let due = pacer.end()?;
        let (mut last, mut since) = (0, Instant::now());
        wait("the end of what is due", &mut self.crew, |crew| {
            let now = records(crew)?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok(since.elapsed() >= SILENCE)
        })?;
        let body = r#"{"mode":"suspend"}"#;
        let stopped = self.server().post("/v1/stop", body, PATIENCE);
        stopped.context("the stop")?;
        crew::finish(&mut self.crew, |_| {})?;
        let right = digest_of_sweeps(self.keys, self.seed, due, is_sampled);
        let found = grown(&self.out())?;
        ensure!(
            found == right,
            "{due} records gave a sample of accounts with digest {found:016x}; right is {right:016x}"
        );
        Ok(())
    }
}

/// Records that all of these have put out.
fn records(crew: &mut [Process]) -> Result<u64> {
    let all = noted(crew)?;
    Ok(all.iter().map(|pulses| pulses.records()).sum())
}

/// The number of the last checkpoint whose output can be seen below `out`; 0 = none.
pub(super) fn visible(out: &Path) -> Result<u64> {
    let files = committed_files(out)?;
    let numbers = files.iter().map(|file| file.marker.number);
    Ok(numbers.max().unwrap_or(0))
}

/// By how much the accounts of the sample have grown, as all output below `out` says.
fn grown(out: &Path) -> Result<u64> {
    let mut sum = 0u64;
    for file in committed_files(out)? {
        for line in file.lines()? {
            let growth: Value = serde_json::from_slice(&line)?;
            let grown = growth["grown"].as_u64();
            sum = sum.wrapping_add(grown.context("a line of output without `grown`")?);
        }
    }
    Ok(sum)
}

/// Makes records due, whether or not the job keeps up.
struct Pacer {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<u64>>>,
}

impl Pacer {
    /// From now on `rate` records a second behind the first `from`, which are due already.
    fn start(goal: PathBuf, from: u64, rate: f64) -> std::io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let pacing = move || -> std::io::Result<u64> {
            let started = Instant::now();
            let mut due = from;
            while !ends.load(Ordering::Relaxed) {
                due = from + (started.elapsed().as_secs_f64() * rate) as u64;
                allow(&goal, due)?;
                std::thread::sleep(DUE_EVERY);
            }
            Ok(due)
        };
        let thread = std::thread::Builder::new().name("pacer".to_owned());
        Ok(Self {
            over,
            thread: Some(thread.spawn(pacing)?),
        })
    }

    /// Ends it. How many records were due.
    fn end(mut self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended before")?;
        let due = thread.join().map_err(|_| anyhow!("the pacer panicked"))?;
        due.context("the pacer")
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Nobody asks any more how many records were due.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pacer_lets_records_be_read_up_to_what_it_says_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let goal = folder.path().join(GOAL);
        let pacer = Pacer::start(goal.clone(), 7, 1e9).unwrap();
        while !goal.exists() {
            std::thread::yield_now();
        }
        let due = pacer.end().unwrap();
        assert!(due >= 7);
        let noted = std::fs::read_to_string(&goal).unwrap();
        assert_eq!(noted, due.to_string());
    }

    #[test]
    fn no_output_is_visible_before_there_is_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join(OUT);
        assert_eq!((visible(&out).unwrap(), grown(&out).unwrap()), (0, 0));
    }
}
