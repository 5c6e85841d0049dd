//! What a run is played under: settings of the job, its input, and what its processes are bound by. Follows from the way it is
//! played.

use std::time::Duration;

use harbor_fleet::generator::{Profile, Wide};

use super::catalogue::{Play, Who};
use super::spans::{Pace, Span, Times};

/// Payments a second, where an experiment does not say otherwise.
pub(super) const RATE: f64 = 5_000.0;
/// Event time between two payments in milliseconds: as dense as the profile of the drills.
const EVENT_MS: i64 = 54;
/// A partition that brings nothing is not idle within a run: what a cut holds back is in time all the same.
const IDLE_MS: u64 = 3_600_000;
/// How long payments come at most, beside the fault.
const FED: Duration = Duration::from_mins(4);
/// Subtasks of each operator: two of three workers with two slots have room for them.
pub(super) const PARALLELISM: u32 = 4;
const SLOTS: u32 = 2;
/// The flag of the setting that an experiment changes while its job runs.
pub(super) const INTERVAL: &str = "--checkpoint-interval";
/// Key groups, and users, where a parallelism is to be as large as the ones and larger than the others.
pub(super) const FEW_GROUPS: u32 = 6;
const FEW_USERS: u32 = 3;
/// Memory of a worker with its page cache, where it is bound.
pub(super) const WORKER_BYTES: u64 = 512 << 20;
/// A payment that is called large: what a broker of this test takes, and its clients.
const WIDE: Wide = Wide {
    every: 4_000,
    bytes: 10_000_000,
};

/// Whose processes are in control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Nobody,
    Leader,
    Workers,
}

/// The conditions of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Conditions {
    /// How long things last.
    pub(super) pace: Pace,
    interval: Span,
    has_timeout: bool,
    few_groups: bool,
    /// Processes show certificates.
    pub(super) tls: bool,
    /// Coordinators that there may be.
    pub(super) coordinators: u8,
    /// Whose processes are bound.
    pub(super) bound: Bound,
    /// Payments a second.
    pub(super) rate: f64,
    hot_percent: u64,
    wide: Option<Wide>,
    fed: Duration,
}

impl Conditions {
    /// Those of a way to play.
    pub(super) fn of(play: Play, pace: Pace) -> Self {
        let usual = Self {
            pace,
            interval: Span::CheckpointInterval,
            has_timeout: false,
            few_groups: false,
            tls: false,
            coordinators: 2,
            bound: Bound::Nobody,
            rate: RATE,
            hot_percent: 0,
            wide: None,
            fed: FED + longest(play, pace),
        };
        match play {
            Play::CutStore(_) => Self {
                has_timeout: true,
                ..usual
            },
            Play::Candidates => Self {
                coordinators: 3,
                ..usual
            },
            Play::Rescale(..) => Self {
                interval: Span::NoCheckpoints,
                ..usual
            },
            Play::Parallelisms => Self {
                few_groups: true,
                ..usual
            },
            Play::OutOfMemory(_) | Play::Starved(_) => Self {
                bound: Bound::Leader,
                ..usual
            },
            Play::Blocked => Self {
                bound: Bound::Workers,
                rate: RATE * f64::from(pace.times(Times::Input)),
                fed: Duration::from_mins(1).min(usual.fed),
                ..usual
            },
            Play::HotKey(_) => Self {
                hot_percent: 90,
                ..usual
            },
            Play::Wide(_) => Self {
                rate: 2_000.0,
                wide: Some(WIDE),
                fed: Duration::from_mins(2),
                ..usual
            },
            Play::Rotate | Play::Stranger => Self { tls: true, ..usual },
            _ => usual,
        }
    }

