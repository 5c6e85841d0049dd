//! A control group of the kernel around a measured program: its memory is limited, page cache included, and the CPU time
//! of all its processes is counted together.
//!
//! Used by every benchmark in which a disk takes part: without the limit the page cache of a large machine would hide
//! the disk. Made below the own group of this process in both hierarchies of version 1 or in version 2, and removed at
//! the end. The rule: where no group can be made the benchmark is refused by name; it never runs without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Moves the shell into the groups and becomes the program.
const ENTER: &str = r#"echo $$ > "$1" && echo $$ > "$2" && shift 2 && exec "$@""#;

/// Which interface the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group with a limit.
#[derive(Debug)]
pub(crate) struct Cgroup {
    version: Version,
    memory: PathBuf,
    cpu: PathBuf,
}

/// What the processes of a group hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupMemory {
    /// Memory of their own, in bytes: what a page cache that is dropped does not give back.
    pub(crate) anonymous: u64,
    /// Page cache, in bytes.
    pub(crate) cache: u64,
}

impl Cgroup {
    /// Makes a group that may hold `limit` bytes, page cache included.
    ///
    /// # Errors
    /// With the cause and what to do when this machine lets us make none.
    pub(crate) fn with_limit(limit: u64) -> Result<Self> {
        let made = Self::make(limit);
        made.context(
            "the programs must run under a memory limit, and no control group with one can be made here: run as root, or \
             in a delegated group (systemd-run --user --scope -p Delegate=yes ...)",
        )
    }

    fn make(limit: u64) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        let name = format!("highwater-bench-{}", std::process::id());
        let first = own_of(&own, &mounts, "memory").zip(own_of(&own, &mounts, "cpuacct"));
        let group = if let Some((memory, cpu)) = first {
            Self {
                version: Version::One,
                memory: memory.join(&name),
                cpu: cpu.join(&name),
            }
        } else {
            let own = unified(&own, &mounts).context("neither version of cgroups is mounted")?;
            let folder = delegated(&own)?.join(&name);
            Self {
                version: Version::Two,
                memory: folder.clone(),
                cpu: folder,
            }
        };
        group.folders().try_for_each(|folder| {
            if folder.exists() {
                // Left by an earlier process of this number that was killed; one with processes in it stays.
                fs::remove_dir(folder)?;
            }
            fs::create_dir(folder).with_context(|| format!("{} is not made", folder.display()))
        })?;
        group.limit(limit)?;
        Ok(group)
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        let second = (self.cpu != self.memory).then_some(&self.cpu);
        std::iter::once(&self.memory).chain(second)
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        // Swap would hide what the limit is there to show.
        let (limit, swap) = match self.version {
            Version::One => (
                "memory.limit_in_bytes",
                ("memory.memsw.limit_in_bytes", bytes),
            ),
            Version::Two => ("memory.max", ("memory.swap.max", 0)),
        };
        let write = |name: &str, value: u64| {
            let file = self.memory.join(name);
            fs::write(&file, value.to_string())
                .with_context(|| format!("{} is not written", file.display()))
        };
        write(limit, bytes)?;
        if self.memory.join(swap.0).exists() {
            write(swap.0, swap.1)?;
        }
        let found: u64 = number(&self.memory, limit)?;
        ensure!(found <= bytes, "the kernel keeps a limit of {found} bytes");
        Ok(())
    }

    /// The same command, in the group from its first instruction on. Its standard streams are set by the caller.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", ENTER, "sh"]);
        inside.arg(self.memory.join("cgroup.procs"));
        inside.arg(self.cpu.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }

    /// User and system time of all processes that were ever in the group.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        match self.version {
            Version::One => Ok(Duration::from_nanos(number(&self.cpu, "cpuacct.usage")?)),
            Version::Two => Ok(Duration::from_micros(field(
                &self.cpu,
                "cpu.stat",
                "usage_usec",
            )?)),
        }
    }

    /// What is held now.
    pub(crate) fn memory(&self) -> Result<GroupMemory> {
        let (anonymous, cache) = match self.version {
            Version::One => ("total_rss", "total_cache"),
            Version::Two => ("anon", "file"),
        };
        Ok(GroupMemory {
            anonymous: field(&self.memory, "memory.stat", anonymous)?,
            cache: field(&self.memory, "memory.stat", cache)?,
        })
    }

    /// How many processes the kernel ended because of the limit.
    pub(crate) fn killed_for_memory(&self) -> Result<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        field(&self.memory, file, "oom_kill")
    }
}

fn number(folder: &Path, name: &str) -> Result<u64> {
    let file = folder.join(name);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    text.trim()
        .parse()
        .with_context(|| format!("{} holds no number", file.display()))
}

fn field(folder: &Path, name: &str, field: &str) -> Result<u64> {
    let file = folder.join(name);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let found = field_of(&text, field);
    found.with_context(|| format!("{} has no {field}", file.display()))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in self.folders() {
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("{} is left behind: {error}", folder.display());
            }
        }
    }
}

fn field_of(text: &str, field: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// Where the own group of this process is in the hierarchy of a controller of version 1.
fn own_of(own: &str, mounts: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers
            .split(',')
            .any(|one| one == controller)
            .then_some(path)
    })?;
    let mount = mounts.lines().find_map(|line| {
        let mut parts = line.split(' ').skip(1);
        let (at, kind, options) = (parts.next()?, parts.next()?, parts.next()?);
        (kind == "cgroup" && options.split(',').any(|one| one == controller)).then_some(at)
    })?;
    Some(Path::new(mount).join(path.trim_start_matches('/')))
}

/// Where the own group is in version 2.
fn unified(own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts.lines().find_map(|line| {
        let mut parts = line.split(' ').skip(1);
        let (at, kind) = (parts.next()?, parts.next()?);
        (kind == "cgroup2").then_some(at)
    })?;
    Some(Path::new(mount).join(path.trim_start_matches('/')))
}

/// The nearest group, the own one or one above it, whose children have limits: one with processes in it cannot.
fn delegated(own: &Path) -> Result<PathBuf> {
    for folder in own.ancestors() {
        let control = folder.join("cgroup.subtree_control");
        let Ok(text) = fs::read_to_string(&control) else {
            break;
        };
        if ["memory", "cpu"]
            .iter()
            .all(|wanted| text.split_whitespace().any(|one| one == *wanted))
        {
            return Ok(folder.to_owned());
        }
    }
    bail!("no group above {} hands on memory and cpu", own.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_both_versions() {
        let mounts = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/c\n";
        assert_eq!(
            own_of(own, mounts, "memory"),
            Some("/sys/fs/cgroup/memory/a/b".into())
        );
        assert_eq!(
            own_of(own, mounts, "cpuacct"),
            None,
            "it is mounted nowhere"
        );
        assert_eq!(
            unified(own, mounts),
            Some("/sys/fs/cgroup/unified/c".into())
        );
    }

    #[test]
    fn a_field_is_its_whole_name() {
        let text = "total_rss_huge 1\ntotal_rss 2\n";
        assert_eq!(field_of(text, "total_rss"), Some(2));
        assert_eq!(field_of(text, "total"), None);
    }
}
