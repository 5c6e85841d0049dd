//! The arguments of `cluster`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Parser;

use super::catalogue::{Case, EXPERIMENTS, Experiment, Player};
use super::spans::Pace;
use crate::acceptance::args::{Backend, Backing};

const ABOUT: &str =
    "Breaks machines, links and processes under the fraud scorer and judges what came out";
const LONG_ABOUT: &str = "Breaks machines, links and processes under the fraud scorer and judges what came out.\n\n\
    Every run is a job of its own: two coordinators and three workers, real processes, each in a network namespace of its \
    own, on a real Kafka and a real S3 server. Something is broken, mostly while one of the processes is frozen right before \
    a step of the protocol; it heals; the input ends, the job is drained, and the committed output is compared with an oracle: \
    lost and doubled must be 0. A run in which the fault did not meet what it was to meet is invalid and is repeated at \
    another instant.\n\n\
    Needs Linux, root, and ip, nsenter and iptables. Interfaces of this host are not touched: all that is made lies in \
    namespaces whose names begin with `hw-` and the number of this process, and is gone at the end, after an error and at \
    Ctrl-C. What a run that was killed has left is swept by the next one.\n\n\
    A failed run keeps its directory and prints the line that repeats it.";

/// The arguments.
#[derive(Clone, Debug, Parser)]
#[command(about = ABOUT, long_about = LONG_ABOUT)]
pub(super) struct Args {
    /// Always `cluster`
    #[arg(hide = true)]
    command: String,
    /// How long faults last, by the table that `--list` prints
    #[arg(long, value_enum, default_value = "ci")]
    pub(super) profile: Pace,
    /// Which experiments, separated by commas; `X40/P4` means one way to play it [default: all that real processes can play]
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// How many runs of each experiment; its ways take turns, the first one by the seed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) runs: u32,
    /// Decides payments and instants of the first run; each later one has the next seed [default: random, printed]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Write what came out to this file, in Markdown
    #[arg(long, value_name = "FILE")]
    pub(super) page: Option<PathBuf>,
    /// Keep the directories of runs that passed too
    #[arg(long)]
    pub(super) keep: bool,
    /// Show all experiments, who plays them, and how long things last; touches nothing
    #[arg(long)]
    pub(super) list: bool,
    /// The backend of keyed state
    #[arg(long, value_enum, default_value = "rocksdb")]
    backend: Backend,
    /// Memory for keyed state of each worker, such as 32MiB [default: that of the program; 16MiB with rocksdb]
    #[arg(long, value_name = "SIZE")]
    state_memory: Option<String>,
}

/// An experiment, and the ways to play it that are wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) experiment: &'static Experiment,
    pub(super) cases: Vec<Case>,
}

impl Wanted {
    /// The way of the run with this seed: they take turns.
    pub(super) fn case(&self, seed: u64) -> &Case {
        let at = seed % self.cases.len() as u64;
        &self.cases[at as usize]
    }
}

/// Finds what a text such as `X40` or `X40/P4` means.
fn find(text: &str) -> anyhow::Result<Wanted> {
    let (id, name) = match text.split_once('/') {
        Some((id, name)) => (id, Some(name)),
        None => (text, None),
    };
    let found = EXPERIMENTS.iter().find(|one| one.id == id);
    let Some(experiment) = found else {
        let known: Vec<_> = EXPERIMENTS.iter().map(|one| one.id).collect();
        bail!(
            "no experiment is called `{id}`; there are: {}",
            known.join(", ")
        );
    };
    let all = experiment.cases();
    let known: Vec<_> = all.iter().map(|case| case.name.clone()).collect();
    let is_named = |case: &Case| name.is_none_or(|name| case.name == name);
    let cases: Vec<_> = all.into_iter().filter(is_named).collect();
    match (cases.is_empty(), experiment.player) {
        (false, _) => Ok(Wanted { experiment, cases }),
        (true, Player::Processes(_)) => {
            bail!(
                "{id} has no `{}`; it has: {}",
                name.unwrap_or_default(),
                known.join(", ")
            )
        }
        (true, Player::Simulator(how)) => {
            bail!("{id} is played by the simulator, not by real processes: {how}")
        }
        (true, Player::Rules(why) | Player::Controller(why) | Player::Nobody(why)) => {
            bail!("{id} cannot be played by real processes: {why}")
        }
    }
}