    /// The settings of all processes, as arguments.
    pub(super) fn settings(&self) -> Vec<String> {
        let mut settings = vec![
            ("--parallelism", PARALLELISM.to_string()),
            ("--slots", SLOTS.to_string()),
            (INTERVAL, self.pace.setting(self.interval)),
        ];
        let usual = [
            ("--lease-duration", Span::LeaseDuration),
            ("--heartbeat-interval", Span::HeartbeatInterval),
            ("--heartbeat-timeout", Span::HeartbeatTimeout),
            ("--takeover-timeout", Span::TakeoverTimeout),
            ("--task-cancellation-timeout", Span::CancellationTimeout),
            ("--restart-first-delay", Span::RestartFirstDelay),
        ];
        settings.extend(usual.map(|(flag, span)| (flag, self.pace.setting(span))));
        if self.has_timeout {
            let timeout = self.pace.setting(Span::CheckpointTimeout);
            settings.push(("--checkpoint-timeout", timeout));
        }
        if self.few_groups {
            settings.push(("--max-parallelism", FEW_GROUPS.to_string()));
        }
        let said = settings
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        said.collect()
    }

    /// The parameters of the job.
    pub(super) fn parameters() -> Vec<(&'static str, String)> {
        vec![("idle-ms", IDLE_MS.to_string())]
    }

    /// The payments.
    pub(super) fn profile(&self, seed: u64) -> Profile {
        let payments = (self.rate * self.fed.as_secs_f64()) as u64;
        let ci = Profile::ci();
        let (users, partitions) = if self.few_groups {
            // So few users may be in few partitions, and one without a payment would hold event time back.
            (FEW_USERS, 1)
        } else {
            (ci.users, ci.partitions)
        };
        Profile {
            seed,
            payments,
            malformed: payments / 4_000,
            users,
            hot_percent: self.hot_percent,
            wide: self.wide,
            partitions,
            span_ms: payments as i64 * EVENT_MS,
            silence: None,
            ..ci
        }
    }
}

/// How long a fault and what belongs to it may last.
fn longest(play: Play, pace: Pace) -> Duration {
    match play {
        Play::FreezeLeader(_) => pace.length(Span::FrozenCoordinator),
        Play::FreezeWorker(_) => pace.length(Span::FrozenWorker),
        Play::CutControl(_) | Play::CutStore(_) | Play::OneWay(..) | Play::CutLink(_) => {
            pace.length(Span::Partition)
        }
        Play::Starved(_) => pace.length(Span::Starved),
        Play::Recovery(_) => {
            // Each of them waits until the lease of the one before has run out.
            2 * pace.length(Span::LeaseDuration) * pace.times(Times::Recoveries)
        }
        Play::Candidates => 4 * pace.length(Span::LeaseDuration) * pace.times(Times::Elections),
        Play::Kill(Who::All, _) => pace.length(Span::LeaseDuration),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{EXPERIMENTS, Experiment};
    use super::*;

    fn plays() -> impl Iterator<Item = Play> {
        let cases = EXPERIMENTS.iter().flat_map(Experiment::cases);
        cases.map(|case| case.play)
    }

    #[test]
    fn the_input_of_every_run_has_payments_and_no_silence() {
        for play in plays() {
            let profile = Conditions::of(play, Pace::Ci).profile(1);
            assert!(profile.payments > 100_000, "{play:?}");
            assert_eq!(profile.silence, None);
            // Within this, nobody counts as silent in the eyes of the oracle.
            assert!(profile.span_ms / (profile.payments as i64) <= EVENT_MS);
        }
    }

    #[test]
    fn settings_are_pairs_of_a_flag_and_its_value() {
        for play in plays() {
            let settings = Conditions::of(play, Pace::Ci).settings();
            assert!(settings.len().is_multiple_of(2));
            let mut flags = settings.iter().step_by(2);
            assert!(flags.all(|flag| flag.starts_with("--")), "{settings:?}");
        }
    }

    #[test]
    fn what_is_special_is_where_it_belongs() {
        let of = |play| Conditions::of(play, Pace::Ci);
        assert_eq!(of(Play::Candidates).coordinators, 3);
        assert!(of(Play::Rotate).tls && !of(Play::Candidates).tls);
        assert_eq!(of(Play::Blocked).bound, Bound::Workers);
        assert!((of(Play::Blocked).rate - 10.0 * RATE).abs() < 1.0);
        assert_eq!(of(Play::Parallelisms).profile(1).users, FEW_USERS);
        const { assert!(FEW_USERS < FEW_GROUPS) };
    }
}
