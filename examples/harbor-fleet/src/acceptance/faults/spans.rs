//! How long things last: as the experiments are written, and as a profile has them. Printed with every run.
//!
//! The rule: the lengths of a profile stand in the same order to the settings that they are to be longer or shorter than as the
//! written ones do; a test sees to it.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

/// How long experiments last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pace {
    /// Scaled, for machines that have other things to do
    Ci,
    /// As written, with settings near those of production: hours
    Written,
}

/// Something that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    FrozenCoordinator,
    FrozenWorker,
    Partition,
    Reset,
    LateCommit,
    Starved,
    Blocked,
    Stranger,
    Down,
    CheckpointInterval,
    NoCheckpoints,
    CheckpointTimeout,
    LeaseDuration,
    HeartbeatInterval,
    HeartbeatTimeout,
    TakeoverTimeout,
    CancellationTimeout,
    RestartFirstDelay,
}

/// Something that is done more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    Recoveries,
    Elections,
    Input,
}

/// One line of the table.
pub(super) struct Length {
    span: Span,
    /// What lasts.
    what: &'static str,
    written: Duration,
    ci: Duration,
}

/// One line of the table of counts.
pub(super) struct Count {
    times: Times,
    /// What is counted.
    what: &'static str,
    written: u32,
    ci: u32,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Every length. Faults first, then settings.
pub(super) const LENGTHS: [Length; 18] = [
    Length {
        span: Span::FrozenCoordinator,
        what: "a coordinator is frozen (X13, X14, X15)",
        written: seconds(60),
        ci: seconds(8),
    },
    Length {
        span: Span::FrozenWorker,
        what: "a worker is frozen (X17)",
        written: seconds(300),
        ci: seconds(12),
    },
    Length {
        span: Span::Partition,
        what: "a connection or a direction of it is cut (X40 to X43)",
        written: seconds(30),
        ci: seconds(6),
    },
    Length {
        span: Span::Reset,
        what: "connections are reset (X43, X72)",
        written: millis(500),
        ci: millis(500),
    },
    Length {
        span: Span::LateCommit,
        what: "a frozen worker has until the recovery goes on (X18)",
        written: seconds(3),
        ci: millis(1_500),
    },
    Length {
        span: Span::Starved,
        what: "a coordinator has 5 % of a processor (X64)",
        written: seconds(60),
        ci: seconds(10),
    },
    Length {
        span: Span::Blocked,
        what: "the sinks are blocked (X65)",
        written: seconds(3_600),
        ci: seconds(15),
    },
    Length {
        span: Span::Stranger,
        what: "a worker of another authority tries to come (X72)",
        written: seconds(30),
        ci: seconds(5),
    },
    Length {
        span: Span::Down,
        what: "a killed process is started again",
        written: seconds(5),
        ci: seconds(1),
    },
    Length {
        span: Span::CheckpointInterval,
        what: "`checkpoint.interval`",
        written: seconds(10),
        ci: seconds(1),
    },
    Length {
        span: Span::NoCheckpoints,
        what: "`checkpoint.interval`, where the first one is to be that of a rescale (X50)",
        written: seconds(86_400),
        ci: seconds(86_400),
    },
    Length {
        span: Span::CheckpointTimeout,
        what: "`checkpoint.timeout`, where a checkpoint is to be given up (X41)",
        written: seconds(10),
        ci: seconds(3),
    },
    Length {
        span: Span::LeaseDuration,
        what: "`lease.duration`",
        written: seconds(10),
        ci: seconds(3),
    },
    Length {
        span: Span::HeartbeatInterval,
        what: "`heartbeat.interval`",
        written: millis(500),
        ci: millis(200),
    },
    Length {
        span: Span::HeartbeatTimeout,
        what: "`heartbeat.timeout`",
        written: seconds(5),
        ci: seconds(2),
    },
    Length {
        span: Span::TakeoverTimeout,
        what: "`takeover.timeout`",
        written: seconds(60),
        ci: seconds(20),
    },
    Length {
        span: Span::CancellationTimeout,
        what: "`task.cancellation-timeout`",
        written: seconds(180),
        ci: seconds(30),
    },
    Length {
        span: Span::RestartFirstDelay,
        what: "`restart.first-delay`",
        written: seconds(1),
        ci: millis(100),
    },
];

/// Every count.
pub(super) const COUNTS: [Count; 3] = [
    Count {
        times: Times::Recoveries,
        what: "recoveries in a row that are ended (X12)",
        written: 20,
        ci: 3,
    },
    Count {
        times: Times::Elections,
        what: "times that all candidates start at once (X49)",
        written: 100,
        ci: 5,
    },
    Count {
        times: Times::Input,
        what: "times the usual input (X65)",
        written: 10,
        ci: 10,
    },
];

impl Pace {
    /// Its name on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ci => "ci",
            Self::Written => "written",
        }
    }

    /// How long something lasts.
    pub(super) fn length(self, span: Span) -> Duration {
        let line = LENGTHS.iter().find(|line| line.span == span);
        let line = line.unwrap_or_else(|| unreachable!("every span has a line: {span:?}"));
        match self {
            Self::Ci => line.ci,
            Self::Written => line.written,
        }
    }

    /// How often something is done.
    pub(super) fn times(self, times: Times) -> u32 {
        let line = COUNTS.iter().find(|line| line.times == times);
        let line = line.unwrap_or_else(|| unreachable!("every count has a line: {times:?}"));
        match self {
            Self::Ci => line.ci,
            Self::Written => line.written,
        }
    }

    /// A length as a setting takes it.
    pub(super) fn setting(self, span: Span) -> String {
        format!("{}ms", self.length(span).as_millis())
    }
}

