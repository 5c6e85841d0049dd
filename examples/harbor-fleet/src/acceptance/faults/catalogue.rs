//! The experiments as data: what is broken, where, how long, what must hold, and who plays those that real processes cannot.
//!
//! Source: the experiments X09 to X18, X40 to X52, X64 to X66, X70 and X72 of the reliability plan, with its oracles O1 to O13. A
//! row of the layer L1 alone belongs to the simulator and stands here so that nobody looks for it in vain. O1, O5, O6, O7, O8 and O9 are
//! asked in every run; a row names those that it is there for.

use std::fmt;

use highwater_protocol::steps::Step;

use super::spans::{Pace, Span, shown};

/// Whom a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The coordinator that leads.
    Leader,
    /// One worker that runs tasks.
    Worker,
    /// All workers.
    Workers,
    /// All coordinators and workers.
    All,
}

/// A direction between a worker and the coordinators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToWorker,
    ToCoordinator,
}

/// How a run is played. A step is where the fault begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Play {
    Kill(Who, Step),
    Recovery(Step),
    FreezeLeader(Step),
    FreezeWorker(Step),
    LateCommit(Step),
    CutControl(Step),
    CutStore(Step),
    OneWay(Way, Step),
    CutLink(Step),
    ResetLink(Step),
    Candidates,
    Rescale(Who, Step),
    Parallelisms,
    OutOfMemory(Step),
    Starved(Step),
    Blocked,
    HotKey(Step),
    Wide(Step),
    Panic(&'static str),
    Rotate,
    Stranger,
}

/// Runs of an experiment that differ in one thing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Batch {
    /// The same at each of these steps; the text goes before the name of the step.
    Steps(&'static str, &'static [Step], fn(Step) -> Play),
    /// One by itself.
    One(&'static str, Play),
}

