//! The peer's side: the same accounts in Flink's RocksDB backend, tuned.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use highwater_testkit::tool;

use super::figures::Measured;
use super::{MIB, Plan, Work};
use crate::cgroup::Cgroup;
use crate::flink::{Flink, tail};
use crate::program::wait;
use crate::report::{self, Run};
use crate::watch::{Seen, Watch};

/// The heap of Java: records in flight and the job itself; state is in managed memory.
pub(super) const HEAP_MIB: u64 = 256;

/// What the job is told besides what to book. Managed memory bounds block cache and write buffers together. Found by trial with
/// `--peer-only`: at four times the budget a quarter for write buffers, sized levels and LZ4 together bring two fifths more
/// events for a CPU-second than the defaults. With whole indexes in place of parts, new keys came at a tenth of the rate.
pub(super) const SETTINGS: &[&str] = &[
    "state.backend.type=rocksdb",
    "execution.checkpointing.incremental=true",
    "state.backend.rocksdb.memory.managed=true",
    "state.backend.rocksdb.memory.partitioned-index-filters=true",
    "state.backend.rocksdb.memory.write-buffer-ratio=0.25",
    "state.backend.rocksdb.compaction.level.use-dynamic-size=true",
    "state.backend.rocksdb.compression.per.level=LZ4_COMPRESSION",
    "state.backend.rocksdb.use-bloom-filter=true",
    "state.backend.rocksdb.predefined-options=FLASH_SSD_OPTIMIZED",
    "state.backend.rocksdb.thread.num=2",
    "taskmanager.memory.network.min=32m",
    "taskmanager.memory.network.max=32m",
];

/// Runs the job to its end inside the limit, and measures it.
pub(super) fn run(flink: &Flink, plan: &Plan, work: &Work) -> Result<Measured> {
    let (run, seen) = finish(flink, plan, work)?;
    Measured::of(run, seen, work, plan)
}

/// Runs the job to its end inside the limit: for its results, however short it is.
pub(super) fn finish(flink: &Flink, plan: &Plan, work: &Work) -> Result<(Run, Seen)> {
    let folder = tempfile::tempdir_in(&plan.work)?;
    let group = Cgroup::with_limit(plan.limit)?;
    let log_path = folder.path().join("log");
    let log = File::create(&log_path)?;
    let report = folder.path().join("report");
    let local = folder.path().join("local");
    let mut command = flink.command(folder.path(), "StateJob", HEAP_MIB);
    // As in Flink's own images: glibc fragments what RocksDB allocates.
    command.env("LD_PRELOAD", tool::jemalloc()?);
    command.args(SETTINGS);
    command.arg(format!(
        "taskmanager.memory.managed.size={}m",
        plan.budget / MIB
    ));
    command.arg(format!(
        "state.backend.rocksdb.localdir={}",
        local.display()
    ));
    command.arg(format!(
        "execution.checkpointing.interval={}s",
        plan.checkpoint_seconds
    ));
    command.args(&plan.peer_settings);
    for (name, value) in work.arguments(plan.seed) {
        command.arg(format!("{name}={value}"));
    }
    command.arg(format!("report={}", report.display()));
    let mut child = group
        .around(&command)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("java does not start")?;
    let mut watch = Watch::new(&group, folder.path(), None);
    let status = wait(&mut child, |pid| watch.look(pid))?;
    if !status.success() {
        let killed = group.killed_for_memory()?;
        let tail = tail(&log_path);
        bail!("Flink ended with {status}, {killed} processes were ended for memory: {tail}");
    }
    Ok((report::read(&report)?, watch.end()?))
}
