//! A control group of the kernel: what the processes in it may hold of memory and take of the processor, changed while they
//! run.
//!
//! Made below the own group of this process, in both hierarchies of version 1 or in version 2, and removed with its handle.
//! The rule: where no group can be made that is said by name; nothing runs as if it were in one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::TestbedError;
use crate::process::wait_until;

/// Moves the shell into the groups and becomes the program.
const ENTER: &str = r#"echo $$ > "$1" && echo $$ > "$2" && shift 2 && exec "$@""#;
/// Processes that were killed are out of the group within this time.
const EMPTY_PATIENCE: Duration = Duration::from_secs(5);
/// The period in which a share of the processor is measured, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Which interface the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group of processes.
#[derive(Debug)]
pub struct ControlGroup {
    version: Version,
    memory: PathBuf,
    cpu: PathBuf,
}

impl ControlGroup {
    /// Makes a group without limits. One that an earlier process left under this name is replaced, unless it is in use.
    ///
    /// # Errors
    /// `State`, with what to do, when this machine lets us make none.
    pub fn make(name: &str) -> Result<Self, TestbedError> {
        let read = |path: &str| {
            let path = Path::new(path);
            fs::read_to_string(path).map_err(TestbedError::io("read", path))
        };
        let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mounts")?);
        let first = own_of(&own, &mounts, "memory").zip(own_of(&own, &mounts, "cpu"));
        let group = if let Some((memory, cpu)) = first {
            Self {
                version: Version::One,
                memory: memory.join(name),
                cpu: cpu.join(name),
            }
        } else {
            let delegated = unified(&own, &mounts).and_then(|own| delegated(&own));
            let folder = delegated.ok_or_else(|| {
                TestbedError::State(
                    "no control group that hands on memory and cpu: run as root, or in a delegated group \
                     (systemd-run --user --scope -p Delegate=yes ...)"
                        .to_owned(),
                )
            })?;
            Self {
                version: Version::Two,
                memory: folder.join(name),
                cpu: folder.join(name),
            }
        };
        for folder in group.folders() {
            if folder.exists() {
                fs::remove_dir(folder).map_err(TestbedError::io("remove", folder))?;
            }
            fs::create_dir(folder).map_err(TestbedError::io("create", folder))?;
        }
        Ok(group)
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        let second = (self.cpu != self.memory).then_some(&self.cpu);
        std::iter::once(&self.memory).chain(second)
    }

    /// The same command, in the group from its first instruction on and with the same process id. Its standard streams are set
    /// by the caller.
    pub fn around(&self, command: &Command) -> Command {
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
        inside
    }

    /// Bounds what is held to `bytes`, page cache included, without swap: it would hide what the bound is there to show.
    ///
    /// # Errors
    /// When the kernel refuses, such as for less than is held and cannot be given back.
    pub fn limit_memory(&self, bytes: u64) -> Result<(), TestbedError> {
        let (limit, swap) = match self.version {
            Version::One => (
                "memory.limit_in_bytes",
                ("memory.memsw.limit_in_bytes", bytes),
            ),
            Version::Two => ("memory.max", ("memory.swap.max", 0)),
        };
        write(&self.memory, limit, &bytes.to_string())?;
        if self.memory.join(swap.0).exists() {
            write(&self.memory, swap.0, &swap.1.to_string())?;
        }
        Ok(())
    }

    /// Bounds the time on processors to so many percent of one of them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_processor(&self, percent: u64) -> Result<(), TestbedError> {
        let quota = PERIOD_US * percent / 100;
        match self.version {
            Version::One => {
                write(&self.cpu, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                write(&self.cpu, "cpu.cfs_quota_us", &quota.to_string())
            }
            Version::Two => write(&self.cpu, "cpu.max", &format!("{quota} {PERIOD_US}")),
        }
    }

