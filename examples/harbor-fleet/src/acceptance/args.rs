//! The arguments of `acceptance`.

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::{Args as Flags, Parser, ValueEnum};

/// What there is to say about the drills, for `--help`.
const ABOUT: &str =
    "Kills the fraud scorer on a real Kafka and a real S3 store and judges what came out";
const LONG_ABOUT: &str = "Kills the fraud scorer on a real Kafka and a real S3 store and judges what came out.\n\n\
    Every run starts a job of its own (200,000 payments of three hours, 10,000 a second), ends its process without \
    warning, starts it again, drains it at the end of the input and compares the committed output with an oracle: lost \
    and doubled must be 0. A run in which no output was pending at the kill is invalid and is repeated at another \
    instant. Rule R1 takes turns: as process function and as window operator.\n\n\
    Every drill runs with the tasks in the process of the job or, with --workers, on worker processes of its own. There a \
    stop point at a step of workers ends one of them, and the rest of the job is killed right behind it.\n\n\
    A failed run keeps its directory and prints the line that repeats it.";

/// The arguments.
#[derive(Clone, Debug, Parser)]
#[command(about = ABOUT, long_about = LONG_ABOUT)]
pub(super) struct Args {
    /// Always `acceptance`
    #[arg(hide = true)]
    command: String,
    /// Which drills, separated by commas
    #[arg(
        long = "drill",
        value_enum,
        value_delimiter = ',',
        default_value = "all"
    )]
    drills: Vec<Wanted>,
    /// How many runs of each drill
    #[arg(long, default_value_t = 1)]
    pub(super) runs: u32,
    /// Only this run of each drill, counted from 1: what a failed run prints to be repeated, together with its seed
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    run: Option<u32>,
    /// Decides payments and instants of the first run; each later one has the next seed [default: random, printed]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Runs side by side [default: twice the cores]
    #[arg(long)]
    pub(super) lanes: Option<usize>,
    /// Keep the directories of runs that passed too
    #[arg(long)]
    pub(super) keep: bool,
    /// Start each job as `run --workers`: worker processes with 2 slots each, or as many as the parallelism of the drill
    /// needs [default: the tasks run in the process of the job]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) workers: Option<u32>,
    #[command(flatten)]
    pub(super) backing: Backing,
}

/// Where the jobs keep their state.
#[derive(Flags, Clone, Debug, PartialEq, Eq)]
pub(super) struct Backing {
    /// The backend of keyed state; `rocksdb` has drills of its own
    #[arg(long, value_enum, default_value = "heap")]
    pub(super) backend: Backend,
    /// Memory for keyed state, such as 16MiB [default: that of the program; 16MiB with rocksdb]
    #[arg(long, value_name = "SIZE")]
    pub(super) state_memory: Option<String>,
}

/// The backend of keyed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Backend {
    /// In memory
    Heap,
    /// On local disk, with the working set in memory
    Rocksdb,
}

impl Backing {
    /// So little that the state of a run has to leave it now and then.
    const SMALL: &str = "16MiB";

    /// The arguments of `run` that say so, for a job with its local files in `local`.
    pub(super) fn arguments(&self, local: &Path) -> Vec<String> {
        let name = match self.backend {
            Backend::Heap => "heap",
            Backend::Rocksdb => "rocksdb",
        };
        let mut said = vec!["--state-backend".to_owned(), name.to_owned()];
        let memory = self.state_memory.as_deref();
        let small = (self.backend == Backend::Rocksdb).then_some(Self::SMALL);
        if let Some(memory) = memory.or(small) {
            said.extend(["--state-memory".to_owned(), memory.to_owned()]);
        }
        if self.backend == Backend::Rocksdb {
            said.extend(["--state-local-dir".to_owned(), local.display().to_string()]);
        }
        said
    }

    /// The arguments of this program that say so again.
    fn again(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.backend == Backend::Rocksdb {
            said.push("--backend rocksdb".to_owned());
        }
        if let Some(memory) = &self.state_memory {
            said.push(format!("--state-memory {memory}"));
        }
        said
    }

