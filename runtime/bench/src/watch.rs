//! Looks at a measured program while it runs: CPU time and memory of its group, bytes on disk, and what our own side
//! tells of itself.
//!
//! Called by the benchmarks between two looks at whether the program has ended. The rule: times are those of the
//! report, so that a figure holds for the same stretch of records on both sides.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::cgroup::Cgroup;
use crate::http::Note;
use crate::line::value_at;
use crate::metrics::Metrics;

/// Between two looks at the group.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks that cost more: at the disk, at the metrics.
const DEAR_EVERY: Duration = Duration::from_secs(1);

/// What was seen of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Times in seconds since the epoch and the CPU seconds of the group until then.
    cpu: Vec<(f64, f64)>,
    /// The most memory that the processes had of their own, in bytes.
    pub(crate) anonymous: u64,
    /// The most page cache, in bytes.
    pub(crate) cache: u64,
    /// The most bytes on disk, each file once however many names it has.
    pub(crate) disk: u64,
    /// Bytes that the program read from and wrote to the disk itself: cache hits are not in it.
    pub(crate) disk_read: u64,
    /// See above.
    pub(crate) disk_written: u64,
    /// What our side told of itself, with the time in seconds since the epoch.
    pub(crate) metrics: Vec<(f64, Metrics)>,
}

impl Seen {
    /// CPU seconds up to a time, between two looks by a straight line; `None` = nobody looked before or after it.
    pub(crate) fn cpu_at(&self, at: f64) -> Option<f64> {
        value_at(&self.cpu, at)
    }

    /// What our side told last before a time.
    pub(crate) fn metrics_at(&self, at: f64) -> Option<&Metrics> {
        let after = self.metrics.partition_point(|(time, _)| *time <= at);
        Some(&self.metrics.get(after.checked_sub(1)?)?.1)
    }
}

/// Looks.
pub(crate) struct Watch<'a> {
    group: &'a Cgroup,
    folder: PathBuf,
    /// Where our side notes the address of its status server; the peer has none.
    note: Option<Note>,
    looked: Option<Instant>,
    looked_dear: Option<Instant>,
    seen: Seen,
    failure: Option<anyhow::Error>,
}

impl<'a> Watch<'a> {
    /// Watches a program in `group` that keeps its files below `folder`.
    pub(crate) fn new(group: &'a Cgroup, folder: &Path, note: Option<Note>) -> Self {
        Self {
            group,
            folder: folder.to_owned(),
            note,
            looked: None,
            looked_dear: None,
            seen: Seen::default(),
            failure: None,
        }
    }

    /// One look; called often.
    pub(crate) fn look(&mut self, pid: u32) {
        if self.looked.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        if let Err(error) = self.look_at_group() {
            self.failure.get_or_insert(error);
        }
        if self
            .looked_dear
            .is_some_and(|last| last.elapsed() < DEAR_EVERY)
        {
            return;
        }
        self.looked_dear = Some(Instant::now());
        self.seen.disk = self
            .seen
            .disk
            .max(bytes_below(&self.folder, &mut HashSet::new()));
        // A process that is just ending has nothing more to say.
        if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/io")) {
            let of = |name| io_field(&text, name);
            self.seen.disk_read = of("read_bytes:").unwrap_or(self.seen.disk_read);
            self.seen.disk_written = of("write_bytes:").unwrap_or(self.seen.disk_written);
        }
        // Before the server listens, and behind its end, nobody answers.
        if let Some(note) = &self.note
            && let Ok(text) = note.get("/metrics")
        {
            self.seen.metrics.push((now(), Metrics::parse(&text)));
        }
    }

    fn look_at_group(&mut self) -> Result<()> {
        let cpu = self.group.cpu()?.as_secs_f64();
        let memory = self.group.memory()?;
        self.seen.cpu.push((now(), cpu));
        self.seen.anonymous = self.seen.anonymous.max(memory.anonymous);
        self.seen.cache = self.seen.cache.max(memory.cache);
        Ok(())
    }

    /// What was seen, once the program has ended.
    ///
    /// # Errors
    /// The first look at the group that failed.
    pub(crate) fn end(self) -> Result<Seen> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.seen),
        }
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

fn io_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// Bytes on disk below a folder; hard links of one file count once. What vanishes meanwhile counts nothing.
pub(crate) fn bytes_below(folder: &Path, met: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path(), met),
            Ok(metadata) if met.insert((metadata.dev(), metadata.ino())) => metadata.blocks() * 512,
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(folder.path().join("in/one"), vec![1; 100_000]).unwrap();
        let once = bytes_below(folder.path(), &mut HashSet::new());
        fs::hard_link(folder.path().join("in/one"), folder.path().join("two")).unwrap();
        assert!(once >= 100_000);
        assert_eq!(bytes_below(folder.path(), &mut HashSet::new()), once);
    }
}