    /// Takes the bound of [`ControlGroup::limit_processor`] away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn free_processor(&self) -> Result<(), TestbedError> {
        match self.version {
            Version::One => write(&self.cpu, "cpu.cfs_quota_us", "-1"),
            Version::Two => write(&self.cpu, "cpu.max", &format!("max {PERIOD_US}")),
        }
    }

    /// The bytes that are held now, page cache included.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn held(&self) -> Result<u64, TestbedError> {
        let file = match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        let text = read(&self.memory, file)?;
        let number = text.trim().parse().ok();
        number.ok_or_else(|| no_number(&self.memory, file))
    }

    /// The bytes that are held now and that a page cache which is dropped does not give back.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn anonymous(&self) -> Result<u64, TestbedError> {
        let name = match self.version {
            Version::One => "total_rss",
            Version::Two => "anon",
        };
        field(&self.memory, "memory.stat", name)
    }

    /// How many processes the kernel ended because of the bound of memory.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn killed_for_memory(&self) -> Result<u64, TestbedError> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        field(&self.memory, file, "oom_kill")
    }

    /// In how many periods the processes were kept from a processor because of the bound.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn throttled(&self) -> Result<u64, TestbedError> {
        field(&self.cpu, "cpu.stat", "nr_throttled")
    }

    /// The file that takes the numbers of processes which move into the group's bound of memory.
    pub fn members(&self) -> PathBuf {
        self.memory.join("cgroup.procs")
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for folder in self.folders() {
            // A failure while cleaning up must not hide the failure of the test itself; the next group of the name finds it.
            wait_until(EMPTY_PATIENCE, || {
                fs::remove_dir(folder).is_ok() || !folder.exists()
            });
        }
    }
}

fn write(folder: &Path, name: &str, value: &str) -> Result<(), TestbedError> {
    let file = folder.join(name);
    fs::write(&file, value).map_err(TestbedError::io("write", &file))
}

fn read(folder: &Path, name: &str) -> Result<String, TestbedError> {
    let file = folder.join(name);
    fs::read_to_string(&file).map_err(TestbedError::io("read", &file))
}

fn no_number(folder: &Path, name: &str) -> TestbedError {
    TestbedError::State(format!("{} holds no number", folder.join(name).display()))
}

fn field(folder: &Path, name: &str, field: &str) -> Result<u64, TestbedError> {
    let text = read(folder, name)?;
    field_of(&text, field).ok_or_else(|| {
        TestbedError::State(format!("{} has no {field}", folder.join(name).display()))
    })
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

/// The nearest group, the own one or one above it, whose children have bounds: one with processes in it cannot.
fn delegated(own: &Path) -> Option<PathBuf> {
    for folder in own.ancestors() {
        let text = fs::read_to_string(folder.join("cgroup.subtree_control")).ok()?;
        if ["memory", "cpu"]
            .iter()
            .all(|wanted| text.split_whitespace().any(|one| one == *wanted))
        {
            return Some(folder.to_owned());
        }
    }
    None
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
        assert_eq!(own_of(own, mounts, "cpu"), None, "it is mounted nowhere");
        assert_eq!(
            unified(own, mounts),
            Some("/sys/fs/cgroup/unified/c".into())
        );
    }

    #[test]
    fn a_field_is_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(field_of(text, "oom_kill"), Some(2));
        assert_eq!(field_of(text, "oom"), None);
    }

    #[test]
    fn a_command_keeps_its_arguments_and_its_variables_in_a_group() {
        let group = ControlGroup {
            version: Version::Two,
            memory: PathBuf::from("/m"),
            cpu: PathBuf::from("/m"),
        };
        let mut command = Command::new("job");
        command.args(["run", "--quiet"]);
        command.env("A", "1").env_remove("B");
        let inside = group.around(&command);
        let arguments: Vec<_> = inside.get_args().skip(3).collect();
        assert_eq!(
            arguments,
            [
                "/m/cgroup.procs",
                "/m/cgroup.procs",
                "job",
                "run",
                "--quiet"
            ]
        );
        let variables: Vec<_> = inside.get_envs().collect();
        assert_eq!(variables.len(), 2, "{variables:?}");
    }
}