    /// Memory for keyed state in bytes.
    ///
    /// # Errors
    /// When it is not given, or is no size of whole KiB, MiB or GiB.
    pub(super) fn memory_bytes(&self) -> anyhow::Result<u64> {
        let small = (self.backend == Backend::Rocksdb).then_some(Self::SMALL);
        let text = self.state_memory.as_deref().or(small);
        let text = text.context("--state-memory is not given")?;
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
        let found = units.iter().find_map(|(unit, bits)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(1 << bits)
        });
        found.with_context(|| format!("`{text}` is no size such as 16MiB"))
    }

    /// The same with another backend.
    pub(super) fn with(&self, backend: Backend) -> Self {
        Self {
            backend,
            ..self.clone()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Every drill
    All,
    /// Kill -9 at a random instant
    #[value(name = "HD-01")]
    Hd01,
    /// Kill while barriers are aligned (P3)
    #[value(name = "HD-02")]
    Hd02,
    /// Kill after the pre-commit of some sinks, before the checkpoint completes (P4 to P7)
    #[value(name = "HD-03")]
    Hd03,
    /// Kill after the checkpoint completed, before any commit (P9)
    #[value(name = "HD-04")]
    Hd04,
    /// Kill after some of the sinks committed (P10, P11)
    #[value(name = "HD-05")]
    Hd05,
    /// Each of the 19 protocol steps in turn; a recovery step ends the recovery of a first kill
    Steps,
    /// Stop with savepoint and go on at another parallelism, twice, with a kill in between each
    #[value(name = "HC-01")]
    Hc01,
    /// Another parallelism while records flow, twice, with a kill on the way to the second
    #[value(name = "HC-02")]
    Hc02,
    /// Drained stop in the middle of the input
    #[value(name = "HC-09")]
    Hc09,
    /// From heap over a savepoint to rocksdb and back, with a kill in between (rocksdb only)
    #[value(name = "HC-08")]
    Hc08,
    /// The local disk is full for a while (rocksdb only; mounts a small one, so as root or with user namespaces)
    #[value(name = "HD-13")]
    Hd13,
    /// The boundary vectors of rule R1
    #[value(name = "V")]
    Vectors,
}

/// One drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Drill {
    RandomKill,
    Alignment,
    PreCommit,
    Completed,
    HalfCommitted,
    Steps,
    Rescale,
    LiveRescale,
    Drain,
    Backends,
    DiskFull,
    Vectors,
}

impl Drill {
    pub(super) const ALL: [Self; 12] = [
        Self::RandomKill,
        Self::Alignment,
        Self::PreCommit,
        Self::Completed,
        Self::HalfCommitted,
        Self::Steps,
        Self::Rescale,
        Self::LiveRescale,
        Self::Drain,
        Self::Backends,
        Self::DiskFull,
        Self::Vectors,
    ];

    /// Whether it needs state on local disk.
    const fn needs_disk(self) -> bool {
        matches!(self, Self::Backends | Self::DiskFull)
    }

    /// Its name among the drills of Harbor Fleet.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RandomKill => "HD-01",
            Self::Alignment => "HD-02",
            Self::PreCommit => "HD-03",
            Self::Completed => "HD-04",
            Self::HalfCommitted => "HD-05",
            Self::Steps => "steps",
            Self::Rescale => "HC-01",
            Self::LiveRescale => "HC-02",
            Self::Drain => "HC-09",
            Self::Backends => "HC-08",
            Self::DiskFull => "HD-13",
            Self::Vectors => "V",
        }
    }
}

impl Args {
    /// Reads the command line.
    pub(super) fn read() -> Result<Self, clap::Error> {
        Self::try_parse()
    }

    /// Which runs of each drill, from 0.
    pub(super) fn indices(&self) -> std::ops::Range<u32> {
        match self.run {
            Some(run) => run - 1..run,
            None => 0..self.runs,
        }
    }

