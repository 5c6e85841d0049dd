//! The process as the operating system sees it. Linux only: elsewhere nothing is said, and nothing is made up.

use std::time::Duration;

use highwater_metrics::table::process::{CPU, OPEN_FILES, ProcessScope, RESIDENT, THREADS};
use highwater_metrics::{Cells, MetricsRegistry, NoLabels};

/// Units of processor time that Linux shows to programs: hundredths of a second on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Publishes what is known.
pub(crate) fn publish(registry: &MetricsRegistry) -> Cells<ProcessScope> {
    let cells = registry.cells::<ProcessScope>(&NoLabels);
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(ticks) = processor_ticks(&stat)
    {
        cells.raise(CPU, TICK.saturating_mul(ticks));
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

/// User and system time: the 14th and 15th field, counted behind the name, which may hold spaces.
fn processor_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system))
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
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20";
        assert_eq!(processor_ticks(stat), Some(281));
        assert_eq!(processor_ticks("12 (a"), None);
        let status = "Name:\tjob\nVmRSS:\t  2048 kB\nThreads:\t9\n";
        assert_eq!(field(status, "VmRSS:"), Some(2_048));
        assert_eq!(field(status, "Threads:"), Some(9));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
