//! What the kernel says of a process: CPU time and memory, from `/proc`.
//!
//! Used by the jobs for themselves and by the benchmark for the processes that it starts. Linux only, as all of
//! `xtask` is; the rule: a figure that cannot be read is an error, never a zero.

use std::io;
use std::time::Duration;

/// Clock ticks a second in `/proc/*/stat`: fixed at 100 in the kernel's interface to programs.
const TICKS_PER_SECOND: u64 = 100;

/// Figures of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessFigures {
    /// User and system time since its start, to 10 ms.
    pub(crate) cpu: Duration,
    /// Memory in use, KiB.
    pub(crate) resident_kib: u64,
    /// The most that was in use, KiB.
    pub(crate) peak_kib: u64,
}

impl ProcessFigures {
    /// Of this process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::read("self")
    }

    /// Of another process.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Self::read(&pid.to_string())
    }

    fn read(process: &str) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let unread = || io::Error::other(format!("/proc/{process} has an unknown form"));
        Ok(Self {
            cpu: cpu_of(&stat).ok_or_else(unread)?,
            resident_kib: kib_of(&status, "VmRSS:").ok_or_else(unread)?,
            peak_kib: kib_of(&status, "VmHWM:").ok_or_else(unread)?,
        })
    }
}

fn cpu_of(stat: &str) -> Option<Duration> {
    // The name in parentheses may hold anything, so fields count from the last one on.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1_000 / TICKS_PER_SECOND,
    ))
}

fn kib_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Seconds in which the threads of a process, by name prefix, could run and had no processor.
pub(crate) fn waited_for_cpu(pid: u32, thread: &str) -> io::Result<Duration> {
    let mut waited = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = task?.path();
        let name = std::fs::read_to_string(folder.join("comm"))?;
        if name.starts_with(thread) {
            let text = std::fs::read_to_string(folder.join("schedstat"))?;
            let nanos = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
            waited += nanos.unwrap_or(0u64);
        }
    }
    Ok(Duration::from_nanos(waited))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_kernels_text() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_of(stat), Some(Duration::from_millis(420)));
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(kib_of(status, "VmRSS:"), Some(1_024));
        assert_eq!(kib_of(status, "VmHWM:"), Some(2_048));
        assert!(ProcessFigures::own().unwrap().resident_kib > 0);
    }
}