    /// What a run is repeated with, beside its drill, its seed and its number.
    pub(super) fn again(&self) -> Vec<String> {
        let workers = self.workers.map(|workers| format!("--workers {workers}"));
        self.backing.again().into_iter().chain(workers).collect()
    }

    /// The drills, each once, in the order of the table. `all` means those that the backend has.
    ///
    /// # Errors
    /// When a drill is named that the backend does not have.
    pub(super) fn drills(&self) -> anyhow::Result<Vec<Drill>> {
        let on_disk = self.backing.backend == Backend::Rocksdb;
        let mut chosen = Vec::new();
        for drill in Drill::ALL {
            let is_named = self.drills.iter().any(|wanted| {
                let value = wanted.to_possible_value();
                value.is_some_and(|value| value.get_name() == drill.name())
            });
            if is_named && drill.needs_disk() && !on_disk {
                let name = drill.name();
                bail!("{name} needs state on local disk: --backend rocksdb");
            }
            let of_all = self.drills.contains(&Wanted::All) && (on_disk || !drill.needs_disk());
            if is_named || of_all {
                chosen.push(drill);
            }
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(more: &[&str]) -> Args {
        let all = ["harbor-fleet", "acceptance"].iter().chain(more);
        Args::try_parse_from(all).unwrap()
    }

    #[test]
    fn without_a_name_every_drill_runs_and_names_are_those_of_the_specification() {
        let all = args(&["--backend", "rocksdb"]).drills().unwrap();
        assert_eq!(all, Drill::ALL);
        let chosen = args(&["--drill", "V,HD-04", "--drill", "steps"]);
        let names = chosen.drills().unwrap().into_iter().map(Drill::name);
        assert_eq!(names.collect::<Vec<_>>(), ["HD-04", "steps", "V"]);
        assert!(Args::try_parse_from(["x", "acceptance", "--drill", "HD-99"]).is_err());
    }

    #[test]
    fn drills_of_a_local_disk_need_one() {
        let on_heap = args(&[]).drills().unwrap();
        assert!(
            !on_heap.iter().any(|drill| drill.needs_disk()),
            "{on_heap:?}"
        );
        let refused = args(&["--drill", "HD-13"]).drills().unwrap_err();
        assert!(
            refused.to_string().contains("--backend rocksdb"),
            "{refused}"
        );
    }

    #[test]
    fn the_backend_is_handed_to_the_job() {
        let local = Path::new("/l");
        let said = |more: &[&str]| args(more).backing.arguments(local).join(" ");
        assert_eq!(said(&[]), "--state-backend heap");
        assert_eq!(
            said(&["--backend", "rocksdb"]),
            "--state-backend rocksdb --state-memory 16MiB --state-local-dir /l"
        );
    }

    #[test]
    fn a_failed_run_is_repeated_with_its_backend_and_its_workers() {
        let again = |line: &str| {
            let words = line.split_whitespace().collect::<Vec<_>>();
            args(&words).again().join(" ")
        };
        assert_eq!(again(""), "");
        let line = "--backend rocksdb --state-memory 8MiB --workers 2";
        assert_eq!(again(line), line);
        assert!(Args::try_parse_from(["x", "acceptance", "--workers", "0"]).is_err());
    }

    #[test]
    fn memory_is_a_size_with_its_unit() {
        let of = |more: &[&str]| args(more).backing.memory_bytes();
        assert_eq!(of(&["--state-memory", "2GiB"]).unwrap(), 2 << 30);
        assert_eq!(of(&["--backend", "rocksdb"]).unwrap(), 16 << 20);
        assert!(of(&[]).is_err() && of(&["--state-memory", "12"]).is_err());
    }

    #[test]
    fn one_run_alone_is_the_one_of_its_number() {
        assert_eq!(args(&["--runs", "3"]).indices(), 0..3);
        assert_eq!(args(&["--runs", "3", "--run", "2"]).indices(), 1..2);
    }
}