/// A length as people write it.
pub(super) fn shown(length: Duration) -> String {
    const SECOND: u128 = 1_000;
    const MINUTE: u128 = 60 * SECOND;
    let millis = length.as_millis();
    if millis >= MINUTE && millis.is_multiple_of(MINUTE) {
        format!("{} min", millis / MINUTE)
    } else if millis.is_multiple_of(SECOND) {
        format!("{} s", millis / SECOND)
    } else {
        format!("{millis} ms")
    }
}

impl fmt::Display for Length {
    /// A row of a table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (written, ci) = (shown(self.written), shown(self.ci));
        write!(f, "| {} | {written} | {ci} |", self.what)
    }
}

impl fmt::Display for Count {
    /// A row of a table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | {} |", self.what, self.written, self.ci)
    }
}

/// The table in Markdown.
pub(super) fn table() -> String {
    let head = [
        "| what | written | `ci` |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    let lengths = LENGTHS.iter().map(ToString::to_string);
    let counts = COUNTS.iter().map(ToString::to_string);
    let lines: Vec<_> = head.into_iter().chain(lengths).chain(counts).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_keeps_what_must_be_longer_than_what() {
        for pace in [Pace::Ci, Pace::Written] {
            let of = |span| pace.length(span);
            let longer = [
                // Another leads before the frozen one wakes.
                (Span::FrozenCoordinator, Span::LeaseDuration),
                // The worker is given up before it wakes, or is reached again.
                (Span::FrozenWorker, Span::HeartbeatTimeout),
                (Span::Partition, Span::HeartbeatTimeout),
                // A leader that is frozen for the late commit leads on.
                (Span::LeaseDuration, Span::LateCommit),
                (Span::Partition, Span::CheckpointTimeout),
                (Span::HeartbeatTimeout, Span::HeartbeatInterval),
                // Workers wait until the next one leads.
                (Span::TakeoverTimeout, Span::LeaseDuration),
                (Span::CheckpointTimeout, Span::CheckpointInterval),
                (Span::NoCheckpoints, Span::FrozenWorker),
            ];
            for (long, short) in longer {
                let (a, b) = (of(long), of(short));
                assert!(a >= b, "{pace:?}: {long:?} {a:?} and {short:?} {b:?}");
            }
            assert!(of(Span::LateCommit) < of(Span::LeaseDuration));
        }
    }

    #[test]
    fn no_profile_makes_anything_longer_than_it_is_written() {
        for line in &LENGTHS {
            assert!(line.ci <= line.written && !line.ci.is_zero(), "{line}");
        }
        for line in &COUNTS {
            assert!((1..=line.written).contains(&line.ci), "{line}");
        }
    }

    #[test]
    fn lengths_are_shown_in_the_largest_unit_that_holds_them() {
        for (length, text) in [
            (seconds(300), "5 min"),
            (seconds(3_600), "60 min"),
            (seconds(8), "8 s"),
            (millis(1_500), "1500 ms"),
        ] {
            assert_eq!(shown(length), text);
        }
        assert_eq!(Pace::Ci.setting(Span::HeartbeatTimeout), "2000ms");
    }

    #[test]
    fn the_page_has_every_line_of_the_table() {
        let page = include_str!("../../../../../docs/cluster-experiments.md");
        for line in table().lines() {
            assert!(page.contains(line), "the page lacks: {line}");
        }
    }
}
