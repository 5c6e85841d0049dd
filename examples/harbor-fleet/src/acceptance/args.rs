//! The arguments of `acceptance`.

use clap::{Parser, ValueEnum};

/// What there is to say about the drills, for `--help`.
const ABOUT: &str =
    "Kills the fraud scorer on a real Kafka and a real S3 store and judges what came out";
const LONG_ABOUT: &str = "Kills the fraud scorer on a real Kafka and a real S3 store and judges what came out.\n\n\
    Every run starts a job of its own (200,000 payments of three hours, 10,000 a second), ends its process without \
    warning, starts it again, drains it at the end of the input and compares the committed output with an oracle: lost \
    and doubled must be 0. A run in which no output was pending at the kill is invalid and is repeated at another \
    instant. Rule R1 takes turns: as process function and as window operator.\n\n\
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
    /// Drained stop in the middle of the input
    #[value(name = "HC-09")]
    Hc09,
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
    Drain,
    Vectors,
}

impl Drill {
    pub(super) const ALL: [Self; 9] = [
        Self::RandomKill,
        Self::Alignment,
        Self::PreCommit,
        Self::Completed,
        Self::HalfCommitted,
        Self::Steps,
        Self::Rescale,
        Self::Drain,
        Self::Vectors,
    ];

    /// Its name in `features.md`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RandomKill => "HD-01",
            Self::Alignment => "HD-02",
            Self::PreCommit => "HD-03",
            Self::Completed => "HD-04",
            Self::HalfCommitted => "HD-05",
            Self::Steps => "steps",
            Self::Rescale => "HC-01",
            Self::Drain => "HC-09",
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

    /// The drills, each once, in the order of the table.
    pub(super) fn drills(&self) -> Vec<Drill> {
        let all = Drill::ALL.into_iter();
        all.filter(|drill| {
            self.drills.iter().any(|wanted| match wanted {
                Wanted::All => true,
                other => {
                    let value = other.to_possible_value();
                    value.is_some_and(|value| value.get_name() == drill.name())
                }
            })
        })
        .collect()
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
        assert_eq!(args(&[]).drills(), Drill::ALL);
        let chosen = args(&["--drill", "V,HD-04", "--drill", "steps"]);
        let names = chosen.drills().into_iter().map(Drill::name);
        assert_eq!(names.collect::<Vec<_>>(), ["HD-04", "steps", "V"]);
        assert!(Args::try_parse_from(["x", "acceptance", "--drill", "HD-99"]).is_err());
    }

    #[test]
    fn one_run_alone_is_the_one_of_its_number() {
        assert_eq!(args(&["--runs", "3"]).indices(), 0..3);
        assert_eq!(args(&["--runs", "3", "--run", "2"]).indices(), 1..2);
    }
}