/// Who plays an experiment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Player {
    /// This test, on real processes.
    Processes(&'static [Batch]),
    /// The simulator, with what it has for that.
    Simulator(&'static str),
    /// Unit tests of the rules that decide.
    Rules(&'static str),
    /// Tests of the controller for Kubernetes.
    Controller(&'static str),
    /// Nobody, and why.
    Nobody(&'static str),
}

/// One experiment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experiment {
    /// Its name in the plan.
    pub(super) id: &'static str,
    /// What is broken.
    pub(super) breaks: &'static str,
    /// Where or when.
    pub(super) moment: &'static str,
    /// How long.
    pub(super) span: Option<Span>,
    /// The oracles that it is there for.
    pub(super) holds: &'static str,
    /// Who plays it.
    pub(super) player: Player,
}

/// One way to play an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// What tells it from the others, such as a step.
    pub(super) name: String,
    pub(super) play: Play,
}

const CHECKPOINT: &[Step] = &[
    Step::P1,
    Step::P2,
    Step::P3,
    Step::P4,
    Step::P5,
    Step::P6,
    Step::P7,
    Step::P8,
    Step::P9,
    Step::P10,
    Step::P11,
    Step::P12,
];
const COMMIT: &[Step] = &[Step::P8, Step::P9, Step::P10, Step::P11];
const RECOVERY: &[Step] = &[
    Step::R1,
    Step::R2,
    Step::R3,
    Step::R4,
    Step::R5,
    Step::R6,
    Step::R7,
];
/// The steps of a rescale: its checkpoint, all of whose output is confirmed, and the attempt that goes on from it.
const RESCALE: &[Step] = &[
    Step::P1,
    Step::P2,
    Step::P3,
    Step::P4,
    Step::P5,
    Step::P6,
    Step::P7,
    Step::P8,
    Step::P9,
    Step::P10,
    Step::P11,
    Step::R3,
    Step::R4,
    Step::R5,
    Step::R6,
    Step::R7,
];
const ONE_WAY: &[Step] = &[Step::P2, Step::P6, Step::P9];

fn kill_leader(at: Step) -> Play {
    Play::Kill(Who::Leader, at)
}

fn kill_workers(at: Step) -> Play {
    Play::Kill(Who::Workers, at)
}

fn kill_all(at: Step) -> Play {
    Play::Kill(Who::All, at)
}

fn to_worker(at: Step) -> Play {
    Play::OneWay(Way::ToWorker, at)
}

fn to_coordinator(at: Step) -> Play {
    Play::OneWay(Way::ToCoordinator, at)
}

fn rescale_without_leader(at: Step) -> Play {
    Play::Rescale(Who::Leader, at)
}

fn rescale_without_worker(at: Step) -> Play {
    Play::Rescale(Who::Worker, at)
}

/// Every experiment, in the order of the plan.
pub(super) const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "X09",
        breaks: "all workers are killed",
        moment: "at each step of a checkpoint",
        span: Some(Span::Down),
        holds: "O1 O7 O9",
        player: Player::Processes(&[Batch::Steps("", CHECKPOINT, kill_workers)]),
    },
    Experiment {
        id: "X10",
        breaks: "the coordinator that leads is killed",
        moment: "at each step of a checkpoint",
        span: Some(Span::Down),
        holds: "O1 O5 O6 O9",
        player: Player::Processes(&[Batch::Steps("", CHECKPOINT, kill_leader)]),
    },
    Experiment {
        id: "X11",
        breaks: "all coordinators and workers are killed together",
        moment: "around completion and commit",
        span: Some(Span::Down),
        holds: "O1 O7 O9",
        player: Player::Processes(&[Batch::Steps("", COMMIT, kill_all)]),
    },
    Experiment {
        id: "X12",
        breaks: "coordinators are killed in recovery, several in a row",
        moment: "at each step of a recovery",
        span: None,
        holds: "O1 O5 O9",
        player: Player::Processes(&[Batch::Steps("", RECOVERY, Play::Recovery)]),
    },
    Experiment {
        id: "X13",
        breaks: "the leader is frozen, another leads, the old one wakes",
        moment: "its manifest is written, `head` is not",
        span: Some(Span::FrozenCoordinator),
        holds: "O6",
        player: Player::Processes(&[Batch::One("P8", Play::FreezeLeader(Step::P8))]),
    },
    Experiment {
        id: "X14",
        breaks: "the leader is frozen, another leads, the old one wakes",
        moment: "it is about to order commits",
        span: Some(Span::FrozenCoordinator),
        holds: "O1 O6",
        player: Player::Processes(&[Batch::One("P9", Play::FreezeLeader(Step::P9))]),
    },
    Experiment {
        id: "X15",
        breaks: "the leader is frozen, another leads, the old one wakes",
        moment: "it is about to collect garbage",
        span: Some(Span::FrozenCoordinator),
        holds: "O7 O8",
        player: Player::Processes(&[Batch::One("P12", Play::FreezeLeader(Step::P12))]),
    },
    Experiment {
        id: "X16",
        breaks: "an old leader sleeps past two epochs and the garbage of all it knew",
        moment: "before it moves `head`",
        span: None,
        holds: "O6 O8",
        player: Player::Simulator(
            "a coordinator freezes right before any step, such as P8, while others lead and collect (`StepFault::Freeze`)",
        ),
    },
    Experiment {
        id: "X17",
        breaks: "a worker is frozen, its tasks go on elsewhere, it wakes",
        moment: "at an upload, and while it acknowledges",
        span: Some(Span::FrozenWorker),
        holds: "O1 O6",
        player: Player::Processes(&[
            Batch::One("P5", Play::FreezeWorker(Step::P5)),
            Batch::One("running", Play::FreezeWorker(Step::P6)),
        ]),
    },
    Experiment {
        id: "X18",
        breaks: "a worker frozen before a commit wakes while another recovers",
        moment: "between R3 and R4, and between R4 and R7",
        span: Some(Span::LateCommit),
        holds: "O1",
        player: Player::Processes(&[
            Batch::One("R4", Play::LateCommit(Step::R4)),
            Batch::One("R7", Play::LateCommit(Step::R7)),
        ]),
    },
    Experiment {
        id: "X40",
        breaks: "a worker is cut from the coordinators, and from nobody else",
        moment: "at each step of a checkpoint",
        span: Some(Span::Partition),
        holds: "O1 O6 O9",
        player: Player::Processes(&[Batch::Steps("", CHECKPOINT, Play::CutControl)]),
    },
    Experiment {
        id: "X41",
        breaks: "a worker is cut from the object store, and from nobody else",
        moment: "at its upload",
        span: Some(Span::Partition),
        holds: "O9 O11",
        player: Player::Processes(&[Batch::One("P5", Play::CutStore(Step::P5))]),
    },
    Experiment {
        id: "X42",
        breaks: "one direction between a worker and the coordinators is cut",
        moment: "at trigger, acknowledgement and commit order",
        span: Some(Span::Partition),
        holds: "O1 O9",
        player: Player::Processes(&[
            Batch::Steps("to-worker-", ONE_WAY, to_worker),
            Batch::Steps("to-coordinator-", ONE_WAY, to_coordinator),
        ]),
    },
    Experiment {
        id: "X43",
        breaks: "the link between two workers is cut, or reset",
        moment: "barriers travel",
        span: Some(Span::Partition),
        holds: "O1",
        player: Player::Processes(&[
            Batch::One("cut", Play::CutLink(Step::P3)),
            Batch::One("reset", Play::ResetLink(Step::P3)),
        ]),
    },
    Experiment {
        id: "X44",
        breaks: "links are clogged one by one and opened in another order",
        moment: "running",
        span: None,
        holds: "O1 O9",
        player: Player::Simulator(
            "partitions of random machines that overlap, with delays and losses (`Fault::Partition`)",
        ),
    },
    Experiment {
        id: "X45",
        breaks: "the leader loses the API server of Kubernetes alone",
        moment: "renewal",
        span: None,
        holds: "O9",
        player: Player::Controller("no process of a job speaks to an API server"),
    },
    Experiment {
        id: "X46",
        breaks: "the lease is deleted, edited, made again",
        moment: "renewal",
        span: None,
        holds: "O6",
        player: Player::Simulator("the lease is taken away at any time (`Fault::StealLease`)"),
    },
    Experiment {
        id: "X47",
        breaks: "a renewal is answered after a minute",
        moment: "renewal",
        span: None,
        holds: "O6",
        player: Player::Rules(
            "an answer that took too long makes nobody a leader (`runtime/control/protocol/src/election/tests.rs`)",
        ),
    },
    Experiment {
        id: "X48",
        breaks: "clocks jump by an hour, or run twice as fast",
        moment: "renewal, watermarks, timeouts",
        span: None,
        holds: "O6 O12",
        player: Player::Nobody(
            "the clock of a real process has no seam: a namespace has no wall clock of its own, and a preloaded one is asked by the \
             allocator of this program before it is ready; no decision of the protocol reads a clock",
        ),
    },
    Experiment {
        id: "X49",
        breaks: "three candidates start at once, several times",
        moment: "at R1 and R2",
        span: None,
        holds: "O6",
        player: Player::Processes(&[Batch::One("all", Play::Candidates)]),
    },
    Experiment {
        id: "X50",
        breaks: "a rescale loses its coordinator, or a worker",
        moment: "at each step of its checkpoint and of its new attempt",
        span: Some(Span::Down),
        holds: "O1 O7",
        player: Player::Processes(&[
            Batch::Steps("leader-", RESCALE, rescale_without_leader),
            Batch::Steps("worker-", RESCALE, rescale_without_worker),
        ]),
    },
    Experiment {
        id: "X51",
        breaks: "nothing: 1, more subtasks than keys, as many as key groups",
        moment: "while records flow",
        span: None,
        holds: "O1 O7",
        player: Player::Processes(&[Batch::One("4-1-6-2", Play::Parallelisms)]),
    },
    Experiment {
        id: "X52",
        breaks: "a rescale meets a checkpoint that is given up, or a recovery",
        moment: "any",
        span: None,
        holds: "O7",
        player: Player::Simulator("rescales between all other faults (`Fault::Rescale`)"),
    },
    Experiment {
        id: "X64",
        breaks: "the leader is ended for want of memory, or starved of the processor",
        moment: "acknowledgements arrive",
        span: Some(Span::Starved),
        holds: "O9 O10",
        player: Player::Processes(&[
            Batch::One("memory", Play::OutOfMemory(Step::P6)),
            Batch::One("processor", Play::Starved(Step::P6)),
        ]),
    },
    Experiment {
        id: "X65",
        breaks: "much input, a bound of memory, and sinks that are blocked",
        moment: "running",
        span: Some(Span::Blocked),
        holds: "O1 O10",
        player: Player::Processes(&[Batch::One("kafka", Play::Blocked)]),
    },
    Experiment {
        id: "X66",
        breaks: "one user has 90 % of the payments, or payments have 10 MB; a worker is killed",
        moment: "barriers travel",
        span: Some(Span::Down),
        holds: "O9",
        player: Player::Processes(&[
            Batch::One("hot-key", Play::HotKey(Step::P3)),
            Batch::One("wide", Play::Wide(Step::P3)),
        ]),
    },
    Experiment {
        id: "X70",
        breaks: "a function of the job panics, in a slot or in an async task",
        moment: "running",
        span: None,
        holds: "O9",
        player: Player::Processes(&[
            Batch::One("operator", Play::Panic("operator")),
            Batch::One("lookup", Play::Panic("lookup")),
        ]),
    },
    Experiment {
        id: "X72",
        breaks: "certificates and their authority are changed, or are of another one",
        moment: "running, and at a connection that is made anew",
        span: Some(Span::Stranger),
        holds: "O9",
        player: Player::Processes(&[
            Batch::One("rotate", Play::Rotate),
            Batch::One("stranger", Play::Stranger),
        ]),
    },
];

