//! When the next attempt starts: a pure function of the strategy and the failures so far.

use std::collections::VecDeque;
use std::time::Duration;

use highwater_types::{CheckpointId, ErrorKind};
use highwater_worker::FailureReport;

use crate::settings::RestartStrategy;

/// The state of a restart strategy.
#[derive(Clone, Debug)]
pub struct RestartDelay {
    strategy: RestartStrategy,
    /// Restarts that were granted and still count.
    granted: u32,
    /// When those were granted that a rate counts, in milliseconds, the oldest first.
    granted_ms: VecDeque<u64>,
    running_since_ms: Option<u64>,
}

impl RestartDelay {
    /// No failure yet.
    pub const fn new(strategy: RestartStrategy) -> Self {
        Self {
            strategy,
            granted: 0,
            granted_ms: VecDeque::new(),
            running_since_ms: None,
        }
    }

    /// Records flow since `now_ms`.
    pub fn running(&mut self, now_ms: u64) {
        self.running_since_ms = Some(now_ms);
    }

    /// An attempt has failed: how long to wait before the next one; `None` = there is none.
    pub fn next(&mut self, now_ms: u64) -> Option<Duration> {
        let since = self.running_since_ms.take();
        let ran_ms = since.map_or(0, |since| now_ms.saturating_sub(since));
        let (delay, restarts_max) = match self.strategy {
            RestartStrategy::Never => return None,
            RestartStrategy::Fixed {
                delay,
                restarts_max,
            } => (delay, restarts_max),
            RestartStrategy::FailureRate {
                delay,
                restarts_max,
                interval,
            } => {
                let interval = interval.as_millis();
                self.granted_ms
                    .retain(|at| u128::from(now_ms.saturating_sub(*at)) < interval);
                self.granted = self.granted_ms.len() as u32;
                (delay, Some(restarts_max))
            }
            RestartStrategy::Exponential {
                first,
                most,
                reset_after,
                restarts_max,
            } => {
                if u128::from(ran_ms) >= reset_after.as_millis() {
                    self.granted = 0;
                }
                let doubled = first.saturating_mul(2u32.saturating_pow(self.granted));
                (doubled.min(most), restarts_max)
            }
        };
        if restarts_max.is_some_and(|most| self.granted >= most) {
            return None;
        }
        self.granted = self.granted.saturating_add(1);
        if matches!(self.strategy, RestartStrategy::FailureRate { .. }) {
            self.granted_ms.push_back(now_ms);
        }
        Some(delay)
    }

    /// Why there is no further attempt, in words.
    pub fn spent(&self) -> String {
        let times = self.granted;
        match self.strategy {
            RestartStrategy::Never => {
                "it is not tried again: restart.strategy is `never`".to_owned()
            }
            RestartStrategy::Fixed { .. } => {
                format!(
                    "it is not tried again: {times} restarts are all that restart.attempts allows"
                )
            }
            RestartStrategy::FailureRate { interval, .. } => format!(
                "it is not tried again: {times} restarts within {} s are all that restart.attempts and restart.interval allow",
                interval.as_secs_f64()
            ),
            RestartStrategy::Exponential { .. } => format!(
                "it is not tried again: {times} restarts in a row are all that restart.attempts allows"
            ),
        }
    }
}

/// After how many failures of the same kind in the same place a job no longer tries.
const REPEATS_MAX: u32 = 3;

/// Tells a failure that may pass from one that comes again each time.
///
/// An error that is met in the same place each time makes no loop of restarts.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    last: Option<(FailureReport, CheckpointId)>,
    times: u32,
}

/// What a failure is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next attempt may go better.
    MayPass,
    /// It has come this many times in a row.
    Stands {
        /// How often.
        times: u32,
    },
}