impl Args {
    /// Reads the command line.
    pub(super) fn read() -> Result<Self, clap::Error> {
        Self::try_parse()
    }

    /// Where the jobs keep their state.
    pub(super) fn backing(&self) -> Backing {
        Backing {
            backend: self.backend,
            state_memory: self.state_memory.clone(),
        }
    }

    /// What a run is repeated with, beside its experiment and its seed; each word behind a space.
    pub(super) fn again(&self) -> String {
        let mut said = format!(" --profile {}", self.profile.name());
        if self.backend == Backend::Heap {
            said += " --backend heap";
        }
        if let Some(memory) = &self.state_memory {
            said.push_str(" --state-memory ");
            said.push_str(memory);
        }
        said
    }

    /// The experiments, in the order of the plan or of the command line.
    ///
    /// # Errors
    /// When one is named that nobody knows, or that real processes cannot play.
    pub(super) fn wanted(&self) -> anyhow::Result<Vec<Wanted>> {
        if !self.only.is_empty() {
            return self.only.iter().map(|text| find(text)).collect();
        }
        let here = EXPERIMENTS
            .iter()
            .filter(|one| matches!(one.player, Player::Processes(_)));
        Ok(here
            .map(|experiment| Wanted {
                experiment,
                cases: experiment.cases(),
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(more: &[&str]) -> Args {
        let all = ["harbor-fleet", "cluster"].iter().chain(more);
        Args::try_parse_from(all).unwrap()
    }

    fn wanted(text: &str) -> anyhow::Result<Vec<Wanted>> {
        args(&["--only", text]).wanted()
    }

    #[test]
    fn without_a_name_all_that_real_processes_play_is_wanted() {
        let all = args(&[]).wanted().unwrap();
        let ids: Vec<_> = all.iter().map(|one| one.experiment.id).collect();
        assert!(ids.contains(&"X09") && ids.contains(&"X72"), "{ids:?}");
        assert!(!ids.contains(&"X16") && !ids.contains(&"X48"), "{ids:?}");
        assert!(all.iter().all(|one| !one.cases.is_empty()));
    }

    #[test]
    fn one_way_of_an_experiment_can_be_named() {
        let found = wanted("X40,X42/to-worker-P6").unwrap();
        let counts: Vec<_> = found.iter().map(|one| one.cases.len()).collect();
        assert_eq!(counts, [12, 1]);
        assert_eq!(found[1].case(4_711).name, "to-worker-P6");
    }

    #[test]
    fn ways_take_turns_with_the_seed() {
        let found = wanted("X43").unwrap();
        let names: Vec<_> = (0..3)
            .map(|seed| found[0].case(seed).name.as_str())
            .collect();
        assert_eq!(names, ["cut", "reset", "cut"]);
    }

    #[test]
    fn what_cannot_be_played_here_is_refused_by_name() {
        for (text, part) in [
            ("X99", "no experiment is called `X99`"),
            ("X40/P99", "it has: P1"),
            ("X16", "the simulator"),
            ("X48", "cannot be played by real processes"),
        ] {
            let error = wanted(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Args::try_parse_from(["x", "cluster", "--runs", "0"]).is_err());
        assert!(Args::try_parse_from(["x", "cluster", "--profile", "long"]).is_err());
    }

    #[test]
    fn state_lies_on_local_disk_unless_somebody_says_otherwise() {
        assert_eq!(args(&[]).backing().backend, Backend::Rocksdb);
        let small = args(&["--backend", "heap", "--state-memory", "64MiB"]).backing();
        assert_eq!(small.backend, Backend::Heap);
        assert_eq!(small.state_memory.as_deref(), Some("64MiB"));
        assert_eq!(args(&[]).again(), " --profile ci");
        let line = ["--profile", "written", "--backend", "heap"];
        assert_eq!(args(&line).again(), format!(" {}", line.join(" ")));
    }
}