impl Experiment {
    /// The ways to play it here; none if somebody else does.
    pub(super) fn cases(&self) -> Vec<Case> {
        let Player::Processes(batches) = self.player else {
            return Vec::new();
        };
        let of_batch = |batch: &Batch| match *batch {
            Batch::One(name, play) => vec![Case {
                name: name.to_owned(),
                play,
            }],
            Batch::Steps(before, steps, play) => steps
                .iter()
                .map(|step| Case {
                    name: format!("{before}{step}"),
                    play: play(*step),
                })
                .collect(),
        };
        batches.iter().flat_map(of_batch).collect()
    }

    /// Who plays it, in words.
    fn played(&self) -> String {
        match self.player {
            Player::Processes(_) => {
                let names: Vec<_> = self.cases().into_iter().map(|case| case.name).collect();
                format!("here: {}", names.join(", "))
            }
            Player::Simulator(how) => format!("the simulator: {how}"),
            Player::Rules(how) => format!("tests of the rules: {how}"),
            Player::Controller(why) => format!("tests of the controller: {why}"),
            Player::Nobody(why) => format!("nobody: {why}"),
        }
    }

    /// A row of a table in Markdown.
    pub(super) fn row(&self, pace: Pace) -> String {
        let length = self.span.map(|span| shown(pace.length(span)));
        format!(
            "| {} | {} | {} | {} | {} | {} |",
            self.id,
            self.breaks,
            self.moment,
            length.as_deref().unwrap_or("-"),
            self.holds,
            self.played()
        )
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

/// The table in Markdown.
pub(super) fn table(pace: Pace) -> String {
    let head = [
        "| id | what is broken | when | how long | what must hold | who plays it |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    let rows = EXPERIMENTS.iter().map(|one| one.row(pace));
    let lines: Vec<_> = head.into_iter().chain(rows).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_experiments_of_the_plan_are_all_there_and_in_order() {
        let ids: Vec<_> = EXPERIMENTS.iter().map(|one| one.id).collect();
        let ranges = [9..=18, 40..=52, 64..=66, 70..=70, 72..=72];
        let planned: Vec<_> = ranges
            .into_iter()
            .flatten()
            .map(|number| format!("X{number:02}"))
            .collect();
        assert_eq!(ids, planned);
    }

    #[test]
    fn cases_of_an_experiment_have_names_of_their_own_that_name_topics() {
        for experiment in EXPERIMENTS {
            let cases = experiment.cases();
            let names: BTreeSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(names.len(), cases.len(), "{experiment}");
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            assert!(names.iter().all(|name| name.chars().all(is_plain)));
            let is_here = matches!(experiment.player, Player::Processes(_));
            assert_eq!(!cases.is_empty(), is_here, "{experiment}");
        }
    }

    #[test]
    fn every_step_of_a_checkpoint_and_of_a_recovery_is_met_by_a_kill() {
        let cases: Vec<_> = EXPERIMENTS.iter().flat_map(Experiment::cases).collect();
        for step in Step::ALL {
            let is_met = cases.iter().any(
                |case| matches!(case.play, Play::Kill(_, at) | Play::Recovery(at) if at == step),
            );
            assert!(is_met, "{step}");
        }
    }

    #[test]
    fn the_page_has_every_row() {
        let page = include_str!("../../../../../docs/cluster-experiments.md");
        for line in table(Pace::Written).lines() {
            assert!(page.contains(line), "the page lacks: {line}");
        }
    }
}