impl Repeats {
    /// An attempt that was restored from `completed` or later has failed. Equal failures count as long as no checkpoint
    /// completes between them; the outside being away is never taken for deterministic unless it fails at one and the
    /// same position of the input.
    pub fn failed(&mut self, report: &FailureReport, completed: CheckpointId) -> Verdict {
        let is_same = self.last.as_ref().is_some_and(|(last, at)| {
            *at == completed
                && (
                    &last.task,
                    last.subtask,
                    &last.position,
                    last.kind,
                    &last.message,
                ) == (
                    &report.task,
                    report.subtask,
                    &report.position,
                    report.kind,
                    &report.message,
                )
        });
        self.times = if is_same { self.times + 1 } else { 1 };
        self.last = Some((report.clone(), completed));
        let may_pass = report.kind == ErrorKind::Transient && report.position.is_none();
        if may_pass || self.times < REPEATS_MAX {
            Verdict::MayPass
        } else {
            Verdict::Stands { times: self.times }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kind: ErrorKind, position: Option<&str>, message: &str) -> FailureReport {
        FailureReport {
            position: position.map(str::to_owned),
            ..FailureReport::of("count", kind, message)
        }
    }

    fn checkpoint(number: u64) -> CheckpointId {
        let epoch = highwater_types::Epoch(1);
        CheckpointId { number, epoch }
    }

    #[test]
    fn what_fails_three_times_in_the_same_way_stands() {
        let verdicts = |kind, position: Option<&str>| {
            let mut repeats = Repeats::default();
            let failed = report(kind, position, "panicked: no such key");
            [1, 1, 1].map(|number| repeats.failed(&failed, checkpoint(number)))
        };
        let stands = Verdict::Stands { times: 3 };
        let (first, second) = (Verdict::MayPass, Verdict::MayPass);
        for kind in [ErrorKind::Bug, ErrorKind::Exhausted] {
            assert_eq!(verdicts(kind, None), [first, second, stands]);
        }
        let at = Some("in-0 at 17");
        assert_eq!(verdicts(ErrorKind::Transient, at), [first, second, stands]);
        let outage = verdicts(ErrorKind::Transient, None);
        assert_eq!(outage, [Verdict::MayPass; 3], "the outside is away");
    }

    #[test]
    fn another_failure_or_a_completed_checkpoint_begins_the_count_again() {
        let mut repeats = Repeats::default();
        let (one, other) = (
            report(ErrorKind::Bug, None, "one"),
            report(ErrorKind::Bug, None, "other"),
        );
        for (failed, number) in [
            (&one, 1),
            (&one, 1),
            (&other, 1),
            (&one, 1),
            (&one, 2),
            (&one, 2),
        ] {
            assert_eq!(repeats.failed(failed, checkpoint(number)), Verdict::MayPass);
        }
        let stands = Verdict::Stands { times: 3 };
        assert_eq!(repeats.failed(&one, checkpoint(2)), stands);
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_limit_and_reset_after_a_quiet_time() {
        let mut delay = RestartDelay::new(RestartStrategy::Exponential {
            first: SECOND,
            most: 4 * SECOND,
            reset_after: 60 * SECOND,
            restarts_max: None,
        });
        let waits: Vec<_> = (0..4).map(|_| delay.next(0).unwrap().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 4]);
        delay.running(0);
        assert_eq!(delay.next(59_999), Some(4 * SECOND));
        delay.running(0);
        assert_eq!(delay.next(60_000), Some(SECOND));
    }

    #[test]
    fn a_spent_strategy_gives_no_further_attempt() {
        assert_eq!(RestartDelay::new(RestartStrategy::Never).next(0), None);
        let mut delay = RestartDelay::new(RestartStrategy::Exponential {
            first: SECOND,
            most: SECOND,
            reset_after: SECOND,
            restarts_max: Some(1),
        });
        assert_eq!(delay.next(0), Some(SECOND));
        assert_eq!(delay.next(0), None);
    }

    #[test]
    fn a_fixed_strategy_counts_all_restarts() {
        let mut delay = RestartDelay::new(RestartStrategy::Fixed {
            delay: SECOND,
            restarts_max: Some(2),
        });
        for now in [0, 1 << 40] {
            delay.running(now);
            assert_eq!(delay.next(now), Some(SECOND));
        }
        delay.running(1 << 41);
        assert_eq!(delay.next(1 << 42), None);
        assert!(delay.spent().contains("2 restarts"), "{}", delay.spent());
    }

    #[test]
    fn a_rate_counts_the_restarts_of_its_interval() {
        let mut delay = RestartDelay::new(RestartStrategy::FailureRate {
            delay: SECOND,
            restarts_max: 2,
            interval: 60 * SECOND,
        });
        assert_eq!(delay.next(0), Some(SECOND));
        assert_eq!(delay.next(30_000), Some(SECOND));
        // The first is a minute ago, the second is not.
        assert_eq!(delay.next(60_000), Some(SECOND));
        assert_eq!(delay.next(89_999), None);
        assert!(delay.spent().contains("within 60 s"), "{}", delay.spent());
    }
}
