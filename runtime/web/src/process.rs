//! The process as the operating system sees it, and the memory that state takes in it. Linux only: elsewhere nothing is said of the process,
//! and nothing is made up.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_metrics::table::process::{
    CPU, OPEN_FILES, ProcessScope, RESIDENT, STARTED, STATE_BUDGET, STATE_USED, STORE_BUDGET,
    STORE_USED, THREADS,
};
use highwater_metrics::{Cells, MetricsRegistry, NoLabels};
use highwater_protocol::job::TaskId;
use highwater_state::Store;
use highwater_worker::{TaskFigures, WorkerSettings};

/// Units of processor time that Linux shows to programs: hundredths of a second on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Publishes what is known.
pub(crate) fn publish(registry: &MetricsRegistry) -> Cells<ProcessScope> {
    let cells = registry.cells::<ProcessScope>(&NoLabels);
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        if let Some(ticks) = processor_ticks(&stat) {
            cells.raise(CPU, TICK.saturating_mul(ticks));
        }
        if let Ok(system) = std::fs::read_to_string("/proc/stat")
            && let Some(started) = started_ms(&stat, &system)
        {
            cells.set(STARTED, started);
        }
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        if let Some(kibibytes) = field(&status, "VmRSS:") {
            cells.set(RESIDENT, kibibytes << 10);
        }
        if let Some(threads) = field(&status, "Threads:") {
            cells.set(THREADS, threads);
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        cells.set(OPEN_FILES, files.count() as u64);
    }
    cells
}

/// Puts in what the state of the tasks takes that run in this process, and what it may take.
pub(crate) fn memory(
    cells: &Cells<ProcessScope>,
    worker: &WorkerSettings,
    store: &Store,
    figures: &BTreeMap<TaskId, TaskFigures>,
) {
    let operators = figures.values().flat_map(|task| &task.operators);
    let used: u64 = operators.map(|report| report.state_bytes).sum();
    cells.set(STATE_BUDGET, worker.state_bytes_max);
    cells.set(STATE_USED, used);
    cells.set(STORE_BUDGET, worker.store_bytes_max);
    cells.set(STORE_USED, store.used_bytes());
}

/// User and system time: the 14th and 15th field, counted behind the name, which may hold spaces.
fn processor_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system))
}

/// When the process started, in milliseconds since the Unix epoch: the 22nd field, which counts from the boot of the machine.
fn started_ms(stat: &str, system: &str) -> Option<i64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: i64 = fields.split(' ').nth(19)?.parse().ok()?;
    let mut lines = system.lines();
    let booted = lines.find_map(|line| line.strip_prefix("btime "))?;
    let booted: i64 = booted.trim().parse().ok()?;
    Some(booted * 1_000 + ticks * TICK.as_millis() as i64)
}

/// The number behind a name.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_hostile_name() {
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20 0 9 0 4250 99";
        assert_eq!(processor_ticks(stat), Some(281));
        let system = "cpu 1 2 3\nbtime 1700000000\nprocesses 5\n";
        assert_eq!(started_ms(stat, system), Some(1_700_000_042_500));
        assert_eq!(started_ms(stat, "cpu 1"), None);
        assert_eq!(processor_ticks("12 (a"), None);
        let status = "Name:\tjob\nVmRSS:\t  2048 kB\nThreads:\t9\n";
        assert_eq!(field(status, "VmRSS:"), Some(2_048));
        assert_eq!(field(status, "Threads:"), Some(9));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
